package simulation

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

var (
	storyFlag        = flag.Bool("story", false, "play the story of -seed instead of a few short ones")
	seedFlag         = flag.Uint64("seed", 1, "of the story: the same seed, days and between give the same story")
	daysFlag         = flag.Int("days", 365, "how long the story of -seed lasts")
	meanFlag         = flag.Duration("between", 24*time.Hour, "how often, on average, something new goes wrong in the story of -seed")
	minRemainingFlag = flag.Duration("min-remaining", standard.minRemaining, "MIN_REMAINING in the story of -seed")
	lifetimeFlag     = flag.Duration("lifetime", standard.lifetime, "of tokens in the story of -seed")
	reportFlag       = flag.String("report", "", "write the report of -seed to this file; if empty, to the log")
	svgFlag          = flag.String("svg", "", "draw a few days of -seed into this file")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// setting is what the function and the account are configured with.
type setting struct {
	minRemaining time.Duration // MIN_REMAINING
	lifetime     time.Duration // of tokens, where no fault cuts it
}

var standard = setting{8 * time.Minute, time.Hour}

func (s setting) String() string {
	return fmt.Sprintf("MIN_REMAINING=%s LIFETIME=%s", s.minRemaining, s.lifetime)
}

// shortLifetime is the shortest that an account may give its tokens.
const shortLifetime = 15 * time.Minute

// threshold is the remaining lifetime with which `ensure` replaces a token.
func (s setting) threshold(token published) time.Duration {
	return rotation.Threshold(s.minRemaining, token.expires.Sub(token.issued))
}

// mustRemain is the least remaining lifetime that a token has when the next one comes, without faults or after one lost run.
// `ensure` runs follow each other within 2:10, after a lost one a minute later; `rotate` runs every 50 minutes, a minute late at most.
func (s setting) mustRemain(lifetime time.Duration, lost bool) time.Duration {
	byEnsure := rotation.Threshold(s.minRemaining, lifetime) - nextEnsure
	byRotate := lifetime - rotateEvery - lateness - 10*time.Second
	if lost {
		return min(byEnsure, max(byRotate, byEnsure-ensureEvery))
	}
	return max(byEnsure, byRotate)
}

// simulation is one story: an emulated cloud, the deployed function, the naive way and a reader.
type simulation struct {
	setting
	seed       uint64
	name       string // of the story; random numbers depend on it
	start, end time.Time
	cloud      *ibmcloudtest.Cloud
	agenda     agenda
	running    sync.WaitGroup

	workload    string // the iam id whose token is published
	workloadKey string
	mintKey     string // another key of the workload, for tokens that no function asks for
	bootstrapID string // the iam id that opens Secrets Manager
	keySecret   string
	tokenSecret string
	naiveSecret string
	rotation    rotation.Rotation

	story         []window
	networkFaults inForce[networkFault]
	dangers       dangers // raised by the current faults
	everyday      dangers
	inStep        bool // a second deployment runs ensure at the same moments as the first
	clockOff      atomic.Int64
	functions     []*function // the second one runs only during twoDeployments, and in a second region
	naive         *naive
	reader        *reader
	alarms        *alarms
	calls         atomic.Int64                     // of the rotator
	onReport      func(*invocation, report.Report) // nil for none
	aws           mirrortest.AWS
	mirrors       map[string]*mirror // by their ARNs
	keys          *keys              // nil if the keys are fixed

	mu            sync.Mutex // guards everything below
	bootstrapKeys []string   // the last is the one in force
	tokens        timeline
	naiveTokens   timeline
	cached        []cached    // of each of the caches
	publisher     *invocation // of the current version; nil if none made it
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
	sim.agenda.every(time.Minute, sim.start.Add(10*time.Minute).Truncate(time.Minute), sim.end, sim.alarms.evaluate)
	sim.schedule(story)
	sim.reader.schedule()
	sim.agenda.work(sim.end)
	sim.running.Wait()
	sim.tokens.close(sim.end)
	sim.naiveTokens.close(sim.end)
}

// counts are the totals of a story.
type counts struct {
	runs      int
	failed    int // invocations that reported a failure
	crashed   int // invocations that reported nothing
	throttles int
	reads     int // the reader's
}

// violatedIf records a violation, with the faults at that moment or shortly before. The caller holds sim.mu.
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

// locked calls do with sim.mu held.
func (sim *simulation) locked(do func()) {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	do()
}

// bootstrapKey is the current bootstrap key.
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

// tamper changes the current version's metadata, as a person might.
func (sim *simulation) tamper(metadata map[string]any) {
	sim.cloud.MustSetVersionMetadata(sim.tokenSecret, "current", metadata)
	sim.locked(func() { sim.tampered, sim.lastTampered = time.Now(), time.Now() })
}

// lostRun records a run that did not happen or did not end.
func (sim *simulation) lostRun(at time.Time) { sim.locked(func() { sim.lost = append(sim.lost, at) }) }

// note records another everyday mishap: the time around it does not count as one without faults.
func (sim *simulation) note(at time.Time) { sim.locked(func() { sim.noted = append(sim.noted, at) }) }

// playStory plays the faults that story returns, and checks the invariants.
func playStory(t *testing.T, s setting, seed uint64, days int, story func(sim *simulation) []window) (sim *simulation) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		sim = newSimulation(s, seed, days, (seed+seed/partsOfAYear)%2 == 0) // in every second part of a year
		sim.play(story(sim))
		sim.check()
	})
	return sim
}

