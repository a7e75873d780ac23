package simulation

import (
	"fmt"
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

// run delivers a new event and holds the outcome against what stood in the way.
func (m *model) run(mode rotation.Mode) {
	m.runs++
	m.deliver(event{mode: mode, runID: fmt.Sprintf("%s-story-%d", mode, m.runs), scheduled: time.Now()})
}

// deliver delivers an event and waits for its run to end.
func (m *model) deliver(e event) {
	if e.runID == "" {
		return
	}
	m.last = e
	w, fn := m.w, m.w.functions[0]
	w.everyday.kill = 0
	if m.killNext {
		w.everyday.kill, m.killNext = 1, false
	}
	failed, crashed, versions := w.counts.failed, w.counts.crashed, w.counts.versions
	tampered := !w.tampered.IsZero()
	fn.invoke(e)
	w.running.Wait()
	published := w.counts.versions > versions
	w.replacedTampered = tampered && published
	if published {
		m.forgedLater = false
	}
	if w.counts.crashed > crashed {
		return // it may have published or not; look sees to the rest
	}
	m.judge(e, w.counts.failed > failed, published)
}

// judge: what stands in the way makes a run fail, unless there was nothing to
// do; else readers have a token for 8 minutes at least when it has ended.
func (m *model) judge(e event, failed, published bool) {
	now := time.Now()
	left := m.w.tokens.current(now).expires.Sub(now)
	hindered := m.storm != nil || m.locked || m.foreign
	switch {
	case failed && !hindered:
		m.broken = append(m.broken, fmt.Sprintf("%s failed, and nothing stood in its way", e.runID))
	case published && m.foreign:
		m.broken = append(m.broken, fmt.Sprintf("%s published under another account's key", e.runID))
	case !failed && !m.forgedLater && left < 8*time.Minute-maxSkew(m.w)-10*time.Second:
		m.broken = append(m.broken, fmt.Sprintf("%s did not fail, and readers are left with %s", e.runID, left))
	}
}

// maxSkew: IBM's clock counts, not the function's; it is told by the Date header
// of each answer in whole seconds, and a difference below 30 s is left alone.
func maxSkew(w *world) time.Duration {
	if w.clockOff.Load() == 0 {
		return 0
	}
	return 31 * time.Second
}

func (m *model) weather(what string, d dice) {
	if m.storm != nil {
		m.storm()
		m.storm, m.w.story[len(m.w.story)-1].to = nil, time.Now()
	}
	if what == "storm" {
		k := pick(d, append(outages(), answers()...)...)
		m.storm = k.begin(m.w, d, m.w.end)
		m.w.story = append(m.w.story, window{k, time.Now(), m.w.end})
	}
}

func (m *model) lock(on bool) {
	m.locked = on
	if !on {
		m.w.cloud.MustUnlock(m.w.tokenSecret)
		return
	}
	m.w.cloud.MustLock(m.w.tokenSecret, "previous", "held")
}

func (m *model) key(foreign bool, d dice) {
	if m.foreign = foreign; foreign {
		storeForeignKey(m.w, d, m.w.end)
		return
	}
	m.w.cloud.MustPutVersion(m.w.keySecret, m.w.workloadKey, nil)
}

func (m *model) tamper(what string, d dice) {
	switch what {
	case "erase":
		eraseMetadata(m.w, d, m.w.end)
		m.forgedLater = false
	case "forge later":
		forgeMetadata(4*time.Hour)(m.w, d, m.w.end)
		m.forgedLater = true
	default:
		forgeMetadata(-4*time.Hour)(m.w, d, m.w.end)
		m.forgedLater = false
	}
}
