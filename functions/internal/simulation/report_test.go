package simulation

import (
	"fmt"
	"io"
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
	left := y.leftovers()
	at := func(percent float64) string {
		return short(left[min(len(left)-1, int(percent/100*float64(len(left))))])
	}
	_, _ = fmt.Fprintf(out, "\nreaders without a token: %s in %d gaps, %s; the naive way: %s in %d\n",
		short(y.sum(func(w *world) time.Duration { return w.tokens.lost() })), y.count(func(w *world) int { return len(w.tokens.gaps) }), y.verdict(),
		short(y.sum(func(w *world) time.Duration { return w.naiveTokens.lost() })), y.count(func(w *world) int { return len(w.naiveTokens.gaps) }))
	if recovery := y.recovery(); recovery > 0 {
		_, _ = fmt.Fprintf(out, "after the end of an outage readers had a token again within %s (%s promised)\n", short(recovery), short(promised))
	}
	if n := y.unheard(); n > 0 {
		_, _ = fmt.Fprintf(out, "of the gaps %d came of forged metadata of a 15-minute token, which nothing can tell: no bound and no alarm is promised\n", n)
	}
	if notices := y.notices(); len(notices) > 0 {
		_, _ = fmt.Fprintf(out, "an alarm rang before each: %s before at least, in half of them %s or more\n", short(notices[0]), short(notices[len(notices)/2]))
	}
	_, _ = fmt.Fprintf(out, "life left in the old token when the new one came: at least %s, 1%% below %s, half below %s, 1%% above %s\n", at(0), at(1), at(50), at(99))
	calm, calmTimes := y.smallest(undisturbed)
	once, onceTimes := y.smallest(disturbed)
	_, _ = fmt.Fprintf(out, "  of that without faults: at least %s (%s promised, %d times); with 15-minute tokens or after one lost run: at least %s (%s promised, %d times)\n",
		short(calm), short(undisturbed), calmTimes, short(once), short(disturbed), onceTimes)
	_, _ = fmt.Fprintf(out, "runs: %d, of them failed %d, killed or frozen %d; throttled %d times; versions written: %d\n",
		y.count(func(w *world) int { return w.counts.runs }), y.count(func(w *world) int { return w.counts.failed }),
		y.count(func(w *world) int { return w.counts.crashed }), y.count(func(w *world) int { return w.counts.throttles }),
		y.count(func(w *world) int { return w.counts.versions }))
	_, _ = fmt.Fprintf(out, "API calls: %d, the naive way %d; a reader used the token %d times during faults\n\n",
		y.count(func(w *world) int { return w.counts.allCalls(true) }), y.count(func(w *world) int { return w.counts.allCalls(false) }),
		y.count(func(w *world) int { return w.counts.visits }))
}

func (y year) verdict() string {
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
