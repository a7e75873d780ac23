package simulation

import (
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"time"
)

// agenda lists what will happen, the latest first. What is due at the same moment happens in the order in which it was added. One
// goroutine works through it.
type agenda struct{ entries []entry }

type entry struct {
	at time.Time
	do func()
}

func (a *agenda) at(t time.Time, do func()) {
	i := sort.Search(len(a.entries), func(i int) bool { return !a.entries[i].at.After(t) })
	a.entries = slices.Insert(a.entries, i, entry{t, do})
}

// every calls do at first and again after each period, until last.
func (a *agenda) every(period time.Duration, first, last time.Time, do func(at time.Time)) {
	if !first.After(last) {
		a.at(first, func() {
			do(first)
			a.every(period, first.Add(period), last, do)
		})
	}
}

// work does what is due until end, sleeping in between.
func (a *agenda) work(end time.Time) {
	for n := len(a.entries) - 1; n >= 0 && !a.entries[n].at.After(end); n = len(a.entries) - 1 {
		next := a.entries[n]
		a.entries = slices.Delete(a.entries, n, n+1)
		time.Sleep(time.Until(next.at))
		next.do()
	}
	time.Sleep(time.Until(end))
}

// timeline is what readers of a token secret see: each token, from when on, and when it really expires.
type timeline struct {
	tokens []published
	gaps   []span // when readers had no token that works
}

type published struct {
	at      time.Time
	expires time.Time // by the payload; at, if readers cannot use it
	issued  time.Time // issued
}

func (p published) lifetime() time.Duration { return p.expires.Sub(p.issued) }

// publish adds a token that readers see from p.at on.
func (t *timeline) publish(p published) {
	if len(t.tokens) > 0 {
		t.close(p.at)
	}
	t.tokens = append(t.tokens, p)
}

// close records the gap that lasts until end, if there is one. Two gaps that touch become one.
func (t *timeline) close(end time.Time) {
	last := t.current(end)
	from := later(last.expires, last.at)
	switch n := len(t.gaps); {
	case !from.Before(end):
	case n > 0 && t.gaps[n-1].to.Equal(from):
		t.gaps[n-1].to = end
	default:
		t.gaps = append(t.gaps, span{from, end})
	}
}

// current is the token that readers see at a moment; the zero value when none.
func (t *timeline) current(at time.Time) published {
	if n := sort.Search(len(t.tokens), func(i int) bool { return t.tokens[i].at.After(at) }); n > 0 {
		return t.tokens[n-1]
	}
	return published{}
}

// lost is how long readers had no token in all.
func (t *timeline) lost() (sum time.Duration) {
	for _, g := range t.gaps {
		sum += g.length()
	}
	return sum
}

// span is a stretch of time.
type span struct{ from, to time.Time }

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// common is how much of s lies in other.
func (s span) common(other span) time.Duration {
	return max(0, earlier(s.to, other.to).Sub(later(s.from, other.from)))
}

func earlier(a, b time.Time) time.Time { return slices.MinFunc([]time.Time{a, b}, time.Time.Compare) }
func later(a, b time.Time) time.Time   { return slices.MaxFunc([]time.Time{a, b}, time.Time.Compare) }

// dice are seeded: the same seed and name give the same random numbers.
type dice struct{ *rand.Rand }

func newDice(seed uint64, name string) dice {
	return dice{rand.New(rand.NewPCG(seed, hash(name)))}
}

func (d dice) chance(p float64) bool { return d.Float64() < p }

// between is uniform from least up to most.
func (d dice) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Float64()*float64(most-least))
}

// anyScale is log-uniform: 1 to 2 seconds are as likely as 1 to 2 hours.
func (d dice) anyScale(least, most time.Duration) time.Duration {
	return time.Duration(float64(least) * math.Pow(float64(most)/float64(least), d.Float64()))
}

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

// hash is a random number that does not depend on the order in which goroutines ask for it: for example that of the nth request of
// a kind within an invocation.
func hash(words ...string) uint64 {
	h := fnv.New64a()
	for _, word := range words {
		_, _ = io.WriteString(h, word+"\x00")
	}
	return h.Sum64()
}

// share turns a hash into a number from 0 up to 1.
func share(h uint64) float64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd // FNV alone leaves neighbours close together
	h ^= h >> 33
	return float64(h>>11) / (1 << 53)
}
