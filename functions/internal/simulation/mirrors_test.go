package simulation

import (
	"context"
	"slices"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// The two mirrors in AWS. Only the second one has faults of its own, for days; the first is lost with its region.
const (
	healthyMirror = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token-Ab12Cd"
	faultyMirror  = "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-Ab12Cd"
)

var mirrorARNs = []string{healthyMirror, faultyMirror}

const (
	// maxPuts is how many versions a mirror gets in a day at most; AWS takes 100.
	maxPuts = 90
	// nextRepair is how much later than IBM's secret a mirror may be repaired: two minutes for a run that may be writing it,
	// and two ensure runs.
	nextRepair = 2*time.Minute + nextEnsure
	// healed is when a mirror that can be written again must have a token: the waits of repairs grow to an hour, and rotate
	// comes sooner.
	healed = time.Hour + nextRepair
	// shortTokens is how long tokens of 15 minutes have an effect: IBM's secret keeps a token of 60 that is better.
	shortTokens = 61*time.Minute + rotation.PutInterval + nextRepair
)

// mirror is one of them. simulation.mu guards all but its faults.
type mirror struct {
	*simulation
	arn    string
	faults inForce[mirrorFault]

	seen timeline
	puts []time.Time // by the rotator
	mirrorFigures
}

type mirrorFigures struct {
	most, total int           // puts by the rotator, in a day and in all
	without     time.Duration // readers had no token, and that is excused
	short       time.Duration // the same, with tokens too short for a mirror
	heal        time.Duration // the longest until it had a token after its faults
}

// mirrorFault answers a request in its own way; nil lets it pass.
type mirrorFault func(ctx context.Context, throw uint64, put bool) error

// have notes what readers have from now on, and whether the rotator put it. simulation.mu is not held.
func (m *mirror) have(version mirrortest.Version, put bool) {
	_, expires, err := m.cloud.Validate(version.Payload)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		expires = version.At // nothing that readers can use
	}
	token := published{at: version.At, expires: expires}
	if i := slices.IndexFunc(m.tokens.tokens, func(saved published) bool { return saved.expires.Equal(expires) }); i >= 0 {
		token.born = m.tokens.tokens[i].born
	}
	m.seen.publish(token)
	if put && strings.HasPrefix(version.Payload, "ey") { // else somebody else wrote it
		m.puts = append(m.puts, version.At)
	}
}

// mirrorLine is the way from one process to AWS.
type mirrorLine struct {
	*line
	now func() time.Time
}

// The puts, as faults name them.
func opPut(arn string) string { return "put " + arn }

func (l mirrorLine) Describe(ctx context.Context, arn string) (found rotation.MirrorDescription, err error) {
	err = l.request(ctx, "describe "+arn, arn, false, func() (err error) {
		found, err = l.aws.Describe(ctx, arn)
		return err
	})
	return found, err
}

func (l mirrorLine) Put(ctx context.Context, arn, versionID string, payload iamtoken.Secret) error {
	return l.request(ctx, opPut(arn), arn, true, func() error {
		if latest, ok := rotation.WallDeadline(ctx); ok && l.now().After(latest) {
			return &rotation.Error{Kind: rotation.Timeout, Message: "suspended"}
		}
		return l.aws.Put(ctx, arn, versionID, payload)
	})
}

// request takes one through latency, the process's end and the mirror's faults.
func (l mirrorLine) request(ctx context.Context, op, arn string, put bool, arrive func() error) error {
	inv, here, throw := l.next(op, nil)
	unanswered := &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "AWS did not answer"}
	if l.fates(inv, here) || pause(ctx, latency(throw)) != nil {
		return unanswered
	}
	for _, fault := range l.mirrors[arn].faults.now() {
		if err := (*fault)(ctx, throw, put); err == mirrortest.ErrLost {
			_ = arrive()
			return err
		} else if err != nil {
			return err
		}
	}
	err := arrive()
	here.after = true
	if l.fates(inv, here) {
		return unanswered
	}
	return err
}

// checkPut: what a run knows to have saved, it has put to the healthy mirror, however slow IBM is. It may be cut off by its
// deadline, or leave the mirror a token that is put less than 16 minutes ago or, where it repairs the other one, in order.
func (m *mirror) checkPut(now time.Time, inv *invocation, result report.Result) {
	cutOff := inv.fate.freezeFor > 0 || now.Sub(inv.began) > functionTimeout-6*time.Second
	if inv.saved == "" || inv.saved != result.VersionID || cutOff || !slices.Contains(inv.rotations[0].Mirror, m.arn) ||
		!m.lastTampered.Before(inv.began) || m.faulty(span{now, now.Add(time.Second)}) {
		return
	}
	holds := m.seen.current(now)
	inOrder := inv.Mode == rotation.ModeEnsure && holds.expires.Sub(inv.savedAt) >= m.threshold(holds)-3*time.Minute
	since := inv.savedAt.Sub(holds.at)
	m.violatedIf(since >= rotation.PutInterval && !inOrder, now, "%s saved a version %s ago and did not put it to the healthy mirror, which got its last one %s before: %v",
		inv.id, now.Sub(inv.savedAt), since, result.Error)
}

