package doctor

import (
	"cmp"
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

// examination is the checks of one rotation.
type examination struct {
	*Doctor
	rotation.Rotation
	blockers
	bootstrap iamtoken.Token // zero when it could not be obtained

	key     rotation.KeySecret    // zero when it could not be read
	current rotation.TokenVersion // zero when its metadata could not be read
	denials int                   // requests that Secrets Manager answered with 403
}

// run returns the checks in the order of a pass. It reads the token secret first, because the
// key's identity must equal the stored token's. A cause is shown as one failed check: checks
// that would fail for the same cause are not tried.
func (e *examination) run(ctx context.Context) []report.Check {
	key, token := &findings{rotation: e.Name}, &findings{rotation: e.Name}
	if blocker := e.readKey(ctx, key); blocker != "" {
		token.notTried(blocker, tokenSecret, tokenLocks, storedToken, save)
	} else {
		e.checkTokenSecret(ctx, token)
	}
	e.mergeDenials(token)
	e.checkMirrors(ctx, token)
	e.checkKey(ctx, key)
	return append(key.checks, token.checks...)
}

// mergeDenials shows one failed check if Secrets Manager denies every request of the rotation,
// which has one cause: the identity has no role, or a network rule rejects the address.
func (e *examination) mergeDenials(token *findings) {
	if e.denials < 4 { // the key, the token secret, its locks, its version
		return
	}
	for i, check := range token.checks {
		if check.Name != save {
			token.checks[i] = report.Check{Name: check.Name, Rotation: e.Name, Status: report.CheckSkipped, Detail: "denied too, as " + keySecret + " is"}
		}
	}
}

// addFailure adds a failed check for an error of Secrets Manager, and counts denials. If the
// check reads something that no rotation needs, optional names it; then a denial is a warning.
func (e *examination) addFailure(f *findings, name, optional string, err error) {
	detail, advice := explain(err)
	if lacksPermission(err) {
		e.denials++
		if optional != "" {
			f.warn(name, optional+" cannot be seen, which no rotation needs: "+detail, advice)
			return
		}
	}
	f.fail(name, detail, advice)
}

// readKey reads the key secret. blocker is the name of the failed check because of which no
// other request to Secrets Manager can succeed; "" if there is none.
func (e *examination) readKey(ctx context.Context, f *findings) (blocker string) {
	switch {
	case e.instance != "":
		f.notTried(e.instance, keySecret)
		return e.instance
	case ctx.Err() != nil:
		f.fail(keySecret, "timeout: the time was up before this rotation's turn came", "give more time (-timeout, or the function's), or name some rotations only")
		return keySecret
	}
	key, err := tryOf(ctx, e.limit, e.SecretsManager.ReadKeySecret, e.APIKey)
	if err != nil {
		e.addFailure(f, keySecret, "", err)
		if rotation.ErrorOf(err).Retry != rotation.Never { // an outage, or a token that is rejected: every request would fail
			return keySecret
		}
		return ""
	}
	e.key = key
	f.ok(keySecret, "read (secret.read): of type %s, holds one API key", key.Type)
	return ""
}

// checkKey exchanges the key, and checks the token's identity, the key's expiry and the
// lifetime of tokens.
func (e *examination) checkKey(ctx context.Context, f *findings) {
	blocker := e.iam
	if e.key.Key.IsZero() {
		blocker = cmp.Or(e.instance, keySecret)
	}
	if blocker != "" {
		f.notTried(blocker, keyIdentity, keyExpiry, tokenLifetime)
		return
	}
	response, err := tryOf(ctx, e.limit, e.IAM.Exchange, e.key.Key)
	if err != nil {
		f.failed(keyIdentity, err)
		f.notTried(keyIdentity, keyExpiry, tokenLifetime)
		return
	}
	e.checkKeyIdentity(f, response)
	e.checkKeyExpiry(ctx, f, response.Token)
	e.checkLifetime(f, response)
}

func (e *examination) checkKeyIdentity(f *findings, response rotation.TokenResponse) {
	token := response.Token
	if err := e.CheckIdentity(token, e.current, e.now(), false); err != nil {
		f.failed(keyIdentity, err)
		return
	}
	switch {
	case token.Opaque():
		f.warn(keyIdentity, "IAM accepts the key, but its token does not show its identity", "nothing to do if IBM's tokens are opaque now")
	case response.Unverified != "":
		f.warn(keyIdentity, "IAM accepts the key, which is of "+owner(token)+", but the token's signature could not be verified: "+response.Unverified,
			"nothing to do unless it persists; then does a proxy or firewall keep /identity/keys from IAM_URL?")
	case token.IAMID == e.bootstrap.IAMID:
		f.warn(keyIdentity, "the key is of the bootstrap identity itself, "+owner(token)+": whoever reads the token can read the API key with it",
			"save the token of a separate service id, which has only the job's permissions")
	case e.Expect != rotation.Expect{}:
		f.ok(keyIdentity, "IAM accepts the key, which is of %s, as expected", owner(token))
	default:
		f.ok(keyIdentity, "IAM accepts the key, which is of %s", owner(token))
	}
}

// checkKeyExpiry shows the earlier of the key's expiry at IAM and the key secret's in Secrets
// Manager.
func (e *examination) checkKeyExpiry(ctx context.Context, f *findings, token iamtoken.Token) {
	at, err := try(ctx, e.limit, func(ctx context.Context) (time.Time, error) { return e.IAM.KeyExpiry(ctx, e.key.Key, token.Value) })
	secret := e.key.ExpiresAt
	switch {
	case !secret.IsZero() && (err != nil || at.IsZero() || secret.Before(at)):
		notice, advice := keyNotice(e.key)
		f.expiry(keyExpiry, "the key secret", secret, e.now(), notice, advice)
	case err == nil:
		f.expiry(keyExpiry, "the API key", at, e.now(), rotation.KeyExpiryNotice, "store a new key of the same identity in the key secret; the next run uses it")
	default:
		f.skip(keyExpiry, "not known: IAM does not show the key's owner when it expires")
	}
}

func (e *examination) checkLifetime(f *findings, response rotation.TokenResponse) {
	lifetime := response.Token.ExpiresIn
	capped := rotation.Threshold(e.MinRemaining, lifetime)
	if err := rotation.CheckLifetime(response, e.now().Add(response.Clock.Skew())); err != nil {
		f.failed(tokenLifetime, err)
		return
	}
	switch {
	case capped < e.MinRemaining:
		f.warn(tokenLifetime, fmt.Sprintf("the lifetime of tokens is %s, too short for MIN_REMAINING (%s): %s counts instead", lifetime, e.MinRemaining, capped),
			fmt.Sprintf("set MIN_REMAINING to %s or less, or lengthen the account's token lifetime if it is less than an hour", capped))
	case lifetime < e.Interval:
		f.warn(tokenLifetime, fmt.Sprintf("the lifetime of tokens is %s, shorter than the schedule of %s (ROTATION_INTERVAL)", lifetime, e.Interval),
			"keep the ensure schedule of every minute, without which no token stays valid, or rotate more often")
	default:
		f.ok(tokenLifetime, "the lifetime of tokens is %s: longer than the schedule of %s and MIN_REMAINING, %s", lifetime, e.Interval, e.MinRemaining)
	}
}

// checkTokenSecret checks the secret's own metadata, its locks and its current version. A
// rotation reads only the last, so a missing permission for the others is a warning.
func (e *examination) checkTokenSecret(ctx context.Context, f *findings) {
	secret, err := tryOf(ctx, e.limit, e.SecretsManager.Describe, e.Token.ID)
	usable := lacksPermission(err)
	if err != nil {
		e.addFailure(f, tokenSecret, "its type, group and expiration date", err)
	} else {
		usable = e.checkDescription(f, secret)
	}
	if !usable {
		f.notTried(tokenSecret, tokenLocks, storedToken, save)
		return
	}
	e.checkLocks(ctx, f, secret.Versions)
	e.checkStoredToken(ctx, f)
	advice := "to find out, save a token: " + e.HowToRun(e.Name, false)
	if f.checks[len(f.checks)-1].Status == report.CheckOK {
		advice = "" // a save has worked lately
	}
	f.add(save, report.CheckSkipped, "not tried: whether the bootstrap identity has secret-version.create on the token's group shows only when something is written", advice)
}

// checkDescription checks the secret's metadata, and reports whether a token can be saved now.
func (e *examination) checkDescription(f *findings, secret rotation.SecretDescription) bool {
	switch {
	case secret.Type == "arbitrary" && e.Token.Field != "":
		f.fail(tokenSecret, "token_field is set, but the token secret is of type arbitrary", "remove token_field, or name a kv secret")
		return false
	case secret.Destroyed:
		f.fail(tokenSecret, "the token secret was destroyed: its expiration date has come", "make a new one, without an expiration date, and name it in TOKEN_SECRET (or token_secret)")
		return false
	case !secret.ExpiresAt.IsZero():
		f.fail(tokenSecret, fmt.Sprintf("it has an expiration date: on %s IBM destroys the secret for good, however fresh the token in it, "+
			"and no new version moves that date", secret.ExpiresAt.UTC().Format(time.RFC3339)),
			"make a secret without an expiration date, name it in TOKEN_SECRET (or token_secret) and move the readers to it before then")
	case secret.GroupID != "" && secret.GroupID == e.key.GroupID:
		f.warn(tokenSecret, "it is in the key secret's group: who may read the token may read the API key",
			"move one of the two to its own group: a group is the finest scope of a policy")
	case secret.GroupID == "" || e.key.GroupID == "":
		f.ok(tokenSecret, "seen (secret-metadata.read): of type %s, without an expiration date", secret.Type)
	default:
		f.ok(tokenSecret, "seen (secret-metadata.read): of type %s, in another group than the key, without an expiration date", secret.Type)
	}
	return true
}

// checkLocks counts the locks of the current and the previous version. A save makes the current
// version the previous one, with its locks. It fails if the version that has been previous is
// locked.
func (e *examination) checkLocks(ctx context.Context, f *findings, versions int) {
	count := func(version string) (int, error) {
		return try(ctx, e.limit, func(ctx context.Context) (int, error) { return e.SecretsManager.CountLocks(ctx, e.Token.ID, version) })
	}
	current, err := count("current")
	previous := 0
	if err == nil && versions != 1 {
		previous, err = count("previous")
		if rotation.ErrorOf(err).Kind == rotation.NotFound {
			err = nil // there is no previous version yet
		}
	}
	switch {
	case err != nil:
		e.addFailure(f, tokenLocks, "its locks", err)
	case previous > 0:
		f.fail(tokenLocks, fmt.Sprintf("the previous version is locked (%d): the next save fails", previous), "remove the locks of the previous version")
	case current > 0:
		f.warn(tokenLocks, fmt.Sprintf("the current version is locked (%d): the next save passes and moves the lock to previous, so the one after it fails", current),
			"remove the locks of the current version")
	default:
		f.ok(tokenLocks, "seen (secret-version-locks.list): neither the current nor the previous version is locked")
	}
}

// checkStoredToken reads the metadata of the current version.
func (e *examination) checkStoredToken(ctx context.Context, f *findings) {
	current, err := tryOf(ctx, e.limit, e.SecretsManager.ReadMetadata, e.Token)
	if err != nil {
		e.addFailure(f, storedToken, "", err)
		return
	}
	e.current = current
	if err := e.CheckOwn(current, e.HowToRun); err != nil {
		f.failed(storedToken, err)
		return
	}
	expires := current.ExpiresAt()
	remaining := current.Remaining(e.now().Add(current.Clock.Skew())).Round(time.Second)
	switch {
	case expires.IsZero():
		f.warn(storedToken, "its metadata describes no token: none was saved yet, or someone has edited it", "save one: "+e.HowToRun(e.Name, false))
	case remaining <= 0:
		f.fail(storedToken, "readers have a token that "+report.Expiry(expires, remaining),
			"save one: "+e.HowToRun(e.Name, false)+"; then see in the log why no run did, and whether the schedule is on")
	case !current.InOrder(e.now().Add(current.Clock.Skew()), e.MinRemaining):
		f.warn(storedToken, fmt.Sprintf("it expires in %s, less than %s", remaining, e.minRemaining(current.Threshold(e.MinRemaining))),
			"is the ensure schedule on? It should have saved a new one, or does within the minute")
	default:
		f.ok(storedToken, "seen (secret-version-metadata.read): expires in %s, fingerprint %s", remaining, current.Metadata.Fingerprint)
	}
}

// minRemaining names the limit below which a token is replaced: MIN_REMAINING, or less if the
// token's lifetime is too short for that.
func (e *examination) minRemaining(threshold time.Duration) string {
	if allowed := threshold.Round(time.Minute); allowed < e.MinRemaining {
		return fmt.Sprintf("the %s that its lifetime allows of MIN_REMAINING (%s)", allowed, e.MinRemaining)
	}
	return fmt.Sprintf("MIN_REMAINING (%s)", e.MinRemaining)
}

// checkMirrors reads the state of the mirrors in AWS, even if IBM Cloud is unreachable. Whether
// the function may write to them shows only in a write.
func (e *examination) checkMirrors(ctx context.Context, f *findings) {
	for _, arn := range e.Mirror {
		if ctx.Err() != nil {
			f.skip(mirror, arn+" was not tried: the time was up")
			continue
		}
		now := e.now().Add(e.current.Clock.Skew())
		state, err := try(ctx, e.limit, func(ctx context.Context) (rotation.MirrorState, error) {
			if e.current.VersionID == "" { // there is no version to compare with
				_, err := e.Mirrors.Describe(ctx, arn)
				return rotation.MirrorState{}, err
			}
			reader := rotation.MirrorReader{Mirrors: e.Mirrors, Versions: e.SecretsManager, Token: e.Token, MinRemaining: e.MinRemaining}
			return reader.Read(ctx, arn, e.current, now)
		})
		switch {
		case err != nil:
			f.failed(mirror, err)
		case e.current.VersionID == "":
			f.ok(mirror, "%s can be seen; not tried: %s", arn, writePermission(arn))
		default:
			e.checkMirror(f, arn, state, now)
		}
	}
}

// writePermission is the permission that a write to a mirror needs.
func writePermission(arn string) string {
	if rotation.IsParameter(arn) {
		return "ssm:PutParameter"
	}
	return "secretsmanager:PutSecretValue"
}

func (e *examination) checkMirror(f *findings, arn string, state rotation.MirrorState, now time.Time) {
	expires, remaining, lifetime := state.Version.ExpiresAt(), state.Version.Remaining(now).Round(time.Second), e.current.Lifetime()
	advice := "see in the log what the step mirror says; to save a token in both: " + e.HowToRun(e.Name, false)
	switch wait := state.Wait(now).Round(time.Second); {
	case wait > 0:
		f.warn(mirror, fmt.Sprintf("%s has a token that %s; another may be put in %s: AWS's quota of versions allows one in %s",
			arn, report.Expiry(expires, remaining), wait, rotation.PutInterval), "lengthen the account's token lifetime to 30 minutes or more")
	case !state.InOrder && e.current.ExpiresAt().IsZero():
		f.ok(mirror, "%s can be seen and waits for the first token; not tried: %s", arn, writePermission(arn))
	case expires.IsZero():
		f.warn(mirror, arn+" does not hold a token that this function has put there", advice)
	case remaining <= 0:
		f.fail(mirror, "readers of "+arn+" have a token that "+report.Expiry(expires, remaining), advice)
	case !state.InOrder:
		f.warn(mirror, fmt.Sprintf("%s has a token that expires in %s, less than %s", arn, remaining, e.minRemaining(state.Version.Threshold(e.MinRemaining))), advice)
	case lifetime < rotation.MirrorLifetime && !rotation.IsParameter(arn):
		f.warn(mirror, fmt.Sprintf("%s has a token that expires in %s, but tokens of %s are too short for a mirror: AWS's quota of versions allows one put in %s",
			arn, remaining, lifetime, rotation.PutInterval), "lengthen the account's token lifetime to 30 minutes or more, or name a parameter in mirror: neither it nor IBM's secret has such a limit")
	case state.Version.VersionID == e.current.VersionID:
		f.ok(mirror, "%s holds the stored token", arn)
	default:
		f.ok(mirror, "%s holds an earlier token that expires in %s", arn, remaining)
	}
}
