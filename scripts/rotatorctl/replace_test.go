package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// A theft is a set-up whose keys were stolen, so that its service ids are replaced.
type theft struct {
	*fixture
	key, token map[string]string // by role: of the old service id
	stolen     map[string]string // the file that setup wrote
	old        map[string]string // Terraform's outputs at that time
}

// steal runs setup, and notes what a thief may have. bootstrapKey returns the key in AWS.
func (th *theft) steal(bootstrapKey func() string) {
	th.t.Helper()
	th.succeed("--env", th.path("ibm.env"))
	th.old, th.stolen, th.token = maps.Clone(th.outputs), mustReadEnv(th.t, th.path("ibm.env")), map[string]string{}
	th.key = map[string]string{"workload": th.cloud.MustCurrent(th.stolen["API_KEY_SECRET"]).Payload, "bootstrap": bootstrapKey()}
	for role, key := range th.key {
		_, th.token[role] = th.exchange(key)
	}
}

// stolen is a theft whose function is deployed by other means.
func stolen(t *testing.T, managed bool) *theft {
	th := &theft{fixture: newFixture(t, managed)}
	th.steal(th.atAWS)
	return th
}

func (th *theft) atAWS() string { return th.aws.secrets[defaultAWSSecret] }

func mustReadEnv(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	noError(t, err)
	values := map[string]string{}
	for text := range strings.Lines(string(text)) {
		found := line.FindStringSubmatch(strings.TrimSpace(text))
		values[found[1]] = found[2]
	}
	return values
}

func (th *theft) replaceArgs() []string {
	args := []string{"replace-identity", "--terraform", th.folder, "--env", th.path("ibm.env")}
	if th.awsSecret != "" {
		args = append(args, "--aws-secret", th.awsSecret)
	}
	return args
}

func (th *theft) replace(typed string, args ...string) outcome {
	th.t.Helper()
	return th.command(typed, append(th.replaceArgs(), args...)...)
}

// works reports whether the old service id's key and token still work.
func (th *theft) works(role string) bool {
	status, _ := th.exchange(th.key[role])
	path := map[string]string{"workload": "/v3/targets", "bootstrap": "/api/v2/secrets/" + th.stolen["TOKEN_SECRET"] + "/metadata"}[role]
	token := th.statusOf(th.token[role], path)
	if (status == 200) != (token == 200) {
		th.t.Errorf("%s: got %d for the old key, %d for the old token", role, status, token)
	}
	return status == 200
}

// replaced checks that the old service ids of the roles are gone, and the new ones in their place.
func (th *theft) replaced(roles ...string) map[string]string {
	th.t.Helper()
	values := mustReadEnv(th.t, th.path("ibm.env"))
	for _, role := range []string{"workload", "bootstrap"} {
		want(th.t, "the old "+role+" works", th.works(role), !slices.Contains(roles, role))
	}
	th.owner(th.cloud.MustCurrent(values["API_KEY_SECRET"]).Payload, values["EXPECT_IAM_ID"])
	if slices.Contains(roles, "workload") {
		want(th.t, "EXPECT_IAM_ID", values["EXPECT_IAM_ID"], th.terra.next["workload"])
		want(th.t, "the same key secret", values["API_KEY_SECRET"] == th.stolen["API_KEY_SECRET"], false)
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
		text += fmt.Sprintf("%s: %s replaces %s, which is deleted\n", role, th.terra.next[role], th.old[role+"_iam_id"])
	}
	return text
}

// both replaces both service ids of a function that is deployed by other means.
var both = []string{"--bootstrap", "--workload", "--yes", "--no-deploy"}

// replaceBoth replaces both service ids, from whatever state an earlier run has left.
func (th *theft) replaceBoth() {
	th.t.Helper()
	got := th.replace("", both...)
	if got.exit != 0 {
		th.t.Fatalf("again: got exit %d\n%s", got.exit, got.all())
	}
	th.replaced("bootstrap", "workload")
	th.owner(th.atAWS(), th.terra.next["bootstrap"])
	want(th.t, "printed", got.stdout, th.result("bootstrap", "workload"))
}

