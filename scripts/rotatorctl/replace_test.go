package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// A theft is a set-up whose service ids are replaced. Terraform is a script, the same for all tests: for a service id that
// the state in its folder does not hold it takes the next one, which the cloud has made before.
type theft struct {
	*fixture
	key, token, next map[string]string // by role: of the old service id; and the new one
	stolen           map[string]string // what setup wrote
	args             []string          // of setup and of replace-identity
}

const fakeTerraform = `#!/bin/sh
cd "${1#-chdir=}" && shift || exit 9
echo "$*" >>log
if [ -e fail ] && grep -qxF -- "$1 $2" fail; then rm fail; echo 'Error: no luck' >&2; exit 1; fi
case "$*" in
'output -json -no-color') cat outputs.json ;;
'plan -detailed-exitcode -input=false -no-color'*) [ ! -e changes ] || { echo 'Plan: 1 to destroy.'; exit 2; } ;;
'state list') cat state ;;
'state list -id='*) if grep -qxF "${3#-id=}" ids; then echo found; fi ;;
'state rm '*) shift 2; for a; do
		case $a in ibm_iam_service_id.*) role=${a#*.}; role=${role%%\[*}; sed -i "/^$(cat old-$role)$/d" ids ;; esac
		grep -vxF -- "$a" state >left; mv left state
	done ;;
'apply -auto-approve -input=false -no-color'*) for role in workload bootstrap; do
		if ! grep -q "^ibm_iam_service_id.$role" state; then
			sed -i "s/$(cat old-$role)/$(cat next-$role)/" outputs.json
			echo "ibm_iam_service_id.$role" >>state; cat next-$role >>ids
		fi
	done ;;
*) echo "unknown: $*" >&2; exit 9 ;;
esac
`

func newTheft(t *testing.T, managed bool) *theft {
	fx := newFixture(t)
	fx.outputs["managed_keys"] = fmt.Sprint(managed)
	th := &theft{fixture: fx, key: map[string]string{}, token: map[string]string{}, next: map[string]string{}}
	programs.Need(t, "sh", "sed", "grep")
	th.write("state", "ibm_iam_service_id.bootstrap[0]\nibm_iam_service_id.reader\nibm_iam_service_id.workload\nibm_iam_service_policy.secret_group[\"bootstrap-keys\"]\n"+
		"ibm_iam_service_policy.secret_group[\"bootstrap-tokens\"]\nibm_iam_service_policy.secret_group[\"reader\"]\nibm_iam_service_policy.workload[0]\n")
	ids := ""
	for _, role := range []string{"workload", "bootstrap"} {
		th.next[role] = fx.cloud.MustCopyServiceID(fx.outputs[role+"_iam_id"])
		th.write("old-"+role, subject(fx.outputs[role+"_iam_id"])+"\n")
		th.write("next-"+role, subject(th.next[role])+"\n")
		ids += subject(fx.outputs[role+"_iam_id"]) + "\n"
	}
	th.write("ids", ids)
	th.write("outputs.json", fx.terraform())
	return th
}

// steal sets up, and notes what a thief has then.
func (th *theft) steal() {
	th.t.Helper()
	th.succeed(append(th.args, "--env", th.path("ibm.env"))...)
	th.stolen = mustReadEnv(th.t, th.path("ibm.env"))
	th.key["workload"], th.key["bootstrap"] = th.cloud.MustCurrent(th.stolen["API_KEY_SECRET"]).Payload, th.currentAtAWS()
	for role, key := range th.key {
		_, th.token[role] = th.exchange(key)
	}
}

