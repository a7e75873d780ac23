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
	// nextRepair is how much later than IBM's secret a mirror may be repaired: two minutes
	// for a run that may be writing it, and two ensure runs.
	nextRepair = 2*time.Minute + nextEnsure
	// healed is when a mirror that can be written again must have a token: the waits of
	// repairs grow to an hour, and rotate comes sooner.
	healed = time.Hour + nextRepair
	// shortTokens is how long tokens of 15 minutes have an effect: IBM's secret keeps a
	// token of 60 that is better.
	shortTokens = 61*time.Minute + rotation.PutInterval + nextRepair
)

// mirrors are AWS's side of a story.
type mirrors struct {
	aws mirrortest.AWS
	of  map[string]*mirror
}

// mirror is one of them. world.mu guards all but its faults.
type mirror struct {
	faults inForce[mirrorFault]

	seen timeline
	puts []time.Time // by the rotator, of the last day
	mirrorFigures
}

type mirrorFigures struct {
	most, total int           // puts by the rotator, in a day and in all
	lost        time.Duration // readers without a token, and that is excused
	short       time.Duration // the same, with tokens too short for a mirror
	heal        time.Duration // the longest until it had a token after its faults
}

// mirrorFault answers a request in its own way; nil lets it pass.
type mirrorFault func(ctx context.Context, throw uint64, put bool) error

func newMirrors(w *world) *mirrors {
	m := &mirrors{of: map[string]*mirror{}}
	for _, arn := range mirrorARNs {
		m.of[arn] = &mirror{}
		m.aws.Current(arn)
	}
	m.aws.OnPut = func(arn string, version mirrortest.Version) { w.mirrored(arn, version) }
	return m
}

// mirrored notes what somebody has put.
func (w *world) mirrored(arn string, version mirrortest.Version) {
	w.readersHave(arn, version)
	if !strings.HasPrefix(version.Payload, "ey") {
		return // somebody else wrote it
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.mirrors.of[arn]
	m.total++
	m.puts = append(slices.DeleteFunc(m.puts, func(at time.Time) bool { return version.At.Sub(at) >= 24*time.Hour }), version.At)
	if m.most = max(m.most, len(m.puts)); len(m.puts) > maxPuts {
		w.violated(version.At, "the mirror %s got %d versions in a day", arn, len(m.puts))
	}
}

// readersHave notes what readers of a mirror have from now on.
func (w *world) readersHave(arn string, version mirrortest.Version) {
	_, expires, err := w.cloud.Validate(version.Payload)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		expires = version.At // nothing that readers can use
	}
	w.mirrors.of[arn].seen.publish(published{at: version.At, expires: expires, born: w.bornOf(expires)})
}

// bornOf is when the token that expires then was issued; zero if IBM's secret never had it. w.mu is held.
func (w *world) bornOf(expires time.Time) time.Time {
	for _, token := range slices.Backward(w.tokens.tokens) {
		if token.expires.Equal(expires) {
			return token.born
		}
	}
	return time.Time{}
}

// mirrorLine is the way from one process to AWS.
type mirrorLine struct {
	*line
	now func() time.Time
}

// The puts, as faults name them.
func opPut(arn string) string { return "put " + arn }

func (l mirrorLine) Describe(ctx context.Context, arn string) (found rotation.MirrorSecret, err error) {
	err = l.request(ctx, "describe "+arn, arn, false, func() (err error) {
		found, err = l.w.mirrors.aws.Describe(ctx, arn)
		return err
	})
	return found, err
}

func (l mirrorLine) Put(ctx context.Context, arn, versionID string, payload iamtoken.Secret) error {
	return l.request(ctx, opPut(arn), arn, true, func() error {
		if latest, ok := rotation.WallDeadline(ctx); ok && l.now().After(latest) {
			return &rotation.Error{Kind: rotation.Timeout, Message: "suspended"}
		}
		return l.w.mirrors.aws.Put(ctx, arn, versionID, payload)
	})
}

