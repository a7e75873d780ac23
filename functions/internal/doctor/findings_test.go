package doctor_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/rotation"
)

const nowhere = "00000000-0000-4000-8000-000000000000"

// Every finding of a rotation's checks, with words of what it advises.
func TestFindings(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(w *world)
		check   string
		status  doctor.Status
		words   []string
	}{
		"no key secret":    {func(w *world) { w.one.APIKey.ID = nowhere }, "key-secret", doctor.Failed, []string{"not_found", "API_KEY_SECRET"}},
		"two lines":        {func(w *world) { w.keySecret(ibmcloudtest.SecretSpec{Payload: canary + "\n" + canary}) }, "key-secret", doctor.Failed, []string{"misconfigured", "bare key"}},
		"kv, no field":     {func(w *world) { w.keySecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"k": canary}}) }, "key-secret", doctor.Failed, []string{"api_key_field"}},
		"unknown key":      {func(w *world) { w.cloud.MustDeleteAPIKey(w.seeded.APIKey) }, "key-identity", doctor.Failed, []string{"denied", "BXNIM0415E", "store a valid one"}},
		"another account":  {func(w *world) { w.one.Expect.Account = strings.Repeat("0", 32) }, "key-identity", doctor.Failed, []string{"is expected", "`expect`"}},
		"another identity": {func(w *world) { w.one.Expect.IAMID = w.cloud.ReaderIAMID() }, "key-identity", doctor.Failed, []string{"is expected"}},
		"as expected":      {func(w *world) { w.one.Expect.IAMID = w.seeded.IAMID }, "key-identity", doctor.OK, []string{"as expected"}},
		"key was replaced": {func(w *world) { w.publish(w.cloud.ReaderIAMID(), time.Now().Add(time.Hour)) }, "key-identity", doctor.Failed, []string{"run once with force"}},
		"bootstrap's own": {func(w *world) {
			w.cloud.MustSetVersionMetadata(w.one.Token.ID, "current", nil)
			w.keySecret(ibmcloudtest.SecretSpec{Payload: w.cloud.BootstrapAPIKey()})
		}, "key-identity", doctor.Warning, []string{"bootstrap identity itself"}},
		"opaque token":      {func(w *world) { w.opaque(ibmcloudtest.IdentityWorkload) }, "key-identity", doctor.Warning, []string{"does not tell whose"}},
		"opaque bootstrap":  {func(w *world) { w.cloud.MustDeleteAPIKey(w.seeded.APIKey); w.opaque(ibmcloudtest.IdentityBootstrap) }, "bootstrap-identity", doctor.Warning, []string{"does not tell whose"}},
		"key expires soon":  {func(w *world) { w.expiringKey(3 * 24 * time.Hour) }, "key-expiry", doctor.Warning, []string{"in 2 days", "store a new key"}},
		"key expires later": {func(w *world) { w.expiringKey(90 * 24 * time.Hour) }, "key-expiry", doctor.OK, []string{"expires on 20"}},
		"key secret expires": {func(w *world) {
			w.keySecret(ibmcloudtest.SecretSpec{Payload: w.seeded.APIKey, Expires: time.Now().Add(25 * time.Hour)})
		}, "key-expiry", doctor.Warning, []string{"the key secret expires in 1 day", "destroys"}},
		"short lives":        {func(w *world) { w.cloud.SetTokenTTL(15 * time.Minute) }, "token-lifetime", doctor.Warning, []string{"shorter than the schedule", "ensure"}},
		"no longer than MIN": {func(w *world) { w.cloud.SetTokenTTL(15 * time.Minute); w.doctor.MinRemaining = 15 * time.Minute }, "token-lifetime", doctor.Warning, []string{"MIN_REMAINING"}},
		"an ageing token":    {func(w *world) { w.ageing() }, "token-lifetime", doctor.Failed, []string{"invalid_token", "of life left"}},
		"no token secret":    {func(w *world) { w.one.Token.ID = nowhere }, "token-secret", doctor.Failed, []string{"not_found", "TOKEN_SECRET"}},
		"expiration date":    {func(w *world) { w.tokenSecret(ibmcloudtest.SecretSpec{Expires: time.Now().Add(time.Hour)}) }, "token-secret", doctor.Failed, []string{"IBM destroys the secret for good", "without an expiration date"}},
		"destroyed":          {func(w *world) { w.tokenSecret(ibmcloudtest.SecretSpec{Expires: time.Now().Add(-time.Hour)}) }, "token-secret", doctor.Failed, []string{"was destroyed"}},
		"of another type":    {func(w *world) { w.tokenSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials"}) }, "token-secret", doctor.Failed, []string{"cannot hold a token"}},
		"field of no kv":     {func(w *world) { w.one.Token.Field = "iam_token" }, "token-secret", doctor.Failed, []string{"remove token_field"}},
		"kv": {func(w *world) {
			w.tokenSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"iam_token": "x"}})
		}, "token-secret", doctor.OK, []string{"of type kv"}},
		"the key's group": {func(w *world) {
			w.as(w.cloud.AdminAPIKey())
			w.tokenSecret(ibmcloudtest.SecretSpec{Group: w.cloud.KeyGroupName()})
		}, "token-secret", doctor.Warning, []string{"who may read the token may read the API key", "a group of its own"}},
		"previous locked": {func(w *world) { w.cloud.MustLock(w.one.Token.ID, "previous", canary) }, "token-locks", doctor.Failed, []string{"the next save fails", "remove the locks of the previous version"}},
		"current locked":  {func(w *world) { w.cloud.MustLock(w.one.Token.ID, "current", canary) }, "token-locks", doctor.Warning, []string{"the one after it fails"}},
		"one version":     {func(w *world) { w.tokenSecret(ibmcloudtest.SecretSpec{Payload: "no token yet"}) }, "token-locks", doctor.OK, nil},
		"no token yet":    {func(w *world) { w.cloud.MustSetVersionMetadata(w.one.Token.ID, "current", nil) }, "stored-token", doctor.Warning, []string{"none was published", "bootstrap -rotation default"}},
		"forged metadata": {func(w *world) {
			w.cloud.MustSetVersionMetadata(w.one.Token.ID, "current", map[string]any{"expiration": canary, "iam_id": canary})
		}, "stored-token", doctor.Warning, []string{"someone has edited it"}},
		"expired":           {func(w *world) { w.publish(w.seeded.IAMID, time.Now().Add(-time.Minute)) }, "stored-token", doctor.Failed, []string{"expired 1m", "dead token", "schedule"}},
		"about to expire":   {func(w *world) { w.publish(w.seeded.IAMID, time.Now().Add(3*time.Minute)) }, "stored-token", doctor.Warning, []string{"less than MIN_REMAINING", "ensure schedule"}},
		"clock behind":      {func(w *world) { w.clock(-10 * time.Minute) }, "iam-clock", doctor.Warning, []string{"10m", "NTP"}},
		"clock ahead":       {func(w *world) { w.clock(time.Minute) }, "secrets-manager-clock", doctor.Warning, []string{"-1m", "NTP"}},
		"bootstrap soon":    {func(w *world) { w.hide(); w.doctor.Bootstrap.ExpiresAt = time.Now().Add(50 * time.Hour) }, "bootstrap-key-expiry", doctor.Warning, []string{"in 2 days", "replace the key"}},
		"bootstrap expired": {func(w *world) { w.hide(); w.doctor.Bootstrap.ExpiresAt = time.Now().Add(-50 * time.Hour) }, "bootstrap-key-expiry", doctor.Warning, []string{"has expired"}},
		"bootstrap is told": {func(w *world) { w.hide(); w.doctor.Bootstrap.ExpiresAt = time.Now().Add(500 * time.Hour) }, "bootstrap-key-expiry", doctor.OK, []string{"BOOTSTRAP_EXPIRES_AT"}},
		"bootstrap is not":  {func(w *world) { w.hide() }, "bootstrap-key-expiry", doctor.Skipped, []string{"set BOOTSTRAP_EXPIRES_AT"}},
		"the date is wrong": {func(w *world) { w.doctor.Bootstrap.ExpiresAt = time.Now().Add(500 * time.Hour) }, "bootstrap-key-expiry", doctor.Warning, []string{"does not expire", "correct BOOTSTRAP_EXPIRES_AT"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ibmcloudtest.Options{})
			test.arrange(w)
			w.cloud.ClearRequests()
			w.want(w.run(), test.check, test.status, test.words...)
		})
	}
}

