package doctor

import (
	"cmp"
	"context"
	"net/http"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

const (
	// checkLimit is the longest that one request or connection may take.
	checkLimit = 10 * time.Second
	// defaultTimeout is the time for a run whose context has no deadline.
	defaultTimeout = 2 * time.Minute
	// maxReserve is kept of the deadline for the answer.
	maxReserve = 5 * time.Second
	// maxClockSkew is how far the clock may be off before it is a warning.
	maxClockSkew = 30 * time.Second
	// keyExpiryNotice is how long before a key expires it is a warning.
	keyExpiryNotice = 14 * 24 * time.Hour
)

// Doctor checks what rotations rely on. Every check is tried once: a failure
// that a rotation would outlive by trying again is shown all the same.
type Doctor struct {
	Configuration  string // what the configuration comes to, in a few words
	IAMHost        Host
	InstanceHost   Host
	Network        Network
	HTTP           http.RoundTripper // that the function's own requests take
	Bootstrap      Bootstrap
	IAM            IAM
	SecretsManager SecretsManager
	Mirrors        Mirrors // if nil, no rotation may have one

	MinRemaining time.Duration
	Interval     time.Duration    // the rotate schedule's
	Concurrency  int              // rotations at a time; 0 means 1
	Now          func() time.Time // if nil, time.Now

	limit time.Duration // of one request, in a run
}

// Run checks what all rotations share, and then each of them. It stays inside
// ctx's deadline (2 minutes if there is none) less a reserve of 5 seconds, or of
// a tenth of a shorter deadline; what had no time by then has failed.
func (d *Doctor) Run(ctx context.Context, rotations []rotation.Rotation) Diagnosis {
	budget := budgetOf(ctx)
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	run := *d
	run.limit = min(checkLimit, budget/4) // so that one that hangs leaves time for the others
	return run.examine(ctx, rotations)
}

func (d *Doctor) examine(ctx context.Context, rotations []rotation.Rotation) Diagnosis {
	shared := &sheet{}
	shared.ok("configuration", "%s", d.Configuration)
	blockers := d.reachHosts(ctx, shared)
	bootstrap, blocker := d.checkBootstrap(ctx, shared, blockers.iam)
	blockers.instance = cmp.Or(blockers.instance, blocker)

	sheets := make([][]Check, len(rotations))
	slots := make(chan struct{}, max(1, d.Concurrency))
	var all sync.WaitGroup
	for i, r := range rotations {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			v := visit{Doctor: d, Rotation: r, blockers: blockers, bootstrap: bootstrap}
			sheets[i] = v.run(ctx)
		})
	}
	all.Wait()
	checks := shared.checks
	for _, more := range sheets {
		checks = append(checks, more...)
	}
	return newDiagnosis(checks)
}

func budgetOf(ctx context.Context) time.Duration {
	timeout := defaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	return timeout - min(maxReserve, timeout/10)
}

// blockers name the check, if any, whose failure leaves a service out of reach.
type blockers struct{ iam, instance string }

// reachHosts checks the way to both hosts side by side.
func (d *Doctor) reachHosts(ctx context.Context, shared *sheet) blockers {
	var found blockers
	iam, instance := &sheet{}, &sheet{}
	var both sync.WaitGroup
	both.Go(func() { found.iam = d.reach(ctx, iam, d.IAMHost) })
	both.Go(func() { found.instance = d.reach(ctx, instance, d.InstanceHost) })
	both.Wait()
	shared.checks = append(append(shared.checks, iam.checks...), instance.checks...)
	return found
}

func (d *Doctor) now() time.Time {
	if d.Now == nil {
		return time.Now().Round(0)
	}
	return d.Now().Round(0)
}

// try gives one request its time.
func try[T any](ctx context.Context, limit time.Duration, request func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return request(ctx)
}

// whose names a token's owner.
func whose(token iamtoken.Token) string {
	if token.Opaque() {
		return "an identity that the token does not tell"
	}
	return token.IAMID + " of account " + token.Account
}
