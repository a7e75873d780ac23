package doctor_test

import (
	"context"
	"encoding/json"
	"fmt"
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

// fixture is a sandbox with a rotation in it, and a doctor to examine it.
type fixture struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	seeded  ibmcloudtest.Rotation
	one     rotation.Rotation
	doctor  doctor.Doctor
	timeout time.Duration
}

// newFixture returns a fixture with a valid token saved.
func newFixture(t *testing.T, options ibmcloudtest.Options) *fixture {
	t.Helper()
	options.KeyPropagation = -1
	fx := &fixture{t: t, cloud: ibmcloudtest.New(options), timeout: 20 * time.Second}
	server := httptest.NewServer(fx.cloud)
	t.Cleanup(server.Close)
	fx.seeded = fx.cloud.Rotations()[0]
	fx.one = rotation.Rotation{Name: "default",
		APIKey: rotation.KeyRef{ID: fx.seeded.APIKeySecret}, Token: rotation.TokenRef{ID: fx.seeded.TokenSecret}}
	fx.doctor = doctor.Doctor{
		Configuration: "valid", HowToRun: func(name string, force bool) string { return fmt.Sprintf("run %s, force %t", name, force) },
		IAMURL: server.URL, SecretsManagerURL: server.URL,
		MinRemaining: 8 * time.Minute, Interval: 50 * time.Minute,
	}
	fx.as(fx.cloud.BootstrapAPIKey())
	fx.save(fx.seeded.IAMID, time.Now().Add(55*time.Minute))
	fx.cloud.ClearRequests()
	return fx
}

// as makes key the bootstrap identity's.
func (fx *fixture) as(key string) {
	fx.t.Helper()
	transport := network.New()
	iam := ibmcloud.NewIAM(fx.doctor.IAMURL, transport, nil)
	bootstrap := ibmcloud.BootstrapByKey(iam, ibmcloud.FixedKey(iamtoken.NewSecret(key)))
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: fx.doctor.SecretsManagerURL, Bootstrap: bootstrap, Transport: transport,
	})
	if err != nil {
		fx.t.Fatal(err)
	}
	fx.doctor.IAM, fx.doctor.SecretsManager = iam, secretsManager
	fx.doctor.Bootstrap = doctor.BootstrapIdentity{Variable: "SECRETS_MANAGER_APIKEY", Identity: bootstrap, HasKey: true}
}

// save puts a version whose metadata describes a token.
func (fx *fixture) save(iamID string, expires time.Time) {
	fx.cloud.MustPutVersion(fx.one.Token.ID, "eyJ.published.token", map[string]any{
		"expiration": expires.Unix(), "iam_id": iamID, "account": fx.cloud.AccountID(), "fingerprint": "0123456789abcdef",
	})
}

func (fx *fixture) fault(f ibmcloudtest.Fault) { fx.cloud.MustAddFault(f) }

// run examines the rotation, and checks that nothing was written and no
// secret shows.
func (fx *fixture) run() report.Diagnosis {
	fx.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fx.timeout)
	defer cancel()
	diagnosis := fx.doctor.Run(ctx, []rotation.Rotation{fx.one})
	for _, request := range fx.cloud.Requests() {
		if request.Method != "GET" && request.Op != ibmcloudtest.OpIAMToken {
			fx.t.Errorf("doctor asked for %s %s (%s): it must not write", request.Method, request.Path, request.Op)
		}
		if strings.HasSuffix(request.Path, fx.seeded.TokenSecret) && fx.one.APIKey.ID != fx.seeded.TokenSecret {
			fx.t.Errorf("doctor asked for %s: it must not read the token's value", request.Path)
		}
	}
	fx.wantSound(diagnosis)
	return diagnosis
}

// wantSound checks what must be true of every diagnosis.
func (fx *fixture) wantSound(diagnosis report.Diagnosis) {
	fx.t.Helper()
	text, err := json.Marshal(diagnosis)
	if err != nil {
		fx.t.Fatal(err)
	}
	for _, secret := range []string{fx.cloud.BootstrapAPIKey(), fx.seeded.APIKey, fx.cloud.AdminAPIKey(), "eyJ", canary} {
		for piece := range slices.Chunk([]byte(secret), 12) {
			if len(piece) > 2 && strings.Contains(string(text), string(piece)) {
				fx.t.Error("a piece of a key or token shows")
			}
		}
	}
	ok := true
	for _, check := range diagnosis.Checks {
		ok = ok && check.Status != report.CheckFailed
		if check.Detail == "" || (check.Status == report.CheckFailed || check.Status == report.CheckWarning) && check.Advice == "" {
			fx.t.Errorf("%+v: every finding has a detail, and what is wrong has advice", check)
		}
	}
	if diagnosis.OK != ok {
		fx.t.Errorf("ok is %t, but the checks say %t", diagnosis.OK, ok)
	}
}

// canary is in hostile answers.
const canary = "canary-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"

// want compares the check of this name with a status, and with words of its detail and advice.
func (fx *fixture) want(diagnosis report.Diagnosis, name string, status report.Status, words ...string) {
	fx.t.Helper()
	i := slices.IndexFunc(diagnosis.Checks, func(c report.Check) bool { return c.Name == name })
	if i < 0 {
		fx.t.Errorf("there is no check %s: %+v", name, diagnosis.Checks)
		return
	}
	check := diagnosis.Checks[i]
	if check.Status != status {
		fx.t.Errorf("got %+v, want %s %s", check, name, status)
	}
	for _, word := range words {
		if !strings.Contains(check.Detail+" → "+check.Advice, word) {
			fx.t.Errorf("got %+v, want it to say %q", check, word)
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
