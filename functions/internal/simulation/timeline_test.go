package simulation

import (
	"sort"
	"time"
)

// timeline is what readers of a token secret see: which token from when on, and
// when that really expires.
type timeline struct {
	tokens []published
	gaps   []span // when readers had no token that works
}

type published struct {
	at      time.Time
	expires time.Time // the payload's own; at, if it is none that readers can use
	born    time.Time // issued
}

// publish puts a token before the readers.
func (t *timeline) publish(p published) {
	if from := t.brokenFrom(); len(t.tokens) > 0 && from.Before(p.at) {
		t.gap(from, p.at)
	}
	t.tokens = append(t.tokens, p)
}

// brokenFrom is when the current token stops working.
func (t *timeline) brokenFrom() time.Time {
	if len(t.tokens) == 0 {
		return time.Time{}
	}
	last := t.tokens[len(t.tokens)-1]
	return later(last.expires, last.at)
}

// gap notes one; two that touch are one.
func (t *timeline) gap(from, to time.Time) {
	if n := len(t.gaps); n > 0 && t.gaps[n-1].to.Equal(from) {
		t.gaps[n-1].to = to
		return
	}
	t.gaps = append(t.gaps, span{from, to})
}

// close ends the story.
func (t *timeline) close(end time.Time) {
	if from := t.brokenFrom(); from.Before(end) {
		t.gap(from, end)
	}
}

// current is the token that readers see at a moment; the zero value when none.
func (t *timeline) current(at time.Time) published {
	n := sort.Search(len(t.tokens), func(i int) bool { return t.tokens[i].at.After(at) })
	if n == 0 {
		return published{}
	}
	return t.tokens[n-1]
}

// lost is how long readers had no token in all.
func (t *timeline) lost() (sum time.Duration) {
	for _, g := range t.gaps {
		sum += g.length()
	}
	return sum
}

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// common is how much of s lies in other.
func (s span) common(other span) time.Duration {
	return max(0, earlier(s.to, other.to).Sub(later(s.from, other.from)))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
