package rotation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/report"
)

// A mirror is a secret or a parameter in AWS that holds the token too, for readers on AWS. Each
// version that is saved at IBM is put to the mirrors under IBM's version id. So AWS shows which
// version a mirror holds, and IBM's metadata of that version shows when its token expires.
//
// AWS's quota allows a secret one put in PutInterval. A version that is saved within that time is
// not put to the secret: it keeps its token, and gets a later version.
//
// A mirror also keeps its token if the run dies before the put, or if AWS fails. Only the run that
// saved a version has its token, so nobody can put that version later. When the mirror's own token
// has less than MIN_REMAINING left, ensure repairs the mirror: it saves another version at IBM and
// puts it to the mirrors that need one, and to no other. If that put fails, too, the next repairs
// come after 2, 4, 8 … minutes, and in the end every hour.
//
// Two functions in two regions may share one token secret, each with the mirrors of its own
// region: if one region fails, the readers of the other still get tokens. The metadata of each
// version names the mirrors that it was saved for. So a function knows whether a version that its
// mirror lacks is a put that failed, or was never meant for that mirror.

const (
	// PutInterval is the least time between two puts to a secret, which makes 90 a day. AWS keeps
	// 100 versions of a secret and removes none younger than 24 hours; the others are for people.
	// A parameter has no such quota: AWS removes its oldest version at once.
	PutInterval = 16 * time.Minute
	// MirrorLifetime is how long tokens must be valid so that none expires in a mirror between two puts.
	MirrorLifetime = 30 * time.Minute

	// minRepairWait is the time from a save to the first repair: by then, the run that saved has ended.
	minRepairWait = 2 * time.Minute
	maxRepairWait = time.Hour

	// checkLimit leaves time for the repair of other mirrors if one does not answer.
	checkLimit = 4 * time.Second
)

// putToMirrors puts the token of the version saved to all mirrors whose next put is allowed, or
// after a save for a repair, to those that need it. It sends no request to IBM and has a time
// limit of its own: however slow IBM is, what was saved comes to the mirrors.
func (p *pass) putToMirrors(saved TokenVersion, response TokenResponse) error {
	if len(p.Mirror) == 0 {
		return nil
	}
	if p.suspended() {
		return &Error{Step: StepMirror, Kind: Timeout, Message: "the process was suspended for longer than the run may take: the token is too old to mirror"}
	}
	p.spreadPuts(response.Token.ExpiresIn)
	ctx, cancel := context.WithTimeout(WithWallDeadline(p.ctx, p.started.Add(p.timeout)), AttemptLimit)
	defer cancel()
	saved.CreatedAt = cmp.Or(saved.CreatedAt, p.ibmClock())
	payload := p.mirrorPayload(saved, response.Token)
	return p.eachMirror(func(arn string) (string, error) {
		if !p.savesFor(arn) {
			return "", nil
		}
		return p.putToMirror(ctx, arn, saved, payload)
	})
}

// putToMirror puts a version, unless the mirror has it already, AWS has refused it for good or
// the quota does not allow it yet.
func (p *pass) putToMirror(ctx context.Context, arn string, saved TokenVersion, payload iamtoken.Secret) (warning string, err error) {
	shown, err := p.Mirrors.Describe(ctx, arn)
	if err != nil || shown.VersionID == saved.VersionID {
		return "", err
	}
	if refused := p.refusals.get(arn); refused.Error != nil && refused.versionID == saved.VersionID {
		return "", refused.Error
	}
	// The time of the save counts, not that of the put, which a retry makes later.
	if s := p.knownState(arn, shown, saved.CreatedAt); !p.Force && saved.CreatedAt.Before(s.nextPut()) {
		return s.waitWarning(p.ibmClock()), nil
	}
	err = p.Mirrors.Put(ctx, arn, saved.VersionID, payload)
	p.refusals.remember(arn, saved.VersionID, err)
	return "", err
}

// savesFor reports whether the attempt saves its version for a mirror.
func (p *pass) savesFor(arn string) bool {
	_, needsRepair := p.repair[arn]
	return p.repair == nil || needsRepair
}

// mirrorHashes names the mirrors that the attempt saves its version for.
func (p *pass) mirrorHashes() string {
	var hashes []string
	for _, arn := range p.Mirror {
		if p.savesFor(arn) {
			hashes = append(hashes, mirrorHash(arn))
		}
	}
	return cmp.Or(strings.Join(hashes, ","), "none")
}

// knownState is the state of a mirror as far as the attempt knows it without a request to IBM.
func (p *pass) knownState(arn string, shown MirrorDescription, now time.Time) MirrorState {
	if s, checked := p.repair[arn]; checked && s.VersionID == shown.VersionID {
		return s
	}
	return newMirrorState(arn, shown, func(id string) TokenVersion {
		if id == p.replaced.VersionID {
			return p.replaced
		}
		return TokenVersion{}
	}, now, p.MinRemaining)
}

