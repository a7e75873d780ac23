package doctor

import (
	"context"
	"fmt"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// Names of the checks of each rotation.
const (
	keySecret     = "key-secret"
	keyIdentity   = "key-identity"
	keyExpiry     = "key-expiry"
	tokenLifetime = "token-lifetime"
	tokenSecret   = "token-secret"
	tokenLocks    = "token-locks"
	storedToken   = "stored-token"
	save          = "save"
	mirror        = "mirror"
)

// visit is the examination of one rotation.
type visit struct {
	*Doctor
	rotation.Rotation
	blockers
	bootstrap iamtoken.Token // zero when it was not to be had

	key    KeySecret       // zero when it could not be read
	stored rotation.Stored // zero when it could not be looked at
}

// run looks at the token secret before it judges the key's identity, which the
// stored token's must equal; the checks are shown in a pass's own order.
func (v *visit) run(ctx context.Context) []Check {
	key, token := &sheet{rotation: v.Name}, &sheet{rotation: v.Name}
	if v.instance != "" {
		key.notTried(v.instance, keySecret, keyIdentity, keyExpiry, tokenLifetime)
		token.notTried(v.instance, tokenSecret, tokenLocks, storedToken, save)
		v.checkMirrors(ctx, token)
		return append(key.checks, token.checks...)
	}
	if ctx.Err() != nil {
		key.fail(keySecret, "timeout: the time was up before this rotation's turn came", "give more time (-timeout, or the function's), or name some rotations only")
		key.notTried(keySecret, keyIdentity, keyExpiry, tokenLifetime, tokenSecret, tokenLocks, storedToken, save)
		return key.checks
	}
	read := v.checkKeySecret(ctx, key)
	v.checkTokenSecret(ctx, token)
	v.checkStoredToken(ctx, token)
	v.checkSave(token)
	v.checkMirrors(ctx, token)
	if !read {
		key.notTried(keySecret, keyIdentity, keyExpiry, tokenLifetime)
	} else {
		v.checkExchange(ctx, key)
	}
	return append(key.checks, token.checks...)
}

func (v *visit) checkKeySecret(ctx context.Context, s *sheet) bool {
	key, err := try(ctx, v.limit, func(ctx context.Context) (KeySecret, error) { return v.SecretsManager.ReadKeySecret(ctx, v.APIKey) })
	if err != nil {
		s.failed(keySecret, err)
		return false
	}
	v.key = key
	s.ok(keySecret, "read (secret.read): of type %s, holds one API key", key.Type)
	return true
}

// checkExchange exchanges the key and judges what came: whose, until when, how long.
func (v *visit) checkExchange(ctx context.Context, s *sheet) {
	if v.iam != "" {
		s.notTried(v.iam, keyIdentity, keyExpiry, tokenLifetime)
		return
	}
	exchanged, err := try(ctx, v.limit, func(ctx context.Context) (rotation.Exchanged, error) { return v.IAM.Exchange(ctx, v.key.Key) })
	if err != nil {
		s.failed(keyIdentity, err)
		s.notTried(keyIdentity, keyExpiry, tokenLifetime)
		return
	}
	v.checkKeyIdentity(s, exchanged.Token)
	v.checkKeyExpiry(ctx, s, exchanged.Token)
	v.checkLifetime(s, exchanged)
}

func (v *visit) checkKeyIdentity(s *sheet, token iamtoken.Token) {
	if err := v.CheckIdentity(token, v.stored.Metadata, false); err != nil {
		s.failed(keyIdentity, err)
		return
	}
	switch {
	case token.Opaque():
		s.warn(keyIdentity, "IAM takes the key, but its token does not tell whose it is", "nothing to do, if IBM's tokens are opaque now")
	case token.IAMID == v.bootstrap.IAMID:
		s.warn(keyIdentity, "the key is of the bootstrap identity itself, "+whose(token)+": whoever reads the token can read the API key with it",
			"publish the token of a service id of its own, which holds the job's permissions alone")
	case v.Expect != rotation.Expect{}:
		s.ok(keyIdentity, "IAM takes the key, which is of %s, as expected", whose(token))
	default:
		s.ok(keyIdentity, "IAM takes the key, which is of %s", whose(token))
	}
}

// checkKeyExpiry goes by the earlier of IAM's date for the key and Secrets
// Manager's for its secret.
func (v *visit) checkKeyExpiry(ctx context.Context, s *sheet, token iamtoken.Token) {
	at, err := try(ctx, v.limit, func(ctx context.Context) (time.Time, error) { return v.IAM.KeyExpiry(ctx, v.key.Key, token.Value) })
	secret := v.key.ExpiresAt
	switch {
	case !secret.IsZero() && (err != nil || at.IsZero() || secret.Before(at)):
		s.expiry(keyExpiry, "the key secret", secret, v.now(), "put a new key into a new secret before that day: IBM destroys an expired secret for good")
	case err == nil:
		s.expiry(keyExpiry, "the API key", at, v.now(), "store a new key of the same identity in the key secret; the next run takes it")
	default:
		s.skip(keyExpiry, "not known: IAM does not tell the key's owner when it expires")
	}
}

func (v *visit) checkLifetime(s *sheet, exchanged rotation.Exchanged) {
	life := exchanged.Token.ExpiresIn
	if err := rotation.CheckLife(exchanged, v.now().Add(exchanged.ClockSkew)); err != nil {
		s.failed(tokenLifetime, err)
		return
	}
	switch {
	case life <= v.MinRemaining:
		s.warn(tokenLifetime, fmt.Sprintf("tokens live %s, no longer than MIN_REMAINING (%s): every ensure run publishes a new one", life, v.MinRemaining),
			"lower MIN_REMAINING, or lengthen the account's token lifetime")
	case life < v.Interval:
		s.warn(tokenLifetime, fmt.Sprintf("tokens live %s, shorter than the schedule of %s (ROTATION_INTERVAL)", life, v.Interval),
			"keep the every-minute ensure schedule, which alone keeps one valid; or rotate more often")
	default:
		s.ok(tokenLifetime, "tokens live %s: longer than the schedule of %s and MIN_REMAINING, %s", life, v.Interval, v.MinRemaining)
	}
}