// check holds every moment at which readers of the mirror had no token against what may explain it, once the story is over.
func (m *mirror) check() {
	m.seen.close(m.end)
	for _, g := range m.seen.gaps {
		m.checkGap(g)
	}
	m.total = len(m.puts)
	for i, j := 0, 0; j < len(m.puts); j++ {
		for m.puts[j].Sub(m.puts[i]) >= 24*time.Hour {
			i++
		}
		m.most = max(m.most, j-i+1)
		m.violatedIf(j-i >= maxPuts, m.puts[j], "the mirror %s got %d versions in a day", m.arn, j-i+1)
	}
	_, limited := m.aws.Versions(m.arn)
	m.violatedIf(limited > 0, m.end, "AWS refused %d puts to the mirror %s for its quota", limited, m.arn)
}

func (m *mirror) checkGap(g span) {
	cut := slices.ContainsFunc(m.story, func(f window) bool {
		return f.name == lifetimeCut && !g.from.Before(f.from) && !g.to.After(f.to.Add(shortTokens))
	})
	if cut || m.lifetime < rotation.MirrorLifetime {
		m.short += g.length()
		return
	}
	m.without += g.length()
	if m.faulty(g) {
		m.heal = max(m.heal, m.afterFaults(g.to))
		return
	}
	holds, atIBM := m.seen.current(g.from), m.tokens.current(g.from)
	excused := slices.ContainsFunc(m.outages, func(t outage) bool {
		excuses := t.excuses(g, nextRepair)
		t.excused, t.left = t.excused.Add(nextRepair), max(0, m.seen.current(t.from).expires.Sub(t.from))
		return excuses && g.length() <= t.bound()
	})
	m.violatedIf(!excused && g.to.After(m.forgedUntil(atIBM, g.to).Add(m.stepsIn(atIBM)+nextRepair)),
		g.from, "readers of the mirror %s had no token for %s (the last one was put at day %.4f)", m.arn, g.length(), holds.at.Sub(m.start).Hours()/24)
}

// faulty reports whether the mirror had faults, or was recovering from them, all the time.
func (m *mirror) faulty(s span) bool {
	own := func(f window) bool { return f.mirror == m.arn }
	if m.arn != faultyMirror && !slices.ContainsFunc(m.story, func(f window) bool { return own(f) && f.meets(s, healed) }) {
		return false
	}
	for _, f := range m.story { // in order of time
		if own(f) && f.meets(span{s.from, s.from}, healed) {
			s.from = f.to.Add(healed)
		}
		if (f.excuse > 0 || f.name == lifetimeCut) && f.meets(span{s.from, s.from}, nextRepair+healed) {
			s.from = f.to.Add(nextRepair + healed) // IBM has no token for it meanwhile
		}
	}
	return !s.from.Before(s.to)
}

// afterFaults is how long ago the last of the mirror's faults ended; 0 if others came since.
func (m *mirror) afterFaults(at time.Time) (since time.Duration) {
	since = at.Sub(m.start)
	for _, f := range m.story {
		if !f.from.After(at) && f.mirror == m.arn {
			since = min(since, at.Sub(earlier(at, f.to)))
		}
	}
	if slices.ContainsFunc(m.story, func(f window) bool { return f.mirror != m.arn && f.meets(span{at.Add(-since), at}, nextRepair) }) {
		return 0
	}
	return since
}

// mirror is what one of the mirrors came to.
func (y year) mirror(arn string) (sum mirrorFigures) {
	for _, sim := range y.parts {
		m := sim.mirrors[arn]
		sum = mirrorFigures{max(sum.most, m.most), sum.total + m.total, sum.without + m.without, sum.short + m.short, max(sum.heal, m.heal)}
	}
	return sum
}

func (y year) mirrorFigures(say func(format string, args ...any)) {
	healthy, faulty := y.mirror(healthyMirror), y.mirror(faultyMirror)
	figures := func(name string, m mirrorFigures) {
		say("%s: readers without a token %s, apart from that %s with tokens of 15 minutes; %d puts, in one day at most %d (AWS takes 100), none refused for that",
			name, short(m.without), short(m.short), m.total, m.most)
	}
	figures("a mirror with no faults but its region's", healthy)
	figures("a mirror with faults for days", faulty)
	say("after the end of its faults the mirror had a token again within %s (%s allowed)", short(max(healthy.heal, faulty.heal)), short(healed))
}
