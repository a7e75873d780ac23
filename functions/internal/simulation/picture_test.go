package simulation

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pictured is how much of the year a picture shows.
const pictured = 48 * time.Hour

// The picture in pixels: an hour is 22 wide, a minute 5 high, and the bars of the gaps lie below the axis.
const (
	pictureWidth, pictureHeight = 1200, 450
	axisLeft, axisBottom        = 60.0, 370.0
	perHour, perMinute          = 22.0, 5.0
	oursColor, naiveColor       = "#2563eb", "#dc2626"
)

// draw writes the two days in which most happened as an SVG: the minutes left in the token that readers have, outages
// shaded, the gaps of both ways marked below the axis.
func (y year) draw(file string) error { return os.WriteFile(file, y.picture(), 0o644) }

func (y year) picture() []byte {
	w, days := y.eventful()
	var p picture
	p.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`, pictureWidth, pictureHeight)
	p.add(`<rect width="100%%" height="100%%" fill="white"/>`)
	p.text(axisLeft, 24, "start", "Minutes left in the stored token, seed %d, 48 hours from %s", y.seed, days.from.Format("2006-01-02 15:04 MST"))
	for _, t := range w.troubles {
		if len(t.kinds) > 0 && t.common(days) > 0 {
			x := axisX(days.hour(t.from))
			p.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="300" fill="#f59e0b" fill-opacity="0.3"/>`, x, axisBottom-300, axisX(days.hour(t.to))-x)
		}
	}
	p.axes()
	p.line(&w.naiveTokens, days, naiveColor)
	p.line(&w.tokens, days, oursColor)
	p.gaps(&w.tokens, days, oursColor, axisBottom+5)
	p.gaps(&w.naiveTokens, days, naiveColor, axisBottom+13)
	for i, entry := range [][2]string{{oursColor, "iam-token-rotator"}, {naiveColor, "the naive way"}, {"#f59e0b", "an outage or a fault"}} {
		x := axisLeft + float64(i)*180
		p.add(`<rect x="%.1f" y="36" width="14" height="10" fill="%s"/>`, x, entry[0])
		p.text(x+20, 46, "start", "%s", entry[1])
	}
	p.text(axisLeft+3*180+20, 46, "start", "bars below the axis: readers had no valid token")
	p.add(`</svg>`)
	return p.Bytes()
}

// picture is an SVG in the making.
type picture struct{ bytes.Buffer }

func (p *picture) add(format string, args ...any) { _, _ = fmt.Fprintf(p, format+"\n", args...) }

func (p *picture) text(x, y float64, anchor, format string, args ...any) {
	p.add(`<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, fmt.Sprintf(format, args...))
}

// axes draws a line every ten minutes and a tick every six hours.
func (p *picture) axes() {
	right := axisX(pictured.Hours())
	for minutes := 0; minutes <= 60; minutes += 10 {
		y := axisBottom - float64(minutes)*perMinute
		p.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#d1d5db"/>`, axisLeft, y, right, y)
		p.text(axisLeft-8, y+4, "end", "%d", minutes)
	}
	for hour := 0; hour <= int(pictured.Hours()); hour += 6 {
		x := axisX(float64(hour))
		p.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#6b7280"/>`, x, axisBottom, x, axisBottom+20)
		p.text(x, axisBottom+36, "middle", "%d h", hour)
	}
	p.text(axisX(pictured.Hours()/2), axisBottom+58, "middle", "hours")
	p.add(`<text transform="translate(18 %.1f) rotate(-90)" text-anchor="middle">minutes left</text>`, axisBottom-150)
}

func axisX(hour float64) float64 { return axisLeft + hour*perHour }

// line draws the minutes left over time.
func (p *picture) line(t *timeline, days span, color string) {
	var points strings.Builder
	hours, minutes := t.sawtooth(days)
	for i := range hours {
		fmt.Fprintf(&points, "%.1f,%.1f ", axisX(hours[i]), axisBottom-minutes[i]*perMinute)
	}
	p.add(`<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`, points.String(), color)
}

// gaps draws bars for when readers had no token, the shortest one pixel wide.
func (p *picture) gaps(t *timeline, days span, color string, y float64) {
	for _, g := range t.gaps {
		if g.common(days) > 0 {
			x := axisX(days.hour(g.from))
			p.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="6" fill="%s"/>`, x, y, max(1, axisX(days.hour(g.to))-x), color)
		}
	}
}

// eventful finds the stretch with most outages and gaps.
func (y year) eventful() (best *world, days span) {
	most := -1.0
	for _, w := range y.parts {
		for from := w.start; from.Before(w.end); from = from.Add(24 * time.Hour) {
			s := span{from, earlier(from.Add(pictured), w.end)}
			score := 0.0
			for _, g := range w.tokens.gaps {
				score += math.Min(2, g.common(s).Hours()) * 3
			}
			for _, t := range w.troubles {
				score += math.Min(1, t.common(s).Hours())
			}
			if score > most {
				most, best, days = score, w, s
			}
		}
	}
	return best, days
}

// sawtooth is the remaining lifetime over time, in hours and minutes, never below zero.
func (t *timeline) sawtooth(s span) (x, y []float64) {
	for i, token := range t.tokens {
		until := s.to
		if i+1 < len(t.tokens) {
			until = t.tokens[i+1].at
		}
		if until.Before(s.from) || token.at.After(s.to) {
			continue
		}
		from := later(token.at, s.from)
		until = earlier(until, s.to)
		x, y = append(x, s.hour(from)), append(y, left(token, from))
		if dead := later(token.expires, from); dead.Before(until) {
			x, y = append(x, s.hour(dead)), append(y, 0)
		}
		x, y = append(x, s.hour(until)), append(y, left(token, until))
	}
	return x, y
}

func left(token published, at time.Time) float64 { return max(0, token.expires.Sub(at).Minutes()) }

// hour is the place of a moment in a picture of s.
func (s span) hour(at time.Time) float64 { return earlier(later(at, s.from), s.to).Sub(s.from).Hours() }

// The picture has a title, two axes, and as many bars as there are gaps.
func TestPicture(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	tokens := timeline{tokens: []published{{at: at(0), expires: at(60)}, {at: at(50), expires: at(110)}}}
	naive := timeline{tokens: tokens.tokens[:1], gaps: []span{{at(60), at(90)}}}
	w := &world{start: start, end: start.Add(pictured), tokens: tokens, naiveTokens: naive}
	w.troubles = []trouble{{span: span{at(40), at(70)}, kinds: []string{"iam"}}}
	got := string(year{seed: 1, parts: []*world{w}}.picture())
	for want, times := range map[string]int{
		"Minutes left in the stored token, seed 1": 1, ">60</text>": 1, ">48 h</text>": 1, `height="300"`: 1, `height="6"`: 1, "<polyline": 2, "NaN": 0, "%!": 0,
		`<rect x="82.0" y="383.0" width="11.0"`: 1, // half an hour, an hour after the start
		"60.0,70.0 78.3,320.0 78.3,70.0":        1, // 60 minutes left, 10 left, 60 again
	} {
		if n := strings.Count(got, want); n != times {
			t.Errorf("got %q %d times, want %d, in\n%s", want, n, times, got)
		}
	}
}

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
