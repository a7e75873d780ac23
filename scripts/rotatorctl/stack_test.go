package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

type object = map[string]any

// scratch is a folder for what all tests share.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "rotatorctl-test-"); err != nil {
		panic(err)
	}
	bin := filepath.Join(scratch, "bin")
	err = os.Mkdir(bin, 0o700)
	for name, script := range map[string]string{"go-once": packOnce} {
		err = cmp.Or(err, os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700))
	}
	if err == nil {
		err = os.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	}
	flag.Parse()
	err = cmp.Or(err, flag.Set("test.parallel", "6")) // they mostly wait for programs
	if err != nil {
		panic(err)
	}
	code := m.Run()
	if theMoto != nil {
		theMoto.Stop()
	}
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// packOnce is a GO that packs the same files once.
const packOnce = `#!/bin/sh
if [ "$2" = ./scripts/package ]; then
	zip=${0%/*}/../packed-$(cat "$5" ${6:+"$6"} | cksum | tr ' ' -)
	[ -e "$zip" ] || { go "$1" "$2" -o "$zip.$$" "$5" ${6:+"$6"} && mv "$zip.$$" "$zip"; } && exec cp "$zip" "$4"
fi
exec go "$@"
`

// One moto serves all tests, each with its own stack and bucket.
var (
	startMoto = sync.OnceValues(func() (_ *awstest.Moto, err error) {
		theMoto, err = awstest.StartMoto()
		return theMoto, err
	})
	theMoto *awstest.Moto // nil until it is started
)

// built has the function, for this machine, and scripts/invoke.
var built = sync.OnceValues(func() (string, error) {
	return scratch, programs.Build(scratch, map[string]string{"bootstrap": "functions/rotate", "invoke": "scripts/invoke"})
})

func mustBuild(t *testing.T) (folder string) {
	t.Helper()
	folder, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// linkFunction takes the place of a build.
func linkFunction(_ context.Context, _ *deployment, binary string) error {
	folder, err := built()
	if err == nil {
		err = os.Link(filepath.Join(folder, "bootstrap"), binary)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// The programs of a build are given no key and no token, whoever they are for.
func TestBuildsGetNoCredentials(t *testing.T) {
	for _, name := range []string{"IAM_TOKEN", "IBMCLOUD_API_KEY", "IC_API_KEY", "IC_IAM_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "SECRETS_MANAGER_APIKEY"} {
		t.Setenv(name, "of-a-person")
	}
	d := deployment{program: &program{}}
	for _, variable := range d.command(t.Context(), "go").Env {
		if name, value, _ := strings.Cut(variable, "="); value == "of-a-person" {
			t.Errorf("a build is given %s", name)
		}
	}
}

// account is an AWS account with the IBM Cloud that its stack rotates in.
type account struct {
	t      *testing.T
	moto   *awstest.Moto
	lambda *awstest.Lambda
	cloud  *ibmcloudtest.Cloud
	stack  string
	bucket string
	arn    string // of the bootstrap secret
	set    map[string]string
	// answer answers in AWS's place, if its status is not 0. It is called for one request at a time.
	answer func(r *http.Request, form url.Values) (status int, text string)
	url    string
}

// newAccount makes a bucket, stores the bootstrap key and prepares the variables for a deployment of one rotation.
func newAccount(t *testing.T, stack string) *account {
	t.Helper()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 2})
	ibm := httptest.NewServer(cloud)
	t.Cleanup(ibm.Close)
	return newAccountFor(t, stack, cloud, ibm.URL)
}

func newAccountFor(t *testing.T, stack string, cloud *ibmcloudtest.Cloud, origin string) *account {
	t.Helper()
	programs.Need(t, "moto_server", "go")
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		programs.Missing(t, "this machine cannot run what Lambda runs")
	}
	moto, err := startMoto()
	if err != nil {
		t.Fatal(err)
	}
	a := &account{t: t, moto: moto, cloud: cloud, stack: stack, bucket: stack + "-code"}
	a.lambda = &awstest.Lambda{Moto: moto, Program: filepath.Join(mustBuild(t), "invoke")}
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.answer != nil {
			mu.Lock()
			defer mu.Unlock()
			body, _ := io.ReadAll(r.Body)
			form, _ := url.ParseQuery(string(body))
			if status, text := a.answer(r, form); status != 0 {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, text)
				return
			}
			r.Body = io.NopCloser(strings.NewReader(string(body)))
		}
		a.lambda.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	a.url = server.URL
	if err := moto.MakeBucket(t.Context(), a.bucket); err != nil {
		t.Fatal(err)
	}
	secret := moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret", object{"Name": stack + "/bootstrap", "SecretString": cloud.BootstrapAPIKey(), "ClientRequestToken": strings.Repeat("c", 32)})
	a.arn = secret["ARN"].(string)
	rotation := cloud.Rotations()[0]
	a.set = map[string]string{
		"STACK": stack, "BUCKET": a.bucket, "BOOTSTRAP_SECRET_ARN": a.arn, "SECRETS_MANAGER_URL": origin, "IAM_URL": origin,
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret, "ARCH": runtime.GOARCH, "DEPLOY_DIR": t.TempDir(), "GO": "go-once",
	}
	return a
}

