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

// buildFunction builds the function, and the program that invokes it as Lambda does.
func buildFunction(t *testing.T) (folder string) {
	t.Helper()
	folder = t.TempDir()
	if err := programs.Build(folder, map[string]string{"bootstrap": "functions/rotate", "invoke": "scripts/invoke"}); err != nil {
		t.Fatal(err)
	}
	return folder
}

// functionEnv is what a deployment makes of setup's result.
func (s *stage) functionEnv(made run) map[string]string {
	env := map[string]string{"IAM_URL": s.origin, "SECRETS_MANAGER_MAX_RPS": "0"}
	for _, name := range []string{"SECRETS_MANAGER_URL", "API_KEY_SECRET", "TOKEN_SECRET", "EXPECT_ACCOUNT", "EXPECT_IAM_ID"} {
		env[name] = made.values[name]
	}
	return env
}

// useToken asks Logs Routing with the published token.
func (s *stage) useToken(tokenSecret string) {
	request, _ := http.NewRequest("GET", s.origin+"/v3/targets", nil)
	request.Header.Set("Authorization", "Bearer "+s.cloud.MustCurrent(tokenSecret).Payload)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Errorf("asking Logs Routing with the published token: %v", err)
		return
	}
	if _ = response.Body.Close(); response.StatusCode != 200 {
		s.t.Errorf("Logs Routing, asked with the published token: got %d, want 200", response.StatusCode)
	}
}

// TestTrustedProfileNeedsNoBootstrapKey: as on Code Engine.
func TestTrustedProfileNeedsNoBootstrapKey(t *testing.T) {
	s := newStage(t)
	s.outputs["bootstrap_iam_id"], s.outputs["iam_profile_id"] = "", s.cloud.ProfileID()
	made := s.succeed()
	if made.values["IAM_PROFILE_ID"] != s.cloud.ProfileID() || made.values["BOOTSTRAP_APIKEY_ID"] != "" || len(s.aws.writes) > 0 {
		t.Errorf("got %v, want the profile and no key", made.values)
	}
	if err := os.WriteFile(s.path("cr-token"), []byte("a compute resource token"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(filepath.Join(buildFunction(t), "bootstrap"), "-mode", "rotate")
	command.Env = programs.Environ(s.functionEnv(made), map[string]string{"IAM_PROFILE_ID": made.values["IAM_PROFILE_ID"], "CR_TOKEN_FILENAME": s.path("cr-token")})
	if printed, err := command.CombinedOutput(); err != nil {
		t.Fatalf("the function, with what was made: %v\n%s", err, printed)
	}
	s.useToken(made.values["TOKEN_SECRET"])
}

// TestChangingTheKeysLeavesNoGap: both keys are replaced while a warm function, whose bootstrap key is in AWS, goes
// on rotating. No invocation fails, and after each the token that readers have is good.
func TestChangingTheKeysLeavesNoGap(t *testing.T) {
	moto := awstest.Start(t)
	s := newStage(t)
	s.aws.url = moto.URL()
	made := s.succeed()
	stored := moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": defaultAWSSecret})
	if stored["ARN"] != made.values["BOOTSTRAP_SECRET_ARN"] {
		t.Fatalf("BOOTSTRAP_SECRET_ARN: got %s, want %s", made.values["BOOTSTRAP_SECRET_ARN"], stored["ARN"])
	}
	function := s.startWarm(made, moto)
	defer function.stop()
	function.mustRotate(3)
	changed := s.succeed("--rotate-keys")
	function.mustRotate(3)
	maps.Copy(s.env, changed.values)
	s.succeed("--delete-old-keys")
	function.mustRotate(3)
	// It goes on with the bootstrap token that it has; refused, it needs the new key.
	s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Times: 1, Status: 401})
	function.mustRotate(3)
	if changed.values["BOOTSTRAP_SECRET_ARN"] != made.values["BOOTSTRAP_SECRET_ARN"] || changed.values["BOOTSTRAP_APIKEY_ID"] == made.values["BOOTSTRAP_APIKEY_ID"] {
		t.Errorf("got %q, want another key in the same secret", changed.values)
	}
	moto.MustCall(t, "secretsmanager", "secretsmanager.DeleteSecret", map[string]any{"SecretId": defaultAWSSecret})
	s.fail(1, "restore-secret", "--rotate-keys")
}

// A warmFunction is one process that is invoked again and again.
type warmFunction struct {
	t       *testing.T
	rotated atomic.Int64
	stop    func()
}

func (s *stage) startWarm(made run, moto *awstest.Moto) *warmFunction {
	s.t.Helper()
	folder := buildFunction(s.t)
	command := exec.Command(filepath.Join(folder, "invoke"), "-n", "100000", "--", filepath.Join(folder, "bootstrap"))
	command.Env = programs.Environ(s.functionEnv(made), awstest.Environment(moto.URL()), map[string]string{"SECRETS_MANAGER_APIKEY_ARN": made.values["BOOTSTRAP_SECRET_ARN"]})
	answers, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	f, watched := &warmFunction{t: s.t}, make(chan struct{})
	go func() {
		defer close(watched)
		s.watch(f, answers, made.values["TOKEN_SECRET"])
	}()
	f.stop = func() {
		_ = command.Process.Signal(os.Interrupt) // which ends the function too
		<-watched
		_ = command.Wait()
	}
	return f
}

// watch fails the test for an invocation that does not rotate, and for a token that is of no use.
func (s *stage) watch(f *warmFunction, answers io.Reader, tokenSecret string) {
	for lines := bufio.NewScanner(answers); lines.Scan(); f.rotated.Add(1) {
		if !strings.Contains(lines.Text(), `"outcome":"rotated"`) {
			s.t.Errorf("an invocation while the keys change: got %s, want it to rotate", lines.Text())
		}
		s.useToken(tokenSecret)
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
