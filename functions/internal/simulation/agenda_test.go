package simulation

import (
	"container/heap"
	"time"
)

// agenda is what will happen, in order of time; what is due at the same moment
// happens in the order in which it was put down. One goroutine works through it.
type agenda struct {
	entries entries
	count   int
}

type entry struct {
	at    time.Time
	order int
	do    func()
}

func (a *agenda) at(t time.Time, do func()) {
	a.count++
	heap.Push(&a.entries, entry{t, a.count, do})
}

// every does do at first and then again after each period, until it says stop.
func (a *agenda) every(first time.Time, period time.Duration, do func(at time.Time) (goOn bool)) {
	a.at(first, func() {
		if do(first) {
			a.every(first.Add(period), period, do)
		}
	})
}

// work does what is due until end, sleeping in between.
func (a *agenda) work(end time.Time) {
	for len(a.entries) > 0 && !a.entries[0].at.After(end) {
		next := heap.Pop(&a.entries).(entry)
		time.Sleep(time.Until(next.at))
		next.do()
	}
	time.Sleep(time.Until(end))
}

type entries []entry

func (e entries) Len() int { return len(e) }
func (e entries) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].order < e[j].order
	}
	return e[i].at.Before(e[j].at)
}
func (e entries) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)   { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	old := *e
	last := old[len(old)-1]
	old[len(old)-1] = entry{}
	*e = old[:len(old)-1]
	return last
}
