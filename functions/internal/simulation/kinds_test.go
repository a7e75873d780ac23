package simulation

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
)

// kind is a kind of fault.
type kind struct {
	name string
	// excuse is zero for a fault during which no reader may meet an expired token. Else publishing is impossible while it
	// lasts; readers may meet one once the remaining lifetime is used up, and until excuse after its end.
	excuse time.Duration
	lasts  func(d dice) time.Duration // draws how long it lasts; nil for a moment
	begin  begin
	apart  []string // kinds that it never meets
	mirror string   // the ARN of the mirror whose fault this is, if it is none of IBM's secret
	region bool     // set for the loss of a region of two
}

// begin begins a fault now, and returns what ends it.
type begin func(sim *simulation, d dice, until time.Time) (end func())

const (
	// promised is how long after an outage of IAM or Secrets Manager a reader may still meet an expired token (promise 1).
	promised = 60 * time.Second
	// nextEnsure is the same for faults during which no run retries, because runs end at once or do not begin: two ensure runs
	// begin up to 120 s apart (every minute, up to 60 s late) and take up to 10 s.
	nextEnsure = 130 * time.Second
)

// Names of kinds that the checks treat specially.
const (
	iamDown         = "IAM down"
	oldTokenServed  = "200 with an old token"
	lifetimeCut     = "token lifetime cut to 15 minutes"
	metadataForged  = "metadata forged to a later expiry"
	foreignKey      = "the API key of another account stored"
	keyDeleted      = "the API key deleted"
	keyReplaced     = "the API key replaced"
	bootstrapSwap   = "the bootstrap key replaced"
	previousLocked  = "the previous version locked"
	twoDeployments  = "two deployments of the function"
	regionLost      = "a region dead: both schedules, and its mirror"
	otherRegionLost = "a region dead: ensure alone, and its mirror"
)

var (
	iamOps            = []string{opBootstrap, opExchange, opKeys}
	secretsManagerOps = []string{opLook, opReadKey, opSave}
)

