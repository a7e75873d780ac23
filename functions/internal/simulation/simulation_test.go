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
)

var (
	storyFlag  = flag.Bool("story", false, "play the story of -seed instead of a few short ones")
	seedFlag   = flag.Uint64("seed", 1, "of the story: the same seed, days and between give the same story")
	daysFlag   = flag.Int("days", 365, "how long the story of -seed lasts")
	meanFlag   = flag.Duration("between", 24*time.Hour, "how often, on average, something new goes wrong in the story of -seed")
	reportFlag = flag.String("report", "", "write the report of -seed to this file; if empty, to the log")
	svgFlag    = flag.String("svg", "", "draw a few days of -seed into this file")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// What `make test` plays, without the race detector: a month, in five stories in which something
// goes wrong every few hours, and with managed keys, which are rotated every 15 days.
const (
	shortStories, shortDays = 5, 6
	shortBetween            = 4 * time.Hour

	dialDays     = 3 // of each setting of TestTheMarginIsADial
	shortKeyDays = 42
)

// play plays a story and checks it.
func play(t *testing.T, s setting, seed uint64, days int, between time.Duration) *world {
	t.Helper()
	var w *world
	synctest.Test(t, func(*testing.T) {
		expectSet := (seed+seed/partsOfAYear)%2 == 0 // in every second part of a year, and every second short story
		w = newWorld(seed, days, expectSet)
		w.setting = s
		w.setLifetime(s.lifetime)
		w.play(plan(newDice(seed, "plan"), kinds(expectSet), w.start.Add(time.Hour), w.end, between))
		w.check()
	})
	return w
}

// partsOfAYear are played in parallel, each with its own deployment.
const partsOfAYear = 4

func playYear(t *testing.T, s setting, seed uint64, days int, between time.Duration) year {
	t.Helper()
	y := year{setting: s, seed: seed, days: days, parts: make([]*world, min(partsOfAYear, days/30+1))}
	t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
		for i := range y.parts {
			t.Run(fmt.Sprint("part ", i+1), func(t *testing.T) {
				t.Parallel()
				from, to := i*days/len(y.parts), (i+1)*days/len(y.parts)
				y.parts[i] = play(t, s, seed*partsOfAYear+uint64(i), to-from, between)
			})
		}
	})
	if s == standard { // the keys have nothing to do with it
		y.keys = playKeys(t, seed, days, anyKeyFaults)
	}
	return y
}

func TestSimulation(t *testing.T) {
	if !*storyFlag {
		for seed := range uint64(shortStories) {
			t.Run(fmt.Sprint("seed ", seed+1), func(t *testing.T) {
				t.Parallel()
				y := year{setting: standard, seed: seed + 1, days: shortDays, parts: []*world{play(t, standard, (seed+1)*partsOfAYear, shortDays, shortBetween)}}
				hold(t, y)
				wellFormed(t, y.picture())
			})
		}
		return
	}
	if *daysFlag < 1 || *meanFlag <= 0 {
		t.Fatalf("-days %d and -between %s: both must be more than 0", *daysFlag, *meanFlag)
	}
	s := setting{*minRemainingFlag, *lifetimeFlag}
	if s.minRemaining < standard.minRemaining || s.minRemaining >= time.Hour || s.lifetime < shortLifetime || s.lifetime > time.Hour {
		t.Fatalf("-min-remaining %s and -lifetime %s: the alarms of the template want 8m or more, and less than 60m; tokens live 15m to 60m", s.minRemaining, s.lifetime)
	}
	y := playYear(t, s, *seedFlag, *daysFlag, *meanFlag)
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
		if err := y.draw(*svgFlag); err != nil {
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

// command replays the stories of a seed.
func (y year) command() string {
	between := shortBetween
	if *storyFlag {
		between = *meanFlag
	}
	return fmt.Sprintf("make simulate SEED=%d DAYS=%d BETWEEN=%s %s", y.seed, y.days, between, y.setting)
}

// A seed that breaks an invariant must break it again when it is replayed.
func TestASeedGivesTheSameStoryEveryTime(t *testing.T) {
	first, second := play(t, standard, 7, 1, time.Hour), play(t, standard, 7, 1, time.Hour)
	if !slices.Equal(first.tokens.tokens, second.tokens.tokens) || !slices.Equal(first.naiveTokens.tokens, second.naiveTokens.tokens) {
		t.Error("the second time other tokens were published")
	}
	if a, b := first.calls.Load(), second.calls.Load(); a != b || !slices.Equal(first.violations, second.violations) {
		t.Errorf("got %d calls and %q, the second time %d and %q", a, first.violations, b, second.violations)
	}
}

// What forged metadata of a 15-minute token excuses ends with the time in which it is trusted:
// a lock that follows has its own bound, and an alarm.
func TestAFaultAfterForgedMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, 1, true)
		w.everyday = dangers{}
		var story []window
		for _, k := range kinds(true) {
			begins := map[string]time.Duration{lifetimeCut: time.Hour, metadataForged: 3 * time.Hour, previousLocked: 3*time.Hour + 20*time.Minute}
			lasts := map[string]time.Duration{lifetimeCut: 6 * time.Hour, previousLocked: 75 * time.Minute}
			if after, ok := begins[k.name]; ok {
				story = append(story, window{k, span{w.start.Add(after), w.start.Add(after + lasts[k.name])}})
			}
		}
		w.play(story)
		w.check()
		if len(w.violations) > 0 || len(w.tokens.gaps) != 1 || w.tokens.gaps[0].length() < 55*time.Minute {
			t.Errorf("got violations %q and gaps %v, want none and one of an hour", w.violations, w.tokens.gaps)
		}
		// Without one of these the same gap breaks an invariant.
		for name, change := range map[string]func(){
			"lock": func() {
				w.story = slices.DeleteFunc(slices.Clone(story), func(f window) bool { return f.name == previousLocked })
			},
			"forge": func() {
				w.story = slices.DeleteFunc(slices.Clone(story), func(f window) bool { return f.name == metadataForged })
			},
			"alarm": func() { w.story, w.alarms.fired = story, nil },
		} {
			fired := w.alarms.fired
			change()
			w.violations, w.troubles = nil, w.findTroubles()
			w.checkGaps()
			if w.alarms.fired = fired; len(w.violations) == 0 {
				t.Errorf("without the %s nothing is violated", name)
			}
		}
	})
}
