package simulation

import (
	"fmt"
	"slices"
	"time"
)

// judge holds the whole story against the promises, once it is over.
func (w *world) judge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = w.findTroubles()
	w.checkGaps()
	w.checkMargins()
	w.checkAlarms()
}

// year is what the stories of a seed came to together.
type year struct {
	seed  uint64
	days  int
	parts []*world
}

func (y year) violations() (all []string) {
	for i, w := range y.parts {
		for _, violation := range w.violations {
			all = append(all, fmt.Sprintf("part %d, %s", i+1, violation))
		}
	}
	return all
}

func (y year) sum(of func(w *world) time.Duration) (sum time.Duration) {
	for _, w := range y.parts {
		sum += of(w)
	}
	return sum
}

func (y year) count(of func(w *world) int) (sum int) {
	for _, w := range y.parts {
		sum += of(w)
	}
	return sum
}

// availability is the share of the time in which readers had a token, in percent.
func (y year) availability(of func(w *world) *timeline) float64 {
	all := y.sum(func(w *world) time.Duration { return w.end.Sub(w.start) })
	lost := y.sum(func(w *world) time.Duration { return of(w).lost() })
	return 100 * (1 - float64(lost)/float64(all))
}

func ours(w *world) *timeline     { return &w.tokens }
func theNaive(w *world) *timeline { return &w.naiveTokens }

// leftovers are the margins of the year, smallest first.
func (y year) leftovers() (all []time.Duration) {
	for _, w := range y.parts {
		for _, m := range w.margins {
			all = append(all, m.left)
		}
	}
	slices.Sort(all)
	return all
}

// smallest is the least that was left where so much is promised, and how often
// that was the case.
func (y year) smallest(least time.Duration) (left time.Duration, times int) {
	for _, w := range y.parts {
		for _, m := range w.margins {
			if m.promised == least {
				if times++; times == 1 || m.left < left {
					left = m.left
				}
			}
		}
	}
	return left, times
}

// recovery is the longest that readers were without a token after the end of an
// outage of the kind that promise 1 speaks of; lost runs did not follow it.
func (y year) recovery() (longest time.Duration) {
	for _, w := range y.parts {
		for _, t := range w.troubles {
			if t.gap > 0 && t.excused.Sub(t.to) == promised {
				longest = max(longest, t.recovered.Sub(t.to))
			}
		}
	}
	return longest
}

// unheard counts the gaps that no alarm can tell of, see forgedShort.
func (y year) unheard() (n int) {
	for _, w := range y.parts {
		for _, g := range w.tokens.gaps {
			if w.forgedShort(g) {
				n++
			}
		}
	}
	return n
}

// notices are how long before each gap the first alarm rang, shortest first.
func (y year) notices() (all []time.Duration) {
	for _, w := range y.parts {
		for _, g := range w.tokens.gaps {
			if from, heard := w.alarms.heardSince(g.from); heard {
				all = append(all, g.from.Sub(from))
			}
		}
	}
	slices.Sort(all)
	return all
}
