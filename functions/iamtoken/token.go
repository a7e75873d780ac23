package iamtoken

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Token is an IAM access token with what IAM said of it.
type Token struct {
	Value      Secret
	IssuedAt   time.Time
	Expiration time.Time
	ExpiresIn  time.Duration // the whole life IAM gave it, at most 60 minutes
	IAMID      string        // "iam-ServiceId-…"; empty when the token is opaque
	Account    string        // 32 hex digits; empty when the token is opaque
}

// Opaque reports whether the token told nothing of its identity. IBM documents
// tokens as opaque to callers, so such a token is valid all the same.
func (t Token) Opaque() bool { return t.IAMID == "" }

// Fingerprint is the first 16 hex digits of the token's SHA-256: it names the
// token in logs, reports and metadata without giving it away.
func (t Token) Fingerprint() string {
	sum := sha256.Sum256([]byte(t.Value.Reveal()))
	return hex.EncodeToString(sum[:8])
}