// currentAtAWS is the bootstrap key there.
func (th *theft) currentAtAWS() string {
	if key, ok := th.aws.secrets[defaultAWSSecret]; ok {
		return key
	}
	moto, _ := startMoto()
	return moto.MustCall(th.t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": th.stolen["BOOTSTRAP_SECRET_ARN"]})["SecretString"].(string)
}

func mustReadEnv(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for text := range strings.Lines(string(text)) {
		found := line.FindStringSubmatch(strings.TrimSpace(text))
		values[found[1]] = found[2]
	}
	return values
}

func subject(iamID string) string { return strings.TrimPrefix(iamID, "iam-") }

func (th *theft) write(name, text string) {
	th.t.Helper()
	if err := os.WriteFile(th.path(name), []byte(text), 0o600); err != nil {
		th.t.Fatal(err)
	}
}

func (th *theft) replace(args ...string) outcome {
	th.t.Helper()
	return th.replaceTyping("", args...)
}

func (th *theft) replaceTyping(typed string, args ...string) outcome {
	th.t.Helper()
	got := runWith(th.t, th.env, configFor(th.aws.url), typed, slices.Concat([]string{"replace-identity", "--terraform", th.folder, "--env", th.path("ibm.env")}, th.args, args)...)
	for _, found := range secretShape.FindAllString(strings.ReplaceAll(got.all(), th.folder, ""), -1) {
		if !publicID.MatchString(found) {
			th.t.Fatalf("a secret of %d characters is printed", len(found))
		}
	}
	return got
}

// works reports whether the old service id's key and token are still accepted.
func (th *theft) works(role string) (key, token bool) {
	status, _ := th.exchange(th.key[role])
	path := "/v3/targets"
	if role == "bootstrap" {
		path = "/api/v2/secrets/" + th.stolen["TOKEN_SECRET"] + "/metadata"
	}
	request, _ := http.NewRequestWithContext(th.t.Context(), "GET", th.origin+path, nil)
	request.Header.Set("Authorization", "Bearer "+th.token[role])
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		th.t.Fatal(err)
	}
	_ = response.Body.Close()
	return status == 200, response.StatusCode == 200
}

// replaced checks that the old service ids of the roles are gone, and the new ones in their place.
func (th *theft) replaced(roles ...string) map[string]string {
	th.t.Helper()
	values := mustReadEnv(th.t, th.path("ibm.env"))
	for _, role := range roles {
		if key, token := th.works(role); key || token {
			th.t.Errorf("%s: got the old key accepted %t, the old token %t; want both refused", role, key, token)
		}
	}
	th.owner(th.cloud.MustCurrent(values["API_KEY_SECRET"]).Payload, values["EXPECT_IAM_ID"])
	if strings.Contains(strings.Join(roles, " "), "workload") {
		want(th.t, "EXPECT_IAM_ID", values["EXPECT_IAM_ID"], th.next["workload"])
		if values["API_KEY_SECRET"] == th.stolen["API_KEY_SECRET"] {
			th.t.Error("the key secret is that of the old service id")
		}
	}
	if strings.Contains(strings.Join(roles, " "), "bootstrap") {
		th.owner(th.currentAtAWS(), th.next["bootstrap"])
	}
	for _, secret := range th.asAdmin("GET", "/api/v2/secrets?limit=200", "")["secrets"].([]any) {
		if name := secret.(map[string]any)["name"].(string); strings.Contains(name, "-of-ServiceId-") {
			th.t.Errorf("the secret %s is left", name)
		}
	}
	if left, _ := filepath.Glob(th.path("*.replacing")); len(left) > 0 {
		th.t.Errorf("%s is left", left)
	}
	return values
}

// result is what replace-identity prints when it has replaced those.
func (th *theft) result(roles ...string) (text string) {
	for _, role := range roles {
		text += fmt.Sprintf("%s: %s replaces %s, which is deleted\n", role, th.next[role], th.outputs[role+"_iam_id"])
	}
	return text
}

// deploy deploys what the set-up has written, as a stack of that name.
func (th *theft) deploy(stack string) *account {
	th.t.Helper()
	a := newAccountFor(th.t, stack, th.cloud, th.origin)
	th.aws.url, th.args = a.url, append(th.args, "--aws-secret", stack+"/own")
	for _, name := range []string{"STACK", "BUCKET", "ARCH", "DEPLOY_DIR", "GO"} {
		th.env[name] = a.set[name]
	}
	th.steal()
	maps.Copy(a.set, th.stolen)
	a.must(0, "deploy", "default: rotated")
	return a
}

// watchReaders uses the published token again and again, until stop.
func (th *theft) watchReaders() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
				th.useToken(th.stolen["TOKEN_SECRET"])
			}
		}
	}()
	return func() { close(done); <-ended }
}

