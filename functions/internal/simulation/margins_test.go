package simulation

import "time"

// What is left of a token at least when the next one is published.
const (
	undisturbed = 8*time.Minute + 50*time.Second
	disturbed   = 5*time.Minute + 50*time.Second
)

// checkMargins: without faults at least 8:50 is left of a 60-minute token when
// the next is published; of a 15-minute token, or after one lost run, 5:50.
func (w *world) checkMargins() {
	for i, m := range w.margins {
		quiet, lost := w.quiet(m.since.Add(-10*time.Minute), m.at)
		if !quiet || lost > 1 {
			continue
		}
		least := undisturbed
		if lost == 1 || m.lifetime <= 15*time.Minute {
			least = disturbed
		}
		w.margins[i].promised = least
		if m.left < least {
			w.violated(m.at, "only %s were left of a token of %s, without faults and with %d runs lost", m.left, m.lifetime, lost)
		}
	}
}

// quiet reports whether nothing was wrong in a stretch but that runs were lost.
// A shorter lifetime is none of the faults: it has a bound of its own.
func (w *world) quiet(from, to time.Time) (quiet bool, lost int) {
	for _, f := range w.story {
		if f.name != lifetimeCut && !f.from.After(to) && !f.to.Add(5*time.Minute).Before(from) {
			return false, 0
		}
	}
	for _, at := range w.noted {
		if !at.After(to) && at.After(from) {
			return false, 0
		}
	}
	for _, run := range w.lost {
		if !run.at.After(to) && run.at.After(from) {
			lost++
		}
	}
	return true, lost
}

// checkAlarms: none rings without a reason, or the check of gaps would be empty.
func (w *world) checkAlarms() {
	for name, rings := range w.alarms.ringing {
		for _, ring := range rings {
			if quiet, lost := w.quiet(ring.from.Add(-15*time.Minute), ring.from); quiet && lost == 0 {
				w.violated(ring.from, "the alarm %s rang, and nothing was wrong", name)
			}
		}
	}
	if w.alarms.leaked {
		w.violated(w.end, "a line of metrics held a token")
	}
}
