package simulation

import (
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"iam-token-rotator/functions/internal/rotation"
)

// step is one event of a short story.
type step struct {
	what string
	arg  int
}

func (s step) String() string { return fmt.Sprintf("%s(%d)", s.what, s.arg) }

// steps that a story may have, in the order in which a failing one is made simpler.
var stepNames = []string{
	"wait", "rotate", "ensure", "redeliver", "kill", "storm", "calm", "lock", "unlock", "foreign key", "right key",
	"15 minutes", "60 minutes", "erase", "forge later", "forge earlier", "clock", "clock right", "new process",
}

// TestWhatReadersMaySee plays random stories against a model of what readers may
// see. A story that fails is shrunk to a short one.
func TestWhatReadersMaySee(t *testing.T) {
	oneStep := rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom(stepNames).Draw(t, "what"), rapid.IntRange(0, 70).Draw(t, "arg")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		story := rapid.SliceOfN(oneStep, 1, 30).Draw(rt, "story")
		least := rapid.SampledFrom([]time.Duration{8, 25, 45}).Draw(rt, "MIN_REMAINING") * time.Minute
		var broken []string
		synctest.Test(t, func(*testing.T) { broken = newModel(least).play(story) })
		for _, violation := range broken {
			rt.Error(violation)
		}
	})
}

// model is what readers may see: the token in force, and what prevents a better one.
type model struct {
	w       *world
	expires time.Time // of the token that readers have

	given            time.Duration // the lifetime of the tokens that IAM issues
	forgedLater      bool          // the current version claims a longer lifetime than it has
	replacedTampered bool          // the current version replaced one whose metadata had been changed
	storm            func()
	locked           bool
	foreign          bool
	last             event
	runs             int
	killNext         bool
	broken           []string
}

func newModel(minRemaining time.Duration) *model {
	w := newWorld(1, 1, true)
	w.minRemaining = minRemaining
	w.everyday = dangers{}
	w.story = nil
	w.rotation.Mirror = nil // what they need would be a reason to publish, and to fail
	m := &model{w: w, given: w.lifetime}
	m.run(rotation.ModeRotate)
	return m
}

func (m *model) play(story []step) []string {
	for i, s := range story {
		m.take(s)
		m.compare(i, s)
		if len(m.broken) > 0 {
			break
		}
	}
	if m.storm != nil {
		m.storm()
	}
	return m.broken
}

// take does a step.
func (m *model) take(s step) {
	w, d := m.w, newDice(uint64(s.arg), "step")
	switch s.what {
	case "wait":
		time.Sleep(time.Duration(s.arg) * time.Minute)
	case "rotate", "ensure":
		m.run(rotation.Mode(s.what))
	case "redeliver":
		m.deliver(m.last)
	case "kill":
		m.killNext = true
	case "storm", "calm":
		m.weather(s.what, d)
	case "lock":
		m.locked = true
		w.cloud.MustLock(w.tokenSecret, "previous", "held")
	case "unlock":
		m.locked = false
		w.cloud.MustUnlock(w.tokenSecret)
	case "foreign key":
		m.foreign = true
		storeForeignKey(w, d, w.end)
	case "right key":
		m.foreign = false
		w.cloud.MustPutVersion(w.keySecret, w.workloadKey, nil)
	case "15 minutes", "60 minutes":
		m.given = map[string]time.Duration{"15 minutes": shortLifetime, "60 minutes": time.Hour}[s.what]
		w.setLifetime(m.given)
	case "erase", "forge later", "forge earlier":
		map[string]func(*world, dice, time.Time) func(){
			"erase": eraseMetadata, "forge later": forgeMetadata(4 * time.Hour), "forge earlier": forgeMetadata(-4 * time.Hour),
		}[s.what](w, d, w.end)
		m.forgedLater = s.what == "forge later"
	case "clock":
		w.clockOff.Store(int64(time.Duration(s.arg%11-5) * time.Minute))
	case "clock right":
		w.clockOff.Store(0)
	case "new process":
		w.functions[0].deploy(false)
	}
}

// compare holds what readers have after a step against the model.
func (m *model) compare(i int, s step) {
	m.broken = append(m.broken, m.w.violations...)
	seen := m.w.tokens.current(time.Now()).expires
	// A version whose metadata was changed may be replaced by a token that expires
	// sooner: nobody can know what it was worth.
	excused := m.replacedTampered && slices.Contains([]string{"rotate", "ensure", "redeliver"}, s.what)
	if seen.Before(m.expires) && m.w.tampered.IsZero() && m.w.counts.versions > 0 && !excused {
		m.fail(i, s, "readers had a token until %s, now until %s", m.expires, seen)
	}
	m.expires = seen
}

