package simulation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// published checks the version that an invocation has just made.
func (sim *simulation) published(inv *invocation) {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	version := sim.cloud.MustCurrent(sim.tokenSecret)
	iamID, expires, err := sim.cloud.Validate(version.Payload)
	now, before := time.Now(), sim.tokens.current(time.Now())
	metadata, metadataErr := iamtoken.ParseMetadata(version.Metadata)
	born := time.Unix(metadata.IssuedAt, 0)
	sim.violatedIf(version.Payload == "", now, "an empty version was published by %s", inv.id)
	sim.violatedIf(err != nil || iamID != sim.workload, now, "a bad token was published by %s: of %s, %v", inv.id, iamID, err)
	sim.violatedIf(metadataErr != nil, now, "%s published with metadata that cannot be read: %v", inv.id, metadataErr)

	// It is fresh: a token has 5 minutes and half of its lifetime left when it is checked, and is saved within the function's
	// timeout.
	left, age := expires.Sub(now), now.Sub(born)
	sim.violatedIf(left < max(5*time.Minute, time.Duration(metadata.ExpiresIn)*time.Second/2)-functionTimeout,
		now, "%s published a token with %s left, of %ds", inv.id, left, metadata.ExpiresIn)
	sim.violatedIf(age > functionTimeout+time.Second && !sim.meets(span{now, now}, functionTimeout, oldTokenServed), now, "%s published a token %s old", inv.id, age)

	// Its metadata is true.
	says := fmt.Sprint(metadata.Expiration, metadata.IAMID, metadata.Account, metadata.Fingerprint, metadata.RunID)
	token := iamtoken.Token{Value: iamtoken.NewSecret(version.Payload)}
	truth := fmt.Sprint(expires.Unix(), sim.workload, sim.cloud.AccountID(), token.Fingerprint(), inv.RunID)
	sim.violatedIf(says != truth, now, "the metadata of %s's version says %q, the truth is %q", inv.id, says, truth)

	sim.checkOrder(now, inv, before, expires)
	sim.violatedIf(inv.did(opManaged), now, "%s renewed the bootstrap key before it published", inv.id)
	inv.versions++
	sim.violatedIf(inv.versions > 1 && sim.tampered.Before(inv.began), now, "%s published %d versions", inv.id, inv.versions)
	inv.saved, inv.savedAt = version.ID, now
	sim.tokens.publish(published{at: now, expires: expires, born: born})
	sim.publisher, sim.tampered = inv, time.Time{}
}

// checkOrder: what readers have never gets worse, but when passes overlap, and nothing is saved that nobody needs.
func (sim *simulation) checkOrder(now time.Time, inv *invocation, before published, expires time.Time) {
	back := before.expires.Sub(expires)
	overlapping, untouched := before.at.After(inv.began), sim.tampered.IsZero()
	if back > 0 && !untouched {
		// The rotator cannot know what the stored token is worth: its metadata was changed or erased, which counts as expired.
		sim.shortened = append(sim.shortened, published{at: now, expires: expires})
	}
	mayStepBack := overlapping && (back <= functionTimeout || now.Sub(sim.lifetimeSet) < functionTimeout)
	sim.violatedIf(back > 0 && untouched && !mayStepBack, now, "%s published a token that expires %s sooner than the stored one (overlapping: %v)", inv.id, back, overlapping)

	short := func(token published) bool { return token.expires.Sub(now) < sim.threshold(token)+time.Minute }
	if inv.Mode == rotation.ModeRotate {
		// A repeated delivery finds its run done, while the token is good and new.
		again := sim.publisher != nil && sim.publisher != inv && sim.publisher.RunID == inv.RunID && now.Sub(before.at) < 14*time.Minute
		sim.violatedIf(again && !short(before) && !overlapping && untouched, now, "run %s, delivered again, published again", inv.RunID)
		return
	}
	needed := short(before) || overlapping || now.Sub(sim.lastTampered) < 61*time.Minute || sim.clockOff.Load() != 0
	for _, arn := range mirrorARNs {
		needed = needed || short(sim.mirrors[arn].seen.current(now)) || sim.mirrors[arn].faulty(span{now, now.Add(time.Second)})
	}
	sim.violatedIf(!needed, now, "%s published, with %s left at IBM and enough in the mirrors", inv.id, before.expires.Sub(now))
}

