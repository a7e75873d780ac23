// Package iamtoken is the contract between the rotator, which keeps an IBM
// Cloud IAM access token in a secret, and the jobs that read that secret: the
// shape of the payload, the metadata that every version carries, and a [Reader]
// for jobs in Go.
//
// It imports nothing but the standard library, so that a job can depend on it
// without depending on the rotator or an SDK.
package iamtoken

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
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

// redacted is what a Secret shows of itself, however it is printed.
const redacted = "[secret]"

// Secret is an API key or a token that cannot print itself: every fmt verb,
// slog, encoding/json and encoding.TextMarshaler give the word "[secret]".
// The zero value is the empty secret.
//
// The value sits behind a pointer because fmt does not call methods on
// unexported fields: a struct that holds a Secret privately prints an address.
type Secret struct{ value *string }

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{&value} }

// Reveal returns the value. Call it only where the value leaves for the
// service that it belongs to.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// String returns "[secret]".
func (s Secret) String() string { return redacted }

// GoString returns "[secret]".
func (s Secret) GoString() string { return redacted }

// Format writes "[secret]" for every verb and flag.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue returns "[secret]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[secret]"; encoding/json uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText takes the text as the value.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}
