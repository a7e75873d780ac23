package main

import (
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
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/awstest"
	"iam-token-rotator/scripts/programs"
)

type object = map[string]any

// scratch is a folder that all tests share.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "rotatorctl-test-"); err != nil {
		panic(err)
	}
	if err = os.WriteFile(filepath.Join(scratch, "fake-go"), []byte(fakeGo), 0o700); err == nil {
		err = os.Setenv("PATH", scratch+":"+os.Getenv("PATH"))
	}
	flag.Parse()
	if err = cmp.Or(err, flag.Set("test.parallel", "6")); err != nil { // they mostly wait for programs
		panic(err)
	}
	code := m.Run()
	if theMoto != nil {
		theMoto.Stop()
	}
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// fakeGo is a GO that has already built the programs that deploy runs.
const fakeGo = `#!/bin/sh
built=${0%/*}
case "$*" in
"run ./scripts/package "*) shift 2; exec "$built/package" "$@" ;;
*" ./functions/rotate config") exec "$built/bootstrap" config ;;
esac
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

// built has the programs that deploy and Lambda run, for this machine.
var built = sync.OnceValues(func() (string, error) {
	return scratch, programs.Build(scratch, map[string]string{"bootstrap": "functions/rotate", "invoke": "scripts/invoke", "package": "scripts/package"})
})

func mustBuild(t *testing.T) (folder string) {
	t.Helper()
	folder, err := built()
	noError(t, err)
	return folder
}

// linkFunction replaces the build: it writes a script that runs the function, which is small to pack and to upload.
func linkFunction(_ context.Context, _ *deployment, binary string) error {
	folder, err := built()
	if err == nil {
		_, err = os.Stat(binary)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = os.WriteFile(binary, []byte("#!/bin/sh\nexec '"+folder+"/bootstrap'\n"), 0o700)
	}
	return err
}

// account is an AWS account, and the IBM Cloud in which its stack rotates. The clients of its program do not go through answer.
type account struct {
	*program
	t      *testing.T
	moto   *awstest.Moto
	lambda *awstest.Lambda
	cloud  *ibmcloudtest.Cloud
	bucket string
	arn    string // of the bootstrap secret
	set    map[string]string
	// answer answers in place of moto, unless it returns the status 0. It gets one request at a time.
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
	go func() { _, _ = built() }() // meanwhile
	moto, err := startMoto()
	noError(t, err)
	a := &account{t: t, moto: moto, cloud: cloud, bucket: stack + "-code", lambda: &awstest.Lambda{Moto: moto, Program: filepath.Join(mustBuild(t), "invoke")}}
	var mu sync.Mutex
	serve := func(handler http.HandlerFunc) string {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		return server.URL
	}
	a.url = serve(func(w http.ResponseWriter, r *http.Request) {
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
	})
	direct := configFor(serve(a.lambda.ServeHTTP))
	a.program = &program{stack: stack, loadAWS: func(context.Context) (aws.Config, error) { return direct, nil }, sleep: shortly}
	noError(t, cmp.Or(a.connect(t.Context()), moto.MakeBucket(t.Context(), a.bucket)))
	a.arn = a.newSecret(stack+"/bootstrap", cloud.BootstrapAPIKey())
	rotation := cloud.Rotations()[0]
	a.set = map[string]string{
		"STACK": stack, "BUCKET": a.bucket, "BOOTSTRAP_SECRET_ARN": a.arn, "SECRETS_MANAGER_URL": origin, "IAM_URL": origin,
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret, "ARCH": runtime.GOARCH, "DEPLOY_DIR": t.TempDir(), "GO": "fake-go",
	}
	return a
}

// newSecret creates an AWS secret and returns its ARN.
func (a *account) newSecret(name, value string) string {
	a.t.Helper()
	return a.moto.MustCall(a.t, "secretsmanager", "secretsmanager.CreateSecret", object{"Name": name, "SecretString": value, "ClientRequestToken": strings.Repeat("c", 32)})["ARN"].(string)
}

// configFor is the SDK's configuration for an endpoint.
func configFor(endpoint string) aws.Config {
	env := awstest.Environment(endpoint)
	return aws.Config{
		Region: env["AWS_REGION"], BaseEndpoint: &endpoint, Retryer: func() aws.Retryer { return aws.NopRetryer{} },
		Credentials: credentials.NewStaticCredentialsProvider(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], ""),
	}
}

// run runs a command in the account, and fails the test if it prints a secret. If something is typed, it runs on a terminal.
func (a *account) run(typed string, args ...string) outcome {
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

// must fails the test unless a command exits with the code and prints all texts.
func (a *account) must(code int, args string, texts ...string) outcome {
	a.t.Helper()
	got := a.run("", strings.Fields(args)...)
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

// noError ends the test if there is an error.
func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// published returns the fingerprint of the token in a secret. The test fails if it is no token, or not the one in its metadata.
func (a *account) published(secret string) string {
	a.t.Helper()
	version := a.cloud.MustCurrent(secret)
	fingerprint := iamtoken.Token{Value: iamtoken.NewSecret(version.Payload)}.Fingerprint()
	if version.Payload == noTokenYet || version.Metadata["fingerprint"] != fingerprint {
		a.t.Errorf("the token secret holds no token that its metadata describes: %v", version.Metadata)
	}
	return fingerprint
}

// useFile replaces the one rotation by a file of all, in which it edits the text.
func (a *account) useFile(edit ...string) {
	a.t.Helper()
	var entries []object
	for _, rotation := range a.cloud.Rotations() {
		entries = append(entries, object{"name": rotation.Name, "api_key_secret": rotation.APIKeySecret, "token_secret": rotation.TokenSecret})
	}
	text, err := json.Marshal(entries)
	file := filepath.Join(a.t.TempDir(), "my rotations.json")
	if err == nil {
		err = os.WriteFile(file, []byte(strings.NewReplacer(edit...).Replace(string(text))), 0o600)
	}
	noError(a.t, err)
	a.set["ROTATIONS_FILE"], a.set["API_KEY_SECRET"], a.set["TOKEN_SECRET"] = file, "", ""
}

// variables are the environment of the function's unpublished version.
func (a *account) variables() map[string]string {
	a.t.Helper()
	function, err := a.program.lambda.GetFunctionConfiguration(a.t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: &a.stack})
	noError(a.t, err)
	return function.Environment.Variables
}

// live is the version that the alias names.
func (a *account) live() string {
	a.t.Helper()
	alias, err := a.program.lambda.GetAlias(a.t.Context(), &lambda.GetAliasInput{FunctionName: &a.stack, Name: aws.String(aliasName)})
	noError(a.t, err)
	return *alias.FunctionVersion
}

// objects lists the keys in the bucket that begin with a prefix.
func (a *account) objects(prefix string) (keys []string) {
	a.t.Helper()
	listed, err := a.s3.ListObjectsV2(a.t.Context(), &s3.ListObjectsV2Input{Bucket: &a.bucket, Prefix: &prefix})
	noError(a.t, err)
	for _, object := range listed.Contents {
		keys = append(keys, *object.Key)
	}
	return keys
}

// releases are the versions that have a release in the bucket.
func (a *account) releases() (versions []string) {
	a.t.Helper()
	for _, key := range a.objects(a.prefix("release")) {
		version, _, _ := strings.Cut(strings.TrimPrefix(key, a.prefix("release")), "-")
		versions = append(versions, version)
	}
	return versions
}

// store puts an object into the bucket.
func (a *account) store(key, content string) {
	a.t.Helper()
	noError(a.t, a.put(a.t.Context(), a.bucket, key, []byte(content)))
}

// query makes a call of one of AWS's XML protocols and decodes the answer.
func (a *account) query(service, body string, into any) {
	a.t.Helper()
	status, answer := a.moto.MustDo(a.t, awstest.Request{Service: service, Body: body})
	if err := xml.Unmarshal(answer, into); err != nil || status != 200 {
		a.t.Fatalf("%s: %d, %v: %s", body, status, err, answer)
	}
}

// refusing is an AWS Secrets Manager that denies so many requests (-1: all) and then passes them on.
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

// forbidding answers one action with an error code.
func forbidding(action, code string) func(*http.Request, url.Values) (int, string) {
	return func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") != action {
			return 0, ""
		}
		return 403, fmt.Sprintf(`<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>it is forbidden</Message></Error></ErrorResponse>`, code)
	}
}

// describing answers that the stack is in a status.
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

func eventsAnswer(events ...string) string {
	return `<DescribeStackEventsResponse><DescribeStackEventsResult><StackEvents>` + strings.Join(events, "") + `</StackEvents></DescribeStackEventsResult></DescribeStackEventsResponse>`
}

func stackEvent(id, resource, status, reason string) string {
	return `<member><EventId>` + id + `</EventId><StackId>events</StackId><StackName>events</StackName><Timestamp>2026-01-01T00:00:00Z</Timestamp><LogicalResourceId>` + resource +
		`</LogicalResourceId><ResourceStatus>` + status + `</ResourceStatus><ResourceStatusReason>` + reason + `</ResourceStatusReason></member>`
}