// configFor leads the SDK to an endpoint.
func configFor(endpoint string) aws.Config {
	env := awstest.Environment(endpoint)
	return aws.Config{
		Region: env["AWS_REGION"], BaseEndpoint: &endpoint, Retryer: func() aws.Retryer { return aws.NopRetryer{} },
		Credentials: credentials.NewStaticCredentialsProvider(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], ""),
	}
}

// run runs a command in the account, and fails the test if a secret is in what it printed.
func (a *account) run(args ...string) outcome {
	a.t.Helper()
	return a.runTyping("", args...)
}

// runTyping does the same at a terminal.
func (a *account) runTyping(typed string, args ...string) outcome {
	a.t.Helper()
	got := runWith(a.t, a.set, configFor(a.url), typed, args...)
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
			a.t.Fatalf("a key or token is in the %s", where) // before a failure prints it
		}
	}
}

const noTokenYet = "no token yet"

// must fails the test unless a command ends so and prints all that.
func (a *account) must(code int, args string, texts ...string) outcome {
	a.t.Helper()
	got := a.run(strings.Fields(args)...)
	if got.exit != code {
		a.t.Fatalf("%s: got exit code %d, want %d:\n%s", args, got.exit, code, got.all())
	}
	for _, text := range texts {
		if !strings.Contains(got.all(), text) {
			a.t.Errorf("%s does not print %q:\n%s", args, text, got.all())
		}
	}
	return got
}

// published returns the fingerprint of the token that a secret holds, which must be a token.
func (a *account) published(secret string) string {
	a.t.Helper()
	version := a.cloud.MustCurrent(secret)
	fingerprint := iamtoken.Token{Value: iamtoken.NewSecret(version.Payload)}.Fingerprint()
	if version.Payload == noTokenYet || version.Metadata["fingerprint"] != fingerprint {
		a.t.Errorf("the token secret holds no token that its metadata describes: %v", version.Metadata)
	}
	return fingerprint
}

// function is what Lambda says of the deployed function.
func (a *account) function() awstest.Function {
	a.t.Helper()
	_, answer := a.moto.MustDo(a.t, awstest.Request{Service: "lambda", Method: "GET", Path: awstest.FunctionPath(a.stack)})
	var function awstest.Function
	if err := json.Unmarshal(answer, &function); err != nil {
		a.t.Fatalf("describing the function: %v: %s", err, answer)
	}
	return function
}

func (a *account) variables() map[string]string {
	return a.function().Configuration.Environment.Variables
}

// objects lists the bucket.
func (a *account) objects() []string {
	a.t.Helper()
	var answer struct {
		Contents []struct{ Key string }
	}
	status, body := a.moto.MustDo(a.t, awstest.Request{Service: "s3", Method: "GET", Path: "/" + a.bucket + "?list-type=2"})
	if err := xml.Unmarshal(body, &answer); err != nil || status != 200 {
		a.t.Fatalf("listing the bucket: %d %v", status, err)
	}
	var keys []string
	for _, object := range answer.Contents {
		keys = append(keys, object.Key)
	}
	return keys
}

// useFile goes from one rotation to a file of two.
func (a *account) useFile() {
	a.t.Helper()
	var entries []object
	for _, rotation := range a.cloud.Rotations() {
		entries = append(entries, object{"name": rotation.Name, "api_key_secret": rotation.APIKeySecret, "token_secret": rotation.TokenSecret})
	}
	text, err := json.Marshal(entries)
	file := filepath.Join(a.t.TempDir(), "my rotations.json")
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.set["ROTATIONS_FILE"], a.set["API_KEY_SECRET"], a.set["TOKEN_SECRET"] = file, "", ""
}

