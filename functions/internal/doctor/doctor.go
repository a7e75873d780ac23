// Package doctor finds out why rotations fail, or will fail soon. It checks everything that a
// rotation relies on, each thing after those that it depends on, and says how to correct what
// is wrong.
//
// It writes nothing. What shows only in a write is reported as not tried.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// Doctor checks what rotations rely on. It tries every check once, so it also shows failures
// that a rotation would overcome by a retry.
type Doctor struct {
	Configuration     string // the configuration in a few words
	IAMURL            string // an origin, without a path
	SecretsManagerURL string
	HTTP              *http.Transport // for the requests that check a host; if nil, network.Plain
	Bootstrap         BootstrapIdentity
	ManagedKey        rotation.KeyRef // the secret of BOOTSTRAP_KEY_SECRET; zero if nobody renews the bootstrap key
	IAM               *ibmcloud.IAM
	SecretsManager    *ibmcloud.SecretsManager // opened by the bootstrap identity
	Mirrors           rotation.Mirrors         // may be nil if no rotation has a mirror

	HowToRun rotation.HowToRun

	MinRemaining time.Duration
	Interval     time.Duration    // the rotate schedule's
	Concurrency  int              // rotations at a time; 0 means 1
	Now          func() time.Time // if nil, time.Now

	limit time.Duration // of one request; Run sets it
}

// Run checks what all rotations share, and then each of them. It takes no longer than
// rotation.Budget; a rotation whose turn has not come by then has a failed check.
func (d *Doctor) Run(ctx context.Context, rotations []rotation.Rotation) report.Diagnosis {
	_, budget := rotation.Budget(ctx)
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	run := *d
	run.limit = min(rotation.AttemptLimit, budget/4) // a request that hangs must leave time for others

	shared := &findings{}
	shared.ok("configuration", "%s", d.Configuration)
	blocked := run.reachHosts(ctx, shared)
	bootstrap, stored, blocker := run.checkBootstrap(ctx, shared, blocked.iam)
	blocked.instance = cmp.Or(blocked.instance, blocker)
	if !run.ManagedKey.IsZero() {
		run.checkRenewal(ctx, shared, blocked.instance, stored)
	}
	return report.NewDiagnosis(append(shared.checks, run.checkRotations(ctx, rotations, blocked, bootstrap)...))
}

// checkRotations checks the rotations in parallel, and returns the checks in their order.
func (d *Doctor) checkRotations(ctx context.Context, rotations []rotation.Rotation, blocked blockers, bootstrap iamtoken.Token) []report.Check {
	found := make([][]report.Check, len(rotations))
	var all errgroup.Group
	all.SetLimit(max(1, d.Concurrency))
	for i, r := range rotations {
		all.Go(func() error {
			e := examination{Doctor: d, Rotation: r, blockers: blocked, bootstrap: bootstrap}
			found[i] = e.run(ctx)
			return nil
		})
	}
	_ = all.Wait()
	return slices.Concat(found...)
}

func (d *Doctor) now() time.Time {
	if d.Now == nil {
		return time.Now().Round(0)
	}
	return d.Now().Round(0)
}

// try makes one request, within limit.
func try[T any](ctx context.Context, limit time.Duration, request func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return request(ctx)
}

// tryOf is try for a request with an argument.
func tryOf[A, T any](ctx context.Context, limit time.Duration, request func(context.Context, A) (T, error), about A) (T, error) {
	return try(ctx, limit, func(ctx context.Context) (T, error) { return request(ctx, about) })
}

// Misconfigured is the diagnosis of a configuration that cannot be used: one failed check for
// each problem that err joins. Nothing else is tried.
func Misconfigured(err error) report.Diagnosis {
	problems := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		problems = joined.Unwrap()
	}
	var f findings
	for _, problem := range problems {
		f.fail("configuration", problem.Error(), "correct this setting")
	}
	f.skip("everything else", "the configuration comes first")
	return report.NewDiagnosis(f.checks)
}

// findings collects the checks of one rotation, or those that all rotations share. Of an
// answer the texts repeat only identities and times.
type findings struct {
	rotation string
	checks   []report.Check
}

func (f *findings) add(name string, status report.Status, detail, advice string) {
	f.checks = append(f.checks, report.Check{Name: name, Rotation: f.rotation, Status: status, Detail: detail, Advice: advice})
}

func (f *findings) ok(name, format string, args ...any) {
	f.add(name, report.CheckOK, fmt.Sprintf(format, args...), "")
}

func (f *findings) warn(name, detail, advice string) {
	f.add(name, report.CheckWarning, detail, advice)
}
func (f *findings) fail(name, detail, advice string) { f.add(name, report.CheckFailed, detail, advice) }
func (f *findings) skip(name, why string)            { f.add(name, report.CheckSkipped, why, "") }

// notTried skips checks that depend on another one.
func (f *findings) notTried(blocker string, names ...string) {
	for _, name := range names {
		f.skip(name, "not tried: "+blocker+" failed")
	}
}

// failed adds a failed check for an error of the clients.
func (f *findings) failed(name string, err error) {
	detail, advice := explain(err)
	f.fail(name, detail, advice)
}

