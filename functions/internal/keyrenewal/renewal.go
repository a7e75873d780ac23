// Package keyrenewal keeps the bootstrap key valid: IBM's Secrets Manager makes and ends
// the keys of a secret of type iam_credentials, and the function puts the current one
// into the AWS secret that it starts from. It also watches when the API keys expire.
//
// A renewal is the last part of a run, after the tokens are saved. It never makes the run
// fail and deletes nothing: until the new key is stored, the old one stays in use.
package keyrenewal

import (
	"context"
	"crypto/sha256"
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
	Candidate func(key iamtoken.Secret) (Candidate, error) // does not send a request
	Now       func() time.Time                             // if nil, time.Now

	mu      sync.Mutex
	checked time.Time // when a renewal last ended, by the wall clock; zero before
}

// The methods of these interfaces return *rotation.Error.

// ManagedKeys reads the secret at IBM, as the bootstrap identity.
type ManagedKeys interface {
	ReadManagedKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error)
}

// Bootstrap is the bootstrap identity.
type Bootstrap interface {
	// InUse returns the identity's token, and the key that it was obtained with.
	InUse(ctx context.Context) (rotation.KeyInUse, iamtoken.Token, error)
	// Forget drops both: the next use reads the key and exchanges it again.
	Forget()
}

// Store is the AWS secret that holds the bootstrap key.
type Store interface {
	// Current returns the key and the id of its version.
	Current(ctx context.Context) (key iamtoken.Secret, versionID string, err error)
	// Previous returns the same for AWSPREVIOUS, the version before.
	Previous(ctx context.Context) (key iamtoken.Secret, versionID string, err error)
	// Put stores key as the current version. If a version has that id already, nothing changes.
	Put(ctx context.Context, key iamtoken.Secret, versionID string) error
}

// Candidate is the identity of a key that is not in use.
type Candidate interface {
	// Identify exchanges the key for a token, whose identity is empty if the token is opaque.
	Identify(ctx context.Context) (iamtoken.Token, error)
	// ReadMetadata is the first request that a rotation makes with the token.
	ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.TokenVersion, error)
}

const (
	// ensureInterval is how old the process's last renewal is when an ensure run renews again:
	// a region or a CronJob may have no rotate runs.
	ensureInterval = time.Hour
	// limit bounds a renewal, which makes eight requests at most.
	limit = 20 * time.Second
	// previousLimit bounds checkPrevious.
	previousLimit = 3 * time.Second
)

// Due reports whether a run of this mode ends with a renewal.
func (r *Renewer) Due(mode rotation.Mode) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return mode == rotation.ModeRotate || mode == rotation.ModeEnsure && (r.checked.IsZero() || rotation.WallClock(r.Now).Sub(r.checked) >= ensureInterval)
}

// Run renews the key within 20 seconds, or until ctx ends if that is sooner. probe is a token
// secret whose metadata the bootstrap identity may read.
func (r *Renewer) Run(ctx context.Context, probe rotation.TokenRef) report.KeyRenewal {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := &pass{Renewer: r, probe: probe, started: rotation.WallClock(r.Now), result: report.KeyRenewal{Warnings: []string{}}}
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
	probe   rotation.TokenRef
	started time.Time // by the wall clock

	inUse      rotation.KeyInUse
	inUseToken iamtoken.Token     // of the key in use
	managed    rotation.KeySecret // zero before it is read
	result     report.KeyRenewal
}

// renew does the whole renewal. If the process ends between two steps, nothing is lost: before
// step 5 nothing has changed, and after it the next renewal ends at step 2.
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
	// 4. Read the metadata of a token secret with its token.
	if err := p.tryMetadata(ctx, candidate); err != nil {
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
	p.inUse, p.inUseToken, err = p.Bootstrap.InUse(ctx)
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
		failure.Step = rotation.StepExchange
		if isRejected(&failure) {
			failure.Message = "IAM does not accept the new bootstrap key yet, which can take a few seconds: the one in use stays in use, and the next run tries again"
		}
		return nil, &failure
	}
	switch inUse := p.inUseToken; {
	case inUse.Opaque() || token.Opaque():
		return nil, mismatch("the identity of the new bootstrap key or of the one in use cannot be seen in its token")
	case token.IAMID != inUse.IAMID || token.Account != inUse.Account:
		p.managed = rotation.KeySecret{KeyID: p.managed.KeyID} // its dates are not those of the key in use
		return nil, mismatch(fmt.Sprintf("the key in BOOTSTRAP_KEY_SECRET is of %q of account %q, but the one in use is of %q of account %q",
			token.IAMID, token.Account, inUse.IAMID, inUse.Account))
	}
	return candidate, nil
}

