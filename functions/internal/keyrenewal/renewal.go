// Package keyrenewal keeps the bootstrap key valid: IBM's Secrets Manager makes and ends
// the keys of a secret of type iam_credentials, and the function puts the current one
// into the AWS secret that it starts from. It also watches when the API keys expire.
//
// A renewal is the last part of a run, when the tokens are saved. It fails no run and
// deletes nothing: until the new key is stored the old one serves on.
package keyrenewal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// Renewer renews the bootstrap key. Its fields must not change while it is used.
type Renewer struct {
	Secret    rotation.KeyRef // of type iam_credentials, for the bootstrap identity's own service id
	Managed   ManagedKeys
	Bootstrap Bootstrap
	Store     Store
	Candidate func(key iamtoken.Secret) (Candidate, error)
	Now       func() time.Time // if nil, time.Now

	mu       sync.Mutex
	checked  time.Time // when a renewal last ended, by the wall clock; zero before
	answered string    // the id of the managed key for which checkPrevious has no more to ask
}

// The methods of these interfaces return *rotation.Error.

// ManagedKeys reads the secret at IBM, as the bootstrap identity.
type ManagedKeys interface {
	ReadManagedKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error)
}

// Bootstrap is the bootstrap identity.
type Bootstrap interface {
	// InUse returns the key that the identity's token was obtained with, and the token.
	InUse(ctx context.Context) (rotation.KeyInUse, iamtoken.Token, error)
	// Forget has both obtained anew.
	Forget()
}

// Store is the AWS secret that holds the bootstrap key.
type Store interface {
	// Current returns the key and the id of its version.
	Current(ctx context.Context) (key iamtoken.Secret, versionID string, err error)
	// Previous returns the same of the version before.
	Previous(ctx context.Context) (key iamtoken.Secret, versionID string, err error)
	// Put makes key the current one. With an id that a version has, it changes nothing.
	Put(ctx context.Context, key iamtoken.Secret, versionID string) error
}

// Candidate is the identity of a key that is not in use yet.
type Candidate interface {
	// Identify exchanges the key; the token's identity is empty if it does not show it.
	Identify(ctx context.Context) (iamtoken.Token, error)
	// ReadMetadata is what a rotation does first with a token.
	ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.TokenVersion, error)
}

const (
	// ensureInterval is how long an ensure run relies on the process's last renewal: a
	// region or a CronJob may run ensure alone.
	ensureInterval = time.Hour
	// limit bounds a renewal: at most eight requests.
	limit = 20 * time.Second
	// previousLimit bounds the question whether AWSPREVIOUS serves.
	previousLimit = 3 * time.Second
)

// Due reports whether a run of this mode ends with a renewal.
func (r *Renewer) Due(mode rotation.Mode) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return mode == rotation.ModeRotate || mode == rotation.ModeEnsure && (r.checked.IsZero() || rotation.WallClock(r.Now).Sub(r.checked) >= ensureInterval)
}

// Run renews the key in what is left of ctx's time, and of 20 seconds. look is a token secret that the
// bootstrap identity may read the metadata of.
func (r *Renewer) Run(ctx context.Context, look rotation.TokenRef) report.KeyRenewal {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := &pass{Renewer: r, look: look, started: rotation.WallClock(r.Now), result: report.KeyRenewal{Warnings: []string{}}}
	outcome, err := p.renew(ctx)
	if err == nil {
		p.checkPrevious(ctx)
	}
	r.mu.Lock()
	r.checked = rotation.WallClock(r.Now)
	r.mu.Unlock()
	return p.report(outcome, err)
}

// pass is one renewal.
type pass struct {
	*Renewer
	look    rotation.TokenRef
	started time.Time // by the wall clock

	inUse   rotation.KeyInUse
	present iamtoken.Token     // of the key in use
	managed rotation.KeySecret // zero before it is read
	result  report.KeyRenewal
}

