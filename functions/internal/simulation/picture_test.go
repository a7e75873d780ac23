package simulation

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"html"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// picture is the body of an SVG. Its style follows the reader's choice of light or dark. A picture 750 wide is 375 pixels wide on a
// telephone, where its letters of 26 have 13 pixels.
type picture struct{ bytes.Buffer }

const style = `<style>
text{font:26px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}
.bold{font-weight:600}.end{text-anchor:end}.mid{text-anchor:middle}
.back{fill:#fff}.grid{stroke:#818b98;stroke-opacity:.45}.shade{fill:#818b98;fill-opacity:.35}
.area{fill:#0969da;fill-opacity:.3;stroke:#0969da;stroke-width:2}rect.red,text.red{fill:#cf222e}
.frame{fill:none;stroke:#818b98;stroke-opacity:.6}.small{font-size:22px}.large{font-size:56px;font-weight:600}.green{fill:#1a7f37}
.line,.limit{fill:none;stroke-width:4;stroke-linecap:round;stroke:#0969da}.limit{stroke:#9a6700;stroke-width:2;stroke-dasharray:7 4}.c1{stroke:#bc4c00}.c2{stroke:#8250df}.c3{stroke:#1a7f37}.c4{stroke:#bf3989}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.back{fill:#0d1117}.area{fill:#4493f8;stroke:#4493f8}.c0{stroke:#4493f8}.c1{stroke:#f0883e}.c2{stroke:#a371f7}.c3{stroke:#3fb950}.c4{stroke:#f778ba}.limit{stroke:#d29922}rect.red,text.red{fill:#ff6a69}.green{fill:#3fb950}}
</style>`

func (p *picture) add(format string, args ...any) { _, _ = fmt.Fprintf(p, format+"\n", args...) }

func (p *picture) text(x, y float64, class, format string, args ...any) {
	p.add(`<text x="%.0f" y="%.0f" class="%s">%s</text>`, x, y, class, html.EscapeString(fmt.Sprintf(format, args...)))
}

const lineHeight = 33

// widthOf is the width of a text in the widest of the usual fonts.
func widthOf(text, class string) (sum float64) {
	letter := map[string]float64{"": 16, "bold": 18, "small": 13.6}[class]
	for _, c := range text {
		switch {
		case strings.ContainsRune("fijlrt .,:;()'-", c):
			sum += letter * .55
		case strings.ContainsRune("mwMW", c):
			sum += letter * 1.45
		default:
			sum += letter
		}
	}
	return sum
}