// kinds lists all kinds of faults: the outages of promise 1; network faults that a pass must survive; what people do to keys,
// locks, metadata and settings of the account; faults of Lambda, of EventBridge Scheduler and of Lambda's queue; those of the
// mirrors and regions. expectSet is whether the rotation has `expect`.
func kinds(expectSet bool) []kind {
	keys := []string{keyDeleted, keyReplaced} // there is one API key secret
	if expectSet {
		keys = append(keys, foreignKey)
	}
	workloadKey := func(sim *simulation) string { return sim.workloadKey }
	aWhile, upTo6h, held := minutes(10, 180), minutes(10, 360), minutes(5, 180)
	all := []kind{
		{name: iamDown, excuse: promised, lasts: upTo3h, begin: network(func(d dice) networkFault { return down(d, iamOps) })},
		{name: "Secrets Manager down", excuse: promised, lasts: upTo3h, begin: network(func(d dice) networkFault { return down(d, secretsManagerOps) })},
		{name: "IAM and Secrets Manager down", excuse: promised, lasts: upTo3h, begin: network(func(d dice) networkFault { return down(d, nil) })},
		{name: "one operation down", excuse: promised, lasts: upTo3h, begin: network(func(d dice) networkFault {
			return down(d, []string{pick(d, opBootstrap, opExchange, opLook, opReadKey, opSave)})
		})},
		{name: "429 with a wild Retry-After", excuse: promised, lasts: upTo3h, begin: network(func(d dice) networkFault { return networkFault{someOps(d), tooMany} })},
		{name: "answers slow up to the deadline", excuse: promised, lasts: upTo3h, begin: network(func(d dice) networkFault {
			return networkFault{someOps(d), slow(d.between(2*time.Second, 2*time.Minute))}
		})},
		{name: "200 without use", excuse: promised, lasts: upTo3h, begin: network(func(d dice) networkFault { return networkFault{someOps(d), useless(d)} })},
		{name: oldTokenServed, excuse: promised, lasts: upTo3h, begin: serveOldToken},
		{name: "IAM's public keys out of reach", lasts: upTo3h, begin: network(func(d dice) networkFault {
			return pick(d, down(d, []string{opKeys}), networkFault{[]string{opKeys}, useless(d)})
		})},
		{name: "connections lost before a save", excuse: promised, lasts: minutes(1, 60), begin: network(of(lost, opSave))},

		{name: "connections lost after a save", lasts: aWhile, begin: network(of(lostAfter, opSave))},
		{name: "the answer to a save cut off", lasts: aWhile, begin: network(of(truncated, opSave))},
		{name: "a third of the connections lost", lasts: aWhile, begin: network(of(third(2, lost, lostAfter)))},
		{name: "a third of the answers 5xx or 429", lasts: aWhile, begin: network(of(third(3, answering(503, "text/html", "<html>"), tooMany)))},
		{name: "answers slow by a second", lasts: aWhile, begin: network(func(d dice) networkFault { return networkFault{nil, slow(d.between(time.Second, 2*time.Second))} })},

		{name: keyDeleted, excuse: nextEnsure, lasts: held, begin: deleteKey(workloadKey, (*simulation).newWorkloadKey), apart: keys},
		{name: keyReplaced, begin: replaceKey(workloadKey, (*simulation).newWorkloadKey), apart: keys},
		{name: "the bootstrap key deleted before it is replaced", excuse: nextEnsure, lasts: held,
			begin: deleteKey((*simulation).bootstrapKey, (*simulation).newBootstrapKey), apart: []string{bootstrapSwap}},
		{name: bootstrapSwap, begin: replaceKey((*simulation).bootstrapKey, (*simulation).newBootstrapKey)},
		{name: "the current version locked", excuse: nextEnsure, lasts: held, begin: lock("current"), apart: []string{previousLocked}},
		{name: previousLocked, excuse: nextEnsure, lasts: held, begin: lock("previous")},
		{name: lifetimeCut, lasts: minutes(30, 2*24*60), begin: during(
			func(sim *simulation) { sim.setLifetime(shortLifetime) }, func(sim *simulation) { sim.setLifetime(sim.lifetime) })},
		{name: "the function's clock 5 minutes off", lasts: upTo6h, begin: func(sim *simulation, d dice, _ time.Time) func() {
			sim.clockOff.Store(int64(pick(d, -5*time.Minute, 5*time.Minute)))
			return func() { sim.clockOff.Store(0) }
		}},
		{name: "metadata erased or unreadable", begin: once(func(sim *simulation, d dice) {
			sim.tamper(pick(d, nil, map[string]any{}, map[string]any{"expiration": "soon"}, map[string]any{"expiration": -1.5}, map[string]any{"run_id": 7}))
		})},
		{name: metadataForged, begin: forgeMetadata(4 * time.Hour)},
		{name: "metadata forged to an earlier expiry", begin: forgeMetadata(-4 * time.Hour)},
	}
	if expectSet { // else nothing is there to compare its tokens with once the stored one has expired
		all = append(all, kind{name: foreignKey, excuse: nextEnsure, lasts: held, begin: storeForeignKey, apart: keys})
	}
	all = append(all, []kind{
		// The run of a process that dies or freezes counts as lost, see lostRun.
		{name: "processes killed at any step", lasts: minutes(2, 60), begin: raise(kill, 0.5)},
		{name: "processes frozen in mid-pass", lasts: minutes(10, 120), begin: raise(freeze, 0.3)},
		{name: "stale connections after a thaw", lasts: aWhile, begin: raise(stale, 1)},
		{name: "cold processes only", lasts: aWhile, begin: raise(cold, 1)},
		{name: "a deploy in the middle of a run", begin: once(func(sim *simulation, d dice) {
			for _, fn := range sim.functions { // a run under way finishes or is killed
				fn.deploy(d.chance(0.5))
			}
		})},
		{name: twoDeployments, lasts: minutes(60, 1440), begin: func(sim *simulation, d dice, until time.Time) func() {
			offset := pick(d, 0, d.between(0, time.Minute)) // at the same seconds or at others
			sim.functions[1].startSchedules(time.Now().Add(offset), until)
			return nothing
		}},

		{name: "events delivered twice and more", lasts: upTo6h, begin: raise(duplicate, 0.5)},
		{name: "events out of order", lasts: upTo6h, begin: raise(disorder, 1)},
		{name: "half of the events dropped at their maximum age", lasts: minutes(2, 60), begin: raise(lose, 0.5)},
		{name: "no events delivered", excuse: nextEnsure, lasts: upTo3h, begin: raise(lose, 1)},
		{name: "the function throttled", excuse: nextEnsure, lasts: upTo3h, begin: raise(throttled, 1)},
	}...)
	return slices.Concat(all, mirrorFaults(faultyMirror), regions())
}

