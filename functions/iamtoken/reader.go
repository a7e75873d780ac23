package iamtoken

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// defaultMargin is well below the remaining lifetime at which the rotator replaces a
	// token, so that one read a rotation is enough.
	defaultMargin = 5 * time.Minute
	// readLimit limits a read, including its second try.
	readLimit = 15 * time.Second
	// validWait is how long a caller waits for a read while there is a valid token.
	validWait = 2 * time.Second
	// validPause is the least time between two reads that brought no new token, while there
	// is a valid one. Without a valid one it is invalidPause.
	validPause   = 15 * time.Second
	invalidPause = time.Second
	// callReserve is how long before its context's deadline a call ends, so that the caller
	// gets the reason, and not only the context's error.
	callReserve = time.Second
	// maxTrustedSkew is a difference of clocks that latency and the whole seconds of a Date
	// header explain.
	maxTrustedSkew = 5 * time.Second
)

// Reader returns the token that the rotator keeps in a secret. It reads the secret once
// per rotation for all goroutines, and caches the token until shortly before it expires.
// While the store is down it returns the old token as long as that is valid, and never an
// expired one.
//
// Use a pointer, and do not change the fields after the first use. Many goroutines may
// use a Reader at once. It starts a goroutine for each read.
type Reader struct {
	Store Store // where the token is; required

	// Margin is the remaining lifetime at which the secret is read again; 0 means 5 minutes.
	// Up to a fifth of it is subtracted at random, so that a thousand processes do not read
	// in the same second. It must be below 8 minutes, the least that the rotator leaves.
	Margin time.Duration

	// Hosts are the hosts to which Transport and Authenticate send the token. An entry is a
	// name, a name with a port, or the end of names, for example ".cloud.ibm.com". If empty,
	// every host that the job calls gets it.
	Hosts []string

	// Now is the clock. If nil, time.Now. If it differs from the store's clock by more than
	// 5 seconds, the store's is used.
	Now func() time.Time

	mu       sync.Mutex
	token    Token         // the last one that was valid when it was read; zero before
	due      time.Time     // when to read again
	failure  error         // of the last read; nil if it brought a valid token
	reading  chan struct{} // closed when the current read ends; nil if there is none
	firstErr error         // of the current read's first try; nil if that has not failed
	skew     time.Duration // the store's clock less this machine's
	reloaded string        // fingerprint of the rejected token after which the secret was read again
}

// Token returns a valid token. Like an oauth2.TokenSource it caches the token, refreshes
// it as needed and is safe for concurrent use. Unlike one it takes a context, because a
// read can take seconds, and returns this package's type, so that no job must depend on
// oauth2. These lines make it a TokenSource:
//
//	func (s source) Token() (*oauth2.Token, error) {
//		token, err := s.reader.Token(s.ctx)
//		return &oauth2.Token{AccessToken: token.Value.Reveal(), TokenType: "Bearer", Expiry: token.Expiration}, err
//	}
//
// If a service does not answer or denies access, which may be wrong for a moment, Token
// tries once more. If ctx has a deadline, it goes on trying until a second before that, about
// once a second. It reports at once that the stored token has expired.
//
// The error wraps one of this package's Err… values, the context's error, or both.
func (r *Reader) Token(ctx context.Context) (Token, error) {
	token, err := r.tokenOnce(ctx)
	deadline, limited := ctx.Deadline()
	if err == nil || !limited {
		return token, err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(-callReserve))
	defer cancel()
	for repeatable(err) && r.waitForNext(ctx) {
		next, nextErr := r.tokenOnce(ctx)
		if nextErr != nil && ctx.Err() != nil {
			break
		}
		token, err = next, nextErr
	}
	return token, err
}

