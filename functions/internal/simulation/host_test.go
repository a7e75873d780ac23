package simulation

import (
	"time"
)

// host are the faults of Lambda: what happens to processes. Since a process that
// dies or freezes takes one run with it, that run counts as lost (see lostRun).
func host() []kind {
	return []kind{
		{name: "processes killed at any step", span: minutes(2, 60), begin: while(func(w *world, on bool) { w.dangers.kill = p(on, 0.5) })},
		{name: "processes frozen in mid-pass", span: minutes(10, 120), begin: while(func(w *world, on bool) { w.dangers.freeze = p(on, 0.3) })},
		{name: "stale connections after a thaw", span: minutes(10, 180), begin: while(func(w *world, on bool) { w.dangers.stale = p(on, 1) })},
		{name: "cold processes only", span: minutes(10, 180), begin: while(func(w *world, on bool) { w.dangers.cold = p(on, 1) })},
		{name: "a deploy in the middle of a run", span: instant, begin: deploy},
		{name: "two copies of the function", span: minutes(60, 1440), begin: secondCopy},
	}
}

// dangers are how likely an invocation meets what.
type dangers struct {
	kill, freeze, stale, cold            float64
	duplicate, disorder, lose, throttled float64
}

// everyday are the dangers of any day; now and then they are greater.
var everyday = dangers{kill: 0.0002, freeze: 0.0001, stale: 0.005, cold: 0.001, duplicate: 0.001, disorder: 0.0005, lose: 0.0002}

func p(on bool, probability float64) float64 {
	if on {
		return probability
	}
	return 0
}

// while keeps a danger up as long as the fault lasts.
func while(set func(w *world, on bool)) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		set(w, true)
		return func() { set(w, false) }
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

// secondCopy runs a second stack, with schedules of its own: at the same seconds
// or at others.
func secondCopy(w *world, d dice, until time.Time) func() {
	offset := pick(d, 0, d.between(0, time.Minute))
	w.functions[1].startSchedules(w.now().Add(offset), until)
	return nothing
}

// delivery are the faults of EventBridge Scheduler and of Lambda's queue.
func delivery() []kind {
	return []kind{
		{name: "events delivered twice and more", span: minutes(10, 360), begin: while(func(w *world, on bool) { w.dangers.duplicate = p(on, 0.5) })},
		{name: "events out of order", span: minutes(10, 360), begin: while(func(w *world, on bool) { w.dangers.disorder = p(on, 1) })},
		{name: "half of the events dropped at their maximum age", span: minutes(2, 60), begin: while(func(w *world, on bool) { w.dangers.lose = p(on, 0.5) })},
		{name: "no events delivered", excuse: nextEnsure, span: upTo3h, begin: while(func(w *world, on bool) { w.dangers.lose = p(on, 1) })},
		{name: "the function throttled", excuse: nextEnsure, span: upTo3h, begin: while(func(w *world, on bool) { w.dangers.throttled = p(on, 1) })},
	}
}
