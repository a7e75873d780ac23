package iamtoken

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// join returns the read under way, and starts one if there is none. The read does
// not end with the caller that happened to start it. The caller holds r.mu.
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
	version, err := readPatiently(ctx, r.Store)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.land(version, err)
	r.flight = nil
	close(flight)
}

// maxReads is how often the store is asked before a read has failed.
const maxReads = 3

// readPatiently asks again where that can help.
func readPatiently(ctx context.Context, store Store) (Version, error) {
	for reads := 1; ; reads++ {
		version, err := store.Read(ctx)
		if !errors.Is(err, ErrUnavailable) || reads == maxReads {
			return version, err
		}
		timer := time.NewTimer(backOff(reads, err))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Version{}, err
		}
	}
}

// maxRetryAfter bounds what a service may ask for.
const maxRetryAfter = 5 * time.Second

// backOff is half to one and a half seconds, twice that the second time, or what
// the service asked for.
func backOff(reads int, err error) time.Duration {
	var asked *retryAfter
	if errors.As(err, &asked) && asked.wait > 0 {
		return min(asked.wait, maxRetryAfter)
	}
	return time.Duration(reads) * (time.Second/2 + rand.N(time.Second)) // #nosec G404 -- it spreads requests, and keeps no secret
}

// retryAfter is a failure whose answer said how long to wait.
type retryAfter struct {
	error
	wait time.Duration
}

// Unwrap returns the failure.
func (e *retryAfter) Unwrap() error { return e.error }

// land takes in what a read brought and sets the time of the next one. The
// caller holds r.mu.
func (r *Reader) land(version Version, err error) {
	if err == nil {
		r.setClock(version.ReadAt)
	}
	now := r.now()
	var token Token
	if err == nil {
		token, err = version.Token()
	}
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
		r.due = now.Add(blindPause)
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
