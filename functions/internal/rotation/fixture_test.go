package rotation_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// fixture is a rotator with the real IBM adapters, and the sandbox in the same process.
type fixture struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	rotator *rotation.Rotator
	one     rotation.Rotation // the first one seeded
	all     []rotation.Rotation
	skew    atomic.Int64    // of the rotator's clock, in nanoseconds
	ahead   atomic.Int64    // how long the process was frozen: clocks went on, timers did not
	aws     *mirrortest.AWS // nil if there are no mirrors
}

// withFixture runs test in virtual time, with its own fixture.
func withFixture(t *testing.T, o ibmcloudtest.Options, test func(fx *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newFixture(t, o)) })
}

// each runs a test for each row of a table, with its own fixture.
func each[R any](t *testing.T, rows map[string]R, test func(fx *fixture, row R)) {
	t.Helper()
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) { test(fx, row) })
		})
	}
}

// story is a run and what must come of it. If it says nothing else, the run is one of rotate that
// follows another, and it saves a new token.
type story struct {
	first bool              // no run before it has saved a token
	after time.Duration     // the time since that run
	edit  func(fx *fixture) // what happens just before the run
	mode  rotation.Mode     // rotate if empty
	force bool

	want     report.Outcome // rotated if empty
	fails    rotation.Step  // that fails; empty if none does
	kind     rotation.Kind  // of the failure
	says     string         // a part of the failure, or of a warning
	attempts int            // 0: any number
	within   time.Duration  // the timeout; 2 minutes if 0
	others   int            // versions that other runs save meanwhile
	then     func(fx *fixture, result report.Result)
}

// several means two or more attempts.
const several = -1

// pasted is what a person has put in the wrong place. Like the keys, nothing may repeat it.
const pasted = "pasted-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"

// play plays stories. In each of them, only a run whose outcome is rotated saves a version, and that is a valid token of
// the workload.
func play(t *testing.T, stories map[string]story) {
	t.Helper()
	each(t, stories, func(fx *fixture, s story) {
		if !s.first {
			fx.rotate()
		}
		time.Sleep(s.after)
		if s.edit != nil {
			s.edit(fx)
		}
		before, keyReads := fx.versions(), fx.countRequests(ibmcloudtest.OpSecretsGet)
		result := fx.runWithin(cmp.Or(s.within, 2*time.Minute), fx.rotator,
			rotation.Request{Mode: cmp.Or(s.mode, rotation.ModeRotate), Force: s.force, RunID: "the-run-of-the-story"})
		if s.fails != "" {
			fx.wantFailure(result, s.fails, s.kind, s.says)
		} else {
			fx.wantOutcome(result, cmp.Or(s.want, report.Rotated))
			fx.wantWarning(result, s.says)
		}
		if result.Outcome == report.Rotated {
			fx.wantStored(5 * time.Minute)
			before++
		}
		fx.wantVersions(before + s.others)
		if result.Outcome == report.Fresh && fx.countRequests(ibmcloudtest.OpSecretsGet) > keyReads {
			fx.t.Error("ensure read the API key though the token was fresh")
		}
		if left := result.SecondsRemaining; left != nil && *left > 3660 {
			fx.t.Errorf("got %d seconds left, want 61 minutes at most", *left)
		}
		if s.attempts > 0 && result.Attempts != s.attempts || s.attempts == several && result.Attempts < 2 {
			fx.t.Errorf("got %d attempts, want %d (%d is several)", result.Attempts, s.attempts, several)
		}
		if s.then != nil {
			s.then(fx, result)
		}
	})
}

// with sets what all stories have in common.
func with(set func(s *story), stories map[string]story) map[string]story {
	for name, s := range stories {
		set(&s)
		stories[name] = s
	}
	return stories
}

// fault has a story begin with a fault.
func fault(f ibmcloudtest.Fault) func(*fixture) { return func(fx *fixture) { fx.fault(f) } }

func newFixture(t *testing.T, o ibmcloudtest.Options) *fixture {
	fx := &fixture{t: t}
	o.Now = func() time.Time { return time.Now().Add(time.Duration(fx.ahead.Load())) }
	fx.cloud = ibmcloudtest.New(o)
	fx.rotator = fx.process(fx.cloud.Transport())
	for _, seeded := range fx.cloud.Rotations() {
		fx.all = append(fx.all, rotation.Rotation{
			Name:   seeded.Name,
			APIKey: rotation.KeyRef{ID: seeded.APIKeySecret},
			Token:  rotation.TokenRef{ID: seeded.TokenSecret, Format: iamtoken.Raw},
		})
	}
	fx.one = fx.all[0]
	return fx
}

