package iamtoken

import (
	"context"
	"errors"
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
