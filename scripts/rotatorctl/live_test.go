package main

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/awstest"
	"iam-token-rotator/scripts/programs"
)

// onMoto has the fixture use a secret of that name at moto, and returns what reads it.
func (fx *fixture) onMoto(name string) (moto *awstest.Moto, stored func() map[string]any) {
	fx.t.Helper()
	programs.Need(fx.t, "moto_server")
	moto, err := startMoto()
	noError(fx.t, err)
	fx.aws.url, fx.awsSecret = moto.URL(), name
	return moto, func() map[string]any {
		return moto.MustCall(fx.t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": name})
	}
}

// A warmFunction is one process that is invoked again and again.
type warmFunction struct {
	t       *testing.T
	rotated atomic.Int64
	stop    func()
}

// startWarm starts the function with what setup printed. Every invocation must rotate, and every token must work.
func (fx *fixture) startWarm(made run, moto *awstest.Moto) *warmFunction {
	fx.t.Helper()
	folder := mustBuild(fx.t)
	command := exec.Command(filepath.Join(folder, "invoke"), "-n", "100000", "--", filepath.Join(folder, "bootstrap"))
	command.Env = programs.Environ(made.values, awstest.Environment(moto.URL()), // as a deployment does
		map[string]string{"IAM_URL": fx.origin, "SECRETS_MANAGER_MAX_RPS": "0", "SECRETS_MANAGER_APIKEY_ARN": made.values["BOOTSTRAP_SECRET_ARN"]})
	answers, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	noError(fx.t, err)
	f, watched := &warmFunction{t: fx.t}, make(chan struct{})
	go func() {
		defer close(watched)
		for lines := bufio.NewScanner(answers); lines.Scan(); f.rotated.Add(1) {
			if !strings.Contains(lines.Text(), `"outcome":"rotated"`) {
				fx.t.Errorf("an invocation while the keys change: got %s, want it to rotate", lines.Text())
			}
			fx.useToken(made.values["TOKEN_SECRET"])
		}
	}()
	f.stop = func() {
		_ = command.Process.Signal(os.Interrupt) // which ends the function too
		<-watched
		_ = command.Wait()
	}
	return f
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

// TestChangingTheKeysLeavesNoGap: a warm function rotates all the time, while the keys are replaced, then become managed, and then
// fixed again. Until it is deployed with what setup prints, the function has its old settings, and may store a managed key once
// more: a second run of setup corrects that.
func TestChangingTheKeysLeavesNoGap(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, false)
	moto, stored := fx.onMoto("no-gap/own")
	made := fx.succeed()
	want(t, "BOOTSTRAP_SECRET_ARN", made.values["BOOTSTRAP_SECRET_ARN"], stored()["ARN"])
	function := fx.startWarm(made, moto)
	// It continues with its bootstrap token; when that is rejected, it needs the key in AWS.
	needsKey := func() {
		function.mustRotate(1)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Times: 1, Status: 401})
		function.mustRotate(1)
	}
	changed := fx.succeed("--rotate-keys")
	function.mustRotate(1)
	fx.asAdmin("DELETE", "/v1/apikeys/"+made.values["BOOTSTRAP_APIKEY_ID"], "")
	fx.asAdmin("DELETE", "/v1/apikeys/"+made.values["WORKLOAD_APIKEY_ID"], "")
	needsKey()
	for _, managed := range []string{"true", "false"} {
		fx.outputs["managed_keys"] = managed
		now := fx.succeed()
		needsKey()
		function.stop()
		left, twice := strings.Contains(now.stderr, "nothing uses the secret: delete it"), strings.Contains(now.stderr, "run setup once more")
		if now.values["API_KEY_SECRET"] == changed.values["API_KEY_SECRET"] || !left || twice != (managed == "false") {
			t.Errorf("managed %s: got the same key secret, or what is left over and to do is not named:\n%s", managed, now.stderr)
		}
		function = fx.startWarm(now, moto) // deployed
		function.mustRotate(1)
		now = fx.succeed()
		needsKey()
		if maker := changed.values["BOOTSTRAP_KEY_SECRET"] + now.values["BOOTSTRAP_KEY_SECRET"]; (stored()["SecretString"] == fx.cloud.MustCurrent(maker).Payload) != (managed == "true") {
			t.Errorf("managed %s: AWS has a key of the other kind", managed)
		}
		want(t, "setup again", fx.succeed().stdout, now.stdout)
		changed = now
	}
	function.stop()
}

// TestManyRenewalsWithoutAPerson: a deployed stack, and IBM's clock advances by 15 days at a time. IBM replaces both keys each time,
// and the first ones expire. Only the function makes requests, and it warns of no key.
func TestManyRenewalsWithoutAPerson(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, true)
	stack := newAccountFor(t, "renewals", fx.cloud, fx.origin)
	_, stored := fx.onMoto("renewals/own")
	made := fx.succeed()
	maps.Copy(stack.set, made.values)
	stack.must(0, "deploy", "default: rotated", "bootstrap key: current")
	fx.cloud.ClearRequests()
	const renewals = 5
	bootstrap, workload, renewed := map[any]bool{}, map[string]bool{}, 0
	for range renewals + 1 {
		got := stack.must(0, "invoke --mode=rotate", "default: rotated")
		if renewed += strings.Count(got.stdout, "bootstrap key: renewed"); strings.Contains(got.all(), "API key") {
			t.Errorf("got a warning of a key:\n%s", got.all())
		}
		fx.useToken(made.values["TOKEN_SECRET"])
		key := stored()["SecretString"]
		want(t, "AWS has IBM's current key", key == fx.cloud.MustCurrent(made.values["BOOTSTRAP_KEY_SECRET"]).Payload, true)
		bootstrap[key], workload[fx.cloud.MustCurrent(made.values["API_KEY_SECRET"]).Payload] = true, true
		fx.later(15 * day)
	}
	want(t, "keys of the bootstrap, keys of the workload, renewals", fmt.Sprint(len(bootstrap), len(workload), renewed), fmt.Sprint(renewals+1, renewals+1, renewals))
	for _, request := range fx.cloud.Requests() {
		if request.Identity == ibmcloudtest.IdentityAdmin && request.Op != ibmcloudtest.OpIAMToken { // by which this test logs in
			t.Errorf("a person has asked for %s", request.Op)
		}
	}
	want(t, "setup, months later", fx.succeed().stdout, made.stdout)
}
