package simulation

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/internal/rotation"
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

// setting is what a user chooses, and an account.
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
	return rotation.Threshold(s.minRemaining, token.expires.Sub(token.born))
}

// mustRemain is what is left of a token at least when the next one comes, where a run was lost or none: `ensure` comes 2:10
// later at most, and a minute more after a lost one; rotate comes every 50 minutes, a minute late at most.
func (s setting) mustRemain(lifetime time.Duration, lost bool) time.Duration {
	byEnsure := rotation.Threshold(s.minRemaining, lifetime) - nextEnsure
	byRotate := lifetime - rotateEvery - lateness - 10*time.Second
	if lost {
		return min(byEnsure, max(byRotate, byEnsure-ensureEvery))
	}
	return max(byEnsure, byRotate)
}

// tell plays what story has, and checks it.
func tell(t *testing.T, s setting, seed uint64, days int, story func(sim *simulation) []window) (sim *simulation) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		sim = newSimulation(s, seed, days, (seed+seed/partsOfAYear)%2 == 0) // in every second part of a year
		sim.play(story(sim))
		sim.check()
	})
	return sim
}

// anyFaults begin once in so much time on average.
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
				y.parts[i] = tell(t, s, seed*partsOfAYear+uint64(i), to-from, anyFaults(between))
			})
		}
	})
	return y
}

// Without the race detector `make test` plays some days each of several settings, in which something goes wrong every few hours.
func TestSimulation(t *testing.T) {
	if *storyFlag {
		theStory(t)
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

// Each kind of fault lasts two hours, without another.
func TestEachFault(t *testing.T) {
	t.Parallel()
	sim := tell(t, standard, 2, 8, func(sim *simulation) (story []window) {
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

// theStory is that of `make simulate`.
func theStory(t *testing.T) {
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

// hold fails the test if an invariant was broken.
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
	first, second := tell(t, standard, 7, 1, anyFaults(time.Hour)), tell(t, standard, 7, 1, anyFaults(time.Hour))
	a, b := first.calls.Load(), second.calls.Load()
	if a != b || !slices.Equal(first.tokens.tokens, second.tokens.tokens) || !slices.Equal(first.naiveTokens.tokens, second.naiveTokens.tokens) {
		t.Errorf("other tokens were published, with %d calls and with %d", a, b)
	}
}

// fault is one of a story that is written down.
func (sim *simulation) fault(k kind, after, length time.Duration) window {
	return window{k, span{sim.start.Add(after), sim.start.Add(after + length)}}
}

// What forged metadata of a 15-minute token excuses ends with the time in which it is trusted: a lock that follows has its own
// bound, and an alarm.
func TestAFaultAfterForgedMetadata(t *testing.T) {
	t.Parallel()
	sim := tell(t, standard, 1, 1, func(sim *simulation) []window {
		all := kinds(true)
		sim.everyday = dangers{}
		return []window{sim.fault(named(all, lifetimeCut), time.Hour, 6*time.Hour), sim.fault(named(all, metadataForged), 3*time.Hour, 0),
			sim.fault(named(all, previousLocked), 3*time.Hour+20*time.Minute, 75*time.Minute)}
	})
	if len(sim.violations) > 0 || len(sim.tokens.gaps) != 1 || sim.tokens.gaps[0].length() < 55*time.Minute {
		t.Errorf("got violations %q and gaps %v, want none and one of an hour", sim.violations, sim.tokens.gaps)
	}
}

// Two regions, of which one and then the other is lost for three hours: IBM's secret always has a token, and so has the mirror
// that is left. No run fails but those that are lost.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	sim := tell(t, standard, 1, 2, func(sim *simulation) (story []window) {
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

// Two deployments whose events come at the same moments, with tokens of 15 minutes, put each of them once in most cases: AWS
// takes 100 versions a day.
func TestTwoDeploymentsInStepStayWithinTheQuota(t *testing.T) {
	t.Parallel()
	sim := tell(t, setting{standard.minRemaining, shortLifetime}, 1, 2, func(sim *simulation) []window {
		sim.inStep, sim.everyday = true, dangers{}
		return nil
	})
	if len(sim.violations) > 0 {
		t.Error(sim.violations)
	}
}
