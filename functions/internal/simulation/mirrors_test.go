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
	// healed is how long after its last fault a mirror must have a token: the back-off of repairs grows to an hour, and a rotate
	// run comes sooner.
	healed = time.Hour + nextRepair
	// shortTokens is how long after the end of 15-minute tokens a mirror may miss one: IBM's secret keeps the 60-minute token from
	// before, until that expires.
	shortTokens = 61*time.Minute + rotation.PutInterval + nextRepair
)

// mirror is one of them. simulation.mu guards its fields, apart from faults.
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
	short       time.Duration // the same, because tokens were too short for a mirror
	heal        time.Duration // the longest until it had a token after its faults
}

// mirrorFault returns the error of a request; nil passes the request on.
type mirrorFault func(ctx context.Context, random uint64, put bool) error

// have records the version that readers have from now on. put is whether it came by PutSecretValue. simulation.mu is not held.
func (m *mirror) have(version mirrortest.Version, put bool) {
	_, expires, err := m.cloud.Validate(version.Payload)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		expires = version.At // nothing that readers can use
	}
	token := published{at: version.At, expires: expires}
	if i := slices.IndexFunc(m.tokens.tokens, func(saved published) bool { return saved.expires.Equal(expires) }); i >= 0 {
		token.issued = m.tokens.tokens[i].issued
	}
	m.seen.publish(token)
	if put && strings.HasPrefix(version.Payload, "ey") { // else a person wrote it
		m.puts = append(m.puts, version.At)
	}
}

// mirrorLine is the connection of one process to AWS.
type mirrorLine struct {
	*line
	now func() time.Time
}

// opPut names the puts to a mirror.
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

// request plays a request: its latency, a process that is killed, the faults of the mirror, and then arrive.
func (l mirrorLine) request(ctx context.Context, op, arn string, put bool, arrive func() error) error {
	inv, here, random := l.next(op, nil)
	unanswered := &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "AWS did not answer"}
	if l.killed(inv, here) || pause(ctx, latency(random)) != nil {
		return unanswered
	}
	for _, fault := range l.mirrors[arn].faults.now() {
		if err := (*fault)(ctx, random, put); err == mirrortest.ErrLost {
			_ = arrive()
			return err
		} else if err != nil {
			return err
		}
	}
	err := arrive()
	here.after = true
	if l.killed(inv, here) {
		return unanswered
	}
	return err
}

// checkPut: a run has put to the healthy mirror what it knows to have saved, however slow IBM is. There are three exceptions: its
// deadline cut it off; the mirror got its last token less than 16 minutes before; an ensure run repairs the other mirror only.
func (m *mirror) checkPut(now time.Time, inv *invocation, result report.Result) {
	cutOff := inv.mishaps.freezeFor > 0 || now.Sub(inv.began) > functionTimeout-6*time.Second
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

// check checks the gaps and the puts of the mirror, once the story is over.
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

// checkGap: a gap has tokens that are too short, faults of the mirror, or an outage as its cause.
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
	m.violatedIf(!excused && g.to.After(m.forgedUntil(atIBM, g.to).Add(m.untilNext(atIBM)+nextRepair)),
		g.from, "readers of the mirror %s had no token for %s (the last one was put at day %.4f)", m.arn, g.length(), holds.at.Sub(m.start).Hours()/24)
}

// faulty reports whether the mirror had faults, or was recovering from them, during all of s.
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
			s.from = f.to.Add(nextRepair + healed) // meanwhile IBM's secret has no token for it
		}
	}
	return !s.from.Before(s.to)
}

// afterFaults is how long ago the last of the mirror's faults ended; 0 if other faults came since.
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

// mirror sums up the figures of one of the mirrors.
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
