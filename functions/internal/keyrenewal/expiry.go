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

// DaysLeft is how long the key is valid at now; negative if it has expired.
func (e Expiry) DaysLeft(now time.Time) float64 { return e.At.Sub(now).Hours() / 24 }

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

	mu       sync.Mutex
	lookedUp map[keyHash]lookUp
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

// bootstrapKey is in place of the bootstrap key's hash: only its identity knows the key.
var bootstrapKey = keyHash{}

func hashOf(key iamtoken.Secret) keyHash { return sha256.Sum256([]byte(key.Reveal())) }

// lookUp is what IAM answered.
type lookUp struct {
	at      time.Time // zero: never, or it did not say
	asked   time.Time // zero: not yet
	answers bool
}

const (
	lookUpInterval = day
	lookUpLimit    = 5 * time.Second // of one
	maxLookUps     = 8               // in a run: of many keys others are due in the next
)

// Run is one run's part of a Watch: it reads keys and exchanges them for the run, and
// notes what it sees. It holds no token, and keys until the run ends.
type Run struct {
	*Watch // whose lock also guards what follows
	rotation.Exchanger
	ctx    context.Context // of the look-ups
	asking sync.WaitGroup  // in parallel with what follows an exchange

	secrets map[rotation.KeyRef]rotation.KeySecret
	managed map[keyHash]bool
	asked   int            // look-ups begun
	clock   rotation.Clock // IBM's, by the last key that was read
}

// Begin begins a run, which is to End. Nothing is looked up after ctx has ended.
func (w *Watch) Begin(ctx context.Context) *Run {
	return &Run{Watch: w, Exchanger: w.IAM, ctx: ctx, secrets: map[rotation.KeyRef]rotation.KeySecret{}, managed: map[keyHash]bool{}}
}

// ReadKey implements rotation.KeyReader.
func (r *Run) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	secret, err := r.Keys.ReadCurrentKey(ctx, ref)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.secrets[ref], r.clock = secret, secret.Clock
		r.managed[hashOf(secret.Key)] = ExpiryOf(secret).Managed
	}
	return secret.Key, err
}

// Exchange implements rotation.Exchanger. It has IAM asked about the key, and about the
// bootstrap key, if a person has made them and a day has passed.
func (r *Run) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	response, err := r.Exchanger.Exchange(ctx, key)
	if err != nil {
		return response, err
	}
	if r.Bootstrap != nil {
		r.lookUp(bootstrapKey, r.Bootstrap.KeyExpiry)
	}
	token := response.Token.Value
	r.lookUp(hashOf(key), func(ctx context.Context) (time.Time, error) { return r.IAM.KeyExpiry(ctx, key, token) })
	return response, nil
}

// lookUp asks in the background, once for all rotations with the same key. What has no answer is asked again a day later,
// and what is known serves until then.
func (r *Run) lookUp(key keyHash, request func(context.Context) (time.Time, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, now := r.lookedUp[key], rotation.WallClock(r.Now)
	if r.ctx.Err() != nil || r.managed[key] || r.asked == maxLookUps || now.Before(r.Since) || !known.asked.IsZero() && now.Sub(known.asked) < lookUpInterval {
		return
	}
	r.asked++
	known.asked = now
	if r.lookedUp == nil {
		r.lookedUp = map[keyHash]lookUp{}
	}
	r.lookedUp[key] = known
	r.asking.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, lookUpLimit)
		defer cancel()
		if at, err := request(ctx); err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lookedUp[key] = lookUp{at: at, asked: now, answers: true}
		}
	})
}

// End notes in the results when the keys of the rotations expire, or the bootstrap key if
// that is sooner. renewal is the run's, nil if there was none.
func (r *Run) End(rotations []rotation.Rotation, results []report.Result, renewal *report.KeyRenewal) {
	r.asking.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	bootstrap := Expiry{At: r.BootstrapExpiresAt, Notice: rotation.KeyExpiryNotice}
	if known := r.lookedUp[bootstrapKey]; known.answers {
		bootstrap.At = known.at
	}
	for i := range results {
		result := &results[i]
		if renewal != nil && renewal.ExpiresAt != nil {
			result.KeyDaysLeft, result.KeyExpiring = &renewal.DaysLeft, renewal.Expiring
		}
		r.note(result, "the bootstrap API key", bootstrap)
		if secret, ok := r.secrets[rotations[i].APIKey]; ok {
			r.note(result, "the API key", r.expiryOf(secret))
		}
		if renewal != nil && renewal.Error != nil && renewal.ExpiresAt == nil && !result.KeyExpiring {
			result.KeyDaysLeft = nil // which key expires first is not known: an alarm that fires for the bootstrap's goes on
		}
	}
}

func (r *Run) note(result *report.Result, what string, expiry Expiry) {
	if expiry.At.IsZero() {
		return
	}
	now := rotation.WallClock(r.Now).Add(r.clock.Skew())
	if left := expiry.DaysLeft(now); result.KeyDaysLeft == nil || left < *result.KeyDaysLeft {
		result.KeyDaysLeft = &left
	}
	if expiry.IsSoon(now) {
		result.KeyExpiring = true
		result.Warnings = append(result.Warnings, expiry.Warning(what, now))
	}
}

// expiryOf is the sooner of what the secret says and, of a key that a person has made, IAM.
func (r *Run) expiryOf(secret rotation.KeySecret) Expiry {
	expiry := ExpiryOf(secret)
	if at := r.lookedUp[hashOf(secret.Key)].at; !expiry.Managed && !at.IsZero() && (expiry.At.IsZero() || at.Before(expiry.At)) {
		expiry.At = at
	}
	return expiry
}
