package simulation

import (
	"cmp"
	"slices"
	"time"
)

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
// these lasted, or one began before the other was got over, stands in a row of
// its own.
func (y year) rows() []row {
	rows := table{}
	for _, w := range y.parts {
		for _, f := range w.story {
			r := rows.named(f.name)
			r.promised = f.excuse > 0
			r.times++
			r.hours += f.to.Sub(f.from).Hours()
			r.longest = max(r.longest, f.to.Sub(f.from))
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
func (byName table) sorted() (rows []row) {
	for _, r := range byName {
		rows = append(rows, *r)
	}
	slices.SortFunc(rows, func(a, b row) int {
		if a.promised != b.promised {
			return cmp.Compare(rank(a), rank(b))
		}
		return cmp.Or(cmp.Compare(b.bound, a.bound), cmp.Compare(b.hours, a.hours), cmp.Compare(a.name, b.name))
	})
	return rows
}

func rank(r row) int {
	if r.promised {
		return 0
	}
	return 1
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