// Whole stories of a stack: the first token at once, nothing to deploy, its status, runs by hand, updates, the end.
func TestLifeOfAStack(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "life")
	if status, _ := a.moto.MustDo(t, awstest.Request{Service: "s3", Method: "PUT", Path: "/" + a.bucket + "/iam-token-rotator/life/notes.txt", Body: "x"}); status != 200 {
		t.Fatalf("putting a file next to the zips: %d", status)
	}
	one, two := a.cloud.Rotations()[0], a.cloud.Rotations()[1]
	a.set["EXPECT_ACCOUNT"] = a.cloud.AccountID()
	a.set["PARAMS"] = "LogLevel=debug"

	a.must(0, "deploy", "Deploying the stack life to account 123456789012, region "+awstest.Region+"\n", "Creating the stack life\n", "life\n",
		"The deployed code is what was built: CodeSha256 ", "default: rotated; the stored token expires 20", "Dashboard: https://console.aws.amazon.com/cloudwatch/home?region="+awstest.Region)
	first := a.published(one.TokenSecret)
	a.set["PARAMS"] = ""
	a.must(0, "deploy", "Updating the stack life", "Nothing has changed", "default: rotated; ")
	if a.published(one.TokenSecret) == first {
		t.Error("deploy without a change has not rotated")
	}
	want(t, "environment, the log level kept", a.variables(), map[string]string{
		"SECRETS_MANAGER_URL": a.set["SECRETS_MANAGER_URL"], "IAM_URL": a.set["IAM_URL"], "SECRETS_MANAGER_APIKEY_ARN": a.arn, "BOOTSTRAP_EXPIRES_AT": "", "BOOTSTRAP_KEY_SECRET": "",
		"API_KEY_SECRET": one.APIKeySecret, "TOKEN_SECRET": one.TokenSecret, "EXPECT_ACCOUNT": a.cloud.AccountID(), "EXPECT_IAM_ID": "", "ROTATIONS_FILE": "",
		"TOKEN_FORMAT": "raw", "MIN_REMAINING": "8m", "ROTATION_INTERVAL": "50m", "SECRETS_MANAGER_MAX_RPS": "", "CONCURRENCY": "", "EVENT_BUS_NAME": "",
		"METRICS_NAMESPACE": "IAMTokenRotator", "LOG_LEVEL": "debug",
	})
	a.checkDashboard()

	a.must(0, "status", " default: rotated; the stored token expires 20")
	a.must(0, "invoke --mode=ensure", "default: fresh; ")
	a.must(0, "status", " default: fresh; ")
	a.must(0, "invoke --mode check --rotation default", "default: checked; ")
	a.must(0, "invoke --mode=rotate --force", "default: rotated; ")
	a.must(0, "doctor", "✓ configuration         valid: ", "\nrotation default\n✓ ", "\nnothing is wrong that can be seen without writing\n")
	a.must(1, "invoke --mode=ensure --rotation=defualt", `misconfigured: no rotation is called "defualt"`)
	a.must(1, "status", " default: rotated; ", "the run at 20", `could not begin: no rotation is called "defualt"`)
	a.must(0, "status --exit-zero")
	a.must(0, "logs", "Z rotate by person: default: rotated; ", "Z ensure by person: default: fresh; ", "Z rotate by person, forced: default: rotated; ", "Z the run could not begin: ")
	if got := a.must(0, "logs --failed").stdout; strings.Contains(got, "default: ") || !strings.Contains(got, "could not begin") {
		t.Errorf("logs --failed: got %s", got)
	}
	a.must(0, "logs --since=1ns -o json", `"entries": []`)
	a.must(0, "logs --raw --since=5m", `"msg":"report"`, "CloudWatchMetrics")
	for _, args := range []string{"status --exit-zero -o json", "logs -o json", "invoke --mode=check -o json", "doctor -o json", "deploy -o json"} {
		if got := a.must(0, args); !json.Valid([]byte(got.stdout)) || len(got.stdout) < 50 {
			t.Errorf("%s: got on standard output %s", args, got.stdout)
		}
	}

	a.set["BOOTSTRAP_EXPIRES_AT"] = "2020-01-31"
	a.must(0, "deploy", "default: rotated; ", "warning: the bootstrap API key ")
	if zips := strings.Count(strings.Join(a.objects(), "\n"), ".zip"); zips != 1 {
		t.Errorf("the same code was uploaded under another key: %v", a.objects())
	}
	a.set["EXPECT_ACCOUNT"], a.set["PARAMS"] = "", "SecretsManagerMaxRps=7"
	a.useFile()
	a.must(0, "deploy", "Checking ROTATIONS_FILE", "2 rotations: 2 rotated")
	want(t, "requests a second, set", a.variables()["SECRETS_MANAGER_MAX_RPS"], "7")
	a.set["PARAMS"] = "SecretsManagerMaxRps="
	a.must(0, "deploy", one.Name+": rotated", two.Name+": rotated", "2 rotations: 2 rotated")
	if got := a.must(0, "status", one.Name+": rotated", two.Name+": rotated", "2 rotations: 2 rotated").stdout; strings.Contains(got, "default:") {
		t.Errorf("status shows a rotation that is not deployed any more: %s", got)
	}
	want(t, "requests a second, emptied", a.variables()["SECRETS_MANAGER_MAX_RPS"], "")
	a.published(two.TokenSecret)
	a.checkNoSecret("log", a.lambda.Printed())
	a.end()
}

// end destroys the stack, and looks for anything left or missing.
func (a *account) end() {
	a.t.Helper()
	a.must(2, "destroy", "destroy deletes the stack life", "--yes")
	a.must(0, "destroy --yes", "destroy: the stack life in account 123456789012, region "+awstest.Region, "the bucket "+a.bucket, "the bootstrap secret "+a.arn)
	if got := fmt.Sprint(a.objects()); got != "[iam-token-rotator/life/notes.txt]" {
		a.t.Errorf("the bucket holds %s, want only what was not ours", got)
	}
	a.must(1, "destroy --yes", "there is no stack life in account 123456789012, region "+awstest.Region)
	a.must(1, "status", "there is no stack life in")
	a.must(1, "logs", "there is no log of the function life in")
	a.must(1, "invoke --mode=check", "there is no function life in")
	a.must(0, "deploy", a.cloud.Rotations()[0].Name+": rotated; ")
}