// ended checks the report of an invocation.
func (sim *simulation) ended(inv *invocation, ran report.Report) {
	failuresBefore := sim.alarms.failures.Load()
	if err := inv.process.emitter.Emit(ran); err != nil {
		panic(err)
	}
	result := ran.Results[0]
	failed := result.Outcome == report.Failed
	if failed {
		sim.alarms.note("Errors", inv.began, lambdaDelay, 1) // Lambda stamps it with its beginning
	}
	sim.mu.Lock()
	defer sim.mu.Unlock()
	if sim.onReport != nil {
		sim.onReport(inv, ran)
	}
	sim.counts.runs++
	now := time.Now()
	if failed {
		sim.counts.failed++
		sim.violatedIf(sim.alarms.failures.Load() == failuresBefore || result.Error == nil || result.Error.Kind == "" || result.Error.Step == "",
			now, "%s failed without a metric or a reason: %v", inv.id, result.Error)
	}
	took, text := now.Sub(inv.began), fmt.Sprint(result.Error)
	sim.violatedIf(took > functionTimeout && inv.fate.freezeFor == 0, now, "%s took %s, longer than its deadline", inv.id, took)
	sim.violatedIf(result.Outcome == report.Rotated && inv.versions == 0, now, "%s says that it rotated, and made no version", inv.id)
	sim.violatedIf(strings.Contains(text, "eyJ") || strings.Contains(text, sim.workloadKey), now, "%s showed a secret", inv.id)
	if sim.keys != nil {
		sim.keysEnded(inv, ran)
	}
	sim.mirrors[healthyMirror].checkPut(now, inv, result)
}

// crashed is the end of an invocation that reports nothing: Lambda counts it.
func (sim *simulation) crashed(inv *invocation) {
	sim.alarms.note("Errors", inv.began, lambdaDelay, 1)
	sim.lostRun(inv.began)
	sim.locked(func() { sim.counts.runs, sim.counts.crashed = sim.counts.runs+1, sim.counts.crashed+1 })
}

// outage is a stretch in which nothing could be published: faults with an excuse that overlap, or follow each other before the
// first's excuse is used up, count as one.
type outage struct {
	span                    // from the first fault's beginning to the last one's end
	excused   time.Time     // until when readers may meet an expired token
	left      time.Duration // R: the remaining lifetime when it began
	kinds     []string
	gap       time.Duration // readers without a token, within it
	recovered time.Time     // when the last of them had one again
}

// bound is promise 1: nothing while D ≤ R − excuse, D − R + excuse beyond.
func (t outage) bound() time.Duration {
	return max(0, t.excused.Sub(t.from)-t.left)
}

// excuses reports whether a gap lies within it, or so long after it.
func (t outage) excuses(g span, after time.Duration) bool {
	return !g.from.Before(t.from) && !g.to.After(t.excused.Add(after))
}

// findTroubles merges the faults that excuse something.
func (sim *simulation) findTroubles() (merged []outage) {
	var excusing []outage
	for _, f := range sim.story {
		if f.excuse > 0 {
			excusing = append(excusing, outage{span: f.span, excused: f.to.Add(f.excuse), kinds: []string{f.name}})
		}
	}
	for _, at := range sim.lost {
		excusing = append(excusing, outage{span: span{at, at}, excused: at.Add(nextEnsure)})
	}
	slices.SortFunc(excusing, func(a, b outage) int { return a.from.Compare(b.from) })
	for _, t := range excusing {
		if n := len(merged); n > 0 && !t.from.After(merged[n-1].excused) {
			before := &merged[n-1]
			before.to, before.excused = later(before.to, t.to), later(before.excused, t.excused)
			before.kinds = append(before.kinds, t.kinds...)
			continue
		}
		merged = append(merged, t)
	}
	for i, t := range merged {
		merged[i].left = sim.leftAt(t)
	}
	return merged
}

// leftAt is R, the remaining lifetime of the token that readers have when a trouble begins. One exception is made and said in
// README.md: where metadata was changed so that this token seemed expired, and a token of a shorter lifetime replaced it
// meanwhile, that one's counts.
func (sim *simulation) leftAt(t outage) time.Duration {
	expires := sim.tokens.current(t.from).expires
	for _, token := range sim.shortened {
		if !token.at.Before(t.from) && token.at.Before(t.excused) {
			expires = earlier(expires, token.expires)
		}
	}
	return max(0, expires.Sub(t.from))
}

// check holds the whole story against the promises, once it is over.
func (sim *simulation) check() {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	sim.outages = sim.findTroubles()
	sim.checkGaps()
	sim.checkMargins()
	sim.checkAlarms()
	for _, arn := range mirrorARNs {
		sim.mirrors[arn].check()
	}
	sim.checkCaches()
}

