package simulation

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// year is the result of all the stories of a seed.
type year struct {
	setting
	seed    uint64
	days    int
	between time.Duration // faults
	parts   []*simulation
	keys    []*simulation // a deployment with managed keys for each of keySettings
}

// command is the command that replays it.
func (y year) command() string {
	return fmt.Sprintf("make simulate SEED=%d DAYS=%d BETWEEN=%s %s", y.seed, y.days, cmp.Or(y.between, 24*time.Hour), y.setting)
}

func (y year) violations() (all []string) {
	add := func(name string, sims []*simulation) {
		for i, sim := range sims {
			for _, violation := range sim.violations {
				all = append(all, fmt.Sprintf("%s %d, %s", name, i+1, violation))
			}
		}
	}
	add("part", y.parts)
	add("keys", y.keys)
	return all
}

// gapSum sums up the gaps of the readers of a secret.
type gapSum struct {
	lost time.Duration
	gaps int
}

func (a gapSum) plus(t timeline) gapSum { return gapSum{a.lost + t.lost(), a.gaps + len(t.gaps)} }

// totals are sums over the parts of a year, and sorted lists.
type totals struct {
	counts
	whole                          time.Duration
	ours, naive                    gapSum
	versions, calls, naiveCalls    int
	left, calm, once               []time.Duration // remaining lifetimes when the next token came: all, and those of margin
	recoveries, noticed, unalarmed []time.Duration
	calmSeconds, weightedSeconds   float64
}

func (y year) total() (t totals) {
	for _, sim := range y.parts {
		t.whole += sim.end.Sub(sim.start)
		t.ours, t.naive = t.ours.plus(sim.tokens), t.naive.plus(sim.naiveTokens)
		t.versions, t.calls, t.naiveCalls = t.versions+len(sim.tokens.tokens), t.calls+int(sim.calls.Load()), t.naiveCalls+int(sim.naive.calls.Load())
		t.runs, t.failed, t.crashed = t.runs+sim.counts.runs, t.failed+sim.counts.failed, t.crashed+sim.counts.crashed
		t.throttles, t.reads = t.throttles+sim.counts.throttles, t.reads+sim.counts.reads
		for _, m := range sim.margins {
			t.left = append(t.left, m.left)
			if m.once {
				t.once = append(t.once, m.left)
			}
			if m.calm {
				t.calm = append(t.calm, m.left)
				seconds := m.length().Seconds()
				t.calmSeconds, t.weightedSeconds = t.calmSeconds+seconds, t.weightedSeconds+seconds*(m.left.Seconds()+seconds/2)
			}
		}
		for _, trouble := range sim.outages { // of the kind of promise 1; lost runs did not follow it
			if trouble.gap > 0 && trouble.excused.Sub(trouble.to) == promised {
				t.recoveries = append(t.recoveries, trouble.recovered.Sub(trouble.to))
			}
		}
		for _, g := range sim.tokens.gaps {
			if from, fired := sim.alarms.firingSince(g.from); fired {
				t.noticed = append(t.noticed, g.from.Sub(from))
			}
			if !sim.forgedUntil(sim.tokens.current(g.from), g.to).IsZero() {
				t.unalarmed = append(t.unalarmed, g.length())
			}
		}
	}
	for _, list := range [][]time.Duration{t.left, t.calm, t.once, t.recoveries, t.noticed} {
		slices.Sort(list)
	}
	return t
}

// calmLifetime is the remaining lifetime that readers have without faults: the least, and the average.
func (t totals) calmLifetime() (least, average time.Duration) {
	if len(t.calm) == 0 {
		return 0, 0
	}
	return t.calm[0], time.Duration(t.weightedSeconds / t.calmSeconds * float64(time.Second))
}

// report writes the table, the figures and, as the last line, the result.
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
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	y.figures(say)
	violations := y.violations()
	for _, violation := range violations[:min(20, len(violations))] {
		say("VIOLATION: %s", violation)
	}
	if len(violations) > 0 {
		say("to replay: %s\n", y.command())
	}
	t := y.total()
	availability := func(a gapSum) float64 { return 100 * (1 - float64(a.lost)/float64(t.whole)) }
	say("simulated %d days, seed %d: %d violations, availability %.4f%%, naive %.1f%%", y.days, y.seed, len(violations), availability(t.ours), availability(t.naive))
}

