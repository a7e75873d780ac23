package rotation

import (
	"context"
	"fmt"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/report"
)

// pass is one rotation's part of a run.
type pass struct {
	*run
	Rotation

	release  func() // gives back the slot of the attempt under way, once; nil between two attempts
	attempts int
	first    TokenVersion           // as the first attempt found it
	current  TokenVersion           // as last read or saved
	replaced TokenVersion           // the version that our save was to replace
	sent     map[string]sentToken   // the tokens handed to Save, by fingerprint
	repair   map[string]MirrorState // if not nil, the attempt's new token is for these mirrors alone, by ARN
	lifetime time.Duration          // expires_in of the last token exchanged
	skew     time.Duration          // IBM's clock less ours, when that is more than MaxClockSkew
	failedAt time.Time              // when the last attempt failed; zero before
	txID     string
	warnings []string
	timings  map[Step]time.Duration
}

type sentToken struct {
	TokenResponse
	repair map[string]MirrorState
}

// attempt runs the whole pass once. Every retry begins again at 1, so it sees a key
// just replaced, a token that another run has saved meanwhile, and its own save
// whose answer was lost.
func (p *pass) attempt(ctx context.Context) (report.Result, error) {
	// 1. Read the current version's metadata, never its value; rotate and check
	// need the key, too, so they read it in parallel.
	var key *keyRead
	if p.Mode != ModeEnsure {
		key = p.startKeyRead()
	}
	current, err := p.readMetadata(ctx)
	if err != nil {
		return report.Result{}, err
	}
	if err := p.CheckOwn(current, p.HowToRun); err != nil && !p.Force {
		return report.Result{}, err
	}
	// 2. Stop if there is nothing to do, for the mirrors neither.
	if outcome, ok := p.upToDate(current); ok {
		if repair, err := p.mirrorsNeedToken(ctx, current, outcome); !repair {
			return p.result(outcome, current), err
		}
	}
	// 3. Read the API key.
	apiKey, err := p.readKey(ctx, key)
	if err != nil {
		return report.Result{}, err
	}
	// 4. Exchange it for a fresh token.
	token, err := p.exchange(ctx, apiKey)
	if err != nil {
		return report.Result{}, err
	}
	// 5. Check the token: a bad one is never published.
	if err := p.checkToken(token, current); err != nil {
		return report.Result{}, err
	}
	if p.Mode == ModeCheck {
		_, err := p.checkMirrors(ctx, current, report.Checked)
		return p.result(report.Checked, current), err
	}
	if p.expiresSooner(token, current) {
		_, err := p.checkMirrors(ctx, current, report.Kept)
		return p.result(report.Kept, current), err
	}
	// 6. Save it as a new version.
	saved, err := p.save(ctx, current, token)
	if err != nil {
		return report.Result{}, err
	}
	// 7. Mirror it, if there are mirrors, and report.
	if err := p.putToMirrors(saved, token); err != nil {
		return report.Result{}, err
	}
	return p.result(report.Rotated, saved), nil
}

func (p *pass) readMetadata(ctx context.Context) (TokenVersion, error) {
	defer p.timed(StepLook)()
	current, err := p.Tokens.ReadMetadata(ctx, p.Token)
	if err != nil {
		return TokenVersion{}, At(StepLook, err)
	}
	p.setClock(current.Clock)
	if current.CreatedAt.Sub(p.ibmClock()) > iamtoken.MaxLifetime {
		// Further ahead than a wrong clock of this machine may explain: its token would never expire.
		p.warn("the stored version was made on %s, which is in the future: its metadata does not count", current.CreatedAt.UTC().Format(time.DateOnly))
		current.CreatedAt = time.Time{}
	}
	if p.first.VersionID == "" {
		p.first = current
	}
	p.current = current
	return current, nil
}

func (p *pass) readKey(ctx context.Context, read *keyRead) (iamtoken.Secret, error) {
	defer p.timed(StepReadKey)()
	if read == nil {
		read = p.startKeyRead()
	}
	return read.wait(ctx)
}

// startKeyRead is called when an exchange will follow.
func (p *pass) startKeyRead() *keyRead {
	p.prepare()
	return p.keys.start(p.APIKey, p.failedAt)
}

func (p *pass) exchange(ctx context.Context, key iamtoken.Secret) (TokenResponse, error) {
	defer p.timed(StepExchange)()
	response, err := p.IAM.Exchange(ctx, key)
	if err != nil {
		return TokenResponse{}, At(StepExchange, err)
	}
	p.lifetime, p.txID = response.Token.ExpiresIn, response.TransactionID
	if apart := response.Clock.Apart(p.current.Clock); apart > MaxClocksApart {
		return TokenResponse{}, &Error{Step: StepExchange, Kind: Unavailable, Retry: Later, TransactionID: response.TransactionID, Message: fmt.Sprintf(
			"the Date of IAM's answer and that of Secrets Manager's are %s apart, so neither can be used: is there a proxy in between whose clock is wrong?",
			apart.Round(time.Second))}
	}
	p.setClock(response.Clock)
	p.warnAbout(response)
	return response, nil
}

