package simulation

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/keyrenewal"
	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// functionTimeout is the deadline that Lambda gives an invocation.
const functionTimeout = 120 * time.Second

// function is a deployment of the function, with its processes.
type function struct {
	*simulation
	name        string
	mirrors     []string // those that it writes; nil for all
	concurrency int      // invocations at a time
	gone        bool     // its region is lost

	mu       sync.Mutex // guards everything below
	serial   int
	deploys  int
	idle     []*process
	underWay map[*invocation]bool
}

// invocation is one event in one process.
type invocation struct {
	event
	id        string
	fn        *function
	process   *process
	rotations []rotation.Rotation // one
	mishaps   mishaps
	began     time.Time
	cancel    context.CancelFunc

	met      sync.Map  // what once has recorded
	versions int       // made by it; guarded by simulation.mu
	saved    string    // the last of them
	savedAt  time.Time // when
	puts     int       // of a bootstrap key by it; guarded by simulation.mu
}

// invoke starts an event's run in a warm process if one is idle, else in a new one.
func (fn *function) invoke(e event) {
	fn.mu.Lock()
	defer fn.mu.Unlock()
	fn.serial++
	inv := &invocation{event: e, id: fmt.Sprintf("%s %s %d", fn.name, e.RunID, fn.serial), fn: fn, began: time.Now(), rotations: []rotation.Rotation{fn.rotation}}
	if fn.mirrors != nil {
		inv.rotations[0].Mirror = fn.mirrors
	}
	d := newDice(fn.seed, inv.id)
	inv.mishaps = fn.drawMishaps(d, e)
	if fn.keys != nil {
		fn.killAtRenewal(d, &inv.mishaps)
	}
	var boot time.Duration
	if inv.process = fn.warm(); inv.process == nil || inv.mishaps.cold {
		inv.process = fn.newProcess(fmt.Sprintf("%s %d", fn.name, fn.serial), d)
		boot = d.between(150*time.Millisecond, 900*time.Millisecond)
	}
	if inv.process.renewer != nil {
		inv.rotations[0] = inv.process.rotation
	}
	fn.underWay[inv] = true
	ctx, cancel := context.WithCancel(context.Background())
	inv.cancel = cancel
	fn.running.Go(func() {
		defer cancel()
		time.Sleep(boot)
		fn.run(ctx, inv)
	})
}

// run plays an invocation from its beginning to its end.
func (fn *function) run(ctx context.Context, inv *invocation) {
	inv.process.line.begin(inv)
	if inv.mishaps.killAfter > 0 {
		defer time.AfterFunc(inv.mishaps.killAfter, inv.die).Stop()
	}
	ran, reported := inv.process.run(ctx, inv)
	fn.mu.Lock()
	delete(fn.underWay, inv)
	alive := !inv.process.line.dead.Load()
	if alive && reported && inv.process.deploy == fn.deploys {
		inv.process.idleSince = time.Now()
		fn.idle = append(fn.idle, inv.process)
	}
	fn.mu.Unlock()
	if !alive || !reported {
		fn.crashed(inv)
		return
	}
	fn.ended(inv, ran)
}

// warm takes the process that was used last and has not been reclaimed; nil if there is none.
func (fn *function) warm() *process {
	for len(fn.idle) > 0 {
		last := fn.idle[len(fn.idle)-1]
		fn.idle = fn.idle[:len(fn.idle)-1]
		if now := time.Now(); now.Sub(last.idleSince) < last.patience && now.Before(last.retires) {
			return last
		}
	}
	return nil
}

func (fn *function) hasRoom() bool {
	fn.mu.Lock()
	defer fn.mu.Unlock()
	return len(fn.underWay) < fn.concurrency
}

// deploy makes every later invocation start a new process.
func (fn *function) deploy(kill bool) {
	fn.mu.Lock()
	defer fn.mu.Unlock()
	fn.deploys++
	fn.idle = nil
	for inv := range fn.underWay {
		if kill {
			inv.die()
		}
	}
}

// die kills the process: its requests are cut off, and it reports nothing.
func (inv *invocation) die() {
	inv.process.line.dead.Store(true)
	inv.cancel()
}

