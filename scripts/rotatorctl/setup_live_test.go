package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// functionEnv is what a deployment makes of setup's result.
func (fx *fixture) functionEnv(made run) map[string]string {
	env := map[string]string{"IAM_URL": fx.origin, "SECRETS_MANAGER_MAX_RPS": "0"}
	for _, name := range []string{"SECRETS_MANAGER_URL", "API_KEY_SECRET", "TOKEN_SECRET", "EXPECT_ACCOUNT", "EXPECT_IAM_ID"} {
		env[name] = made.values[name]
	}
	return env
}

// useToken asks Logs Routing with the published token.
func (fx *fixture) useToken(tokenSecret string) {
	request, _ := http.NewRequest("GET", fx.origin+"/v3/targets", nil)
	request.Header.Set("Authorization", "Bearer "+fx.cloud.MustCurrent(tokenSecret).Payload)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fx.t.Errorf("asking Logs Routing with the published token: %v", err)
		return
	}
	if _ = response.Body.Close(); response.StatusCode != 200 {
		fx.t.Errorf("Logs Routing, asked with the published token: got %d, want 200", response.StatusCode)
	}
}

// TestTrustedProfileNeedsNoBootstrapKey: as on Code Engine.
func TestTrustedProfileNeedsNoBootstrapKey(t *testing.T) {
	t.Parallel()
	fx := newFixture(t)
	fx.outputs["bootstrap_iam_id"], fx.outputs["iam_profile_id"] = "", fx.cloud.ProfileID()
	made := fx.succeed()
	if made.values["IAM_PROFILE_ID"] != fx.cloud.ProfileID() || made.values["BOOTSTRAP_APIKEY_ID"] != "" || len(fx.aws.writes) > 0 {
		t.Errorf("got %v, want the profile and no key", made.values)
	}
	if err := os.WriteFile(fx.path("cr-token"), []byte("a compute resource token"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(filepath.Join(mustBuild(t), "bootstrap"), "-mode", "rotate")
	command.Env = programs.Environ(fx.functionEnv(made), map[string]string{"IAM_PROFILE_ID": made.values["IAM_PROFILE_ID"], "CR_TOKEN_FILENAME": fx.path("cr-token")})
	if printed, err := command.CombinedOutput(); err != nil {
		t.Fatalf("the function, with what was made: %v\n%s", err, printed)
	}
	fx.useToken(made.values["TOKEN_SECRET"])
}

// TestChangingTheKeysLeavesNoGap: both keys are replaced while a warm function, whose bootstrap key is in AWS, goes
// on rotating. No invocation fails, and after each the token that readers have is good.
func TestChangingTheKeysLeavesNoGap(t *testing.T) {
	t.Parallel()
	moto := awstest.Start(t)
	fx := newFixture(t)
	fx.aws.url = moto.URL()
	made := fx.succeed()
	stored := moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": defaultAWSSecret})
	if stored["ARN"] != made.values["BOOTSTRAP_SECRET_ARN"] {
		t.Fatalf("BOOTSTRAP_SECRET_ARN: got %s, want %s", made.values["BOOTSTRAP_SECRET_ARN"], stored["ARN"])
	}
	function := fx.startWarm(made, moto)
	defer function.stop()
	function.mustRotate(3)
	changed := fx.succeed("--rotate-keys")
	function.mustRotate(3)
	fx.asAdmin("DELETE", "/v1/apikeys/"+made.values["BOOTSTRAP_APIKEY_ID"], "")
	fx.asAdmin("DELETE", "/v1/apikeys/"+made.values["WORKLOAD_APIKEY_ID"], "")
	function.mustRotate(3)
	// It continues with its bootstrap token; when that is rejected, it needs the new key.
	fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Times: 1, Status: 401})
	function.mustRotate(3)
	if changed.values["BOOTSTRAP_SECRET_ARN"] != made.values["BOOTSTRAP_SECRET_ARN"] || changed.values["BOOTSTRAP_APIKEY_ID"] == made.values["BOOTSTRAP_APIKEY_ID"] {
		t.Errorf("got %q, want another key in the same secret", changed.values)
	}
	moto.MustCall(t, "secretsmanager", "secretsmanager.DeleteSecret", map[string]any{"SecretId": defaultAWSSecret})
	fx.fail(1, "restore-secret", "--rotate-keys")
}

