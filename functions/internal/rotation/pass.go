package rotation

import (
	"context"
	"fmt"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

// pass is one rotation's part of a run.
type pass struct {
	*run
	Rotation

	slot     func() // gives back the slot that the first attempt has; nil after it
	attempts int
	first    *Stored              // what the first look found; nil before
	stored   *Stored              // what the last look found; nil before
	replaced Stored               // the version that our save was to replace
	sent     map[string]Exchanged // the tokens handed to Save, by fingerprint
	lifetime time.Duration        // expires_in of the last token exchanged
	skew     time.Duration        // IBM's clock less ours, when that is more than maxClockSkew
	failedAt time.Time            // when the last attempt failed; zero before
	txID     string
	warnings []string
	timings  map[Step]time.Duration
}

func newPass(run *run, rotation Rotation) *pass {
	return &pass{run: run, Rotation: rotation, sent: map[string]Exchanged{}}
}

// attempt goes once through the whole pass. Every retry begins again at 1, so it
// sees a key just replaced, a token that another run has published meanwhile,
// and a save of its own whose answer was lost.
func (p *pass) attempt(ctx context.Context) (Result, error) {
	// 1. Look at the stored token's metadata, never at its value; rotate and
	// check are going to need the key, so they read it side by side.
	var key *keyRead
	if p.Mode != ModeEnsure {
		key = p.keys.start(p.APIKey, p.failedAt)
	}
	stored, err := p.look(ctx)
	if err != nil {
		return Result{}, err
	}
	// 2. Stop if there is nothing to do.
	if outcome, stop := p.nothingToDo(stored); stop {
		if current, err := p.mirrored(ctx, stored); current || err != nil {
			return p.result(outcome, stored), err
		}
	}
	// 3. Read the API key.
	apiKey, err := p.readKey(ctx, key)
	if err != nil {
		return Result{}, err
	}
	// 4. Exchange it for a fresh token.
	token, err := p.exchange(ctx, apiKey)
	if err != nil {
		return Result{}, err
	}
	// 5. Check the token: a bad one is never published.
	if err := p.checkToken(token, stored); err != nil {
		return Result{}, err
	}
	if p.Mode == ModeCheck {
		return p.result(Checked, stored), p.checkMirrors(ctx, stored)
	}
	if p.expiresSooner(token, stored) {
		return p.result(Kept, stored), p.keptInMirrors(ctx, stored)
	}
	// 6. Save it as a new version.
	published, err := p.save(ctx, stored, token)
	if err != nil {
		return Result{}, err
	}
	// 7. Copy it to the mirrors, if any, and report.
	if err := p.mirror(ctx, published, token); err != nil {
		return Result{}, err
	}
	return p.result(Rotated, published), nil
}

func (p *pass) look(ctx context.Context) (Stored, error) {
	defer p.timed(StepLook)()
	stored, err := p.Tokens.Look(ctx, p.Token)
	if err != nil {
		return Stored{}, at(StepLook, err)
	}
	if p.first == nil {
		p.first = &stored
	}
	p.stored = &stored
	p.setClock(stored.ClockSkew)
	return stored, nil
}

func (p *pass) readKey(ctx context.Context, read *keyRead) (iamtoken.Secret, error) {
	defer p.timed(StepReadKey)()
	if read == nil {
		read = p.keys.start(p.APIKey, p.failedAt)
	}
	return read.wait(ctx)
}

func (p *pass) exchange(ctx context.Context, key iamtoken.Secret) (Exchanged, error) {
	defer p.timed(StepExchange)()
	exchanged, err := p.IAM.Exchange(ctx, key)
	if err != nil {
		return Exchanged{}, at(StepExchange, err)
	}
	p.lifetime, p.txID = exchanged.Token.ExpiresIn, exchanged.TransactionID
	p.setClock(exchanged.ClockSkew)
	p.warnAbout(exchanged.Token)
	return exchanged, nil
}

// save publishes the token, unless the process was suspended since the run began:
// then the token may be old, and what the look found certainly is.
func (p *pass) save(ctx context.Context, stored Stored, fresh Exchanged) (Stored, error) {
	defer p.timed(StepSave)()
	if p.outlived() {
		return Stored{}, &Error{Step: StepSave, Kind: Timeout, Message: "the process was suspended for longer than the run may take: " +
			"what it knows is too old to publish; the next run publishes a new token"}
	}
	metadata := iamtoken.Describe(fresh.Token, p.RunID, p.Version)
	p.sent[metadata.Fingerprint], p.replaced = fresh, stored
	ctx = WithWallDeadline(ctx, p.started.Add(p.timeout))
	saved, err := p.Tokens.Save(ctx, p.Token, stored, fresh.Token, metadata)
	if err != nil {
		return Stored{}, at(StepSave, err)
	}
	if saved.CreatedAt.IsZero() {
		saved.CreatedAt = p.wallClock()
	}
	published := Stored{VersionID: saved.VersionID, SecretType: stored.SecretType, CreatedAt: saved.CreatedAt, Metadata: metadata}
	p.stored = &published
	return published, nil
}

const (
	// redeliveryWindow is how long a version that bears this run's id counts as
	// this run's work: an event is delivered at least once, not exactly once.
	redeliveryWindow = 15 * time.Minute
	// minTokenLife is the least life a token must have to be published.
	minTokenLife = 5 * time.Minute
	// keyExpiryNotice is how long before the bootstrap key expires the report warns.
	keyExpiryNotice = 14 * 24 * time.Hour
)

// nothingToDo decides from the stored version whether the attempt ends here.
func (p *pass) nothingToDo(stored Stored) (Outcome, bool) {
	if p.Mode == ModeCheck {
		return "", false
	}
	if _, sent := p.sent[stored.Metadata.Fingerprint]; sent {
		return Rotated, true // our own save: only its answer was lost
	}
	now := p.ibmClock()
	switch {
	case stored.ExpiresAt().Sub(now) < p.MinRemaining:
		return "", false
	case p.Mode == ModeEnsure:
		return Fresh, true
	case stored.Metadata.RunID == p.RunID && now.Sub(stored.CreatedAt) < redeliveryWindow:
		return AlreadyDone, true
	case stored.VersionID != p.first.VersionID && !stored.CreatedAt.Before(p.first.CreatedAt) && !p.Force:
		return AlreadyDone, true // someone has published since this run began
	}
	return "", false
}

// checkToken returns an *Error if the token must not be published.
func (p *pass) checkToken(fresh Exchanged, stored Stored) error {
	if err := CheckLife(fresh, p.ibmClock()); err != nil {
		return err
	}
	return p.CheckIdentity(fresh.Token, stored.Metadata, p.Force)
}

// CheckLife returns an *Error if the token has too little of its life left at
// now, by IBM's clock, to be published.
func CheckLife(fresh Exchanged, now time.Time) error {
	left := fresh.Token.Expiration.Sub(now)
	if left >= minTokenLife && left >= fresh.Token.ExpiresIn/2 {
		return nil
	}
	return &Error{Step: StepCheck, Kind: InvalidToken, Retry: Later, Message: fmt.Sprintf(
		"IAM returned a token with %s of life left (at least 5m and half of its %s are required): it is an old one, "+
			"or this machine's clock is wrong (IBM's clock less ours: %s)",
		left.Round(time.Second), fresh.Token.ExpiresIn, fresh.ClockSkew.Round(time.Second))}
}

// CheckIdentity returns an *Error if the token does not belong to whom Expect
// names or, unless force says that this is meant, to another identity than the
// token before it.
func (r Rotation) CheckIdentity(token iamtoken.Token, before iamtoken.Metadata, force bool) error {
	if err := r.checkExpected(token); err != nil {
		return err
	}
	if force {
		return nil
	}
	if differ(token.IAMID, before.IAMID) || differ(token.Account, before.Account) {
		return mismatch("if the API key was replaced on purpose, run once with force",
			"the token belongs to another identity than the stored one (%q, not %q)", identity(token.IAMID, token.Account), identity(before.IAMID, before.Account))
	}
	return nil
}

// checkExpected holds the token against what the configuration expects; force
// does not go past it.
func (r Rotation) checkExpected(token iamtoken.Token) error {
	const advice = "correct the API key or `expect`"
	expect := r.Expect
	switch {
	case expect == Expect{}:
		return nil
	case token.Opaque():
		return mismatch("remove `expect` to publish opaque tokens", "the token cannot be read, so `expect` cannot be verified")
	case expect.Account != "" && expect.Account != token.Account:
		return mismatch(advice, "the token belongs to account %q, but %q is expected", token.Account, expect.Account)
	case expect.IAMID != "" && expect.IAMID != token.IAMID:
		return mismatch(advice, "the token belongs to %q, but %q is expected", token.IAMID, expect.IAMID)
	}
	return nil
}

func mismatch(advice, format string, args ...any) *Error {
	return &Error{Step: StepCheck, Kind: InvalidToken, Message: fmt.Sprintf(format, args...) + ": " + advice, Advice: advice}
}

// differ compares what both tell: a token may be opaque, and metadata erased.
func differ(a, b string) bool { return a != "" && b != "" && a != b }

func identity(iamID, account string) string {
	if account == "" {
		return iamID
	}
	return strings.TrimSpace(iamID + " of account " + account)
}

// expiresSooner reports whether publishing would take life from readers.
func (p *pass) expiresSooner(fresh Exchanged, stored Stored) bool {
	return !p.Force && fresh.Token.Expiration.Before(stored.ExpiresAt())
}

// warnAbout notes what an operator should know of a token that is good enough.
func (p *pass) warnAbout(token iamtoken.Token) {
	if token.Opaque() {
		p.warn("the token does not tell whose it is: its identity could not be verified")
	}
	if token.ExpiresIn < p.Interval {
		p.warn("tokens live %s, shorter than the schedule of %s: keep the ensure schedule on, it alone keeps one valid", token.ExpiresIn, p.Interval)
	}
	if token.ExpiresIn <= p.MinRemaining {
		p.warn("tokens live %s, no longer than MIN_REMAINING (%s): every ensure run publishes a new one, lower it", token.ExpiresIn, p.MinRemaining)
	}
}

func (p *pass) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// maxClockSkew is how far the clock may be off IBM's before the report warns.
const maxClockSkew = 30 * time.Second

// wallClock is the time without its monotonic part, which stands still while a
// process is frozen between two Lambda invocations.
func (r *Rotator) wallClock() time.Time {
	if r.Now == nil {
		return time.Now().Round(0)
	}
	return r.Now().Round(0)
}

// outlived reports whether more wall-clock time has gone by since the run began
// than the caller gave: the process was suspended, and whoever called has given up.
func (r *run) outlived() bool { return r.wallClock().Sub(r.started) > r.timeout }

// setClock notes how far our clock is off IBM's, by the latest answer. Expirations
// are by IBM's clock; a difference that whole seconds explain is left alone.
func (p *pass) setClock(skew time.Duration) {
	if skew.Abs() <= maxClockSkew {
		p.skew = 0
		return
	}
	if p.skew == 0 {
		p.warn("this machine's clock is off: IBM's clock less ours is %s", skew.Round(time.Second))
	}
	p.skew = skew
}

// ibmClock is the time by IBM's clock, as far as its answers have told.
func (p *pass) ibmClock() time.Time { return p.wallClock().Add(p.skew) }

type wallDeadlineKey struct{}

// WithWallDeadline says until when, by the wall clock, a request under ctx may
// leave. A context's own deadline does not see to that: timers stand still while
// a process is frozen, and on thawing it would go on with what it had decided.
func WithWallDeadline(ctx context.Context, latest time.Time) context.Context {
	return context.WithValue(ctx, wallDeadlineKey{}, latest)
}

// WallDeadline returns until when, by the wall clock, a request under ctx may
// leave; ok is false if at any time. An adapter looks at it last of all, when
// the request is on its way out.
func WallDeadline(ctx context.Context) (latest time.Time, ok bool) {
	latest, ok = ctx.Value(wallDeadlineKey{}).(time.Time)
	return latest, ok
}