// spreadPuts waits for a random time if tokens are so short that they use up AWS's quota. Two
// deployments with the same mirror, one in each of two regions for example, would put at the same
// moment; after the wait, the later one sees the put of the other and leaves its own out.
// Other rotations have the slot meanwhile, and half of the remaining time is kept for the puts.
func (p *pass) spreadPuts(lifetime time.Duration) {
	if !p.usesUpQuota(lifetime) {
		return
	}
	p.release()
	deadline, _ := p.ctx.Deadline() // a run always has one
	select {
	case <-time.After(time.Duration(p.random() * float64(min(AttemptLimit, time.Until(deadline)/2)))):
	case <-p.ctx.Done():
	}
}

// usesUpQuota reports whether tokens of this lifetime need all puts that AWS's quota allows a mirror.
func (p *pass) usesUpQuota(lifetime time.Duration) bool {
	return lifetime < MirrorLifetime && slices.ContainsFunc(p.Mirror, func(arn string) bool { return !IsParameter(arn) })
}

// mirrorPayload is the text that the version has at IBM: the payload, or the object of a kv secret.
func (p *pass) mirrorPayload(saved TokenVersion, token iamtoken.Token) iamtoken.Secret {
	payload := p.Token.Format.Payload(token)
	if saved.SecretType != "kv" {
		return payload
	}
	// Marshalling a map of strings cannot fail.
	object, _ := json.Marshal(map[string]string{cmp.Or(p.Token.Field, iamtoken.DefaultField): payload.Reveal()})
	return iamtoken.NewSecret(string(object))
}

// Refusals are the errors of puts that no retry changes, by ARN. No version is saved to repair
// such a mirror, because AWS would refuse that one, too; the next version that is saved anyway is
// put to it again. They last as long as the process.
type Refusals struct{ byARN sync.Map }

type refusal struct {
	*Error
	versionID string // of the version that AWS refused
}

// get returns the refusal of a mirror's last put, the zero one if there is none.
func (r *Refusals) get(arn string) refusal {
	last, _ := r.byARN.Load(arn)
	refused, _ := last.(refusal)
	return refused
}

// remember remembers how the put of a version ended.
func (r *Refusals) remember(arn, versionID string, err error) {
	if err == nil {
		r.byARN.Delete(arn)
	} else if failure := ErrorOf(err); failure.Retry == Never && failure.Kind != Timeout {
		r.byARN.Store(arn, refusal{failure, versionID})
	}
}

// mirrorsNeedToken reports whether a mirror needs a new token although the current version needs
// no replacement. p.repair then has the mirrors that the token is for. A current version that is
// this run's own, whose answer or put was lost, is put to the mirrors again.
func (p *pass) mirrorsNeedToken(ctx context.Context, current TokenVersion, outcome report.Outcome) (bool, error) {
	if sent, own := p.sent[current.Metadata.Fingerprint]; own {
		p.repair = sent.repair
		return false, p.putToMirrors(current, sent.TokenResponse)
	}
	var err error
	p.repair, err = p.checkMirrors(ctx, current, outcome)
	return p.repair != nil, err
}

// checkMirrors reads the state of all mirrors and reports what is wrong with them. If a version
// is to be saved for one, it returns all that are not known to be in order: each gets that
// version. outcome is what the attempt ends with if nothing is saved.
func (p *pass) checkMirrors(ctx context.Context, current TokenVersion, outcome report.Outcome) (repair map[string]MirrorState, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	reader := MirrorReader{Mirrors: p.Mirrors, Versions: p.Tokens, Token: p.Token, MinRemaining: p.MinRemaining, assumeExpired: true}
	if outcome == report.Kept { // IAM's tokens have become shorter: one as good as theirs is good enough
		reader.MinRemaining = Threshold(p.MinRemaining, p.lifetime)
	}
	var mu sync.Mutex
	repairNow, notInOrder := false, map[string]MirrorState{}
	err = p.eachMirror(func(arn string) (string, error) {
		now := p.ibmClock()
		s, err := reader.Read(ctx, arn, current, now)
		if err == nil && s.InOrder {
			return "", nil
		}
		warning, repair := "", false
		if err == nil {
			warning, repair, err = p.decide(ctx, s, current, now, outcome)
		}
		mu.Lock()
		defer mu.Unlock()
		notInOrder[arn], repairNow = s, repairNow || repair
		return warning, retryOnce(err)
	})
	if !repairNow {
		return nil, err
	}
	return notInOrder, err
}

// decide decides about a mirror that is not in order: whether a version is to be saved to repair
// it now, or else what the report says.
func (p *pass) decide(ctx context.Context, s MirrorState, current TokenVersion, now time.Time, outcome report.Outcome) (warning string, repair bool, err error) {
	failure := func(retry Retry, format string, args ...any) error {
		return &Error{Kind: Unavailable, Retry: retry, Message: s.describe(now) + fmt.Sprintf(format, args...)}
	}
	refused := p.refusals.get(s.arn)
	switch {
	case refused.Error != nil && outcome != report.Kept:
		return "", false, refused.Error
	case s.Wait(now) > 0:
		return s.waitWarning(now), false, nil
	case outcome == report.Kept:
		return "", false, failure(Never, ", and a new one would expire sooner than IBM's, so it is not saved: run once with force to save it in both")
	}
	at, putFailed := p.repairAt(ctx, s, current, now)
	in := at.Sub(now).Round(time.Second)
	switch {
	case now.Before(at) && !putFailed:
		return s.waitWarning(now), false, nil
	case p.Mode == ModeCheck:
		return s.describe(now) + ": the next run saves a new one in it", false, nil
	case now.Before(s.nextPut()): // the quota is not the only reason, see Wait
		return "", false, failure(Once, ": ensure saves a new one for it in %s, or one with force now; does something else write to it?", in)
	case now.Before(at):
		return "", false, failure(Once, ": ensure saves a new one for it in %s, or a run of rotate now", in)
	case p.Mode != ModeEnsure:
		return "", false, failure(Never, ": the next run of ensure saves a new one for it")
	}
	return "", true, nil
}

