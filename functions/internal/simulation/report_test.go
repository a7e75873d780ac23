package simulation

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// report writes the table and, as the last line, the sum of it.
func (y year) report(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "fault\ttimes\thours\tlongest\tworst gap\tits bound\tnaive: worst\tnaive: all")
	for _, r := range y.rows() {
		worst, all := short(r.naive), short(r.total)
		if r.name == several {
			worst, all = "", "" // its gaps stand at each of them
		}
		_, _ = fmt.Fprintf(table, "%s\t%d\t%.0f\t%s\t%s\t%s\t%s\t%s\n", r.name, r.times, r.hours, short(r.longest), short(r.gap), short(r.bound), worst, all)
	}
	_ = table.Flush()
	y.figures(out)
	violations := y.violations()
	for _, violation := range violations[:min(20, len(violations))] {
		_, _ = fmt.Fprintln(out, "VIOLATION:", violation)
	}
	if len(violations) > 0 {
		_, _ = fmt.Fprintf(out, "to replay: %s\n\n", y.command())
	}
	_, _ = fmt.Fprintln(out, y.lastLine())
}

// figures are the numbers that belong to no kind of fault.
func (y year) figures(out io.Writer) {
	_, _ = fmt.Fprintf(out, "\nreaders without a token: %s in %d gaps, %s; the naive way: %s in %d\n",
		short(y.sum(func(w *world) time.Duration { return w.tokens.lost() })), y.count(func(w *world) int { return len(w.tokens.gaps) }), y.bounds(),
		short(y.sum(func(w *world) time.Duration { return w.naiveTokens.lost() })), y.count(func(w *world) int { return len(w.naiveTokens.gaps) }))
	if recoveries := y.recoveries(); len(recoveries) > 0 {
		_, _ = fmt.Fprintf(out, "after the end of an outage readers had a token again within %s (%s promised)\n", at(recoveries, 100), short(promised))
	}
	notices, unheard := y.notices()
	if len(unheard) > 0 {
		_, _ = fmt.Fprintf(out, "of the gaps %d came of forged metadata of a 15-minute token, which nothing can show while it is trusted\n", len(unheard))
	}
	if len(notices) > 0 {
		_, _ = fmt.Fprintf(out, "an alarm fired before each: %s before at least, in half of them %s or more\n", at(notices, 0), at(notices, 50))
	}
	left := y.left(func(margin) bool { return true })
	calm, once := y.left(func(m margin) bool { return m.calm }), y.left(func(m margin) bool { return m.once })
	_, _ = fmt.Fprintf(out, "remaining lifetime of the old token when the new one came: at least %s, 1%% below %s, half below %s, 1%% above %s\n", at(left, 0), at(left, 1), at(left, 50), at(left, 99))
	_, _ = fmt.Fprintf(out, "  of that without faults: at least %s (%s promised, %d times); with 15-minute tokens or after one lost run: at least %s (%s promised, %d times)\n",
		at(calm, 0), short(y.mustRemain(y.lifetime, false)), len(calm), at(once, 0), short(min(y.mustRemain(shortLifetime, false), y.mustRemain(y.lifetime, true))), len(once))
	y.dialFigures(out)
	total := func(of func(c *counts) int) int { return y.count(func(w *world) int { return of(&w.counts) }) }
	_, _ = fmt.Fprintf(out, "runs: %d, of them failed %d, killed or frozen %d; throttled %d times; versions written: %d\n", total(func(c *counts) int { return c.runs }),
		total(func(c *counts) int { return c.failed }), total(func(c *counts) int { return c.crashed }), total(func(c *counts) int { return c.throttles }), y.count(func(w *world) int { return len(w.tokens.tokens) }))
	y.cacheFigures(out)
	y.mirrorFigures(out)
	if len(y.keys) > 0 {
		y.keyFigures(out)
	}
	_, _ = fmt.Fprintf(out, "API calls: %d, the naive way %d; a reader used the token %d times during faults\n\n",
		y.count(func(w *world) int { return int(w.calls.Load()) }), y.count(func(w *world) int { return int(w.naive.calls.Load()) }), total(func(c *counts) int { return c.visits }))
}

// at is where so many percent are below, of sorted durations.
func at(sorted []time.Duration, percent int) string {
	if len(sorted) == 0 {
		return short(0)
	}
	return short(sorted[min(len(sorted)-1, percent*len(sorted)/100)])
}

func (y year) bounds() string {
	if len(y.violations()) > 0 {
		return "NOT all within the bound"
	}
	return "all within the bound"
}

func (y year) lastLine() string {
	return fmt.Sprintf("simulated %d days, seed %d: %d violations, availability %.4f%%, naive %.1f%%",
		y.days, y.seed, len(y.violations()), y.availability(ours), y.availability(theNaive))
}

