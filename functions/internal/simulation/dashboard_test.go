package simulation

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/report"
)

var dashboardFlag = flag.Bool("dashboard", false, "draw the picture of the dashboard anew")

// widget is a widget of the dashboard's body. Each row of its metrics ends with options.
type widget struct {
	Type                string
	X, Y, Width, Height float64
	Properties          struct {
		Title, View string
		Metrics     [][]any
		Alarms      []string
		Annotations struct {
			Horizontal []struct {
				Value float64
				Label string
			}
		}
	}
}

// watched is what CloudWatch has recorded during a span of time.
type watched struct {
	span
	down   time.Duration // how long IAM is down, at the end
	values map[string][]sample
	failed []string // the log's lines of failures
	firing map[string]bool
}

// The dashboard's picture in git shows the template's widgets with the metrics of six hours of a simulated stack.
func TestDashboard(t *testing.T) {
	const file = "../../../infra/aws/testdata/dashboard.svg"
	template := read(t, "../../../infra/aws/template.yaml")
	// The stack has one rotation and a bootstrap key that IBM renews.
	body := regexp.MustCompile(`(?s)DashboardBody: !Sub\n +- \|\n(.*?)\n +- Minutes:`).FindStringSubmatch(template)
	if body == nil {
		t.Fatal("the template has no dashboard that the picture can read")
	}
	text := strings.NewReplacer("${Minutes}", "8", "${OfKey}", `,"-key-renewal"`, "${OfList}", "", "${Alarm}", "", "${MetricsNamespace}", "own", "${Function}", "own").Replace(body[1])
	var dashboard struct{ Widgets []widget }
	if err := json.Unmarshal([]byte(text), &dashboard); err != nil {
		t.Fatal(err)
	}
	var seen *watched
	synctest.Test(t, func(*testing.T) { seen = watch() })
	got := seen.picture(t, dashboard.Widgets)
	description := wellFormed(t, got)
	for _, w := range dashboard.Widgets {
		if title := w.Properties.Title; title == "" || !strings.Contains(description, title) {
			t.Errorf("the widget %q is not in the picture", title)
		}
	}
	if *dashboardFlag {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	places := regexp.MustCompile(`d="[^"]*"|\d\.\d`) // may round in another way elsewhere
	if drawn, err := os.ReadFile(file); err != nil || !bytes.Equal(places.ReplaceAll(drawn, nil), places.ReplaceAll(got, nil)) {
		t.Errorf("%s is not what the template and the function make (%v). Draw it anew, and look at it: go test ./functions/internal/simulation -run 'TestDashboard$' -args -dashboard", file, err)
	}
}

// watch plays a stack for the time that the dashboard shows. IAM is down twice, the second time at the end.
func watch() *watched {
	sim := newKeySimulation(1, 1, keySettings[1])
	sim.everyday, sim.end = dangers{}, sim.start.Add(408*time.Minute)
	s := &watched{span: span{sim.end.Add(-6 * time.Hour), sim.end}, down: 28 * time.Minute, values: map[string][]sample{}, firing: map[string]bool{}}
	sim.onReport = s.note
	iam := named(kinds(true), iamDown)
	sim.play([]window{sim.fault(iam, 140*time.Minute, 45*time.Minute), sim.fault(iam, 408*time.Minute-s.down, time.Hour+s.down)})
	for name, spans := range sim.alarms.fired {
		s.firing[name] = spans[len(spans)-1].to.IsZero()
	}
	s.firing["failed-runs"] = s.firing[failedInvocationsAlarm]
	return s
}

// note records a run as CloudWatch does: the function's own metrics, those of Lambda and of the queue, and the log.
func (s *watched) note(inv *invocation, ran report.Report) {
	now := time.Now()
	if now.Before(s.from) || now.After(s.to) {
		return
	}
	failures := ran.Failures()
	values := map[string]any{"Errors": float64(len(failures)), "NumberOfMessagesSent": float64(len(failures)), "Duration": float64(now.Sub(inv.began).Milliseconds())}
	var lines bytes.Buffer
	if err := (metrics.Emitter{Writer: &lines, Rotations: []string{"default"}, Now: time.Now}).Emit(ran); err != nil {
		panic(err)
	}
	for line := range bytes.Lines(lines.Bytes()) {
		if err := json.Unmarshal(line, &values); err != nil {
			panic(err)
		}
	}
	for name, value := range values {
		if number, ok := value.(float64); ok {
			s.values[name] = append(s.values[name], sample{now, number})
		}
	}
	for _, failed := range failures {
		s.failed = append(s.failed, fmt.Sprintf("%s %s %s", now.Format("15:04"), failed.Rotation, failed.Error))
	}
}

func (s *watched) picture(t *testing.T, widgets []widget) []byte {
	const title, top, column, row = "The dashboard of a simulated stack", 92.0, 40.0, 46.0
	var p picture
	p.text(16, 40, "bold", title)
	p.text(16, 76, "", "Six hours; IAM is down for the second time, for %s", spoken(s.down))
	description, bottom := "From the top: ", 0.0
	for _, w := range widgets {
		description += w.Properties.Title + ". "
		bottom = max(bottom, top+(w.Y+w.Height)*row)
		p.widget(s, w, s.curves(t, w), plot{x: w.X*column + 4, y: top + w.Y*row + 4, width: w.Width*column - 8, height: w.Height*row - 8, span: s.span})
	}
	return p.finish(24*column, bottom+8, title, description)
}

// widget draws a widget in its frame.
func (p *picture) widget(s *watched, w widget, curves []curve, a plot) {
	p.box("frame", a.x, a.y, a.width, a.height)
	x, width, end := a.x+12, a.width-24, a.y+a.height
	y := p.paragraph(x, a.y+32, width, "bold", w.Properties.Title)
	for i, name := range w.Properties.Alarms {
		name, class := strings.TrimPrefix(name, "-"), "green"
		if s.firing[name] {
			class = "red"
		}
		left, down := x+float64(i%3)*width/3, y+float64(1+i/3)*39
		p.box(class, left, down-18, 16, 20)
		p.text(left+24, down, class, "%s", name)
	}
	switch {
	case w.Type == "log":
		for i := len(s.failed) - 1; i >= 0 && y+2*lineHeight+12 < end; i-- {
			y = p.paragraph(x, y+lineHeight+4, width, "", s.failed[i][:int(width/9)]+"…")
		}
	case w.Properties.View == "singleValue":
		last := curves[0].samples[len(curves[0].samples)-1]
		number := fmt.Sprintf("%.3g", last.value)
		if curves[0].expression != "" { // minutes left: they decrease since the last run
			number = fmt.Sprintf("%.0f", math.Floor(last.value-s.to.Sub(last.at).Minutes()))
		}
		p.text(x, y+70, "large", "%s", number)
		beside := 12 + 36*float64(len(number))
		p.paragraph(x+beside, y+30, width-beside, "small", curves[0].label)
	case w.Type == "metric":
		for _, limit := range w.Properties.Annotations.Horizontal {
			curves = append(curves, curve{label: fmt.Sprintf("%.0f %s", limit.Value, limit.Label), class: "limit", samples: []sample{{s.from, limit.Value}, {s.to, limit.Value}}})
		}
		p.curves(curves, plot{x: x + leftOfPlot, y: y + 20, width: width - leftOfPlot, height: end - y - 20, span: s.span})
	}
}

// curve is a line in a widget.
type curve struct {
	label, class string
	samples      []sample
	expression   string // of another metric
	right        bool   // on an axis of its own
}

const leftOfPlot = 66 // for the names of values

// curves draws lines, and below them their labels.
func (p *picture) curves(curves []curve, a plot) {
	const row = 27
	tops := map[bool]float64{false: 1, true: 1}
	var keys picture
	x, y := 0.0, 0.0
	for _, c := range curves {
		for _, one := range c.samples {
			if !math.IsNaN(one.value) {
				tops[c.right], a.bottom = max(tops[c.right], one.value), min(a.bottom, one.value)
			}
		}
		if x > 0 && x+48+widthOf(c.label, "small") > leftOfPlot+a.width {
			x, y = 0, y+row
		}
		keys.add(`<path class="%s" d="M%.1f,%.1fh24"/>`, c.class, x, y-7)
		keys.text(x+32, y, "small", "%s", c.label)
		x += 48 + widthOf(c.label, "small")
	}
	a.height -= y + row + 18
	p.add(`<g transform="translate(%.1f %.1f)">%s</g>`, a.x-leftOfPlot, a.y+a.height+row+6, keys.String())
	for _, c := range curves {
		a.top = tops[c.right]
		p.add(`<path class="%s" d="%s"/>`, c.class, a.path(c.samples))
	}
	a.top = tops[false]
	p.grid(a, a.bottom, a.top)
}

// curves are the lines that a widget shows. In a stack with one rotation, a search over several finds nothing.
func (s *watched) curves(t *testing.T, w widget) (shown []curve) {
	var above []any
	var left []sample // the metric that expressions refer to
	for _, row := range w.Properties.Metrics {
		fields, options := row[:len(row)-1], row[len(row)-1].(map[string]any)
		c := curve{label: fmt.Sprint(options["label"]), right: options["yAxis"] == "right"}
		if c.expression, _ = options["expression"].(string); c.expression == "" {
			if fields[0] == "..." { // the fields of the row above, except for the last ones
				fields = slices.Concat(above[:len(above)-len(fields)+1], fields[1:])
			}
			above = fields
			if name, never := fmt.Sprint(above[1]), above[1] == "Throttles" || above[3] == "${UndeliveredEvents.QueueName}"; !never {
				c.samples = s.statistic(name, options)
				if len(c.samples) == 0 {
					t.Fatalf("%s: the function does not report %s", w.Properties.Title, name)
				}
			}
			if options["id"] == "left" {
				left = c.samples
			}
		}
		if options["visible"] != false && !strings.HasPrefix(c.expression, "each") {
			c.class = fmt.Sprintf("line c%d", len(shown))
			shown = append(shown, c)
		}
	}
	for i, c := range shown {
		if c.expression != "" && !strings.HasSuffix(strings.TrimSuffix(c.expression, ")"), " / 60") {
			t.Fatalf("the picture cannot draw %s", c.expression)
		}
		for _, seconds := range left {
			if c.expression != "" {
				shown[i].samples = append(shown[i].samples, sample{seconds.at, seconds.value / 60})
			}
		}
	}
	return shown
}

// statistic is CloudWatch's statistic of a metric, by default in periods of 300 s. The line breaks where there is no value.
func (s *watched) statistic(name string, options map[string]any) (result []sample) {
	period := 300 * time.Second
	if seconds, ok := options["period"].(float64); ok {
		period = time.Duration(seconds) * time.Second
	}
	periods := map[time.Time][]float64{}
	for _, one := range s.values[name] {
		periods[one.at.Truncate(period)] = append(periods[one.at.Truncate(period)], one.value)
	}
	for _, at := range slices.SortedFunc(maps.Keys(periods), time.Time.Compare) {
		if n := len(result); n > 0 && at.Sub(result[n-1].at) > 2*period {
			result = append(result, sample{at, math.NaN()})
		}
		values, sum := periods[at], 0.0
		slices.Sort(values)
		for _, value := range values {
			sum += value
		}
		result = append(result, sample{at, map[any]float64{"Minimum": values[0], "Maximum": values[len(values)-1], "Sum": sum, "p50": values[len(values)/2]}[options["stat"]]})
	}
	return result
}
