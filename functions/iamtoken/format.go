package iamtoken

import (
	"encoding/json"
	"errors"
	"strings"
)

// Format is the shape in which the token is stored.
type Format string

const (
	Raw    Format = "raw"    // the access token alone
	Bearer Format = "bearer" // "Bearer <token>", as `ibmcloud iam oauth-tokens` prints it
	JSON   Format = "json"   // IBM's token.json without refresh_token
)

// UnmarshalText accepts raw, bearer and json.
func (f *Format) UnmarshalText(text []byte) error {
	switch got := Format(text); got {
	case Raw, Bearer, JSON:
		*f = got
		return nil
	default:
		return errors.New("not a format: use raw, bearer or json")
	}
}

// tokenJSON is IBM's documented token.json; times in epoch seconds.
type tokenJSON struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Expiration  int64  `json:"expiration"`
}

// Payload renders t as the secret's value. The empty Format is Raw.
func (f Format) Payload(t Token) Secret {
	switch f {
	case Bearer:
		return NewSecret("Bearer " + t.Value.Reveal())
	case JSON:
		// Marshalling strings and integers cannot fail.
		payload, _ := json.Marshal(tokenJSON{
			AccessToken: t.Value.Reveal(),
			TokenType:   "Bearer",
			ExpiresIn:   int64(t.ExpiresIn.Seconds()),
			Expiration:  t.Expiration.Unix(),
		})
		return NewSecret(string(payload))
	default:
		return t.Value
	}
}

// TrimBearer returns the bare token of "Bearer <token>", the form that
// `ibmcloud iam oauth-tokens` prints; a bare token comes back unchanged.
func TrimBearer(s string) string {
	s = strings.TrimSpace(s)
	if strings.EqualFold(s, "Bearer") {
		return ""
	}
	if scheme, token, found := strings.Cut(s, " "); found && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return s
}
