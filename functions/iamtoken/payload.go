package iamtoken

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Errors of a read. Every error of a Reader wraps one of these, a context's error, or
// an error that your own Store returned.
var (
	ErrExpired     = errors.New("the stored token has expired")
	ErrNoToken     = errors.New("the secret holds no token")
	ErrDenied      = errors.New("access denied")
	ErrNotFound    = errors.New("no such secret")
	ErrUnavailable = errors.New("no usable answer") // 429, 5xx, no connection
)

// Store is where the token is kept. Read returns the current version. A Reader calls it
// once at a time, and gives it 15 seconds.
type Store interface {
	Read(ctx context.Context) (Version, error)
}

// StoreFunc is a function as a Store, for example for a mirror in AWS, which a job there
// reads with its own role.
type StoreFunc func(ctx context.Context) (Version, error)

// Read calls the function.
func (f StoreFunc) Read(ctx context.Context) (Version, error) { return f(ctx) }

// Version is one version of the secret, as it was read.
type Version struct {
	Payload   Secret    // of a kv secret: its data as a JSON object
	CreatedAt time.Time // set by the service; zero if it is not known
	Metadata  Metadata  // zero when there is none
	ReadAt    time.Time // the service's clock, from its Date header; zero if it is not known
}

// maxDateLag is how much earlier than the version an answer's Date may be.
const maxDateLag = time.Minute

// Token returns the token in the version, in whichever [Format] it is stored. Its
// expiration is the earliest that metadata, payload and token state, and at most
// [MaxLifetime] after CreatedAt. The token may have expired.
//
// The error is ErrNoToken if the version holds no token by [CheckForm], if it is a JWT
// without a readable exp, or if nothing states when it expires. It is ErrUnavailable if
// ReadAt is earlier than the version or the token: by such a clock an expired token would
// seem valid.
func (v Version) Token() (Token, error) {
	value, stated, err := unpack(v.Payload.Reveal())
	if err != nil {
		return Token{}, err
	}
	var claims Claims
	if IsJWT(value) {
		claims, _ = ReadClaims(value) // only exp must be readable
		if claims.ExpiresAt.IsZero() {
			return Token{}, noToken("it is a JWT whose exp cannot be read: let the rotator write it")
		}
	}
	if !v.ReadAt.IsZero() && (v.ReadAt.Add(maxDateLag).Before(v.CreatedAt) || v.ReadAt.Add(maxDateLag).Before(claims.IssuedAt)) {
		return Token{}, fmt.Errorf("%w: the answer's Date is earlier than the version it holds: is there a proxy in between, or is a clock wrong?", ErrUnavailable)
	}
	token := Token{Value: NewSecret(value), IssuedAt: epoch(v.Metadata.IssuedAt), IAMID: cmp.Or(v.Metadata.IAMID, claims.IAMID), Account: cmp.Or(v.Metadata.Account, claims.Account)}
	if token.IssuedAt.IsZero() {
		token.IssuedAt = claims.IssuedAt
	}
	for _, expires := range []time.Time{v.Metadata.ExpiresAt(v.CreatedAt), stated, claims.ExpiresAt} {
		token.Expiration = sooner(token.Expiration, expires)
	}
	if token.Expiration.IsZero() {
		return Token{}, noToken("nothing states when it expires: its version has no metadata, and it is no JWT. Let the rotator write it")
	}
	if !v.CreatedAt.IsZero() {
		token.Expiration = sooner(token.Expiration, v.CreatedAt.Add(MaxLifetime))
	}
	if !token.IssuedAt.IsZero() {
		token.ExpiresIn = token.Expiration.Sub(token.IssuedAt)
	}
	return token, nil
}