// renew does the whole renewal. A process that ends between two steps has lost nothing:
// until step 5 nothing has changed, and after it step 2 finds that there is nothing to do.
func (p *pass) renew(ctx context.Context) (report.RenewalOutcome, error) {
	if ctx.Err() != nil {
		return "", &rotation.Error{Step: rotation.StepReadKey, Kind: rotation.Timeout, Message: "the run left no time to renew the bootstrap key: the next run does"}
	}
	// 1. Read the managed key, with the token of the key in use.
	if err := p.readManagedKey(ctx); err != nil {
		return "", err
	}
	// 2. Stop if it is the one in use.
	if p.managed.Key.Reveal() == p.inUse.Key.Reveal() && !p.inUse.Previous {
		return report.KeyCurrent, nil
	}
	stored, storedVersion, err := p.Store.Current(ctx)
	if err != nil {
		return "", rotation.At(rotation.StepReadKey, err)
	}
	// 3. Exchange it: it must be of the same identity as the key in use.
	candidate, err := p.exchange(ctx)
	if err != nil {
		return "", err
	}
	// 4. Do with its token what a rotation does first.
	if err := p.tryLook(ctx, candidate); err != nil {
		return "", err
	}
	// 5. Store it. The key in use becomes AWSPREVIOUS.
	outcome := report.KeyCurrent
	if stored.Reveal() != p.managed.Key.Reveal() {
		if err := p.store(ctx, storedVersion); err != nil {
			return "", rotation.At(rotation.StepSave, err)
		}
		outcome = report.KeyRenewed
	}
	// 6. Forget the key in use and its token.
	p.Bootstrap.Forget()
	p.inUse = rotation.KeyInUse{Key: p.managed.Key, Previous: p.inUse.Previous}
	return outcome, nil
}

func (p *pass) readManagedKey(ctx context.Context) (err error) {
	p.inUse, p.present, err = p.Bootstrap.InUse(ctx)
	if err != nil {
		return rotation.At(rotation.StepBootstrap, err)
	}
	p.managed, err = p.Managed.ReadManagedKey(ctx, p.Secret)
	if err != nil {
		return rotation.At(rotation.StepReadKey, err)
	}
	if p.managed.KeyID == "" {
		return &rotation.Error{Step: rotation.StepReadKey, Kind: rotation.Unavailable, Message: "the managed bootstrap key: the answer does not name the key"}
	}
	return nil
}

// exchange returns the identity of the managed key, which must be that of the key in use.
func (p *pass) exchange(ctx context.Context) (Candidate, error) {
	candidate, err := p.Candidate(p.managed.Key)
	if err != nil {
		return nil, rotation.At(rotation.StepExchange, err)
	}
	token, err := candidate.Identify(ctx)
	if err != nil {
		failure := *rotation.ErrorOf(err)
		if failure.Step = rotation.StepExchange; failure.Retry == rotation.Once {
			failure.Message = "IAM does not accept the new bootstrap key yet, which takes it a few seconds: the one in use serves on, and the next run tries again"
		}
		return nil, &failure
	}
	switch now := p.present; {
	case now.Opaque() || token.Opaque():
		return nil, mismatch("the identity of the new bootstrap key or of the one in use cannot be seen in its token")
	case token.IAMID != now.IAMID || token.Account != now.Account:
		p.managed = rotation.KeySecret{KeyID: p.managed.KeyID} // its dates are of no key in use
		return nil, mismatch(fmt.Sprintf("the key in BOOTSTRAP_KEY_SECRET is of %q of account %q, but the one in use is of %q of account %q",
			token.IAMID, token.Account, now.IAMID, now.Account))
	}
	return candidate, nil
}

// checkPrevious notes whether IAM refuses AWSPREVIOUS, which has to serve if it refuses AWS's current
// key one day. IBM has then ended a key at its rotation, and the token of that key hid it. The
// question is asked until the answer is good: the process that stored the current key
// may have ended before its report. The key of a person may be deleted, and where IBM's rotation
// is late the previous one has reached the end of its ttl: neither counts.
func (p *pass) checkPrevious(ctx context.Context) {
	made := p.managed.ExpiresAt.Add(-p.managed.TTL)
	p.mu.Lock()
	known := p.answered == p.managed.KeyID
	p.mu.Unlock()
	if known || !p.ibmClock().Before(made.Add(p.managed.Interval)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, previousLimit)
	defer cancel()
	key, versionID, err := p.Store.Previous(ctx)
	if err == nil && isManaged(versionID) {
		var previous Candidate
		if previous, err = p.Candidate(key); err == nil {
			_, err = previous.Identify(ctx)
		}
		p.result.PreviousEnded = err != nil && rotation.ErrorOf(err).Kind == rotation.Denied
	}
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.answered = p.managed.KeyID
	}
}