// opaque makes IAM answer an identity with a token that is no JWT.
func (w *world) opaque(identity string) {
	w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: identity, Status: 200, Body: fmt.Sprintf(
		`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`, canary, time.Now().Add(time.Hour).Unix())})
}

// ageing makes IAM answer with a token of an hour that has four minutes left.
func (w *world) ageing() {
	w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200, Body: fmt.Sprintf(
		`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`,
		w.cloud.MustMintToken(w.seeded.APIKey, 4*time.Minute), time.Now().Add(4*time.Minute).Unix())})
}

// clock sets the machine's clock off.
func (w *world) clock(by time.Duration) {
	w.doctor.Now = func() time.Time { return time.Now().Add(by) }
}

// hide makes IAM tell nobody about keys.
func (w *world) hide() { w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysDetails, Status: 403}) }

// expiringKey stores a key of the workload that expires.
func (w *world) expiringKey(in time.Duration) {
	w.t.Helper()
	body := fmt.Sprintf(`{"name":"k","iam_id":%q,"expires_at":%q}`, w.seeded.IAMID, time.Now().Add(in).UTC().Format("2006-01-02T15:04-0700"))
	request, err := http.NewRequest(http.MethodPost, w.doctor.IAMHost.Origin+"/v1/apikeys", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var key struct {
		APIKey string `json:"apikey"`
	}
	if err := json.NewDecoder(response.Body).Decode(&key); err != nil || key.APIKey == "" {
		w.t.Fatalf("making a key: %s, %v", response.Status, err)
	}
	w.keySecret(ibmcloudtest.SecretSpec{Payload: key.APIKey})
}

// Reading such a secret makes a key and deletes another: that would be writing.
func TestASecretThatMakesAKeyOnEveryReadIsNotRead(t *testing.T) {
	for name, ref := range map[string]func(id string) rotation.KeyRef{
		"by id": func(id string) rotation.KeyRef { return rotation.KeyRef{ID: id} },
		"by name": func(string) rotation.KeyRef {
			return rotation.KeyRef{Group: "iam-api-keys", Type: "iam_credentials", Name: "minting"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ibmcloudtest.Options{})
			w.as(w.cloud.AdminAPIKey()) // who may see metadata
			w.one.APIKey = ref(w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Name: "minting"}))
			w.want(w.run(), "key-secret", doctor.Failed, "reuse_api_key false")
			for _, request := range w.cloud.Requests() {
				if request.Op == ibmcloudtest.OpSecretsGet {
					t.Error("the secret was read")
				}
			}
			w.one.APIKey = ref(w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Name: "minting-2", ReuseAPIKey: true}))
			if name == "by name" {
				w.one.APIKey.Name = "minting-2"
			}
			w.want(w.run(), "key-secret", doctor.OK, "iam_credentials")
		})
	}
}

func TestAnAnswerAboutAKeyThatCannotBeUsedLeavesItUnknown(t *testing.T) {
	for _, body := range []string{"", "<html>" + canary, `{"expires_at":"` + canary + `","id":"x"}`, `{"id":1}`, `{}`} {
		w := newWorld(t, ibmcloudtest.Options{})
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysDetails, Status: 200, Body: body})
		w.want(w.run(), "key-expiry", doctor.Skipped, "not known")
	}
}

func TestAHostThatTellsNoTime(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	silent := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Date"] = nil
		_, _ = io.WriteString(rw, canary)
	}))
	defer silent.Close()
	w.doctor.IAMHost.Origin = silent.URL
	w.want(w.run(), "iam-clock", doctor.Skipped, "does not tell its time")
}
