package simulation

import (
	"cmp"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/mirrortest"
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
	weather   inForce[storm]
	dangers   dangers // of the faults of the moment
	everyday  dangers
	inStep    bool // a second deployment runs ensure at the very moments of the first
	clockOff  atomic.Int64
	functions []*function // the second one is idle but for "two deployments", and for the ensure schedule of a second region
	naive     *naive
	reader    *reader
	alarms    *alarms
	calls     atomic.Int64                     // of the rotator
	onReport  func(*invocation, report.Report) // nil for none
	aws       mirrortest.AWS
	mirrors   map[string]*mirror // by their ARNs
	keys      *keys              // nil where the keys are fixed

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
	counts        counts
	violations    []string
}

func newWorld(s setting, seed uint64, days int, expectSet bool) *world {
	w := &world{
		setting: s, seed: seed, name: fmt.Sprint("story ", seed), start: time.Now(), end: time.Now().Add(time.Duration(days) * 24 * time.Hour),
		cloud:    ibmcloudtest.New(ibmcloudtest.Options{Rotations: 2, RequestLog: -1}),
		everyday: everyday, dangers: dangers{}, alarms: &alarms{metrics: map[string]series{}, fired: map[string][]span{}},
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
	w.rotation.Mirror, w.mirrors = mirrorARNs, map[string]*mirror{}
	for _, arn := range mirrorARNs {
		w.mirrors[arn] = &mirror{world: w, arn: arn}
		w.aws.Current(arn)
	}
	w.aws.OnPut = func(arn string, version mirrortest.Version) { w.mirrors[arn].have(version, true) }
	for _, name := range []string{"iam-token-rotator", "iam-token-rotator-2"} {
		w.functions = append(w.functions, &function{world: w, name: name, concurrency: 10, underWay: map[*invocation]bool{}})
	}
	w.naive, w.reader = &naive{world: w}, &reader{world: w}
	w.setLifetime(s.lifetime)
	return w
}

// play runs the story to its end.
func (w *world) play(story []window) {
	w.story = story
	w.functions[0].invoke(event{rotation.Request{Mode: rotation.ModeRotate, RunID: "first-rotate"}, w.start}) // as make deploy does
	w.running.Wait()
	w.naive.run(time.Minute, true, 0)
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

// counts are what a story came to in numbers.
type counts struct {
	runs      int
	failed    int // invocations that reported a failure
	crashed   int // invocations that reported nothing
	throttles int
	visits    int // the reader's
}

// violatedIf notes a broken invariant, and what was wrong at that moment or shortly before. w.mu is held.
func (w *world) violatedIf(broken bool, at time.Time, format string, args ...any) {
	if !broken {
		return
	}
	faults := ""
	for _, f := range w.story {
		if f.meets(span{at, at}, 5*time.Minute) {
			faults += fmt.Sprintf("[%s, %s since its start, of %s]", f.name, at.Sub(f.from).Round(time.Second), f.length().Round(time.Second))
		}
	}
	w.violations = append(w.violations, fmt.Sprintf("day %.4f (%s): %s", at.Sub(w.start).Hours()/24, cmp.Or(faults, "no faults"), fmt.Sprintf(format, args...)))
}

// locked does something with what mu guards.
func (w *world) locked(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// bootstrapKey is what the source of the bootstrap key holds.
func (w *world) bootstrapKey() (key string) {
	w.locked(func() { key = w.bootstrapKeys[len(w.bootstrapKeys)-1] })
	return key
}

func (w *world) newBootstrapKey() {
	key := w.cloud.MustCreateAPIKey(w.bootstrapID)
	w.locked(func() { w.bootstrapKeys = append(w.bootstrapKeys, key) })
}

func (w *world) newWorkloadKey() {
	key := w.cloud.MustCreateAPIKey(w.workload)
	w.cloud.MustPutVersion(w.keySecret, key, nil)
	w.locked(func() { w.workloadKey = key })
}

func (w *world) setLifetime(d time.Duration) {
	w.cloud.SetTokenTTL(d)
	w.locked(func() { w.lifetimeSet = time.Now() })
}

// tamper changes the current version's metadata behind the rotator's back.
func (w *world) tamper(metadata map[string]any) {
	w.cloud.MustSetVersionMetadata(w.tokenSecret, "current", metadata)
	w.locked(func() { w.tampered, w.lastTampered = time.Now(), time.Now() })
}

// lostRun notes a run that did not happen or did not end.
func (w *world) lostRun(at time.Time) { w.locked(func() { w.lost = append(w.lost, at) }) }

// note notes another mishap of every day, so that the time around it does not count as one without faults.
func (w *world) note(at time.Time) { w.locked(func() { w.noted = append(w.noted, at) }) }
