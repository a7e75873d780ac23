package doctor

import (
	"context"
	"fmt"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

// Bootstrap is how Secrets Manager is opened.
type Bootstrap struct {
	Variable  string                      // that names the way in: "SECRETS_MANAGER_APIKEY"
	ReadKey   func(context.Context) error // reads the key from where it is kept; nil when the variable holds it
	Identity  Identity
	HasKey    bool      // an API key, rather than a profile or a token
	NoIAM     bool      // a token at hand, for which IAM is not asked
	ExpiresAt time.Time // BOOTSTRAP_EXPIRES_AT, zero when not set
}

// Names of the checks of the bootstrap identity.
const (
	bootstrapKey       = "bootstrap-key"
	bootstrapIdentity  = "bootstrap-identity"
	bootstrapKeyExpiry = "bootstrap-key-expiry"
)

// checkBootstrap returns the identity's token, and the name of the check whose
// failure leaves Secrets Manager closed.
func (d *Doctor) checkBootstrap(ctx context.Context, s *sheet, iamBlocker string) (token iamtoken.Token, blocker string) {
	if d.Bootstrap.ReadKey != nil {
		_, err := try(ctx, d.limit, func(ctx context.Context) (any, error) { return nil, d.Bootstrap.ReadKey(ctx) })
		if err != nil {
			s.failed(bootstrapKey, err)
			s.notTried(bootstrapKey, bootstrapIdentity)
			d.checkBootstrapExpiry(ctx, s, bootstrapKey)
			return token, bootstrapKey
		}
		s.ok(bootstrapKey, "the secret that %s names holds one API key", d.Bootstrap.Variable)
	}
	if iamBlocker != "" && !d.Bootstrap.NoIAM {
		s.notTried(iamBlocker, bootstrapIdentity)
		d.checkBootstrapExpiry(ctx, s, iamBlocker)
		return token, iamBlocker
	}
	token, err := try(ctx, d.limit, d.Bootstrap.Identity.Identify)
	if err != nil {
		s.failed(bootstrapIdentity, err)
		d.checkBootstrapExpiry(ctx, s, bootstrapIdentity)
		return token, bootstrapIdentity
	}
	switch {
	case token.Opaque():
		s.warn(bootstrapIdentity, d.Bootstrap.Variable+" is accepted, but its token does not tell whose it is", "nothing to do, if IBM's tokens are opaque now")
	case d.Bootstrap.NoIAM:
		s.warn(bootstrapIdentity, d.Bootstrap.Variable+" is of "+whose(token)+": what follows is what that identity may do, not the function's own",
			"to try the function's, unset "+d.Bootstrap.Variable+" and set the variables that the function has")
	default:
		s.ok(bootstrapIdentity, "%s is of %s", d.Bootstrap.Variable, whose(token))
	}
	d.checkBootstrapExpiry(ctx, s, "")
	return token, ""
}

// checkBootstrapExpiry asks IAM, unless a failed check is in the way, and holds
// its answer against what the configuration says.
func (d *Doctor) checkBootstrapExpiry(ctx context.Context, s *sheet, blocker string) {
	set := d.Bootstrap.ExpiresAt
	if !d.Bootstrap.HasKey && set.IsZero() {
		return // a profile or a person's token: there is no key
	}
	var told time.Time
	known := false
	if blocker == "" && d.Bootstrap.HasKey {
		at, err := try(ctx, d.limit, d.Bootstrap.Identity.KeyExpiry)
		told, known = at, err == nil
	}
	switch {
	case known && !set.IsZero() && !sameDay(told, set):
		s.warn(bootstrapKeyExpiry, fmt.Sprintf("BOOTSTRAP_EXPIRES_AT says %s, but IAM says that the key %s", day(set), until(told)),
			"correct BOOTSTRAP_EXPIRES_AT: the warnings of every run go by it")
	case known:
		s.expiry(bootstrapKeyExpiry, "the bootstrap API key", told, d.now(), "replace it; BOOTSTRAP_EXPIRES_AT makes every run warn 14 days before")
	case !set.IsZero():
		s.expiry(bootstrapKeyExpiry, "the bootstrap API key, by BOOTSTRAP_EXPIRES_AT,", set, d.now(), "replace the key, then BOOTSTRAP_EXPIRES_AT")
	case blocker != "":
		s.notTried(blocker, bootstrapKeyExpiry)
	default:
		s.add(bootstrapKeyExpiry, Skipped, "not known: IAM does not tell this identity when its key expires",
			"set BOOTSTRAP_EXPIRES_AT, and every run warns 14 days before")
	}
}

// expiry judges when something expires; the zero time means never.
func (s *sheet) expiry(name, what string, at, now time.Time, advice string) {
	switch left := at.Sub(now); {
	case at.IsZero():
		s.ok(name, "%s does not expire", what)
	case left <= 0:
		s.warn(name, fmt.Sprintf("%s has expired, on %s", what, day(at)), advice)
	case left < keyExpiryNotice:
		s.warn(name, fmt.Sprintf("%s expires in %d days, on %s", what, int(left.Hours()/24), day(at)), advice)
	default:
		s.ok(name, "%s expires on %s", what, day(at))
	}
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func until(t time.Time) string {
	if t.IsZero() {
		return "does not expire"
	}
	return "expires on " + day(t)
}

// sameDay allows for a configuration that names the day alone.
func sameDay(a, b time.Time) bool {
	return !a.IsZero() && a.Sub(b).Abs() <= 24*time.Hour
}
