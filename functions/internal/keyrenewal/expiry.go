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

// Expiry is when an API key expires, and how early that is a warning.
type Expiry struct {
	At      time.Time // zero when it is not known, or never
	Notice  time.Duration
	Managed bool // Secrets Manager renews the key
}

const day = 24 * time.Hour

// ExpiryOf is what a key secret says. A managed key that was not rotated three days after
// it should have been is a warning, with a short lifetime after half of what is left then;
// any other two weeks before it expires.
func ExpiryOf(secret rotation.KeySecret) Expiry {
	expiry := Expiry{At: secret.ExpiresAt, Notice: rotation.KeyExpiryNotice}
	if left := secret.TTL - secret.Interval; secret.Interval > 0 && left > 0 {
		expiry.Notice, expiry.Managed = max(left-3*day, left/2), true
	}
	return expiry
}

// IsSoon reports whether it is a warning at now.
func (e Expiry) IsSoon(now time.Time) bool { return !e.At.IsZero() && e.At.Sub(now) < e.Notice }

// Warning says when the key of what expires, and what to do.
func (e Expiry) Warning(what string, now time.Time) string {
	state, advice := "expires", "replace it"
	if !now.Before(e.At) {
		state = "has been expired since"
	}
	if e.Managed {
		advice = "IBM's Secrets Manager should have rotated it: see its rotation rule, its locks and the authorization for IAM"
	}
	return fmt.Sprintf("%s %s %s: %s", what, state, e.At.UTC().Format(time.RFC3339), advice)
}

// Watch knows when the keys that runs use expire: from the secrets, which the runs read
// anyway, and for keys that a person makes also from IAM, which it asks once a day. Its
// fields must not change while it is used.
type Watch struct {
	Keys      KeySecrets
	IAM       IAM
	Bootstrap KeyExpirer // nil if the bootstrap identity has no API key, or a managed one
	// BootstrapExpiresAt counts where IAM does not say it; zero when it is not known.
	BootstrapExpiresAt time.Time
	// Since is when IAM may be asked first: a process that was started to serve now must
	// not be late for it.
	Since time.Time
	Now   func() time.Time // if nil, time.Now

	mu        sync.Mutex
	lookedUp  map[keyHash]lookUp
	bootstrap lookUp
}

// The methods of these interfaces return *rotation.Error.

// KeySecrets reads API keys with what their secrets say of them.
type KeySecrets interface {
	ReadCurrentKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error)
}

// IAM exchanges keys, and knows when they expire.
type IAM interface {
	rotation.Exchanger
	// KeyExpiry asks when key expires, with a token of its owner; the zero time means never.
	KeyExpiry(ctx context.Context, key, token iamtoken.Secret) (time.Time, error)
}

// KeyExpirer knows when its own key expires; the zero time means never.
type KeyExpirer interface {
	KeyExpiry(ctx context.Context) (time.Time, error)
}

// keyHash is in place of a key that need not be kept.
type keyHash [sha256.Size]byte

func hashOf(key iamtoken.Secret) keyHash { return sha256.Sum256([]byte(key.Reveal())) }

// lookUp is what IAM answered.
type lookUp struct {
	at      time.Time // zero: never, or it did not say
	asked   time.Time // zero: not yet
	answers bool
}

const (
	lookUpInterval = day
	lookUpLimit    = 5 * time.Second // of all in one run
)

// Run is one run's part of a Watch: it reads keys and exchanges them for the run, and
// notes what it sees. It holds keys and tokens until the run ends.
type Run struct {
	*Watch
	rotation.Exchanger

	mu     sync.Mutex
	keys   map[rotation.KeyRef]rotation.KeySecret
	tokens map[keyHash]iamtoken.Secret // by the key that they were exchanged for
}

// Begin begins a run.
func (w *Watch) Begin() *Run {
	return &Run{Watch: w, Exchanger: w.IAM, keys: map[rotation.KeyRef]rotation.KeySecret{}, tokens: map[keyHash]iamtoken.Secret{}}
}

