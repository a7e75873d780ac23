package rotation

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/report"
)

const (
	// AttemptLimit is the time limit of an attempt up to its puts to mirrors, of those puts,
	// and of one request of doctor.
	AttemptLimit   = 10 * time.Second
	defaultTimeout = 2 * time.Minute
	maxReserve     = 5 * time.Second
)

// Rotator runs rotations. Its fields must not change while it runs; it may run
// many times, and holds no token or key in between.
type Rotator struct {
	Keys   KeyReader
	IAM    Exchanger
	Tokens TokenStore

	Mirrors  Mirrors   // if nil, no rotation may have a Mirror
	Refusals *Refusals // remembered from run to run; if nil, within a run only

	MinRemaining time.Duration    // ensure leaves a stored token alone that has this remaining lifetime
	Interval     time.Duration    // of the rotate schedule, to warn of tokens that expire sooner
	Concurrency  int              // attempts at a time; 0 means 1
	HowToRun     HowToRun         // if nil, errors have no such advice
	Version      string           // of this program, for the metadata of versions
	Now          func() time.Time // if nil, time.Now
	Random       func() float64   // from 0 up to 1, for the jitter of waits; if nil, math/rand/v2's
	Log          *slog.Logger     // failed attempts that others follow, at debug level; if nil, nowhere
}

// Run runs the rotations in parallel, each succeeding or failing on its own, and returns when all
// goroutines have ended. It takes no longer than the budget of ctx, see Budget.
func (r *Rotator) Run(ctx context.Context, request Request, rotations []Rotation) report.Report {
	run := r.begin(ctx, request)
	defer run.end()
	ran := report.Report{RunID: request.RunID, Mode: string(request.Mode), Force: request.Force, Results: make([]report.Result, len(rotations))}
	var passes sync.WaitGroup
	for i, rotation := range rotations {
		pass := &pass{run: run, Rotation: rotation, sent: map[string]sentToken{}}
		// A pass starts its goroutine when it has a slot: thousands of waiting goroutines
		// would each hold a stack, and a retry would queue behind all of them.
		pass.release, _ = run.acquire() // without a slot, the pass reports why
		passes.Go(func() { ran.Results[i] = pass.runWithRetry() })
	}
	passes.Wait()
	return ran
}

// run is what the passes of one Run share.
type run struct {
	*Rotator
	Request
	ctx      context.Context
	end      func()
	refusals *Refusals
	keys     *keyReads
	prepare  func()         // calls IAM.Prepare once, and does not wait for it
	prepared sync.WaitGroup // the run waits for it at its end
	slots    chan struct{}  // held by an attempt, not by one waiting to try again
	started  time.Time      // by the wall clock
	timeout  time.Duration  // all the time that the caller gave
}

// Budget returns the time until ctx's deadline, 2 minutes if it has none, and the part of it
// that the rotations may use. The rest, 5 seconds or a tenth of a shorter time, is for the
// report and the metrics.
func Budget(ctx context.Context) (timeout, budget time.Duration) {
	timeout = defaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	return timeout, timeout - min(maxReserve, timeout/10)
}

func (r *Rotator) begin(ctx context.Context, request Request) *run {
	timeout, budget := Budget(ctx)
	ctx, cancel := context.WithTimeout(ctx, budget)
	run := &run{
		Rotator: r, Request: request, ctx: ctx,
		refusals: cmp.Or(r.Refusals, &Refusals{}),
		keys:     &keyReads{ctx: ctx, reader: r.Keys, latest: map[KeyRef]*keyRead{}},
		slots:    make(chan struct{}, max(1, r.Concurrency)),
		started:  WallClock(r.Now), timeout: timeout,
	}
	run.prepare = sync.OnceFunc(func() {
		run.prepared.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, AttemptLimit)
			defer cancel()
			r.IAM.Prepare(ctx)
		})
	})
	run.end = func() { cancel(); run.keys.running.Wait(); run.prepared.Wait() }
	return run
}

// acquire waits for a slot; release gives it back. When the time is up it is an error, even
// if a slot is free.
func (r *run) acquire() (release func(), err error) {
	if r.ctx.Err() == nil {
		select {
		case r.slots <- struct{}{}:
			return sync.OnceFunc(func() { <-r.slots }), nil
		case <-r.ctx.Done():
		}
	}
	return nil, &Error{Step: StepReadMetadata, Kind: Timeout, Message: "the time was up before this rotation's turn came: " +
		"raise the timeout, or split the rotations over more functions"}
}

const (
	// maxWait caps every wait between two attempts, whatever Retry-After asks.
	maxWait = 10 * time.Second
	// keyWait is the wait before the one retry of a rejected key: IAM needs about
	// 2 seconds until it knows a new one (Secrets Manager docs, known limits).
	keyWait = 2 * time.Second
)

