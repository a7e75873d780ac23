package simulation

import (
	"bytes"
	"strconv"
	"time"
)

// series are the points of a metric in the last minutes.
type series []point

type point struct {
	stamp, arrives time.Time
	value          float64
}

func (s series) since(t time.Time) series {
	for len(s) > 0 && s[0].arrives.Before(t) {
		s = s[1:]
	}
	return s
}

// lowest is FILL(minimum, 0) of the period that ends at end.
func (s series) lowest(now, end time.Time, period time.Duration) float64 {
	lowest, found := 0.0, false
	for _, p := range s {
		if p.in(now, end, period) && (!found || p.value < lowest) {
			lowest, found = p.value, true
		}
	}
	return lowest
}

func (s series) count(now, end time.Time, period time.Duration) (n int) {
	for _, p := range s {
		if p.in(now, end, period) {
			n++
		}
	}
	return n
}

// in reports whether the point is in the period that ends at end, and has arrived.
func (p point) in(now, end time.Time, period time.Duration) bool {
	return !p.arrives.After(now) && !p.stamp.Before(end.Add(-period)) && p.stamp.Before(end)
}

// value finds a number in a line. A year has half a million lines, so this does
// not decode them; a name stands before a colon only where its value follows.
func value(line []byte, name string) (float64, bool) {
	_, after, found := bytes.Cut(line, []byte(`"`+name+`":`))
	if !found {
		return 0, false
	}
	end := bytes.IndexAny(after, ",}")
	number, err := strconv.ParseFloat(string(after[:end]), 64)
	return number, err == nil
}