// anyFaults draws faults of all kinds, one every between on average.
func anyFaults(between time.Duration) func(sim *simulation) []window {
	return func(sim *simulation) []window {
		return plan(newDice(sim.seed, "plan"), kinds(sim.rotation.Expect != rotation.Expect{}), sim.start.Add(time.Hour), sim.end, between)
	}
}

// partsOfAYear are played in parallel, each with its own deployment.
const partsOfAYear = 4

func playYear(t *testing.T, s setting, seed uint64, days int, between time.Duration) year {
	t.Helper()
	y := year{setting: s, seed: seed, days: days, between: between, parts: make([]*simulation, min(partsOfAYear, days/30+1))}
	t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
		for i := range y.parts {
			t.Run(fmt.Sprint("part ", i+1), func(t *testing.T) {
				t.Parallel()
				from, to := i*days/len(y.parts), (i+1)*days/len(y.parts)
				y.parts[i] = playStory(t, s, seed*partsOfAYear+uint64(i), to-from, anyFaults(between))
			})
		}
	})
	return y
}

// `make test` plays some days of each of several settings, in which something goes wrong every few hours.
func TestSimulation(t *testing.T) {
	if *storyFlag {
		playSeed(t)
		return
	}
	for i, s := range []setting{
		standard, standard, standard, standard,
		{25 * time.Minute, time.Hour}, {45 * time.Minute, time.Hour}, {59 * time.Minute, 30 * time.Minute}, {45 * time.Minute, shortLifetime},
	} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			y := playYear(t, s, uint64(i+1), 4, 4*time.Hour)
			hold(t, y)
			wellFormed(t, y.picture())
			least, average := y.total().calmLifetime()
			if enough := rotation.Threshold(s.minRemaining, s.lifetime) - nextEnsure; least < enough || average < (s.lifetime+enough)/2 {
				t.Errorf("without faults readers have %s at worst and %s on average, want %s and half of the difference to %s more", least, average, enough, s.lifetime)
			}
		})
	}
}

// Each kind of fault occurs once, for two hours, without another.
func TestEachFault(t *testing.T) {
	t.Parallel()
	sim := playStory(t, standard, 2, 8, func(sim *simulation) (story []window) {
		for i, k := range kinds(true) {
			f := sim.fault(k, time.Duration(1+4*i)*time.Hour, 2*time.Hour)
			if k.lasts == nil {
				f.to = f.from
			}
			story = append(story, f)
		}
		return story
	})
	if last := sim.story[len(sim.story)-1]; !last.to.Before(sim.end) || len(sim.violations) > 0 {
		t.Errorf("got violations %q; the last fault ends at %s of %s", sim.violations, last.to, sim.end)
	}
}

