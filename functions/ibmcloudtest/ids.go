package ibmcloudtest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// newUUID returns a random (version 4) UUID.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newAPIKey returns a random API key in IBM's form: 44 characters of [A-Za-z0-9_-].
func newAPIKey() string {
	var b [33]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// newAccountID returns a random account id: 32 hexadecimal digits.
func newAccountID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
