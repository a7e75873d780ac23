package rotation_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// fixture is a rotator with the real IBM adapters, in process with a cloud.
type fixture struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	rotator *rotation.Rotator
	one     rotation.Rotation // the first one seeded
	all     []rotation.Rotation
	skew    atomic.Int64 // of the rotator's clock, in nanoseconds
	ahead   atomic.Int64 // of all clocks: how long the process was frozen, its timers with it
}

// withFixture runs test in virtual time, with its own fixture.
func withFixture(t *testing.T, o ibmcloudtest.Options, test func(fx *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newFixture(t, o)) })
}

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
	return fx.processWithKey(transport, ibmcloud.FixedKey(iamtoken.NewSecret(fx.cloud.BootstrapAPIKey())))
}

func (fx *fixture) processWithKey(transport http.RoundTripper, source ibmcloud.KeySource) *rotation.Rotator {
	fx.t.Helper()
	return fx.processAs(transport, func(iam *ibmcloud.IAM) *ibmcloud.Bootstrap { return ibmcloud.BootstrapByKey(iam, source) })
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

var runs atomic.Int64

// run runs the first rotation in mode, with two minutes and its own id.
func (fx *fixture) run(mode rotation.Mode) report.Result {
	fx.t.Helper()
	return fx.runAs(rotation.Request{Mode: mode, RunID: "run-" + time.Unix(runs.Add(1), 0).UTC().Format("150405.000")})
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

// workload is the service id whose token is published.
func (fx *fixture) workload() ibmcloudtest.Rotation { return fx.cloud.Rotations()[0] }

// versions is how many versions the token secret has; one is there from the start.
func (fx *fixture) versions() int { return len(fx.cloud.MustVersions(fx.one.Token.ID)) }

func (fx *fixture) wantOutcome(got report.Result, want report.Outcome) {
	fx.t.Helper()
	if got.Outcome != want {
		fx.t.Fatalf("got outcome %s (%v), want %s", got.Outcome, got.Error, want)
	}
}

// wantFailure checks why a run failed, and that the message says all of says.
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

func (fx *fixture) wantVersions(want int) {
	fx.t.Helper()
	if got := fx.versions(); got != want {
		fx.t.Errorf("got %d versions of the token secret, want %d", got, want)
	}
}

// wantPublished checks that a reader gets a valid token of the workload with at least this lifetime left.
func (fx *fixture) wantPublished(least time.Duration) {
	fx.t.Helper()
	iamID, expires, err := fx.cloud.Validate(fx.cloud.MustCurrent(fx.one.Token.ID).Payload)
	if err != nil {
		fx.t.Fatalf("the published token: %v", err)
	}
	if want := fx.workload().IAMID; iamID != want {
		fx.t.Errorf("the published token belongs to %s, want %s", iamID, want)
	}
	if left := time.Until(expires); left < least {
		fx.t.Errorf("the published token has %s left, want %s", left, least)
	}
}

// expires is when the token in the secret does.
func (fx *fixture) expires() time.Time {
	_, expires, _ := fx.cloud.Validate(fx.cloud.MustCurrent(fx.one.Token.ID).Payload)
	return expires
}

func (fx *fixture) countRequests(op string) int { return fx.cloud.CountRequests(op, "") }

// roundTripper is a connection of which a test changes something.
type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// hooked is a token store with something before or after a save, and of what is read another version. What is nil changes nothing.
type hooked struct {
	rotation.TokenStore
	beforeSave, afterSave func()
	read                  func(ctx context.Context, id string, version rotation.CurrentVersion) (rotation.CurrentVersion, error) // id "": the current one
}

func (h hooked) ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.CurrentVersion, error) {
	version, err := h.TokenStore.ReadMetadata(ctx, ref)
	if h.read == nil || err != nil {
		return version, err
	}
	return h.read(ctx, "", version)
}

func (h hooked) ReadVersion(ctx context.Context, ref rotation.TokenRef, id string) (rotation.CurrentVersion, error) {
	version, err := h.TokenStore.ReadVersion(ctx, ref, id)
	if h.read == nil || err != nil {
		return version, err
	}
	return h.read(ctx, id, version)
}

func (h hooked) Save(ctx context.Context, ref rotation.TokenRef, current rotation.CurrentVersion, token iamtoken.Token,
	metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	if h.beforeSave != nil {
		h.beforeSave()
	}
	if h.afterSave != nil {
		defer h.afterSave()
	}
	return h.TokenStore.Save(ctx, ref, current, token, metadata)
}
