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
	At      time.Time     // zero if the key never expires, or nobody says when
	Notice  time.Duration // how long before At it is a warning
	Managed bool          // Secrets Manager renews the key
}

const day = 24 * time.Hour

// ExpiryOf is when the key of a secret expires. The warning of a managed key begins three days
// after IBM should have rotated it, or halfway from that day to its end if that is sooner (for
// example 12 hours, with keys of 2 days rotated every day); of any other, two weeks before its end.
func ExpiryOf(secret rotation.KeySecret) Expiry {
	expiry := Expiry{At: secret.ExpiresAt, Notice: rotation.KeyExpiryNotice}
	if left := secret.TTL - secret.Interval; secret.Interval > 0 && left > 0 {
		expiry.Notice, expiry.Managed = max(left-3*day, left/2), true
	}
	return expiry
}

// IsSoon reports whether the warning has begun at now.
func (e Expiry) IsSoon(now time.Time) bool { return !e.At.IsZero() && e.At.Sub(now) < e.Notice }

// DaysLeft is the key's remaining lifetime at now; negative if it has expired.
func (e Expiry) DaysLeft(now time.Time) float64 { return e.At.Sub(now).Hours() / 24 }

// Warning says when a key, for example "the API key", expires, and what to do.
func (e Expiry) Warning(key string, now time.Time) string {
	state, advice := "expires", "replace it"
	if !now.Before(e.At) {
		state = "has been expired since"
	}
	if e.Managed {
		advice = "IBM's Secrets Manager should have rotated it: see its rotation rule, its locks and the authorization for IAM"
	}
	return fmt.Sprintf("%s %s %s: %s", key, state, e.At.UTC().Format(time.RFC3339), advice)
}

// Watch knows when the keys that runs use expire. The secrets, which the runs read anyway, say
// so; about a key that a person has made it also asks IAM, once a day. Its fields must not
// change while it is used.
type Watch struct {
	Keys      KeySecrets
	IAM       IAM
	Bootstrap KeyExpirer // nil if the bootstrap identity has no API key, or a managed one
	// BootstrapExpiresAt is used if IAM does not say it; zero when it is not known.
	BootstrapExpiresAt time.Time
	// Since is when IAM may be asked first: the run that a process is started for must not wait.
	Since time.Time
	Now   func() time.Time // if nil, time.Now

	mu       sync.Mutex
	lookedUp map[keyHash]expiryAnswer
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

// keyHash identifies a key, so that the key itself is not kept.
type keyHash [sha256.Size]byte

// bootstrapKey identifies the bootstrap key, which is not known here.
var bootstrapKey = keyHash{}

func hashOf(key iamtoken.Secret) keyHash { return sha256.Sum256([]byte(key.Reveal())) }

// expiryAnswer is what IAM says of a key.
type expiryAnswer struct {
	asked   time.Time // zero: not yet
	known   bool      // IAM has said when the key expires
	expires time.Time // zero: never, or it is not known
}

const (
	lookUpInterval = day
	lookUpLimit    = 5 * time.Second // of one
	maxLookUps     = 8               // in a run; the next run asks about further keys
)

// Run reads and exchanges the keys for one run, and notes when they expire. It keeps the keys
// until the run ends, and no token.
type Run struct {
	*Watch // whose lock also guards the fields below
	rotation.Exchanger
	ctx    context.Context // of the look-ups
	asking sync.WaitGroup  // the look-ups under way, in parallel with the run

	secrets map[rotation.KeyRef]rotation.KeySecret
	managed map[keyHash]bool
	asked   int            // look-ups begun
	clock   rotation.Clock // IBM's, by the last key that was read
}

// Begin begins a run; the caller must call End. Nothing is looked up after ctx has ended.
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

// Exchange implements rotation.Exchanger. It also looks up the key and the bootstrap key, if a
// person has made them and a day has passed.
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

// lookUp asks IAM in the background, once a day for all rotations with the same key, also where
// IAM has not answered. Until the next answer the last one is used.
func (r *Run) lookUp(key keyHash, request func(context.Context) (time.Time, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, now := r.lookedUp[key], rotation.WallClock(r.Now)
	if r.ctx.Err() != nil || r.managed[key] || r.asked == maxLookUps || now.Before(r.Since) || now.Sub(last.asked) < lookUpInterval {
		return
	}
	r.asked++
	last.asked = now
	if r.lookedUp == nil {
		r.lookedUp = map[keyHash]expiryAnswer{}
	}
	r.lookedUp[key] = last
	r.asking.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, lookUpLimit)
		defer cancel()
		if at, err := request(ctx); err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lookedUp[key] = expiryAnswer{now, true, at}
		}
	})
}

// End states in each result when the rotation's key expires, or the bootstrap key if that is
// sooner. renewal is the run's, nil if there was none.
func (r *Run) End(rotations []rotation.Rotation, results []report.Result, renewal *report.KeyRenewal) {
	r.asking.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	bootstrap := Expiry{At: r.BootstrapExpiresAt, Notice: rotation.KeyExpiryNotice}
	if last := r.lookedUp[bootstrapKey]; last.known {
		bootstrap.At = last.expires
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
			result.KeyDaysLeft = nil // the bootstrap key may expire sooner: without a value, an alarm that fires for it goes on
		}
	}
}

// note states in the result when a key, for example "the API key", expires.
func (r *Run) note(result *report.Result, key string, expiry Expiry) {
	if expiry.At.IsZero() {
		return
	}
	now := rotation.WallClock(r.Now).Add(r.clock.Skew())
	if left := expiry.DaysLeft(now); result.KeyDaysLeft == nil || left < *result.KeyDaysLeft {
		result.KeyDaysLeft = &left
	}
	if expiry.IsSoon(now) {
		result.KeyExpiring = true
		result.Warnings = append(result.Warnings, expiry.Warning(key, now))
	}
}

// expiryOf is when the key expires by its secret or, if a person has made it, by IAM: the sooner.
func (r *Run) expiryOf(secret rotation.KeySecret) Expiry {
	expiry := ExpiryOf(secret)
	if at := r.lookedUp[hashOf(secret.Key)].expires; !expiry.Managed && !at.IsZero() && (expiry.At.IsZero() || at.Before(expiry.At)) {
		expiry.At = at
	}
	return expiry
}