func mismatch(found string) error {
	return &rotation.Error{Step: rotation.StepCheck, Kind: rotation.InvalidToken,
		Message: found + ": nothing was stored; name a secret for the bootstrap identity's own service id"}
}

// tryLook fails if Secrets Manager does not serve the candidate. What is wrong with the
// token secret itself says nothing against the key.
func (p *pass) tryLook(ctx context.Context, candidate Candidate) error {
	_, err := candidate.ReadMetadata(ctx, p.look)
	if err == nil {
		return nil
	}
	failure := *rotation.ErrorOf(err)
	switch failure.Kind {
	case rotation.NotFound, rotation.Misconfigured, rotation.Locked:
		return nil
	}
	failure.Step, failure.Message = rotation.StepLook, "with the new bootstrap key: "+failure.Message
	return &failure
}

// store makes the managed key the current one in AWS, unless the process was suspended
// meanwhile: then IBM may have made another one.
func (p *pass) store(ctx context.Context, after string) error {
	if rotation.WallClock(p.Now).Sub(p.started) > limit {
		return &rotation.Error{Kind: rotation.Timeout, Message: "the process was suspended before it stored the new bootstrap key: the next run does"}
	}
	return p.Store.Put(ctx, p.managed.Key, versionID(p.managed.KeyID, after))
}

// versionID is the id of the version that stores a key after another version: the same at
// every repeat, whoever stores it, and a new one after somebody has stored another key.
// AWS asks for 32 to 64 characters; IAM's id of a key has 43.
func versionID(keyID, after string) string {
	if len(keyID) != keyIDLength {
		keyID = hash(keyID)[:keyIDLength]
	}
	return keyID + "-" + hash(after)[:64-keyIDLength-1]
}

const keyIDLength = 43

// isManaged reports whether a version has the id of one that stores a managed key.
func isManaged(versionID string) bool { return len(versionID) == 64 && versionID[keyIDLength] == '-' }

func hash(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

// report describes the renewal. The key in use, unless it is IBM's current one, expires
// at least one rotation before that.
func (p *pass) report(outcome report.RenewalOutcome, err error) report.KeyRenewal {
	result := p.result
	result.KeyID = p.managed.KeyID
	result.Outcome, result.ByPreviousKey = outcome, p.inUse.Previous
	if err != nil {
		result.Outcome, result.Error = report.KeyRenewalFailed, rotation.ErrorOf(err).Report()
	}
	expiry, now := ExpiryOf(p.managed), p.ibmClock()
	if !expiry.At.IsZero() {
		if p.inUse.Key.Reveal() != p.managed.Key.Reveal() {
			expiry.At = expiry.At.Add(-p.managed.Interval)
		}
		at := expiry.At.UTC().Truncate(time.Second)
		result.ExpiresAt, result.DaysLeft, result.Expiring = &at, expiry.DaysLeft(now), expiry.IsSoon(now)
	}
	if next := p.managed.NextRotation; !next.IsZero() {
		next = next.UTC().Truncate(time.Second)
		result.NextRotationAt = &next
	}
	if result.ByPreviousKey {
		result.Warnings = append(result.Warnings, "IAM refused the bootstrap key that is current in AWS, and the one before it was used: "+
			"if IBM ends a key when it rotates, the next rotation ends this one, too; see the runbook, key-renewal")
	} else if result.PreviousEnded {
		result.Warnings = append(result.Warnings, "IAM refuses the bootstrap key before the current one, AWSPREVIOUS: "+
			"if IBM ends a key when it rotates, the next rotation may leave none that works; see the runbook, key-renewal")
	}
	if result.Expiring {
		result.Warnings = append(result.Warnings, expiry.Warning("the bootstrap API key", now))
	}
	if p.managed.Locks > 0 {
		result.Warnings = append(result.Warnings, fmt.Sprintf("BOOTSTRAP_KEY_SECRET has locks (%d): IBM does not rotate it while its previous version is locked; remove them", p.managed.Locks))
	}
	return result
}

func (p *pass) ibmClock() time.Time { return rotation.WallClock(p.Now).Add(p.managed.Clock.Skew()) }
