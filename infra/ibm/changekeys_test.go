package ibm_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// TestChangingTheKeysLeavesNoGap: both keys are replaced, as the README tells it, while a warm
// function, whose bootstrap key is in AWS, goes on rotating. No invocation fails, and after each the
// token that readers have is good.
func TestChangingTheKeysLeavesNoGap(t *testing.T) {
	t.Parallel()
	programs.Need(t, "aws")
	moto := awstest.Start(t)
	s := newSetUp(t, "dash", ibmcloudtest.Options{})
	aws := awstest.Environment(moto.URL())
	aws["AWS_DEFAULT_REGION"] = awstest.Region
	for name, value := range aws {
		s.env[name] = value
	}
	s.env["PUT_BOOTSTRAP_KEY"] = "../../scripts/put-bootstrap-key"
	made := s.succeed().values
	aws["SECRETS_MANAGER_APIKEY_ARN"] = made["BOOTSTRAP_SECRET_ARN"]

	function := s.warmFunction(made, aws)
	defer function.stop()
	function.mustRotate(3)
	changed := s.succeed("--rotate-keys", "--keep-old-keys").values
	function.mustRotate(3)
	s.inUse(changed)
	s.succeed("--delete-old-keys")
	function.mustRotate(3)
	// It goes on with the bootstrap token that it has; refused, it needs the new key.
	s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Times: 1, Status: 401})
	function.mustRotate(3)
	s.rotates(changed, programs.Environ(aws)...) // and so does a cold one

	for _, id := range []string{"BOOTSTRAP_APIKEY_ID", "WORKLOAD_APIKEY_ID"} {
		if changed[id] == "" || changed[id] == made[id] {
			t.Errorf("%s: got %q, want another than before", id, changed[id])
		}
	}
	if changed["BOOTSTRAP_SECRET_ARN"] != made["BOOTSTRAP_SECRET_ARN"] {
		t.Errorf("BOOTSTRAP_SECRET_ARN: got %s, want that of before, %s", changed["BOOTSTRAP_SECRET_ARN"], made["BOOTSTRAP_SECRET_ARN"])
	}
}

// A warmFunction is one process that is invoked again and again.
type warmFunction struct {
	s       *setUp
	rotated *atomic.Int64
	stop    func()
}

// warmFunction starts the built function under scripts/invoke. Each of its answers is looked at when
// it comes.
func (s *setUp) warmFunction(values, aws map[string]string) warmFunction {
	s.t.Helper()
	folder := s.t.TempDir()
	if err := programs.Build(folder, map[string]string{"invoke": "scripts/invoke"}); err != nil {
		s.t.Fatal(err)
	}
	command := exec.Command(filepath.Join(folder, "invoke"), "-n", "100000", "--", rotator(s.t))
	command.Env = programs.Environ(aws, map[string]string{
		"IAM_URL": s.origin, "SECRETS_MANAGER_URL": values["SECRETS_MANAGER_URL"], "SECRETS_MANAGER_MAX_RPS": "0",
		"API_KEY_SECRET": values["API_KEY_SECRET"], "TOKEN_SECRET": values["TOKEN_SECRET"],
	})
	answers, err := command.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		s.t.Fatal(err)
	}
	watched := make(chan struct{})
	f := warmFunction{s, new(atomic.Int64), func() {
		_ = command.Process.Signal(os.Interrupt) // which ends the function too
		<-watched
		_ = command.Wait()
	}}
	go func() {
		defer close(watched)
		f.watch(answers, values["TOKEN_SECRET"])
	}()
	return f
}

// watch fails the test for an invocation that does not rotate, and for a token that is of no use.
func (f warmFunction) watch(answers io.Reader, tokenSecret string) {
	for lines := bufio.NewScanner(answers); lines.Scan(); {
		if !strings.Contains(lines.Text(), `"outcome":"rotated"`) {
			f.s.t.Errorf("an invocation while the keys change: got %s, want it to rotate", lines.Text())
		}
		if status, err := f.s.useToken(tokenSecret); status != 200 || err != nil {
			f.s.t.Errorf("Logs Routing, asked with the published token while the keys change: got %d, %v; want 200", status, err)
		}
		f.rotated.Add(1)
	}
}

// mustRotate waits for n invocations that began after the call.
func (f warmFunction) mustRotate(n int64) {
	f.s.t.Helper()
	goal := f.rotated.Load() + n + 1 // one may have begun before
	waitFor(f.s.t, "the function to rotate", func() bool { return f.rotated.Load() >= goal })
}