// TestSwitchingTheKindOfKeysLeavesNoGap: from managed keys to fixed ones and back. Until it is deployed with what setup prints,
// the function goes on as it is, and may store the managed key once more: a second run of setup ends that.
func TestSwitchingTheKindOfKeysLeavesNoGap(t *testing.T) {
	t.Parallel()
	moto := awstest.Start(t)
	fx := newManaged(t)
	fx.aws.url = moto.URL()
	made := fx.succeed()
	stored := func() string {
		return moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": defaultAWSSecret})["SecretString"].(string)
	}
	for _, managed := range []string{"false", "true", "false"} {
		function := fx.startWarm(made, moto)
		function.mustRotate(1)
		fx.outputs["managed_keys"] = managed
		now := fx.succeed()
		function.mustRotate(2)
		// It continues with its token; when that is rejected, it needs the key in AWS.
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Times: 1, Status: 401})
		function.mustRotate(2)
		function.stop()
		if now.values["API_KEY_SECRET"] == made.values["API_KEY_SECRET"] || !strings.Contains(now.stderr, "nothing uses it: delete it") {
			t.Errorf("managed %s: got the same key secret, or what is left over is not named:\n%s", managed, now.stderr)
		}
		if managed == "false" && !strings.Contains(now.stderr, "run setup once more") {
			t.Errorf("want that setup must run twice:\n%s", now.stderr)
		}
		function = fx.startWarm(now, moto) // deployed
		function.mustRotate(1)
		now = fx.succeed()
		function.mustRotate(2)
		function.stop()
		if managed == "true" {
			if stored() != fx.cloud.MustCurrent(now.values["BOOTSTRAP_KEY_SECRET"]).Payload {
				t.Error("AWS has another key than the managed one of now")
			}
		} else if key := fx.keyByValue(stored()); key["id"] != now.values["BOOTSTRAP_APIKEY_ID"] || key["locked"] != false {
			t.Errorf("AWS has the key %v, want that of setup's making, %s", key["id"], now.values["BOOTSTRAP_APIKEY_ID"])
		}
		if again := fx.succeed(); again.stdout != now.stdout {
			t.Errorf("managed %s, again: got\n%s, want\n%s", managed, again.stdout, now.stdout)
		}
		made = now
	}
}

// keyByValue is what IAM shows of a key.
func (fx *fixture) keyByValue(key string) map[string]any {
	fx.t.Helper()
	request, _ := http.NewRequestWithContext(fx.t.Context(), "GET", fx.origin+"/v1/apikeys/details", nil)
	request.Header = http.Header{"Authorization": {"Bearer " + fx.admin}, "Iam-Apikey": {key}}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fx.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != 200 {
		fx.t.Fatalf("the details of a key: got %d, %v", response.StatusCode, err)
	}
	return answer
}

// A warmFunction is one process that is invoked again and again.
type warmFunction struct {
	t       *testing.T
	rotated atomic.Int64
	stop    func()
}

func (fx *fixture) startWarm(made run, moto *awstest.Moto) *warmFunction {
	fx.t.Helper()
	folder := mustBuild(fx.t)
	command := exec.Command(filepath.Join(folder, "invoke"), "-n", "100000", "--", filepath.Join(folder, "bootstrap"))
	command.Env = programs.Environ(fx.functionEnv(made), awstest.Environment(moto.URL()), map[string]string{
		"SECRETS_MANAGER_APIKEY_ARN": made.values["BOOTSTRAP_SECRET_ARN"], "BOOTSTRAP_KEY_SECRET": made.values["BOOTSTRAP_KEY_SECRET"]})
	answers, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		fx.t.Fatal(err)
	}
	f, watched := &warmFunction{t: fx.t}, make(chan struct{})
	go func() {
		defer close(watched)
		fx.watch(f, answers, made.values["TOKEN_SECRET"])
	}()
	f.stop = func() {
		_ = command.Process.Signal(os.Interrupt) // which ends the function too
		<-watched
		_ = command.Wait()
	}
	return f
}

// watch fails the test for an invocation that does not rotate, and for a token that is of no use.
func (fx *fixture) watch(f *warmFunction, answers io.Reader, tokenSecret string) {
	for lines := bufio.NewScanner(answers); lines.Scan(); f.rotated.Add(1) {
		if !strings.Contains(lines.Text(), `"outcome":"rotated"`) {
			fx.t.Errorf("an invocation while the keys change: got %s, want it to rotate", lines.Text())
		}
		fx.useToken(tokenSecret)
	}
}

// mustRotate waits for n invocations that began after the call.
func (f *warmFunction) mustRotate(n int64) {
	f.t.Helper()
	goal := f.rotated.Load() + n + 1 // one may have begun before
	for deadline := time.Now().Add(20 * time.Second); f.rotated.Load() < goal; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatal("waited 20 s for the function to rotate")
		}
	}
}

