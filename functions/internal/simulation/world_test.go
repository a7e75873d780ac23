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

// simulation is one story: a cloud, the deployed function, the naive way, a reader.
type simulation struct {
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

	story         []window
	networkFaults inForce[networkFault]
	dangers       dangers // of the faults of the moment
	everyday      dangers
	inStep        bool // a second deployment runs ensure at the very moments of the first
	clockOff      atomic.Int64
	functions     []*function // the second one is idle but for "two deployments", and for the ensure schedule of a second region
	naive         *naive
	reader        *reader
	alarms        *alarms
	calls         atomic.Int64                     // of the rotator
	onReport      func(*invocation, report.Report) // nil for none
	aws           mirrortest.AWS
	mirrors       map[string]*mirror // by their ARNs
	keys          *keys              // nil where the keys are fixed

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
	outages       []outage
	shortened     []published // tokens that replaced better ones whose metadata was not true
	counts        counts
	violations    []string
}

func newSimulation(s setting, seed uint64, days int, expectSet bool) *simulation {
	sim := &simulation{
		setting: s, seed: seed, name: fmt.Sprint("story ", seed), start: time.Now(), end: time.Now().Add(time.Duration(days) * 24 * time.Hour),
		cloud:    ibmcloudtest.New(ibmcloudtest.Options{Rotations: 2, RequestLog: -1}),
		everyday: everyday, dangers: dangers{}, alarms: &alarms{metrics: map[string]series{}, fired: map[string][]span{}},
	}
	first := sim.cloud.Rotations()[0]
	sim.workload, sim.workloadKey, sim.keySecret, sim.tokenSecret = first.IAMID, first.APIKey, first.APIKeySecret, first.TokenSecret
	sim.naiveSecret = sim.cloud.Rotations()[1].TokenSecret
	sim.mintKey = sim.cloud.MustCreateAPIKey(sim.workload)
	sim.bootstrapKeys = []string{sim.cloud.BootstrapAPIKey()}
	sim.bootstrapID, _, _ = sim.cloud.Validate(sim.cloud.MustMintToken(sim.cloud.BootstrapAPIKey(), time.Hour))
	sim.rotation = rotation.Rotation{
		Name: "default", APIKey: rotation.KeyRef{ID: sim.keySecret}, Token: rotation.TokenRef{ID: sim.tokenSecret, Format: iamtoken.Raw},
	}
	if expectSet {
		sim.rotation.Expect = rotation.Expect{Account: sim.cloud.AccountID(), IAMID: sim.workload}
	}
	sim.rotation.Mirror, sim.mirrors = mirrorARNs, map[string]*mirror{}
	for _, arn := range mirrorARNs {
		sim.mirrors[arn] = &mirror{simulation: sim, arn: arn}
		sim.aws.Current(arn)
	}
	sim.aws.OnPut = func(arn string, version mirrortest.Version) { sim.mirrors[arn].have(version, true) }
	for _, name := range []string{"iam-token-rotator", "iam-token-rotator-2"} {
		sim.functions = append(sim.functions, &function{simulation: sim, name: name, concurrency: 10, underWay: map[*invocation]bool{}})
	}
	sim.naive, sim.reader = &naive{simulation: sim}, &reader{simulation: sim}
	sim.setLifetime(s.lifetime)
	return sim
}

// play runs the story to its end.
func (sim *simulation) play(story []window) {
	sim.story = story
	sim.functions[0].invoke(event{rotation.Request{Mode: rotation.ModeRotate, RunID: "first-rotate"}, sim.start}) // as make deploy does
	sim.running.Wait()
	sim.naive.run(time.Minute, true, 0)
	sim.functions[0].startSchedules(time.Now(), sim.end)
	if sim.inStep {
		sim.functions[1].startSchedule(rotation.ModeEnsure, ensureEvery, time.Now(), sim.end)
	}
	sim.naive.schedule(time.Now().Add(rotateEvery))
	sim.agenda.every(sim.start.Add(10*time.Minute).Truncate(time.Minute), time.Minute, func(at time.Time) bool {
		sim.alarms.evaluate(at)
		return true
	})
	sim.schedule(story)
	sim.reader.schedule()
	sim.agenda.work(sim.end)
	sim.running.Wait()
	sim.tokens.close(sim.end)
	sim.naiveTokens.close(sim.end)
}

// counts are what a story came to in numbers.
type counts struct {
	runs      int
	failed    int // invocations that reported a failure
	crashed   int // invocations that reported nothing
	throttles int
	visits    int // the reader's
}

// violatedIf notes a broken invariant, and what was wrong at that moment or shortly before. sim.mu is held.
func (sim *simulation) violatedIf(broken bool, at time.Time, format string, args ...any) {
	if !broken {
		return
	}
	faults := ""
	for _, f := range sim.story {
		if f.meets(span{at, at}, 5*time.Minute) {
			faults += fmt.Sprintf("[%s, %s since its start, of %s]", f.name, at.Sub(f.from).Round(time.Second), f.length().Round(time.Second))
		}
	}
	sim.violations = append(sim.violations, fmt.Sprintf("day %.4f (%s): %s", at.Sub(sim.start).Hours()/24, cmp.Or(faults, "no faults"), fmt.Sprintf(format, args...)))
}

// locked does something with what mu guards.
func (sim *simulation) locked(do func()) {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	do()
}

// bootstrapKey is what the source of the bootstrap key holds.
func (sim *simulation) bootstrapKey() (key string) {
	sim.locked(func() { key = sim.bootstrapKeys[len(sim.bootstrapKeys)-1] })
	return key
}

func (sim *simulation) newBootstrapKey() {
	key := sim.cloud.MustCreateAPIKey(sim.bootstrapID)
	sim.locked(func() { sim.bootstrapKeys = append(sim.bootstrapKeys, key) })
}

func (sim *simulation) newWorkloadKey() {
	key := sim.cloud.MustCreateAPIKey(sim.workload)
	sim.cloud.MustPutVersion(sim.keySecret, key, nil)
	sim.locked(func() { sim.workloadKey = key })
}

func (sim *simulation) setLifetime(d time.Duration) {
	sim.cloud.SetTokenTTL(d)
	sim.locked(func() { sim.lifetimeSet = time.Now() })
}

// tamper changes the current version's metadata behind the rotator's back.
func (sim *simulation) tamper(metadata map[string]any) {
	sim.cloud.MustSetVersionMetadata(sim.tokenSecret, "current", metadata)
	sim.locked(func() { sim.tampered, sim.lastTampered = time.Now(), time.Now() })
}

// lostRun notes a run that did not happen or did not end.
func (sim *simulation) lostRun(at time.Time) { sim.locked(func() { sim.lost = append(sim.lost, at) }) }

// note notes another mishap of every day, so that the time around it does not count as one without faults.
func (sim *simulation) note(at time.Time) { sim.locked(func() { sim.noted = append(sim.noted, at) }) }
