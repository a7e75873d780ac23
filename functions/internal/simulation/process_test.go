package simulation

import (
	"context"
	"sync/atomic"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/internal/rotation"
)

// process is a process of the function, warm or cold: it does what
// functions/rotate does with the environment that the template gives it.
type process struct {
	line    *line
	rotator rotation.Rotator
	emitter metrics.Emitter
	lag     atomic.Int64 // how far its clock is behind while it is frozen

	deploy    int
	idleSince time.Time
	patience  time.Duration // how long Lambda keeps it idle
	retires   time.Time     // when Lambda replaces it in any case
}

func (w *world) newProcess(fn *function, name string, d dice) *process {
	p := &process{
		line:     &line{w: w, ours: true, inv: &invocation{}},
		deploy:   fn.deploys,
		patience: d.between(5*time.Minute, time.Hour),
		retires:  w.now().Add(d.between(time.Hour, 4*time.Hour)),
	}
	now := func() time.Time { return w.now().Add(time.Duration(w.clockOff.Load() - p.lag.Load())) }
	iam := ibmcloud.NewIAM("https://iam.test", p.line, now)
	source := func(context.Context) (iamtoken.Secret, error) { return iamtoken.NewSecret(w.bootstrapKey()), nil }
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: "https://instance.test", Bootstrap: ibmcloud.BootstrapByKey(iam, source), Transport: p.line, MaxRPS: 20, Now: now,
	})
	if err != nil {
		panic(err)
	}
	jitter := newDice(w.seed, "jitter "+name)
	p.rotator = rotation.Rotator{
		Keys: secretsManager, IAM: iam, Tokens: secretsManager,
		MinRemaining: 8 * time.Minute, Interval: rotateEvery, Concurrency: 16, Version: "simulated", Now: now, Random: jitter.Float64,
	}
	p.emitter = metrics.Emitter{
		Writer: w.alarms, Namespace: "IAMTokenRotator", FunctionName: fn.name, Rotations: []string{w.rotation.Name}, Now: now,
	}
	return p
}

func (p *process) isDead() bool {
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	return p.line.dead
}

// run runs an invocation. It reports nothing when it was frozen beyond its
// deadline: Lambda had given it up.
func (p *process) run(ctx context.Context, inv *invocation) (report rotation.Report, reported bool) {
	if inv.fate.freezeFor > 0 {
		return p.runFrozen(ctx, inv)
	}
	ctx, cancel := context.WithTimeout(ctx, functionTimeout)
	defer cancel()
	return p.rotator.Run(ctx, inv.request(), []rotation.Rotation{p.line.w.rotation}), true
}

// runFrozen stops the process at a step and lets it go on later, its wall clock
// ahead and its timers where they were: what it had got until then is got for
// real at the time, kept, and given to it once more when it thaws.
func (p *process) runFrozen(ctx context.Context, inv *invocation) (rotation.Report, bool) {
	rehearsal, cancel := context.WithTimeout(ctx, functionTimeout)
	s := &suspension{at: inv.fate.freezeAt, keys: p.rotator.Keys, iam: p.rotator.IAM, tokens: p.rotator.Tokens, freeze: cancel,
		thaw: func() { p.lag.Store(0) }}
	rotator := p.rotator
	rotator.Keys, rotator.IAM, rotator.Tokens = s, s, s
	report := rotator.Run(rehearsal, inv.request(), []rotation.Rotation{p.line.w.rotation})
	cancel()
	if !s.frozen {
		return report, true
	}
	time.Sleep(inv.fate.freezeFor)
	p.lag.Store(int64(inv.fate.freezeFor))
	s.replaying = true
	late, cancel := context.WithTimeout(ctx, functionTimeout)
	defer cancel()
	report = rotator.Run(late, inv.request(), []rotation.Rotation{p.line.w.rotation})
	p.lag.Store(0)
	return report, p.line.w.now().Sub(inv.began) < functionTimeout
}
