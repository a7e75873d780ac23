package simulation

import (
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

const (
	rotateEvery = 50 * time.Minute
	ensureEvery = time.Minute
	// lateness is how late EventBridge Scheduler may be: it keeps to the minute.
	lateness = time.Minute
	// maxEventAge is how long an event is tried to be delivered, by EventBridge
	// Scheduler and by Lambda's queue alike.
	maxEventAge = 2 * time.Minute
)

// event is what a schedule asks for.
type event struct {
	mode      rotation.Mode
	runID     string
	scheduled time.Time
}

// startSchedules begins the two schedules of a stack; they end at until.
func (fn *function) startSchedules(first, until time.Time) {
	fn.startSchedule(rotation.ModeRotate, rotateEvery, first, until)
	fn.startSchedule(rotation.ModeEnsure, ensureEvery, first, until)
}

func (fn *function) startSchedule(mode rotation.Mode, period time.Duration, first, until time.Time) {
	d := newDice(fn.w.seed, fn.name+string(mode)+first.String())
	fn.w.agenda.every(first, period, func(at time.Time) bool {
		if at.After(until) {
			return false
		}
		fn.emit(d, event{mode: mode, runID: string(mode) + "-" + at.UTC().Format(time.RFC3339), scheduled: at})
		return true
	})
}

// emit is what EventBridge Scheduler does with an event: at least one delivery,
// late, perhaps several, or none after two minutes of trying.
func (fn *function) emit(d dice, e event) {
	w := fn.w
	due := e.scheduled.Add(d.between(0, lateness))
	disorder, lose, duplicate := w.danger(func(g dangers) float64 { return g.disorder }),
		w.danger(func(g dangers) float64 { return g.lose }), w.danger(func(g dangers) float64 { return g.duplicate })
	if d.chance(disorder) {
		due = e.scheduled.Add(d.between(0, maxEventAge-time.Second))
		w.note(due)
	}
	if d.chance(lose) {
		w.lostRun(due)
		return
	}
	w.agenda.at(due, func() { fn.deliver(e, due, time.Second) })
	for copies := 0; copies < 3 && d.chance(duplicate); copies++ {
		w.note(due)
		w.agenda.at(due.Add(d.between(0, 90*time.Second)), func() { fn.deliver(e, due, time.Second) })
	}
}

// deliver hands an event to the function. While it is throttled Lambda's queue
// tries again, ever more seldom, until the event is too old.
func (fn *function) deliver(e event, since time.Time, wait time.Duration) {
	w := fn.w
	if w.danger(func(g dangers) float64 { return g.throttled }) == 0 && fn.hasRoom() {
		fn.invoke(e)
		return
	}
	w.alarms.throttled(w.now())
	w.counts.throttles++
	again := w.now().Add(wait)
	if again.Sub(since) > maxEventAge {
		w.lostRun(since)
		return
	}
	w.agenda.at(again, func() { fn.deliver(e, since, 2*wait) })
}

// danger is how likely something is now.
func (w *world) danger(which func(dangers) float64) float64 {
	return min(1, which(w.dangers)+which(w.everyday))
}