// process is a new process of the function, with cold caches.
func (fx *fixture) process(transport http.RoundTripper) *rotation.Rotator {
	return fx.processAs(transport, byKey(fx.cloud.BootstrapAPIKey()))
}

func byKey(key string) func(*ibmcloud.IAM) *ibmcloud.Bootstrap {
	return byKeyOf(ibmcloud.FixedKey(iamtoken.NewSecret(key)))
}

func byKeyOf(source ibmcloud.KeySource) func(*ibmcloud.IAM) *ibmcloud.Bootstrap {
	return func(iam *ibmcloud.IAM) *ibmcloud.Bootstrap { return ibmcloud.BootstrapByKey(iam, source) }
}

func byToken(token string) func(*ibmcloud.IAM) *ibmcloud.Bootstrap {
	return func(iam *ibmcloud.IAM) *ibmcloud.Bootstrap {
		return ibmcloud.BootstrapByToken(iam, iamtoken.NewSecret(token))
	}
}

func (fx *fixture) processAs(transport http.RoundTripper, identity func(*ibmcloud.IAM) *ibmcloud.Bootstrap, keys ...rotation.KeyRef) *rotation.Rotator {
	fx.t.Helper()
	iam := ibmcloud.NewIAM("https://iam.test", transport, fx.now)
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: "https://instance.test", Bootstrap: identity(iam), Transport: transport, Now: fx.now, Keys: keys,
	})
	if err != nil {
		fx.t.Fatal(err)
	}
	return &rotation.Rotator{
		Keys: secretsManager, IAM: iam, Tokens: secretsManager,
		MinRemaining: 8 * time.Minute, Interval: 50 * time.Minute, Concurrency: 16, Version: "test", Now: fx.now,
	}
}

// now is the rotator's clock.
func (fx *fixture) now() time.Time {
	return time.Now().Add(time.Duration(fx.skew.Load() + fx.ahead.Load()))
}

// freeze suspends the process for a time: clocks move on, no timer fires.
func (fx *fixture) freeze(d time.Duration) { fx.ahead.Add(int64(d)) }

var runNumber atomic.Int64

// run runs the first rotation in mode, with two minutes and its own id.
func (fx *fixture) run(mode rotation.Mode) report.Result {
	fx.t.Helper()
	return fx.runAs(rotation.Request{Mode: mode, RunID: fmt.Sprint("run-number-", runNumber.Add(1))})
}

func (fx *fixture) force() report.Result {
	fx.t.Helper()
	return fx.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: true, RunID: fmt.Sprint("run-number-", runNumber.Add(1))})
}

func (fx *fixture) runAs(request rotation.Request) report.Result {
	fx.t.Helper()
	return fx.runWithin(2*time.Minute, fx.rotator, request)
}

// runAll runs all rotations, within two minutes.
func (fx *fixture) runAll(runID string) report.Report {
	fx.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return fx.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: runID}, fx.all)
}

func (fx *fixture) runWithin(timeout time.Duration, rotator *rotation.Rotator, request rotation.Request) report.Result {
	fx.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return rotator.Run(ctx, request, []rotation.Rotation{fx.one}).Results[0]
}

// rotate publishes a first token.
func (fx *fixture) rotate() report.Result {
	fx.t.Helper()
	result := fx.run(rotation.ModeRotate)
	fx.wantOutcome(result, report.Rotated)
	return result
}

func (fx *fixture) fault(f ibmcloudtest.Fault) { fx.cloud.MustAddFault(f) }

// workload is the service id whose token is stored.
func (fx *fixture) workload() ibmcloudtest.Rotation { return fx.cloud.Rotations()[0] }

// versions is how many versions the token secret has; one is there from the start.
func (fx *fixture) versions() int { return len(fx.cloud.MustVersions(fx.one.Token.ID)) }

func (fx *fixture) wantOutcome(got report.Result, want report.Outcome) {
	fx.t.Helper()
	if got.Outcome != want {
		fx.t.Fatalf("got outcome %s (%v), want %s", got.Outcome, got.Error, want)
	}
}