// repairAt is when to save a version that repairs a mirror, and whether the put of the version
// current is known to have failed. The first repair comes 2 minutes after current was saved. A
// version that was saved when the mirror was overdue was a repair that failed, and the next one
// waits for as long again. A mirror that is due at 10:00 is repaired at 10:02, 10:04, 10:08, 10:16, …
func (p *pass) repairAt(ctx context.Context, s MirrorState, current TokenVersion, now time.Time) (at time.Time, putFailed bool) {
	due := p.dueAt(s, current)
	overdue := current.CreatedAt.Sub(due)
	after := func(wait time.Duration) time.Time { return later(s.nextPut(), current.CreatedAt.Add(wait)) }
	soon := after(minRepairWait)
	if p.usesUpQuota(current.Lifetime()) && now.Sub(current.CreatedAt) < 2*AttemptLimit {
		return soon, false // the run that saved current may not have put it yet, see spreadPuts
	}
	// The put to a mirror that was hardly due may have had to wait: the quota may count from AWS's
	// date of the put before, some seconds after IBM's date of that version.
	forOthers := current.isForOthers(s.arn)
	putFailed = !forOthers && (overdue >= minRepairWait || !s.holdsLastPut())
	if overdue <= minRepairWait {
		return soon, putFailed
	}
	previous, err := p.Tokens.ReadVersion(ctx, p.Token, PreviousVersion)
	known := err == nil && previous.VersionID != ""
	// A version for other mirrors was no repair of this one. But if it followed at once on a repair that
	// failed, it may be the other function's answer to that. Two functions that cannot put would go on
	// like this, a version every other minute: they wait as after any failed repair.
	followed := known && previous.isFor(s.arn) && previous.CreatedAt.Sub(due) >= minRepairWait &&
		current.CreatedAt.Sub(previous.CreatedAt) < 2*minRepairWait
	switch {
	case forOthers && !followed:
		return soon, false
	case !forOthers && known && previous.CreatedAt.Before(due):
		return soon, true // the first version since the mirror is due was no repair: IBM had an outage, for example
	}
	return after(min(overdue, maxRepairWait)), true
}

// dueAt is since when a mirror that is not in order has needed a new token and could be put.
func (p *pass) dueAt(s MirrorState, current TokenVersion) time.Time {
	needed := cmp.Or(s.ChangedAt, current.CreatedAt) // its token is not known
	if !s.Version.CreatedAt.IsZero() {
		needed = s.Version.ExpiresAt().Add(-s.Version.Threshold(p.MinRemaining))
	}
	return later(needed, s.nextPut())
}

// retryOnce limits the attempts after a failed check to one more: ensure runs every minute, and a
// mirror must not keep each run busy until its deadline. An error that has a step already, that of
// the bootstrap identity, is retried as usual.
func retryOnce(err error) error {
	if err == nil {
		return nil
	}
	limited := *ErrorOf(err)
	if limited.Step == "" && limited.Retry != Never {
		limited.Retry, limited.RetryAfter = Once, 0
	}
	return &limited
}

// eachMirror calls do for all mirrors in parallel, adds the warnings to the report, and returns
// the errors as one, in the order of the mirrors.
func (p *pass) eachMirror(do func(arn string) (warning string, err error)) error {
	if len(p.Mirror) > 0 {
		defer p.timed(StepMirror)()
	}
	warnings, errs := make([]string, len(p.Mirror)), make([]error, len(p.Mirror))
	var all sync.WaitGroup
	for i, arn := range p.Mirror {
		all.Go(func() { warnings[i], errs[i] = do(arn) })
	}
	all.Wait()
	for _, warning := range warnings {
		if warning != "" {
			p.warn("%s", warning)
		}
	}
	return joined(errs)
}

// joined is the first error with the messages of all, nil if there is none. It is retried if one of
// them is.
func joined(errs []error) error {
	var first *Error
	for _, err := range errs {
		switch {
		case err == nil:
		case first == nil:
			first = ErrorOf(At(StepMirror, err))
		default:
			other := ErrorOf(err)
			first.Message += "; " + other.Message
			first.Retry, first.RetryAfter, first.Advice = max(first.Retry, other.Retry), max(first.RetryAfter, other.RetryAfter), ""
		}
	}
	if first == nil {
		return nil
	}
	return first
}
