// Package iamtoken is the contract between the rotator, which keeps an IBM
// Cloud IAM access token in a secret, and the jobs that read that secret: the
// form of the payload, the metadata of every version, and a [Reader] for jobs
// in Go.
//
// It imports only the standard library, so that a job can depend on it without
// depending on the rotator or an SDK.
package iamtoken

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Token is an IAM access token with its expiry and identity.
type Token struct {
	Value      Secret
	IssuedAt   time.Time
	Expiration time.Time
	ExpiresIn  time.Duration // the lifetime that IAM gave it, at most 60 minutes
	IAMID      string        // "iam-ServiceId-…"; empty when the token is opaque
	Account    string        // 32 hex digits; empty when the token is opaque
}

// Opaque reports whether the token does not show its identity. IBM documents
// tokens as opaque to callers, so such a token is valid all the same.
func (t Token) Opaque() bool { return t.IAMID == "" }

// Fingerprint is the first 16 hex digits of the token's SHA-256: it names the
// token in logs, reports and metadata without giving it away.
func (t Token) Fingerprint() string {
	sum := sha256.Sum256([]byte(t.Value.Reveal()))
	return hex.EncodeToString(sum[:8])
}

// The least and the most characters of a token. IAM's have about 1,500.
const (
	minTokenLength = 32
	maxTokenLength = 8192
)

// CheckForm returns an error unless value has the form of an access token: 32 to
// 8,192 characters of RFC 6750's b64token, which is letters, digits and -._~+/ with
// any number of = at the end. The error repeats nothing of value.
func CheckForm(value string) error {
	if len(value) < minTokenLength || len(value) > maxTokenLength {
		return fmt.Errorf("it has %d characters, and a token has %d to %d", len(value), minTokenLength, maxTokenLength)
	}
	padded := strings.TrimRight(value, "=")
	if padded == "" || !only(padded, alphanumerics+"-._~+/") {
		return errors.New("it holds characters that no token has")
	}
	return nil
}

// IsJWT reports whether value is a JWT: three parts between dots. Any other token is
// opaque, as IBM documents tokens to be.
func IsJWT(value string) bool { return strings.Count(value, ".") == 2 }

// Claims are the claims of a JWT that matter here. A field is zero if the JWT does not
// have the claim. IAMID and Account are as [Identity] returns them.
type Claims struct {
	IssuedAt  time.Time
	ExpiresAt time.Time
	IAMID     string
	Account   string
}

// ReadClaims reads the claims of a JWT, without verifying its signature. It returns an
// error if value is not a JWT, or if one of these claims has the wrong type; then it
// returns the others with the error. Other claims may have any type. The error repeats
// nothing of value.
func ReadClaims(value string) (Claims, error) {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return Claims{}, errors.New("it is no JWT")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	var fields map[string]json.RawMessage
	if err != nil || json.Unmarshal(body, &fields) != nil || fields == nil {
		return Claims{}, errors.New("its claims cannot be read")
	}
	issued, issuedErr := timeClaim(fields, "iat")
	expires, expiresErr := timeClaim(fields, "exp")
	iamID, iamIDErr := claim[string](fields, "iam_id")
	holder, holderErr := claim[map[string]json.RawMessage](fields, "account")
	account, accountErr := claim[string](holder, "bss")
	claims := Claims{IssuedAt: issued, ExpiresAt: expires}
	claims.IAMID, claims.Account = Identity(iamID, account)
	return claims, errors.Join(issuedErr, expiresErr, iamIDErr, holderErr, accountErr)
}

// claim decodes one claim by its exact name. A struct would also accept the name in
// another case, and null for any type.
func claim[T any](fields map[string]json.RawMessage, name string) (T, error) {
	var value T
	raw, ok := fields[name]
	if !ok {
		return value, nil
	}
	if string(raw) == "null" || json.Unmarshal(raw, &value) != nil {
		var none T
		return none, fmt.Errorf("its claim %s cannot be read", name)
	}
	return value, nil
}

// maxEpoch is in the year 5138. A greater number is in another unit than seconds.
const maxEpoch = 100_000_000_000

func timeClaim(fields map[string]json.RawMessage, name string) (time.Time, error) {
	seconds, err := claim[float64](fields, name)
	if _, ok := fields[name]; !ok || err != nil {
		return time.Time{}, err
	}
	if seconds < 1 || seconds > maxEpoch {
		return time.Time{}, fmt.Errorf("its claim %s cannot be read", name)
	}
	return time.Unix(int64(seconds), 0), nil
}

// redacted is printed in place of every Secret.
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

// Reveal returns the value. Call it only to send the value to the service that it
// belongs to.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// All ways to print or encode a Secret, fmt with every verb, slog and encoding/json, give "[secret]".

func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redacted) }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText takes the text as the value.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}
