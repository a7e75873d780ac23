package rotation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/report"
)

const (
	// PutInterval is the least time between two puts to a secret. AWS keeps 100 versions of
	// it and removes none younger than 24 hours: 90 puts a day leave room for a person's
	// own. Tokens of MirrorLifetime or more never expire in between. A parameter has no
	// such quota: AWS removes its oldest version at once.
	PutInterval    = 16 * time.Minute
	MirrorLifetime = 30 * time.Minute

	// A repair saves another version. The first one comes when a run that is writing the
	// mirrors must have ended, the next ones when the lag has doubled, then hourly.
	minRepairWait = 2 * time.Minute
	maxRepairWait = time.Hour

	// checkLimit keeps a mirror that does not answer from using up the attempt, in which
	// another one may need a repair.
	checkLimit = 4 * time.Second
)

// MirrorState is what AWS shows of a mirror, and what IBM knows of the version in it.
type MirrorState struct {
	MirrorDescription
	Version TokenVersion // zero if it is not known
	InOrder bool         // the token that readers of the mirror have needs no replacement yet

	arn     string
	lastPut time.Time // zero if it is not known
	old     bool      // nothing was put for longer than a token's lifetime; Held is made up for that
}

// newMirrorState says of a mirror what the versions that version knows show; of others it returns the zero TokenVersion.
func newMirrorState(arn string, secret MirrorDescription, version func(id string) TokenVersion, now time.Time, least time.Duration) MirrorState {
	s := MirrorState{MirrorDescription: secret, arn: arn, Version: version(secret.VersionID)}
	s.lastPut, s.InOrder = s.Version.CreatedAt, s.Version.InOrder(now, least)
	if s.InOrder || !s.ChangedAt.IsZero() && now.Sub(s.ChangedAt) > PutInterval {
		return s
	}
	for _, id := range s.Others { // a person may have moved AWSCURRENT to an older version
		s.lastPut = later(s.lastPut, version(id).CreatedAt)
	}
	if s.Version.CreatedAt.IsZero() && (s.Version.VersionID != "" || len(s.Others) > 0) { // else its one value is the one that it was made with
		s.lastPut = later(s.lastPut, s.ChangedAt)
	}
	return s
}

// MirrorReader compares mirrors with IBM's metadata of the versions that they hold.
type MirrorReader struct {
	Mirrors      Mirrors
	Versions     VersionReader
	Token        TokenRef
	MinRemaining time.Duration

	byAge bool // IBM is not asked for what a mirror's last change shows: slow, it must not hinder a repair
}

// Read reads what a mirror holds, at the time now by IBM's clock. The id of its version is the one
// of IBM's version, whose metadata shows when its token expires and when it was put.
func (r MirrorReader) Read(ctx context.Context, arn string, current TokenVersion, now time.Time) (MirrorState, error) {
	secret, err := r.Mirrors.Describe(ctx, arn)
	if err != nil {
		return MirrorState{arn: arn}, err
	}
	old := r.byAge && secret.VersionID != current.VersionID && !secret.ChangedAt.IsZero() && now.Sub(secret.ChangedAt) > iamtoken.MaxLifetime
	version := func(id string) (v TokenVersion) {
		switch {
		case id == current.VersionID && id != "":
			v = current
		case old:
			v = TokenVersion{VersionID: id, CreatedAt: secret.ChangedAt, Metadata: iamtoken.Metadata{Expiration: secret.ChangedAt.Add(iamtoken.MaxLifetime).Unix()}}
		case err == nil:
			v, err = r.Versions.ReadVersion(ctx, r.Token, id)
		}
		if v.CreatedAt.Sub(now) > iamtoken.MaxLifetime { // its token would never expire
			return TokenVersion{}
		}
		return v
	}
	s := newMirrorState(arn, secret, version, now, r.MinRemaining)
	s.old = old
	return s, err
}

