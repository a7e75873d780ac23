package doctor

import (
	"context"
	"fmt"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/keyrenewal"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// Names of the checks of a renewed bootstrap key.
const (
	managedKey      = "managed-key"
	managedKeyLocks = "managed-key-locks"
	managedKeyCopy  = "managed-key-copy"
)

// minOverlap is how long at least a new key and the one before it should both be valid: in
// that time the function must store the new one.
const minOverlap = 3 * 24 * time.Hour

// checkRenewal checks the secret in which IBM renews the bootstrap key, and whether stored,
// the key in AWS, is its current key.
func (d *Doctor) checkRenewal(ctx context.Context, f *findings, blocker string, stored iamtoken.Secret) {
	if blocker != "" {
		f.notTried(blocker, managedKey, managedKeyLocks, managedKeyCopy)
		return
	}
	secret, err := tryOf(ctx, d.limit, d.SecretsManager.InspectManagedKey, d.ManagedKey)
	if err != nil {
		f.failed(managedKey, err)
		f.notTried(managedKey, managedKeyLocks, managedKeyCopy)
		return
	}
	d.checkRule(f, secret)
	if secret.Locks > 0 {
		f.warn(managedKeyLocks, fmt.Sprintf("the secret of BOOTSTRAP_KEY_SECRET has locks (%d): IBM does not rotate it while its previous version is locked", secret.Locks), "remove its locks")
	} else {
		f.ok(managedKeyLocks, "no version of the secret of BOOTSTRAP_KEY_SECRET is locked")
	}
	if stored.Reveal() != secret.Key.Reveal() {
		f.warn(managedKeyCopy, "the secret that "+d.Bootstrap.Variable+" names does not hold IBM's current key, "+secret.KeyID,
			"the next run stores it; if it cannot, key_renewal in its report says why")
	} else {
		f.ok(managedKeyCopy, "the secret that %s names holds IBM's current key, %s", d.Bootstrap.Variable, secret.KeyID)
	}
}

// checkRule checks that IBM makes the next key in time.
func (d *Doctor) checkRule(f *findings, secret rotation.KeySecret) {
	now := d.now().Add(secret.Clock.Skew())
	switch expiry, overlap := keyrenewal.ExpiryOf(secret), secret.TTL-secret.Interval; {
	case secret.Interval == 0:
		f.warn(managedKey, "the secret of BOOTSTRAP_KEY_SECRET is not rotated automatically: its key expires on "+day(secret.ExpiresAt), "give it a rotation rule, for example every 15 days with a ttl of 45 days")
	case secret.TTL > 0 && overlap < minOverlap:
		f.warn(managedKey, fmt.Sprintf("its keys last %s and are rotated every %s: too little time to store a new one", report.Count(days(secret.TTL), "day"), report.Count(days(secret.Interval), "day")),
			"rotate for example every 15 days, with a ttl of 45 days")
	case expiry.IsSoon(now):
		f.warn(managedKey, expiry.Warning("the managed bootstrap key", now), "then rotate it once by hand")
	default:
		f.ok(managedKey, "read (secret.read): IBM makes a key every %s, the next on %s; the current one expires on %s",
			report.Count(days(secret.Interval), "day"), day(secret.NextRotation), day(secret.ExpiresAt))
	}
}

func days(d time.Duration) int { return int(d / (24 * time.Hour)) }

// keyNotice returns how long before a key's expiry there is a warning, and its advice.
func keyNotice(secret rotation.KeySecret) (time.Duration, string) {
	if expiry := keyrenewal.ExpiryOf(secret); expiry.Managed {
		return expiry.Notice, "IBM's Secrets Manager should have rotated it: see its rotation rule, its locks and the authorization for IAM"
	}
	return rotation.KeyExpiryNotice, "put a new key into a new secret before that day: IBM destroys an expired secret for good"
}