// waitForNext waits until the secret may be read again. It returns false if ctx ends before.
func (r *Reader) waitForNext(ctx context.Context) bool {
	r.mu.Lock()
	wait := max(r.due.Sub(r.now()), 0)
	r.mu.Unlock()
	select {
	case <-time.After(wait):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// tokenOnce returns the token, and waits for at most one read.
func (r *Reader) tokenOnce(ctx context.Context) (Token, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Before(r.due) {
		return r.cached(now)
	}
	if err := r.Validate(); err != nil {
		return Token{}, err
	}
	if r.reading == nil { // the read goes on if its first caller gives up
		r.reading, r.firstErr = make(chan struct{}), nil
		go r.read(context.WithoutCancel(ctx), r.reading)
	}
	reading, valid := r.reading, r.token.Expiration.After(now.Add(validWait))
	var waited <-chan time.Time // never, unless there is a valid token
	if valid {
		waited = time.After(validWait)
	}
	r.mu.Unlock()
	select {
	case <-reading:
	case <-waited:
	case <-ctx.Done():
	}
	r.mu.Lock()
	switch {
	case valid || r.reading != reading:
		return r.cached(r.now())
	case r.firstErr != nil: // it says why the read takes so long
		return Token{}, fmt.Errorf("reading the IAM token: %w, and then: %w", r.firstErr, context.Cause(ctx))
	default:
		return Token{}, fmt.Errorf("waiting for the token: %w", context.Cause(ctx))
	}
}

// Rejected tells the Reader that a service answered 401 to token. If that is the cached
// token, the next call of Token reads the secret, since the key and its token may have been
// replaced. It does so only once for each token: a second 401 has another cause. Do not call
// it for a 403, which means that a permission is missing.
func (r *Reader) Rejected(token Token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fingerprint := token.Fingerprint()
	if fingerprint == r.token.Fingerprint() && fingerprint != r.reloaded {
		r.reloaded, r.due = fingerprint, time.Time{}
	}
}

// cached returns the cached token if it is valid. The caller holds r.mu.
func (r *Reader) cached(now time.Time) (Token, error) {
	if r.token.Expiration.After(now) {
		return r.token, nil
	}
	// If the last read did not fail, the token has expired since, and the next read is due.
	return Token{}, fmt.Errorf("reading the IAM token: %w", cmp.Or(r.failure, expired(r.token, now)))
}

func expired(token Token, now time.Time) error {
	return fmt.Errorf("%w %s ago, at %s: find out why the rotator does not run",
		ErrExpired, now.Sub(token.Expiration).Round(time.Second), token.Expiration.UTC().Format(time.RFC3339))
}

// now is the time by the store's clock, if that is known. It has no monotonic part, which
// stops while a process is suspended.
func (r *Reader) now() time.Time { return r.clock().Add(r.skew) }

func (r *Reader) clock() time.Time {
	if r.Now == nil {
		return time.Now().Round(0)
	}
	return r.Now().Round(0)
}

// read reads the secret, a second time if that may help. It stores the result and when to
// read again, and closes done.
func (r *Reader) read(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	token, at, err := r.tryToRead(ctx)
	if repeatable(err) {
		r.mu.Lock()
		r.firstErr = err
		r.mu.Unlock()
		select {
		case <-time.After(cmp.Or(waitOf(err), time.Second/2+spread(time.Second))):
			token, at, err = r.tryToRead(ctx)
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading = nil
	close(done)
	if err == nil {
		r.setClock(at)
	}
	now := r.now()
	if err == nil && !token.Expiration.After(now) {
		err = expired(token, now)
	}
	r.failure = err
	if err == nil {
		margin := cmp.Or(r.Margin, defaultMargin)
		r.token, r.due = token, token.Expiration.Add(spread(margin/5)-margin)
	}
	switch {
	case !r.token.Expiration.After(now):
		r.due = now.Add(max(invalidPause, waitOf(err)))
	case !r.due.After(now): // the token is the old one: read again, but not at every call
		r.due = now.Add(min(validPause+spread(validPause), r.token.Expiration.Sub(now)))
	}
}

// tryToRead reads the secret once. It also returns the store's time.
func (r *Reader) tryToRead(ctx context.Context) (Token, time.Time, error) {
	version, err := r.Store.Read(ctx)
	if err != nil {
		return Token{}, time.Time{}, err
	}
	token, err := version.Token()
	return token, version.ReadAt, err
}

// setClock stores how far this machine's clock is off the store's.
func (r *Reader) setClock(theirs time.Time) {
	r.skew = 0
	if skew := theirs.Sub(r.clock()); !theirs.IsZero() && skew.Abs() > maxTrustedSkew {
		r.skew = skew
	}
}

// spread returns a random part of most, which spreads requests over time.
func spread(most time.Duration) time.Duration {
	return rand.N(most + 1) // #nosec G404 -- no secret depends on it
}
