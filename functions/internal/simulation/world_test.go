package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/keyrenewal"
	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// world is one story: a cloud, the deployed function, the naive way, a reader.
type world struct {
	setting
	seed       uint64
	name       string // of the story, for throws
	start, end time.Time
	cloud      *ibmcloudtest.Cloud
	agenda     agenda
	running    sync.WaitGroup

	workload    string // the iam id whose token is published
	workloadKey string
	mintKey     string // another key of the workload, for tokens that are not asked for
	bootstrapID string // the iam id that opens Secrets Manager
	keySecret   string
	tokenSecret string
	naiveSecret string
	rotation    rotation.Rotation

	story     []window
	weather   weather
	dangers   dangers // of the faults of the moment
	everyday  dangers
	inStep    bool // a second deployment runs ensure at the very moments of the first
	clockOff  atomic.Int64
	functions []*function // the second one is idle but for "two deployments", and for the ensure schedule of a second region
	naive     *naive
	reader    *reader
	alarms    *alarms
	counts    *counts
	onReport  func(*invocation, report.Report) // nil for none
	mirrors   *mirrors
	keys      *keys // nil where the keys are fixed

	mu            sync.Mutex // guards everything below
	bootstrapKeys []string   // the last is the one in force
	tokens        timeline
	naiveTokens   timeline
	cached        []cached    // of each of the caches
	publisher     *invocation // of the current version; nil when nobody's
	lastTampered  time.Time
	tampered      time.Time // when the current version's metadata was changed; zero if it is true
	lifetimeSet   time.Time
	lost          []time.Time // when a run was not delivered, or did not end
	noted         []time.Time // other everyday mishaps
	margins       []margin
	troubles      []trouble
	shortened     []published // tokens that replaced better ones whose metadata was not true
	violations    []string
}

func newWorld(seed uint64, days int, expectSet bool) *world {
	w := &world{
		setting: standard, seed: seed, name: fmt.Sprint("story ", seed), start: time.Now(), end: time.Now().Add(time.Duration(days) * 24 * time.Hour),
		cloud:    ibmcloudtest.New(ibmcloudtest.Options{Rotations: 2, RequestLog: -1}),
		everyday: everyday, dangers: dangers{}, counts: &counts{calls: map[bool]int{}},
		alarms: &alarms{now: time.Now, fired: map[string][]span{}},
	}
	first := w.cloud.Rotations()[0]
	w.workload, w.workloadKey, w.keySecret, w.tokenSecret = first.IAMID, first.APIKey, first.APIKeySecret, first.TokenSecret
	w.naiveSecret = w.cloud.Rotations()[1].TokenSecret
	w.mintKey = w.cloud.MustCreateAPIKey(w.workload)
	w.bootstrapKeys = []string{w.cloud.BootstrapAPIKey()}
	w.bootstrapID, _, _ = w.cloud.Validate(w.cloud.MustMintToken(w.cloud.BootstrapAPIKey(), time.Hour))
	w.rotation = rotation.Rotation{
		Name: "default", APIKey: rotation.KeyRef{ID: w.keySecret}, Token: rotation.TokenRef{ID: w.tokenSecret, Format: iamtoken.Raw},
	}
	if expectSet {
		w.rotation.Expect = rotation.Expect{Account: w.cloud.AccountID(), IAMID: w.workload}
	}
	w.rotation.Mirror, w.mirrors = mirrorARNs, newMirrors(w)
	for _, name := range []string{"iam-token-rotator", "iam-token-rotator-2"} {
		w.functions = append(w.functions, &function{w: w, name: name, concurrency: 10, running: map[*invocation]bool{}})
	}
	w.naive, w.reader = newNaive(w), &reader{w: w}
	return w
}