// once records that something has happened, and reports whether it is the first time.
func (inv *invocation) once(what string) bool {
	_, before := inv.met.LoadOrStore(what, true)
	return !before
}

// did reports whether something has happened.
func (inv *invocation) did(what string) bool {
	_, before := inv.met.Load(what)
	return before
}

// process is a process of the function. It does what functions/rotate does with the environment that the template sets.
type process struct {
	line    *line
	rotator rotation.Rotator
	// Where the keys are managed:
	watch     *keyrenewal.Watch
	renewer   *keyrenewal.Renewer
	rotation  rotation.Rotation
	renewed   string // the id of the key of its last renewal; guarded by simulation.mu
	renewedAt time.Time

	emitter metrics.Emitter
	lag     atomic.Int64 // how far its clock is behind while it is frozen

	deploy    int
	idleSince time.Time
	patience  time.Duration // how long Lambda keeps it idle
	retires   time.Time     // when Lambda replaces it in any case
}

func (fn *function) newProcess(name string, d dice) *process {
	sim := fn.simulation
	p := &process{
		line:     &line{simulation: sim, calls: &sim.calls, saved: sim.published},
		deploy:   fn.deploys,
		patience: d.between(5*time.Minute, time.Hour),
		retires:  time.Now().Add(d.between(time.Hour, 4*time.Hour)),
	}
	now := func() time.Time { return time.Now().Add(time.Duration(sim.clockOff.Load() - p.lag.Load())) }
	iam := ibmcloud.NewIAM("https://iam.test", p.line, now)
	source := func(context.Context) (iamtoken.Secret, error) { return iamtoken.NewSecret(sim.bootstrapKey()), nil }
	bootstrap, metricLines := ibmcloud.BootstrapByKey(iam, source), io.Writer(sim.alarms)
	if sim.keys != nil {
		bootstrap = p.manageKeys(sim, iam, now)
		metricLines = io.MultiWriter(sim.alarms, sim.keys.alarms[fn])
	}
	secretsManager := newSecretsManager(p.line, bootstrap, now)
	if sim.keys != nil {
		p.renewer.Managed, p.watch = secretsManager, &keyrenewal.Watch{Keys: secretsManager, IAM: iam, Now: now}
	}
	jitter := newDice(sim.seed, "jitter "+name)
	p.rotator = rotation.Rotator{
		Keys: secretsManager, IAM: iam, Tokens: secretsManager, Mirrors: mirrorLine{p.line, now}, Refusals: &rotation.Refusals{},
		MinRemaining: sim.minRemaining, Interval: rotateEvery, Concurrency: 16, Version: "simulated", Now: now, Random: jitter.Float64,
	}
	p.emitter = metrics.Emitter{
		Writer: metricLines, Namespace: "IAMTokenRotator", FunctionName: fn.name, Rotations: []string{sim.rotation.Name}, Now: now,
	}
	return p
}

func newSecretsManager(l *line, bootstrap *ibmcloud.Bootstrap, now func() time.Time) *ibmcloud.SecretsManager {
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: "https://instance.test", Bootstrap: bootstrap, Transport: l, MaxRPS: 15, Now: now,
	})
	if err != nil {
		panic(err)
	}
	return secretsManager
}

// run runs an invocation. A process that was frozen beyond its deadline reports nothing: Lambda has given it up.
func (p *process) run(ctx context.Context, inv *invocation) (ran report.Report, reported bool) {
	if inv.mishaps.freezeFor > 0 {
		return p.runFrozen(ctx, inv)
	}
	ctx, cancel := context.WithTimeout(ctx, functionTimeout)
	defer cancel()
	if p.renewer != nil {
		return p.runWithKeys(ctx, inv), true
	}
	return p.rotator.Run(ctx, inv.Request, inv.rotations), true
}