// sooner returns the earlier of two times. A zero time is not known, and does not count.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// epoch converts epoch seconds to a time, and to the zero time if they cannot be one.
func epoch(seconds int64) time.Time {
	if seconds <= 0 || seconds > maxEpoch {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
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
	if !slices.Contains([]Format{Raw, Bearer, JSON}, Format(text)) {
		return errors.New("not a format: use raw, bearer or json")
	}
	*f = Format(text)
	return nil
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
			AccessToken: t.Value.Reveal(), TokenType: "Bearer",
			ExpiresIn: int64(t.ExpiresIn.Seconds()), Expiration: t.Expiration.Unix(),
		})
		return NewSecret(string(payload))
	default:
		return t.Value
	}
}

// TrimBearer returns the bare token in the output of `ibmcloud iam oauth-tokens`, which is
// "IAM token:  Bearer <token>". The words before the token may be missing, be in any case,
// and have any white space around them. Older versions also print a "UAA token:", which is
// dropped. From any other text it trims only white space.
func TrimBearer(s string) string {
	s = strings.TrimSpace(s)
	if rest, found := cutFold(s, "IAM"); found {
		if rest, found := cutFold(strings.TrimSpace(rest), "token:"); found {
			s = strings.TrimSpace(rest)
		}
	}
	if words := strings.Fields(s); len(words) > 3 && strings.EqualFold(strings.Join(words[len(words)-4:len(words)-1], " "), "UAA token: Bearer") {
		s = strings.Join(words[:len(words)-4], " ")
	}
	rest, found := cutFold(s, "Bearer")
	if trimmed := strings.TrimSpace(rest); found && (rest == "" || trimmed != rest) {
		return trimmed
	}
	return s
}

// cutFold is strings.CutPrefix that ignores case.
func cutFold(s, prefix string) (rest string, found bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// DefaultField is the entry of a kv secret that holds the token, unless the
// rotation names another.
const DefaultField = "iam_token"

// maxText is the longest text in which a token is searched, in bytes: more than a token's
// length, because there may be white space around it.
const maxText = 20_000

// bareToken returns the token of a text that has only a token, or Bearer and a token.
func bareToken(text string) (string, bool) {
	if len(text) > maxText {
		return "", false
	}
	words := strings.FieldsFunc(text, isBlank)
	if len(words) == 2 && strings.EqualFold(words[0], "Bearer") {
		words = words[1:]
	}
	if len(words) != 1 || CheckForm(words[0]) != nil {
		return "", false
	}
	return words[0], true
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }

// unpack finds the bare token in a payload, or in the data of a kv secret. expires is the
// expiration in the same JSON object, or zero. In an object with several entries the token
// is only found under its known names.
func unpack(payload string) (token string, expires time.Time, err error) {
	text := strings.TrimLeftFunc(payload, isBlank)
	switch {
	case text == "":
		return "", time.Time{}, noToken("it is empty: find out why the rotator does not run")
	case strings.HasPrefix(text, "{"):
		return unpackObject(text)
	case text == "no token yet":
		return "", time.Time{}, noToken("the rotator has not run yet, or its runs fail")
	}
	token, ok := bareToken(text)
	if !ok {
		return "", time.Time{}, noToken("what it holds does not have the form of a token: is it the right secret?")
	}
	return token, time.Time{}, nil
}

func unpackObject(text string) (string, time.Time, error) {
	var object map[string]any
	if json.Unmarshal([]byte(text), &object) != nil {
		return "", time.Time{}, noToken("its JSON is broken")
	}
	if field, ok := object["access_token"].(string); ok {
		token, ok := bareToken(field)
		if !ok {
			return "", time.Time{}, noToken("the access_token of its JSON does not have the form of a token")
		}
		expiration, _ := object["expiration"].(float64)
		return token, epoch(int64(max(0, min(expiration, maxEpoch)))), nil
	}
	if token, ok := object[DefaultField].(string); ok {
		return unpack(token)
	}
	for _, only := range object {
		if token, ok := only.(string); ok && len(object) == 1 {
			return unpack(token)
		}
	}
	return "", time.Time{}, noToken("its JSON has neither access_token nor iam_token, nor a text as its only entry")
}

func noToken(why string) error { return fmt.Errorf("%w: %s", ErrNoToken, why) }