// short is a duration for a table.
func short(d time.Duration) string {
	switch {
	case d == 0:
		return "none"
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	case d < 10*time.Hour:
		return d.Round(time.Second).String()
	default:
		return fmt.Sprintf("%.0fh", d.Hours())
	}
}

// alarms are those of infra/aws/template.yaml that do not depend on SQS, whose
// metrics may come 15 minutes late, evaluated as CloudWatch does it: at every
// full minute, over the periods that end there, with what has arrived by then.
type alarms struct {
	mu        sync.Mutex
	remaining series // SecondsRemaining
	errors    series // AWS/Lambda Errors
	throttles series // AWS/Lambda Throttles
	failures  int    // the metric Failure, summed up
	leaked    bool   // a line held a token
	fired     map[string][]span
}

const (
	storedLifeAlarm        = "stored-life"
	failedInvocationsAlarm = "failed-invocations"
	throttlesAlarm         = "throttles"

	logDelay    = 10 * time.Second // until a line of the log is a metric
	lambdaDelay = time.Minute      // until Lambda's own metrics are there
)

// span is a stretch of time.
type span struct{ from, to time.Time }

// Write implements io.Writer for the lines of the embedded metric format.
func (a *alarms) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	failures, _ := value(line, "Failure")
	a.failures += int(failures)
	if bytes.Contains(line, []byte("eyJ")) {
		a.leaked = true
	}
	if seconds, known := value(line, "SecondsRemaining"); known {
		stamp, _ := value(line, "Timestamp")
		a.remaining = append(a.remaining, point{time.UnixMilli(int64(stamp)), time.Now().Add(logDelay), seconds})
	}
	return len(line), nil
}

// failed counts an invocation that failed; Lambda stamps it with its beginning.
func (a *alarms) failed(began time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errors = append(a.errors, point{began, time.Now().Add(lambdaDelay), 1})
}

func (a *alarms) throttled(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.throttles = append(a.throttles, point{at, at.Add(lambdaDelay), 1})
}

// evaluate is CloudWatch's work of every minute.
func (a *alarms) evaluate(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remaining, a.errors, a.throttles = a.remaining.since(at.Add(-15*time.Minute)), a.errors.since(at.Add(-15*time.Minute)), a.throttles.since(at.Add(-15*time.Minute))
	// FILL(minimum, 0) < 300 over 2 of 2 periods of 120 s.
	a.set(storedLifeAlarm, at, a.remaining.lowest(at, at, 120*time.Second) < 300 && a.remaining.lowest(at, at.Add(-120*time.Second), 120*time.Second) < 300)
	// Sum ≥ 1 over one period of 300 s.
	a.set(failedInvocationsAlarm, at, a.errors.count(at, at, 300*time.Second) >= 1)
	a.set(throttlesAlarm, at, a.throttles.count(at, at, 300*time.Second) >= 1)
}

// set begins or ends an alarm.
func (a *alarms) set(name string, at time.Time, fires bool) {
	spans := a.fired[name]
	last := len(spans) - 1
	firing := last >= 0 && spans[last].to.IsZero()
	switch {
	case fires && !firing:
		a.fired[name] = append(spans, span{from: at})
	case !fires && firing:
		spans[last].to = at
	}
}

// heardSince is when the first of the alarms that fired at a moment began to.
func (a *alarms) heardSince(at time.Time) (from time.Time, heard bool) {
	for _, spans := range a.fired {
		for _, s := range spans {
			if !s.from.After(at) && (s.to.IsZero() || at.Before(s.to)) && (!heard || s.from.Before(from)) {
				from, heard = s.from, true
			}
		}
	}
	return from, heard
}

func (a *alarms) failureCount() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failures
}

// check holds the whole story against the promises, once it is over.
func (w *world) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = w.findTroubles()
	w.checkGaps()
	w.checkMargins()
	w.checkAlarms()
	w.checkMirrors()
	w.checkCaches()
}

// year is what the stories of a seed came to together.
type year struct {
	setting
	seed  uint64
	days  int
	parts []*world
	keys  []*world // a deployment with managed keys for each of keySettings
}

func (y year) violations() (all []string) {
	for i, w := range y.parts {
		for _, violation := range w.violations {
			all = append(all, fmt.Sprintf("part %d, %s", i+1, violation))
		}
	}
	for i, w := range y.keys {
		for _, violation := range w.violations {
			all = append(all, fmt.Sprintf("keys %d, %s", i+1, violation))
		}
	}
	return all
}

func (y year) sum(of func(w *world) time.Duration) (sum time.Duration) {
	for _, w := range y.parts {
		sum += of(w)
	}
	return sum
}

