package doctor

import (
	"context"
	"fmt"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
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

	key    KeySecret               // zero when it could not be read
	stored rotation.CurrentVersion // zero when it could not be looked at
}

// run looks at the token secret before it judges the key's identity, which the
// stored token's must equal; the checks are shown in a pass's own order.
func (v *visit) run(ctx context.Context) []report.Check {
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
	exchanged, err := try(ctx, v.limit, func(ctx context.Context) (rotation.TokenResponse, error) { return v.IAM.Exchange(ctx, v.key.Key) })
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

func (v *visit) checkLifetime(s *sheet, exchanged rotation.TokenResponse) {
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

// checkTokenSecret looks at the secret's own metadata, and then at its locks. A
// rotation needs to see neither, so a missing permission is a warning.
func (v *visit) checkTokenSecret(ctx context.Context, s *sheet) {
	secret, err := try(ctx, v.limit, func(ctx context.Context) (Secret, error) { return v.SecretsManager.Describe(ctx, v.Token.ID) })
	switch {
	case mayNot(err):
		detail, advice := explain(err)
		s.warn(tokenSecret, "its type, group and expiration date cannot be seen, which no rotation needs: "+detail, advice)
	case err != nil:
		s.failed(tokenSecret, err)
	default:
		v.judgeTokenSecret(s, secret)
	}
	v.checkLocks(ctx, s, secret.Versions)
}

func (v *visit) judgeTokenSecret(s *sheet, secret Secret) {
	switch {
	case secret.Type != "arbitrary" && secret.Type != "kv":
		s.fail(tokenSecret, "the token secret's type cannot hold a token", "name an arbitrary or kv secret in TOKEN_SECRET (or token_secret)")
	case secret.Type == "arbitrary" && v.Token.Field != "":
		s.fail(tokenSecret, "token_field is set, but the token secret is of type arbitrary", "remove token_field, or name a kv secret")
	case secret.Destroyed:
		s.fail(tokenSecret, "the token secret was destroyed: its expiration date has come", "make a new one, without an expiration date, and name it in TOKEN_SECRET (or token_secret)")
	case !secret.ExpiresAt.IsZero():
		s.fail(tokenSecret, fmt.Sprintf("it has an expiration date: on %s IBM destroys the secret for good, however fresh the token in it, "+
			"and no new version moves that date", secret.ExpiresAt.UTC().Format(time.RFC3339)),
			"make a secret without an expiration date, name it in TOKEN_SECRET (or token_secret) and move the readers to it before then")
	case secret.GroupID != "" && secret.GroupID == v.key.GroupID:
		s.warn(tokenSecret, "it is in the key secret's group: who may read the token may read the API key",
			"move one of the two to a group of its own: a group is the finest scope of a policy")
	case secret.GroupID == "" || v.key.GroupID == "":
		s.ok(tokenSecret, "seen (secret-metadata.read): of type %s, without an expiration date", secret.Type)
	default:
		s.ok(tokenSecret, "seen (secret-metadata.read): of type %s, in another group than the key, without an expiration date", secret.Type)
	}
}

// checkLocks counts the locks on the two versions that can have some. A save makes
// the current version the previous one, locks and all, and fails if the version
// that was previous until then is locked.
func (v *visit) checkLocks(ctx context.Context, s *sheet, versions int) {
	count := func(version string) (int, error) {
		return try(ctx, v.limit, func(ctx context.Context) (int, error) { return v.SecretsManager.CountLocks(ctx, v.Token.ID, version) })
	}
	current, err := count("current")
	previous := 0
	if err == nil && versions != 1 {
		previous, err = count("previous")
		if kindOf(err) == rotation.NotFound {
			err = nil // there is no previous version yet
		}
	}
	switch {
	case mayNot(err):
		detail, advice := explain(err)
		s.warn(tokenLocks, "its locks cannot be seen, which no rotation needs: "+detail, advice)
	case err != nil:
		s.failed(tokenLocks, err)
	case previous > 0:
		s.fail(tokenLocks, fmt.Sprintf("the previous version is locked (%d): the next save fails", previous), "remove the locks of the previous version")
	case current > 0:
		s.warn(tokenLocks, fmt.Sprintf("the current version is locked (%d): the next save passes and takes the lock along to previous, so the one after it fails", current),
			"remove the locks of the current version")
	default:
		s.ok(tokenLocks, "seen (secret-version-locks.list): neither the current nor the previous version is locked")
	}
}

// checkStoredToken reads what the metadata of the current version says.
func (v *visit) checkStoredToken(ctx context.Context, s *sheet) {
	stored, err := try(ctx, v.limit, func(ctx context.Context) (rotation.CurrentVersion, error) {
		return v.SecretsManager.ReadMetadata(ctx, v.Token)
	})
	if err != nil {
		s.failed(storedToken, err)
		return
	}
	v.stored = stored
	expires := stored.ExpiresAt()
	left := expires.Sub(v.now().Add(stored.ClockSkew)).Round(time.Second)
	switch {
	case expires.IsZero():
		s.warn(storedToken, "its metadata tells of no token: none was published yet, or someone has edited it", "publish one: "+v.HowToSave(v.Name))
	case left <= 0:
		s.fail(storedToken, fmt.Sprintf("it expired %s ago: readers hold a dead token", -left),
			"publish one: "+v.HowToSave(v.Name)+"; then see in the log why no run did, and whether the schedule is on")
	case left < v.MinRemaining:
		s.warn(storedToken, fmt.Sprintf("it expires in %s, less than MIN_REMAINING (%s)", left, v.MinRemaining),
			"is the ensure schedule on? It should have published a new one, or does within the minute")
	default:
		s.ok(storedToken, "seen (secret-version-metadata.read): expires in %s, fingerprint %s", left, stored.Metadata.Fingerprint)
	}
}

// checkSave tells of the one permission that only a save can show.
func (v *visit) checkSave(s *sheet) {
	s.add(save, report.CheckSkipped, "not tried: whether the bootstrap identity has secret-version.create on the token's group shows only when something is written",
		"to find out, publish a token: "+v.HowToSave(v.Name))
}

// checkMirrors looks at the copies in AWS, which are reached whatever state IBM
// Cloud is in. Whether one may be written shows only when it is.
func (v *visit) checkMirrors(ctx context.Context, s *sheet) {
	for _, arn := range v.Mirror {
		current, err := try(ctx, v.limit, func(ctx context.Context) (string, error) { return v.Mirrors.Current(ctx, arn) })
		switch {
		case err != nil:
			s.failed(mirror, err)
		case v.stored.VersionID == "":
			s.ok(mirror, "%s can be looked at; not tried: secretsmanager:PutSecretValue", arn)
		case current != v.stored.VersionID && v.stored.ExpiresAt().IsZero():
			s.ok(mirror, "%s can be looked at and waits for the first token; not tried: secretsmanager:PutSecretValue", arn)
		case current != v.stored.VersionID:
			s.warn(mirror, arn+" does not hold the stored token: its readers have an older one, or none",
				"the next run copies it: "+v.HowToSave(v.Name)+"; if it cannot, its error says why")
		default:
			s.ok(mirror, "%s holds the stored token", arn)
		}
	}
}
