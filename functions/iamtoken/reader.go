package iamtoken

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// defaultMargin is well below the remaining lifetime of a stored token when the
	// rotator replaces it, so that one read a rotation is enough.
	defaultMargin = 5 * time.Minute
	// readTime is the longest that a read may take, retries included.
	readTime = 15 * time.Second
	// patience is how long a caller waits for a read although there is a valid token.
	patience = 2 * time.Second
	// pause is the least time between two reads that brought nothing new, while
	// there is a valid token; without one, blindPause is.
	pause      = 15 * time.Second
	blindPause = time.Second
	// farewell is what a call leaves of its context's deadline, so that the caller gets
	// the reason, and not the deadline's end.
	farewell = time.Second
	// maxTrustedSkew is what latency and the whole seconds of a Date header explain.
	maxTrustedSkew = 5 * time.Second
)

// Reader returns the token that the rotator keeps in a secret. The secret is read
// once per rotation and shared by all goroutines: the Reader caches the token until
// it expires soon. While the store is down it returns the old token as long as that
// is valid, and never an expired one.
//
// A Reader is used by pointer and by many goroutines at once. It starts a goroutine
// for each read. Its fields must not change once it is in use.
type Reader struct {
	Store Store // where the token is; required

	// Margin is the remaining lifetime at which the secret is read again, less a random
	// part of up to a fifth, so that a thousand processes do not ask in the same
	// second. Stay below 8 minutes, the least that the rotator leaves. If 0, 5 minutes.
	Margin time.Duration

	// Hosts are those that get the token from Transport and Authenticate: a name, a
	// name and port, or a name's end as in ".cloud.ibm.com". If empty, every host that
	// the job calls.
	Hosts []string

	// Now is the clock. If nil, time.Now. If it is off by more than 5 seconds, the
	// store's clock counts.
	Now func() time.Time

	mu       sync.Mutex
	token    Token         // the last good one; zero before
	due      time.Time     // when to read again
	failure  error         // of the last read, nil if it brought a valid token
	flight   chan struct{} // closed when the current read has ended; nil when there is none
	setback  error         // of the current read's first try; nil when there is none
	skew     time.Duration // the store's clock less ours
	reloaded string        // fingerprint of the rejected token after which the secret was read again
}

