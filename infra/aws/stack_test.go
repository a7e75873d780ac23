package aws_test

import (
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// build builds `invoke` and `sandbox`, for this machine and once, and, below
// deploy/, the function as `make deploy` builds it.
var build = sync.OnceValues(func() (string, error) {
	folder := filepath.Join(scratch, "programs")
	return folder, programs.Build(folder, map[string]string{
		"deploy/bootstrap": "functions/rotate", "invoke": "scripts/invoke", "sandbox": "scripts/sandbox",
	})
})

// builtPrograms is the folder of build.
func builtPrograms(t *testing.T) string {
	t.Helper()
	folder, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// account is a stack in the making, with the IBM Cloud that it rotates in.
type account struct {
	t      *testing.T
	moto   *awstest.Moto
	lambda *awstest.Lambda
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
	a.lambda = &awstest.Lambda{Moto: moto, Program: filepath.Join(builtPrograms(t), "invoke")}
	lambda := httptest.NewServer(a.lambda)
	t.Cleanup(lambda.Close)
	a.env = awsEnvironment(moto, "AWS_ENDPOINT_URL="+lambda.URL, "DENIED_FOR=0", "DENIED_PAUSE=0")
	if err := moto.MakeBucket(t.Context(), a.bucket); err != nil {
		t.Fatal(err)
	}
	secret := moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret", object{"Name": stack + "/bootstrap", "SecretString": cloud.BootstrapAPIKey(), "ClientRequestToken": strings.Repeat("c", 32)})
	a.arn = secret["ARN"].(string)
	rotation := cloud.Rotations()[0]
	a.set = map[string]string{
		"STACK": stack, "BUCKET": a.bucket, "BOOTSTRAP_SECRET_ARN": a.arn, "SECRETS_MANAGER_URL": ibm.URL, "IAM_URL": ibm.URL,
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret, "ARCH": runtime.GOARCH,
	}
	return a
}

// make runs one of the Makefile's targets as a person would.
func (a *account) make(target string, more ...string) programs.Result {
	a.t.Helper()
	args := []string{"--no-print-directory", target, "DEPLOY_DIR=" + a.folder}
	for name, value := range a.set {
		args = append(args, name+"="+value)
	}
	return a.keep(runIn(a.t, root, a.env, "", "make", append(args, more...)...))
}

// script runs a command of scripts/stack by itself, with the function as make has
// built it, or else as the tests have.
func (a *account) script(command string, more ...string) programs.Result {
	a.t.Helper()
	err := os.Link(filepath.Join(builtPrograms(a.t), "deploy", "bootstrap"), filepath.Join(a.folder, "bootstrap"))
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
func (a *account) keep(got programs.Result) programs.Result {
	a.t.Helper()
	a.checkNoSecret("output", got.All())
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
func (a *account) mustSay(what string, got programs.Result, code int, texts ...string) {
	a.t.Helper()
	if got.Exit != code {
		a.t.Fatalf("%s: got exit %d, want %d:\n%s", what, got.Exit, code, got.All())
	}
	for _, text := range texts {
		if !strings.Contains(got.All(), text) {
			a.t.Errorf("%s does not say %q:\n%s", what, text, got.All())
		}
	}
}