// TestAThiefIsEvicted: with a deployed function. Readers have a good token all the time.
func TestAThiefIsEvicted(t *testing.T) {
	t.Parallel()
	for _, managed := range []bool{true, false} {
		t.Run(fmt.Sprintf("managed=%t", managed), func(t *testing.T) {
			t.Parallel()
			th := newTheft(t, managed)
			stack := th.deploy(fmt.Sprintf("thief-%t", managed))
			stop := th.watchReaders()
			got := th.replace("--bootstrap", "--workload", "--yes")
			stop()
			if got.exit != 0 {
				t.Fatalf("got exit %d\n%s", got.exit, got.all())
			}
			values, variables := th.replaced("bootstrap", "workload"), stack.variables()
			th.useToken(values["TOKEN_SECRET"])
			for _, name := range []string{"EXPECT_IAM_ID", "API_KEY_SECRET", "BOOTSTRAP_KEY_SECRET"} {
				want(t, "the function's "+name, variables[name], values[name])
			}
			want(t, "printed", got.stdout, th.result("bootstrap", "workload"))
			if state, _ := os.ReadFile(th.path("state")); strings.Count(string(state), "reader") != 2 {
				t.Errorf("Terraform's state: got %s, want the reader's resources as before", state)
			}
		})
	}
}

// both replaces both service ids of a function that is deployed by other means.
var both = []string{"--bootstrap", "--workload", "--yes", "--no-deploy"}

// TestReplacementCutOffAtEachRequest: from any request on nothing is answered. Until the end the old service ids work; the
// next run finishes the work, deletes no other one, and reports all of it.
func TestReplacementCutOffAtEachRequest(t *testing.T) {
	t.Parallel()
	for _, managed := range []bool{true, false} {
		for _, drop := range []string{ibmcloudtest.DropBefore, ibmcloudtest.DropAfter} {
			step := 1 // what is done and not answered is the harder case
			if drop == ibmcloudtest.DropBefore || !managed {
				step = 4
			}
			t.Run(fmt.Sprintf("managed=%t/%s", managed, drop), func(t *testing.T) {
				t.Parallel()
				for n, done := 0, false; !done; n += step {
					t.Run(fmt.Sprint(n), func(t *testing.T) { done = cutOffAt(t, managed, drop, n) })
				}
			})
		}
	}
}

// cutOffAt reports whether a run has no more requests than n.
func cutOffAt(t *testing.T, managed bool, drop string, n int) (done bool) {
	th := newTheft(t, managed)
	th.steal()
	th.fault(ibmcloudtest.Fault{Op: "*", Skip: n, Drop: drop})
	got := th.replace(both...)
	th.cloud.ClearFaults()
	if got.exit == 0 {
		if n < 20 {
			t.Errorf("got %d requests, want at least 20", n)
		}
		return true
	}
	want(t, "exit code", got.exit, 1)
	key, token := th.works("workload")
	if values := mustReadEnv(t, th.path("ibm.env")); (!key || !token) && values["EXPECT_IAM_ID"] != th.next["workload"] {
		t.Error("the old workload has ended before the new one was ready")
	}
	th.replaceBoth()
	return false
}

// replaceBoth runs to the end, whatever was done before.
func (th *theft) replaceBoth() {
	th.t.Helper()
	got := th.replace(both...)
	if got.exit != 0 {
		th.t.Fatalf("again: got exit %d\n%s", got.exit, got.all())
	}
	th.replaced("bootstrap", "workload")
	want(th.t, "printed", got.stdout, th.result("bootstrap", "workload"))
}

// TestReplacementWhenTerraformFails: nothing has ended, and the next run finishes the work.
func TestReplacementWhenTerraformFails(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"output -json", "plan -detailed-exitcode", "state list", "state rm", "apply -auto-approve"} {
		th := newTheft(t, true)
		th.steal()
		th.write("fail", command)
		exit := 1
		if command == "output -json" {
			exit = 2
		}
		if got := th.replace(both...); got.exit != exit || !strings.Contains(got.stderr, "Error: no luck") {
			t.Errorf("terraform %s fails: got exit %d\n%s", command, got.exit, got.all())
		}
		for _, role := range []string{"bootstrap", "workload"} {
			if key, token := th.works(role); !key || !token {
				t.Errorf("terraform %s fails: the %s has ended", command, role)
			}
		}
		th.replaceBoth()
	}
}

