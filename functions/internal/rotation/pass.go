package rotation

import (
	"context"
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
