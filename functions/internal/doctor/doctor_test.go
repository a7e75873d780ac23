package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/rotation"
)

// order is that of the checks: each rests on those before it.
var order = []string{"configuration",
	"iam-dns", "iam-tcp", "iam-tls", "iam-clock",
	"secrets-manager-dns", "secrets-manager-tcp", "secrets-manager-tls", "secrets-manager-clock",
	"bootstrap-identity", "bootstrap-key-expiry",
	"key-secret", "key-identity", "key-expiry", "token-lifetime", "token-secret", "token-locks", "stored-token", "save"}

func TestASoundSetUpHasNothingWrong(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	diagnosis := w.run()
	if got := names(diagnosis.Checks); !slices.Equal(got, order) {
		t.Errorf("got checks %v, want %v", got, order)
	}
	if bad := names(diagnosis.Checks, doctor.Failed, doctor.Warning); len(bad) > 0 || !diagnosis.OK {
		t.Errorf("%v are wrong: %+v", bad, diagnosis.Checks)
	}
	// http on loopback has no TLS; a save cannot be tried without saving.
	if got := names(diagnosis.Checks, doctor.Skipped); !slices.Equal(got, []string{"iam-tls", "secrets-manager-tls", "save"}) {
		t.Errorf("skipped %v", got)
	}
	w.want(diagnosis, "bootstrap-identity", doctor.OK, w.cloud.BootstrapIAMID(), w.cloud.AccountID())
	w.want(diagnosis, "key-identity", doctor.OK, w.seeded.IAMID, w.cloud.AccountID())
	w.want(diagnosis, "stored-token", doctor.OK, "fingerprint 0123456789abcdef")
	w.want(diagnosis, "save", doctor.Skipped, "secret-version.create")
}

func TestNothingIsWrittenAndNoValueOfATokenRead(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	before := w.cloud.MustVersions(w.seeded.TokenSecret)
	w.run()
	if got := len(w.cloud.MustVersions(w.seeded.TokenSecret)); got != len(before) {
		t.Errorf("got %d versions, want %d", got, len(before))
	}
	for _, request := range w.cloud.Requests() {
		if strings.Contains(request.Path, w.seeded.TokenSecret) && !strings.HasSuffix(request.Path, "/metadata") && !strings.HasSuffix(request.Path, "/locks") {
			t.Errorf("doctor asked for %s: it has no business with the token's value", request.Path)
		}
	}
}

func TestManyRotationsAreShownInTheOrderAsked(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{Rotations: 40})
	w.doctor.Concurrency = 8
	var rotations []rotation.Rotation
	for _, seeded := range w.cloud.Rotations() {
		rotations = append(rotations, rotation.Rotation{Name: seeded.Name,
			APIKey: rotation.KeyRef{ID: seeded.APIKeySecret}, Token: rotation.TokenRef{ID: seeded.TokenSecret}})
	}
	rotations[7].APIKey.ID = "00000000-0000-4000-8000-000000000000"
	diagnosis := w.doctor.Run(context.Background(), rotations)
	w.wantSound(diagnosis)
	var got []string
	for _, check := range diagnosis.Checks {
		if check.Name == "key-secret" {
			got = append(got, check.Rotation)
			if failed := check.Status == doctor.Failed; failed != (check.Rotation == rotations[7].Name) {
				t.Errorf("got %+v", check)
			}
		}
	}
	for i, r := range rotations {
		if got[i] != r.Name {
			t.Fatalf("got %v, want the order asked", got)
		}
	}
}

func TestWhatRestsOnAFailedCheckIsNotTried(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	w.as("not-a-key-that-iam-knows")
	diagnosis := w.run()
	w.want(diagnosis, "bootstrap-identity", doctor.Failed, "denied", "replace it")
	for _, name := range order[11:] {
		w.want(diagnosis, name, doctor.Skipped, "not tried: bootstrap-identity failed")
	}
	for _, request := range w.cloud.Requests() {
		if strings.HasPrefix(request.Path, "/api/") {
			t.Errorf("asked for %s without an identity", request.Path)
		}
	}
}

