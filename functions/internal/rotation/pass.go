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
	first    TokenVersion           // the current version, as the first attempt read it
	current  TokenVersion           // as last read or saved
	replaced TokenVersion           // the current version before the last save
	sent     map[string]sentToken   // all tokens that this pass sent to be saved, by fingerprint
	repair   map[string]MirrorState // if not nil, the attempt's new token is for these mirrors alone, by ARN
	lifetime time.Duration          // expires_in of the last token exchanged
	skew     time.Duration          // IBM's clock less ours, when that is more than MaxClockSkew
	failedAt time.Time              // when the last attempt failed; zero before
	txID     string                 // IAM's Transaction-Id of the last exchange
	warnings []string
	timings  map[Step]time.Duration
}

// sentToken is a token that was sent to be saved, and the repair that it was for.
type sentToken struct {
	TokenResponse
	repair map[string]MirrorState
}

// attempt runs the whole pass once. Every retry begins again at 1, so it sees a key that was just
// replaced, a token that another run has saved meanwhile, and its own save whose answer was lost.
func (p *pass) attempt(ctx context.Context) (report.Result, error) {
	// 1. Read the current version's metadata, never its value. rotate and check
	// need the API key in any case, so they read it in parallel.
	var read *keyRead
	if p.Mode != ModeEnsure {
		read = p.startKeyRead()
	}
	current, err := p.readMetadata(ctx)
	if err != nil {
		return report.Result{}, err
	}
	if err := p.CheckOwn(current, p.HowToRun); err != nil && !p.Force {
		return report.Result{}, err
	}
	// 2. Stop if neither the secret nor a mirror needs a new token.
	if outcome, ok := p.upToDate(current); ok {
		if repair, err := p.mirrorsNeedToken(ctx, current, outcome); !repair {
			return p.result(outcome, current), err
		}
	}
	// 3. Read the API key.
	apiKey, err := p.readKey(ctx, read)
	if err != nil {
		return report.Result{}, err
	}
	// 4. Exchange it for a fresh token.
	response, err := p.exchange(ctx, apiKey)
	if err != nil {
		return report.Result{}, err
	}
	// 5. Check the token: a bad one is never saved.
	if err := p.checkToken(response, current); err != nil {
		return report.Result{}, err
	}
	if p.Mode == ModeCheck {
		_, err := p.checkMirrors(ctx, current, report.Checked)
		return p.result(report.Checked, current), err
	}
	if p.expiresSooner(response, current) {
		_, err := p.checkMirrors(ctx, current, report.Kept)
		return p.result(report.Kept, current), err
	}
	// 6. Save it as a new version.
	saved, err := p.save(ctx, current, response)
	if err != nil {
		return report.Result{}, err
	}
	// 7. Put it to the mirrors, if there are any, and report.
	if err := p.putToMirrors(saved, response); err != nil {
		return report.Result{}, err
	}
	return p.result(report.Rotated, saved), nil
}

const (
	// redeliveryWindow is how long a version with this run's id is taken for
	// this run's work: an event is delivered at least once, not exactly once.
	redeliveryWindow = 15 * time.Minute
	// minSaved is the least remaining lifetime with which a token is saved.
	minSaved = 5 * time.Minute
	// KeyExpiryNotice is how long before a key expires the reports warn of it.
	KeyExpiryNotice = 14 * 24 * time.Hour
)

func (p *pass) readMetadata(ctx context.Context) (TokenVersion, error) {
	defer p.timed(StepReadMetadata)()
	current, err := p.Tokens.ReadMetadata(ctx, p.Token)
	if err != nil {
		return TokenVersion{}, At(StepReadMetadata, err)
	}
	p.setClock(current.Clock)
	if current.CreatedAt.Sub(p.ibmClock()) > iamtoken.MaxLifetime {
		// No wrong clock of this machine explains that, and its token would never expire.
		p.warn("the stored version was made on %s, which is in the future: its metadata does not count", current.CreatedAt.UTC().Format(time.DateOnly))
		current.CreatedAt = time.Time{}
	}
	if p.first.VersionID == "" {
		p.first = current
	}
	p.current = current
	return current, nil
}

// CheckOwn returns an *Error if a save would destroy what others keep in the secret. A new version
// of a kv secret has the token's entry alone, because the function may not read the other entries.
// So it writes only to a secret that it wrote before. Two versions count, because a person may have
// edited or erased the metadata of one.
func (r Rotation) CheckOwn(current TokenVersion, howToRun HowToRun) error {
	if !current.Foreign {
		return nil
	}
	advice := "if nothing else in it is needed, run once with force"
	if howToRun != nil {
		advice += ": " + howToRun(r.Name, true)
	}
	return &Error{Step: StepReadMetadata, Kind: Misconfigured, Advice: advice, Message: "the token secret is of type kv, and this function wrote neither its current " +
		"nor its previous version: a save would remove all its other entries: " + advice}
}

// upToDate reports whether the secret needs no new token, and the outcome if the attempt ends here.
func (p *pass) upToDate(current TokenVersion) (report.Outcome, bool) {
	if p.Mode == ModeCheck {
		return "", false
	}
	if _, sent := p.sent[current.Metadata.Fingerprint]; sent {
		return report.Rotated, true // this pass saved it, only the answer was lost
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
		return report.AlreadyDone, true // another run has saved one since this run began
	}
	return "", false
}

// startKeyRead begins to read the API key, and prepares the exchange that follows.
func (p *pass) startKeyRead() *keyRead {
	p.prepare()
	return p.keys.start(p.APIKey, p.failedAt)
}