// playSeed plays the story of the flags, as `make simulate` does.
func playSeed(t *testing.T) {
	if *daysFlag < 1 || *meanFlag <= 0 {
		t.Fatalf("-days %d and -between %s: both must be more than 0", *daysFlag, *meanFlag)
	}
	s := setting{*minRemainingFlag, *lifetimeFlag}
	if s.minRemaining < standard.minRemaining || s.minRemaining >= time.Hour || s.lifetime < shortLifetime || s.lifetime > time.Hour {
		t.Fatalf("-min-remaining %s and -lifetime %s: the alarms of the template want 8m or more, and less than 60m; the lifetime of a token is 15m to 60m", s.minRemaining, s.lifetime)
	}
	y := playYear(t, s, *seedFlag, *daysFlag, *meanFlag)
	if s == standard { // the keys have nothing to do with it
		y.keys = playKeys(t, *seedFlag, *daysFlag, anyKeyFaults)
	}
	out := t.Output()
	if *reportFlag != "" {
		file, err := os.Create(*reportFlag)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		out = file
	}
	hold(t, y)
	y.report(out)
	if *svgFlag != "" {
		if err := os.WriteFile(*svgFlag, y.picture(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// hold fails the test if there were violations.
func hold(t *testing.T, y year) {
	t.Helper()
	violations := y.violations()
	for _, violation := range violations[:min(20, len(violations))] {
		t.Error(violation)
	}
	if len(violations) > 0 {
		t.Errorf("%d violations; to replay them: %s", len(violations), y.command())
	}
}

// A seed that breaks an invariant must break it again when it is replayed.
func TestASeedGivesTheSameStoryEveryTime(t *testing.T) {
	t.Parallel()
	first, second := playStory(t, standard, 7, 1, anyFaults(time.Hour)), playStory(t, standard, 7, 1, anyFaults(time.Hour))
	a, b := first.calls.Load(), second.calls.Load()
	if a != b || !slices.Equal(first.tokens.tokens, second.tokens.tokens) || !slices.Equal(first.naiveTokens.tokens, second.naiveTokens.tokens) {
		t.Errorf("other tokens were published, with %d calls and with %d", a, b)
	}
}

// fault is one fault of a story that is written down.
func (sim *simulation) fault(k kind, after, length time.Duration) window {
	return window{k, span{sim.start.Add(after), sim.start.Add(after + length)}}
}

// Forged metadata of a 15-minute token excuses a gap only as long as it is trusted. A lock after that has its own bound, and an
// alarm.
func TestAFaultAfterForgedMetadata(t *testing.T) {
	t.Parallel()
	sim := playStory(t, standard, 1, 1, func(sim *simulation) []window {
		all := kinds(true)
		sim.everyday = dangers{}
		return []window{sim.fault(named(all, lifetimeCut), time.Hour, 6*time.Hour), sim.fault(named(all, metadataForged), 3*time.Hour, 0),
			sim.fault(named(all, previousLocked), 3*time.Hour+20*time.Minute, 75*time.Minute)}
	})
	if len(sim.violations) > 0 || len(sim.tokens.gaps) != 1 || sim.tokens.gaps[0].length() < 55*time.Minute {
		t.Errorf("got violations %q and gaps %v, want none and one of an hour", sim.violations, sim.tokens.gaps)
	}
}

// Of two regions one and then the other is lost for three hours. IBM's secret and the mirror that is left always have a token, and
// no run fails but those of the lost region.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	sim := playStory(t, standard, 1, 2, func(sim *simulation) (story []window) {
		for i, k := range regions() {
			k.region = false // the second region is there all the time
			story = append(story, sim.fault(k, time.Duration(3+12*i)*time.Hour, 3*time.Hour))
		}
		sim.everyday = dangers{}
		sim.twoRegions(sim.start.Add(time.Minute), sim.end)
		return story
	})
	if len(sim.violations) > 0 || len(sim.tokens.gaps) > 0 || sim.counts.failed > 0 {
		t.Errorf("got violations %q, readers without a token %v, and %d runs that failed", sim.violations, sim.tokens.gaps, sim.counts.failed)
	}
	for i, arn := range mirrorARNs {
		for _, g := range sim.mirrors[arn].seen.gaps {
			if lost := sim.story[i]; g.from.Before(lost.from) || g.to.After(lost.to.Add(healed)) {
				t.Errorf("readers of the mirror %s without a token for %s", arn, g.length())
			}
		}
	}
}

// Two deployments whose events come at the same moments, with tokens of 15 minutes, mostly put each token once: AWS takes 100
// versions a day.
func TestTwoDeploymentsInStepStayWithinTheQuota(t *testing.T) {
	t.Parallel()
	sim := playStory(t, setting{standard.minRemaining, shortLifetime}, 1, 2, func(sim *simulation) []window {
		sim.inStep, sim.everyday = true, dangers{}
		return nil
	})
	if len(sim.violations) > 0 {
		t.Error(sim.violations)
	}
}