func (y year) count(of func(w *world) int) (sum int) {
	for _, w := range y.parts {
		sum += of(w)
	}
	return sum
}

// availability is the share of the time in which readers had a token, in percent.
func (y year) availability(of func(w *world) *timeline) float64 {
	all := y.sum(func(w *world) time.Duration { return w.end.Sub(w.start) })
	lost := y.sum(func(w *world) time.Duration { return of(w).lost() })
	return 100 * (1 - float64(lost)/float64(all))
}

func ours(w *world) *timeline     { return &w.tokens }
func theNaive(w *world) *timeline { return &w.naiveTokens }

// durations are of all parts, shortest first.
func (y year) durations(of func(w *world, add func(time.Duration))) (all []time.Duration) {
	for _, w := range y.parts {
		of(w, func(d time.Duration) { all = append(all, d) })
	}
	slices.Sort(all)
	return all
}

// left is what was left of such tokens when the next one came.
func (y year) left(such func(m margin) bool) []time.Duration {
	return y.durations(func(w *world, add func(time.Duration)) {
		for _, m := range w.margins {
			if such(m) {
				add(m.left)
			}
		}
	})
}

// recoveries are how long readers were without a token after the end of an
// outage of the kind of promise 1; lost runs did not follow it.
func (y year) recoveries() []time.Duration {
	return y.durations(func(w *world, add func(time.Duration)) {
		for _, t := range w.troubles {
			if t.gap > 0 && t.excused.Sub(t.to) == promised {
				add(t.recovered.Sub(t.to))
			}
		}
	})
}

// notices are how long before each gap the first alarm fired; unheard are the gaps of which none
// can at first, see forgedUntil.
func (y year) notices() (notices, unheard []time.Duration) {
	return y.durations(func(w *world, add func(time.Duration)) {
			for _, g := range w.tokens.gaps {
				if from, heard := w.alarms.heardSince(g.from); heard {
					add(g.from.Sub(from))
				}
			}
		}), y.durations(func(w *world, add func(time.Duration)) {
			for _, g := range w.tokens.gaps {
				if !w.forgedUntil(w.tokens.current(g.from), g.to).IsZero() {
					add(g.length())
				}
			}
		})
}

// checkMargins: without faults at least 8:50 is left of a 60-minute token when
// the next is published; of a 15-minute token, or after one lost run, 5:50. A token
// that has more left than the next one would is not replaced: where the lifetime was cut,
// a rotate may have saved none, which is as if it were lost.
func (w *world) checkMargins() {
	for i, m := range w.margins {
		quiet, lost := w.quiet(m.since.Add(-10*time.Minute), m.at)
		if !quiet || lost > 1 {
			continue
		}
		w.margins[i].calm = lost == 0 && m.lifetime == w.lifetime && m.next == w.lifetime
		w.margins[i].once = lost == 1 != (m.lifetime < w.lifetime)
		if least := min(w.mustRemain(m.lifetime, lost == 1 || m.next < m.lifetime), m.next-nextEnsure); m.left < least {
			w.violated(m.at, "only %s were left of a token of %s, without faults and with %d runs lost", m.left, m.lifetime, lost)
		}
	}
}

// quiet reports whether nothing was wrong in a stretch but that runs were lost: with a
// region those of rotate. A shorter lifetime is none of the faults: it has its own bound.
func (w *world) quiet(from, to time.Time) (quiet bool, lost int) {
	for _, f := range w.story {
		if f.name == regionLost && !f.from.After(to) && !f.to.Add(rotateEvery).Before(from) {
			lost = 1
		}
		if f.name != lifetimeCut && f.mirror == "" && !f.from.After(to) && !f.to.Add(5*time.Minute).Before(from) {
			return false, 0
		}
	}
	for _, at := range w.noted {
		if !at.After(to) && at.After(from) {
			return false, 0
		}
	}
	for _, at := range w.lost {
		if !at.After(to) && at.After(from) {
			lost++
		}
	}
	return true, lost
}

// checkAlarms: none fires without a reason, or the check of gaps would be empty.
func (w *world) checkAlarms() {
	for name, spans := range w.alarms.fired {
		for _, firing := range spans {
			mirror := name == failedInvocationsAlarm && slices.ContainsFunc(w.story, func(f window) bool {
				// With tokens of 15 minutes IBM's secret keeps a better one, and there is none for a mirror.
				return (f.mirror != "" || f.name == lifetimeCut) && !f.from.After(firing.from) && firing.from.Before(f.to.Add(healed+15*time.Minute))
			})
			if quiet, lost := w.quiet(firing.from.Add(-15*time.Minute), firing.from); quiet && lost == 0 && !mirror {
				w.violated(firing.from, "the alarm %s fired, and nothing was wrong", name)
			}
		}
	}
	if w.alarms.leaked {
		w.violated(w.end, "a line of metrics held a token")
	}
}

