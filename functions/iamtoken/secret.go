package iamtoken

import (
	"fmt"
	"io"
	"log/slog"
)

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