// expiry adds a check that shows when something expires: a warning if that is within notice.
// The zero time means never.
func (f *findings) expiry(name, what string, at, now time.Time, notice time.Duration, advice string) {
	switch left := at.Sub(now); {
	case at.IsZero():
		f.ok(name, "%s does not expire", what)
	case left <= 0:
		f.warn(name, fmt.Sprintf("%s has expired, on %s", what, day(at)), advice)
	case left < notice:
		f.warn(name, fmt.Sprintf("%s expires in %s, on %s", what, report.Count(int(left.Hours()/24), "day"), day(at)), advice)
	default:
		f.ok(name, "%s expires on %s", what, day(at))
	}
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// explain splits an error into what was found and what to do.
func explain(err error) (detail, advice string) {
	failure := rotation.ErrorOf(err)
	found := strings.TrimSuffix(strings.TrimSuffix(failure.Message, failure.Advice), ": ")
	return string(failure.Kind) + ": " + found, cmp.Or(failure.Advice, "run doctor again; infra/RUNBOOK.md says what helps against each kind of error")
}

// lacksPermission reports whether the identity lacks a permission. A token that is rejected,
// which may be temporary, is something else.
func lacksPermission(err error) bool {
	failure := rotation.ErrorOf(err)
	return failure.Kind == rotation.Denied && failure.Retry == rotation.Never
}

// BootstrapIdentity is the bootstrap identity, and how it authenticates.
type BootstrapIdentity struct {
	Variable  string                                         // the one with its credential: "SECRETS_MANAGER_APIKEY"
	ReadKey   func(context.Context) (iamtoken.Secret, error) // from its store; nil if the variable holds the key
	Identity  *ibmcloud.Bootstrap
	HasKey    bool      // it has an API key, not a profile or a token
	NoIAM     bool      // it has a token, so IAM is not needed
	ExpiresAt time.Time // BOOTSTRAP_EXPIRES_AT, zero when not set
}

// Names of the checks of the bootstrap identity.
const (
	bootstrapKey       = "bootstrap-key"
	bootstrapIdentity  = "bootstrap-identity"
	bootstrapKeyExpiry = "bootstrap-key-expiry"
)

// checkBootstrap returns the identity's token, and the key if ReadKey reads it. blocker is the
// name of the failed check because of which nothing can be asked of Secrets Manager.
func (d *Doctor) checkBootstrap(ctx context.Context, f *findings, iamBlocker string) (token iamtoken.Token, stored iamtoken.Secret, blocker string) {
	b := d.Bootstrap
	defer func() { d.checkBootstrapExpiry(ctx, f, blocker) }()
	if b.ReadKey != nil {
		var err error
		if stored, err = try(ctx, d.limit, b.ReadKey); err != nil {
			f.failed(bootstrapKey, err)
			f.notTried(bootstrapKey, bootstrapIdentity)
			return token, stored, bootstrapKey
		}
		f.ok(bootstrapKey, "the secret that %s names holds one API key", b.Variable)
	}
	if iamBlocker != "" && !b.NoIAM {
		f.notTried(iamBlocker, bootstrapIdentity)
		return token, stored, iamBlocker
	}
	token, err := try(ctx, d.limit, b.Identity.Identify)
	switch {
	case err != nil:
		f.failed(bootstrapIdentity, err)
		return token, stored, bootstrapIdentity
	case token.Opaque():
		f.warn(bootstrapIdentity, b.Variable+" is accepted, but its token does not show its identity", "nothing to do if IBM's tokens are opaque now")
	case b.NoIAM:
		f.warn(bootstrapIdentity, b.Variable+" is of "+owner(token)+": what follows is what that identity may do, not the function's own",
			"to try the function's, unset "+b.Variable+" and set the variables that the function has")
	default:
		f.ok(bootstrapIdentity, "%s is of %s", b.Variable, owner(token))
	}
	return token, stored, ""
}

// owner names a token's owner.
func owner(token iamtoken.Token) string { return token.IAMID + " of account " + token.Account }

// checkBootstrapExpiry compares IAM's expiry of the bootstrap key with the configuration's. It
// asks IAM unless blocker, a failed check, prevents that.
func (d *Doctor) checkBootstrapExpiry(ctx context.Context, f *findings, blocker string) {
	set := d.Bootstrap.ExpiresAt
	if !d.Bootstrap.HasKey && set.IsZero() || !d.ManagedKey.IsZero() {
		return // there is no key, or checkRenewal shows the expiry of a managed one
	}
	var at time.Time
	known := false
	if blocker == "" && d.Bootstrap.HasKey {
		answered, err := try(ctx, d.limit, d.Bootstrap.Identity.KeyExpiry)
		at, known = answered, err == nil
	}
	// The configuration may name only a day.
	agree := set.IsZero() || !at.IsZero() && at.Sub(set).Abs() <= 24*time.Hour
	switch {
	case known && at.IsZero() && !agree:
		f.warn(bootstrapKeyExpiry, "BOOTSTRAP_EXPIRES_AT is "+day(set)+", but at IAM the key does not expire", "remove BOOTSTRAP_EXPIRES_AT: every run warns by IAM's date")
	case known && !agree:
		f.warn(bootstrapKeyExpiry, "BOOTSTRAP_EXPIRES_AT is "+day(set)+", but at IAM the key expires on "+day(at), "remove BOOTSTRAP_EXPIRES_AT: every run warns by IAM's date")
	case known:
		f.expiry(bootstrapKeyExpiry, "the bootstrap API key", at, d.now(), rotation.KeyExpiryNotice, "replace it")
	case !set.IsZero():
		f.expiry(bootstrapKeyExpiry, "the bootstrap API key, by BOOTSTRAP_EXPIRES_AT,", set, d.now(), rotation.KeyExpiryNotice, "replace the key, then BOOTSTRAP_EXPIRES_AT")
	case blocker != "":
		f.notTried(blocker, bootstrapKeyExpiry)
	default:
		f.add(bootstrapKeyExpiry, report.CheckSkipped, "not known: IAM does not show this identity when its key expires",
			"set BOOTSTRAP_EXPIRES_AT, and every run warns 14 days before")
	}
}