// named is the kind of that name.
func named(all []kind, name string) kind {
	return all[slices.IndexFunc(all, func(k kind) bool { return k.name == name })]
}

// upTo3h is how long outages last: 1 s to 3 h, short ones as likely as long ones.
func upTo3h(d dice) time.Duration { return d.anyScale(time.Second, 3*time.Hour) }

func minutes(least, most int) func(d dice) time.Duration {
	return func(d dice) time.Duration {
		return d.anyScale(time.Duration(least)*time.Minute, time.Duration(most)*time.Minute)
	}
}

func nothing() {}

// once is a fault that lasts for a moment.
func once(do func(sim *simulation, d dice)) begin {
	return func(sim *simulation, d dice, _ time.Time) func() {
		do(sim, d)
		return nothing
	}
}

// during is a fault that undo ends.
func during(do, undo func(sim *simulation)) begin {
	return func(sim *simulation, _ dice, _ time.Time) func() {
		do(sim)
		return func() { undo(sim) }
	}
}

// network is a fault of the network.
func network(draw func(d dice) networkFault) begin {
	return func(sim *simulation, d dice, _ time.Time) func() { return sim.networkFaults.add(draw(d)) }
}

// of treats the requests of some operations, without ops all.
func of(treat treatment, ops ...string) func(dice) networkFault {
	return func(dice) networkFault { return networkFault{ops, treat} }
}

func someOps(d dice) []string { return pick(d, iamOps, secretsManagerOps, nil) }

// down gives no answer, or one with a temporary error.
func down(d dice, ops []string) networkFault {
	status := pick(d, 500, 502, 503, 504)
	return networkFault{ops, pick(d, answering(status, "application/json", `{}`), answering(status, "text/html", "<html><h1>Service Unavailable</h1></html>"), answering(status, "", ""),
		lost,
		func(_ uint64, req *http.Request, _ forward) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: req.URL.Host, IsNotFound: true}}
		},
		func(_ uint64, req *http.Request, _ forward) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})}
}

// useless answers 200 or 201 with a body that is not the service's.
func useless(d dice) treatment {
	status := pick(d, 200, 201)
	body := pick(d, "", "null", "[]", "{}", `{"errors":[]}`, `{"access_token":""}`, `{"access_token":"eyJraWQiOi`, `{"id":"","secret_type":"arbitrary"}`)
	return pick(d, answering(status, "application/json", body), answering(status, "text/html", "<html><body>Please log in</body></html>"), truncated)
}