// runFrozen freezes the process at a step and thaws it later: the wall clock has gone on, its timers have not. The run is played
// twice. The first one ends at the step; its answers from IBM are kept. The second one, after the thaw, gets these answers up to the
// step, and real ones from there on.
func (p *process) runFrozen(ctx context.Context, inv *invocation) (report.Report, bool) {
	rehearsal, cancel := context.WithTimeout(ctx, functionTimeout)
	s := &suspension{KeyReader: p.rotator.Keys, Exchanger: p.rotator.IAM, TokenStore: p.rotator.Tokens, freezeAt: inv.mishaps.freezeAt, freeze: cancel,
		thaw: func() { p.lag.Store(0) }, kept: map[rotation.Step]any{}}
	rotator := p.rotator
	rotator.Keys, rotator.IAM, rotator.Tokens = s, s, s
	ran := rotator.Run(rehearsal, inv.Request, inv.rotations)
	cancel()
	if !s.frozen {
		return ran, true
	}
	time.Sleep(inv.mishaps.freezeFor)
	p.lag.Store(int64(inv.mishaps.freezeFor))
	s.replaying = true
	late, cancel := context.WithTimeout(ctx, functionTimeout)
	defer cancel()
	ran = rotator.Run(late, inv.Request, inv.rotations)
	p.lag.Store(0)
	return ran, time.Since(inv.began) < functionTimeout
}

// suspension is between the rotator and its adapters in a process that is frozen at a step. Before the freeze it keeps the adapters'
// answers; after the thaw it repeats each of them once. It passes on all else.
type suspension struct {
	rotation.KeyReader
	rotation.Exchanger
	rotation.TokenStore

	freezeAt rotation.Step
	freeze   func() // ends the run before the freeze
	thaw     func() // sets the process's clock right

	mu        sync.Mutex
	frozen    bool
	replaying bool
	kept      map[rotation.Step]any
}

func (s *suspension) ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.TokenVersion, error) {
	return pass(s, rotation.StepReadMetadata, func() (rotation.TokenVersion, error) { return s.TokenStore.ReadMetadata(ctx, ref) })
}

func (s *suspension) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	return pass(s, rotation.StepReadKey, func() (iamtoken.Secret, error) { return s.KeyReader.ReadKey(ctx, ref) })
}

func (s *suspension) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	return pass(s, rotation.StepExchange, func() (rotation.TokenResponse, error) { return s.Exchanger.Exchange(ctx, key) })
}

// Save freezes before the request is sent.
func (s *suspension) Save(ctx context.Context, ref rotation.TokenRef, stored rotation.TokenVersion, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	if s.stop(rotation.StepSave, nil) {
		return rotation.SavedVersion{}, suspended()
	}
	return s.TokenStore.Save(ctx, ref, stored, token, metadata)
}

// pass makes one call before the freeze and keeps its result, and repeats the result after the thaw.
func pass[T any](s *suspension, step rotation.Step, call func() (T, error)) (T, error) {
	if kept, ok := s.repeat(step); ok {
		return kept.(T), nil
	}
	result, err := call()
	if err == nil && s.stop(step, result) {
		err = suspended()
	}
	return result, err
}

// repeat returns what was kept, once, after the thaw.
func (s *suspension) repeat(step rotation.Step) (kept any, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.replaying {
		return nil, false
	}
	if kept, ok = s.kept[step]; !ok || step == s.freezeAt {
		s.thaw()
	}
	delete(s.kept, step)
	return kept, ok
}

// stop keeps a result, freezes the process if this is the step, and reports whether it is frozen.
func (s *suspension) stop(step rotation.Step, result any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.replaying:
		s.thaw()
		return false
	case s.frozen:
		return true
	}
	s.kept[step] = result
	if s.frozen = step == s.freezeAt; s.frozen {
		s.freeze()
	}
	return s.frozen
}

func suspended() error { return &rotation.Error{Kind: rotation.Timeout, Message: "suspended"} }

// mishaps are what will happen to an invocation.
type mishaps struct {
	kill      moment        // the process is killed then
	killAfter time.Duration // or so long after its start; 0 means not
	freezeAt  rotation.Step // after which step it is frozen (before a save goes out)
	freezeFor time.Duration // 0 means not
	stale     bool          // the first connection to each host is stale
	cold      bool          // no warm process is left
}