// row is what one kind of fault came to.
type row struct {
	name         string
	promised     bool // readers may have met an expired token, within a bound
	times        int
	hours        float64
	longest      time.Duration
	gap, bound   time.Duration // the worst one that readers saw, and what was allowed there
	naive, total time.Duration // of the naive way: the worst gap, and all of them
}

const (
	noFault = "no fault at all"
	several = "several of these at once"
)

// rows sums up by kind, the excused first. What readers missed while several of
// these lasted, or one began before the effects of the other had ended, is in a row of
// its own.
func (y year) rows() []row {
	rows := table{}
	for _, w := range y.parts {
		for _, f := range w.story {
			r := rows.named(f.name)
			r.promised = f.excuse > 0
			r.times++
			r.hours += f.length().Hours()
			r.longest = max(r.longest, f.length())
		}
		for _, t := range w.troubles {
			rows.addTrouble(t)
		}
		for _, g := range w.naiveTokens.gaps {
			for _, name := range w.blame(g) {
				r := rows.named(name)
				r.naive, r.total = max(r.naive, g.length()), r.total+g.length()
			}
		}
	}
	return rows.sorted()
}

type table map[string]*row

func (rows table) named(name string) *row {
	if rows[name] == nil {
		rows[name] = &row{name: name}
	}
	return rows[name]
}

func (rows table) addTrouble(t trouble) {
	if len(t.kinds) == 0 {
		return // lost runs alone
	}
	r := rows.named(t.kinds[0])
	if len(t.kinds) > 1 {
		r = rows.named(several)
		r.promised = true
		r.times++
		r.hours += t.length().Hours()
		r.longest = max(r.longest, t.length())
	}
	if t.gap > r.gap || r.gap == 0 && t.bound() > r.bound {
		r.gap, r.bound = t.gap, t.bound()
	}
}

// sorted puts the excused kinds first, then those with most hours.
func (rows table) sorted() (list []row) {
	for _, r := range rows {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b row) int {
		rank := map[bool]int{true: 0, false: 1}
		return cmp.Or(cmp.Compare(rank[a.promised], rank[b.promised]), cmp.Compare(b.bound, a.bound), cmp.Compare(b.hours, a.hours), cmp.Compare(a.name, b.name))
	})
	return list
}

// blame names the faults behind a gap of the naive way: those in force from when
// the token should have been replaced until it was.
func (w *world) blame(g span) []string {
	due := w.naiveTokens.current(g.from).at.Add(rotateEvery - time.Minute)
	var names []string
	for _, f := range w.story {
		if !f.from.After(g.to) && !f.to.Before(due) && !slices.Contains(names, f.name) {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return []string{noFault}
	}
	return names
}

// The numbers of the simulated deployment are those of the template.
func TestTheNumbersAreTheTemplates(t *testing.T) {
	text, err := os.ReadFile("../../../infra/aws/template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	oneIn300s := []string{"Statistic=Sum", "Period=300", "Threshold=1", "EvaluationPeriods=1", "ComparisonOperator=GreaterThanOrEqualToThreshold"}
	for resource, wants := range map[string][]string{
		"Function":                {"Timeout=120"},
		"MinRemaining":            {"Default=8m"},
		"AsynchronousInvocations": {"MaximumRetryAttempts=0", "MaximumEventAgeInSeconds=120"},
		"RotateSchedule":          {"ScheduleExpression=rate(50 minutes)", "MaximumEventAgeInSeconds=120"},
		"EnsureTokenSchedule":     {"MaximumEventAgeInSeconds=120"},
		"StoredLifeAlarm": {"MetricName=SecondsRemaining", "Period=120", "Stat=Minimum", "Expression=FILL(life, 0)", "ComparisonOperator=LessThanThreshold",
			"Threshold=300", "EvaluationPeriods=2", "TreatMissingData=breaching"},
		"FailedInvocationsAlarm": slices.Concat(oneIn300s, []string{"MetricName=Errors"}),
		"ThrottlesAlarm":         slices.Concat(oneIn300s, []string{"MetricName=Throttles"}),
	} {
		block := regexp.MustCompile(`(?m)^  ` + resource + `:\n(    .*\n|\n)+`).FindString(string(text))
		for _, want := range wants {
			if name, value, _ := strings.Cut(want, "="); !regexp.MustCompile(`\b` + name + `: '?` + regexp.QuoteMeta(value) + `(\W|$)`).MatchString(block) {
				t.Errorf("%s: the story has %s, the template has not", resource, want)
			}
		}
	}
}