// TestAYearWithoutAPersonAtAKey: a deployed stack, and IBM's clock goes on by 15 days at a time. Each key is replaced 24
// times; nobody but the function asks for anything, and it warns of no key.
func TestAYearWithoutAPersonAtAKey(t *testing.T) {
	t.Parallel()
	fx := newManaged(t)
	stack := newAccountFor(t, "a-year", fx.cloud, fx.origin)
	fx.aws.url = stack.url
	made := fx.succeed("--aws-secret", "a-year/own")
	maps.Copy(stack.set, made.values)
	stack.must(0, "deploy", "default: rotated", "bootstrap key: current")
	fx.cloud.ClearRequests()
	bootstrap, workload, renewed := map[string]bool{}, map[string]bool{}, 0
	for passed := 0; passed <= 360; passed += 15 {
		got := stack.must(0, "invoke --mode=rotate", "default: rotated")
		if renewed += strings.Count(got.stdout, "bootstrap key: renewed"); strings.Contains(got.all(), "API key") {
			t.Errorf("after %d days: got a warning of a key:\n%s", passed, got.all())
		}
		fx.useToken(made.values["TOKEN_SECRET"])
		stored := stack.moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": made.values["BOOTSTRAP_SECRET_ARN"]})["SecretString"].(string)
		if stored != fx.cloud.MustCurrent(made.values["BOOTSTRAP_KEY_SECRET"]).Payload {
			t.Fatalf("after %d days: AWS has another key than IBM's current one", passed)
		}
		bootstrap[stored], workload[fx.cloud.MustCurrent(made.values["API_KEY_SECRET"]).Payload] = true, true
		fx.later(15 * day)
	}
	want(t, "keys of the bootstrap, keys of the workload, renewals", fmt.Sprint(len(bootstrap), len(workload), renewed), "25 25 24")
	for _, request := range fx.cloud.Requests() {
		if request.Identity == ibmcloudtest.IdentityAdmin && request.Op != ibmcloudtest.OpIAMToken { // by which this test logs in
			t.Errorf("a person has asked for %s", request.Op)
		}
	}
	if again := fx.succeed("--aws-secret", "a-year/own"); again.stdout != made.stdout {
		t.Errorf("setup, a year later: got\n%s, want\n%s", again.stdout, made.stdout)
	}
}

// A holder serves requests, and stops at one of them: before it is done, or before it is answered.
type holder struct {
	next  http.Handler
	mu    *sync.Mutex
	seen  *int
	at    *int // the request to stop at; 0 for none
	after *bool
	held  chan struct{}
}

func (h holder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	*h.seen++
	stop, after := *h.seen == *h.at, *h.after
	h.mu.Unlock()
	switch {
	case !stop:
		h.next.ServeHTTP(w, r)
		return
	case after:
		h.next.ServeHTTP(httptest.NewRecorder(), r)
	default:
		_, _ = io.Copy(io.Discard, r.Body) // else the end of the connection goes unnoticed
	}
	h.held <- struct{}{}
	<-r.Context().Done()
}

// TestKilledBetweenAnyTwoSteps: the function as it is built is killed at each of its requests to IBM Cloud and AWS, before and
// after the work, in a run that renews the key. Each time AWS has a key that works, and the next run evens it out.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	moto := awstest.Start(t)
	fx := newManaged(t)
	fx.aws.url = moto.URL()
	made := fx.succeed()
	h := holder{mu: &sync.Mutex{}, seen: new(int), at: new(int), after: new(bool), held: make(chan struct{})}
	serve := func(to string) string {
		address, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		of := h
		proxy := httputil.NewSingleHostReverseProxy(address)
		proxy.ErrorLog = log.New(io.Discard, "", 0) // of the processes killed
		of.next = proxy
		server := httptest.NewServer(of)
		t.Cleanup(server.Close)
		return server.URL
	}
	ibm, aws := serve(fx.origin), serve(moto.URL())
	env := programs.Environ(fx.functionEnv(made), awstest.Environment(aws), map[string]string{"IAM_URL": ibm, "SECRETS_MANAGER_URL": ibm,
		"SECRETS_MANAGER_APIKEY_ARN": made.values["BOOTSTRAP_SECRET_ARN"], "BOOTSTRAP_KEY_SECRET": made.values["BOOTSTRAP_KEY_SECRET"]})
	stored := func() map[string]any {
		return moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": defaultAWSSecret})
	}
	start := func(stopAt int, after bool) *exec.Cmd {
		*h.seen, *h.at, *h.after = 0, stopAt, after
		command := exec.Command(filepath.Join(mustBuild(t), "bootstrap"), "-mode", "rotate")
		command.Env = env
		return command
	}
	finish := func(outcome string) {
		t.Helper()
		printed, err := start(0, false).CombinedOutput()
		if err != nil || !strings.Contains(string(printed), outcome) {
			t.Fatalf("the next run: %v, want %s\n%s", err, outcome, printed)
		}
		if stored()["SecretString"] != fx.cloud.MustCurrent(made.values["BOOTSTRAP_KEY_SECRET"]).Payload {
			t.Fatal("AWS has another key than IBM's current one")
		}
		fx.useToken(made.values["TOKEN_SECRET"])
	}
	finish("")
	fx.later(15 * day)
	finish("bootstrap key: renewed")
	requests, versions := *h.seen, map[any]bool{}
	for n := 1; n <= requests; n++ {
		for _, after := range []bool{false, true} {
			fx.later(15 * day)
			before := stored()["VersionId"]
			command := start(n, after)
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			<-h.held
			_ = command.Process.Kill()
			_ = command.Wait()
			fx.owner(stored()["SecretString"].(string), fx.outputs["bootstrap_iam_id"])
			saved := stored()["VersionId"] != before
			t.Logf("killed at request %d of %d, its work done %t: the new key is stored %t", n, requests, after, saved)
			if saved {
				finish("")
			} else {
				finish("bootstrap key: renewed")
			}
			versions[stored()["VersionId"]] = true
		}
	}
	want(t, "versions at AWS, one a rotation", len(versions), 2*requests)
}