func TestReplacementAsksBeforeItDeletes(t *testing.T) {
	t.Parallel()
	th := newTheft(t, true)
	th.steal()
	got := th.replaceTyping("y\nn\n", "--workload", "--no-deploy")
	if got.exit != 1 || !strings.Contains(got.stderr, "Deleting the service id "+th.outputs["workload_iam_id"]+" of the workload, with all its keys and tokens. Continue? [y/N]") ||
		!strings.Contains(got.stderr, "still works") {
		t.Fatalf("got exit %d\n%s", got.exit, got.all())
	}
	if key, token := th.works("workload"); !key || !token {
		t.Error("it was deleted without an answer")
	}
	if got := th.replaceTyping("n\n", "--workload", "--no-deploy"); got.exit != 1 || !strings.Contains(got.stderr, "Deploy the function with") {
		t.Errorf("not deployed: got exit %d\n%s", got.exit, got.all())
	}
	if got = th.replaceTyping("y\ny\n", "--workload", "--no-deploy", "-o", "json"); got.exit != 0 || !json.Valid([]byte(got.stdout)) || !strings.Contains(got.stdout, th.next["workload"]) {
		t.Errorf("got exit %d\n%s", got.exit, got.all())
	}
	th.replaced("workload")
	if key, token := th.works("bootstrap"); !key || !token {
		t.Error("the bootstrap was replaced, too")
	}
}

// A new policy takes minutes to reach everywhere: until then the function would be refused with the new key.
func TestTheBootstrapKeyIsStoredWhenItsPoliciesCount(t *testing.T) {
	t.Parallel()
	th := newTheft(t, true)
	th.steal()
	th.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Status: 403})
	before := th.currentAtAWS()
	if got := th.replace(both...); got.exit != 1 || !strings.Contains(got.stderr, "do not count yet") || th.currentAtAWS() != before {
		t.Errorf("never: got exit %d\n%s", got.exit, got.stderr)
	}
	th.cloud.ClearFaults()
	th.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Status: 403, Times: 3})
	th.replaceBoth()
}

func TestReplacementRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args  []string
		spoil func(th *theft)
		exit  int
		words string
	}{
		"nothing":         {nil, nil, 2, "name what was stolen"},
		"standard output": {[]string{"--workload", "--env", "-"}, nil, 2, "not -"},
		"no file":         {[]string{"--workload", "--env", "/nowhere"}, nil, 2, "--env /nowhere cannot be read"},
		"no bucket":       {[]string{"--workload"}, nil, 2, "set BUCKET"},
		"contradiction":   {[]string{"--bootstrap", "--no-bootstrap-key"}, nil, 2, "does not go with"},
		"an argument":     {[]string{"key"}, nil, 2, "takes no arguments"},
		"other changes":   {both, func(th *theft) { th.write("changes", "") }, 1, "nothing is replaced: terraform has other changes"},
		"a foreign note": {both, func(th *theft) { th.write("ibm.env.replacing", "OLD_WORKLOAD_IAM_ID='$(touch pwned)\x1b[2J'\n") }, 2,
			`"OLD_WORKLOAD_IAM_ID" in ` + "FOLDER/ibm.env.replacing has a value of unknown form"},
		"a profile": {both, func(th *theft) {
			th.outputs["bootstrap_iam_id"], th.outputs["iam_profile_id"] = "", th.cloud.ProfileID()
			th.write("outputs.json", th.terraform())
		}, 2, "there is no bootstrap service id"},
		"a login that has expired":  {both, func(th *theft) { th.env["IAM_TOKEN"] = th.cloud.MustMintToken(th.cloud.AdminAPIKey(), -time.Hour) }, 1, "IAM_TOKEN expires"},
		"the output is not changed": {both, func(th *theft) { th.write("next-bootstrap", subject(th.outputs["bootstrap_iam_id"])+"\n") }, 1, "has made no other service id"},
	} {
		t.Run(name, func(t *testing.T) {
			th := newTheft(t, true)
			th.steal()
			if test.spoil != nil {
				test.spoil(th)
			}
			got := th.replace(test.args...)
			if got.exit != test.exit || !strings.Contains(got.stderr, strings.ReplaceAll(test.words, "FOLDER", th.folder)) || strings.Contains(got.all(), "\x1b") {
				t.Errorf("got exit %d, %q; want %d and the words %q", got.exit, got.all(), test.exit, test.words)
			}
			for _, role := range []string{"bootstrap", "workload"} {
				if key, token := th.works(role); !key || !token {
					t.Errorf("the %s has ended", role)
				}
			}
		})
	}
}