func later(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// IsParameter reports whether a mirror is a parameter of SSM Parameter Store, and not a
// secret of AWS Secrets Manager.
func IsParameter(arn string) bool {
	parts := strings.SplitN(arn, ":", 4)
	return len(parts) == 4 && parts[2] == "ssm"
}

// nextPut is when the next put is allowed; zero if it is at once.
func (s MirrorState) nextPut() time.Time {
	if s.lastPut.IsZero() || IsParameter(s.arn) {
		return time.Time{}
	}
	return s.lastPut.Add(PutInterval)
}

// Wait is how long a mirror that is not in order only has to wait for its next put; 0 if it is not
// for that: it was written by someone else, or its label moved.
func (s MirrorState) Wait(now time.Time) time.Duration {
	if s.InOrder || !s.isOurs() {
		return 0
	}
	return max(0, s.nextPut().Sub(now))
}

// isOurs reports whether what the mirror holds was put last. Two runs at the same moment may put
// theirs in the other order, see spreadPuts: one is as good as the other.
func (s MirrorState) isOurs() bool {
	return s.Version.VersionID != "" && s.lastPut.Sub(s.Version.CreatedAt) < 2*AttemptLimit
}

// markOf names a mirror in a version's metadata, where no ARN need be.
func markOf(arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return hex.EncodeToString(sum[:4])
}

// isAnothers reports whether another function has saved a version, for other mirrors.
func isAnothers(v TokenVersion, arn string) bool {
	return v.Metadata.Mirrors != "" && !strings.Contains(v.Metadata.Mirrors, markOf(arn))
}

// marks are of the mirrors that a version is saved for: in another region of AWS another
// function may save for others.
func (p *pass) marks() string {
	var marks []string
	for _, arn := range p.Mirror {
		if _, needs := p.repair[arn]; p.repair == nil || needs {
			marks = append(marks, markOf(arn))
		}
	}
	return cmp.Or(strings.Join(marks, ","), "none")
}

// describe says what readers of a mirror that is not in order have.
func (s MirrorState) describe(now time.Time) string {
	expires := s.Version.ExpiresAt()
	switch {
	case s.old:
		return fmt.Sprintf("the mirror %s was last changed %s ago, so it has no token that is valid", s.arn, now.Sub(s.ChangedAt).Round(time.Second))
	case expires.IsZero():
		return "the mirror " + s.arn + " does not hold a token that this function has put there"
	}
	return fmt.Sprintf("the mirror %s has a token that %s", s.arn, report.Expiry(expires, expires.Sub(now).Round(time.Second)))
}

// warnOfWait warns if the token in the mirror expires before the next one may be put, or
// may do so.
func (s MirrorState) warnOfWait(now time.Time) string {
	if s.Version.VersionID == "" {
		return fmt.Sprintf("the mirror %s gets a later token: it was changed %s ago, and AWS's quota allows one put in %s", s.arn, now.Sub(s.ChangedAt).Round(time.Second), PutInterval)
	}
	expired := s.nextPut().Sub(s.Version.ExpiresAt())
	if s.InOrder || s.Version.ExpiresAt().IsZero() || expired <= 0 {
		return ""
	}
	return fmt.Sprintf("%s, and gets the next one in %s: AWS's quota allows one in %s, so its readers have an expired token for %s at least; tokens of %s or more prevent that",
		s.describe(now), s.nextPut().Sub(now).Round(time.Second), PutInterval, expired.Round(time.Second), MirrorLifetime)
}

// Refusals are the errors of puts that no retry changes, by ARN. They last as long as the
// process: a mirror in it is not repaired by saving another version, and is written again
// with the next one that is saved anyway.
type Refusals struct{ byARN sync.Map }

type refusal struct {
	*Error
	versionID string // that was not taken
}

func (r *Refusals) get(arn string) refusal {
	last, _ := r.byARN.Load(arn)
	refused, _ := last.(refusal)
	return refused
}

// note remembers how the put of a version ended.
func (r *Refusals) note(arn, versionID string, err error) {
	if err == nil {
		r.byARN.Delete(arn)
	} else if failure := ErrorOf(err); failure.Retry == Never && failure.Kind != Timeout {
		r.byARN.Store(arn, refusal{failure, versionID})
	}
}

// endUpToDate ends an attempt that found the current version up to date. done is
// false if the attempt has to continue, because a new token must repair a mirror.
func (p *pass) endUpToDate(ctx context.Context, outcome report.Outcome, current TokenVersion) (result report.Result, done bool, err error) {
	if sent, own := p.sent[current.Metadata.Fingerprint]; own {
		p.repair = sent.repair
		err = p.mirror(current, sent.TokenResponse)
	} else if p.repair, err = p.checkMirrors(ctx, current, false); p.repair != nil {
		return report.Result{}, false, nil
	}
	return p.result(outcome, current), true, err
}

// checkMirrors compares the mirrors with what they should hold. If ensure has to save a new
// token for one, it returns those that are to get it: all that are not known to be in order.
// The rotator may not read the stored token: only a full pass brings a mirror up to a
// version that is not our own. With kept there is no token that would repair one.
func (p *pass) checkMirrors(ctx context.Context, current TokenVersion, kept bool) (repair map[string]MirrorState, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	least := p.MinRemaining
	if kept { // the account's lifetime was cut: the mirror's token is worth no less than a new one
		least = Threshold(least, p.lifetime)
	}
	reader := MirrorReader{p.Mirrors, p.Tokens, p.Token, least, true}
	var mu sync.Mutex
	due, failing := false, map[string]MirrorState{}
	err = p.eachMirror(func(arn string) (string, error) {
		now := p.ibmClock()
		s, err := reader.Read(ctx, arn, current, now)
		warning, repair := "", false
		switch {
		case err != nil:
			s = MirrorState{arn: arn}
		case s.InOrder:
			return "", nil
		default:
			warning, repair, err = p.judge(ctx, s, current, now, kept)
		}
		mu.Lock()
		defer mu.Unlock()
		failing[arn], due = s, due || repair
		return warning, onceMore(err)
	})
	if !due {
		return nil, err
	}
	return failing, err
}

// judge decides about a mirror that is not in order: what the report is to say, or whether a
// token is to be saved for it. The first case that holds counts.
func (p *pass) judge(ctx context.Context, s MirrorState, current TokenVersion, now time.Time, kept bool) (warning string, repair bool, err error) {
	unavailable := func(retry Retry, format string, args ...any) error {
		return &Error{Kind: Unavailable, Retry: retry, Message: s.describe(now) + fmt.Sprintf(format, args...)}
	}
	refused := p.refusals.get(s.arn)
	switch {
	case refused.Error != nil && !kept:
		return "", false, refused.Error
	case s.Wait(now) > 0:
		return s.warnOfWait(now), false, nil
	case kept:
		return "", false, unavailable(Never, ", and a new one would expire sooner than IBM's, so it is not saved: run once with force to save it in both")
	}
	at, tried := p.repairAt(ctx, s, current, now)
	switch in := at.Sub(now).Round(time.Second); {
	case !tried && now.Before(at):
		warning = s.warnOfWait(now)
	case p.Mode == ModeCheck:
		warning = s.describe(now) + ": the next run saves a new one in it"
	case now.Before(s.nextPut()):
		err = unavailable(Once, ": ensure saves a new one for it in %s, or one with force now; does something else write to it?", in)
	case now.Before(at):
		err = unavailable(Once, ": ensure saves a new one for it in %s, or a run of rotate now", in)
	case p.Mode != ModeEnsure:
		err = unavailable(Never, ": the next run of ensure saves a new one for it")
	default:
		repair = true
	}
	return warning, repair, err
}

// repairAt is when a new version is to be saved for a mirror that is not in order, and whether the
// run that saved the version current has tried to put it, as far as that is known. The first
// repair comes when that run must have ended, the next ones when the lag has doubled: the
// lag is how long the mirror had needed another token, and could be written, when current was saved.
func (p *pass) repairAt(ctx context.Context, s MirrorState, current TokenVersion, now time.Time) (at time.Time, tried bool) {
	due := cmp.Or(s.ChangedAt, current.CreatedAt)
	if !s.Version.CreatedAt.IsZero() {
		due = s.Version.ExpiresAt().Add(-s.Version.Threshold(p.MinRemaining))
	}
	due = later(due, s.nextPut())
	lag, another := current.CreatedAt.Sub(due), isAnothers(current, s.arn)
	after := func(wait time.Duration) time.Time { return later(s.nextPut(), current.CreatedAt.Add(wait)) }
	soon := after(minRepairWait)
	if p.overQuota(current.Lifetime()) && now.Sub(current.CreatedAt) < 2*AttemptLimit {
		return soon, false // a run may still be waiting to put it, see spreadPuts
	}
	tried = !another && (lag >= minRepairWait || !s.isOurs()) // else a put may have had to wait, counted from AWS's date of the one before
	if lag <= minRepairWait {
		return soon, tried
	}
	previous, err := p.Tokens.ReadVersion(ctx, p.Token, PreviousVersion)
	known := err == nil && previous.VersionID != ""
	// The version before was saved for the mirror and could not be put, and the other function's answers it: two functions
	// that cannot put would go on like that, at every second minute.
	answer := known && strings.Contains(previous.Metadata.Mirrors, markOf(s.arn)) && previous.CreatedAt.Sub(due) >= minRepairWait &&
		current.CreatedAt.Sub(previous.CreatedAt) < 2*minRepairWait
	switch {
	case another && !answer:
		return soon, false
	case !another && known && previous.CreatedAt.Before(due):
		return soon, tried // no version could be had for it before: an outage of IBM is no failure of the mirror
	}
	return after(min(lag, maxRepairWait)), true
}

// onceMore limits the attempts where there is nothing to put: ensure comes every minute, and
// one mirror must not keep every run busy until its deadline.
func onceMore(err error) error {
	if err == nil {
		return nil
	}
	again := *ErrorOf(err)
	if again.Step == "" && again.Retry != Never { // another step's has its own
		again.Retry, again.RetryAfter = Once, 0
	}
	return &again
}

// mirror writes the token to the mirrors, under the id of the version current: to all
// whose next put is allowed, or if it was saved for a repair, to those that need it. It
// asks nothing of IBM, and has a time of its own: however slow IBM is, what it has saved
// comes to the mirrors.
func (p *pass) mirror(current TokenVersion, fresh TokenResponse) error {
	if len(p.Mirror) == 0 {
		return nil
	}
	if p.suspended() {
		return &Error{Step: StepMirror, Kind: Timeout, Message: "the process was suspended for longer than the run may take: the token is too old to mirror"}
	}
	p.spreadPuts(fresh.Token.ExpiresIn)
	ctx, cancel := context.WithTimeout(WithWallDeadline(p.ctx, p.started.Add(p.timeout)), AttemptLimit)
	defer cancel()
	payload := p.mirrorPayload(current, fresh.Token)
	saved := cmp.Or(current.CreatedAt, p.ibmClock()) // two puts are as far apart as their versions: a retry puts one later
	return p.eachMirror(func(arn string) (string, error) {
		if _, needs := p.repair[arn]; p.repair != nil && !needs {
			return "", nil
		}
		secret, err := p.Mirrors.Describe(ctx, arn)
		refused := p.refusals.get(arn)
		switch {
		case err != nil || secret.VersionID == current.VersionID:
			return "", err
		case refused.versionID == current.VersionID:
			return "", refused.Error
		}
		if s := p.known(arn, secret, saved); !p.Force && saved.Before(s.nextPut()) {
			return s.warnOfWait(p.ibmClock()), nil
		}
		err = p.Mirrors.Put(ctx, arn, current.VersionID, payload)
		p.refusals.note(arn, current.VersionID, err)
		return "", err
	})
}

// overQuota reports whether tokens of a lifetime take all the puts that AWS's quota allows a mirror.
func (p *pass) overQuota(lifetime time.Duration) bool {
	return lifetime < MirrorLifetime && slices.ContainsFunc(p.Mirror, func(arn string) bool { return !IsParameter(arn) })
}

// spreadPuts waits a random time where the quota has no room for two deployments, in two regions
// say, that put at the same moment: the later one sees the other's put by AWS's date of the last change.
// Other rotations have the slot meanwhile, and half of the time that is left is kept for the puts.
func (p *pass) spreadPuts(lifetime time.Duration) {
	if !p.overQuota(lifetime) {
		return
	}
	p.release()
	deadline, _ := p.ctx.Deadline() // a run always has one
	select {
	case <-time.After(time.Duration(p.random() * float64(min(AttemptLimit, time.Until(deadline)/2)))):
	case <-p.ctx.Done():
	}
}

// known is the state of a mirror as far as it shows without a request to IBM: AWS's
// date of the last change counts as the last put of a version that the pass does not know.
func (p *pass) known(arn string, secret MirrorDescription, now time.Time) MirrorState {
	if s, checked := p.repair[arn]; checked && s.VersionID == secret.VersionID {
		return s
	}
	return newMirrorState(arn, secret, func(id string) TokenVersion {
		if id == p.replaced.VersionID {
			return p.replaced
		}
		return TokenVersion{}
	}, now, p.MinRemaining)
}

// eachMirror calls do for all mirrors in parallel, notes the warnings, and returns the
// errors in their order as one, with which another attempt is made if one of them asks for it.
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

// joined is the first error with the messages of all, nil if there is none.
func joined(errs []error) error {
	var all *Error
	for _, err := range errs {
		if err == nil {
			continue
		}
		failure := *ErrorOf(err)
		if all == nil {
			all = &failure
			continue
		}
		all.Message += "; " + failure.Message
		all.Retry, all.RetryAfter, all.Advice = max(all.Retry, failure.Retry), max(all.RetryAfter, failure.RetryAfter), ""
	}
	if all == nil {
		return nil
	}
	return At(StepMirror, all)
}

// mirrorPayload is the text that is stored at IBM: the payload, or for a kv secret
// the object with it.
func (p *pass) mirrorPayload(current TokenVersion, token iamtoken.Token) iamtoken.Secret {
	payload := p.Token.Format.Payload(token)
	if current.SecretType != "kv" {
		return payload
	}
	// Marshalling a map of strings cannot fail.
	object, _ := json.Marshal(map[string]string{cmp.Or(p.Token.Field, iamtoken.DefaultField): payload.Reveal()})
	return iamtoken.NewSecret(string(object))
}
