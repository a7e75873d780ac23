package rotation

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// maxWait caps every wait between two attempts, whatever Retry-After asks.
	maxWait = 10 * time.Second
	// keyWait is the wait before the one retry of a refused key: IAM needs about
	// 2 seconds until it knows a new one (Secrets Manager docs, known limits).
	keyWait = 2 * time.Second
)

// untilDone tries until an attempt succeeds, an error is permanent or the time is up.
func (p *pass) untilDone() Result {
	began := time.Now()
	var failure *Error
	retriedOnce := map[Step]bool{}
	result, err := backoff.Retry(p.ctx, func() (Result, error) {
		result, err := p.timedAttempt()
		if err == nil {
			return result, nil
		}
		failure = p.moreTelling(failure, err)
		p.failedAt = time.Now()
		wait, again := nextWait(failure, retriedOnce[failure.Step])
		if failure.Retry == Once {
			retriedOnce[failure.Step] = true
		}
		if !again {
			return Result{}, backoff.Permanent(failure)
		}
		p.logRetry(failure)
		return Result{}, withWait(failure, wait)
	}, backoff.WithBackOff(p.newBackOff()), backoff.WithMaxElapsedTime(p.budget))
	if err != nil {
		result = p.failed(failure)
	}
	result.Duration = time.Since(began)
	return result
}

func (r *Rotator) newBackOff() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 300 * time.Millisecond
	b.Multiplier = 2
	b.RandomizationFactor = 0
	b.MaxInterval = maxWait * 2 / 3 // jitter adds up to half
	if r.Random == nil {
		return jittered{b, rand.Float64}
	}
	return jittered{b, r.Random}
}

// jittered makes each wait a random half to one and a half of itself.
type jittered struct {
	backoff.BackOff
	random func() float64
}

// NextBackOff implements backoff.BackOff.
func (j jittered) NextBackOff() time.Duration {
	wait := j.BackOff.NextBackOff()
	return wait/2 + time.Duration(j.random()*float64(wait))
}

// timedAttempt makes an attempt of 10 s at most, when its turn has come.
func (p *pass) timedAttempt() (Result, error) {
	release, err := p.turn()
	if err != nil {
		return Result{}, err
	}
	defer release()
	if p.outlived() {
		return Result{}, &Error{Step: StepLook, Kind: Timeout,
			Message: "the process was suspended for longer than the run may take; the next run starts afresh"}
	}
	ctx, cancel := context.WithTimeout(p.ctx, attemptLimit)
	defer cancel()
	p.attempts++
	p.warnings, p.timings, p.skew = nil, map[Step]time.Duration{}, 0
	return p.attempt(ctx)
}

// turn returns the slot that the pass was started with or, for a retry, waits for
// another; what it returns gives the slot back.
func (p *pass) turn() (release func(), err error) {
	if release, p.slot = p.slot, nil; release != nil {
		return release, nil
	}
	return p.acquire()
}

// moreTelling returns the error to report: that of the last attempt, unless that
// one was only cut short because the time was up.
func (p *pass) moreTelling(before *Error, err error) *Error {
	var failure *Error
	if !errors.As(err, &failure) {
		failure = &Error{Step: StepLook, Kind: Unavailable, Message: "unexpected failure of type " + typeName(err)}
	}
	if before != nil && p.ctx.Err() != nil {
		return before
	}
	return failure
}

// nextWait returns how long to wait before another attempt, 0 to leave it to the
// back-off, and whether there is to be one. An error worth one more attempt is
// worth one at each step: the bootstrap key and the workload's may both be new.
func nextWait(failure *Error, retriedOnce bool) (time.Duration, bool) {
	switch failure.Retry {
	case Later:
		return min(failure.RetryAfter, maxWait), true
	case Once:
		return keyWait, !retriedOnce
	default:
		return 0, false
	}
}

func withWait(failure *Error, wait time.Duration) error {
	if wait == 0 {
		return failure
	}
	return errors.Join(failure, &backoff.RetryAfterError{Duration: wait})
}

func (p *pass) logRetry(failure *Error) {
	if p.Log == nil {
		return
	}
	p.Log.LogAttrs(p.ctx, slog.LevelDebug, "attempt failed, trying again",
		slog.String("rotation", p.Name), slog.Int("attempt", p.attempts), slog.Any("error", failure))
}