// serveOldToken is a cache in front of IAM that always returns the same token.
func serveOldToken(sim *simulation, d dice, _ time.Time) func() {
	left := d.between(-time.Hour, 59*time.Minute)
	body := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`, sim.cloud.MustMintToken(sim.mintKey, left), time.Now().Add(left).Unix())
	return sim.networkFaults.add(networkFault{[]string{opExchange}, answering(http.StatusOK, "application/json", body)})
}

// storeForeignKey stores the key of another account in the key secret. At the end a person puts the right one back.
func storeForeignKey(sim *simulation, d dice, _ time.Time) func() {
	account := pick(d, "", strings.Repeat("1", 32))
	other := sim.cloud.MustCreateAPIKey(sim.cloud.MustCreateServiceID("somebody-else", account))
	sim.cloud.MustPutVersion(sim.keySecret, other, nil)
	return func() { sim.cloud.MustPutVersion(sim.keySecret, sim.workloadKey, nil) }
}

// deleteKey deletes a key; when the fault ends, replace creates another.
func deleteKey(key func(*simulation) string, replace func(*simulation)) begin {
	return during(func(sim *simulation) { sim.cloud.MustDeleteAPIKey(key(sim)) }, replace)
}

// replaceKey stores a new key and deletes the old one.
func replaceKey(key func(*simulation) string, replace func(*simulation)) begin {
	return once(func(sim *simulation, _ dice) {
		old := key(sim)
		replace(sim)
		sim.cloud.MustDeleteAPIKey(old)
	})
}

// lock locks a version of both token secrets.
func lock(version string) begin {
	return during(func(sim *simulation) {
		sim.cloud.MustLock(sim.tokenSecret, version, "held-for-an-audit")
		sim.cloud.MustLock(sim.naiveSecret, version, "held-for-an-audit")
	}, func(sim *simulation) {
		sim.cloud.MustUnlock(sim.tokenSecret)
		sim.cloud.MustUnlock(sim.naiveSecret)
	})
}

// forgeMetadata sets the expiration in the current version's metadata to now + by, and leaves the rest as it is.
func forgeMetadata(by time.Duration) begin {
	return once(func(sim *simulation, _ dice) {
		if forged := sim.cloud.MustCurrent(sim.tokenSecret).Metadata; forged != nil {
			forged["expiration"] = time.Now().Add(by).Unix()
			sim.tamper(forged)
		}
	})
}

// dangers are the probabilities of what can happen to an invocation.
type dangers map[string]float64

const kill, freeze, stale, cold, duplicate, disorder, lose, throttled = "kill", "freeze", "stale", "cold", "duplicate", "disorder", "lose", "throttled"

// everyday are the dangers without a fault.
var everyday = dangers{kill: 0.0002, freeze: 0.0001, stale: 0.005, cold: 0.001, duplicate: 0.001, disorder: 0.0005, lose: 0.0002}

// danger is the current probability of something.
func (sim *simulation) danger(what string) float64 {
	return min(1, sim.dangers[what]+sim.everyday[what])
}

// raise increases a danger while the fault lasts.
func raise(what string, to float64) begin {
	return during(func(sim *simulation) { sim.dangers[what] = to }, func(sim *simulation) { sim.dangers[what] = 0 })
}

// mirrorFaults are the kinds of faults of one mirror. IBM's secret does not have them.
func mirrorFaults(arn string) []kind {
	fails := func(fault mirrorFault) begin {
		return func(sim *simulation, _ dice, _ time.Time) func() { return sim.mirrors[arn].faults.add(fault) }
	}
	days := minutes(10, 5*24*60)
	return []kind{
		{name: "a mirror is being deleted", mirror: arn, lasts: days, begin: fails(refuse(rotation.NotFound, rotation.Never, true))},
		{name: "a mirror is out of reach", mirror: arn, lasts: days, begin: fails(refuse(rotation.Unavailable, rotation.Later, true))},
		{name: "a mirror overwritten", mirror: arn, begin: once(func(sim *simulation, d dice) {
			_ = sim.aws.Write(arn, fmt.Sprintf("11111111-2919-432f-9883-%012d", d.IntN(1e12)), "somebody's own")
		})},
		{name: "a mirror refuses its puts", mirror: arn, lasts: days, begin: fails(refuse(rotation.Denied, rotation.Never, false))},
		{name: "a mirror slow, its answers lost", mirror: arn, lasts: days, begin: fails(lateAnswers)},
		{name: "a mirror that does not answer", mirror: arn, lasts: days, begin: fails(unanswered)},
		{name: "a mirror's older version made current", mirror: arn, begin: once(func(sim *simulation, d dice) {
			if kept, _ := sim.aws.Versions(arn); len(kept) > 0 {
				version := pick(d, kept...)
				sim.aws.Move(arn, version.ID)
				version.At = time.Now()
				sim.mirrors[arn].have(version, false)
			}
		})},
		{name: "a mirror's puts are throttled", mirror: arn, lasts: days, begin: fails(refuse(rotation.RateLimited, rotation.Later, false))},
	}
}

// refuse refuses puts, or every request.
func refuse(kind rotation.Kind, retry rotation.Retry, describe bool) mirrorFault {
	return func(_ context.Context, _ uint64, put bool) error {
		if !put && !describe {
			return nil
		}
		return &rotation.Error{Kind: kind, Retry: retry, Message: "AWS refuses"}
	}
}

func unanswered(ctx context.Context, _ uint64, _ bool) error {
	<-ctx.Done()
	return &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "no answer"}
}

func lateAnswers(ctx context.Context, random uint64, put bool) error {
	if err := pause(ctx, time.Duration(share(random^4)*float64(15*time.Second))); err != nil || put && share(random^5) < 0.3 {
		return mirrortest.ErrLost
	}
	return nil
}

// regions are the loss of one of two AWS regions for three hours, with its deployment and its mirror. It excuses gaps of that
// mirror alone.
func regions() (all []kind) {
	for i, name := range []string{regionLost, otherRegionLost} {
		all = append(all, kind{name: name, mirror: mirrorARNs[i], region: true, apart: []string{twoDeployments, regionLost},
			lasts: func(dice) time.Duration { return 3 * time.Hour },
			begin: func(sim *simulation, d dice, _ time.Time) func() {
				fn := sim.functions[i]
				fn.gone = true
				fn.deploy(true)
				returns := sim.mirrors[mirrorARNs[i]].faults.add(pick(d, unanswered, refuse(rotation.Unavailable, rotation.Later, true)))
				return func() {
					fn.gone = false
					returns()
				}
			}})
	}
	return all
}

// twoRegions deploys the function in a second region, with the schedule of ensure alone. Each deployment writes the mirror of
// its own region.
func (sim *simulation) twoRegions(from, to time.Time) {
	sim.agenda.at(from, func() {
		for i, fn := range sim.functions {
			fn.mirrors = mirrorARNs[i : i+1]
		}
		sim.functions[1].startSchedule(rotation.ModeEnsure, ensureEvery, from, to)
	})
	sim.agenda.at(to, func() { sim.functions[0].mirrors = nil })
}

// window is one fault of the story.
type window struct {
	kind
	span
}

// meets reports whether s overlaps the fault, or the time after it.
func (f window) meets(s span, after time.Duration) bool {
	return !f.from.After(s.to) && !f.to.Add(after).Before(s.from)
}

// meets reports whether s overlaps a fault of that name, or the time after it.
func (sim *simulation) meets(s span, after time.Duration, name string) bool {
	return slices.ContainsFunc(sim.story, func(f window) bool { return f.name == name && f.meets(s, after) })
}

// plan draws the faults of a story: one every mean on average, and during every third another one. Two faults of one kind do not
// overlap.
func plan(d dice, all []kind, start, end time.Time, mean time.Duration) []window {
	var story []window
	add := func(at time.Time) (window, bool) {
		k := pick(d, all...)
		w := window{k, span{at, at}}
		if k.lasts != nil {
			w.to = at.Add(k.lasts(d))
		}
		if w.to.After(end) || slices.ContainsFunc(story, w.clashes) {
			return window{}, false
		}
		story = append(story, w)
		return w, true
	}
	for at := start; at.Before(end); at = at.Add(time.Duration(d.ExpFloat64() * float64(mean))) {
		w, ok := add(at)
		for ok && d.chance(1.0/3) {
			_, ok = add(w.from.Add(d.between(0, w.length()+time.Minute)))
		}
	}
	slices.SortFunc(story, func(a, b window) int { return a.from.Compare(b.from) })
	return story
}

// clashes reports whether two faults that must not meet overlap, or nearly do.
func (w window) clashes(other window) bool {
	const near = 2 * time.Hour // the stored version still shows what one has changed
	if w.from.After(other.to.Add(near)) || other.from.After(w.to.Add(near)) {
		return false
	}
	if slices.Contains(w.apart, other.name) || slices.Contains(other.apart, w.name) {
		return true
	}
	return w.name == other.name && !w.from.After(other.to) && !other.from.After(w.to)
}

// schedule puts the faults of a story on the agenda.
func (sim *simulation) schedule(story []window) {
	for i, fault := range story {
		d := newDice(sim.seed, "fault "+time.Duration(i).String())
		if fault.region {
			sim.twoRegions(later(sim.start, fault.from.Add(-time.Hour)), fault.to.Add(healed))
		}
		sim.agenda.at(fault.from, func() {
			end := fault.begin(sim, d, fault.to)
			sim.agenda.at(fault.to, end)
		})
	}
}