// Nothing is deleted before the answer, of a stack or of one that is gone already.
func TestDestroyAsks(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "asked")
	zip := "iam-token-rotator/asked/rotate-0.zip"
	if status, _ := a.moto.MustDo(t, awstest.Request{Service: "s3", Method: "PUT", Path: "/" + a.bucket + "/" + zip, Body: "x"}); status != 200 {
		t.Fatalf("putting a zip: %d", status)
	}
	a.must(0, "deploy")
	left := len(a.objects())
	destroy := func(typed string, exit, objects int, says string) {
		t.Helper()
		got := a.runTyping(typed, "destroy", "--bucket="+a.bucket)
		if n := len(a.objects()); got.exit != exit || n != objects || !strings.Contains(got.stderr, says) {
			t.Errorf("answered %q: got exit code %d and %d zips left, want %d and %d:\n%s", typed, got.exit, n, exit, objects, got.all())
		}
	}
	destroy("n\n", 1, left, "log. Continue? [y/N] rotatorctl: not confirmed: nothing was changed")
	a.must(0, "invoke --mode=check", "default: checked")
	a.moto.MustDo(t, awstest.Request{Service: "cloudformation", Body: "Action=DeleteStack&Version=2010-05-15&StackName=asked"})
	destroy("\n", 1, left, "This deletes the zips of one from the bucket asked-code. Continue? [y/N] rotatorctl: not confirmed")
	destroy("yes\n", 1, 0, "there is no stack asked in account")
}

// The key is on no page of this list, so what deploy cannot do is rejected, with what to do.
func TestDeploymentFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		wrong func(a *account)
		says  []string
	}{
		{"no-bucket", func(a *account) { a.set["BUCKET"] = "nobody-has-this" }, []string{"the bucket nobody-has-this does not exist", "aws s3 mb"}},
		{"other-region", func(a *account) {
			a.answer = func(r *http.Request, _ url.Values) (int, string) {
				if r.Method == http.MethodHead {
					return 301, ""
				}
				return 0, ""
			}
		}, []string{"the bucket other-region-code is in the region "}},
		{"no-secret", func(a *account) { a.set["BOOTSTRAP_SECRET_ARN"] = strings.Replace(a.arn, "bootstrap", "misspelt", 1) },
			[]string{"the stack is deployed, but the check of version 1 failed: RotationRefused: 1 of 1 rotations failed; default: bootstrap: not_found: "}},
		{"not-allowed", func(a *account) { a.lambda.Secrets = a.refusing(-1) },
			[]string{"New permissions may take minutes", "default: bootstrap: denied: ", "secretsmanager:GetSecretValue"}},
		{"private-only", func(a *account) {
			a.set["SECRETS_MANAGER_URL"] = "https://instance.private.us-south.secrets-manager.invalid"
			a.lambda.Timeout = 5 * time.Second // the function tries for as long as it may
		}, []string{"default: look: unavailable: ", "does not resolve", "is a private endpoint"}},
		{"may-not-create", func(a *account) { a.answer = forbidding("CreateStack", "AccessDenied") }, []string{"AccessDenied: it is forbidden", "the deployment failed"}},
		{"throttled", func(a *account) { a.answer = forbidding("DescribeStacks", "Throttling") }, []string{"the stack throttled cannot be described: Throttling: it is forbidden (AWS limits the rate of requests: try again in a minute)"}},
		{"expired", func(a *account) { a.answer = forbidding("GetCallerIdentity", "ExpiredToken") }, []string{"the credentials have expired: sign in again"}},
		{"other-code", func(a *account) {
			a.set["BOOTSTRAP_SECRET_ARN"] = strings.Replace(a.arn, "123456789012", "210987654321", 1)
			a.answer = func(r *http.Request, _ url.Values) (int, string) {
				if strings.HasSuffix(r.URL.Path, "/versions") {
					return 201, `{"Version":"1","CodeSha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}`
				}
				return 0, ""
			}
		}, []string{"the deployed code is not what was built: CodeSha256 is 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=, built was ", "Warning: the bootstrap secret is in account 210987654321, region " + awstest.Region}},
		{"in-progress", func(a *account) { a.answer = describing("UPDATE_IN_PROGRESS") }, []string{"is in UPDATE_IN_PROGRESS: another deployment is running"}},
		{"stuck", func(a *account) { a.answer = describing("UPDATE_ROLLBACK_FAILED") }, []string{"aws cloudformation continue-update-rollback --stack-name stuck"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, tt.name)
			tt.wrong(a)
			a.must(1, "deploy", tt.says...)
			if tt.name == "not-allowed" { // what a failed deployment made goes with destroy
				a.must(0, "destroy -y", "Left as they are")
				want(t, "zips left", len(a.objects()), 0)
			}
		})
	}
}