// goesOn runs again after an interruption.
func (th *theft) goesOn() {
	th.t.Helper()
	if values := mustReadEnv(th.t, th.path("ibm.env")); values["EXPECT_IAM_ID"] != th.terra.next["workload"] && !th.works("workload") {
		th.t.Error("the old workload has ended before the new one was ready")
	}
	th.replaceBoth()
}

// TestAThiefIsEvicted: with a deployed function. Readers have a valid token all the time.
func TestAThiefIsEvicted(t *testing.T) {
	t.Parallel()
	th := &theft{fixture: newFixture(t, true)}
	stack := newAccountFor(t, "thief", th.cloud, th.origin)
	_, stored := th.onMoto("thief/own")
	atAWS := func() string { return stored()["SecretString"].(string) }
	th.aws.url = stack.url
	for _, name := range []string{"STACK", "BUCKET", "ARCH", "DEPLOY_DIR", "GO"} {
		th.env[name] = stack.set[name]
	}
	th.steal(atAWS)
	maps.Copy(stack.set, th.stolen)
	stack.must(0, "deploy", "default: rotated")
	for variable, says := range map[string]string{"STACK": "there is no stack elsewhere", "ROTATIONS_FILE": "has another TOKEN_SECRET"} {
		value := th.env[variable]
		th.env[variable] = map[string]string{"STACK": "elsewhere", "ROTATIONS_FILE": th.path("rotations.json")}[variable]
		th.write("rotations.json", fmt.Sprintf(`[{"name":"default","api_key_secret":%q,"token_secret":%q}]`, th.stolen["API_KEY_SECRET"], th.stolen["TOKEN_SECRET"]))
		got := th.replace("", "--bootstrap", "--yes")
		if left, _ := filepath.Glob(th.path("*.replacing")); got.exit != 1 || !strings.Contains(got.stderr, says) || len(left) > 0 {
			t.Errorf("another %s: got exit %d, %q, and %s", variable, got.exit, got.stderr, left)
		}
		th.env[variable] = value
	}
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
	got := th.replace("", "--bootstrap", "--workload", "--yes")
	close(done)
	<-ended
	if got.exit != 0 {
		t.Fatalf("got exit %d\n%s", got.exit, got.all())
	}
	values, variables := th.replaced("bootstrap", "workload"), stack.variables()
	th.owner(atAWS(), th.terra.next["bootstrap"])
	th.useToken(values["TOKEN_SECRET"])
	for _, name := range []string{"EXPECT_IAM_ID", "API_KEY_SECRET", "BOOTSTRAP_KEY_SECRET"} {
		want(t, "the function's "+name, variables[name], values[name])
	}
	want(t, "printed", got.stdout, th.result("bootstrap", "workload"))
	want(t, "Terraform's resources", slices.Sorted(maps.Keys(th.terra.state)),
		`[ibm_iam_service_id.bootstrap[0] ibm_iam_service_id.reader ibm_iam_service_id.workload ibm_iam_service_policy.secret_group["reader"]]`)
}