// Token returns a valid token. Its shape is that of oauth2.TokenSource: cached,
// refreshed as needed, safe for concurrent use. It differs in two points. It takes
// a context, because a read can take seconds and a job must be able to give up. And
// it returns this package's type: oauth2's would make every job depend on oauth2.
// Five lines make it a TokenSource:
//
//	func (s source) Token() (*oauth2.Token, error) {
//		token, err := s.reader.Token(s.ctx)
//		return &oauth2.Token{AccessToken: token.Value.Reveal(), TokenType: "Bearer", Expiry: token.Expiration}, err
//	}
//
// Without a deadline it gives up after one more try. Until a deadline of ctx, less a
// second, it goes on trying while the service does not answer or denies access,
// which may be wrong for a moment. That the stored token has expired is reported at once.
//
// The error wraps one of this package's Err… values, the context's, or both.
func (r *Reader) Token(ctx context.Context) (Token, error) {
	token, err := r.tokenOnce(ctx)
	deadline, limited := ctx.Deadline()
	if err == nil || !limited {
		return token, err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(-farewell))
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

// waitForNext waits until the secret may be read again; false if ctx ends before.
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

// tokenOnce waits for one read at most.
func (r *Reader) tokenOnce(ctx context.Context) (Token, error) {
	r.mu.Lock()
	now := r.now()
	valid := r.token.Expiration.After(now.Add(patience))
	if now.Before(r.due) {
		defer r.mu.Unlock()
		return r.kept(now)
	}
	if err := r.Validate(); err != nil {
		r.mu.Unlock()
		return Token{}, err
	}
	landed := r.join(ctx)
	r.mu.Unlock()

	var impatient <-chan time.Time // never, unless there is a valid token
	if valid {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		impatient = timer.C
	}
	select {
	case <-landed:
	case <-impatient:
	case <-ctx.Done():
		if !valid {
			return Token{}, r.interrupted(ctx)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept(r.now())
}

// interrupted is the error of a call whose context ends while it waits, with why the read
// takes that long, if that is known.
func (r *Reader) interrupted(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.setback != nil {
		return fmt.Errorf("reading the IAM token: %w, and then: %w", r.setback, context.Cause(ctx))
	}
	return fmt.Errorf("waiting for the token: %w", context.Cause(ctx))
}

// Rejected reports to the Reader that a service answered 401 to token. If that is the
// one it returns, the next call of Token reads the secret, once for each token:
// the key may have been replaced, and with it the token. Another 401 for the same token
// has another cause. A 403 means that a permission is missing.
func (r *Reader) Rejected(token Token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fingerprint := token.Fingerprint()
	if fingerprint != r.token.Fingerprint() || fingerprint == r.reloaded {
		return
	}
	r.reloaded, r.due = fingerprint, time.Time{}
}

// kept returns the kept token if it is valid. The caller holds r.mu.
func (r *Reader) kept(now time.Time) (Token, error) {
	switch {
	case r.token.Expiration.After(now):
		return r.token, nil
	case r.failure != nil:
		return Token{}, fmt.Errorf("reading the IAM token: %w", r.failure)
	default: // it expired after the last read: the next one is due
		return Token{}, fmt.Errorf("reading the IAM token: %w", expired(r.token, now))
	}
}

func expired(token Token, now time.Time) error {
	return fmt.Errorf("%w %s ago, at %s: find out why the rotator does not run",
		ErrExpired, now.Sub(token.Expiration).Round(time.Second), token.Expiration.UTC().Format(time.RFC3339))
}

// now is the time by the store's clock, as far as it is known. It has no monotonic
// part, which stops while a process is suspended.
func (r *Reader) now() time.Time { return r.clock().Add(r.skew) }

func (r *Reader) clock() time.Time {
	if r.Now == nil {
		return time.Now().Round(0)
	}
	return r.Now().Round(0)
}

// margin is drawn again for each token.
func (r *Reader) margin() time.Duration {
	margin := cmp.Or(r.Margin, defaultMargin)
	return margin - rand.N(margin/5+1) // #nosec G404 -- it spreads requests, and keeps no secret
}

// join returns the current read, and starts one if there is none. The read
// does not end with the caller that happened to start it. The caller holds r.mu.
func (r *Reader) join(ctx context.Context) <-chan struct{} {
	if r.flight == nil {
		r.flight = make(chan struct{})
		go r.read(context.WithoutCancel(ctx), r.flight)
	}
	return r.flight
}

func (r *Reader) read(ctx context.Context, flight chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	token, at, err := r.readTwice(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.land(token, at, err)
	r.flight, r.setback = nil, nil
	close(flight)
}

// maxRetryAfter bounds what a service may ask for.
const maxRetryAfter = 5 * time.Second

// readTwice reads once more where that can help: after half to one and a half
// seconds, or when the service asked for it. It returns the store's time, too.
func (r *Reader) readTwice(ctx context.Context) (Token, time.Time, error) {
	token, at, err := read(ctx, r.Store)
	if !repeatable(err) {
		return token, at, err
	}
	r.mu.Lock()
	r.setback = err
	r.mu.Unlock()
	wait := time.Second/2 + rand.N(time.Second) // #nosec G404 -- it spreads requests, and keeps no secret
	select {
	case <-time.After(cmp.Or(asked(err), wait)):
		return read(ctx, r.Store)
	case <-ctx.Done():
		return Token{}, time.Time{}, err
	}
}

func read(ctx context.Context, store Store) (Token, time.Time, error) {
	version, err := store.Read(ctx)
	if err != nil {
		return Token{}, time.Time{}, err
	}
	token, err := version.Token()
	return token, version.ReadAt, err
}

// repeatable reports whether the same read can end otherwise: IAM and Secrets Manager
// now and then deny for a moment what they allow.
func repeatable(err error) bool {
	var final permanent
	return (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDenied)) && !errors.As(err, &final)
}

// asked is how long the service asked to wait; 0 if it did not.
func asked(err error) time.Duration {
	var after *retryAfter
	if errors.As(err, &after) {
		return after.wait
	}
	return 0
}

// retryAfter is a failure with how long to wait, maxRetryAfter at most; 0 if that is not known.
type retryAfter struct {
	error
	wait time.Duration
}

func (e *retryAfter) Unwrap() error { return e.error }

// land stores the result of a read and sets the time of the next one. The
// caller holds r.mu.
func (r *Reader) land(token Token, at time.Time, err error) {
	if err == nil {
		r.setClock(at)
	}
	now := r.now()
	if err == nil && !token.Expiration.After(now) {
		err = expired(token, now)
	}
	r.failure = err
	if err == nil {
		r.token = token
		r.due = token.Expiration.Add(-r.margin())
	}
	if !r.due.After(now) { // nothing new: ask again, but not at every call
		r.due = now.Add(pause + rand.N(pause)) // #nosec G404 -- it spreads requests, and keeps no secret
	}
	switch left := r.token.Expiration.Sub(now); {
	case left <= 0:
		r.due = now.Add(max(blindPause, asked(err)))
	case r.due.After(r.token.Expiration):
		r.due = r.token.Expiration
	}
}

// setClock notes how far this machine's clock is off the store's.
func (r *Reader) setClock(theirs time.Time) {
	r.skew = 0
	if theirs.IsZero() {
		return
	}
	if skew := theirs.Sub(r.clock()); skew.Abs() > maxTrustedSkew {
		r.skew = skew
	}
}
