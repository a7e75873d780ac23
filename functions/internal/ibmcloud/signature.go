package ibmcloud

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// signingKeysAge is how old IAM's keys may be before they are fetched again.
	signingKeysAge = 24 * time.Hour
	// signingKeysPause is the least time between two fetches, by the wall clock: a
	// token with an unknown key must not make every rotation fetch them.
	signingKeysPause = time.Minute
	// signingKeysLimit bounds a fetch.
	signingKeysLimit = 3 * time.Second
	// signingKeysWait is how long a token waits for a fetch, and never more than a
	// quarter of the time that is left.
	signingKeysWait = 2 * time.Second
	// minSignature and maxSignature bound a signature in bytes: IAM's keys have 2,048 to
	// 8,192 bits.
	minSignature = 2048 / 8
	maxSignature = 8192 / 8
)

// signingKeySet holds public keys by key id. Two keys of one id are not expected, but
// one of them must not hide the other.
type signingKeySet map[string][]*rsa.PublicKey

// signingKeys are the public keys with which IAM signs tokens, by key id. They are
// fetched in parallel with other requests, shared by all rotations, and kept.
type signingKeys struct {
	fetch func(ctx context.Context) (signingKeySet, error)
	now   func() time.Time

	mu       sync.Mutex
	byID     signingKeySet // of the last fetch that succeeded
	fetched  time.Time     // when that fetch began, by the wall clock; zero if there is none
	tried    time.Time     // when the last fetch began; zero if there is none
	fetching bool          // the last fetch has not ended
	ended    chan struct{} // closed when the last fetch ends
	canceled bool          // the last fetch was canceled with its run, which is no fault of IAM's
}

var (
	errKeysUnavailable = errors.New("IAM's keys at /identity/keys could not be fetched")
	errUnknownKey      = errors.New("a JWT that is signed with none of IAM's keys (/identity/keys)")
	errNotRS256        = errors.New("a JWT that is not signed with RS256")
	errWrongSignature  = errors.New("a JWT whose signature is wrong")
)

// verify returns an error unless IAM has signed the JWT. The error is errKeysUnavailable if that
// cannot be verified, because IAM's keys could not be fetched. If no key verifies the token,
// verify fetches the keys again, or waits for a fetch that has begun: IAM may have a new
// key, or a proxy may have answered the last fetch.
func (k *signingKeys) verify(ctx context.Context, token string) error {
	// These checks need no key.
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil || parsed.Method != jwt.SigningMethodRS256 {
		return errNotRS256
	}
	if n := len(parsed.Signature); n < minSignature || n > maxSignature {
		return errWrongSignature
	}
	if _, signed := k.signed(parsed); signed {
		return nil
	}
	wait := signingKeysWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(deadline)/4)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	k.refresh(ctx, 0)
	known, signed := k.signed(parsed)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case signed:
		return nil
	case known:
		return errWrongSignature
	case k.fetched.IsZero() || k.fetched.Before(k.tried):
		return errKeysUnavailable
	default:
		return errUnknownKey
	}
}

// signed reports whether a key of the token's key id is known, and whether one verifies it.
func (k *signingKeys) signed(token *jwt.Token) (known, signed bool) {
	k.mu.Lock()
	id, _ := token.Header["kid"].(string)
	keys := k.byID[id]
	k.mu.Unlock()
	text := token.Raw[:strings.LastIndex(token.Raw, ".")]
	return len(keys) > 0, slices.ContainsFunc(keys, func(key *rsa.PublicKey) bool {
		return token.Method.Verify(text, token.Signature, key) == nil
	})
}

// refresh fetches the keys if they are missing or as old as maxAge, unless a fetch began
// within the last minute and was not canceled. It waits for a fetch that has begun.
func (k *signingKeys) refresh(ctx context.Context, maxAge time.Duration) {
	ended, begun := k.begin(maxAge)
	if !begun {
		select {
		case <-ended:
		case <-ctx.Done():
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, signingKeysLimit)
	defer cancel()
	keys, err := k.fetch(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.byID, k.fetched = keys, k.tried
	}
	k.canceled = err != nil && errors.Is(ctx.Err(), context.Canceled)
	close(k.ended)
	k.fetching = false
}

// begin reports whether a fetch is due; if so, the caller must make it. Otherwise ended is
// the channel of the last fetch, which may still go on.
func (k *signingKeys) begin(maxAge time.Duration) (ended <-chan struct{}, begun bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now().Round(0)
	if k.fetching || within(now, k.fetched, maxAge) || !k.canceled && within(now, k.tried, signingKeysPause) {
		return k.ended, false
	}
	k.fetching, k.ended, k.tried = true, make(chan struct{}), now
	return k.ended, true
}

// within reports whether now is less than d after then. It is false when now is before
// then: a clock that was set back must not prevent fetches.
func within(now, then time.Time, d time.Duration) bool {
	since := now.Sub(then)
	return !then.IsZero() && since >= 0 && since < d
}

// Prepare fetches the keys that verify tokens, if that is due. It waits until the bootstrap
// identity has its token: then a connection to IAM is open, and the fetch goes on while
// the run reads from Secrets Manager.
func (i *IAM) Prepare(ctx context.Context) {
	if i.bootstrap != nil {
		select {
		case <-i.bootstrap.have:
		case <-ctx.Done():
			return
		}
	}
	i.keys.refresh(ctx, signingKeysAge)
}

// publicKey is a key of a JSON Web Key Set (RFC 7517).
type publicKey struct {
	Type      string `json:"kty"`
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
	ID        string `json:"kid"`
	Modulus   string `json:"n"`
	Exponent  string `json:"e"`
}

// fetchKeys asks IAM for its public keys, and leaves out those that cannot be used. If none
// can, it returns errKeysUnavailable.
func (i *IAM) fetchKeys(ctx context.Context) (signingKeySet, error) {
	var set struct {
		Keys []publicKey `json:"keys"`
	}
	got := i.wire.get(ctx, i.url+"/identity/keys", http.Header{}, &set)
	keys := signingKeySet{}
	for _, entry := range set.Keys { // an entry that was not decoded is empty
		if key := entry.rsa(); key != nil {
			keys[entry.ID] = append(keys[entry.ID], key)
		}
	}
	if got.status != http.StatusOK || len(keys) == 0 {
		return nil, errKeysUnavailable
	}
	return keys, nil
}

// rsa returns nil unless this is an RSA key of 2,048 to 8,192 bits for RS256 signatures.
func (k publicKey) rsa() *rsa.PublicKey {
	if k.ID == "" || k.Type != "RSA" || k.Algorithm != "" && k.Algorithm != "RS256" || k.Use != "" && k.Use != "sig" {
		return nil
	}
	modulus, exponent := base64Int(k.Modulus), base64Int(k.Exponent)
	if modulus.BitLen() < 2048 || modulus.BitLen() > 8192 || modulus.Bit(0) == 0 ||
		exponent.BitLen() < 2 || exponent.BitLen() > 31 || exponent.Bit(0) == 0 {
		return nil
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}
}

// base64Int returns 0 if text is not a number in base64.
func base64Int(text string) *big.Int {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return new(big.Int)
	}
	return new(big.Int).SetBytes(raw)
}