// figures writes the numbers that do not belong to one kind of fault.
func (y year) figures(say func(format string, args ...any)) {
	t, bounds := y.total(), "all within the bound"
	if len(y.violations()) > 0 {
		bounds = "NOT " + bounds
	}
	say("\nreaders without a token: %s in %d gaps, %s; the naive way: %s in %d", short(t.ours.lost), t.ours.gaps, bounds, short(t.naive.lost), t.naive.gaps)
	if len(t.recoveries) > 0 {
		say("after the end of an outage readers had a token again within %s (%s promised)", at(t.recoveries, 100), short(promised))
	}
	if len(t.unalarmed) > 0 {
		say("of the gaps %d came of forged metadata of a 15-minute token, which nothing can show while it is trusted", len(t.unalarmed))
	}
	if len(t.noticed) > 0 {
		say("an alarm fired before each: %s before at least, in half of them %s or more", at(t.noticed, 0), at(t.noticed, 50))
	}
	say("remaining lifetime of the old token when the new one came: at least %s, 1%% below %s, half below %s, 1%% above %s", at(t.left, 0), at(t.left, 1), at(t.left, 50), at(t.left, 99))
	say("  of that without faults: at least %s (%s promised, %d times); with 15-minute tokens or after one lost run: at least %s (%s promised, %d times)",
		at(t.calm, 0), short(y.mustRemain(y.lifetime, false)), len(t.calm), at(t.once, 0), short(min(y.mustRemain(shortLifetime, false), y.mustRemain(y.lifetime, true))), len(t.once))
	least, average := t.calmLifetime()
	aDay := func(n int) float64 { return float64(n) * day.Hours() / t.whole.Hours() }
	say("  %s: an outage is not noticed for %s at worst, %s on average; a day %.1f versions, %.1f and %.1f puts to the mirrors, %.0f runs, %.0f API calls",
		y.setting, short(max(0, least-promised)), short(max(0, average-promised)), aDay(t.versions),
		aDay(y.mirror(healthyMirror).total), aDay(y.mirror(faultyMirror).total), aDay(t.runs), aDay(t.calls))
	say("runs: %d, of them failed %d, killed or frozen %d; throttled %d times; versions written: %d", t.runs, t.failed, t.crashed, t.throttles, t.versions)
	y.cacheFigures(say)
	y.mirrorFigures(say)
	if len(y.keys) > 0 {
		y.keyFigures(say)
	}
	say("API calls: %d, the naive way %d; a reader used the token %d times during faults\n", t.calls, t.naiveCalls, t.reads)
}

// at is the percentile of sorted durations.
func at(sorted []time.Duration, percent int) string {
	if len(sorted) == 0 {
		return short(0)
	}
	return short(sorted[min(len(sorted)-1, percent*len(sorted)/100)])
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

// row is the line of one kind of fault in the table.
type row struct {
	name         string
	promised     bool // readers may have met an expired token, within a bound
	times        int
	hours        float64
	longest      time.Duration
	gap, bound   time.Duration // the readers' longest gap, and the bound of that gap
	naive, total time.Duration // of the naive way: the worst gap, and all of them
}

const several = "several of these at once"

// lasted adds one fault.
func (r *row) lasted(s span) {
	r.times++
	r.hours += s.length().Hours()
	r.longest = max(r.longest, s.length())
}

// rows sums up by kind. Those with an excuse come first, then those with most hours. Outages of several faults are in a row of
// their own.
func (y year) rows() []*row {
	rows := map[string]*row{}
	named := func(name string) *row {
		if rows[name] == nil {
			rows[name] = &row{name: name}
		}
		return rows[name]
	}
	for _, sim := range y.parts {
		for _, f := range sim.story {
			named(f.name).lasted(f.span)
			named(f.name).promised = f.excuse > 0
		}
		for _, t := range sim.outages {
			if len(t.kinds) == 0 {
				continue // lost runs alone
			}
			r := named(t.kinds[0])
			if len(t.kinds) > 1 {
				r = named(several)
				r.lasted(t.span)
				r.promised = true
			}
			if t.gap > r.gap || r.gap == 0 && t.bound() > r.bound {
				r.gap, r.bound = t.gap, t.bound()
			}
		}
		for _, g := range sim.naiveTokens.gaps {
			for _, name := range sim.blame(g) {
				r := named(name)
				r.naive, r.total = max(r.naive, g.length()), r.total+g.length()
			}
		}
	}
	rank := map[bool]int{true: 0, false: 1}
	return slices.SortedFunc(maps.Values(rows), func(a, b *row) int {
		return cmp.Or(cmp.Compare(rank[a.promised], rank[b.promised]), cmp.Compare(b.bound, a.bound), cmp.Compare(b.hours, a.hours), cmp.Compare(a.name, b.name))
	})
}

// blame names the faults that a gap of the naive way is due to: those between the time at which the token should have been replaced
// and the time at which it was.
func (sim *simulation) blame(g span) (names []string) {
	due := sim.naiveTokens.current(g.from).at.Add(rotateEvery - time.Minute)
	for _, f := range sim.story {
		if !f.from.After(g.to) && !f.to.Before(due) && !slices.Contains(names, f.name) {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return []string{"no fault at all"}
	}
	return names
}
