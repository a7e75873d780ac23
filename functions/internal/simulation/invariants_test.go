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
func (w *world) published(inv *invocation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	version := w.cloud.MustCurrent(w.tokenSecret)
	iamID, expires, err := w.cloud.Validate(version.Payload)
	now, before := time.Now(), w.tokens.current(time.Now())
	metadata, metadataErr := iamtoken.ParseMetadata(version.Metadata)
	born := time.Unix(metadata.IssuedAt, 0)
	w.violatedIf(version.Payload == "", now, "an empty version was published by %s", inv.id)
	w.violatedIf(err != nil || iamID != w.workload, now, "a bad token was published by %s: of %s, %v", inv.id, iamID, err)
	w.violatedIf(metadataErr != nil, now, "%s published with metadata that cannot be read: %v", inv.id, metadataErr)

	// It is fresh: a token has 5 minutes and half of its lifetime left when it is checked, and is saved within the function's
	// timeout.
	left, age := expires.Sub(now), now.Sub(born)
	w.violatedIf(left < max(5*time.Minute, time.Duration(metadata.ExpiresIn)*time.Second/2)-functionTimeout,
		now, "%s published a token with %s left, of %ds", inv.id, left, metadata.ExpiresIn)
	w.violatedIf(age > functionTimeout+time.Second && !w.meets(span{now, now}, functionTimeout, oldTokenServed), now, "%s published a token %s old", inv.id, age)

	// Its metadata is true.
	says := fmt.Sprint(metadata.Expiration, metadata.IAMID, metadata.Account, metadata.Fingerprint, metadata.RunID)
	token := iamtoken.Token{Value: iamtoken.NewSecret(version.Payload)}
	truth := fmt.Sprint(expires.Unix(), w.workload, w.cloud.AccountID(), token.Fingerprint(), inv.RunID)
	w.violatedIf(says != truth, now, "the metadata of %s's version says %q, the truth is %q", inv.id, says, truth)

	w.checkOrder(now, inv, before, expires)
	w.violatedIf(inv.did(opManaged), now, "%s renewed the bootstrap key before it published", inv.id)
	inv.versions++
	w.violatedIf(inv.versions > 1 && w.tampered.Before(inv.began), now, "%s published %d versions", inv.id, inv.versions)
	inv.saved, inv.savedAt = version.ID, now
	w.tokens.publish(published{at: now, expires: expires, born: born})
	w.publisher, w.tampered = inv, time.Time{}
}

// checkOrder: what readers have never gets worse, but when passes overlap, and nothing is saved that nobody needs.
func (w *world) checkOrder(now time.Time, inv *invocation, before published, expires time.Time) {
	back := before.expires.Sub(expires)
	overlapping, untouched := before.at.After(inv.began), w.tampered.IsZero()
	if back > 0 && !untouched {
		// The rotator cannot know what the stored token is worth: its metadata was changed or erased, which counts as expired.
		w.shortened = append(w.shortened, published{at: now, expires: expires})
	}
	mayStepBack := overlapping && (back <= functionTimeout || now.Sub(w.lifetimeSet) < functionTimeout)
	w.violatedIf(back > 0 && untouched && !mayStepBack, now, "%s published a token that expires %s sooner than the stored one (overlapping: %v)", inv.id, back, overlapping)

	short := func(token published) bool { return token.expires.Sub(now) < w.threshold(token)+time.Minute }
	if inv.Mode == rotation.ModeRotate {
		// A repeated delivery finds its run done, while the token is good and new.
		again := w.publisher != nil && w.publisher != inv && w.publisher.RunID == inv.RunID && now.Sub(before.at) < 14*time.Minute
		w.violatedIf(again && !short(before) && !overlapping && untouched, now, "run %s, delivered again, published again", inv.RunID)
		return
	}
	needed := short(before) || overlapping || now.Sub(w.lastTampered) < 61*time.Minute || w.clockOff.Load() != 0
	for _, arn := range mirrorARNs {
		needed = needed || short(w.mirrors[arn].seen.current(now)) || w.mirrors[arn].faulty(span{now, now.Add(time.Second)})
	}
	w.violatedIf(!needed, now, "%s published, with %s left at IBM and enough in the mirrors", inv.id, before.expires.Sub(now))
}

