package doctor_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// world is a sandbox with a rotation in it, and a doctor to examine it.
type world struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	seeded  ibmcloudtest.Rotation
	one     rotation.Rotation
	doctor  doctor.Doctor
	timeout time.Duration
}

// newWorld has a valid token published.
func newWorld(t *testing.T, options ibmcloudtest.Options) *world {
	t.Helper()
	options.KeyPropagation = -1
	w := &world{t: t, cloud: ibmcloudtest.New(options), timeout: 20 * time.Second}
	server := httptest.NewServer(w.cloud)
	t.Cleanup(server.Close)
	w.seeded = w.cloud.Rotations()[0]
	w.one = rotation.Rotation{Name: "default",
		APIKey: rotation.KeyRef{ID: w.seeded.APIKeySecret}, Token: rotation.TokenRef{ID: w.seeded.TokenSecret}}
	w.doctor = doctor.Doctor{
		Configuration: "valid", HowToSave: func(name string) string { return "run " + name },
		IAMHost:      doctor.Host{Name: "iam", Variable: "IAM_URL", Origin: server.URL, Probe: "/identity/keys"},
		InstanceHost: doctor.Host{Name: "secrets-manager", Variable: "SECRETS_MANAGER_URL", Origin: server.URL, Probe: "/", Instance: true},
		MinRemaining: 8 * time.Minute, Interval: 50 * time.Minute,
	}
	w.as(w.cloud.BootstrapAPIKey())
	w.publish(w.seeded.IAMID, time.Now().Add(55*time.Minute))
	w.cloud.ClearRequests()
	return w
}

// as opens Secrets Manager with another key.
func (w *world) as(key string) {
	w.t.Helper()
	transport := network.New()
	iam := ibmcloud.NewIAM(w.doctor.IAMHost.Origin, transport, nil)
	bootstrap := ibmcloud.BootstrapByKey(iam, ibmcloud.FixedKey(iamtoken.NewSecret(key)))
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: w.doctor.InstanceHost.Origin, Bootstrap: bootstrap, Transport: transport,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.doctor.IAM, w.doctor.SecretsManager = iam, secretsManager
	w.doctor.Bootstrap = doctor.Bootstrap{Variable: "SECRETS_MANAGER_APIKEY", Identity: bootstrap, HasKey: true}
}

// publish puts a version whose metadata describes a token.
func (w *world) publish(iamID string, expires time.Time) {
	w.cloud.MustPutVersion(w.one.Token.ID, "eyJ.published.token", map[string]any{
		"expiration": expires.Unix(), "iam_id": iamID, "account": w.cloud.AccountID(), "fingerprint": "0123456789abcdef",
	})
}

// keySecret makes spec the key secret.
func (w *world) keySecret(spec ibmcloudtest.SecretSpec) {
	w.one.APIKey.ID = w.cloud.MustCreateSecret(spec)
}

// tokenSecret makes spec the token secret.
func (w *world) tokenSecret(spec ibmcloudtest.SecretSpec) {
	if spec.Group == "" {
		spec.Group = w.cloud.TokenGroupName()
	}
	w.one.Token.ID = w.cloud.MustCreateSecret(spec)
}

func (w *world) fault(f ibmcloudtest.Fault) {
	w.t.Helper()
	if err := w.cloud.AddFault(f); err != nil {
		w.t.Fatal(err)
	}
}

// run examines the rotation, and sees to it that nothing was written and no
// secret shows.
func (w *world) run() report.Diagnosis {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), w.timeout)
	defer cancel()
	diagnosis := w.doctor.Run(ctx, []rotation.Rotation{w.one})
	for _, request := range w.cloud.Requests() {
		if request.Method != "GET" && request.Op != ibmcloudtest.OpIAMToken {
			w.t.Errorf("doctor asked for %s %s (%s): it must not write", request.Method, request.Path, request.Op)
		}
		if strings.HasSuffix(request.Path, w.seeded.TokenSecret) && w.one.APIKey.ID != w.seeded.TokenSecret {
			w.t.Errorf("doctor asked for %s: it has no business with the token's value", request.Path)
		}
	}
	w.wantSound(diagnosis)
	return diagnosis
}

// wantSound holds a diagnosis against what must be true of every one.
func (w *world) wantSound(diagnosis report.Diagnosis) {
	w.t.Helper()
	text, err := json.Marshal(diagnosis)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, secret := range []string{w.cloud.BootstrapAPIKey(), w.seeded.APIKey, w.cloud.AdminAPIKey(), "eyJ", canary} {
		for piece := range slices.Chunk([]byte(secret), 12) {
			if len(piece) > 2 && strings.Contains(string(text), string(piece)) {
				w.t.Errorf("a piece of a key or token shows: %s", text)
			}
		}
	}
	ok := true
	for _, check := range diagnosis.Checks {
		ok = ok && check.Status != report.CheckFailed
		if check.Detail == "" || (check.Status == report.CheckFailed || check.Status == report.CheckWarning) && check.Advice == "" {
			w.t.Errorf("%+v: every finding has a detail, and what is wrong has advice", check)
		}
	}
	if diagnosis.OK != ok {
		w.t.Errorf("ok is %t, but the checks say %t", diagnosis.OK, ok)
	}
}

// canary is what hostile answers hold.
const canary = "canary-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"

// want finds a check by name and holds it against a status and words of its
// detail and advice.
func (w *world) want(diagnosis report.Diagnosis, name string, status report.Status, words ...string) {
	w.t.Helper()
	i := slices.IndexFunc(diagnosis.Checks, func(c report.Check) bool { return c.Name == name })
	if i < 0 {
		w.t.Fatalf("there is no check %s: %+v", name, diagnosis.Checks)
	}
	check := diagnosis.Checks[i]
	if check.Status != status {
		w.t.Errorf("got %+v, want %s %s", check, name, status)
	}
	for _, word := range words {
		if !strings.Contains(check.Detail+" → "+check.Advice, word) {
			w.t.Errorf("got %+v, want it to say %q", check, word)
		}
	}
}

func names(checks []report.Check, statuses ...report.Status) []string {
	var list []string
	for _, check := range checks {
		if len(statuses) == 0 || slices.Contains(statuses, check.Status) {
			list = append(list, check.Name)
		}
	}
	return list
}
