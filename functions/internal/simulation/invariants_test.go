package simulation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
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
	switch {
	case version.Payload == "":
		w.violated(now, "an empty version was published by %s", inv.id)
	case err != nil || iamID != w.workload:
		w.violated(now, "a bad token was published by %s: of %s, %v", inv.id, iamID, err)
	case metadataErr != nil:
		w.violated(now, "%s published with metadata that cannot be read: %v", inv.id, metadataErr)
	default:
		w.checkFreshness(now, inv, expires, metadata)
		w.checkTruth(now, inv, version, expires, metadata)
		w.checkOrder(now, inv, before, expires)
	}
	if inv.did(opManaged) {
		w.violated(now, "%s renewed the bootstrap key before it published", inv.id)
	}
	if inv.versions++; inv.versions > 1 && w.tampered.Before(inv.began) {
		w.violated(now, "%s published %d versions", inv.id, inv.versions)
	}
	inv.saved, inv.savedAt = version.ID, now
	w.tokens.publish(published{at: now, expires: expires, born: time.Unix(metadata.IssuedAt, 0)})
	w.publisher, w.tampered = inv, time.Time{}
}

// checkFreshness: a token has 5 minutes and half of its lifetime left when it is
// checked, and is saved within the function's timeout.
func (w *world) checkFreshness(now time.Time, inv *invocation, expires time.Time, metadata iamtoken.Metadata) {
	least := max(5*time.Minute, time.Duration(metadata.ExpiresIn)*time.Second/2) - functionTimeout
	if left := expires.Sub(now); left < least {
		w.violated(now, "%s published a token with %s left, of %ds", inv.id, left, metadata.ExpiresIn)
	}
	if age := now.Sub(time.Unix(metadata.IssuedAt, 0)); age > functionTimeout+time.Second && !w.under(now, "200 with an old token") {
		w.violated(now, "%s published a token %s old", inv.id, age)
	}
}

// checkTruth: a version's metadata is true.
func (w *world) checkTruth(now time.Time, inv *invocation, version ibmcloudtest.Version, expires time.Time, metadata iamtoken.Metadata) {
	token := iamtoken.Token{Value: iamtoken.NewSecret(version.Payload)}
	says := fmt.Sprint(metadata.Expiration, metadata.IAMID, metadata.Account, metadata.Fingerprint, metadata.RunID)
	truth := fmt.Sprint(expires.Unix(), w.workload, w.cloud.AccountID(), token.Fingerprint(), inv.runID)
	if says != truth {
		w.violated(now, "the metadata of %s's version says %q, the truth is %q", inv.id, says, truth)
	}
}

// checkOrder: what readers have never gets worse, but when passes overlap.
func (w *world) checkOrder(now time.Time, inv *invocation, before published, expires time.Time) {
	back := before.expires.Sub(expires)
	overlapping := before.at.After(inv.began)
	switch {
	case back <= 0:
	case !w.tampered.IsZero():
		// The rotator cannot know what the stored token is worth: its metadata
		// was changed or erased, which counts as expired.
		w.shortened = append(w.shortened, published{at: now, expires: expires})
	case overlapping && (back <= functionTimeout || now.Sub(w.lifetimeSet) < functionTimeout):
	default:
		w.violated(now, "%s published a token that expires %s sooner than the stored one (overlapping: %v)", inv.id, back, overlapping)
	}
	// A repeated delivery finds its run done, while the token is good and new. A run of
	// ensure publishes then only for a mirror that needs it.
	if inv.mode == rotation.ModeEnsure {
		w.checkNeed(now, inv, before)
		return
	}
	again := w.publisher != nil && w.publisher != inv && w.publisher.runID == inv.runID &&
		now.Sub(before.at) < 14*time.Minute && before.expires.Sub(now) > w.threshold(before)+time.Minute
	if again && !overlapping && w.tampered.IsZero() {
		w.violated(now, "run %s, delivered again, published again", inv.runID)
	}
}