// ended checks the report of an invocation.
func (w *world) ended(inv *invocation, ran report.Report) {
	failuresBefore := w.alarms.failures.Load()
	if err := inv.process.emitter.Emit(ran); err != nil {
		panic(err)
	}
	result := ran.Results[0]
	failed := result.Outcome == report.Failed
	if failed {
		w.alarms.note("Errors", inv.began, lambdaDelay, 1) // Lambda stamps it with its beginning
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.onReport != nil {
		w.onReport(inv, ran)
	}
	w.counts.runs++
	now := time.Now()
	if failed {
		w.counts.failed++
		w.violatedIf(w.alarms.failures.Load() == failuresBefore || result.Error == nil || result.Error.Kind == "" || result.Error.Step == "",
			now, "%s failed without a metric or a reason: %v", inv.id, result.Error)
	}
	took, text := now.Sub(inv.began), fmt.Sprint(result.Error)
	w.violatedIf(took > functionTimeout && inv.fate.freezeFor == 0, now, "%s took %s, longer than its deadline", inv.id, took)
	w.violatedIf(result.Outcome == report.Rotated && inv.versions == 0, now, "%s says that it rotated, and made no version", inv.id)
	w.violatedIf(strings.Contains(text, "eyJ") || strings.Contains(text, w.workloadKey), now, "%s showed a secret", inv.id)
	if w.keys != nil {
		w.keysEnded(inv, ran)
	}
	w.mirrors[healthyMirror].checkPut(now, inv, result)
}

// crashed is the end of an invocation that reports nothing: Lambda counts it.
func (w *world) crashed(inv *invocation) {
	w.alarms.note("Errors", inv.began, lambdaDelay, 1)
	w.lostRun(inv.began)
	w.locked(func() { w.counts.runs, w.counts.crashed = w.counts.runs+1, w.counts.crashed+1 })
}

// trouble is a stretch in which nothing could be published: faults with an excuse that overlap, or follow each other before the
// first's excuse is used up, count as one.
type trouble struct {
	span                    // from the first fault's beginning to the last one's end
	excused   time.Time     // until when readers may meet an expired token
	left      time.Duration // R: the remaining lifetime when it began
	kinds     []string
	gap       time.Duration // readers without a token, within it
	recovered time.Time     // when the last of them had one again
}

// bound is promise 1: nothing while D ≤ R − excuse, D − R + excuse beyond.
func (t trouble) bound() time.Duration {
	return max(0, t.excused.Sub(t.from)-t.left)
}

// excuses reports whether a gap lies within it, or so long after it.
func (t trouble) excuses(g span, after time.Duration) bool {
	return !g.from.Before(t.from) && !g.to.After(t.excused.Add(after))
}

// findTroubles merges the faults that excuse something.
func (w *world) findTroubles() (merged []trouble) {
	var excusing []trouble
	for _, f := range w.story {
		if f.excuse > 0 {
			excusing = append(excusing, trouble{span: f.span, excused: f.to.Add(f.excuse), kinds: []string{f.name}})
		}
	}
	for _, at := range w.lost {
		excusing = append(excusing, trouble{span: span{at, at}, excused: at.Add(nextEnsure)})
	}
	slices.SortFunc(excusing, func(a, b trouble) int { return a.from.Compare(b.from) })
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
		merged[i].left = w.leftAt(t)
	}
	return merged
}

// leftAt is R, the remaining lifetime of the token that readers have when a trouble begins. One exception is made and said in
// README.md: where metadata was changed so that this token seemed expired, and a token of a shorter lifetime replaced it
// meanwhile, that one's counts.
func (w *world) leftAt(t trouble) time.Duration {
	expires := w.tokens.current(t.from).expires
	for _, token := range w.shortened {
		if !token.at.Before(t.from) && token.at.Before(t.excused) {
			expires = earlier(expires, token.expires)
		}
	}
	return max(0, expires.Sub(t.from))
}

// check holds the whole story against the promises, once it is over.
func (w *world) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = w.findTroubles()
	w.checkGaps()
	w.checkMargins()
	w.checkAlarms()
	for _, arn := range mirrorARNs {
		w.mirrors[arn].check()
	}
	w.checkCaches()
}