// play runs the story to its end.
func (w *world) play(story []window) {
	w.story = story
	w.functions[0].invoke(event{mode: rotation.ModeRotate, runID: "first-rotate", scheduled: w.start}) // as make deploy does
	w.running.Wait()
	w.naive.run(naiveFate{patience: time.Minute})
	w.functions[0].startSchedules(time.Now(), w.end)
	if w.inStep {
		w.functions[1].startSchedule(rotation.ModeEnsure, ensureEvery, time.Now(), w.end)
	}
	w.naive.schedule(time.Now().Add(rotateEvery))
	w.agenda.every(w.start.Add(10*time.Minute).Truncate(time.Minute), time.Minute, func(at time.Time) bool {
		w.alarms.evaluate(at)
		return true
	})
	w.schedule(story)
	w.reader.schedule()
	w.agenda.work(w.end)
	w.running.Wait()
	w.tokens.close(w.end)
	w.naiveTokens.close(w.end)
}

func (w *world) now() time.Time { return time.Now() }

func (w *world) tokenSecrets() []string { return []string{w.tokenSecret, w.naiveSecret} }

// violated notes a broken invariant. w.mu is held.
func (w *world) violated(at time.Time, format string, args ...any) {
	w.violations = append(w.violations, fmt.Sprintf("day %.4f (%s): %s", at.Sub(w.start).Hours()/24, w.faultsAt(at), fmt.Sprintf(format, args...)))
}

// faultsAt names what was wrong at a moment or shortly before.
func (w *world) faultsAt(at time.Time) string {
	names := "no faults"
	for _, f := range w.story {
		if !f.from.After(at) && f.to.Add(5*time.Minute).After(at) {
			if names == "no faults" {
				names = ""
			}
			names += fmt.Sprintf("[%s, %s since its start, of %s]", f.name, at.Sub(f.from).Round(time.Second), f.to.Sub(f.from).Round(time.Second))
		}
	}
	return names
}

// host are the faults of Lambda: what happens to processes. Since a process that
// dies or freezes takes one run with it, that run counts as lost (see lostRun).
func host() []kind {
	return []kind{
		{name: "processes killed at any step", span: minutes(2, 60), begin: raise(kill, 0.5)},
		{name: "processes frozen in mid-pass", span: minutes(10, 120), begin: raise(freeze, 0.3)},
		{name: "stale connections after a thaw", span: minutes(10, 180), begin: raise(stale, 1)},
		{name: "cold processes only", span: minutes(10, 180), begin: raise(cold, 1)},
		{name: "a deploy in the middle of a run", span: instant, begin: deploy},
		{name: twoDeployments, span: minutes(60, 1440), begin: secondCopy},
	}
}

const twoDeployments = "two deployments of the function"

// twoRegions deploys the function in a second region, with the schedule of ensure alone. Each
// deployment writes the mirror of its own region.
func (w *world) twoRegions(from, to time.Time) {
	w.agenda.at(from, func() {
		for i, fn := range w.functions {
			fn.mirrors = mirrorARNs[i : i+1]
		}
		w.functions[1].startSchedule(rotation.ModeEnsure, ensureEvery, from, to)
	})
	w.agenda.at(to, func() { w.functions[0].mirrors = nil })
}

// regions are the loss of one of two AWS regions for three hours, with its deployment and its
// mirror. Nothing excuses a gap but that of this mirror.
func regions() (all []kind) {
	for i, name := range []string{regionLost, "a region dead: ensure alone, and its mirror"} {
		all = append(all, kind{name: name, mirror: mirrorARNs[i], region: true, apart: []string{twoDeployments, regionLost},
			span: func(dice) time.Duration { return 3 * time.Hour },
			begin: func(w *world, d dice, _ time.Time) func() {
				fn := w.functions[i]
				fn.lost = true
				fn.deploy(true)
				returns := w.mirrors.of[mirrorARNs[i]].fail(pick(d, unanswered, refuse(rotation.Unavailable, rotation.Later, true)))
				return func() {
					fn.lost = false
					returns()
				}
			}})
	}
	return all
}

const regionLost = "a region dead: both schedules, and its mirror"

// dangers are how likely an invocation meets what.
type dangers map[string]float64