// Without a folder of Terraform's a person makes the service id. A list of rotations is the person's, too, and a further
// workload's file names no bootstrap key.
func TestReplacementByHand(t *testing.T) {
	t.Parallel()
	th := newTheft(t, true)
	th.steal()
	text, _ := os.ReadFile(th.path("ibm.env"))
	th.write("ibm.env", regexp.MustCompile(`(?m)^BOOTSTRAP_.*\n`).ReplaceAllString(string(text), ""))
	th.env["BOOTSTRAP_SECRET_ARN"] = th.stolen["BOOTSTRAP_SECRET_ARN"]
	for name, value := range th.outputs {
		th.env[strings.ToUpper(name)] = value
	}
	args := []string{"--workload", "--terraform", "", "--yes", "--no-bootstrap-key"}
	th.env["BUCKET"], th.env["ROTATIONS_FILE"] = "bucket", th.path("rotations.json")
	th.write("rotations.json", fmt.Sprintf(`[{"name":"default","api_key_secret":%q,"token_secret":%q}]`, th.stolen["API_KEY_SECRET"], th.stolen["TOKEN_SECRET"]))
	if got := th.replace(args...); got.exit != 1 || !strings.Contains(got.stderr, "run this again with its id in WORKLOAD_IAM_ID") {
		t.Fatalf("got exit %d\n%s", got.exit, got.all())
	}
	th.env["WORKLOAD_IAM_ID"] = th.next["workload"]
	if got := th.replace(args...); got.exit != 1 || !strings.Contains(got.stderr, "rotations.json names "+th.stolen["API_KEY_SECRET"]) {
		t.Fatalf("got exit %d\n%s", got.exit, got.all())
	}
	if key, token := th.works("workload"); !key || !token {
		t.Error("the workload has ended")
	}
	if got := th.replace(append(args, "--no-deploy")...); got.exit != 0 {
		t.Fatalf("got exit %d\n%s", got.exit, got.all())
	}
	th.replaced("workload")
}

// A lock on the old secret keeps it, and not the thief.
func TestReplacementOfALockedSecret(t *testing.T) {
	t.Parallel()
	th := newTheft(t, true)
	th.steal()
	th.cloud.MustLock(th.stolen["API_KEY_SECRET"], "current", "job")
	if got := th.replace(both...); got.exit != 1 || !strings.Contains(got.stderr, "deleting the secret "+th.stolen["API_KEY_SECRET"]) || !strings.Contains(got.stderr, "remove its locks") {
		t.Errorf("got exit %d\n%s", got.exit, got.all())
	}
	if key, token := th.works("workload"); key || token {
		t.Error("the thief is still there")
	}
	th.cloud.MustUnlock(th.stolen["API_KEY_SECRET"])
	th.replaceBoth()
}

// Some providers always have a change to make: a person may look at it and go on.
func TestReplacementWithAnotherPlan(t *testing.T) {
	t.Parallel()
	th := newTheft(t, true)
	th.steal()
	th.write("changes", "")
	if got := th.replaceTyping("n\n", "--workload", "--no-deploy"); got.exit != 1 || !strings.Contains(got.stderr, "Plan: 1 to destroy.") || !strings.Contains(got.stderr, "nothing is replaced") {
		t.Fatalf("got exit %d\n%s", got.exit, got.all())
	}
	if _, err := os.Stat(th.path("ibm.env.replacing")); err == nil {
		t.Error("it has begun")
	}
	if got := th.replaceTyping("y\ny\ny\n", "--workload", "--no-deploy"); got.exit != 0 {
		t.Fatalf("got exit %d\n%s", got.exit, got.all())
	}
	th.replaced("workload")
}

// What Terraform is told to forget is what infra/ibm has.
func TestTerraformHasTheAddresses(t *testing.T) {
	identities, err := os.ReadFile("../../infra/ibm/identities.tf")
	policies, err2 := os.ReadFile("../../infra/ibm/policies.tf")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	for _, text := range []string{`resource "ibm_iam_service_id" "workload"`, `resource "ibm_iam_service_id" "bootstrap"`, `resource "ibm_iam_service_policy" "workload"`,
		`resource "ibm_iam_service_policy" "secret_group"`, "for_each = local.service_id_grants", `"bootstrap-${name}" =>`} {
		if !strings.Contains(string(identities)+string(policies), text) {
			t.Errorf("infra/ibm has no %s: see the addresses of replace-identity", text)
		}
	}
}
