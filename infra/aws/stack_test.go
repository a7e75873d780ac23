package aws_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// buildPrograms builds, for this machine and once, `invoke` and, below deploy/,
// the function as `make deploy` builds it.
var buildPrograms = sync.OnceValues(func() (string, error) {
	folder := filepath.Join(scratch, "programs")
	for _, build := range [][]string{ // with make's flags, to find most of it built already
		{"-o", filepath.Join(folder, "deploy", "bootstrap"), "./functions/rotate"},
		{"-o", filepath.Join(folder, "invoke"), "./scripts/invoke"},
	} {
		command := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w"}, build...)...)
		command.Dir, command.Env = root, cleanEnvironment("CGO_ENABLED=0")
		if printed, err := command.CombinedOutput(); err != nil {
			return folder, fmt.Errorf("go build: %w: %s", err, printed)
		}
	}
	return folder, nil
})

// programs is the folder of buildPrograms.
func programs(t *testing.T) string {
	t.Helper()
	folder, err := buildPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// account is a stack in the making, with the IBM Cloud that it rotates in.
type account struct {
	t      *testing.T
	moto   *motoServer
	lambda *lambdaServer
	cloud  *ibmcloudtest.Cloud
	stack  string
	bucket string
	folder string            // where make builds
	role   string            // the function's, once looked up
	arn    string            // of the bootstrap secret
	set    map[string]string // make variables
	env    []string
}

// newAccount makes a bucket, stores the bootstrap key and prepares the variables
// for a deployment of one rotation.
func newAccount(t *testing.T, stack string) *account {
	t.Helper()
	moto := needMoto(t)
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skipf("Lambda knows amd64 and arm64, this machine is %s", runtime.GOARCH)
	}
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 2})
	ibm := httptest.NewServer(cloud)
	t.Cleanup(ibm.Close)
	a := &account{t: t, moto: moto, cloud: cloud, stack: stack, bucket: stack + "-code", folder: t.TempDir()}
	lambda, endpoint := moto.lambda(t, a.bucket)
	a.lambda = lambda
	a.env = moto.environment("AWS_ENDPOINT_URL_LAMBDA="+endpoint, "DENIED_FOR=0", "DENIED_PAUSE=0")
	if status, answer := moto.request(t, "s3", "PUT", "/"+a.bucket, "", createBucket); status != 200 {
		t.Fatalf("making the bucket: %d %s", status, answer)
	}
	secret := moto.call(t, "secretsmanager", "secretsmanager.CreateSecret", object{"Name": stack + "/bootstrap", "SecretString": cloud.BootstrapAPIKey(), "ClientRequestToken": strings.Repeat("c", 32)})
	a.arn = secret["ARN"].(string)
	rotation := cloud.Rotations()[0]
	a.set = map[string]string{
		"STACK": stack, "BUCKET": a.bucket, "BOOTSTRAP_SECRET_ARN": a.arn, "SECRETS_MANAGER_URL": ibm.URL, "IAM_URL": ibm.URL,
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret, "ARCH": runtime.GOARCH,
	}
	return a
}

const createBucket = `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>` + region + `</LocationConstraint></CreateBucketConfiguration>`

// make runs one of the Makefile's targets as a person would.
func (a *account) make(target string, more ...string) outcome {
	a.t.Helper()
	args := []string{"--no-print-directory", target, "DEPLOY_DIR=" + a.folder}
	for name, value := range a.set {
		args = append(args, name+"="+value)
	}
	return a.keep(runIn(a.t, root, a.env, "", "make", append(args, more...)...))
}

// script runs a command of scripts/stack by itself, with the function as make has
// built it, or else as the tests have.
func (a *account) script(command string, more ...string) outcome {
	a.t.Helper()
	err := os.Link(filepath.Join(programs(a.t), "deploy", "bootstrap"), filepath.Join(a.folder, "bootstrap"))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		a.t.Fatal(err)
	}
	env := append([]string{"BUILD_DIR=" + a.folder}, a.env...)
	for name, value := range a.set {
		env = append(env, name+"="+value)
	}
	return a.keep(runIn(a.t, root, append(env, more...), "", filepath.Join(root, "scripts/stack"), command))
}

// keep fails the test if a secret is in what a program printed.
func (a *account) keep(got outcome) outcome {
	a.t.Helper()
	a.checkNoSecret("output", got.all())
	return got
}

func (a *account) checkNoSecret(where, text string) {
	a.t.Helper()
	secrets := []string{a.cloud.BootstrapAPIKey()}
	for _, rotation := range a.cloud.Rotations() {
		secrets = append(secrets, rotation.APIKey)
		if token := a.cloud.MustCurrent(rotation.TokenSecret).Payload; token != noTokenYet {
			secrets = append(secrets, token)
		}
	}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			a.t.Errorf("a key or token is in the %s", where)
		}
	}
}

const noTokenYet = "no token yet"

// mustSay fails the test unless the program ended so and said all that.
func (a *account) mustSay(what string, got outcome, code int, texts ...string) {
	a.t.Helper()
	if got.code != code {
		a.t.Fatalf("%s: got exit %d, want %d:\n%s", what, got.code, code, got.all())
	}
	for _, text := range texts {
		if !strings.Contains(got.all(), text) {
			a.t.Errorf("%s does not say %q:\n%s", what, text, got.all())
		}
	}
}