const kill, freeze, stale, cold, duplicate, disorder, lose, throttled = "kill", "freeze", "stale", "cold", "duplicate", "disorder", "lose", "throttled"

// everyday are the dangers of any day; now and then they are greater.
var everyday = dangers{kill: 0.0002, freeze: 0.0001, stale: 0.005, cold: 0.001, duplicate: 0.001, disorder: 0.0005, lose: 0.0002}

// raise keeps a danger up as long as the fault lasts.
func raise(what string, to float64) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		w.dangers[what] = to
		return func() { w.dangers[what] = 0 }
	}
}

// deploy replaces the code: the next run gets a new process. A run under way
// finishes or is killed.
func deploy(w *world, d dice, _ time.Time) func() {
	for _, fn := range w.functions {
		fn.deploy(d.chance(0.5))
	}
	return nothing
}

// secondCopy runs a second stack, with its own schedules: at the same seconds
// or at others.
func secondCopy(w *world, d dice, until time.Time) func() {
	offset := pick(d, 0, d.between(0, time.Minute))
	w.functions[1].startSchedules(w.now().Add(offset), until)
	return nothing
}

// delivery are the faults of EventBridge Scheduler and of Lambda's queue.
func delivery() []kind {
	return []kind{
		{name: "events delivered twice and more", span: minutes(10, 360), begin: raise(duplicate, 0.5)},
		{name: "events out of order", span: minutes(10, 360), begin: raise(disorder, 1)},
		{name: "half of the events dropped at their maximum age", span: minutes(2, 60), begin: raise(lose, 0.5)},
		{name: "no events delivered", excuse: nextEnsure, span: upTo3h, begin: raise(lose, 1)},
		{name: "the function throttled", excuse: nextEnsure, span: upTo3h, begin: raise(throttled, 1)},
	}
}

// functionTimeout is the deadline that Lambda gives an invocation.
const functionTimeout = 120 * time.Second

// function is a deployment of the function: its processes.
type function struct {
	w           *world
	name        string
	mirrors     []string // that it writes, if not all
	concurrency int      // invocations at a time
	lost        bool     // with its region

	mu      sync.Mutex
	serial  int
	deploys int
	idle    []*process
	running map[*invocation]bool
}

// invocation is one event in one process.
type invocation struct {
	event
	id       string
	fn       *function
	process  *process
	rotation rotation.Rotation
	fate     fate
	began    time.Time
	cancel   context.CancelFunc

	mu       sync.Mutex
	met      map[string]bool
	versions int       // made by it; guarded by world.mu
	saved    string    // the last of them
	savedAt  time.Time // when
	puts     int       // of a bootstrap key by it; guarded by world.mu
}

// invoke starts an event's run in a warm process if one is idle, else in a new one.
func (fn *function) invoke(e event) {
	fn.mu.Lock()
	defer fn.mu.Unlock()
	fn.serial++
	inv := &invocation{event: e, id: fmt.Sprintf("%s %s %d", fn.name, e.runID, fn.serial), fn: fn, began: fn.w.now(), met: map[string]bool{}, rotation: fn.w.rotation}
	if inv.rotation.Mirror != nil && fn.mirrors != nil {
		inv.rotation.Mirror = fn.mirrors
	}
	d := newDice(fn.w.seed, inv.id)
	inv.fate = fn.w.drawFate(d, e)
	if fn.w.keys != nil {
		fn.w.killAtRenewal(d, &inv.fate)
	}
	var boot time.Duration
	if inv.process = fn.warm(); inv.process == nil || inv.fate.cold {
		inv.process = fn.w.newProcess(fn, fmt.Sprintf("%s %d", fn.name, fn.serial), d)
		boot = d.between(150*time.Millisecond, 900*time.Millisecond)
	}
	fn.running[inv] = true
	ctx, cancel := context.WithCancel(context.Background())
	inv.cancel = cancel
	fn.w.running.Go(func() {
		defer cancel()
		time.Sleep(boot)
		fn.run(ctx, inv)
	})
}

