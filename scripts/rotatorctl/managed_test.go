package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

const day = 24 * time.Hour

// newManaged is a fixture with managed keys.
func newManaged(t *testing.T) *fixture {
	fx := newFixture(t)
	fx.outputs["managed_keys"] = "true"
	return fx
}

// switched checks what a run printed and made: the two secrets, and at AWS the bootstrap's key of now after a fixed one.
func (fx *fixture) switched(r run) {
	fx.t.Helper()
	for role, variable := range map[string]string{"workload": "API_KEY_SECRET", "bootstrap": "BOOTSTRAP_KEY_SECRET"} {
		metadata := fx.asAdmin("GET", "/api/v2/secrets/"+r.values[variable]+"/metadata", "")
		for field, want := range map[string]any{
			"secret_type": "iam_credentials", "secret_group_id": fx.outputs["key_group_id"], "ttl": "1080h", "reuse_api_key": true,
			"service_id": strings.TrimPrefix(fx.outputs[role+"_iam_id"], "iam-"), "versions_total": 2.0,
		} {
			if metadata[field] != want {
				fx.t.Errorf("%s: %s: got %v, want %v", role, field, metadata[field], want)
			}
		}
		if got := fmt.Sprint(metadata["rotation"]); got != "map[auto_rotate:true interval:15 unit:day]" {
			fx.t.Errorf("%s: rotation: got %s", role, got)
		}
		fx.owner(fx.cloud.MustCurrent(r.values[variable]).Payload, fx.outputs[role+"_iam_id"])
	}
	if fx.aws.secrets[defaultAWSSecret] != fx.cloud.MustCurrent(r.values["BOOTSTRAP_KEY_SECRET"]).Payload {
		fx.t.Error("AWS has another key than the managed one of now")
	}
	if got := fx.aws.version; len(got[0]) != 64 || !strings.HasPrefix(got[0], "ApiKey-") || got[1] == "" || strings.HasPrefix(got[1], "ApiKey-") {
		fx.t.Errorf("versions at AWS: got %q, want a managed key after a fixed one", got)
	}
}

func TestManagedKeysAreMadeTriedAndSwitchedTo(t *testing.T) {
	fx := newManaged(t)
	r := fx.succeed("--reader-key-file", fx.path("reader.key"))
	want := []string{"API_KEY_SECRET", "BOOTSTRAP_KEY_SECRET", "BOOTSTRAP_SECRET_ARN", "EXPECT_ACCOUNT", "EXPECT_IAM_ID", "READER_APIKEY_ID", "SECRETS_MANAGER_URL", "TOKEN_SECRET"}
	if got := slices.Sorted(maps.Keys(r.values)); !slices.Equal(got, want) {
		t.Errorf("names: got %q, want %q", got, want)
	}
	if got := strings.Count(r.stderr, "and the one before still does"); got != 2 {
		t.Errorf("got %d secrets whose earlier key still works, want 2\n%s", got, r.stderr)
	}
	fx.switched(r)
	fixed := fx.asAdmin("GET", "/v1/apikeys/"+fx.keyIDs("bootstrap")[0], "")
	if want := time.Now().UTC().AddDate(0, 0, 30).Format(time.DateOnly); !strings.HasPrefix(fmt.Sprint(fixed["expires_at"]), want) {
		t.Errorf("the fixed key of the bootstrap expires on %v, want %s", fixed["expires_at"], want)
	}
	if got := fx.keyIDs("workload"); len(got) > 0 {
		t.Errorf("got %d fixed keys of the workload, want none", len(got))
	}

	fx.forget()
	again := fx.succeed("--reader-key-file", fx.path("reader.key"))
	if got := fx.writes(); len(got) > 0 || again.stdout != r.stdout {
		t.Errorf("again: got %q and\n%s%s, want no change", got, again.stdout, again.stderr)
	}
	// The reader's key is one of setup's.
	changed := fx.succeed("--reader-key-file", fx.path("reader.key"), "--rotate-keys")
	if got := fx.writes(); !slices.Equal(got, []string{"apikeys.create", "apikeys.update"}) || changed.values["API_KEY_SECRET"] != r.values["API_KEY_SECRET"] {
		t.Errorf("--rotate-keys: got %q, want another key of the reader's alone", got)
	}
}