func (m *model) fail(i int, s step, format string, args ...any) {
	m.broken = append(m.broken, fmt.Sprintf("step %d, %s: %s", i+1, s, fmt.Sprintf(format, args...)))
}

// run delivers a new event and compares the outcome with what should prevent it.
func (m *model) run(mode rotation.Mode) {
	m.runs++
	m.deliver(event{mode: mode, runID: fmt.Sprintf("%s-story-%d", mode, m.runs), scheduled: time.Now()})
}

// deliver delivers an event and waits for its run to end.
func (m *model) deliver(e event) {
	if e.runID == "" {
		return
	}
	m.last = e
	w, fn := m.w, m.w.functions[0]
	w.everyday[kill] = 0
	if m.killNext {
		w.everyday[kill], m.killNext = 1, false
	}
	failed, crashed, versions := w.counts.failed, w.counts.crashed, w.counts.versions
	tampered := !w.tampered.IsZero()
	fn.invoke(e)
	w.running.Wait()
	published := w.counts.versions > versions
	m.replacedTampered = tampered && published
	if published {
		m.forgedLater = false
	}
	if w.counts.crashed > crashed {
		return // it may have published or not; compare checks the rest
	}
	m.check(e, w.counts.failed > failed, published)
}

// check: what prevents a run makes it fail, unless there was nothing to
// do; else readers have a token for MIN_REMAINING at least when it has ended, or for what the
// lifetime of this one, or of a new one, allows of that.
func (m *model) check(e event, failed, published bool) {
	now := time.Now()
	token := m.w.tokens.current(now)
	left, least := token.expires.Sub(now), rotation.Threshold(m.w.minRemaining, min(m.given, token.expires.Sub(token.at)))
	hindered := m.storm != nil || m.locked || m.foreign
	switch {
	case failed && !hindered:
		m.broken = append(m.broken, fmt.Sprintf("%s failed, and nothing stood in its way", e.runID))
	case published && m.foreign:
		m.broken = append(m.broken, fmt.Sprintf("%s published under another account's key", e.runID))
	case !failed && !m.forgedLater && left < least-maxSkew(m.w)-10*time.Second:
		m.broken = append(m.broken, fmt.Sprintf("%s did not fail, and readers are left with %s", e.runID, left))
	}
}

// maxSkew: IBM's clock counts, not the function's; it is known from the Date header
// of each answer in whole seconds, and a difference below 30 s is left alone.
func maxSkew(w *world) time.Duration {
	if w.clockOff.Load() == 0 {
		return 0
	}
	return 31 * time.Second
}

func (m *model) weather(what string, d dice) {
	if m.storm != nil {
		m.storm()
		m.storm, m.w.story[len(m.w.story)-1].to = nil, time.Now()
	}
	if what == "storm" {
		k := pick(d, append(outages(), answers()...)...)
		m.storm = k.begin(m.w, d, m.w.end)
		m.w.story = append(m.w.story, window{k, time.Now(), m.w.end})
	}
}

// counts are what a story came to in numbers.
type counts struct {
	mu        sync.Mutex
	calls     map[bool]int // by the rotator (true) or the naive way
	runs      int
	failed    int // invocations that reported a failure
	crashed   int // invocations that reported nothing
	throttles int
	versions  int
	visits    int // the reader's
}

func (c *counts) call(ours bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[ours]++
}

// bootstrapKey is what the source of the bootstrap key holds.
func (w *world) bootstrapKey() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bootstrapKeys[len(w.bootstrapKeys)-1]
}

func (w *world) newBootstrapKey() {
	key := w.cloud.MustCreateAPIKey(w.bootstrapID)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bootstrapKeys = append(w.bootstrapKeys, key)
}

// isBootstrap reports whether a token request's form has a bootstrap key.
func (w *world) isBootstrap(form []byte) bool {
	values, _ := url.ParseQuery(string(form))
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.bootstrapKeys, values.Get("apikey"))
}

func (w *world) setLifetime(d time.Duration) {
	w.cloud.SetTokenTTL(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lifetimeSet = w.now()
}

// tamper changes the current version's metadata behind the rotator's back.
func (w *world) tamper(metadata map[string]any) {
	w.cloud.MustSetVersionMetadata(w.tokenSecret, "current", metadata)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tampered, w.lastTampered = w.now(), w.now()
}

// lostRun notes a run that did not happen or did not end.
func (w *world) lostRun(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = append(w.lost, at)
}

// note notes another mishap of every day, so that the time around it does not
// count as one without faults.
func (w *world) note(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noted = append(w.noted, at)
}
