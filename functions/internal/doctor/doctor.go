// Package doctor finds out why a token is not kept fresh, or will soon not be: it
// checks every thing that a rotation relies on, in the order in which one rests
// on the other, and says what to do about what is wrong.
//
// It writes nothing. What cannot be tried without writing is said, not guessed.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

const (
	// checkLimit is the longest that one request or connection may take.
	checkLimit = 10 * time.Second
	// defaultTimeout is the time for a run whose context has no deadline.
	defaultTimeout = 2 * time.Minute
	// maxReserve is kept of the deadline for the answer.
	maxReserve = 5 * time.Second
	// maxClockSkew is how far the clock may be off before it is a warning.
	maxClockSkew = 30 * time.Second
	// keyExpiryNotice is how long before a key expires it is a warning.
	keyExpiryNotice = 14 * 24 * time.Hour
)

// Doctor checks what rotations rely on. Every check is tried once: a failure
// that a rotation would outlive by trying again is shown all the same.
type Doctor struct {
	Configuration  string // what the configuration comes to, in a few words
	IAMHost        Host
	InstanceHost   Host
	Network        Network
	HTTP           http.RoundTripper // that the function's own requests take
	Bootstrap      Bootstrap
	IAM            IAM
	SecretsManager SecretsManager
	Mirrors        Mirrors // if nil, no rotation may have one

	HowToSave func(rotation string) string // says how a person starts a run of one rotation

	MinRemaining time.Duration
	Interval     time.Duration    // the rotate schedule's
	Concurrency  int              // rotations at a time; 0 means 1
	Now          func() time.Time // if nil, time.Now

	limit time.Duration // of one request, in a run
}

// Run checks what all rotations share, and then each of them. It stays inside
// ctx's deadline (2 minutes if there is none) less a reserve of 5 seconds, or of
// a tenth of a shorter deadline; what had no time by then has failed.
func (d *Doctor) Run(ctx context.Context, rotations []rotation.Rotation) report.Diagnosis {
	budget := budgetOf(ctx)
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	run := *d
	run.limit = min(checkLimit, budget/4) // so that one that hangs leaves time for the others
	return run.examine(ctx, rotations)
}

func (d *Doctor) examine(ctx context.Context, rotations []rotation.Rotation) report.Diagnosis {
	shared := &sheet{}
	shared.ok("configuration", "%s", d.Configuration)
	blockers := d.reachHosts(ctx, shared)
	bootstrap, blocker := d.checkBootstrap(ctx, shared, blockers.iam)
	blockers.instance = cmp.Or(blockers.instance, blocker)

	sheets := make([][]report.Check, len(rotations))
	slots := make(chan struct{}, max(1, d.Concurrency))
	var all sync.WaitGroup
	for i, r := range rotations {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			v := visit{Doctor: d, Rotation: r, blockers: blockers, bootstrap: bootstrap}
			sheets[i] = v.run(ctx)
		})
	}
	all.Wait()
	checks := shared.checks
	for _, more := range sheets {
		checks = append(checks, more...)
	}
	return report.NewDiagnosis(checks)
}

func budgetOf(ctx context.Context) time.Duration {
	timeout := defaultTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	return timeout - min(maxReserve, timeout/10)
}

// blockers name the check, if any, whose failure leaves a service out of reach.
type blockers struct{ iam, instance string }

// reachHosts checks the way to both hosts side by side.
func (d *Doctor) reachHosts(ctx context.Context, shared *sheet) blockers {
	var found blockers
	iam, instance := &sheet{}, &sheet{}
	var both sync.WaitGroup
	both.Go(func() { found.iam = d.reach(ctx, iam, d.IAMHost) })
	both.Go(func() { found.instance = d.reach(ctx, instance, d.InstanceHost) })
	both.Wait()
	shared.checks = append(append(shared.checks, iam.checks...), instance.checks...)
	return found
}

func (d *Doctor) now() time.Time {
	if d.Now == nil {
		return time.Now().Round(0)
	}
	return d.Now().Round(0)
}

// try gives one request its time.
func try[T any](ctx context.Context, limit time.Duration, request func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return request(ctx)
}

// whose names a token's owner.
func whose(token iamtoken.Token) string {
	if token.Opaque() {
		return "an identity that the token does not tell"
	}
	return token.IAMID + " of account " + token.Account
}

// Misconfigured is the diagnosis of a configuration that cannot be used: one
// failed check for each fault that err joins, and nothing tried beyond.
func Misconfigured(err error) report.Diagnosis {
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	var s sheet
	for _, fault := range faults {
		s.fail("configuration", fault.Error(), "correct this setting")
	}
	s.skip("everything else", "the configuration comes first")
	return report.NewDiagnosis(s.checks)
}

// sheet collects the checks of one rotation, or of what all share.
type sheet struct {
	rotation string
	checks   []report.Check
}