// runWithRetry tries until an attempt succeeds, an error is permanent or the time is up.
func (p *pass) runWithRetry() report.Result {
	began := time.Now()
	var failure *Error
	retriedOnce := map[Step]bool{}
	deadline, _ := p.ctx.Deadline() // a run always has one
	result, err := backoff.Retry(p.ctx, func() (report.Result, error) {
		result, err := p.timedAttempt()
		if err == nil {
			return result, nil
		}
		failure = p.errorToReport(failure, err)
		p.failedAt = time.Now()
		// An error worth one more attempt is worth one at each step: the bootstrap key and the workload's may both be new.
		if failure.Retry == Never || failure.Retry == Once && retriedOnce[failure.Step] {
			return result, backoff.Permanent(failure)
		}
		wait := min(failure.RetryAfter, maxWait)
		if failure.Retry == Once {
			retriedOnce[failure.Step], wait = true, keyWait
		}
		if wait > 0 {
			return result, errors.Join(failure, &backoff.RetryAfterError{Duration: wait})
		}
		return result, failure
	}, backoff.WithBackOff(&waits{random: p.random}), backoff.WithMaxElapsedTime(time.Until(deadline)), backoff.WithNotify(func(_ error, wait time.Duration) {
		if p.Log != nil { // the report has the last attempt's error
			p.Log.LogAttrs(p.ctx, slog.LevelDebug, "attempt failed, trying again", slog.String("rotation", p.Name),
				slog.Int("attempt", p.attempts), slog.Int64("wait_ms", wait.Milliseconds()), slog.Any("error", failure))
		}
	}))
	if err != nil {
		result = p.failed(failure)
	}
	result.Duration = time.Since(began)
	return result
}

// waits is the back-off between attempts: 300 ms, doubled each time up to two thirds of maxWait,
// each with a jitter of up to half of itself.
type waits struct {
	next   time.Duration
	random func() float64
}

// Reset implements backoff.BackOff.
func (w *waits) Reset() { w.next = 300 * time.Millisecond }

// NextBackOff implements backoff.BackOff.
func (w *waits) NextBackOff() time.Duration {
	wait := w.next
	w.next = min(2*wait, maxWait*2/3)
	return wait/2 + time.Duration(w.random()*float64(wait))
}

func (r *Rotator) random() float64 {
	random := r.Random
	if random == nil {
		random = rand.Float64
	}
	return random()
}

// timedAttempt makes an attempt, when it has a slot, within AttemptLimit.
func (p *pass) timedAttempt() (report.Result, error) {
	if p.release == nil { // the first attempt may have its slot from Run
		release, err := p.acquire()
		if err != nil {
			return report.Result{}, err
		}
		p.release = release
	}
	defer func() { p.release(); p.release = nil }()
	if p.suspended() {
		return report.Result{}, &Error{Step: StepReadMetadata, Kind: Timeout,
			Message: "the process was suspended for longer than the run may take; the next run starts again"}
	}
	ctx, cancel := context.WithTimeout(p.ctx, AttemptLimit)
	defer cancel()
	p.attempts++
	p.warnings, p.timings, p.skew, p.repair = nil, map[Step]time.Duration{}, 0, nil
	return p.attempt(ctx)
}

// errorToReport returns err, the error of the last attempt. If that attempt was cut off because
// the time was up, it returns the error of the attempt before.
func (p *pass) errorToReport(before *Error, err error) *Error {
	deadline, _ := p.ctx.Deadline() // on a busy machine the context's timer is late; a run always has one
	if before != nil && (p.ctx.Err() != nil || !time.Now().Before(deadline)) {
		return before
	}
	return ErrorOf(err)
}

// keyReads lets the rotations of a run share the reads of equal keys.
type keyReads struct {
	ctx     context.Context // the run's, since several passes wait for one read
	reader  KeyReader
	running sync.WaitGroup

	mu     sync.Mutex
	latest map[KeyRef]*keyRead
}

type keyRead struct {
	begun time.Time
	done  chan struct{}
	key   iamtoken.Secret
	err   error
}

// start begins to read a key, unless a read began after since and has not failed. since is when the
// pass's last attempt failed: the next one must see a key that was replaced meanwhile.
func (k *keyReads) start(ref KeyRef, since time.Time) *keyRead {
	k.mu.Lock()
	defer k.mu.Unlock()
	if read, ok := k.latest[ref]; ok && read.begun.After(since) {
		select {
		case <-read.done:
			if read.err == nil {
				return read
			}
		default: // under way
			return read
		}
	}
	read := &keyRead{begun: time.Now(), done: make(chan struct{})}
	k.latest[ref] = read
	k.running.Go(func() {
		defer close(read.done)
		ctx, cancel := context.WithTimeout(k.ctx, AttemptLimit)
		defer cancel()
		key, err := k.reader.ReadKey(ctx, ref)
		read.key, read.err = key, At(StepReadKey, err)
	})
	return read
}

// wait returns the key, or an *Error if the read fails or ctx ends first.
func (r *keyRead) wait(ctx context.Context) (iamtoken.Secret, error) {
	select {
	case <-r.done:
		return r.key, r.err
	case <-ctx.Done():
	}
	message := "reading the API key took longer than an attempt may: is Secrets Manager slow or unreachable?"
	if errors.Is(ctx.Err(), context.Canceled) {
		message = "the run was interrupted while it read the API key"
	}
	return iamtoken.Secret{}, &Error{Step: StepReadKey, Kind: Timeout, Retry: Later, Message: message}
}
