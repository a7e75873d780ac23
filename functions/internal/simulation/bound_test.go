package simulation

import (
	"slices"
	"time"
)

// trouble is a stretch in which nothing could be published: faults with an
// excuse that overlap, or follow each other before the first's excuse is used
// up, count as one.
type trouble struct {
	span                    // from the first fault's beginning to the last one's end
	excused   time.Time     // until when readers may meet an expired token
	left      time.Duration // R: the life that was left when it began
	kinds     []string
	gap       time.Duration // readers without a token, within it
	recovered time.Time     // when the last of them had one again
}

// bound is promise 1: nothing while D ≤ R − excuse, D − R + excuse beyond.
func (t trouble) bound() time.Duration {
	return max(0, t.excused.Sub(t.from)-t.left)
}

// findTroubles merges the faults that excuse something.
func (w *world) findTroubles() []trouble {
	var excusing []trouble
	for _, f := range w.story {
		if f.excuse > 0 {
			excusing = append(excusing, trouble{span: span{f.from, f.to}, excused: f.to.Add(f.excuse), kinds: []string{f.name}})
		}
	}
	for _, run := range w.lost {
		excusing = append(excusing, trouble{span: span{run.at, run.at}, excused: run.at.Add(nextEnsure)})
	}
	slices.SortFunc(excusing, func(a, b trouble) int { return a.from.Compare(b.from) })
	var merged []trouble
	for _, t := range excusing {
		if n := len(merged); n > 0 && !t.from.After(merged[n-1].excused) {
			before := &merged[n-1]
			before.to, before.excused = later(before.to, t.to), later(before.excused, t.excused)
			before.kinds = append(before.kinds, t.kinds...)
			continue
		}
		merged = append(merged, t)
	}
	for i, t := range merged {
		merged[i].left = w.leftAt(t)
	}
	return merged
}

// leftAt is R, the life left in the token that readers have when a trouble
// begins. One exception is made and said in README.md: where metadata was changed
// so that this token seemed expired, and a token of a shorter life replaced it
// meanwhile, that one's counts.
func (w *world) leftAt(t trouble) time.Duration {
	expires := w.tokens.current(t.from).expires
	for _, token := range w.shortened {
		if !token.at.Before(t.from) && token.at.Before(t.excused) {
			expires = earlier(expires, token.expires)
		}
	}
	return max(0, expires.Sub(t.from))
}

// checkGaps holds every moment at which readers had no token against the bound,
// and the alarms against the moment at which it began.
func (w *world) checkGaps() {
	troubles := w.troubles
	for _, g := range w.tokens.gaps {
		i := slices.IndexFunc(troubles, func(t trouble) bool { return !g.from.Before(t.from) && !g.to.After(t.excused) })
		switch {
		case w.forgedShort(g):
			// Not promised: see forgedShort.
		case i < 0:
			w.violated(g.from, "readers had no token for %s, and no fault excuses it", g.length())
		default:
			troubles[i].gap, troubles[i].recovered = troubles[i].gap+g.length(), g.to
			if t := troubles[i]; t.gap > t.bound() {
				w.violated(g.from, "readers had no token for %s; the faults %q lasted %s with %s left, so at most %s are excused",
					t.gap, t.kinds, t.length(), t.left, t.bound())
			}
		}
		if _, heard := w.alarms.heardSince(g.from); !heard && !w.forgedShort(g) {
			w.violated(g.from, "readers had no token for %s, and no alarm rang before", g.length())
		}
	}
}

// forgedShort tells of the one gap that is neither bounded nor heard, by design:
// the metadata of a 15-minute token was forged to a later expiry. It is believed
// up to 61 minutes after the version was made, since only the value tells more,
// and the rotator has no right to read that. So `ensure` steps in after at most
// 61 − 8 minutes, or the rotate schedule before.
func (w *world) forgedShort(g span) bool {
	token := w.tokens.current(g.from)
	forged := slices.ContainsFunc(w.story, func(f window) bool {
		return f.name == metadataForged && !f.from.Before(token.at) && f.from.Before(g.to)
	})
	return forged && token.expires.Sub(token.born) <= 15*time.Minute && g.to.Sub(token.at) <= 61*time.Minute-8*time.Minute+nextEnsure
}