// forbidding answers one action as AWS does to who may not, or not now.
func forbidding(action, code string) func(*http.Request, url.Values) (int, string) {
	return func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") != action {
			return 0, ""
		}
		return 403, fmt.Sprintf(`<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>it is forbidden</Message></Error></ErrorResponse>`, code)
	}
}

// describing says that the stack is in a status.
func describing(status string) func(*http.Request, url.Values) (int, string) {
	return func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") != "DescribeStacks" {
			return 0, ""
		}
		return 200, stackIn(form.Get("StackName"), status)
	}
}

func stackIn(name, status string) string {
	return `<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>` + name + `</StackName><StackId>` + name +
		`</StackId><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>` + status + `</StackStatus></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`
}

// refusing answers as AWS Secrets Manager does to a role without permission, so many times (-1: always).
func (a *account) refusing(times int) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if times == 0 {
			a.moto.ServeHTTP(w, r)
			return
		}
		times--
		w.WriteHeader(400)
		_, _ = io.WriteString(w, `{"__type":"AccessDeniedException","Message":"User: arn:aws:sts::123456789012:assumed-role/x is not authorized to perform: secretsmanager:GetSecretValue"}`)
	}))
	a.t.Cleanup(server.Close)
	return server.URL
}

// What another function answers is no result, in either form, and is not repeated.
func TestForeignAnswer(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "foreign")
	a.answer = func(r *http.Request, _ url.Values) (int, string) {
		if strings.HasSuffix(r.URL.Path, "/invocations") {
			return 200, `{"key":"` + a.cloud.BootstrapAPIKey() + `"}`
		}
		return 0, ""
	}
	for _, args := range []string{"invoke --mode=check", "invoke --mode=check -o json", "doctor -o json"} {
		if got := a.must(1, args, "the function's answer is neither report nor diagnosis: ("); got.stdout != "" {
			t.Errorf("%s: got %d bytes on standard output, want none", args, len(got.stdout))
		}
	}
}