// TestReplacementStops: after an error the old service ids still work, and the next run completes the replacement.
func TestReplacementStops(t *testing.T) {
	t.Parallel()
	workload := []string{"--workload", "--no-deploy"}
	hand := []string{"--workload", "--terraform", "", "--yes", "--no-bootstrap-key"}
	for name, test := range map[string]struct {
		args    []string
		typed   string
		spoil   func(th *theft)
		exit    int
		words   string
		repair  func(th *theft) // the next run; nil if none can succeed
		evicted bool            // the old service ids are deleted in spite of the error
	}{
		"nothing":         {exit: 2, words: "name what was stolen"},
		"standard output": {args: []string{"--workload", "--env", "-"}, exit: 2, words: "not -"},
		"no file":         {args: []string{"--workload", "--env", "/nowhere"}, exit: 2, words: "--env /nowhere cannot be read"},
		"no bucket":       {args: []string{"--workload"}, exit: 2, words: "set BUCKET"},
		"contradiction":   {args: []string{"--bootstrap", "--no-bootstrap-key"}, exit: 2, words: "does not go with"},
		"an argument":     {args: []string{"key"}, exit: 2, words: "takes no arguments"},
		"other changes": {args: both, spoil: func(th *theft) { th.terra.plan = "Plan: 1 to destroy." },
			exit: 1, words: "nothing is replaced: Terraform would make other changes"},
		"other changes, refused": {args: workload, typed: "n\n", spoil: func(th *theft) { th.terra.plan = "Plan: 1 to destroy." },
			exit: 1, words: "Plan: 1 to destroy.", repair: func(th *theft) {
				if _, err := os.Stat(th.path("ibm.env.replacing")); err == nil {
					th.t.Error("it has begun")
				}
				want(th.t, "accepted", th.replace("y\ny\ny\n", workload...).exit, 0) // some providers always have a change to make
			}},
		"another name": {args: append([]string{"--name", "another"}, both...), exit: 2, words: "TOKEN_SECRET in FOLDER/ibm.env is not the secret another-token", repair: (*theft).replaceBoth},
		"a foreign note": {args: both, spoil: func(th *theft) {
			th.write("ibm.env.replacing", `{"workload":{"deleted_iam_id":"$(touch pwned)\u001b[2J"}}`)
		}, exit: 2,
			words: "FOLDER/ibm.env.replacing cannot be read, or has values of unknown form"},
		"a profile": {args: both, exit: 2, words: "there is no bootstrap service id",
			spoil: func(th *theft) {
				th.outputs["bootstrap_iam_id"], th.outputs["iam_profile_id"] = "", th.cloud.ProfileID()
			}},
		"a login that has expired": {args: both, spoil: func(th *theft) { th.env["IAM_TOKEN"] = th.cloud.MustMintToken(th.cloud.AdminAPIKey(), -time.Hour) }, exit: 1, words: "IAM_TOKEN expires",
			repair: (*theft).replaceBoth},
		"the output is not changed": {args: both, spoil: func(th *theft) { th.terra.next["bootstrap"] = th.outputs["bootstrap_iam_id"] },
			exit: 1, words: "has made no other service id"},
		"output fails": {args: both, spoil: func(th *theft) { th.terra.fails = "output" }, exit: 2, words: "Error: no luck", repair: (*theft).replaceBoth},
		"plan fails":   {args: both, spoil: func(th *theft) { th.terra.fails = "plan" }, exit: 1, words: "Error: no luck", repair: (*theft).replaceBoth},
		"list fails":   {args: both, spoil: func(th *theft) { th.terra.fails = "state list" }, exit: 1, words: "Error: no luck", repair: (*theft).replaceBoth},
		"rm fails":     {args: both, spoil: func(th *theft) { th.terra.fails = "state rm" }, exit: 1, words: "Error: no luck", repair: (*theft).replaceBoth},
		"apply fails":  {args: both, spoil: func(th *theft) { th.terra.fails = "apply" }, exit: 1, words: "Error: no luck", repair: (*theft).replaceBoth},
		"not deployed": {args: workload, typed: "n\n", exit: 1, words: "Deploy the function with", repair: (*theft).replaceBoth},
		"not confirmed": {args: workload, typed: "y\nn\n", exit: 1, words: "still works", repair: func(th *theft) {
			got := th.replace("y\ny\n", append(workload, "-o", "json")...)
			if got.exit != 0 || !json.Valid([]byte(got.stdout)) || !strings.Contains(got.stdout, th.terra.next["workload"]) ||
				!strings.Contains(got.stderr, "Deleting the service id "+th.old["workload_iam_id"]+" of the workload, with all its keys and tokens. Continue? [y/N]") {
				th.t.Errorf("got exit %d\n%s", got.exit, got.all())
			}
			th.replaced("workload")
		}},
		// A new policy takes minutes to be in force everywhere: until then the function could do nothing with the new key.
		"policies that are not in force": {args: both, exit: 1, words: "are not in force yet", spoil: func(th *theft) {
			th.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Status: 403})
		}, repair: func(th *theft) {
			want(th.t, "AWS has the old key", th.atAWS() == th.key["bootstrap"], true)
			th.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Status: 403, Times: 3})
			th.replaceBoth()
		}},
		// A lock on the old secret prevents only its deletion.
		"a lock": {args: both, exit: 1, words: "remove its locks", evicted: true,
			spoil:  func(th *theft) { th.cloud.MustLock(th.stolen["API_KEY_SECRET"], "current", "job") },
			repair: func(th *theft) { th.cloud.MustUnlock(th.stolen["API_KEY_SECRET"]); th.replaceBoth() }},
		// Without a folder of Terraform a person makes the service id, and changes the list of rotations. The file of a further
		// workload names no bootstrap key.
		"by hand": {args: hand, exit: 1, words: "run this again with its id in WORKLOAD_IAM_ID", spoil: func(th *theft) {
			text, _ := os.ReadFile(th.path("ibm.env"))
			th.write("ibm.env", regexp.MustCompile(`(?m)^BOOTSTRAP_.*\n`).ReplaceAllString(string(text), ""))
			th.write("rotations.json", fmt.Sprintf(`[{"name":"default","api_key_secret":%q,"token_secret":%q}]`, th.stolen["API_KEY_SECRET"], th.stolen["TOKEN_SECRET"]))
			th.byHand()
		}, repair: func(th *theft) {
			th.byHand()
			th.env["WORKLOAD_IAM_ID"] = th.terra.next["workload"]
			if got := th.replace("", hand...); got.exit != 1 || !strings.Contains(got.stderr, "rotations.json names "+th.stolen["API_KEY_SECRET"]) || !th.works("workload") {
				th.t.Fatalf("got exit %d\n%s", got.exit, got.all())
			}
			want(th.t, "at last", th.replace("", append(hand, "--no-deploy")...).exit, 0)
			th.replaced("workload")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			th := stolen(t, true)
			if test.spoil != nil {
				test.spoil(th)
			}
			got := th.replace(test.typed, test.args...)
			if got.exit != test.exit || !strings.Contains(got.stderr, strings.ReplaceAll(test.words, "FOLDER", th.folder)) {
				t.Fatalf("got exit %d, %q; want %d and the words %q", got.exit, got.all(), test.exit, test.words)
			}
			want(t, "the old service ids work", fmt.Sprint(th.works("bootstrap"), th.works("workload")), fmt.Sprint(!test.evicted, !test.evicted))
			th.terra.fails = ""
			if test.repair != nil {
				th.fixture.repair()
				test.repair(th)
			}
		})
	}
}