// moment is before or after the nth request of a kind.
type moment struct {
	op    string
	nth   int
	after bool
}

func (sim *simulation) drawMishaps(d dice, e event) mishaps {
	var f mishaps
	if d.chance(sim.danger(kill)) {
		if d.chance(0.5) {
			f.kill = moment{pick(d, opBootstrap, opLook, opReadKey, opExchange, opSave, opPut(healthyMirror)), pick(d, 1, 1, 1, 2), d.chance(0.5)}
		} else {
			f.killAfter = d.anyScale(10*time.Millisecond, 110*time.Second)
		}
	}
	frozen := sim.danger(freeze)
	if e.Mode == rotation.ModeRotate {
		frozen = min(1, 3*frozen) // most ensure runs end after they have read the metadata
	}
	if d.chance(frozen) {
		f.freezeAt = pick(d, rotation.StepReadMetadata, rotation.StepReadKey, rotation.StepExchange, rotation.StepSave, rotation.StepSave)
		f.freezeFor = d.anyScale(time.Second, 70*time.Minute)
		sim.note(e.scheduled)
		f.cold = true // so that no other invocation uses its clock
	}
	if f.stale = d.chance(sim.danger(stale)); f.stale {
		sim.note(e.scheduled)
	}
	f.cold = d.chance(sim.danger(cold)) || f.cold
	return f
}

const (
	rotateEvery = 50 * time.Minute
	ensureEvery = time.Minute
	// lateness is how late EventBridge Scheduler may be.
	lateness = time.Minute
	// maxEventAge is how long EventBridge Scheduler and Lambda's queue try to deliver an event.
	maxEventAge = 2 * time.Minute
)

// event is what a schedule sends.
type event struct {
	rotation.Request
	scheduled time.Time
}

func newEvent(mode rotation.Mode, at time.Time) event {
	return event{rotation.Request{Mode: mode, RunID: string(mode) + "-" + at.UTC().Format(time.RFC3339)}, at}
}

// startSchedules begins the two schedules of a stack; they end at until.
func (fn *function) startSchedules(first, until time.Time) {
	fn.startSchedule(rotation.ModeRotate, rotateEvery, first, until)
	fn.startSchedule(rotation.ModeEnsure, ensureEvery, first, until)
}

func (fn *function) startSchedule(mode rotation.Mode, period time.Duration, first, until time.Time) {
	name := fn.name
	if fn.inStep {
		name = ""
	}
	d := newDice(fn.seed, name+string(mode)+first.String())
	fn.agenda.every(period, first, until, func(at time.Time) { fn.emit(d, newEvent(mode, at)) })
}

// emit delivers an event as EventBridge Scheduler does: late, at least once, perhaps several times; or not at all after two minutes
// of attempts.
func (fn *function) emit(d dice, e event) {
	if fn.gone {
		return
	}
	due := e.scheduled.Add(d.between(0, lateness))
	if d.chance(fn.danger(disorder)) {
		due = e.scheduled.Add(d.between(0, maxEventAge-time.Second))
		fn.note(due)
	}
	if d.chance(fn.danger(lose)) {
		fn.lostRun(due)
		return
	}
	fn.agenda.at(due, func() { fn.deliver(e, due, time.Second) })
	for more := 0; more < 3 && d.chance(fn.danger(duplicate)); more++ {
		fn.note(due)
		fn.agenda.at(due.Add(d.between(0, 90*time.Second)), func() { fn.deliver(e, due, time.Second) })
	}
}

// deliver invokes the function. While that is throttled, Lambda's queue tries again with a growing back-off, until the event is too
// old.
func (fn *function) deliver(e event, since time.Time, wait time.Duration) {
	if fn.gone {
		return
	}
	if fn.danger(throttled) == 0 && fn.hasRoom() {
		fn.invoke(e)
		return
	}
	fn.alarms.note("Throttles", time.Now(), lambdaDelay, 1)
	fn.counts.throttles++
	again := time.Now().Add(wait)
	if again.Sub(since) > maxEventAge {
		fn.lostRun(since)
		return
	}
	fn.agenda.at(again, func() { fn.deliver(e, since, 2*wait) })
}