// ReadKey implements rotation.KeyReader.
func (r *Run) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	secret, err := r.Keys.ReadCurrentKey(ctx, ref)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.keys[ref] = secret
	}
	return secret.Key, err
}

// Exchange implements rotation.Exchanger.
func (r *Run) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	response, err := r.Exchanger.Exchange(ctx, key)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.tokens[hashOf(key)] = response.Token.Value
	}
	return response, err
}

// End notes in the results when the keys of the rotations expire, or the bootstrap key if
// that is sooner. renewal is the run's, nil if there was none.
func (r *Run) End(ctx context.Context, rotations []rotation.Rotation, results []report.Result, renewal *report.KeyRenewal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookUpLimit)
	defer cancel()
	bootstrap := r.bootstrapExpiry(ctx, len(r.tokens) > 0)
	for i := range results {
		result := &results[i]
		if renewal != nil && renewal.ExpiresAt != nil {
			result.KeyExpiresAt, result.KeyExpiring = *renewal.ExpiresAt, renewal.Expiring
		}
		r.note(result, "the bootstrap API key", bootstrap)
		if secret, ok := r.keys[rotations[i].APIKey]; ok {
			r.note(result, "the API key", r.expiryOf(ctx, secret))
		}
	}
}

func (r *Run) note(result *report.Result, what string, expiry Expiry) {
	if expiry.At.IsZero() {
		return
	}
	if result.KeyExpiresAt.IsZero() || expiry.At.Before(result.KeyExpiresAt) {
		result.KeyExpiresAt = expiry.At
	}
	if now := r.now(); expiry.IsSoon(now) {
		result.KeyExpiring = true
		result.Warnings = append(result.Warnings, expiry.Warning(what, now))
	}
}

// expiryOf asks IAM for a key that a person has made, and takes the sooner of the two dates.
func (r *Run) expiryOf(ctx context.Context, secret rotation.KeySecret) Expiry {
	expiry := ExpiryOf(secret)
	if expiry.Managed {
		return expiry
	}
	hash := hashOf(secret.Key)
	token, exchanged := r.tokens[hash]
	r.Watch.mu.Lock()
	defer r.Watch.mu.Unlock()
	known := r.lookedUp[hash]
	if exchanged && r.isDue(ctx, known) {
		known = r.ask(known, func() (time.Time, error) { return r.IAM.KeyExpiry(ctx, secret.Key, token) })
		if r.lookedUp == nil {
			r.lookedUp = map[keyHash]lookUp{}
		}
		r.lookedUp[hash] = known
	}
	if !known.at.IsZero() && (expiry.At.IsZero() || known.at.Before(expiry.At)) {
		expiry.At = known.at
	}
	return expiry
}

// bootstrapExpiry asks IAM only in a run that has used the key.
func (r *Run) bootstrapExpiry(ctx context.Context, used bool) Expiry {
	r.Watch.mu.Lock()
	defer r.Watch.mu.Unlock()
	if r.Bootstrap != nil && used && r.isDue(ctx, r.bootstrap) {
		r.bootstrap = r.ask(r.bootstrap, func() (time.Time, error) { return r.Bootstrap.KeyExpiry(ctx) })
	}
	expiry := Expiry{At: r.BootstrapExpiresAt, Notice: rotation.KeyExpiryNotice}
	if r.bootstrap.answers {
		expiry.At = r.bootstrap.at
	}
	return expiry
}

func (r *Run) isDue(ctx context.Context, known lookUp) bool {
	now := r.now()
	return ctx.Err() == nil && !now.Before(r.Since) && (known.asked.IsZero() || now.Sub(known.asked) >= lookUpInterval)
}

// ask keeps what IAM has answered before if it does not answer now.
func (r *Run) ask(known lookUp, request func() (time.Time, error)) lookUp {
	known.asked = r.now()
	if at, err := request(); err == nil {
		known.at, known.answers = at, true
	}
	return known
}

func (w *Watch) now() time.Time {
	if w.Now == nil {
		return time.Now().Round(0)
	}
	return w.Now().Round(0)
}