// The SDK repeats what failed, but no run.
func TestOnlyRunsAreNotRepeated(t *testing.T) {
	t.Parallel()
	asked := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			_, _ = io.WriteString(w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`)
			return
		}
		asked[path.Base(r.URL.Path)]++
		w.WriteHeader(500)
	}))
	defer server.Close()
	cfg := configFor(server.URL)
	cfg.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond })
	}
	runWith(t, nil, cfg, "", "invoke", "--mode=rotate")
	d := deployment{program: &program{stack: "s", clients: clients{lambda: lambda.NewFromConfig(cfg)}}}
	if err := d.publish(t.Context()); err == nil {
		t.Error("a version was published without an answer")
	}
	want(t, "requests", asked, map[string]int{"invocations": 1, "versions": 3})
}

// Permissions that are not everywhere yet are waited for; nothing else is.
func TestDeploymentWaitsForPermissions(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "patient")
	a.lambda.Secrets = a.refusing(2)
	got := a.must(0, "deploy", "default: rotated; ", "New permissions may take minutes: trying again every 15s for 5m0s at most")
	if n := strings.Count(got.stderr, "denied"); n != 1 {
		t.Errorf("the same failure was printed %d times, want 1:\n%s", n, got.stderr)
	}
	a.published(a.cloud.Rotations()[0].TokenSecret)

	a.lambda.Secrets = ""
	a.moto.MustCall(t, "secretsmanager", "secretsmanager.PutSecretValue", object{"SecretId": a.arn, "SecretString": " ", "ClientRequestToken": strings.Repeat("d", 32)})
	a.must(1, "invoke --mode=check", "default: bootstrap: misconfigured: ", "the secret is empty")
	a.must(1, "doctor", "✗ bootstrap-key", "rotation default\n– ", "1 check failed, ", "rotatorctl: correct what is marked ✗")

	// A later failure shows at once, and status still knows the expiry, which the failed run could not read.
	a.lambda.Secrets = a.refusing(-1)
	a.must(1, "invoke --mode=ensure", "the run failed: RotationRefused: 1 of 1 rotations failed; default: bootstrap: denied: ")
	a.must(1, "status", " default: failed", "\n  bootstrap: denied: ", "the stored token expires 20")
}

// A stack that can only be deleted is, before a new one is made; each event is printed once, and equal reasons too.
func TestDeploymentRemovesWhatWasLeft(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS"} {
		a := newAccount(t, strings.ToLower(strings.ReplaceAll(status, "_", "")))
		var actions []string
		a.answer = func(_ *http.Request, form url.Values) (int, string) {
			action := form.Get("Action")
			if actions = append(actions, action); slices.Contains(actions, "DeleteStack") {
				return 0, ""
			}
			switch action {
			case "DescribeStacks":
				return 200, stackIn(a.stack, status)
			case "DescribeStackEvents":
				return 200, `<DescribeStackEventsResponse><DescribeStackEventsResult><StackEvents/></DescribeStackEventsResult></DescribeStackEventsResponse>`
			}
			return 0, ""
		}
		a.must(0, "deploy", "Removing the stack "+a.stack+", which an earlier deployment left in "+status, "default: rotated")
		deleted, created := slices.Index(actions, "DeleteStack"), slices.Index(actions, "CreateStack")
		if deleted < 0 || created < deleted {
			t.Errorf("got %v, want the stack deleted before it is created", actions)
		}
	}
}

// CloudFormation's events are printed as they come; why it failed is printed once for all of the same reason.
func TestEventsOfAFailure(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "events")
	all := []string{event1("5", "events", "ROLLBACK_COMPLETE", ""), event1("4", "FunctionRole", "CREATE_FAILED", "no \u202eright"),
		event1("3", "Topic", "CREATE_FAILED", "Resource creation cancelled"), event1("2", "ScheduleRole", "CREATE_FAILED", "no \u202eright"), event1("1", "LogGroup", "CREATE_COMPLETE", "")}
	shown := 0
	created := false
	a.answer = func(_ *http.Request, form url.Values) (int, string) {
		switch form.Get("Action") {
		case "CreateStack":
			created = true
			return 200, `<CreateStackResponse><CreateStackResult><StackId>events</StackId></CreateStackResult></CreateStackResponse>`
		case "DescribeStacks":
			if !created {
				return 0, ""
			}
			if shown == len(all) {
				return 200, stackIn("events", "ROLLBACK_COMPLETE")
			}
			return 200, stackIn("events", "ROLLBACK_IN_PROGRESS")
		case "DescribeStackEvents":
			shown = min(shown+2, len(all))
			return 200, `<DescribeStackEventsResponse><DescribeStackEventsResult><StackEvents>` + strings.Join(all[len(all)-shown:], "") + `</StackEvents></DescribeStackEventsResult></DescribeStackEventsResponse>`
		}
		return 0, ""
	}
	got := a.must(1, "deploy", "     0s  CREATE_COMPLETE     LogGroup\n", "     2s  CREATE_FAILED       FunctionRole\n", "     4s  ROLLBACK_COMPLETE   events\n",
		"CloudFormation ended in ROLLBACK_COMPLETE\n  ScheduleRole, FunctionRole: no \\u202eright (2 times)\n", "rotatorctl destroy --stack=events")
	if n := strings.Count(got.all(), "LogGroup"); n != 1 || strings.Contains(got.all(), "\u202e") {
		t.Errorf("LogGroup is printed %d times, want 1, and no control character: %q", n, got.all())
	}
}

func event1(id, resource, status, reason string) string {
	return `<member><EventId>` + id + `</EventId><StackId>events</StackId><StackName>events</StackName><Timestamp>2026-01-01T00:00:00Z</Timestamp><LogicalResourceId>` + resource +
		`</LogicalResourceId><ResourceStatus>` + status + `</ResourceStatus><ResourceStatusReason>` + reason + `</ResourceStatusReason></member>`
}

// What is missing or not known is rejected before anything is built or sent.
func TestUsage(t *testing.T) {
	t.Parallel()
	programs.Need(t, "go")
	folder := t.TempDir()
	files := map[string]string{}
	for name, text := range map[string]string{"object": `{"name":"x"}`, "broken": `[{"name":"x"},]`, "empty": "",
		"faulty": `[{"name":"a b","api_key_secret":"g/k","token_secret":"00000000-0000-4000-8000-000000000000"}]`} {
		files[name] = filepath.Join(folder, name)
		if err := os.WriteFile(files[name], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd"
	const id = "00000000-0000-4000-8000-000000000000"
	whole := object{"BUCKET": "bucket", "BOOTSTRAP_SECRET_ARN": arn, "SECRETS_MANAGER_URL": "https://x", "API_KEY_SECRET": id, "TOKEN_SECRET": id}
	list := object{"BUCKET": "bucket", "BOOTSTRAP_SECRET_ARN": arn, "SECRETS_MANAGER_URL": "https://x"}
	const likeAKey = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"
	for _, tt := range []struct {
		name, args string
		env, more  object
		says       string
	}{
		{"nothing", "deploy", nil, nil, "set BUCKET, BOOTSTRAP_SECRET_ARN, SECRETS_MANAGER_URL, API_KEY_SECRET, TOKEN_SECRET: load what setup wrote"},
		{"one of two", "deploy", whole, object{"TOKEN_SECRET": ""}, "set TOKEN_SECRET"},
		{"odd stack", "deploy", whole, object{"STACK": "9 lives"}, `STACK="9 lives" is no name`},
		{"long stack", "status", whole, object{"STACK": "a" + strings.Repeat("b", 64)}, "is no name of a stack"},
		{"partial ARN", "deploy", whole, object{"BOOTSTRAP_SECRET_ARN": "rotator/bootstrap"}, "rotatorctl put-key prints"},
		{"unknown ARCH", "deploy", whole, object{"ARCH": "mips"}, "use arm64 or amd64"},
		{"plain http", "deploy", whole, object{"SECRETS_MANAGER_URL": "http://x.example"}, "SECRETS_MANAGER_URL must be the instance's https origin"},
		{"both sources", "deploy", whole, object{"ROTATIONS_FILE": files["faulty"]}, "ROTATIONS_FILE and API_KEY_SECRET, TOKEN_SECRET are set"},
		{"expected with a list", "deploy", list, object{"ROTATIONS_FILE": files["faulty"], "EXPECT_IAM_ID": "x"}, "ROTATIONS_FILE and EXPECT_IAM_ID are set"},
		{"no such file", "deploy", list, object{"ROTATIONS_FILE": "/no/such"}, "cannot be read"},
		{"an endless file", "deploy", list, object{"ROTATIONS_FILE": "/dev/zero"}, "is no list"},
		{"no list", "deploy", list, object{"ROTATIONS_FILE": files["object"]}, "nothing was deployed"},
		{"an empty file", "deploy", list, object{"ROTATIONS_FILE": files["empty"]}, "nothing was deployed"},
		{"a faulty entry", "deploy", list, object{"ROTATIONS_FILE": files["faulty"]}, "ROTATIONS_FILE[0]: name: use 1 to 40"},
		{"a syntax error", "deploy", list, object{"ROTATIONS_FILE": files["broken"]}, "nothing was deployed"},
		{"misspelt parameter", "deploy", whole, object{"PARAMS": "LogLevel=info MinRemaning=10m"}, `the key "MinRemaning", which the template does not know. It may have: AlarmEmail `},
		{"no parameter's name", "deploy", whole, object{"PARAMS": "=10m"}, `the key ""`},
		{"a space in a value", "deploy", whole, object{"PARAMS": "AlarmEmail=me and@example.com"}, `PARAMS has "and@example.com", which is no Key=Value`},
		{"a key for a parameter", "deploy", whole, object{"PARAMS": likeAKey}, "(40 characters, not repeated here)"},
		{"a key for a stack", "status", whole, object{"STACK": likeAKey}, "(40 characters, not repeated here)"},
		{"a key for a rotation", "invoke --mode=rotate --rotation " + likeAKey + "EFGH", whole, nil, "(44 characters, not repeated here)"},
		{"a key for an id", "deploy", whole, object{"API_KEY_SECRET": likeAKey}, "API_KEY_SECRET must be the id of a secret, or group/name"},
		{"a key for the token's id", "deploy", whole, object{"TOKEN_SECRET": likeAKey}, "TOKEN_SECRET must be"},
		{"a key for an identity", "deploy", whole, object{"EXPECT_IAM_ID": likeAKey}, "EXPECT_IAM_ID must be"},
		{"a key for an account", "deploy", whole, object{"EXPECT_ACCOUNT": likeAKey}, "EXPECT_ACCOUNT must be"},
		{"a key for a date", "deploy", whole, object{"BOOTSTRAP_EXPIRES_AT": likeAKey}, "BOOTSTRAP_EXPIRES_AT must be"},
		{"a key for a bucket", "deploy", whole, object{"BUCKET": likeAKey}, "BUCKET must be"},
		{"a key in a URL's path", "deploy", whole, object{"SECRETS_MANAGER_URL": "https://x/" + likeAKey}, "SECRETS_MANAGER_URL must be"},
		{"a key in a URL's query", "deploy", whole, object{"SECRETS_MANAGER_URL": "https://x?" + likeAKey}, "SECRETS_MANAGER_URL must be"},
		{"a key in a URL's fragment", "deploy", whole, object{"IAM_URL": "https://x#" + likeAKey}, "IAM_URL must be"},
		{"a key for a password", "deploy", whole, object{"IAM_URL": "https://u:" + likeAKey + "@x"}, "IAM_URL must be"},
		{"a key for a port", "deploy", whole, object{"IAM_URL": "https://x:" + likeAKey}, "IAM_URL must be"},
		{"a key for a parameter's value", "deploy", whole, object{"PARAMS": "AlarmEmail=" + likeAKey}, "AlarmEmail must be"},
		{"a parameter with a variable", "deploy", whole, object{"PARAMS": "IamUrl=https://x"}, "PARAMS must not set IamUrl: set IAM_URL"},
		{"a tag without a value", "deploy", whole, object{"TAGS": "cost-center=7 team"}, `TAGS has "team", which is no Key=Value`},
		{"a tag that AWS keeps", "deploy", whole, object{"TAGS": "AWS:x=1"}, "no key begins with aws:"},
		{"a tag without a key", "deploy", whole, object{"TAGS": "=1"}, "a key has 1 to 128"},
		{"a tag with a sign", "deploy", whole, object{"TAGS": "a=<b>"}, "letters, digits"},
		{"a tag twice", "deploy", whole, object{"TAGS": "a=1 a=2"}, `the key "a" twice`},
		{"a key for a tag", "deploy", whole, object{"TAGS": likeAKey}, "(40 characters, not repeated here)"},
		{"too many tags", "deploy", whole, object{"TAGS": manyTags()}, "TAGS has 41 tags"},
		{"a service role's name", "deploy", whole, object{"CLOUDFORMATION_ROLE_ARN": "deployer"}, "CLOUDFORMATION_ROLE_ARN must be a role's ARN"},
		{"a key for a service role", "deploy", whole, object{"CLOUDFORMATION_ROLE_ARN": likeAKey}, "CLOUDFORMATION_ROLE_ARN must be"},
		{"a key for a KMS key", "deploy", whole, object{"PARAMS": "KmsKeyArn=" + likeAKey}, "KmsKeyArn must be a key's ARN"},
		{"no mode", "invoke", nil, nil, "set MODE: rotate, ensure, check, doctor"},
		{"unknown mode", "invoke", nil, object{"MODE": "bogus"}, `MODE="bogus" is not known: use rotate, ensure, check, doctor`},
		{"a key for a mode", "invoke --mode " + likeAKey, nil, nil, "(40 characters, not repeated here)"},
		{"unknown force", "invoke --mode=rotate", nil, object{"FORCE": "yes"}, `FORCE="yes" is no truth value: use true or false`},
		{"forced doctor", "invoke --mode=doctor --force", nil, nil, "leave it out"},
		{"since in words", "logs --since=abc", nil, nil, `option --since: "abc" is no duration: use 30m or 24h`},
		{"since nothing", "logs --since=0s", nil, nil, "--since is the time to go back"},
		{"since the future", "logs --since=-5m", nil, nil, "--since is the time to go back"},
		{"raw and failed", "logs --raw --failed", nil, nil, "leave out --failed"},
		{"endless JSON", "logs -f -o json", nil, nil, "leave out -o json"},
		{"destroy unasked", "destroy", nil, nil, "give --yes"},
		{"argument", "status now", nil, nil, `takes no arguments, got "now"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{}
			for _, set := range []object{tt.env, tt.more} {
				for name, value := range set {
					env[name] = value.(string)
				}
			}
			nowhere := aws.Config{Region: "eu-central-1", BaseEndpoint: aws.String("http://127.0.0.1:1")}
			got := runWith(t, env, nowhere, "", strings.Fields(tt.args)...)
			if got.exit != 2 || !strings.Contains(got.stderr, tt.says) || got.stdout != "" || strings.Contains(got.stderr, likeAKey) {
				t.Errorf("got exit code %d, %q, %q, want 2 and %q", got.exit, got.stdout, got.stderr, tt.says)
			}
		})
	}
}

