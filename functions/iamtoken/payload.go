package iamtoken

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// What can be wrong with a read. Every error of a Reader wraps one of them, that
// of a context, or whatever a Store of one's own returned.
var (
	ErrExpired     = errors.New("the stored token has expired")
	ErrNoToken     = errors.New("the secret holds no token")
	ErrDenied      = errors.New("access denied")
	ErrNotFound    = errors.New("no such secret")
	ErrUnavailable = errors.New("no usable answer") // 429, 5xx, no connection: worth another try
)

// Store is where the token is kept. Read returns the current version; it is
// never called twice at a time by one Reader, and is given 15 seconds.
type Store interface {
	Read(ctx context.Context) (Version, error)
}

// StoreFunc is a function as a Store: for the copy in AWS Secrets Manager, say,
// which a job on AWS reads with its own role.
type StoreFunc func(ctx context.Context) (Version, error)

// Read calls the function.
func (f StoreFunc) Read(ctx context.Context) (Version, error) { return f(ctx) }

// Version is one version of the secret, as it was read.
type Version struct {
	Payload   Secret    // of a kv secret: its data as a JSON object
	CreatedAt time.Time // set by the service; zero when it was not told
	Metadata  Metadata  // zero when there is none
	ReadAt    time.Time // the service's clock, from its Date header; zero when it was not told
}

// Token returns the token that the version holds, whichever [Format] it is stored
// in, with the soonest expiration that metadata, payload and token tell, and never
// one later than [MaxLife] after CreatedAt. It fails with ErrNoToken if there is
// no token, or none that tells when it expires: nothing is guessed. The token may
// have expired.
func (v Version) Token() (Token, error) {
	value, stated, err := unpack(v.Payload.Reveal())
	if err != nil {
		return Token{}, err
	}
	claims := readClaims(value)
	token := Token{
		Value:    NewSecret(value),
		IssuedAt: epoch(firstNonZero(v.Metadata.IssuedAt, int64(claims.IssuedAt))),
		IAMID:    firstNonZero(v.Metadata.IAMID, claims.IAMID),
		Account:  firstNonZero(v.Metadata.Account, claims.Account.BSS),
	}
	for _, expires := range []time.Time{v.Metadata.ExpiresAt(v.CreatedAt), epoch(stated), epoch(int64(claims.ExpiresAt))} {
		token.Expiration = sooner(token.Expiration, expires)
	}
	if token.Expiration.IsZero() {
		return Token{}, noToken("it cannot be told when the stored token expires: its version has no metadata, and it is no JWT")
	}
	if !v.CreatedAt.IsZero() {
		token.Expiration = sooner(token.Expiration, v.CreatedAt.Add(MaxLife))
	}
	if !token.IssuedAt.IsZero() {
		token.ExpiresIn = token.Expiration.Sub(token.IssuedAt)
	}
	return token, nil
}

// sooner is the earlier of two times; a zero one is not known.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// epoch is the time of epoch seconds; zero for what can be none.
func epoch(seconds int64) time.Time {
	if seconds <= 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

func firstNonZero[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}

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

// DefaultField is the entry of a kv secret that holds the token, unless the
// rotation names another.
const DefaultField = "iam_token"

// tokenShape is RFC 6750's for what may follow "Bearer".
var tokenShape = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// unpack finds the bare token in a payload, or in the data of a kv secret, and
// the expiration that stands beside it in epoch seconds, 0 when there is none.
// Of an object with several entries it takes one by name only.
func unpack(payload string) (token string, expiration int64, err error) {
	payload = strings.TrimSpace(payload)
	if payload == "" {
		return "", 0, noToken("the secret is empty")
	}
	if strings.HasPrefix(payload, "{") {
		return unpackObject(payload)
	}
	token = TrimBearer(payload)
	if !tokenShape.MatchString(token) || strings.EqualFold(token, "Bearer") {
		return "", 0, noToken("the secret holds something that is no token: has the rotator run, and is it the right secret?")
	}
	return token, 0, nil
}

func unpackObject(payload string) (string, int64, error) {
	var object map[string]any
	if err := json.Unmarshal([]byte(payload), &object); err != nil {
		return "", 0, noToken("the secret holds broken JSON")
	}
	if token, ok := object["access_token"].(string); ok {
		expiration, _ := object["expiration"].(float64)
		bare, _, err := unpack(token)
		return bare, int64(expiration), err
	}
	if token, ok := object[DefaultField].(string); ok {
		return unpack(token)
	}
	for _, only := range object {
		if token, ok := only.(string); ok && len(object) == 1 {
			return unpack(token)
		}
	}
	return "", 0, noToken("the secret holds JSON without access_token or iam_token, and more than one entry")
}

func noToken(why string) error { return fmt.Errorf("%w: %s", ErrNoToken, why) }

// claims are those that a token tells of itself. They are not verified: whoever
// may write the secret may write the token.
type claims struct {
	ExpiresAt float64 `json:"exp"`
	IssuedAt  float64 `json:"iat"`
	IAMID     string  `json:"iam_id"`
	Account   struct {
		BSS string `json:"bss"`
	} `json:"account"`
}

// readClaims reads a JWT; a token that is none tells nothing, as IBM documents
// tokens as opaque.
func readClaims(token string) claims {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}
	}
	var c claims
	if json.Unmarshal(body, &c) != nil {
		return claims{}
	}
	return c
}
