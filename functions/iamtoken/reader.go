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
	defer r.mu.Unlock()
	now := r.now()
	if now.Before(r.due) {
		return r.kept(now)
	}
	if err := r.Validate(); err != nil {
		return Token{}, err
	}
	if r.flight == nil { // the read does not end with the caller that happened to start it
		r.flight, r.setback = make(chan struct{}), nil
		go r.read(context.WithoutCancel(ctx), r.flight)
	}
	landed, valid := r.flight, r.token.Expiration.After(now.Add(patience))
	var impatient <-chan time.Time // never, unless there is a valid token
	if valid {
		impatient = time.After(patience)
	}
	r.mu.Unlock()
	select {
	case <-landed:
	case <-impatient:
	case <-ctx.Done():
	}
	r.mu.Lock()
	switch {
	case valid || r.flight != landed:
		return r.kept(r.now())
	case r.setback != nil: // why the read takes that long
		return Token{}, fmt.Errorf("reading the IAM token: %w, and then: %w", r.setback, context.Cause(ctx))
	default:
		return Token{}, fmt.Errorf("waiting for the token: %w", context.Cause(ctx))
	}
}

// Rejected reports to the Reader that a service answered 401 to token. If that is the
// one it returns, the next call of Token reads the secret, once for each token:
// the key may have been replaced, and with it the token. Another 401 for the same token
// has another cause. A 403 means that a permission is missing.
func (r *Reader) Rejected(token Token) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fingerprint := token.Fingerprint()
	if fingerprint == r.token.Fingerprint() && fingerprint != r.reloaded {
		r.reloaded, r.due = fingerprint, time.Time{}
	}
}

// kept returns the kept token if it is valid. The caller holds r.mu.
func (r *Reader) kept(now time.Time) (Token, error) {
	if r.token.Expiration.After(now) {
		return r.token, nil
	}
	// Without a failure it expired after the last read: the next one is due.
	return Token{}, fmt.Errorf("reading the IAM token: %w", cmp.Or(r.failure, expired(r.token, now)))
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

// read reads the secret, once more where that can help, and notes the result and when
// to read again.
func (r *Reader) read(ctx context.Context, flight chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	token, at, err := r.tryToRead(ctx)
	if repeatable(err) {
		r.mu.Lock()
		r.setback = err
		r.mu.Unlock()
		select {
		case <-time.After(cmp.Or(asked(err), time.Second/2+spread(time.Second))):
			token, at, err = r.tryToRead(ctx)
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flight = nil
	close(flight)
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
		r.due = now.Add(max(blindPause, asked(err)))
	case !r.due.After(now): // nothing new: ask again, but not at every call
		r.due = now.Add(min(pause+spread(pause), r.token.Expiration.Sub(now)))
	}
}

// tryToRead returns the store's time, too.
func (r *Reader) tryToRead(ctx context.Context) (Token, time.Time, error) {
	version, err := r.Store.Read(ctx)
	if err != nil {
		return Token{}, time.Time{}, err
	}
	token, err := version.Token()
	return token, version.ReadAt, err
}

// setClock notes how far this machine's clock is off the store's.
func (r *Reader) setClock(theirs time.Time) {
	r.skew = 0
	if skew := theirs.Sub(r.clock()); !theirs.IsZero() && skew.Abs() > maxTrustedSkew {
		r.skew = skew
	}
}

// spread is a random part of most: it spreads requests.
func spread(most time.Duration) time.Duration {
	return rand.N(most + 1) // #nosec G404 -- it keeps no secret
}