// TestManagedCutOffAtEachRequest: from any request on nothing is answered. The next run finishes the work.
func TestManagedCutOffAtEachRequest(t *testing.T) {
	for _, drop := range []string{ibmcloudtest.DropBefore, ibmcloudtest.DropAfter} {
		for n, done := 0, false; !done; n++ {
			t.Run(fmt.Sprintf("%s/%d", drop, n), func(t *testing.T) {
				fx := newManaged(t)
				fx.fault(ibmcloudtest.Fault{Op: "*", Skip: n, Drop: drop})
				r := fx.run()
				fx.cloud.ClearFaults()
				if done = r.exit == 0; done {
					if n < 20 {
						t.Errorf("got %d requests, want at least 20", n)
					}
					return
				}
				if r.exit != 1 || r.stdout != "" {
					t.Errorf("got exit %d, %q; want 1 and nothing printed", r.exit, r.stdout)
				}
				fx.switched(fx.succeed())
			})
		}
	}
	for _, lose := range []bool{false, true} { // AWS takes the first key, and not the second
		fx := newManaged(t)
		fx.succeed()
		fx.aws.version = [2]string{"fixed", ""}
		fx.aws.fail, fx.aws.lose = map[bool]string{false: "InternalServiceError"}[lose], lose
		fx.fail(1, "the AWS secret")
		fx.aws.fail, fx.aws.lose = "", false
		fx.aws.version[1] = "" // what was lost has been done
		r := fx.succeed()
		if fx.aws.secrets[defaultAWSSecret] != fx.cloud.MustCurrent(r.values["BOOTSTRAP_KEY_SECRET"]).Payload {
			t.Error("AWS has another key than the managed one of now")
		}
	}
}

func TestNothingIsSwitchedUnlessTheNewKeyWorks(t *testing.T) {
	unknown := func(times int) ibmcloudtest.Fault {
		return ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityBootstrap, Status: 400, Times: times,
			Body: `{"errorCode":"BXNIM0415E","errorMessage":"Provided API key could not be found."}`}
	}
	fx := newManaged(t)
	fx.fault(unknown(29)) // not a minute
	fx.switched(fx.succeed())

	fx = newManaged(t)
	fx.fault(unknown(0))
	fx.fail(1, "The key is not known to IAM: it was deleted, has expired or was made seconds ago. Nothing is switched")
	if len(fx.aws.writes) > 0 {
		t.Errorf("AWS: got %q, want nothing stored", fx.aws.writes)
	}
	fx.fail(1, "Nothing is switched") // nor by the next run
	fx.cloud.ClearFaults()
	fx.switched(fx.succeed())
}

func TestWhatIBMDoesWithTheKeyBefore(t *testing.T) {
	fx := newManaged(t)
	fx.cloud.Set(ibmcloudtest.Undocumented{KeyAfterManualRotation: "at_once"})
	r := fx.succeed()
	if got := strings.Count(r.stderr, "IBM has ended the one before at once"); got != 2 {
		t.Errorf("got it said %d times, want twice\n%s", got, r.stderr)
	}
	fx.switched(r)
}

// What IBM leaves open of what setup does, at each of its ends; the simulated year plays what the function meets.
func TestOpenQuestionsOfSetup(t *testing.T) {
	type open = ibmcloudtest.Undocumented
	taken := func(fx *fixture) {
		fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Name: "iam-token-rotator-api-key", Group: "default", ReuseAPIKey: true})
	}
	ended := func(fx *fixture) {
		fx.succeed()
		fx.cloud.Set(open{AutomaticRotation: "fails"})
		fx.later(46 * day)
	}
	ruled := func(fx *fixture) { fx.succeed() }
	for _, test := range []struct {
		settings open
		arrange  func(fx *fixture)
		words    string // of the failure; empty for none
	}{
		{open{Duplicate: 409}, taken, "use another --name"},
		{open{Duplicate: 400}, taken, "use another --name"},
		{open{GroupsAuthorization: "not_required"}, nil, ""},
		{open{GroupsAuthorization: "required"}, nil, "Secrets Manager may not make keys"},
		{open{KeyAuthorization: "account"}, nil, ""},
		{open{KeyAuthorization: "service_ids"}, nil, ""},
		{open{KeyAuthorization: "none"}, nil, "Secrets Manager may not make keys"},
		{open{Destroyed: 400, EndedKeySecret: 200}, ended, ""},
		{open{Destroyed: 404, EndedKeySecret: 404}, ended, ""},
		{open{Destroyed: 410, EndedKeySecret: 410}, ended, ""},
		{open{Destroyed: 412}, ended, ""},
		{open{RuleChange: "keeps"}, ruled, ""},
		{open{RuleChange: "rotates"}, ruled, ""},
		{open{OwnKeys: "none"}, ruled, ""},
		{open{OwnKeys: "policy"}, ruled, ""},
	} {
		fx := newManaged(t)
		fx.cloud.Set(test.settings)
		if test.arrange != nil {
			test.arrange(fx)
		}
		if test.words != "" {
			fx.fail(1, test.words)
			continue
		}
		r := fx.succeed()
		versions := fx.cloud.MustVersions(r.values["BOOTSTRAP_KEY_SECRET"])
		if key := versions[len(versions)-1].Payload; fx.aws.secrets[defaultAWSSecret] != key || len(versions) != 2 {
			t.Errorf("%+v: got %d versions, and another key at AWS: %v", test.settings, len(versions), fx.aws.secrets[defaultAWSSecret] != key)
		}
	}
}