// run plays an invocation from its first to its last moment.
func (fn *function) run(ctx context.Context, inv *invocation) {
	inv.process.line.begin(inv)
	if inv.fate.killAfter > 0 {
		defer time.AfterFunc(inv.fate.killAfter, inv.die).Stop()
	}
	ran, reported := inv.process.run(ctx, inv)
	fn.mu.Lock()
	delete(fn.running, inv)
	alive := !inv.process.isDead()
	if alive && reported && inv.process.deploy == fn.deploys {
		inv.process.idleSince = fn.w.now()
		fn.idle = append(fn.idle, inv.process)
	}
	fn.mu.Unlock()
	if !alive || !reported {
		fn.w.crashed(inv)
		return
	}
	fn.w.ended(inv, ran)
}

// warm takes the process that was used last, if it has not been reclaimed.
func (fn *function) warm() *process {
	for len(fn.idle) > 0 {
		last := fn.idle[len(fn.idle)-1]
		fn.idle = fn.idle[:len(fn.idle)-1]
		if now := fn.w.now(); now.Sub(last.idleSince) < last.patience && now.Before(last.retires) {
			return last
		}
	}
	return nil
}

func (fn *function) hasRoom() bool {
	fn.mu.Lock()
	defer fn.mu.Unlock()
	return len(fn.running) < fn.concurrency
}

// deploy makes every later invocation start a new process.
func (fn *function) deploy(kill bool) {
	fn.mu.Lock()
	fn.deploys++
	fn.idle = nil
	var under []*invocation
	for inv := range fn.running {
		under = append(under, inv)
	}
	fn.mu.Unlock()
	for _, inv := range under {
		if kill {
			inv.die()
		}
	}
}

// die ends the process: whatever it has under way is cut off and reports nothing.
func (inv *invocation) die() {
	inv.process.line.die()
	inv.cancel()
}

// once is true the first time it is asked for what.
func (inv *invocation) once(what string) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	first := !inv.met[what]
	inv.met[what] = true
	return first
}

func (inv *invocation) did(what string) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.met[what]
}

func (inv *invocation) request() rotation.Request {
	return rotation.Request{Mode: inv.mode, RunID: inv.runID}
}