func manyTags() string {
	var tags strings.Builder
	for i := range 41 {
		fmt.Fprintf(&tags, "tag%d=x ", i)
	}
	return tags.String()
}

// Of every parameter it is settled who sets it: deploy, from a variable, or PARAMS. None may be hidden: an update
// hands the stored values on.
func TestEveryParameterIsSetInOnePlace(t *testing.T) {
	text, err := os.ReadFile("../../infra/aws/template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	d := deployment{program: &program{stack: "s"}, root: "../..", values: values}
	if err := d.readParameters(); err != nil {
		t.Fatal(err)
	}
	ours := []string{"CodeKey", aliasVersion, releasesList}
	for _, s := range settings {
		if s.parameter != "" {
			ours = append(ours, s.parameter)
		}
	}
	section, _, _ := strings.Cut(string(text[bytes.Index(text, []byte("\nParameters:\n")):]), "\nConditions:\n")
	var all []string
	for _, found := range regexp.MustCompile(`(?m)^  (\w+):$`).FindAllStringSubmatch(section, -1) {
		all = append(all, found[1])
	}
	slices.Sort(all)
	if both := slices.Sorted(slices.Values(append(ours, d.others...))); !slices.Equal(both, all) || strings.Contains(section, "NoEcho") {
		t.Errorf("deploy and PARAMS set %v, the template has %v, none of them NoEcho", both, all)
	}
}

// Every architecture's name is one of two.
func TestArchitectures(t *testing.T) {
	for given, want := range map[string]string{"": "arm64", "arm64": "arm64", "aarch64": "arm64", "amd64": "x86_64", "x86_64": "x86_64"} {
		d := deployment{program: &program{stack: "s"}, values: map[string]string{"ARCH": given, "BUCKET": "bucket", "SECRETS_MANAGER_URL": "https://x",
			"BOOTSTRAP_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd", "API_KEY_SECRET": "group/name", "TOKEN_SECRET": "00000000-0000-4000-8000-000000000000"}}
		if err := d.check(t.Context()); err != nil || d.parameters["Architecture"] != want {
			t.Errorf("%q: got %q, %v; want %q", given, d.parameters["Architecture"], err, want)
		}
	}
}