func TestManagedSecretsThatDoNotFit(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(fx *fixture)
		words string
	}{
		"no authorization": {func(fx *fixture) { fx.cloud.Set(ibmcloudtest.Undocumented{KeyAuthorization: "none"}) },
			"creating the secret iam-token-rotator-api-key: HTTP 400. Secrets Manager may not make keys"},
		"another service id": {func(fx *fixture) {
			fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Name: "iam-token-rotator-api-key", IAMID: fx.outputs["reader_iam_id"], ReuseAPIKey: true})
		}, "another service id"},
		"a key for each reading": {func(fx *fixture) {
			fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Name: "iam-token-rotator-bootstrap-key", IAMID: fx.outputs["bootstrap_iam_id"]})
		}, "reuse_api_key false"},
		"twenty keys": {func(fx *fixture) {
			for range 20 {
				fx.cloud.MustCreateAPIKey(fx.outputs["bootstrap_iam_id"])
			}
		}, "20 already"},
		"a lock": {func(fx *fixture) {
			fx.succeed()
			id := fx.succeed().values["API_KEY_SECRET"]
			fx.cloud.MustLock(id, "previous", "job")
			fx.cloud.Set(ibmcloudtest.Undocumented{EndedKeySecret: 404})
			fx.later(46 * day)
		}, "remove its locks"},
		"not true or false": {func(fx *fixture) { fx.outputs["managed_keys"] = "yes" }, "MANAGED_KEYS does not have the form"},
	} {
		t.Run(name, func(t *testing.T) {
			fx := newManaged(t)
			test.spoil(fx)
			fx.aws.writes = nil
			if r := fx.run(); r.exit == 0 || r.stdout != "" || !strings.Contains(r.stderr, test.words) || len(fx.aws.writes) > 0 {
				t.Errorf("got exit %d, %q, %q, %q at AWS; want the words %q and nothing stored", r.exit, r.stdout, r.stderr, fx.aws.writes, test.words)
			}
		})
	}
}

// later lets time pass at IBM, and logs in anew.
func (fx *fixture) later(d time.Duration) {
	fx.t.Helper()
	fx.cloud.Advance(d)
	_, fx.admin = fx.exchange(fx.cloud.AdminAPIKey())
	fx.env["IAM_TOKEN"] = fx.admin
}

func TestARunMuchLater(t *testing.T) {
	fx := newManaged(t)
	first := fx.succeed()
	fx.later(20 * day) // IBM has rotated; the function has not stored the key
	second := fx.succeed()
	if second.stdout != first.stdout || fx.aws.secrets[defaultAWSSecret] != fx.cloud.MustCurrent(first.values["BOOTSTRAP_KEY_SECRET"]).Payload {
		t.Error("after a rotation by IBM: want the same lines, and AWS with the key of now")
	}
	fx.cloud.Set(ibmcloudtest.Undocumented{AutomaticRotation: "fails"})
	fx.later(60 * day)
	third := fx.succeed()
	if third.values["API_KEY_SECRET"] == first.values["API_KEY_SECRET"] || !strings.Contains(third.stderr, "made anew") {
		t.Errorf("past the lease: got %s, want the secrets made anew", third.stderr)
	}
	for role, variable := range map[string]string{"workload": "API_KEY_SECRET", "bootstrap": "BOOTSTRAP_KEY_SECRET"} {
		fx.owner(fx.cloud.MustCurrent(third.values[variable]).Payload, fx.outputs[role+"_iam_id"])
	}
	fx.owner(fx.aws.secrets[defaultAWSSecret], fx.outputs["bootstrap_iam_id"])
	if got := fx.aws.version; !strings.HasPrefix(got[0], "ApiKey-") || got[1] == "" || strings.HasPrefix(got[1], "ApiKey-") || len(fx.keyIDs("bootstrap")) != 2 {
		t.Errorf("versions at AWS: got %q, want a managed key after another fixed one", got)
	}
	fx.forget()
	if fx.succeed(); len(fx.writes()) > 0 {
		t.Errorf("again: got %q, want no change", fx.writes())
	}
}