// request takes one through latency, the process's end and the mirror's faults.
func (l mirrorLine) request(ctx context.Context, op, arn string, put bool, arrive func() error) error {
	inv, here, throw := l.next(op, nil)
	unanswered := &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "AWS did not answer"}
	if l.fates(inv, here) || pause(ctx, latency(throw)) != nil {
		return unanswered
	}
	for _, fault := range l.w.mirrors.of[arn].faults.now() {
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

// checkPut: what a run knows to have saved, it has put to the healthy mirror, however slow IBM
// is. It may be cut off by its deadline, or leave the mirror a token that is put less than 16
// minutes ago or, where it repairs the other one, in order.
func (w *world) checkPut(now time.Time, inv *invocation, result report.Result) {
	if !slices.Contains(inv.rotation.Mirror, healthyMirror) || w.underMirrorFault(healthyMirror, now, now.Add(time.Second)) || inv.saved == "" || inv.saved != result.VersionID || inv.fate.freezeFor > 0 || now.Sub(inv.began) > functionTimeout-6*time.Second || !w.lastTampered.Before(inv.began) {
		return
	}
	holds := w.mirrors.of[healthyMirror].seen.current(now)
	inOrder := inv.mode == rotation.ModeEnsure && holds.expires.Sub(inv.savedAt) >= w.threshold(holds)-3*time.Minute
	if since := inv.savedAt.Sub(holds.at); since >= rotation.PutInterval && !inOrder {
		w.violated(now, "%s saved a version %s ago and did not put it to the healthy mirror, which got its last one %s before: %v", inv.id, now.Sub(inv.savedAt), since, result.Error)
	}
}

// checkMirrors holds every moment at which readers of a mirror had no token against what
// may explain it, once the story is over.
func (w *world) checkMirrors() {
	for _, arn := range mirrorARNs {
		seen := &w.mirrors.of[arn].seen
		seen.close(w.end)
		for _, g := range seen.gaps {
			w.checkMirrorGap(arn, g)
		}
		if _, limited := w.mirrors.aws.Versions(arn); limited > 0 {
			w.violated(w.end, "AWS refused %d puts to the mirror %s for its quota", limited, arn)
		}
	}
}

func (w *world) checkMirrorGap(arn string, g span) {
	within := func(after time.Duration, of func(f window) bool) bool {
		return slices.ContainsFunc(w.story, func(f window) bool {
			return of(f) && !g.from.Before(f.from) && !g.to.After(f.to.Add(after))
		})
	}
	switch {
	case w.lifetime < rotation.MirrorLifetime, within(shortTokens, func(f window) bool { return f.name == lifetimeCut }):
		w.mirrors.of[arn].short += g.length()
	case w.underMirrorFault(arn, g.from, g.to):
		w.mirrors.of[arn].lost += g.length()
		w.mirrors.of[arn].heal = max(w.mirrors.of[arn].heal, w.afterFaults(arn, g.to))
	default:
		w.mirrors.of[arn].lost += g.length()
		left, atIBM := w.mirrors.of[arn].seen.current(g.from), w.tokens.current(g.from)
		if !g.to.After(w.forgedUntil(atIBM, g.to).Add(w.stepsIn(atIBM) + nextRepair)) {
			return
		}
		for _, t := range w.troubles {
			t.excused = t.excused.Add(nextRepair)
			if g.from.Before(t.from) || g.to.After(t.excused) {
				continue
			}
			t.left = max(0, w.mirrors.of[arn].seen.current(t.from).expires.Sub(t.from))
			if g.length() <= t.bound() {
				return
			}
		}
		w.violated(g.from, "readers of the mirror %s had no token for %s (the last one was put at day %.4f)", arn, g.length(), left.at.Sub(w.start).Hours()/24)
	}
}

// underMirrorFault reports whether a mirror had faults, or was recovering from them, all
// the time.
func (w *world) underMirrorFault(arn string, from, to time.Time) bool {
	if arn != faultyMirror && !slices.ContainsFunc(w.story, func(f window) bool { return f.mirror == arn && f.from.Before(to) && f.to.Add(healed).After(from) }) {
		return false
	}
	for _, f := range w.story { // in order of time
		if f.mirror == arn && !f.from.After(from) && f.to.Add(healed).After(from) {
			from = f.to.Add(healed)
		}
		if (f.excuse > 0 || f.name == lifetimeCut) && !f.from.After(from) && f.to.Add(nextRepair+healed).After(from) {
			from = f.to.Add(nextRepair + healed) // IBM has no token for it meanwhile
		}
	}
	return !from.Before(to)
}

// afterFaults is how long ago the last of a mirror's faults ended; 0 if others came since.
func (w *world) afterFaults(arn string, at time.Time) (since time.Duration) {
	since = at.Sub(w.start)
	for _, f := range w.story {
		if !f.from.After(at) && f.mirror == arn {
			since = min(since, at.Sub(earlier(at, f.to)))
		}
	}
	for _, f := range w.story {
		if f.mirror != arn && !f.from.After(at) && f.to.Add(nextRepair).After(at.Add(-since)) {
			return 0
		}
	}
	return since
}

// mirror is what one of the mirrors came to.
func (y year) mirror(arn string) (sum mirrorFigures) {
	for _, w := range y.parts {
		m := w.mirrors.of[arn]
		sum = mirrorFigures{max(sum.most, m.most), sum.total + m.total, sum.lost + m.lost, sum.short + m.short, max(sum.heal, m.heal)}
	}
	return sum
}

func (y year) mirrorFigures(print func(format string, args ...any)) {
	healthy, faulty := y.mirror(healthyMirror), y.mirror(faultyMirror)
	for _, m := range []struct {
		mirrorFigures
		name string
	}{{healthy, "a mirror with no faults but its region's"}, {faulty, "a mirror with faults for days"}} {
		print("%s: readers without a token %s, apart from that %s with tokens of 15 minutes; %d puts, in one day at most %d (AWS takes 100), none refused for that",
			m.name, short(m.lost), short(m.short), m.total, m.most)
	}
	print("after the end of its faults the mirror had a token again within %s (%s allowed)", short(max(healthy.heal, faulty.heal)), short(healed))
}
