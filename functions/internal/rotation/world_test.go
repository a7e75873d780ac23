package rotation_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
)

// world is a rotator with the real IBM adapters, in process with a cloud.
type world struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	rotator *rotation.Rotator
	one     rotation.Rotation // the first one seeded
	all     []rotation.Rotation
	skew    atomic.Int64 // of the rotator's clock, in nanoseconds
	ahead   atomic.Int64 // of all clocks: how long the process was frozen, its timers with it
}

// inWorld runs test in virtual time, in a world of its own.
func inWorld(t *testing.T, o ibmcloudtest.Options, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t, o)) })
}

func newWorld(t *testing.T, o ibmcloudtest.Options) *world {
	w := &world{t: t}
	o.Now = func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }
	w.cloud = ibmcloudtest.New(o)
	w.rotator = w.process(w.cloud.Transport())
	for _, seeded := range w.cloud.Rotations() {
		w.all = append(w.all, rotation.Rotation{
			Name:   seeded.Name,
			APIKey: rotation.KeyRef{ID: seeded.APIKeySecret},
			Token:  rotation.TokenRef{ID: seeded.TokenSecret, Format: iamtoken.Raw},
		})
	}
	w.one = w.all[0]
	return w
}

// process is a new process of the function, with cold caches.
func (w *world) process(transport http.RoundTripper) *rotation.Rotator {
	return w.processWithKey(transport, ibmcloud.FixedKey(iamtoken.NewSecret(w.cloud.BootstrapAPIKey())))
}

func (w *world) processWithKey(transport http.RoundTripper, source ibmcloud.KeySource) *rotation.Rotator {
	w.t.Helper()
	return w.processAs(transport, func(iam *ibmcloud.IAM) *ibmcloud.Bootstrap { return ibmcloud.BootstrapByKey(iam, source) })
}

func (w *world) processAs(transport http.RoundTripper, identity func(*ibmcloud.IAM) *ibmcloud.Bootstrap, keys ...rotation.KeyRef) *rotation.Rotator {
	w.t.Helper()
	iam := ibmcloud.NewIAM("https://iam.test", transport, w.now)
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: "https://instance.test", Bootstrap: identity(iam), Transport: transport, Now: w.now, Keys: keys,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return &rotation.Rotator{
		Keys: secretsManager, IAM: iam, Tokens: secretsManager,
		MinRemaining: 8 * time.Minute, Interval: 50 * time.Minute, Concurrency: 16, Version: "test", Now: w.now,
	}
}

// now is the rotator's clock.
func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.skew.Load() + w.ahead.Load())) }

// freeze suspends the process for a time: clocks move on, no timer fires.
func (w *world) freeze(d time.Duration) { w.ahead.Add(int64(d)) }

var runs atomic.Int64

// run runs the first rotation in mode, with two minutes and an id of its own.
func (w *world) run(mode rotation.Mode) rotation.Result {
	w.t.Helper()
	return w.runAs(rotation.Request{Mode: mode, RunID: "run-" + time.Unix(runs.Add(1), 0).UTC().Format("150405.000")})
}

func (w *world) runAs(request rotation.Request) rotation.Result {
	w.t.Helper()
	return w.runWithin(2*time.Minute, w.rotator, request)
}

// runAll runs all rotations, within two minutes.
func (w *world) runAll(runID string) rotation.Report {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return w.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: runID}, w.all)
}

func (w *world) runWithin(timeout time.Duration, rotator *rotation.Rotator, request rotation.Request) rotation.Result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return rotator.Run(ctx, request, []rotation.Rotation{w.one}).Results[0]
}

// rotate publishes a first token.
func (w *world) rotate() rotation.Result {
	w.t.Helper()
	result := w.run(rotation.ModeRotate)
	w.wantOutcome(result, rotation.Rotated)
	return result
}

func (w *world) fault(f ibmcloudtest.Fault) {
	w.t.Helper()
	if err := w.cloud.AddFault(f); err != nil {
		w.t.Fatal(err)
	}
}

// workload is the service id whose token is published.
func (w *world) workload() ibmcloudtest.Rotation { return w.cloud.Rotations()[0] }

// versions is how many versions the token secret has; one is there from the start.
func (w *world) versions() int { return len(w.cloud.MustVersions(w.one.Token.ID)) }

func (w *world) wantOutcome(got rotation.Result, want rotation.Outcome) {
	w.t.Helper()
	if got.Outcome != want {
		w.t.Fatalf("got outcome %s (%v), want %s", got.Outcome, got.Error, want)
	}
}

func (w *world) wantFailure(got rotation.Result, step rotation.Step, kind rotation.Kind) {
	w.t.Helper()
	if got.Outcome != rotation.Failed || got.Error == nil {
		w.t.Fatalf("got outcome %s, want failed", got.Outcome)
	}
	if got.Error.Step != step || got.Error.Kind != kind {
		w.t.Errorf("got failure %v, want %s: %s", got.Error, step, kind)
	}
}

func (w *world) wantVersions(want int) {
	w.t.Helper()
	if got := w.versions(); got != want {
		w.t.Errorf("got %d versions of the token secret, want %d", got, want)
	}
}

// wantPublished checks that a reader gets a token of the workload with life in it.
func (w *world) wantPublished(life time.Duration) {
	w.t.Helper()
	iamID, expires, err := w.cloud.Validate(w.cloud.MustCurrent(w.one.Token.ID).Payload)
	if err != nil {
		w.t.Fatalf("the published token: %v", err)
	}
	if want := w.workload().IAMID; iamID != want {
		w.t.Errorf("the published token belongs to %s, want %s", iamID, want)
	}
	if left := time.Until(expires); left < life {
		w.t.Errorf("the published token has %s left, want %s", left, life)
	}
}

// expires is when the token in the secret does.
func (w *world) expires() time.Time {
	_, expires, _ := w.cloud.Validate(w.cloud.MustCurrent(w.one.Token.ID).Payload)
	return expires
}

func (w *world) countRequests(op string) int {
	count := 0
	for _, request := range w.cloud.Requests() {
		if request.Op == op {
			count++
		}
	}
	return count
}
