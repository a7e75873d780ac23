package simulation

import (
	"slices"
	"time"
)

// cache is a reader that keeps the token that it has read, and uses it all the time.
type cache struct {
	name        string
	least, most time.Duration // how long it keeps a token: a random time between these
	rule        bool          // keeps it no longer than a minute before it expires, the rule of iamtoken/README.md
}

var caches = []cache{
	{"by the rule, 5 minutes at most", 5 * time.Minute, 5 * time.Minute, true},
	{"of 300 s, as the Lambda extension's", 5 * time.Minute, 5 * time.Minute, false},
	{"of half an hour to an hour, as AWS's clients'", 30 * time.Minute, time.Hour, false},
}

// between is how often a reader asks while it may not keep the token.
const between = 10 * time.Second

// reads calls use for each span of time in which the reader has the same token.
func (c cache) reads(t *timeline, d dice, from, to time.Time, use func(s span, token published)) {
	for at := from; at.Before(to); {
		token := t.current(at)
		next := at.Add(d.between(c.least, c.most))
		if c.rule {
			next = earlier(next, later(token.expires.Add(-time.Minute), at.Add(between)))
			if token.expires.After(at) {
				next = earlier(next, token.expires)
			}
		}
		use(span{at, earlier(next, to)}, token)
		at = next
	}
}

// cached is what readers with one cache met.
type cached struct {
	lost  time.Duration
	calm  time.Duration // the least remaining lifetime in use where no fault was; 0 if there was none
	worst time.Duration // the longest without a token that works
}

// checkCaches: readers with a cache by the rule have an expired token only where readers without a cache do; others also for as long
// afterwards as they keep a token.
func (sim *simulation) checkCaches() {
	sim.cached = make([]cached, len(caches))
	for i, c := range caches {
		seen, since := &sim.cached[i], time.Time{}
		c.reads(&sim.tokens, newDice(sim.seed, c.name), sim.tokens.tokens[0].at, sim.end, func(s span, token published) {
			gap := span{later(s.from, token.expires), s.to}
			if gap.length() <= 0 {
				since = time.Time{}
			} else {
				if gap.from.After(s.from) || since.IsZero() {
					since = gap.from
				}
				seen.lost, seen.worst = seen.lost+gap.length(), max(seen.worst, s.to.Sub(since))
				sim.violatedIf(c.most < standard.mustRemain(shortLifetime, false) && !sim.excuses(token, gap, c.most),
					s.to, "a cache %s had an expired token for %s, and no fault excuses it", c.name, gap.length())
			}
			if left := token.expires.Sub(s.to); sim.isCalm(s, token) && (seen.calm == 0 || left < seen.calm) {
				seen.calm = left
			}
		})
		most := sim.tokens.lost() + time.Duration(len(sim.tokens.gaps))*between
		sim.violatedIf(c.rule && seen.lost > most, sim.end, "a cache by the rule had an expired token for %s, without a cache it is %s", seen.lost, sim.tokens.lost())
	}
}

// isCalm reports whether s, in which a cache used the token, has no fault and the usual lifetime.
func (sim *simulation) isCalm(s span, token published) bool {
	quiet, lost := sim.quiet(span{token.at.Add(-10 * time.Minute), s.to})
	return quiet && lost == 0 && token.lifetime() == sim.lifetime
}

// excuses reports whether a reader may have had an expired token during s, with a cache that keeps one for keep.
func (sim *simulation) excuses(token published, s span, keep time.Duration) bool {
	return !s.to.After(sim.forgedUntil(token, s.to).Add(sim.untilNext(token)+keep)) ||
		// checkGaps has compared them with the bound.
		slices.ContainsFunc(sim.tokens.gaps, func(g span) bool { return !s.from.Before(g.from) && !s.to.After(g.to.Add(keep)) }) ||
		// A new token came in time, but the cache still had the old one.
		slices.ContainsFunc(sim.outages, func(t outage) bool { return t.excuses(s, keep) })
}

// cacheFigures are the numbers of readers with a cache.
func (y year) cacheFigures(say func(format string, args ...any)) {
	for i, c := range caches {
		var sum cached
		for _, sim := range y.parts {
			met := sim.cached[i]
			if sum.calm == 0 || met.calm != 0 && met.calm < sum.calm {
				sum.calm = met.calm
			}
			sum.lost, sum.worst = sum.lost+met.lost, max(sum.worst, met.worst)
		}
		say("a cache %s: an expired token for %s, %.2f%% of the time, at most %s at once; without faults at least %s left",
			c.name, short(sum.lost), 100*sum.lost.Hours()/(24*float64(y.days)), short(sum.worst), short(sum.calm))
	}
}
