package main

import (
	"bufio"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	maps.Copy(fx.env, changed.values)
	fx.succeed("--delete-old-keys")
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
	command.Env = programs.Environ(fx.functionEnv(made), awstest.Environment(moto.URL()), map[string]string{"SECRETS_MANAGER_APIKEY_ARN": made.values["BOOTSTRAP_SECRET_ARN"]})
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

// TestAYearWithoutAPersonAtAKey: what setup prints is deployed, and the clock of IBM goes on. Each key is replaced 24 times.
func TestAYearWithoutAPersonAtAKey(t *testing.T) {
	moto := awstest.Start(t)
	fx := newManaged(t)
	fx.aws.url = moto.URL()
	made := fx.succeed()
	used := map[string]bool{}
	for range 25 {
		command := exec.Command(filepath.Join(mustBuild(t), "bootstrap"), "-mode", "rotate")
		command.Env = programs.Environ(fx.functionEnv(made), awstest.Environment(moto.URL()), map[string]string{
			"SECRETS_MANAGER_APIKEY_ARN": made.values["BOOTSTRAP_SECRET_ARN"], "BOOTSTRAP_KEY_SECRET": made.values["BOOTSTRAP_KEY_SECRET"]})
		if printed, err := command.CombinedOutput(); err != nil {
			t.Fatalf("after %d rotations: %v\n%s", len(used), err, printed)
		}
		fx.useToken(made.values["TOKEN_SECRET"])
		stored := moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": defaultAWSSecret})
		if stored["SecretString"] != fx.cloud.MustCurrent(made.values["BOOTSTRAP_KEY_SECRET"]).Payload {
			t.Fatalf("after %d rotations: AWS has another key than IBM's current one", len(used))
		}
		used[stored["VersionId"].(string)] = true
		fx.later(15 * day)
	}
	if len(used) != 25 {
		t.Errorf("got %d keys of the bootstrap, want 25", len(used))
	}
	if again := fx.succeed(); again.stdout != made.stdout {
		t.Errorf("setup, a year later: got\n%s, want\n%s", again.stdout, made.stdout)
	}
}