// wantFailure checks why a run failed, that the message says all of says, and that it repeats no secret.
func (fx *fixture) wantFailure(got report.Result, step rotation.Step, kind rotation.Kind, says ...string) {
	fx.t.Helper()
	if got.Outcome != report.Failed || got.Error == nil {
		fx.t.Fatalf("got outcome %s, want failed", got.Outcome)
	}
	if got.Error.Step != step || got.Error.Kind != kind {
		fx.t.Errorf("got failure %v, want %s: %s", got.Error, step, kind)
	}
	for _, words := range says {
		if !strings.Contains(got.Error.Message, words) {
			fx.t.Errorf("got %q, want it to say %q", got.Error.Message, words)
		}
	}
	for _, secret := range []string{"pasted", opaque, fx.workload().APIKey[:12], fx.cloud.BootstrapAPIKey()[:12]} {
		if strings.Contains(got.Error.Message, secret) || len(got.Error.Message) > 400 {
			fx.t.Errorf("the failure, of %d bytes, repeats what it must not", len(got.Error.Message))
		}
	}
}

func (fx *fixture) wantAttempts(got report.Result, want int) {
	fx.t.Helper()
	if got.Attempts != want {
		fx.t.Errorf("got %d attempts, want %d", got.Attempts, want)
	}
}

func (fx *fixture) wantNoWarning(got report.Result) {
	fx.t.Helper()
	if len(got.Warnings) > 0 {
		fx.t.Errorf("got warnings %q, want none", got.Warnings)
	}
}

func (fx *fixture) wantWarning(result report.Result, words string) {
	fx.t.Helper()
	if !strings.Contains(fmt.Sprintln(result.Warnings), words) {
		fx.t.Errorf("got the warnings %q, want %q in them", result.Warnings, words)
	}
}

func (fx *fixture) wantVersions(want int) {
	fx.t.Helper()
	if got := fx.versions(); got != want {
		fx.t.Errorf("got %d versions of the token secret, want %d", got, want)
	}
}

// storedToken is the token that readers get, its identity and when it expires.
func (fx *fixture) storedToken() (token, iamID string, expires time.Time, err error) {
	current := fx.cloud.MustCurrent(fx.one.Token.ID)
	token = current.Payload
	if current.Data != nil {
		token, _ = current.Data[cmp.Or(fx.one.Token.Field, iamtoken.DefaultField)].(string)
	}
	iamID, expires, err = fx.cloud.Validate(token)
	return token, iamID, expires, err
}

// wantStored checks that a reader gets a valid token of the workload with at least this lifetime left.
func (fx *fixture) wantStored(least time.Duration) {
	fx.t.Helper()
	_, iamID, expires, err := fx.storedToken()
	if err != nil {
		fx.t.Fatalf("the stored token: %v", err)
	}
	if want, left := fx.workload().IAMID, time.Until(expires); iamID != want || left < least {
		fx.t.Errorf("the stored token belongs to %s and has %s left, want %s and %s", iamID, left, want, least)
	}
}

func (fx *fixture) countRequests(op string) int { return fx.cloud.CountRequests(op, "") }

// roundTripper is a connection that a test changes.
type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// hooked is a token store that calls a test before and after a save, and for each version that is read. Each may be nil.
type hooked struct {
	rotation.TokenStore
	beforeSave, afterSave func()
	read                  func(ctx context.Context, id string, version rotation.TokenVersion) (rotation.TokenVersion, error) // id "": the current one
}

func (h hooked) ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.TokenVersion, error) {
	version, err := h.TokenStore.ReadMetadata(ctx, ref)
	if h.read == nil || err != nil {
		return version, err
	}
	return h.read(ctx, "", version)
}

func (h hooked) ReadVersion(ctx context.Context, ref rotation.TokenRef, id string) (rotation.TokenVersion, error) {
	version, err := h.TokenStore.ReadVersion(ctx, ref, id)
	if h.read == nil || err != nil {
		return version, err
	}
	return h.read(ctx, id, version)
}

func (h hooked) Save(ctx context.Context, ref rotation.TokenRef, current rotation.TokenVersion, token iamtoken.Token,
	metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	if h.beforeSave != nil {
		h.beforeSave()
	}
	if h.afterSave != nil {
		defer h.afterSave()
	}
	return h.TokenStore.Save(ctx, ref, current, token, metadata)
}
