package ibmcloudtest

import (
	"crypto/rand"
	"crypto/rsa"
	"sync"
)

// UseSmallKey makes IAM sign with a key of so many bits instead of 2048: for simulations that issue
// tokens by the ten thousand, where signing would take most of the time. Less than 1024 bits need
// the directive //go:debug rsa1024min=0. Call it before the process's first cloud is made.
func UseSmallKey(bits int) {
	signingKey = sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic("ibmcloudtest: making IAM's signing key: " + err.Error())
		}
		return key
	})
}