// save stores the token as a new version, unless the process was suspended since the run began:
// then the token may be old, and the metadata certainly is.
func (p *pass) save(ctx context.Context, current TokenVersion, fresh TokenResponse) (TokenVersion, error) {
	defer p.timed(StepSave)()
	if p.suspended() {
		return TokenVersion{}, &Error{Step: StepSave, Kind: Timeout, Message: "the process was suspended for longer than the run may take: " +
			"what it knows is too old to continue with; the next run saves a new token"}
	}
	metadata := iamtoken.Describe(fresh.Token, p.RunID, p.Version)
	metadata.Mirrors = p.mirrorHashes()
	p.sent[metadata.Fingerprint], p.replaced = sentToken{fresh, p.repair}, current
	ctx = WithWallDeadline(ctx, p.started.Add(p.timeout))
	made, err := p.Tokens.Save(ctx, p.Token, current, fresh.Token, metadata)
	if err != nil {
		return TokenVersion{}, At(StepSave, err)
	}
	if made.CreatedAt.Sub(p.ibmClock()).Abs() > iamtoken.MaxLifetime { // or it is not known
		made.CreatedAt = p.ibmClock()
	}
	p.current = TokenVersion{VersionID: made.VersionID, SecretType: current.SecretType, CreatedAt: made.CreatedAt, Metadata: metadata}
	return p.current, nil
}

const (
	// redeliveryWindow is how long a version with this run's id counts as
	// this run's work: an event is delivered at least once, not exactly once.
	redeliveryWindow = 15 * time.Minute
	// minRemaining is the least remaining lifetime with which a token is published.
	minRemaining = 5 * time.Minute
	// KeyExpiryNotice is how long before a key expires it is a warning.
	KeyExpiryNotice = 14 * 24 * time.Hour
)

// upToDate decides from the current version whether the attempt ends here, and how.
func (p *pass) upToDate(current TokenVersion) (report.Outcome, bool) {
	if p.Mode == ModeCheck {
		return "", false
	}
	if _, sent := p.sent[current.Metadata.Fingerprint]; sent {
		return report.Rotated, true // our own save: only its answer was lost
	}
	now := p.ibmClock()
	switch {
	case !current.InOrder(now, p.MinRemaining):
		return "", false
	case p.Mode == ModeEnsure:
		return report.Fresh, true
	case current.Metadata.RunID == p.RunID && now.Sub(current.CreatedAt) < redeliveryWindow:
		return report.AlreadyDone, true
	case current.VersionID != p.first.VersionID && !current.CreatedAt.Before(p.first.CreatedAt) && !p.Force:
		return report.AlreadyDone, true // someone has saved one since this run began
	}
	return "", false
}

// CheckOwn returns an *Error if a save would destroy what others keep in the secret. A new version of
// a kv secret has the token's entry alone, and the function may not read the others, so it writes
// only where it wrote before. A person may have edited or erased the metadata of one version.
func (r Rotation) CheckOwn(current TokenVersion, how HowToRun) error {
	if !current.Foreign {
		return nil
	}
	advice := "if nothing else in it is needed, run once with force"
	if how != nil {
		advice += ": " + how(r.Name, true)
	}
	return &Error{Step: StepLook, Kind: Misconfigured, Advice: advice, Message: "the token secret is of type kv, and this function wrote neither its current " +
		"nor its previous version: a save would remove all its other entries: " + advice}
}

// checkToken returns an *Error if the token must not be published.
func (p *pass) checkToken(fresh TokenResponse, current TokenVersion) error {
	if err := CheckLifetime(fresh, p.ibmClock()); err != nil {
		return err
	}
	return p.CheckIdentity(fresh.Token, current, p.ibmClock(), p.Force)
}

// CheckLifetime returns an *Error if too little of the token's lifetime remains at
// now, by IBM's clock, for it to be published.
func CheckLifetime(fresh TokenResponse, now time.Time) error {
	left := fresh.Token.Expiration.Sub(now)
	if left >= minRemaining && left >= fresh.Token.ExpiresIn/2 {
		return nil
	}
	return &Error{Step: StepCheck, Kind: InvalidToken, Retry: Later, Message: fmt.Sprintf(
		"IAM returned a token that expires in %s (at least 5m and half of its lifetime of %s are required): it is an old one, "+
			"or this machine's clock is wrong (IBM's clock less ours: %s)",
		left.Round(time.Second), fresh.Token.ExpiresIn, fresh.Clock.Skew().Round(time.Second))}
}