func (s *sheet) add(name string, status report.Status, detail, advice string) {
	s.checks = append(s.checks, report.Check{Name: name, Rotation: s.rotation, Status: status, Detail: detail, Advice: advice})
}

func (s *sheet) ok(name, format string, args ...any) {
	s.add(name, report.CheckOK, fmt.Sprintf(format, args...), "")
}

func (s *sheet) warn(name, detail, advice string) { s.add(name, report.CheckWarning, detail, advice) }

func (s *sheet) fail(name, detail, advice string) { s.add(name, report.CheckFailed, detail, advice) }

func (s *sheet) skip(name, why string) { s.add(name, report.CheckSkipped, why, "") }

// notTried skips checks that rest on another one.
func (s *sheet) notTried(blocker string, names ...string) {
	for _, name := range names {
		s.skip(name, "not tried: "+blocker+" failed")
	}
}

// failed is for an error of the adapters.
func (s *sheet) failed(name string, err error) {
	detail, advice := explain(err)
	s.fail(name, detail, advice)
}

// explain splits an error into what was found and what to do.
func explain(err error) (detail, advice string) {
	var failure *rotation.Error
	if !errors.As(err, &failure) {
		return fmt.Sprintf("unexpected failure of type %T", err), "run doctor again"
	}
	finding := failure.Message
	if failure.Advice != "" {
		finding = strings.TrimSuffix(finding, ": "+failure.Advice)
	}
	return string(failure.Kind) + ": " + finding, cmp.Or(failure.Advice, adviceFor[failure.Kind])
}

// adviceFor is what to do about a failure whose message holds its advice itself,
// or that has none but to try again.
var adviceFor = map[rotation.Kind]string{
	rotation.Misconfigured: "correct what is named here, and run doctor again",
	rotation.Denied:        "see whose permission is missing, and run doctor again; a new policy takes minutes",
	rotation.NotFound:      "check the id or the name",
	rotation.Locked:        "remove the locks",
	rotation.RateLimited:   "run doctor again in a minute",
	rotation.Unavailable:   "run doctor again; if it stays, see the checks of the host and the service's status page",
	rotation.InvalidToken:  "does the URL name the service itself, or something in its place? The stored token stays as it is",
	rotation.Timeout:       "run doctor again; is there a slow proxy or firewall on the way to the host?",
}

// mayNot reports whether the identity lacks a permission; that its token is not
// taken at all is another matter, which may pass.
func mayNot(err error) bool {
	var failure *rotation.Error
	return errors.As(err, &failure) && failure.Kind == rotation.Denied && failure.Retry == rotation.Never
}

func kindOf(err error) rotation.Kind {
	var failure *rotation.Error
	if errors.As(err, &failure) {
		return failure.Kind
	}
	return ""
}

// The methods of these interfaces return *rotation.Error. None of them writes.

// Identity is the bootstrap identity.
type Identity interface {
	// Identify authenticates and returns the token; its identity is empty when
	// the token does not tell it.
	Identify(ctx context.Context) (iamtoken.Token, error)
	// KeyExpiry asks IAM when the identity's own key expires; the zero time
	// means never.
	KeyExpiry(ctx context.Context) (time.Time, error)
}

// IAM exchanges keys, and tells about them.
type IAM interface {
	rotation.Exchanger
	// KeyExpiry asks when key expires, with a token of its owner; the zero time
	// means never.
	KeyExpiry(ctx context.Context, key, token iamtoken.Secret) (time.Time, error)
}

// SecretsManager is the instance, opened by the bootstrap identity.
type SecretsManager interface {
	// ReadKeySecret reads an API key and what is told of its secret beside it.
	ReadKeySecret(ctx context.Context, ref rotation.KeyRef) (KeySecret, error)
	// ReadMetadata returns what is known of the stored token without its value.
	ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.CurrentVersion, error)
	// Describe returns a secret's metadata, never its value.
	Describe(ctx context.Context, id string) (Secret, error)
	// CountLocks counts the locks of a version: "current" or "previous".
	CountLocks(ctx context.Context, id, version string) (int, error)
}

// Mirrors are the copies of the tokens in AWS.
type Mirrors interface {
	// Current returns the id of the version that a copy holds, empty when it
	// holds none.
	Current(ctx context.Context, secretARN string) (versionID string, err error)
}

// Secret is what Secrets Manager tells of a secret beside its value.
type Secret struct {
	Type      string // "arbitrary", "kv", …; empty for a type that this project has no use for
	GroupID   string
	Destroyed bool
	ExpiresAt time.Time // zero when it has no expiration date
	Versions  int       // 0 when it was not told
}

// KeySecret is a secret with the API key in it.
type KeySecret struct {
	Secret
	Key iamtoken.Secret
}

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
		s.add(bootstrapKeyExpiry, report.CheckSkipped, "not known: IAM does not tell this identity when its key expires",
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
