package simulation

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/wcharczuk/go-chart/v2"
	"github.com/wcharczuk/go-chart/v2/drawing"
)

// pictured is how much of the year a picture shows.
const pictured = 48 * time.Hour

// The axis, in minutes; below zero is room for the bars.
const lowest, highest = -10.0, 60.0

var (
	shade      = drawing.Color{R: 245, G: 158, B: 11, A: 70}
	oursColor  = drawing.Color{R: 37, G: 99, B: 235, A: 255}
	naiveColor = drawing.Color{R: 220, G: 38, B: 38, A: 255}
)

// draw writes the two days in which most happened as an SVG: the life left in
// the token that readers have, outages shaded, the gaps of both ways marked
// below the axis. A name that ends in .png makes it a PNG.
func (y year) draw(file string) error {
	w, days := y.eventful()
	picture := chart.Chart{
		Width: 1200, Height: 420,
		Background: chart.Style{Padding: chart.Box{Top: 40, Left: 20, Right: 25, Bottom: 10}},
		XAxis:      chart.XAxis{Ticks: hours(days), Range: &chart.ContinuousRange{Min: 0, Max: pictured.Hours()}},
		YAxis:      chart.YAxis{AxisType: chart.YAxisSecondary, Ticks: tens(), Range: &chart.ContinuousRange{Min: lowest, Max: highest}},
	}
	name := "shaded: nothing can be published"
	for _, t := range w.troubles {
		if c := t.span; len(t.kinds) > 0 && c.common(days) > 0 {
			from, to := days.hour(c.from), days.hour(c.to)
			picture.Series = append(picture.Series, stroke(name, shade, 8, []float64{from, from, to, to}, []float64{0, highest, highest, 0}))
			name = ""
		}
	}
	naiveX, naiveY := w.naiveTokens.sawtooth(days)
	oursX, oursY := w.tokens.sawtooth(days)
	picture.Series = append(picture.Series,
		stroke("the naive way (bar: readers without a token)", naiveColor, 1, naiveX, naiveY), stroke("iam-token-rotator (bar: likewise)", oursColor, 1.5, oursX, oursY))
	picture.Series = append(picture.Series, w.tokens.marks(days, oursColor, -3)...)
	picture.Series = append(picture.Series, w.naiveTokens.marks(days, naiveColor, -7)...)
	picture.Elements = []chart.Renderable{chart.LegendThin(&picture)}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	if strings.HasSuffix(file, ".png") {
		return picture.Render(chart.PNG, out)
	}
	return picture.Render(chart.SVG, out)
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

// sawtooth is the life left over time, in hours and minutes, never below zero.
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

// marks draws the gaps as bars at a height below the axis.
func (t *timeline) marks(s span, color drawing.Color, height float64) (bars []chart.Series) {
	for _, g := range t.gaps {
		if g.common(s) > 0 {
			from, to := s.hour(g.from), s.hour(g.to)
			bars = append(bars, stroke("", color, 5, []float64{from, max(to, from+0.05)}, []float64{height, height}))
		}
	}
	return bars
}

// stroke is a line, or an area in the see-through color of shades.
func stroke(name string, color drawing.Color, width float64, x, y []float64) chart.Series {
	style := chart.Style{StrokeColor: color, StrokeWidth: width}
	if color == shade {
		style = chart.Style{StrokeColor: color, StrokeWidth: 0.1, FillColor: color}
	}
	return chart.ContinuousSeries{Name: name, Style: style, XValues: x, YValues: y}
}

func hours(s span) (ticks []chart.Tick) {
	for h := 0; h <= int(s.length().Hours()); h += 6 {
		ticks = append(ticks, chart.Tick{Value: float64(h), Label: fmt.Sprintf("%02d:00", h%24)})
	}
	return ticks
}

func tens() []chart.Tick {
	ticks := []chart.Tick{{Value: lowest}} // the axis reaches from the first tick to the last
	for m := 0; m <= int(highest); m += 10 {
		ticks = append(ticks, chart.Tick{Value: float64(m), Label: fmt.Sprint(m)})
	}
	return ticks
}

// hour is where a moment stands in a picture of s.
func (s span) hour(at time.Time) float64 { return earlier(later(at, s.from), s.to).Sub(s.from).Hours() }

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
