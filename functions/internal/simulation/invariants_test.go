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
	issued := time.Unix(metadata.IssuedAt, 0)
	sim.violatedIf(version.Payload == "", now, "an empty version was published by %s", inv.id)
	sim.violatedIf(err != nil || iamID != sim.workload, now, "a bad token was published by %s: of %s, %v", inv.id, iamID, err)
	sim.violatedIf(metadataErr != nil, now, "%s published with metadata that cannot be read: %v", inv.id, metadataErr)

	// It is fresh: when a token is checked, 5 minutes and half of its lifetime are left; it is saved within the function's timeout.
	left, age := expires.Sub(now), now.Sub(issued)
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
	sim.tokens.publish(published{at: now, expires: expires, issued: issued})
	sim.publisher, sim.tampered = inv, time.Time{}
}

// checkOrder: a version never shortens the remaining lifetime that readers have, unless passes overlap, and none is saved without
// need.
func (sim *simulation) checkOrder(now time.Time, inv *invocation, before published, expires time.Time) {
	back := before.expires.Sub(expires)
	overlapping, untouched := before.at.After(inv.began), sim.tampered.IsZero()
	if back > 0 && !untouched {
		// The stored token's metadata was changed or erased. The rotator then takes the token for an expired one.
		sim.shortened = append(sim.shortened, published{at: now, expires: expires})
	}
	mayStepBack := overlapping && (back <= functionTimeout || now.Sub(sim.lifetimeSet) < functionTimeout)
	sim.violatedIf(back > 0 && untouched && !mayStepBack, now, "%s published a token that expires %s sooner than the stored one (overlapping: %v)", inv.id, back, overlapping)

	short := func(token published) bool { return token.expires.Sub(now) < sim.threshold(token)+time.Minute }
	if inv.Mode == rotation.ModeRotate {
		// A repeated delivery finds its run done, as long as the token is good and new.
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
	sim.violatedIf(took > functionTimeout && inv.mishaps.freezeFor == 0, now, "%s took %s, longer than its deadline", inv.id, took)
	sim.violatedIf(result.Outcome == report.Rotated && inv.versions == 0, now, "%s says that it rotated, and made no version", inv.id)
	sim.violatedIf(strings.Contains(text, "eyJ") || strings.Contains(text, sim.workloadKey), now, "%s showed a secret", inv.id)
	if sim.keys != nil {
		sim.checkKeys(inv, ran)
	}
	sim.mirrors[healthyMirror].checkPut(now, inv, result)
}

// crashed records an invocation that ended without a report: Lambda counts it.
func (sim *simulation) crashed(inv *invocation) {
	sim.alarms.note("Errors", inv.began, lambdaDelay, 1)
	sim.lostRun(inv.began)
	sim.locked(func() { sim.counts.runs, sim.counts.crashed = sim.counts.runs+1, sim.counts.crashed+1 })
}

// outage is a time in which nothing could be published. Two faults with an excuse are one outage if the second begins before the
// first one's excuse is used up.
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

// excuses reports whether a gap lies within it and the time after it.
func (t outage) excuses(g span, after time.Duration) bool {
	return !g.from.Before(t.from) && !g.to.After(t.excused.Add(after))
}

// findOutages merges the faults that excuse something into outages.
func (sim *simulation) findOutages() (merged []outage) {
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

// leftAt is R, the remaining lifetime of the token that readers have when an outage begins. README.md states one exception: if
// changed metadata made this token seem expired, and one of a shorter lifetime replaced it meanwhile, R is that one's.
func (sim *simulation) leftAt(t outage) time.Duration {
	expires := sim.tokens.current(t.from).expires
	for _, token := range sim.shortened {
		if !token.at.Before(t.from) && token.at.Before(t.excused) {
			expires = earlier(expires, token.expires)
		}
	}
	return max(0, expires.Sub(t.from))
}

// check checks the whole story against the promises, once it is over.
func (sim *simulation) check() {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	sim.outages = sim.findOutages()
	sim.checkGaps()
	sim.checkMargins()
	sim.checkAlarms()
	for _, arn := range mirrorARNs {
		sim.mirrors[arn].check()
	}
	sim.checkCaches()
}

// checkGaps: each gap of the readers is within the bound, and an alarm fired before it. Of a gap that forged metadata hides, see
// forgedUntil, only the time after that counts.
func (sim *simulation) checkGaps() {
	for _, whole := range sim.tokens.gaps {
		token := sim.tokens.current(whole.from)
		trusted := sim.forgedUntil(token, whole.to)
		g := span{later(whole.from, trusted.Add(sim.untilNext(token))), whole.to}
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
		_, fired := sim.alarms.firingSince(by)
		sim.violatedIf(!fired && by.Before(g.to), by, "readers had no token for %s, and no alarm fired before", g.to.Sub(by))
	}
}

// untilNext is how long after the end of trust in a version's forged metadata the next one comes at the latest; negative if before
// it. `ensure` replaces a token with MIN_REMAINING left (for example 8 minutes), but not by one that expires sooner.
func (sim *simulation) untilNext(token published) time.Duration {
	return nextEnsure - min(rotation.Threshold(sim.minRemaining, iamtoken.MaxLifetime), token.lifetime())
}

// forgedUntil is until when metadata that was forged to a later expiry, before to, may leave readers without a token: by design
// there is neither a bound nor an alarm. The metadata is trusted up to 61 minutes after the version was made, since only the value
// shows more, which the rotator may not read. It is zero for other versions, and if the next one comes before the token expires.
func (sim *simulation) forgedUntil(token published, to time.Time) time.Time {
	trusted := token.at.Add(iamtoken.MaxLifetime)
	if !sim.meets(span{token.at, to}, 0, metadataForged) || trusted.Add(sim.untilNext(token)).Before(token.expires) {
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
// after one lost run, 5:50. A token is not replaced by one that expires sooner: after the lifetime was cut, a rotate run may save
// none, which counts as a lost run.
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

// quiet reports whether nothing was wrong in s apart from lost runs; a lost region counts as one of rotate. A shorter lifetime is
// not a fault here: it has its own bound.
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

// checkAlarms: none fires without a reason. Else the check of gaps would mean nothing.
func (sim *simulation) checkAlarms() {
	for name, spans := range sim.alarms.fired {
		for _, firing := range spans {
			at := span{firing.from, firing.from}
			mirror := name == failedInvocationsAlarm && slices.ContainsFunc(sim.story, func(f window) bool {
				// With tokens of 15 minutes IBM's secret keeps a longer one, and a mirror that needs one gets none.
				return (f.mirror != "" || f.name == lifetimeCut) && f.meets(at, healed+15*time.Minute)
			})
			quiet, lost := sim.quiet(span{at.from.Add(-15 * time.Minute), at.to})
			sim.violatedIf(quiet && lost == 0 && !mirror, at.from, "the alarm %s fired, and nothing was wrong", name)
		}
	}
	sim.violatedIf(sim.alarms.leaked.Load(), sim.end, "a line of metrics held a token")
}