// process is a process of the function, warm or cold: it does what
// functions/rotate does with the environment that the template gives it.
type process struct {
	line    *line
	rotator rotation.Rotator
	// Where the keys are managed:
	rotation  rotation.Rotation
	watch     *keyrenewal.Watch
	renewer   *keyrenewal.Renewer
	renewed   string // the id of the key of its last renewal; guarded by world.mu
	renewedAt time.Time

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
	bootstrap, metricLines := ibmcloud.BootstrapByKey(iam, source), io.Writer(w.alarms)
	if w.keys != nil {
		bootstrap = p.manageKeys(w, iam, now)
		metricLines = io.MultiWriter(w.alarms, w.keys.alarms[fn])
	}
	secretsManager := newSecretsManager(p.line, bootstrap, now)
	if w.keys != nil {
		p.renewer.Managed, p.watch = secretsManager, &keyrenewal.Watch{Keys: secretsManager, IAM: iam, Now: now}
	}
	jitter := newDice(w.seed, "jitter "+name)
	p.rotator = rotation.Rotator{
		Keys: secretsManager, IAM: iam, Tokens: secretsManager, Mirrors: mirrorLine{p.line, now}, Refusals: &rotation.Refusals{},
		MinRemaining: w.minRemaining, Interval: rotateEvery, Concurrency: 16, Version: "simulated", Now: now, Random: jitter.Float64,
	}
	p.emitter = metrics.Emitter{
		Writer: metricLines, Namespace: "IAMTokenRotator", FunctionName: fn.name, Rotations: []string{w.rotation.Name}, Now: now,
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

func (p *process) isDead() bool {
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	return p.line.dead
}

// run runs an invocation. It reports nothing when it was frozen beyond its
// deadline: Lambda had given it up.
func (p *process) run(ctx context.Context, inv *invocation) (ran report.Report, reported bool) {
	if inv.fate.freezeFor > 0 {
		return p.runFrozen(ctx, inv)
	}
	ctx, cancel := context.WithTimeout(ctx, functionTimeout)
	defer cancel()
	if p.renewer != nil {
		return p.runWithKeys(ctx, inv), true
	}
	return p.rotator.Run(ctx, inv.request(), []rotation.Rotation{inv.rotation}), true
}

// runFrozen stops the process at a step and lets it go on later, its wall clock
// ahead and its timers where they were: what it had got until then is got for
// real at the time, kept, and given to it once more when it thaws.
func (p *process) runFrozen(ctx context.Context, inv *invocation) (report.Report, bool) {
	rehearsal, cancel := context.WithTimeout(ctx, functionTimeout)
	s := &suspension{KeyReader: p.rotator.Keys, Exchanger: p.rotator.IAM, TokenStore: p.rotator.Tokens, at: inv.fate.freezeAt, freeze: cancel,
		thaw: func() { p.lag.Store(0) }}
	rotator := p.rotator
	rotator.Keys, rotator.IAM, rotator.Tokens = s, s, s
	ran := rotator.Run(rehearsal, inv.request(), []rotation.Rotation{inv.rotation})
	cancel()
	if !s.frozen {
		return ran, true
	}
	time.Sleep(inv.fate.freezeFor)
	p.lag.Store(int64(inv.fate.freezeFor))
	s.replaying = true
	late, cancel := context.WithTimeout(ctx, functionTimeout)
	defer cancel()
	ran = rotator.Run(late, inv.request(), []rotation.Rotation{inv.rotation})
	p.lag.Store(0)
	return ran, p.line.w.now().Sub(inv.began) < functionTimeout
}

// suspension stands between a rotator and its adapters in a process that is
// frozen at a step. Before, it keeps what the adapters give; after the thaw it
// gives that once more and then lets the rotator go on. What is no step of a pass goes to the
// adapters themselves.
type suspension struct {
	rotation.KeyReader
	rotation.Exchanger
	rotation.TokenStore

	at     rotation.Step
	freeze func() // ends the part before
	thaw   func() // sets the process's clock right

	mu        sync.Mutex
	frozen    bool
	replaying bool
	stored    *rotation.CurrentVersion
	key       *iamtoken.Secret
	exchanged *rotation.TokenResponse
}

func (s *suspension) ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.CurrentVersion, error) {
	return pass(s, rotation.StepLook, &s.stored, func() (rotation.CurrentVersion, error) { return s.TokenStore.ReadMetadata(ctx, ref) })
}

func (s *suspension) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	return pass(s, rotation.StepReadKey, &s.key, func() (iamtoken.Secret, error) { return s.KeyReader.ReadKey(ctx, ref) })
}

func (s *suspension) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	return pass(s, rotation.StepExchange, &s.exchanged, func() (rotation.TokenResponse, error) { return s.Exchanger.Exchange(ctx, key) })
}

// Save freezes before anything goes out: the rotator has made up its mind.
func (s *suspension) Save(ctx context.Context, ref rotation.TokenRef, stored rotation.CurrentVersion, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	if s.stop(rotation.StepSave) {
		return rotation.SavedVersion{}, suspended()
	}
	return s.TokenStore.Save(ctx, ref, stored, token, metadata)
}

// pass is one call: kept before the freeze, repeated after it.
func pass[T any](s *suspension, step rotation.Step, kept **T, call func() (T, error)) (T, error) {
	s.mu.Lock()
	again := *kept
	if s.replaying && again != nil {
		*kept = nil
		if step == s.at {
			s.thaw()
		}
		s.mu.Unlock()
		return *again, nil
	}
	s.mu.Unlock()
	if s.replaying {
		s.thaw()
	}
	result, err := call()
	if err != nil {
		return result, err
	}
	s.mu.Lock()
	if !s.replaying && !s.frozen {
		*kept = &result
	}
	s.mu.Unlock()
	if s.stop(step) {
		return result, suspended()
	}
	return result, nil
}