// paragraph breaks text into lines, and returns the y of the last one.
func (p *picture) paragraph(x, y, width float64, class, text string) float64 {
	line := ""
	for _, word := range append(strings.Fields(text), "") {
		if line != "" && (word == "" || widthOf(line+" "+word, class) > width) {
			p.text(x, y, class, "%s", line)
			line, y = "", y+lineHeight
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return y - lineHeight
}

// finish returns the SVG, with a background and a title and description for screen readers.
func (p *picture) finish(width, height float64, title, description string) []byte {
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="t d">
<title id="t">%s</title>
<desc id="d">%s</desc>
%s
<rect class="back" width="100%%" height="100%%"/>
%s</svg>
`, width*.8, width, height, html.EscapeString(title), html.EscapeString(description), style, p)
}

// plot is a part of a picture: time from left to right, values from bottom to top.
type plot struct {
	x, y, width, height float64
	span
	bottom, top float64
}

type sample struct {
	at    time.Time
	value float64
}

func (a plot) place(at time.Time) float64 {
	return a.x + a.width*earlier(later(at, a.from), a.to).Sub(a.from).Hours()/a.length().Hours()
}

func (a plot) level(value float64) float64 {
	return a.y + a.height*(1-min(1, (value-a.bottom)/(a.top-a.bottom)))
}

// path is a line through samples. It leaves out those less than two units from the last one drawn, and breaks at NaN.
func (a plot) path(samples []sample) string {
	path, command, lastX, lastY := "", "M%.1f,%.1fh0", math.Inf(-1), 0.0
	for _, s := range samples {
		x, y := a.place(s.at), a.level(s.value)
		if math.IsNaN(s.value) {
			command, lastX = "M%.1f,%.1fh0", math.Inf(-1)
		} else if max(math.Abs(x-lastX), math.Abs(y-lastY)) >= 2 {
			path += fmt.Sprintf(command, x, y)
			command, lastX, lastY = "L%.1f,%.1f", x, y
		}
	}
	return path
}

// stretch marks a span of time in a plot.
func (p *picture) stretch(a plot, s span, class string) {
	if s.common(a.span) > 0 {
		p.box(class, a.place(s.from), a.y, max(2, a.place(s.to)-a.place(s.from)), a.height)
	}
}

func (p *picture) box(class string, x, y, width, height float64) {
	p.add(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, class, x, y, width, height)
}

// grid draws lines at values, with their numbers.
func (p *picture) grid(a plot, values ...float64) {
	for _, value := range values {
		y := a.level(value)
		p.add(`<path class="grid" d="M%.1f,%.1fh%.1f"/>`, a.x, y, a.width)
		if math.Abs(value) < 1000 {
			p.text(a.x-8, y+9, "end", "%.0f", value)
		} else {
			p.text(a.x-8, y+9, "end", "%.*fk", 1-min(1, int(value/10_000)), value/1000)
		}
	}
}

const (
	pictured    = 48 * time.Hour
	shownOutage = 5 * time.Minute // shorter ones are not shown
)

// picture is an SVG of the two days in which most outages lasted.
func (y year) picture() []byte {
	sim, first, days := y.eventful()
	outages := sim.outagesIn(days)
	title, when := "Minutes left in the token that jobs read", fmt.Sprintf("Days %d and %d, most outages of a simulated year", first, first+1)
	var p picture
	p.text(16, 40, "bold", "%s", title)
	p.text(16, 76, "", "%s", when)
	upper := plot{x: 54, y: 166, width: 680, height: 130, span: days, top: 60}
	lower := upper
	lower.y += 232
	said := []string{p.panel(upper, "This function", &sim.tokens, outages), p.panel(lower, "Naive: cron and IBM's SDK", &sim.naiveTokens, outages)}
	p.hours(lower, first)
	bottom := lower.y + lower.height + 118
	p.text(16, bottom, "bold", "Shaded: no token can be saved")
	var names []string
	for i, o := range outages {
		name := fmt.Sprintf("%d: %s, %s", i+1, strings.Join(o.kinds, " and "), spoken(o.length()))
		names = append(names, regexp.MustCompile(`( )(429|200)\b`).ReplaceAllString(name, "${1}HTTP $2"))
		bottom = p.paragraph(16, bottom+34, 718, "", names[i])
	}
	bottom += 50
	p.text(16, bottom, "bold", "All %d days", y.days)
	t := y.total()
	expired := func(a gapSum) string { return fmt.Sprintf("expired for %.0f h in %d gaps.", a.lost.Hours(), a.gaps) }
	totals := []string{"This function: " + expired(t.ours), "Naive: " + expired(t.naive), fmt.Sprintf("Promises broken: %d.", len(y.violations()))}
	for _, total := range totals {
		bottom = p.paragraph(16, bottom+34, 718, "", total)
	}
	return p.finish(750, bottom+20, title, fmt.Sprintf("%s. This function: %s. Naive, cron and IBM's SDK: %s. Shaded, no token can be saved: %s. All %d days: %s",
		when, said[0], said[1], strings.Join(names, "; "), y.days, strings.Join(totals, " ")))
}

// panel draws the remaining lifetime over time, and returns in words for how long there was none.
func (p *picture) panel(a plot, name string, t *timeline, outages []outage) string {
	p.text(16, a.y-40, "bold", "%s", name)
	flags, last := a, 0.0
	flags.y, flags.height = a.y-30, a.height+30
	for i, o := range outages {
		p.stretch(flags, o.span, "shade")
		last = max(last+18, (a.place(o.from)+a.place(o.to))/2)
		p.text(last, a.y-5, "mid", "%d", i+1)
	}
	if path := a.path(t.sawtooth(a.span)); path != "" {
		p.add(`<path class="area" d="%sV%.1fH%.1fz"/>`, path, a.level(0), a.x)
	}
	var lost time.Duration
	for _, g := range t.gaps {
		p.stretch(a, g, "red")
		lost += g.common(a.span)
	}
	p.grid(a, 0, 30, 60)
	expired := "expired for " + spoken(lost)
	p.text(a.x+a.width, a.y-40, "red end", "%s", expired)
	return expired
}

// hours writes every sixth hour and the days below a plot.
func (p *picture) hours(a plot, day int) {
	for hour := 0; time.Duration(hour)*time.Hour <= a.length(); hour += 6 {
		x := a.place(a.from.Add(time.Duration(hour) * time.Hour))
		p.add(`<path class="grid" d="M%.1f,%.1fv8"/>`, x, a.y+a.height)
		p.text(x, a.y+a.height+32, "mid", "%d", hour%24)
		if hour%24 == 12 {
			p.text(x, a.y+a.height+64, "mid", "hours of day %d", day+hour/24)
		}
	}
}

// spoken is a duration in words, for example "1 h 13 min".
func spoken(d time.Duration) string {
	return strings.NewReplacer("h", " h ", "m", " min").Replace(cmp.Or(strings.TrimSuffix(d.Round(time.Minute).String(), "0s"), "0m"))
}

// eventful finds the two days with most whole outages, the first ones of equals, and the number of the first day in the year.
func (y year) eventful() (eventful *simulation, day int, days span) {
	most, today := -1, 0
	for _, sim := range y.parts {
		for from := sim.start; from.Before(sim.end); from = from.Add(24 * time.Hour) {
			today++
			s, whole := span{from, earlier(from.Add(pictured), sim.end)}, 0
			for _, o := range sim.outagesIn(s) {
				if o.common(s) == o.length() {
					whole++
				}
			}
			if whole > most {
				most, eventful, day, days = whole, sim, today, s
			}
		}
	}
	return eventful, day, days
}

// outagesIn are the outages in s that are long enough to be shown.
func (sim *simulation) outagesIn(s span) (shown []outage) {
	for _, t := range sim.outages {
		if len(t.kinds) > 0 && t.common(s) >= shownOutage {
			shown = append(shown, t)
		}
	}
	return shown
}

// sawtooth is the remaining lifetime in minutes over time, never below zero.
func (t *timeline) sawtooth(s span) (samples []sample) {
	for i, token := range t.tokens {
		until := s.to
		if i+1 < len(t.tokens) {
			until = earlier(until, t.tokens[i+1].at)
		}
		from := later(token.at, s.from)
		if until.Before(from) {
			continue
		}
		for _, at := range []time.Time{from, earlier(later(token.expires, from), until), until} {
			samples = append(samples, sample{at, max(0, token.expires.Sub(at).Minutes())})
		}
	}
	return samples
}

// wellFormed checks that a picture is good XML and under 30 KB, and returns its description.
func wellFormed(t *testing.T, svg []byte) string {
	t.Helper()
	if bytes.Contains(svg, []byte("NaN")) || bytes.Contains(svg, []byte("%!")) {
		t.Errorf("the picture has what is no number in it:\n%s", svg)
	}
	var root struct {
		Title string `xml:"title"`
		Desc  string `xml:"desc"`
	}
	if err := xml.Unmarshal(svg, &root); err != nil || root.Title == "" || root.Desc == "" || len(svg) > 30_000 {
		t.Errorf("got %d bytes, title %q, description %q, %v", len(svg), root.Title, root.Desc, err)
	}
	return root.Desc
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The picture in git, and the pages that show and describe it, are of the same run.
func TestThePictureIsThePages(t *testing.T) {
	description := wellFormed(t, []byte(read(t, "testdata/simulation.svg")))
	for page, folder := range map[string]string{"README.md": "", "../../../README.md": "functions/internal/simulation/"} {
		if want := "![" + description + "](" + folder + "testdata/simulation.svg)"; !strings.Contains(read(t, page), want) {
			t.Errorf("%s does not have\n%s", page, want)
		}
	}
	var hours, gaps, naiveHours, naiveGaps int
	_, totals, _ := strings.Cut(description, "All 365 days: ")
	if _, err := fmt.Sscanf(totals, "This function: expired for %d h in %d gaps. Naive: expired for %d h in %d gaps. Promises broken: 0.", &hours, &gaps, &naiveHours, &naiveGaps); err != nil {
		t.Errorf("the picture says %q: %v", totals, err)
	}
	if want := fmt.Sprintf("\nreaders without a token: %dh in %d gaps, all within the bound; the naive way: %dh in %d\n", hours, gaps, naiveHours, naiveGaps); !strings.Contains(read(t, "README.md"), want) {
		t.Errorf("the page is of another run than the picture: it does not have %q", want)
	}
}