// TestReplacedServiceID: after a theft Terraform has made another service id.
func TestReplacedServiceID(t *testing.T) {
	for role, variable := range map[string]string{"workload": "API_KEY_SECRET", "bootstrap": "BOOTSTRAP_KEY_SECRET"} {
		fx := newManaged(t)
		first := fx.succeed()
		stolen := fx.cloud.MustCurrent(first.values[variable]).Payload
		replaced := fx.outputs[role+"_iam_id"]
		fx.outputs[role+"_iam_id"] = fx.cloud.MustCreateServiceID("successor", "")
		fx.fail(1, "another service id", "--reader-key-file", fx.path("reader.key")) // both are there
		fx.asAdmin("DELETE", "/v1/serviceids/"+strings.TrimPrefix(replaced, "iam-"), "")
		fx.rejected("the stolen key", stolen)
		fx.cloud.MustDeleteSecret(first.values[variable])
		second := fx.succeed()
		if second.values[variable] == first.values[variable] {
			t.Errorf("%s: got the same secret, want it made anew", role)
		}
		fx.owner(fx.cloud.MustCurrent(second.values[variable]).Payload, fx.outputs[role+"_iam_id"])
		fx.owner(fx.aws.secrets[defaultAWSSecret], fx.outputs["bootstrap_iam_id"])
		if fx.forget(); fx.succeed().stdout != second.stdout || len(fx.writes()) > 0 {
			t.Errorf("%s: again: got %q, want no change", role, fx.writes())
		}
	}
}

func TestManagedKeysWithoutABootstrapKeyAtAWS(t *testing.T) {
	fx := newManaged(t)
	r := fx.succeed("--bootstrap-key-file", fx.path("bootstrap.key"))
	if fx.owner(fx.read("bootstrap.key"), fx.outputs["bootstrap_iam_id"]); r.values["BOOTSTRAP_KEY_SECRET"] != "" || r.values["BOOTSTRAP_APIKEY_ID"] == "" || len(fx.aws.writes) > 0 {
		t.Errorf("in a file: got %q, want the bootstrap key as a fixed one", r.values)
	}
	fx = newManaged(t)
	r = fx.succeed("--name", "jobs", "--no-bootstrap-key")
	if r.values["BOOTSTRAP_KEY_SECRET"] != "" || r.values["API_KEY_SECRET"] == "" || len(fx.aws.writes) > 0 {
		t.Errorf("a further workload: got %q", r.values)
	}
}

func TestFromFixedToManagedKeys(t *testing.T) {
	fx := newFixture(t)
	fixed := fx.succeed()
	fx.outputs["managed_keys"] = "true"
	r := fx.succeed("--rotate-keys")
	if !strings.Contains(r.stderr, "the secret "+fixed.values["API_KEY_SECRET"]+" holds the workload's fixed key") || !strings.Contains(r.stderr, "--rotate-keys leaves them") {
		t.Errorf("got %s, want what is left named", r.stderr)
	}
	fx.owner(fx.cloud.MustCurrent(fixed.values["API_KEY_SECRET"]).Payload, fx.outputs["workload_iam_id"])
	fx.owner(fx.aws.secrets[defaultAWSSecret], fx.outputs["bootstrap_iam_id"])
	if r.values["API_KEY_SECRET"] == fixed.values["API_KEY_SECRET"] || r.values["TOKEN_SECRET"] != fixed.values["TOKEN_SECRET"] {
		t.Errorf("got %q, want another key secret, the same token secret", r.values)
	}
}

// A foreign answer in place of the key or the ids is not printed or stored.
func TestForeignManagedAnswers(t *testing.T) {
	for _, test := range []struct{ path, field, value string }{
		{"/api/v2/secrets/", "api_key_id", "pwned\x1b[2J"}, {"/api/v2/secrets/", "api_key", "two words"}, {"/api/v2/secrets", "id", "pwned$(id)"},
	} {
		fx := newManaged(t)
		fx.outputs["secrets_manager_url"] = fx.lying(func(r *http.Request, body []byte) []byte {
			var answer any
			if strings.HasPrefix(r.URL.Path, test.path) && json.Unmarshal(body, &answer) == nil {
				replace(answer, test.field, test.value)
				body, _ = json.Marshal(answer)
			}
			return body
		})
		if r := fx.run(); r.exit != 1 || r.stdout != "" || len(fx.aws.writes) > 0 {
			t.Errorf("%s: got exit %d, %q, AWS %q; want 1 and nothing stored", test.field, r.exit, r.stdout, fx.aws.writes)
		}
	}
}