// byHand puts the outputs into the environment.
func (th *theft) byHand() {
	th.env["BOOTSTRAP_SECRET_ARN"], th.env["BUCKET"], th.env["ROTATIONS_FILE"] = th.stolen["BOOTSTRAP_SECRET_ARN"], "bucket", th.path("rotations.json")
	for name, value := range th.outputs {
		th.env[strings.ToUpper(name)] = value
	}
}

// replace-identity removes from Terraform's state exactly what infra/ibm has.
func TestTerraformHasTheAddresses(t *testing.T) {
	identities, err := os.ReadFile("../../infra/ibm/identities.tf")
	policies, err2 := os.ReadFile("../../infra/ibm/policies.tf")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	for _, text := range []string{`resource "ibm_iam_service_id" "workload"`, `resource "ibm_iam_service_id" "bootstrap"`, `resource "ibm_iam_service_policy" "workload"`,
		`resource "ibm_iam_service_policy" "secret_group"`, "for_each = local.service_id_grants", `{ for name, grant in local.bootstrap_grants : "bootstrap-${name}" =>`} {
		if !strings.Contains(string(identities)+string(policies), text) {
			t.Errorf("infra/ibm has no %s: see the addresses of replace-identity", text)
		}
	}
	if !regexp.MustCompile(`bootstrap_grants = \{\n    keys   = \{.*\}\n    tokens = \{.*\}\n  \}\n`).Match(policies) {
		t.Error("infra/ibm has other grants of the bootstrap's than keys and tokens: see the addresses of replace-identity")
	}
}
