package simulation

import (
	"slices"
	"time"
)

// kind is a kind of fault.
type kind struct {
	name string
	// excuse is zero for a fault during which no reader may meet an expired
	// token. Else publishing is impossible while it lasts; readers may meet one
	// once the life that was left is used up, and until excuse after its end.
	excuse time.Duration
	// span draws how long it lasts.
	span func(d dice) time.Duration
	// begin begins it and returns what ends it. w.now() is its start.
	begin func(w *world, d dice, until time.Time) (end func())
	// apart names kinds that it never meets, for a reason said where it is set.
	apart []string
}

const (
	// promised is how long after an outage of IAM or Secrets Manager a reader
	// may still meet an expired token (promise 1).
	promised = 60 * time.Second
	// nextEnsure is the same where no run is under way that could try again,
	// since runs end at once or do not begin: two ensure runs begin up to 120 s
	// apart (every minute, up to 60 s late) and take up to 10 s.
	nextEnsure = 130 * time.Second
)

// kinds are all there are.
func kinds(expectSet bool) []kind {
	all := slices.Concat(outages(), answers(), secrets(expectSet), host(), delivery())
	for _, k := range all {
		for _, other := range k.apart {
			if !slices.ContainsFunc(all, func(k kind) bool { return k.name == other }) {
				panic("no kind of fault is called " + other)
			}
		}
	}
	return all
}

// upTo3h is how long outages last: 1 s to 3 h, short ones as likely as long ones.
func upTo3h(d dice) time.Duration { return d.anyScale(time.Second, 3*time.Hour) }

func minutes(least, most int) func(d dice) time.Duration {
	return func(d dice) time.Duration {
		return d.anyScale(time.Duration(least)*time.Minute, time.Duration(most)*time.Minute)
	}
}

// network is a fault that is a storm and nothing else.
func network(name string, excuse time.Duration, span func(dice) time.Duration, draw func(w *world, d dice) *storm) kind {
	return kind{name: name, excuse: excuse, span: span, begin: func(w *world, d dice, _ time.Time) func() {
		return w.weather.add(draw(w, d))
	}}
}

// window is one fault of the story.
type window struct {
	kind
	from, to time.Time
}

// plan draws the faults of a story: one every few hours, and every third brings
// others with it that begin while it lasts. A kind does not overlap itself.
func plan(d dice, all []kind, start, end time.Time, mean time.Duration) []window {
	var story []window
	add := func(at time.Time) (window, bool) {
		k := pick(d, all...)
		w := window{k, at, at.Add(k.span(d))}
		if w.to.After(end) || slices.ContainsFunc(story, w.clashes) {
			return window{}, false
		}
		story = append(story, w)
		return w, true
	}
	for at := start; at.Before(end); at = at.Add(time.Duration(d.ExpFloat64() * float64(mean))) {
		w, ok := add(at)
		for ok && d.chance(1.0/3) {
			_, ok = add(w.from.Add(d.between(0, w.to.Sub(w.from)+time.Minute)))
		}
	}
	slices.SortFunc(story, func(a, b window) int { return a.from.Compare(b.from) })
	return story
}

// clashes reports whether two faults overlap, or nearly, that must not.
func (w window) clashes(other window) bool {
	const near = 2 * time.Hour // what one leaves in the stored version lives on
	if w.from.After(other.to.Add(near)) || other.from.After(w.to.Add(near)) {
		return false
	}
	if slices.Contains(w.apart, other.name) || slices.Contains(other.apart, w.name) {
		return true
	}
	return w.name == other.name && !w.from.After(other.to) && !other.from.After(w.to)
}

// begin puts the faults of a story on the agenda.
func (w *world) schedule(story []window) {
	for i, fault := range story {
		d := newDice(w.seed, "fault "+time.Duration(i).String())
		w.agenda.at(fault.from, func() {
			end := fault.begin(w, d, fault.to)
			w.agenda.at(fault.to, end)
		})
	}
}
