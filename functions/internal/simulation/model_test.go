package simulation

import (
	"fmt"
	"slices"
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
		var broken []string
		synctest.Test(t, func(*testing.T) { broken = newModel().play(story) })
		for _, violation := range broken {
			rt.Error(violation)
		}
	})
}

// model is what readers may see: the token in force, and what stands in the way
// of a better one.
type model struct {
	w       *world
	expires time.Time // of the token that readers have

	forgedLater bool // the current version claims more life than it has
	storm       func()
	locked      bool
	foreign     bool
	last        event
	runs        int
	killNext    bool
	broken      []string
}

func newModel() *model {
	w := newWorld(1, 1, true)
	w.everyday = dangers{}
	w.story = nil
	m := &model{w: w}
	m.run(rotation.ModeRotate)
	return m
}

func (m *model) play(story []step) []string {
	for i, s := range story {
		m.take(s)
		m.look(i, s)
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
	d := newDice(uint64(s.arg), "step")
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
	case "lock", "unlock":
		m.lock(s.what == "lock")
	case "foreign key", "right key":
		m.key(s.what == "foreign key", d)
	case "15 minutes", "60 minutes":
		m.w.setLifetime(map[string]time.Duration{"15 minutes": 15 * time.Minute, "60 minutes": time.Hour}[s.what])
	case "erase", "forge later", "forge earlier":
		m.tamper(s.what, d)
	case "clock":
		m.w.clockOff.Store(int64(time.Duration(s.arg%11-5) * time.Minute))
	case "clock right":
		m.w.clockOff.Store(0)
	case "new process":
		m.w.functions[0].deploy(false)
	}
}

// look holds what readers have after a step against the model.
func (m *model) look(i int, s step) {
	m.broken = append(m.broken, m.w.violations...)
	seen := m.w.tokens.current(time.Now()).expires
	if seen.Before(m.expires) && m.w.tampered.IsZero() && m.w.counts.versions > 0 && !m.replacedTampered(s) {
		m.fail(i, s, "readers had a token until %s, now until %s", m.expires, seen)
	}
	m.expires = seen
}

// replacedTampered: a version whose metadata was changed may give way to a token
// that expires sooner: nobody can know what it was worth.
func (m *model) replacedTampered(s step) bool {
	return slices.Contains([]string{"rotate", "ensure", "redeliver"}, s.what) && m.w.replacedTampered
}

func (m *model) fail(i int, s step, format string, args ...any) {
	m.broken = append(m.broken, fmt.Sprintf("step %d, %s: %s", i+1, s, fmt.Sprintf(format, args...)))
}