func TestTheKeyOfTheBootstrapIdentityMayBeKeptElsewhere(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	w.doctor.Bootstrap.Variable = "SECRETS_MANAGER_APIKEY_ARN"
	w.doctor.Bootstrap.ReadKey = func(context.Context) error { return nil }
	w.want(w.run(), "bootstrap-key", doctor.OK, "SECRETS_MANAGER_APIKEY_ARN")
	w.doctor.Bootstrap.ReadKey = func(context.Context) error {
		return &rotation.Error{Kind: rotation.Denied, Message: "reading the secret: give the role", Advice: "give the role"}
	}
	diagnosis := w.run()
	w.want(diagnosis, "bootstrap-key", doctor.Failed, "denied: reading the secret → give the role")
	w.want(diagnosis, "bootstrap-identity", doctor.Skipped, "bootstrap-key failed")
	w.doctor.Bootstrap.ReadKey = func(context.Context) error { return errors.New(canary) }
	w.want(w.run(), "bootstrap-key", doctor.Failed, "unexpected failure")
}

func TestATokenAtHandNeedsNoIAM(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	w.doctor.Bootstrap.NoIAM, w.doctor.Bootstrap.HasKey = true, false
	w.run() // holds a token now
	w.doctor.IAMHost.Origin = "http://iam.invalid"
	w.doctor.Network.Lookup = func(context.Context, string) ([]string, error) { return nil, errors.New("no such host") }
	diagnosis := w.run()
	w.want(diagnosis, "bootstrap-identity", doctor.Warning, "not the function's own", "unset")
	w.want(diagnosis, "key-secret", doctor.OK)
	w.want(diagnosis, "key-identity", doctor.Skipped, "iam-dns failed")
	if slices.Contains(names(diagnosis.Checks), "bootstrap-key-expiry") {
		t.Error("a token at hand has no key to expire")
	}
}

func TestAFaultyConfigurationIsADiagnosis(t *testing.T) {
	diagnosis := doctor.Misconfigured(errors.Join(errors.New("A: is wrong"), errors.New("B: too")))
	if got := fmt.Sprintln(names(diagnosis.Checks, doctor.Failed), diagnosis.Checks[1].Detail, diagnosis.OK); got != "[configuration configuration] B: too false\n" {
		t.Errorf("got %s", got)
	}
	if single := doctor.Misconfigured(errors.New("A")); single.Count(doctor.Failed) != 1 || single.Count(doctor.Skipped) != 1 {
		t.Errorf("got %+v", single)
	}
}

// mirrors are copies whose state a test sets, by ARN.
type mirrors map[string]any

func (m mirrors) Current(_ context.Context, arn string) (string, error) {
	if err, ok := m[arn].(error); ok {
		return "", err
	}
	return m[arn].(string), nil
}

func TestMirrors(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	stored := w.cloud.MustCurrent(w.one.Token.ID).ID
	for name, test := range map[string]struct {
		state  any
		status doctor.Status
		says   string
	}{
		"the same version": {stored, doctor.OK, "holds the stored token"},
		"an older one":     {"00000000-0000-4000-8000-000000000000", doctor.Warning, "does not hold the stored token"},
		"none yet":         {"", doctor.Warning, "the next run copies it"},
		"denied":           {&rotation.Error{Kind: rotation.Denied, Message: "copying: the role needs DescribeSecret", Advice: "the role needs DescribeSecret"}, doctor.Failed, "DescribeSecret"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.one.Mirror, w.doctor.Mirrors = []string{"arn:a"}, mirrors{"arn:a": test.state}
			w.want(w.run(), "mirror", test.status, test.says)
		})
	}
	w.t = t
	w.cloud.MustSetVersionMetadata(w.one.Token.ID, "current", nil)
	w.doctor.Mirrors = mirrors{"arn:a": ""}
	w.want(w.run(), "mirror", doctor.OK, "waits for the first token")
	w.cloud.MustDeleteSecret(w.one.Token.ID)
	w.want(w.run(), "mirror", doctor.OK, "not tried: secretsmanager:PutSecretValue")
}

func TestARotationWhoseTurnDoesNotComeIsAFailure(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpLocks, Delay: time.Minute})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	diagnosis := w.doctor.Run(ctx, slices.Repeat([]rotation.Rotation{w.one}, 8))
	w.wantSound(diagnosis)
	last := diagnosis.Checks[len(diagnosis.Checks)-8]
	if last.Name != "key-secret" || last.Status != doctor.Failed || !strings.Contains(last.Detail, "the time was up") {
		t.Errorf("got %+v", last)
	}
}

func TestTimeThatIsUpIsAFailureNotSilence(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	w.timeout = time.Nanosecond
	if diagnosis := w.run(); diagnosis.OK {
		t.Errorf("got %+v", diagnosis)
	}
}