// stop freezes if this is the step, and reports whether the process stands still.
// After the thaw it never does.
func (s *suspension) stop(step rotation.Step) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replaying {
		s.thaw()
		return false
	}
	if step == s.at && !s.frozen {
		s.frozen = true
		s.freeze()
	}
	return s.frozen
}

func suspended() error { return &rotation.Error{Kind: rotation.Timeout, Message: "suspended"} }

// The requests that a pass makes, as faults name them.
const (
	opBootstrap = "bootstrap" // IAM: the bootstrap identity's token
	opLook      = "look"      // Secrets Manager: the token's metadata
	opReadKey   = "read_key"  // Secrets Manager: the API key
	opExchange  = "exchange"  // IAM: the workload's token
	opSave      = "save"      // Secrets Manager: a new version
	opKeys      = "keys"      // IAM: the public keys that verify tokens
)

// line is the way from one process to IBM Cloud.
type line struct {
	w    *world
	ours bool // the rotator's; else the naive way's

	mu    sync.Mutex
	inv   *invocation
	count map[string]int // requests of the invocation, by kind
	dead  bool           // the process was killed
}

var errKilled = errors.New("the process was killed")

// begin starts an invocation.
func (l *line) begin(inv *invocation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inv, l.count = inv, map[string]int{}
}

// RoundTrip implements http.RoundTripper.
func (l *line) RoundTrip(req *http.Request) (*http.Response, error) {
	op := l.operation(req)
	l.mu.Lock()
	inv := l.inv
	if l.w.keys != nil {
		op = l.w.renewalOp(op, inv, req)
	}
	l.count[op]++
	nth := l.count[op]
	l.mu.Unlock()
	throw := hash(l.w.name, inv.id, op, fmt.Sprint(nth))
	here := moment{op: op, nth: nth}
	if l.fates(inv, here) {
		return nil, errKilled
	}
	if err := pause(req.Context(), latency(throw)); err != nil {
		return nil, err
	}
	if inv.fate.stale && inv.once(req.URL.Host) {
		return nil, reset()
	}
	response, err := l.w.weather.answer(op, throw, req, func(req *http.Request) (*http.Response, error) {
		return l.reach(op, inv, req)
	})
	here.after = true
	if l.fates(inv, here) {
		return nil, errKilled
	}
	return response, err
}

// reach is where the request arrives at IBM Cloud.
func (l *line) reach(op string, inv *invocation, req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if op == opManaged {
		inv.once(op)
	}
	response, err := l.w.cloud.Transport().RoundTrip(req)
	l.w.counts.call(l.ours)
	if err == nil {
		inv.tried(op, response.StatusCode)
	}
	if err == nil && op == opSave && response.StatusCode == http.StatusCreated {
		if l.ours {
			l.w.published(inv)
		} else {
			l.w.naivePublished()
		}
	}
	return response, err
}

// fates kills the process if this is the moment, and reports whether it is dead.
func (l *line) fates(inv *invocation, here moment) bool {
	if inv.fate.kill == here {
		inv.die()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *line) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

// operation is what a request is for; of an IAM request, by its key, for whom.
func (l *line) operation(req *http.Request) string {
	switch {
	case req.URL.Host == "iam.test" && req.Method == http.MethodGet:
		return opKeys
	case req.URL.Host == "iam.test":
		form, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(form))
		if l.w.isBootstrap(form) {
			return opBootstrap
		}
		return opExchange
	case req.Method == http.MethodPost:
		return opSave
	case strings.HasSuffix(req.URL.Path, "/metadata"):
		return opLook
	default:
		return opReadKey
	}
}

// latency is 20 to 320 ms, mostly little.
func latency(throw uint64) time.Duration {
	s := share(throw)
	return 20*time.Millisecond + time.Duration(s*s*float64(300*time.Millisecond))
}

// pause waits for d, or less when the caller gives up.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func reset() error {
	return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
}
