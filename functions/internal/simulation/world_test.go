package simulation

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
)

// world is one story: a cloud, the deployed function, the naive way, a reader.
type world struct {
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
	clockOff  atomic.Int64
	functions []*function // the second one is idle but for "two copies"
	naive     *naive
	reader    *reader
	alarms    *alarms
	counts    *counts

	mu               sync.Mutex // guards everything below
	bootstrapKeys    []string   // the last is the one in force
	tokens           timeline
	naiveTokens      timeline
	publisher        *invocation // of the current version; nil when nobody's
	tampered         time.Time   // when the current version's metadata was changed; zero if it is true
	replacedTampered bool        // the current version replaced one whose metadata had been changed
	lifetime         time.Duration
	lifetimeSet      time.Time
	lost             []lostRun   // runs that did not happen or did not end
	noted            []time.Time // other everyday mishaps
	margins          []margin
	troubles         []trouble
	shortened        []published // tokens that replaced better ones whose metadata was not true
	violations       []string
}

// lostRun is one that was not delivered or died.
type lostRun struct{ at time.Time }

func newWorld(seed uint64, days int, expectSet bool) *world {
	w := &world{
		seed: seed, name: fmt.Sprint("story ", seed), start: time.Now(), end: time.Now().Add(time.Duration(days) * 24 * time.Hour),
		cloud:    ibmcloudtest.New(ibmcloudtest.Options{Rotations: 2, RequestLog: -1}),
		everyday: everyday, lifetime: time.Hour, counts: &counts{calls: map[bool]map[string]int{true: {}, false: {}}},
		alarms: &alarms{now: time.Now, ringing: map[string][]span{}},
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
	for _, name := range []string{"iam-token-rotator", "iam-token-rotator-2"} {
		w.functions = append(w.functions, &function{w: w, name: name, concurrency: 10, running: map[*invocation]bool{}})
	}
	w.naive, w.reader = newNaive(w), newReader(w)
	return w
}

// play runs the story to its end.
func (w *world) play(story []window) {
	w.story = story
	w.functions[0].invoke(event{mode: rotation.ModeRotate, runID: "first-rotate", scheduled: w.start}) // as make deploy does
	w.running.Wait()
	w.naive.run(naiveFate{patience: time.Minute})
	w.functions[0].startSchedules(time.Now(), w.end)
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
