package doctor

import (
	"context"
	"fmt"
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

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
	stored, err := try(ctx, v.limit, func(ctx context.Context) (rotation.Stored, error) { return v.SecretsManager.Look(ctx, v.Token) })
	if err != nil {
		s.failed(storedToken, err)
		return
	}
	v.stored = stored
	expires := stored.ExpiresAt()
	left := expires.Sub(v.now().Add(stored.ClockSkew)).Round(time.Second)
	switch {
	case expires.IsZero():
		s.warn(storedToken, "its metadata tells of no token: none was published yet, or someone has edited it", "publish one: bootstrap -rotation "+v.Name)
	case left <= 0:
		s.fail(storedToken, fmt.Sprintf("it expired %s ago: readers hold a dead token", -left),
			"publish one: bootstrap -rotation "+v.Name+"; then see in the log why no run did, and whether the schedule is on")
	case left < v.MinRemaining:
		s.warn(storedToken, fmt.Sprintf("it expires in %s, less than MIN_REMAINING (%s)", left, v.MinRemaining),
			"is the ensure schedule on? It should have published a new one, or does within the minute")
	default:
		s.ok(storedToken, "seen (secret-version-metadata.read): expires in %s, fingerprint %s", left, stored.Metadata.Fingerprint)
	}
}

// checkSave tells of the one permission that only a save can show.
func (v *visit) checkSave(s *sheet) {
	s.add(save, Skipped, "not tried: whether the bootstrap identity has secret-version.create on the token's group shows only when something is written",
		"to find out, publish a token: bootstrap -rotation "+v.Name)
}
