package simulation

import (
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

// fate is what an invocation will meet.
type fate struct {
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

func (w *world) drawFate(d dice, e event) fate {
	var f fate
	if d.chance(w.danger(func(g dangers) float64 { return g.kill })) {
		if d.chance(0.5) {
			f.kill = moment{pick(d, opBootstrap, opLook, opReadKey, opExchange, opSave), pick(d, 1, 1, 1, 2), d.chance(0.5)}
		} else {
			f.killAfter = d.anyScale(10*time.Millisecond, 110*time.Second)
		}
	}
	freeze := w.danger(func(g dangers) float64 { return g.freeze })
	if e.mode == rotation.ModeRotate {
		freeze = min(1, 3*freeze) // of an ensure little more than the look is worth freezing
	}
	if d.chance(freeze) {
		f.freezeAt = pick(d, rotation.StepLook, rotation.StepReadKey, rotation.StepExchange, rotation.StepSave, rotation.StepSave)
		f.freezeFor = d.anyScale(time.Second, 70*time.Minute)
		w.note(e.scheduled)
		f.cold = true // so that no other invocation meets its standing clock
	}
	if d.chance(w.danger(func(g dangers) float64 { return g.stale })) {
		f.stale = true
		w.note(e.scheduled)
	}
	if d.chance(w.danger(func(g dangers) float64 { return g.cold })) {
		f.cold = true
	}
	return f
}
