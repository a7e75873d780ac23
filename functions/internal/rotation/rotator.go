package rotation

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// attemptLimit is the longest that one attempt may take.
	attemptLimit = 10 * time.Second
	// defaultTimeout is the time for a run whose context has no deadline.
	defaultTimeout = 2 * time.Minute
	// maxReserve is kept of the deadline for the report and the metrics.
	maxReserve = 5 * time.Second
)

// Rotator runs rotations. Its fields must not change while it runs; it may run
// many times, and holds no token or key in between.
type Rotator struct {
	Keys   KeyReader
	IAM    Exchanger
	Tokens TokenStore

	Mirrors Mirrors // if nil, no rotation may have a Mirror

	MinRemaining       time.Duration    // life that the stored token must have for ensure to leave it
	Interval           time.Duration    // the rotate schedule's, to warn when tokens live shorter
	Concurrency        int              // attempts at a time; 0 means 1
	BootstrapExpiresAt time.Time        // zero when not known
	Version            string           // the rotator's own, for the version metadata
	Now                func() time.Time // if nil, time.Now
	Random             func() float64   // from 0 up to 1, spreads the retries; if nil, math/rand/v2's
	Log                *slog.Logger     // attempts that failed, at debug level; if nil, nowhere
}

// Run runs the rotations side by side, each succeeding or failing on its own,
// and returns when all have ended: no goroutine outlives it. It stays inside
// ctx's deadline (2 minutes if there is none) less a reserve of 5 seconds, or of
// a tenth of a shorter deadline.
func (r *Rotator) Run(ctx context.Context, request Request, rotations []Rotation) Report {
	run := r.begin(ctx, request)
	defer run.end()
	report := Report{RunID: request.RunID, Mode: request.Mode, Results: make([]Result, len(rotations))}
	var all sync.WaitGroup
	for i, rotation := range rotations {
		pass := newPass(run, rotation)
		// A pass begins when its turn has come: thousands that wait for theirs
		// would each hold a stack, and a retry would queue behind all of them.
		pass.slot, _ = run.acquire() // without one, the pass tells why itself
		all.Go(func() { report.Results[i] = pass.untilDone() })
	}
	all.Wait()
	return report
}

// run is what the passes of one Run share.
type run struct {
	*Rotator
	Request
	ctx     context.Context
	end     func()
	keys    *keyReads
	slots   chan struct{} // held by an attempt, not by one waiting to try again
	started time.Time     // by the wall clock
	timeout time.Duration // the whole time that the caller gave
	budget  time.Duration // the timeout less the reserve
}

func (r *Rotator) begin(ctx context.Context, request Request) *run {
	timeout := defaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	budget := timeout - min(maxReserve, timeout/10)
	ctx, cancel := context.WithTimeout(ctx, budget)
	run := &run{
		Rotator: r, Request: request, ctx: ctx,
		keys:    newKeyReads(ctx, r.Keys),
		slots:   make(chan struct{}, max(1, r.Concurrency)),
		timeout: timeout, budget: budget,
	}
	run.started = run.wallClock()
	run.end = func() { cancel(); run.keys.wait() }
	return run
}

// acquire waits for a slot; the returned function gives it back. When the time is
// up there is none, even if one is free.
func (r *run) acquire() (release func(), err error) {
	if r.ctx.Err() == nil {
		select {
		case r.slots <- struct{}{}:
			return func() { <-r.slots }, nil
		case <-r.ctx.Done():
		}
	}
	return nil, &Error{Step: StepLook, Kind: Timeout, Message: "the time was up before this rotation's turn came: " +
		"raise the timeout, or split the rotations over more functions"}
}