// checkGaps holds every moment at which readers had no token against the bound, and the alarms against the moment at which it
// began. Of a gap that forged metadata hid, see forgedUntil, what comes after that counts.
func (sim *simulation) checkGaps() {
	for _, whole := range sim.tokens.gaps {
		token := sim.tokens.current(whole.from)
		trusted := sim.forgedUntil(token, whole.to)
		g := span{later(whole.from, trusted.Add(sim.stepsIn(token))), whole.to}
		if !g.from.Before(g.to) {
			continue
		}
		i := slices.IndexFunc(sim.outages, func(t outage) bool { return t.excuses(g, 0) })
		sim.violatedIf(i < 0, g.from, "readers had no token for %s, and no fault excuses it", g.length())
		if i >= 0 {
			t := &sim.outages[i]
			t.gap, t.recovered = t.gap+g.length(), g.to
			sim.violatedIf(t.gap > t.bound(), g.from, "readers had no token for %s; the faults %q lasted %s with %s left, so at most %s are excused",
				t.gap, t.kinds, t.length(), t.left, t.bound())
		}
		by := later(whole.from, trusted)
		_, heard := sim.alarms.heardSince(by)
		sim.violatedIf(!heard && by.Before(g.to), by, "readers had no token for %s, and no alarm fired before", g.to.Sub(by))
	}
}

// stepsIn is when the next version comes, counted from the time until which the current one's metadata is trusted: `ensure`
// replaces it with MIN_REMAINING left, 8 minutes, say, but not by one that expires sooner.
func (sim *simulation) stepsIn(token published) time.Duration {
	return nextEnsure - min(rotation.Threshold(sim.minRemaining, iamtoken.MaxLifetime), token.lifetime())
}

// forgedUntil is until when readers may have no token of a version, by design with neither bound nor alarm: its token expires
// before the next one comes, since before to its metadata was forged to a later expiry. That is trusted up to 61 minutes after
// the version was made, since only the value says more, and the rotator has no right to read that. It is zero for any other
// version.
func (sim *simulation) forgedUntil(token published, to time.Time) time.Time {
	trusted := token.at.Add(iamtoken.MaxLifetime)
	if !sim.meets(span{token.at, to}, 0, metadataForged) || trusted.Add(sim.stepsIn(token)).Before(token.expires) {
		return time.Time{}
	}
	return trusted
}

// margin is the remaining lifetime of a token when the next one was published.
type margin struct {
	span // between the two publications
	left time.Duration
	calm bool // no fault, no lost run, and tokens are as long as they should be
	once bool // one run was lost, or tokens are short, but no fault
}

// checkMargins: without faults at least 8:50 is left of a 60-minute token when the next is published; of a 15-minute token, or
// after one lost run, 5:50. A token that has more left than the next one would is not replaced: where the lifetime was cut, a
// rotate may have saved none, which is as if it were lost.
func (sim *simulation) checkMargins() {
	for i := range len(sim.tokens.tokens) - 1 {
		old, next := sim.tokens.tokens[i], sim.tokens.tokens[i+1]
		m := margin{span: span{old.at, next.at}, left: old.expires.Sub(next.at)}
		if quiet, lost := sim.quiet(span{m.from.Add(-10 * time.Minute), m.to}); quiet && lost <= 1 {
			m.calm = lost == 0 && old.lifetime() == sim.lifetime && next.lifetime() == sim.lifetime
			m.once = lost == 1 != (old.lifetime() < sim.lifetime)
			least := min(sim.mustRemain(old.lifetime(), lost == 1 || next.lifetime() < old.lifetime()), next.lifetime()-nextEnsure)
			sim.violatedIf(m.left < least, m.to, "only %s were left of a token of %s, without faults and with %d runs lost", m.left, old.lifetime(), lost)
		}
		sim.margins = append(sim.margins, m)
	}
}

// quiet reports whether nothing was wrong in a stretch but that runs were lost: with a region those of rotate. A shorter
// lifetime is none of the faults: it has its own bound.
func (sim *simulation) quiet(s span) (quiet bool, lost int) {
	for _, f := range sim.story {
		if f.name != lifetimeCut && f.mirror == "" && f.meets(s, 5*time.Minute) {
			return false, 0
		}
	}
	if sim.meets(s, rotateEvery, regionLost) {
		lost = 1
	}
	within := func(at time.Time) bool { return !at.After(s.to) && at.After(s.from) }
	for _, at := range sim.lost {
		if within(at) {
			lost++
		}
	}
	return !slices.ContainsFunc(sim.noted, within), lost
}

// checkAlarms: none fires without a reason, or the check of gaps would be empty.
func (sim *simulation) checkAlarms() {
	for name, spans := range sim.alarms.fired {
		for _, firing := range spans {
			at := span{firing.from, firing.from}
			mirror := name == failedInvocationsAlarm && slices.ContainsFunc(sim.story, func(f window) bool {
				// With tokens of 15 minutes IBM's secret keeps a better one, and there is none for a mirror.
				return (f.mirror != "" || f.name == lifetimeCut) && f.meets(at, healed+15*time.Minute)
			})
			quiet, lost := sim.quiet(span{at.from.Add(-15 * time.Minute), at.to})
			sim.violatedIf(quiet && lost == 0 && !mirror, at.from, "the alarm %s fired, and nothing was wrong", name)
		}
	}
	sim.violatedIf(sim.alarms.leaked.Load(), sim.end, "a line of metrics held a token")
}