// checkPrevious notes whether IAM rejects AWSPREVIOUS, which is used if IAM rejects AWS's current
// key. Every renewal asks. IBM may end a key when it rotates, which a cached token of that key
// hides; the process that stored the current key may have died before its report; and after a late
// rotation AWSPREVIOUS reaches the end of its ttl only days later. Neither a key that a person has
// made counts, nor the end of the ttl while the next rotation is late.
func (p *pass) checkPrevious(ctx context.Context) {
	made := p.managed.ExpiresAt.Add(-p.managed.TTL)
	if !p.ibmClock().Before(made.Add(p.managed.Interval)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, previousLimit)
	defer cancel()
	key, versionID, err := p.Store.Previous(ctx)
	if err != nil || !isManaged(versionID) {
		return
	}
	previous, err := p.Candidate(key)
	if err == nil {
		_, err = previous.Identify(ctx)
	}
	p.result.PreviousEnded = err != nil && isRejected(rotation.ErrorOf(err))
}

// isRejected reports whether IAM does not accept the key itself; a network rule may refuse any.
func isRejected(failure *rotation.Error) bool {
	return failure.Kind == rotation.Denied && failure.Retry == rotation.Once
}

func mismatch(found string) error {
	return &rotation.Error{Step: rotation.StepCheck, Kind: rotation.InvalidToken,
		Message: found + ": nothing was stored; name a secret for the bootstrap identity's own service id"}
}

// tryMetadata fails if Secrets Manager does not accept the candidate's token. An error in the
// token secret itself says nothing about the key.
func (p *pass) tryMetadata(ctx context.Context, candidate Candidate) error {
	_, err := candidate.ReadMetadata(ctx, p.probe)
	if err == nil {
		return nil
	}
	failure := *rotation.ErrorOf(err)
	switch failure.Kind {
	case rotation.NotFound, rotation.Misconfigured, rotation.Locked:
		return nil
	}
	failure.Step, failure.Message = rotation.StepReadMetadata, "with the new bootstrap key: "+failure.Message
	return &failure
}

// store makes the managed key the current one in AWS. It fails if the process was suspended
// after it read the key: IBM may have made another one since.
func (p *pass) store(ctx context.Context, current string) error {
	if rotation.WallClock(p.Now).Sub(p.started) > limit {
		return &rotation.Error{Kind: rotation.Timeout, Message: "the process was suspended before it stored the new bootstrap key: the next run does"}
	}
	return p.Store.Put(ctx, p.managed.Key, versionID(p.managed.KeyID, current))
}

// versionID is the idempotency token of AWS's PutSecretValue, which becomes the version's id.
// While the same version is current, every attempt to store the key has the same one. After
// another key was stored it is a new one, since AWS ignores a put with an older version's id.
func versionID(keyID, current string) string {
	if len(keyID) != keyIDLength {
		keyID = hash(keyID)[:keyIDLength]
	}
	return keyID + "-" + hash(current)[:versionIDLength-keyIDLength-1]
}

const (
	keyIDLength     = 43 // of IAM's ids of keys
	versionIDLength = 64 // AWS takes 32 to 64 characters
)

// isManaged reports whether a version holds a managed key: versionID made its id.
func isManaged(id string) bool { return len(id) == versionIDLength && id[keyIDLength] == '-' }

func hash(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// report describes the renewal. IBM states the dates of its current key alone: a key in use
// that is an older one expires at least one rotation before that.
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
