package ibmcloudtest

import (
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"sync"
)

// keyPair is RSA with more than two primes: to make it takes a tenth of the time, and to sign with it a fifth.
// Its signatures are verified like any other. It protects nothing.
type keyPair struct {
	rsa.PublicKey
	factors []factor
}

// factor is one of the primes. To raise to the private exponent is, modulo the prime, to raise to power;
// coefficient puts the results together by the Chinese remainder theorem.
type factor struct{ prime, power, coefficient *big.Int }

// signingKey is IAM's, one for all clouds of the process.
var signingKey = sync.OnceValue(func() *keyPair {
	const bits, primes = 2048, 8
	key := &keyPair{rsa.PublicKey{N: big.NewInt(1), E: 65537}, make([]factor, primes)}
	for i := range key.factors {
		key.factors[i] = newFactor(bits/primes, key.E)
		key.N.Mul(key.N, key.factors[i].prime)
	}
	for i, f := range key.factors {
		others := new(big.Int).Div(key.N, f.prime)
		key.factors[i].coefficient = others.Mul(others, new(big.Int).ModInverse(others, f.prime))
	}
	return key
})

// newFactor has no coefficient yet. Its prime allows the public exponent, and is so large that the product of a few has all its bits.
func newFactor(bits uint, exponent int) factor {
	most, one := new(big.Int).Lsh(big.NewInt(1), bits), big.NewInt(1)
	for {
		below, err := rand.Int(rand.Reader, new(big.Int).Rsh(most, 6))
		must(err == nil, "making IAM's signing key: %v", err)
		prime := below.Sub(most, below)
		power := new(big.Int).ModInverse(big.NewInt(int64(exponent)), new(big.Int).Sub(prime, one))
		if power != nil && prime.ProbablyPrime(10) {
			return factor{prime: prime, power: power}
		}
	}
}

// sign is RSASSA-PKCS1-v1_5 of a SHA-256 digest.
func (k *keyPair) sign(digest []byte) []byte {
	const algorithm = "\x00\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20" // RFC 8017, 9.2
	padded := slices.Repeat([]byte{0xff}, k.Size())
	copy(padded, "\x00\x01")
	copy(padded[k.Size()-len(algorithm)-len(digest):], algorithm+string(digest))
	message, signature := new(big.Int).SetBytes(padded), new(big.Int)
	for _, f := range k.factors {
		residue := new(big.Int).Exp(new(big.Int).Mod(message, f.prime), f.power, f.prime)
		signature.Add(signature, residue.Mul(residue, f.coefficient))
	}
	return signature.Mod(signature, k.N).FillBytes(make([]byte, k.Size()))
}