// checkGaps holds every moment at which readers had no token against the bound, and the alarms against the moment at which it
// began. Of a gap that forged metadata hid, see forgedUntil, what comes after that counts.
func (w *world) checkGaps() {
	for _, whole := range w.tokens.gaps {
		token := w.tokens.current(whole.from)
		trusted := w.forgedUntil(token, whole.to)
		g := span{later(whole.from, trusted.Add(w.stepsIn(token))), whole.to}
		if !g.from.Before(g.to) {
			continue
		}
		i := slices.IndexFunc(w.troubles, func(t trouble) bool { return t.excuses(g, 0) })
		w.violatedIf(i < 0, g.from, "readers had no token for %s, and no fault excuses it", g.length())
		if i >= 0 {
			t := &w.troubles[i]
			t.gap, t.recovered = t.gap+g.length(), g.to
			w.violatedIf(t.gap > t.bound(), g.from, "readers had no token for %s; the faults %q lasted %s with %s left, so at most %s are excused",
				t.gap, t.kinds, t.length(), t.left, t.bound())
		}
		by := later(whole.from, trusted)
		_, heard := w.alarms.heardSince(by)
		w.violatedIf(!heard && by.Before(g.to), by, "readers had no token for %s, and no alarm fired before", g.to.Sub(by))
	}
}

// stepsIn is when the next version comes, counted from the time until which the current one's metadata is trusted: `ensure`
// replaces it with MIN_REMAINING left, 8 minutes, say, but not by one that expires sooner.
func (w *world) stepsIn(token published) time.Duration {
	return nextEnsure - min(rotation.Threshold(w.minRemaining, iamtoken.MaxLifetime), token.lifetime())
}

// forgedUntil is until when readers may have no token of a version, by design with neither bound nor alarm: its token expires
// before the next one comes, since before to its metadata was forged to a later expiry. That is trusted up to 61 minutes after
// the version was made, since only the value says more, and the rotator has no right to read that. It is zero for any other
// version.
func (w *world) forgedUntil(token published, to time.Time) time.Time {
	trusted := token.at.Add(iamtoken.MaxLifetime)
	if !w.meets(span{token.at, to}, 0, metadataForged) || trusted.Add(w.stepsIn(token)).Before(token.expires) {
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
func (w *world) checkMargins() {
	for i := range len(w.tokens.tokens) - 1 {
		old, next := w.tokens.tokens[i], w.tokens.tokens[i+1]
		m := margin{span: span{old.at, next.at}, left: old.expires.Sub(next.at)}
		if quiet, lost := w.quiet(span{m.from.Add(-10 * time.Minute), m.to}); quiet && lost <= 1 {
			m.calm = lost == 0 && old.lifetime() == w.lifetime && next.lifetime() == w.lifetime
			m.once = lost == 1 != (old.lifetime() < w.lifetime)
			least := min(w.mustRemain(old.lifetime(), lost == 1 || next.lifetime() < old.lifetime()), next.lifetime()-nextEnsure)
			w.violatedIf(m.left < least, m.to, "only %s were left of a token of %s, without faults and with %d runs lost", m.left, old.lifetime(), lost)
		}
		w.margins = append(w.margins, m)
	}
}

// quiet reports whether nothing was wrong in a stretch but that runs were lost: with a region those of rotate. A shorter
// lifetime is none of the faults: it has its own bound.
func (w *world) quiet(s span) (quiet bool, lost int) {
	for _, f := range w.story {
		if f.name != lifetimeCut && f.mirror == "" && f.meets(s, 5*time.Minute) {
			return false, 0
		}
	}
	if w.meets(s, rotateEvery, regionLost) {
		lost = 1
	}
	within := func(at time.Time) bool { return !at.After(s.to) && at.After(s.from) }
	for _, at := range w.lost {
		if within(at) {
			lost++
		}
	}
	return !slices.ContainsFunc(w.noted, within), lost
}

// checkAlarms: none fires without a reason, or the check of gaps would be empty.
func (w *world) checkAlarms() {
	for name, spans := range w.alarms.fired {
		for _, firing := range spans {
			at := span{firing.from, firing.from}
			mirror := name == failedInvocationsAlarm && slices.ContainsFunc(w.story, func(f window) bool {
				// With tokens of 15 minutes IBM's secret keeps a better one, and there is none for a mirror.
				return (f.mirror != "" || f.name == lifetimeCut) && f.meets(at, healed+15*time.Minute)
			})
			quiet, lost := w.quiet(span{at.from.Add(-15 * time.Minute), at.to})
			w.violatedIf(quiet && lost == 0 && !mirror, at.from, "the alarm %s fired, and nothing was wrong", name)
		}
	}
	w.violatedIf(w.alarms.leaked.Load(), w.end, "a line of metrics held a token")
}