// CheckIdentity returns an *Error if the token does not belong to whom Expect names, with force
// too, or, unless force says that this is meant, if it belongs to another identity than the token
// before it. That one counts while it is valid, at most 61 minutes after its version was made:
// others may edit metadata, and must not stop a rotation for longer. It does not count
// where Expect is full, which says all there is to compare.
func (r Rotation) CheckIdentity(token iamtoken.Token, current TokenVersion, now time.Time, force bool) error {
	const advice = "correct the API key or `expect` (EXPECT_ACCOUNT, EXPECT_IAM_ID)"
	expect, before := r.Expect, current.Metadata
	switch {
	case expect != Expect{} && token.Opaque():
		return mismatch("remove `expect` to allow opaque tokens", "the token cannot be read, so `expect` cannot be verified")
	case expect.Account != "" && expect.Account != token.Account:
		return mismatch(advice, "the token belongs to account %q, but %q is expected", token.Account, expect.Account)
	case expect.IAMID != "" && expect.IAMID != token.IAMID:
		return mismatch(advice, "the token belongs to %q, but %q is expected", token.IAMID, expect.IAMID)
	case force, expect.Full(), !now.Before(current.ExpiresAt()):
		return nil
	case differ(token.IAMID, before.IAMID), differ(token.Account, before.Account):
		return mismatch("if the API key was replaced on purpose, run once with force",
			"the token belongs to another identity than the stored one (%q, not %q)", identity(token.IAMID, token.Account), identity(before.IAMID, before.Account))
	}
	return nil
}

func mismatch(advice, format string, args ...any) *Error {
	return &Error{Step: StepCheck, Kind: InvalidToken, Message: fmt.Sprintf(format, args...) + ": " + advice, Advice: advice}
}

// differ compares what is known of both: a token may be opaque, and metadata erased.
func differ(a, b string) bool { return a != "" && b != "" && a != b }

func identity(iamID, account string) string {
	if account == "" {
		return iamID
	}
	return strings.TrimSpace(iamID + " of account " + account)
}

// expiresSooner reports whether readers would get a token that expires sooner.
func (p *pass) expiresSooner(fresh TokenResponse, current TokenVersion) bool {
	return !p.Force && fresh.Token.Expiration.Before(current.ExpiresAt())
}

// warnAbout notes what an operator should know of a token that is good enough.
func (p *pass) warnAbout(response TokenResponse) {
	token := response.Token
	if response.Unverified != "" {
		p.warn("the token's signature could not be verified: %s", response.Unverified)
	}
	if token.Opaque() {
		p.warn("the token does not show its identity, which could not be verified")
	}
	if token.ExpiresIn < p.Interval {
		p.warn("tokens expire in %s, less than the schedule of %s: keep the ensure schedule on, it alone keeps one valid", token.ExpiresIn, p.Interval)
	}
	if p.usesUpQuota(token.ExpiresIn) {
		expired := "may have an expired one"
		if gap := PutInterval - token.ExpiresIn; gap > 0 {
			expired = fmt.Sprintf("have an expired one for %s of that at least", gap)
		}
		p.warn("tokens expire in %s, and a mirror in AWS Secrets Manager needs %s: its quota allows one put in %s, so its readers %s; a parameter has no such quota",
			token.ExpiresIn, MirrorLifetime, PutInterval, expired)
	}
	if capped := Threshold(p.MinRemaining, token.ExpiresIn); capped < p.MinRemaining {
		p.warn("MIN_REMAINING (%s) is more than tokens of %s allow: %s counts instead", p.MinRemaining, token.ExpiresIn, capped)
	}
}

func (p *pass) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// MaxClockSkew is how far the clock may be off IBM's before it is a warning.
const MaxClockSkew = 30 * time.Second

// WallClock is the time by now, or by time.Now if that is nil, without its monotonic part,
// which stops while a process is frozen between two Lambda invocations.
func WallClock(now func() time.Time) time.Time {
	if now == nil {
		now = time.Now
	}
	return now().Round(0)
}

// suspended reports whether more wall-clock time has passed since the run began
// than the caller gave: the process was suspended, and whoever called has given up.
func (r *run) suspended() bool { return WallClock(r.Now).Sub(r.started) > r.timeout }

// setClock notes how far our clock is off IBM's, by the latest answer with a Date.
// Expirations are by IBM's clock; a difference that whole seconds explain is left alone.
func (p *pass) setClock(clock Clock) {
	if !clock.known {
		return
	}
	skew := clock.Skew()
	if skew.Abs() <= MaxClockSkew {
		p.skew = 0
		return
	}
	if p.skew == 0 {
		p.warn("this machine's clock is off: IBM's clock less ours is %s", skew.Round(time.Second))
	}
	p.skew = skew
}

// ibmClock is the time by IBM's clock, as far as its answers have shown.
func (p *pass) ibmClock() time.Time { return WallClock(p.Now).Add(p.skew) }

type wallDeadlineKey struct{}

// WithWallDeadline says until when, by the wall clock, a request under ctx may
// be sent. A context's own deadline is not enough: timers stop while a process is
// frozen, and after the thaw it would continue with an old decision.
func WithWallDeadline(ctx context.Context, latest time.Time) context.Context {
	return context.WithValue(ctx, wallDeadlineKey{}, latest)
}

// WallDeadline returns until when, by the wall clock, a request under ctx may
// be sent; ok is false if there is no limit. An adapter checks it last, when it
// sends the request.
func WallDeadline(ctx context.Context) (latest time.Time, ok bool) {
	latest, ok = ctx.Value(wallDeadlineKey{}).(time.Time)
	return latest, ok
}