func (p *pass) readKey(ctx context.Context, read *keyRead) (iamtoken.Secret, error) {
	defer p.timed(StepReadKey)()
	if read == nil {
		read = p.startKeyRead()
	}
	return read.wait(ctx)
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

// warnAbout warns of what an operator should know about a token that is good enough to save.
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

// checkToken returns an *Error if the token must not be saved.
func (p *pass) checkToken(response TokenResponse, current TokenVersion) error {
	if err := CheckLifetime(response, p.ibmClock()); err != nil {
		return err
	}
	return p.CheckIdentity(response.Token, current, p.ibmClock(), p.Force)
}

// CheckLifetime returns an *Error if too little of the token's lifetime remains at
// now, by IBM's clock, for it to be saved.
func CheckLifetime(response TokenResponse, now time.Time) error {
	left := response.Token.Expiration.Sub(now)
	if left >= minSaved && left >= response.Token.ExpiresIn/2 {
		return nil
	}
	return &Error{Step: StepCheck, Kind: InvalidToken, Retry: Later, Message: fmt.Sprintf(
		"IAM returned a token that expires in %s (at least 5m and half of its lifetime of %s are required): it is an old one, "+
			"or this machine's clock is wrong (IBM's clock less ours: %s)",
		left.Round(time.Second), response.Token.ExpiresIn, response.Clock.Skew().Round(time.Second))}
}

// CheckIdentity returns an *Error if the token belongs to another identity than Expect names,
// whatever force says, or without force, to another one than the stored token. The stored token
// counts while it is valid, at most 61 minutes after its version was made: others may edit its
// metadata, and must not stop a rotation for longer. It does not count if Expect is full.
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

// differ compares two values if both are known: a token may be opaque, and metadata erased.
func differ(a, b string) bool { return a != "" && b != "" && a != b }

func identity(iamID, account string) string {
	if account == "" {
		return iamID
	}
	return strings.TrimSpace(iamID + " of account " + account)
}

// expiresSooner reports whether readers would get a token that expires sooner than the stored one.
func (p *pass) expiresSooner(response TokenResponse, current TokenVersion) bool {
	return !p.Force && response.Token.Expiration.Before(current.ExpiresAt())
}

// save saves the token as a new version, unless the process was suspended since the run began:
// then the token may be old, and the metadata certainly is.
func (p *pass) save(ctx context.Context, current TokenVersion, response TokenResponse) (TokenVersion, error) {
	defer p.timed(StepSave)()
	if p.suspended() {
		return TokenVersion{}, &Error{Step: StepSave, Kind: Timeout, Message: "the process was suspended for longer than the run may take: " +
			"what it knows is too old to continue with; the next run saves a new token"}
	}
	metadata := iamtoken.Describe(response.Token, p.RunID, p.Version)
	metadata.Mirrors = p.mirrorHashes()
	p.sent[metadata.Fingerprint], p.replaced = sentToken{response, p.repair}, current
	ctx = WithWallDeadline(ctx, p.started.Add(p.timeout))
	saved, err := p.Tokens.Save(ctx, p.Token, current, response.Token, metadata)
	if err != nil {
		return TokenVersion{}, At(StepSave, err)
	}
	if saved.CreatedAt.Sub(p.ibmClock()).Abs() > iamtoken.MaxLifetime { // or it is not known
		saved.CreatedAt = p.ibmClock()
	}
	p.current = TokenVersion{VersionID: saved.VersionID, SecretType: current.SecretType, CreatedAt: saved.CreatedAt, Metadata: metadata}
	return p.current, nil
}

// MaxClockSkew is how far the clock may be off IBM's before it is a warning.
const MaxClockSkew = 30 * time.Second

// setClock remembers how far this machine's clock is off IBM's, by the latest answer with a Date
// header: tokens expire by IBM's clock. Up to MaxClockSkew the clocks count as equal.
func (p *pass) setClock(clock Clock) {
	if !clock.known {
		return
	}
	skew := clock.Skew()
	if skew.Abs() <= MaxClockSkew {
		skew = 0
	} else if p.skew == 0 {
		p.warn("this machine's clock is off: IBM's clock less ours is %s", skew.Round(time.Second))
	}
	p.skew = skew
}

// ibmClock is the time by IBM's clock, as far as IBM's answers have shown it.
func (p *pass) ibmClock() time.Time { return WallClock(p.Now).Add(p.skew) }

// suspended reports whether more wall-clock time has passed since the run began than
// the caller gave: the process was frozen meanwhile, and the caller has given up.
func (r *run) suspended() bool { return WallClock(r.Now).Sub(r.started) > r.timeout }

// WallClock is the time by now, or by time.Now if that is nil, without its monotonic part,
// which stops while a process is frozen between two Lambda invocations.
func WallClock(now func() time.Time) time.Time {
	if now == nil {
		now = time.Now
	}
	return now().Round(0)
}

type wallDeadlineKey struct{}

// WithWallDeadline limits until when, by the wall clock, a request under ctx may be sent.
// A context's own deadline is not enough: timers stop while a process is frozen, and after
// the thaw it would send what it decided long ago.
func WithWallDeadline(ctx context.Context, latest time.Time) context.Context {
	return context.WithValue(ctx, wallDeadlineKey{}, latest)
}

// WallDeadline returns until when, by the wall clock, a request under ctx may be sent; ok is false
// if there is no limit. An adapter checks it last, when it sends the request.
func WallDeadline(ctx context.Context) (latest time.Time, ok bool) {
	latest, ok = ctx.Value(wallDeadlineKey{}).(time.Time)
	return latest, ok
}