// checkNeed: ensure saves nothing that nobody needs.
func (w *world) checkNeed(now time.Time, inv *invocation, before published) {
	short := func(token published) bool { return token.expires.Sub(now) < w.threshold(token)+time.Minute }
	needed := short(before) || before.at.After(inv.began) || now.Sub(w.lastTampered) < 61*time.Minute || w.clockOff.Load() != 0
	for _, arn := range mirrorARNs {
		needed = needed || short(w.mirrors.of[arn].seen.current(now))
	}
	for _, arn := range mirrorARNs {
		needed = needed || w.underMirrorFault(arn, now, now.Add(time.Second))
	}
	if !needed {
		w.violated(now, "%s published, with %s left at IBM and enough in the mirrors", inv.id, before.expires.Sub(now))
	}
}

// ended checks the report of an invocation.
func (w *world) ended(inv *invocation, ran report.Report) {
	failuresBefore := w.alarms.failures.Load()
	if err := inv.process.emitter.Emit(ran); err != nil {
		panic(err)
	}
	result := ran.Results[0]
	if result.Outcome == report.Failed {
		w.alarms.note("Errors", inv.began, lambdaDelay, 1) // Lambda stamps it with its beginning
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.onReport != nil {
		w.onReport(inv, ran)
	}
	w.counts.runs++
	now := time.Now()
	switch took := now.Sub(inv.began); {
	case took > functionTimeout && inv.fate.freezeFor == 0:
		w.violated(now, "%s took %s, longer than its deadline", inv.id, took)
	case result.Outcome == report.Failed:
		w.counts.failed++
		if w.alarms.failures.Load() == failuresBefore || result.Error == nil || result.Error.Kind == "" || result.Error.Step == "" {
			w.violated(now, "%s failed without a metric or a reason: %v", inv.id, result.Error)
		}
	case result.Outcome == report.Rotated && inv.versions == 0:
		w.violated(now, "%s says that it rotated, and made no version", inv.id)
	}
	if w.keys != nil {
		w.keysEnded(inv, ran)
	}
	w.checkPut(now, inv, result)
	if text := fmt.Sprint(result.Error); strings.Contains(text, "eyJ") || strings.Contains(text, w.workloadKey) {
		w.violated(now, "%s showed a secret", inv.id)
	}
}

// crashed is the end of an invocation that reports nothing: Lambda counts it.
func (w *world) crashed(inv *invocation) {
	w.alarms.note("Errors", inv.began, lambdaDelay, 1) // Lambda stamps it with its beginning
	w.lostRun(inv.began)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.runs++
	w.counts.crashed++
}

// under reports whether a fault is in force, or was within the function's timeout.
func (w *world) under(at time.Time, name string) bool {
	for _, f := range w.story {
		if f.name == name && !f.from.After(at) && at.Before(f.to.Add(functionTimeout)) {
			return true
		}
	}
	return false
}

// trouble is a stretch in which nothing could be published: faults with an
// excuse that overlap, or follow each other before the first's excuse is used
// up, count as one.
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

// findTroubles merges the faults that excuse something.
func (w *world) findTroubles() []trouble {
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
	var merged []trouble
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

// leftAt is R, the remaining lifetime of the token that readers have when a trouble
// begins. One exception is made and said in README.md: where metadata was changed
// so that this token seemed expired, and a token of a shorter lifetime replaced it
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
	w.checkMirrors()
	w.checkCaches()
}

// checkGaps holds every moment at which readers had no token against the bound,
// and the alarms against the moment at which it began. Of a gap that forged metadata
// hid, see forgedUntil, what comes after that counts.
func (w *world) checkGaps() {
	troubles := w.troubles
	for _, whole := range w.tokens.gaps {
		trusted := w.forgedUntil(w.tokens.current(whole.from), whole.to)
		g := span{later(whole.from, trusted.Add(w.stepsIn(w.tokens.current(whole.from)))), whole.to}
		if !g.from.Before(g.to) {
			continue
		}
		i := slices.IndexFunc(troubles, func(t trouble) bool { return !g.from.Before(t.from) && !g.to.After(t.excused) })
		if i < 0 {
			w.violated(g.from, "readers had no token for %s, and no fault excuses it", g.length())
		} else {
			troubles[i].gap, troubles[i].recovered = troubles[i].gap+g.length(), g.to
			if t := troubles[i]; t.gap > t.bound() {
				w.violated(g.from, "readers had no token for %s; the faults %q lasted %s with %s left, so at most %s are excused",
					t.gap, t.kinds, t.length(), t.left, t.bound())
			}
		}
		by := later(whole.from, trusted)
		if _, heard := w.alarms.heardSince(by); !heard && by.Before(g.to) {
			w.violated(by, "readers had no token for %s, and no alarm fired before", g.to.Sub(by))
		}
	}
}

// stepsIn is when the next version comes, counted from the time until which the current
// one's metadata is trusted: `ensure` replaces it with MIN_REMAINING left, 8 minutes, say, but not
// by one that expires sooner.
func (w *world) stepsIn(token published) time.Duration {
	return nextEnsure - min(rotation.Threshold(w.minRemaining, iamtoken.MaxLifetime), token.expires.Sub(token.born))
}

// forgedUntil is until when readers may have no token of a version, by design with neither
// bound nor alarm: its token expires before the next one comes, since before to its metadata was
// forged to a later expiry. That is trusted up to 61 minutes after the version was made, since only
// the value says more, and the rotator has no right to read that. It is zero for any other version.
func (w *world) forgedUntil(token published, to time.Time) time.Time {
	forged := slices.ContainsFunc(w.story, func(f window) bool {
		return f.name == metadataForged && !f.from.Before(token.at) && f.from.Before(to)
	})
	trusted := token.at.Add(iamtoken.MaxLifetime)
	if !forged || trusted.Add(w.stepsIn(token)).Before(token.expires) {
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

// checkMargins: without faults at least 8:50 is left of a 60-minute token when
// the next is published; of a 15-minute token, or after one lost run, 5:50. A token
// that has more left than the next one would is not replaced: where the lifetime was cut,
// a rotate may have saved none, which is as if it were lost.
func (w *world) checkMargins() {
	for i := range len(w.tokens.tokens) - 1 {
		old, new := w.tokens.tokens[i], w.tokens.tokens[i+1]
		m := margin{span: span{old.at, new.at}, left: old.expires.Sub(new.at)}
		if quiet, lost := w.quiet(m.from.Add(-10*time.Minute), m.to); quiet && lost <= 1 {
			m.calm = lost == 0 && old.lifetime() == w.lifetime && new.lifetime() == w.lifetime
			m.once = lost == 1 != (old.lifetime() < w.lifetime)
			if least := min(w.mustRemain(old.lifetime(), lost == 1 || new.lifetime() < old.lifetime()), new.lifetime()-nextEnsure); m.left < least {
				w.violated(m.to, "only %s were left of a token of %s, without faults and with %d runs lost", m.left, old.lifetime(), lost)
			}
		}
		w.margins = append(w.margins, m)
	}
}

// quiet reports whether nothing was wrong in a stretch but that runs were lost: with a
// region those of rotate. A shorter lifetime is none of the faults: it has its own bound.
func (w *world) quiet(from, to time.Time) (quiet bool, lost int) {
	for _, f := range w.story {
		if f.name == regionLost && !f.from.After(to) && !f.to.Add(rotateEvery).Before(from) {
			lost = 1
		}
		if f.name != lifetimeCut && f.mirror == "" && !f.from.After(to) && !f.to.Add(5*time.Minute).Before(from) {
			return false, 0
		}
	}
	for _, at := range w.noted {
		if !at.After(to) && at.After(from) {
			return false, 0
		}
	}
	for _, at := range w.lost {
		if !at.After(to) && at.After(from) {
			lost++
		}
	}
	return true, lost
}

// checkAlarms: none fires without a reason, or the check of gaps would be empty.
func (w *world) checkAlarms() {
	for name, spans := range w.alarms.fired {
		for _, firing := range spans {
			mirror := name == failedInvocationsAlarm && slices.ContainsFunc(w.story, func(f window) bool {
				// With tokens of 15 minutes IBM's secret keeps a better one, and there is none for a mirror.
				return (f.mirror != "" || f.name == lifetimeCut) && !f.from.After(firing.from) && firing.from.Before(f.to.Add(healed+15*time.Minute))
			})
			if quiet, lost := w.quiet(firing.from.Add(-15*time.Minute), firing.from); quiet && lost == 0 && !mirror {
				w.violated(firing.from, "the alarm %s fired, and nothing was wrong", name)
			}
		}
	}
	if w.alarms.leaked.Load() {
		w.violated(w.end, "a line of metrics held a token")
	}
}
