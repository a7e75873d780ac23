package aws_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
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

// The whole life of a stack, by the Makefile's own targets: the key stored, the
// first token at once, nothing to deploy, its status, a run by hand, two updates, and
// the end.
func TestLifeOfAStack(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "life")
	rotations := a.cloud.Rotations()
	a.set["BOOTSTRAP_SECRET_ARN"] = a.putKey("sh")
	a.putObject("iam-token-rotator/life/notes.txt") // not ours: it must survive

	deployed := a.make("deploy", `PARAMS=AlarmEmail=ops@example.com ReservedConcurrency=5`)
	a.mustSay("deploy", deployed, 0, "default: rotated; the stored token expires 20")
	first := a.published(rotations[0].TokenSecret)
	a.checkFunction()
	a.checkSurroundings()

	again := a.make("deploy", `PARAMS=AlarmEmail=ops@example.com ReservedConcurrency=5`)
	a.mustSay("deploy without a change", again, 0, "Nothing has changed", "default: rotated; the stored token expires 20")
	if second := a.published(rotations[0].TokenSecret); second == first {
		t.Error("deploy without a change has not rotated")
	} else {
		first = second
	}

	a.mustSay("status", a.make("status"), 0, "default: rotated at 20", "; the stored token expires 20")
	a.mustSay("invoke ensure", a.make("invoke", "MODE=ensure"), 0, "default: fresh; ")
	a.mustSay("status after it", a.make("status"), 0, "default: fresh at 20")
	if second := a.published(rotations[0].TokenSecret); second != first {
		t.Error("ensure has published although the token had life enough")
	}
	a.mustSay("invoke check", a.make("invoke", "MODE=check", "ROTATION=default"), 0, "default: checked; ")
	a.mustSay("invoke doctor", a.make("invoke", "MODE=doctor"), 0, "✓ configuration         valid: ", "\nrotation default\n✓ ", "\nnothing is wrong that can be seen without writing\n")
	a.mustSay("invoke a misspelt rotation", a.script("invoke", "MODE=ensure", "ROTATION=defualt"), 1, `misconfigured: no rotation is called "defualt"`)
	a.mustSay("status after that", a.make("status"), 0, "default: checked at 20", "\nthe run at 20", `could not begin: no rotation is called "defualt"`)
	a.mustSay("logs", a.make("logs"), 0, `"msg":"report"`, `"mode":"ensure"`, "CloudWatchMetrics")

	a.update()
	a.checkNoSecret("log", a.lambda.Printed())
	a.end()
}

// putKey stores the bootstrap key with scripts/put-bootstrap-key, untidily as
// people do, under a shell, and returns the ARN printed.
func (a *account) putKey(shell string) string {
	a.t.Helper()
	stored := a.keep(runIn(a.t, root, awsEnvironment(a.moto), "  "+a.cloud.BootstrapAPIKey()+"\r\n\n", shell, "scripts/put-bootstrap-key", "--name", a.stack+"/key"))
	arn := strings.TrimSuffix(stored.Stdout, "\n")
	if stored.Exit != 0 || !strings.HasPrefix(arn, "arn:aws:secretsmanager:"+awstest.Region+":123456789012:secret:"+a.stack+"/key-") || strings.ContainsAny(arn, " \n") {
		a.t.Fatalf("put-bootstrap-key: exit %d, printed %q and %q, want an ARN alone", stored.Exit, stored.Stdout, stored.Stderr)
	}
	return arn
}

// published returns the fingerprint of the token that a secret holds, which must
// be a token.
func (a *account) published(secret string) string {
	a.t.Helper()
	version := a.cloud.MustCurrent(secret)
	fingerprint := iamtoken.Token{Value: iamtoken.NewSecret(version.Payload)}.Fingerprint()
	if version.Payload == noTokenYet || version.Metadata["fingerprint"] != fingerprint {
		a.t.Errorf("the token secret holds no token that its metadata describes: %v", version.Metadata)
	}
	return fingerprint
}

// update changes a parameter, then goes from one rotation to a file of two.
func (a *account) update() {
	a.t.Helper()
	before := a.published(a.cloud.Rotations()[0].TokenSecret)
	zips := len(a.objects())
	updated := a.script("deploy", "PARAMS=LogLevel=debug", "BOOTSTRAP_EXPIRES_AT=2020-01-31")
	a.mustSay("update", updated, 0, "default: rotated; ", "; the old one had 5", "warning: the bootstrap API key expires 2020-01-31")
	if a.published(a.cloud.Rotations()[0].TokenSecret) == before {
		a.t.Error("the update published no token")
	}
	if got := a.describe().Configuration.Environment.Variables["LOG_LEVEL"]; got != "debug" {
		a.t.Errorf("got LOG_LEVEL %q after the update, want debug", got)
	}
	if got := len(a.objects()); got != zips {
		a.t.Errorf("the same code was uploaded under another key: %v", a.objects())
	}

	var entries []object
	for _, rotation := range a.cloud.Rotations() {
		entries = append(entries, object{"name": rotation.Name, "api_key_secret": rotation.APIKeySecret, "token_secret": rotation.TokenSecret})
	}
	text, err := json.Marshal(entries)
	if err != nil {
		a.t.Fatal(err)
	}
	file := filepath.Join(a.t.TempDir(), "my rotations.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	a.set["ROTATIONS_FILE"], a.set["API_KEY_SECRET"], a.set["TOKEN_SECRET"] = file, "", ""
	both := []string{a.cloud.Rotations()[0].Name + ": rotated", a.cloud.Rotations()[1].Name + ": rotated"}
	a.mustSay("update to a file", a.script("deploy"), 0, both...)
	a.mustSay("status of both", a.make("status"), 0, both...)
	a.published(a.cloud.Rotations()[1].TokenSecret)
}

// end destroys the stack, and looks for anything left or missing.
func (a *account) end() {
	a.t.Helper()
	destroyed := a.make("destroy")
	a.mustSay("destroy", destroyed, 0, "the bucket "+a.bucket, "the bootstrap secret "+a.set["BOOTSTRAP_SECRET_ARN"])
	if got := fmt.Sprint(a.objects()); got != "[iam-token-rotator/life/notes.txt]" {
		a.t.Errorf("the bucket holds %s, want only what was not ours", got)
	}
	a.checkGone(map[string]string{"FunctionRole": a.role, "LogGroup": "/aws/lambda/" + a.stack}) // moto forgets to delete what it has updated, but for these
	a.mustSay("put-bootstrap-key after destroy", programs.Result{Stdout: a.putKey("sh")}, 0, a.set["BOOTSTRAP_SECRET_ARN"])
	a.mustSay("destroy again", a.make("destroy"), 0, "There is no stack life")
	a.mustSay("deploy after destroy", a.script("deploy"), 0, a.cloud.Rotations()[0].Name+": rotated; ")
}

// describe is what Lambda tells of the deployed function.
func (a *account) describe() awstest.Function {
	a.t.Helper()
	_, answer := a.moto.MustDo(a.t, awstest.Request{Service: "lambda", Method: "GET", Path: awstest.FunctionPath(a.stack)})
	var function awstest.Function
	if err := json.Unmarshal(answer, &function); err != nil {
		a.t.Fatalf("describing the function: %v: %s", err, answer)
	}
	return function
}

// checkFunction looks at the function that exists, its environment above all.
func (a *account) checkFunction() {
	a.t.Helper()
	function := a.describe().Configuration
	want(a.t, "handler", function.Handler, "bootstrap")
	want(a.t, "timeout", function.Timeout, 120)
	want(a.t, "memory", function.MemorySize, 128)
	want(a.t, "environment", function.Environment.Variables, map[string]string{
		"SECRETS_MANAGER_URL": a.set["SECRETS_MANAGER_URL"], "IAM_URL": a.set["IAM_URL"],
		"SECRETS_MANAGER_APIKEY_ARN": a.set["BOOTSTRAP_SECRET_ARN"], "BOOTSTRAP_EXPIRES_AT": "",
		"API_KEY_SECRET": a.set["API_KEY_SECRET"], "TOKEN_SECRET": a.set["TOKEN_SECRET"], "ROTATIONS_FILE": "", "TOKEN_FORMAT": "raw",
		"MIN_REMAINING": "8m", "ROTATION_INTERVAL": "50m", "SECRETS_MANAGER_MAX_RPS": "", "CONCURRENCY": "",
		"METRICS_NAMESPACE": "IAMTokenRotator", "LOG_LEVEL": "info",
	})
	_, concurrency := a.moto.MustDo(a.t, awstest.Request{Service: "lambda", Method: "GET", Path: "/2019-09-30/functions/" + a.stack + "/concurrency"})
	want(a.t, "reserved concurrency", strings.ReplaceAll(string(concurrency), `"`, ""), "{ReservedConcurrentExecutions: 5}") // moto quotes the number
}

// checkSurroundings looks at what exists beside the function: roles, queues, log
// group, topic, dashboard.
func (a *account) checkSurroundings() {
	a.t.Helper()
	ids := a.resources()
	a.role = ids["FunctionRole"]
	a.checkRole(ids["FunctionRole"], []string{
		"secretsmanager:GetSecretValue on " + a.set["BOOTSTRAP_SECRET_ARN"],
		"logs:CreateLogStream on arn:aws:logs:" + awstest.Region + ":123456789012:log-group:/aws/lambda/" + a.stack + ":*",
		"logs:PutLogEvents on arn:aws:logs:" + awstest.Region + ":123456789012:log-group:/aws/lambda/" + a.stack + ":*",
		"sqs:SendMessage on " + queueARN(ids["FailedRuns"]),
	})
	a.checkRole(ids["ScheduleRole"], []string{
		"lambda:InvokeFunction on arn:aws:lambda:" + awstest.Region + ":123456789012:function:" + a.stack,
		"sqs:SendMessage on " + queueARN(ids["UndeliveredEvents"]),
	})
	for _, queue := range []string{"FailedRuns", "UndeliveredEvents"} {
		attributes := a.moto.MustCall(a.t, "sqs", "AmazonSQS.GetQueueAttributes", object{"QueueUrl": ids[queue], "AttributeNames": []string{"All"}})
		want(a.t, queue+" keeps messages for", at(a.t, attributes, "Attributes", "MessageRetentionPeriod"), "1209600")
	}
	groups := a.moto.MustCall(a.t, "logs", "Logs_20140328.DescribeLogGroups", object{"logGroupNamePrefix": "/aws/lambda/" + a.stack})
	want(a.t, "log retention", at(a.t, groups, "logGroups", 0, "retentionInDays"), 30)
	if topic := ids["AlarmTopic"]; !strings.HasSuffix(topic, ":"+a.stack+"-alarms") {
		a.t.Errorf("got the topic %q, want %s-alarms", topic, a.stack)
	}
	a.checkDashboard()
}

// resources are the stack's physical ids by logical id; moto leaves out what it
// passes over.
func (a *account) resources() map[string]string {
	a.t.Helper()
	var answer struct {
		Resources []struct {
			LogicalID  string `xml:"LogicalResourceId"`
			PhysicalID string `xml:"PhysicalResourceId"`
		} `xml:"DescribeStackResourcesResult>StackResources>member"`
	}
	a.query("cloudformation", "Action=DescribeStackResources&Version=2010-05-15&StackName="+a.stack, &answer)
	ids := map[string]string{}
	for _, resource := range answer.Resources {
		ids[resource.LogicalID] = resource.PhysicalID
	}
	return ids
}

func queueARN(queueURL string) string {
	return "arn:aws:sqs:" + awstest.Region + ":123456789012:" + queueURL[strings.LastIndexByte(queueURL, '/')+1:]
}

// checkRole compares what a role allows, over all of its policies, with the list.
func (a *account) checkRole(role string, allowed []string) {
	a.t.Helper()
	var policies struct {
		Names []string `xml:"ListRolePoliciesResult>PolicyNames>member"`
	}
	a.query("iam", "Action=ListRolePolicies&Version=2010-05-08&RoleName="+role, &policies)
	var got []string
	for _, name := range policies.Names {
		for _, statement := range statements(a.policy(role, name)) {
			checkNarrow(a.t, statement)
			for _, action := range list(statement["Action"]) {
				for _, resource := range list(statement["Resource"]) {
					got = append(got, show(statement["Effect"])+" "+show(action)+" on "+show(resource))
				}
			}
		}
	}
	for i := range allowed {
		allowed[i] = "Allow " + allowed[i]
	}
	slices.Sort(got)
	slices.Sort(allowed)
	want(a.t, role, strings.Join(got, "\n"), strings.Join(allowed, "\n"))
}

// policy is a role's inline policy document.
func (a *account) policy(role, name string) object {
	a.t.Helper()
	var answer struct {
		Document string `xml:"GetRolePolicyResult>PolicyDocument"`
	}
	a.query("iam", "Action=GetRolePolicy&Version=2010-05-08&RoleName="+role+"&PolicyName="+name, &answer)
	text, err := url.PathUnescape(answer.Document)
	if err != nil {
		a.t.Fatal(err)
	}
	document := object{}
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		a.t.Fatalf("policy %s: %v: %s", name, err, text)
	}
	return document
}

// A stack with every optional parameter set can be made, has what the parameters
// ask for, and goes without a trace.
func TestEveryParameter(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "everything")
	var subnets struct {
		IDs []string `xml:"subnetSet>item>subnetId"`
	}
	a.query("ec2", "Action=DescribeSubnets&Version=2016-11-15", &subnets)
	var groups struct {
		IDs []string `xml:"securityGroupInfo>item>groupId"`
	}
	a.query("ec2", "Action=DescribeSecurityGroups&Version=2016-11-15", &groups)
	const (
		key      = "arn:aws:kms:" + awstest.Region + ":123456789012:key/0123"
		boundary = "arn:aws:iam::123456789012:policy/boundary"
		topic    = "arn:aws:sns:" + awstest.Region + ":123456789012:alarms"
		mirrors  = "arn:aws:secretsmanager:" + awstest.Region + ":123456789012:secret:one-Ab12Cd,arn:aws:secretsmanager:" + awstest.Region + ":123456789012:secret:two-Ab12Cd"
		readers  = "arn:aws:iam::123456789012:role/reader"
	)
	a.mustSay("deploy", a.script("deploy", "PARAMS=BootstrapKmsKeyArn="+key+" PermissionsBoundaryArn="+boundary+" AlarmTopicArn="+topic+
		" SubnetIds="+subnets.IDs[0]+","+subnets.IDs[1]+" SecurityGroupIds="+groups.IDs[0]+" ReservedConcurrency=5"+
		" MirrorSecretArns="+mirrors+" MirrorReaderRoleArns="+readers+
		" MinRemaining=10m MetricsNamespace=Own/Space Concurrency=3 SecretsManagerMaxRps=7 TokenFormat=bearer LogRetentionInDays=7 EnsureEveryMinutes=2", "BOOTSTRAP_EXPIRES_AT=2999-01-31"), 0,
		"default: rotated")

	ids := a.resources()
	if ids["AlarmTopic"] != "" {
		t.Errorf("a topic was made although one was given: %s", ids["AlarmTopic"])
	}
	variables := a.describe().Configuration.Environment.Variables
	for name, value := range map[string]string{
		"MIN_REMAINING": "10m", "METRICS_NAMESPACE": "Own/Space", "CONCURRENCY": "3", "SECRETS_MANAGER_MAX_RPS": "7",
		"TOKEN_FORMAT": "bearer", "BOOTSTRAP_EXPIRES_AT": "2999-01-31",
	} {
		want(t, name, variables[name], value)
	}
	var role struct {
		Boundary string `xml:"GetRoleResult>Role>PermissionsBoundary>PermissionsBoundaryArn"`
	}
	for _, id := range []string{"FunctionRole", "ScheduleRole"} {
		a.query("iam", "Action=GetRole&Version=2010-05-08&RoleName="+ids[id], &role)
		want(t, id+" boundary", role.Boundary, boundary)
	}
	a.mustSay("destroy", a.script("destroy"), 0, "Left as they are")
	a.checkGone(ids)
}

// checkGone fails for everything of these resources that still exists.
func (a *account) checkGone(ids map[string]string) {
	a.t.Helper()
	for logical, id := range ids {
		for _, left := range a.lookups(logical, id) {
			if status, answer := a.moto.MustDo(a.t, left); status == 200 {
				a.t.Errorf("%s %s is still there: %s", logical, id, answer)
			}
		}
	}
}

// lookups are requests that fail when a resource is gone.
func (a *account) lookups(logical, id string) []awstest.Request {
	switch logical {
	case "Function":
		return []awstest.Request{{Service: "lambda", Method: "GET", Path: awstest.FunctionPath(id)}}
	case "LogGroup":
		return []awstest.Request{{Service: "logs", Target: "Logs_20140328.DescribeLogStreams", Body: `{"logGroupName":"` + id + `"}`}}
	case "Dashboard":
		return []awstest.Request{{Service: "monitoring", Body: "Action=GetDashboard&Version=2010-08-01&DashboardName=" + id}}
	case "FunctionRole", "ScheduleRole":
		return []awstest.Request{{Service: "iam", Body: "Action=GetRole&Version=2010-05-08&RoleName=" + id}}
	case "FailedRuns", "UndeliveredEvents":
		return []awstest.Request{{Service: "sqs", Target: "AmazonSQS.GetQueueAttributes", Body: `{"QueueUrl":"` + id + `"}`}}
	default:
		return nil
	}
}

// What a person can get wrong, and what the deployment then says. Whatever it
// made, `destroy` can remove.
func TestDeploymentFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		wrong func(a *account)
		// whether to see that destroy removes what was made (it takes its time)
		destroy bool
		says    []string
	}{
		{"no-bucket", func(a *account) { a.set["BUCKET"] = "nobody-has-this" }, false, []string{"the bucket nobody-has-this does not exist", "aws s3 mb"}},
		{"no-secret", func(a *account) { a.set["BOOTSTRAP_SECRET_ARN"] = strings.Replace(a.arn, "bootstrap", "misspelt", 1) }, false,
			[]string{"RotationError: 1 of 1 rotations failed; default: bootstrap: not_found: ", "scripts/put-bootstrap-key"}},
		{"not-allowed", func(a *account) { a.lambda.Secrets = a.refusing(-1) }, true,
			[]string{"default: bootstrap: denied: ", "the function's role needs secretsmanager:GetSecretValue on it", "new permissions take minutes"}},
		{"private-only", func(a *account) {
			a.set["SECRETS_MANAGER_URL"] = "https://instance.private.us-south.secrets-manager.invalid"
			a.lambda.Timeout = 2 * time.Second // the function tries for as long as it may
		}, false, []string{"default: look: unavailable: ", "does not resolve", "public-and-private endpoints"}},
		{"may-not-create", func(a *account) {
			a.env = append(a.env, "AWS_ENDPOINT_URL_CLOUDFORMATION="+a.forbidding("CreateChangeSet"))
		}, true,
			[]string{"AccessDenied", "the deployment failed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, tt.name)
			tt.wrong(a)
			a.mustSay("deploy", a.script("deploy"), 1, tt.says...)
			if tt.destroy {
				a.mustSay("destroy", a.script("destroy"), 0, "Left as they are")
				if a.stackExists() {
					t.Error("the stack is there after destroy")
				}
			}
			if zips := a.objects(); tt.destroy && len(zips) > 0 {
				t.Errorf("after destroy the bucket holds %v", zips)
			}
		})
	}
}

func (a *account) stackExists() bool {
	a.t.Helper()
	status, _ := a.moto.MustDo(a.t, awstest.Request{Service: "cloudformation", Body: "Action=DescribeStacks&Version=2010-05-15&StackName=" + a.stack})
	return status == 200
}

// Permissions that are not everywhere yet are waited for; nothing else is.
func TestDeploymentWaitsForPermissions(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "patient")
	a.lambda.Secrets = a.refusing(2)
	got := a.script("deploy", "DENIED_FOR=300", "DENIED_PAUSE=0")
	a.mustSay("deploy", got, 0, "default: rotated; ")
	if waits := strings.Count(got.Stdout, "New permissions may take minutes"); waits != 2 {
		t.Errorf("waited %d times, want 2:\n%s", waits, got.Stdout)
	}
	a.published(a.cloud.Rotations()[0].TokenSecret)

	a.lambda.Secrets = ""
	a.putSecret(" ")
	a.mustSay("invoke with an empty secret", a.script("invoke", "MODE=check"), 1,
		"default: bootstrap: misconfigured: ", "the secret is empty: store the bootstrap API key with scripts/put-bootstrap-key")
	diagnosis := a.doctor()
	a.mustSay("invoke doctor", a.script("invoke", "MODE=doctor"), 1, diagnosis, "stack: what is marked ✗ must be mended")
	for _, part := range []string{"✗ bootstrap-key", "\nrotation default\n– ", "\n                        nor ", "1 check failed, "} {
		if !strings.Contains(diagnosis, part) {
			t.Errorf("doctor shows no %q, so what invoke makes of that is not tested:\n%s", part, diagnosis)
		}
	}

	// A later failure is told at once, and status still knows the expiry, which the
	// failed run could not look up.
	a.lambda.Secrets = a.refusing(-1)
	a.mustSay("invoke", a.script("invoke", "MODE=ensure"), 1, "the run failed: RotationError: 1 of 1 rotations failed; default: bootstrap: denied: ")
	a.mustSay("status", a.script("status"), 0, "default: failed at 20", "; the stored token expires 20", "\n  bootstrap: denied: ")
}

// doctor is what `bootstrap doctor` prints in the function's environment.
func (a *account) doctor() string {
	a.t.Helper()
	env := append(slices.Clone(a.env), programs.Environ(a.describe().Configuration.Environment.Variables)...)
	return a.keep(runIn(a.t, a.folder, env, "", "./bootstrap", "doctor")).Stdout
}

// A stack that a failed first deployment left can only be deleted.
func TestDeploymentRemovesWhatWasRolledBack(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "rolledback")
	var actions []string
	endpoint := a.inFrontOf(func(r *http.Request, form url.Values) (int, string) {
		actions = append(actions, form.Get("Action"))
		if form.Get("Action") == "DescribeStacks" && !slices.Contains(actions, "DeleteStack") {
			return 200, `<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult><Stacks><member>` +
				`<StackName>rolledback</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>ROLLBACK_COMPLETE</StackStatus></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`
		}
		return 0, ""
	})
	a.env = append(a.env, "AWS_ENDPOINT_URL_CLOUDFORMATION="+endpoint)
	a.mustSay("deploy", a.script("deploy"), 0, "Removing the stack rolledback, which an earlier deployment left in ROLLBACK_COMPLETE", "default: rotated")
	deleted, created := slices.Index(actions, "DeleteStack"), slices.Index(actions, "CreateChangeSet")
	if deleted < 0 || created < deleted {
		t.Errorf("got %v, want the stack deleted before it is created", actions)
	}
}

// What is missing or not known is told before anything is built or sent.
func TestMissingValues(t *testing.T) {
	t.Parallel()
	programs.Need(t, "aws", "jq")
	rotations := filepath.Join(t.TempDir(), "rotations.json")
	broken, empty := filepath.Join(t.TempDir(), "broken.json"), filepath.Join(t.TempDir(), "empty.json")
	faulty := filepath.Join(t.TempDir(), "faulty.json")
	for file, text := range map[string]string{rotations: `{"name":"x"}`, broken: `[{"name":"x"},]`, empty: "",
		faulty: `[{"name":"a b","api_key_secret":"g/k","token_secret":"00000000-0000-4000-8000-000000000000"}]`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const arn = "BOOTSTRAP_SECRET_ARN=arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd"
	whole := []string{"STACK=s", "BUCKET=b", arn, "SECRETS_MANAGER_URL=https://x", "API_KEY_SECRET=a", "TOKEN_SECRET=t"}
	params := func(words string) []string { return append(slices.Clone(whole), "PARAMS="+words) }
	const likeAKey = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH"
	tests := []struct {
		name, command string
		env           []string
		says          string
	}{
		{"nothing", "deploy", []string{"STACK=s"}, "set BUCKET BOOTSTRAP_SECRET_ARN SECRETS_MANAGER_URL API_KEY_SECRET TOKEN_SECRET"},
		{"one of two", "deploy", slices.Delete(slices.Clone(whole), 5, 6), "set TOKEN_SECRET"},
		{"no stack", "status", nil, "set STACK"},
		{"odd stack", "deploy", append(whole[1:], "STACK=9 lives"), "set STACK"},
		{"long stack", "deploy", append(whole[1:], "STACK=a"+strings.Repeat("b", 64)), "more than 64"},
		{"partial ARN", "deploy", append(slices.Clone(whole), "BOOTSTRAP_SECRET_ARN=rotator/bootstrap"), "put-bootstrap-key prints"},
		{"unknown ARCH", "deploy", append(slices.Clone(whole), "ARCH=mips"), "use arm64 or amd64"},
		{"both sources", "deploy", append(slices.Clone(whole), "ROTATIONS_FILE="+rotations), "not both"},
		{"no such file", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE=/no/such"), "cannot be read"},
		{"no list", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+rotations), "no JSON list"},
		{"an empty file", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+empty), "no JSON list"},
		{"a faulty entry", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+faulty), "bootstrap: ROTATIONS_FILE[0]: name: use 1 to 40"},
		{"a syntax error", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+broken), "parse error: Expected another array element at line 1"},
		{"misspelt parameter", "deploy", params("LogLevel=info MinRemaning=10m"), `the key "MinRemaning", which the template does not know. It may have: TokenFormat MinRemaining `},
		{"no parameter's name", "check", params("=10m"), `the key ""`},
		{"a space in a value", "deploy", params("AlarmEmail=me and@example.com"), `PARAMS has "and@example.com", which is no Key=Value`},
		{"a key for a parameter", "deploy", params(likeAKey), "(44 characters, not repeated here)"},
		{"no mode", "invoke", []string{"STACK=s"}, "set MODE: rotate, ensure, check or doctor"},
		{"unknown mode", "invoke", []string{"STACK=s", "MODE=bogus"}, `MODE="bogus" is not known: use rotate, ensure, check or doctor`},
		{"a key for a mode", "invoke", []string{"STACK=s", "MODE=" + likeAKey}, "(44 characters, not repeated here)"},
		{"a key of AWS for a mode", "invoke", []string{"STACK=s", "MODE=" + likeAKey[:40]}, "(40 characters, not repeated here)"},
		{"unknown force", "invoke", []string{"STACK=s", "MODE=rotate", "FORCE=yes"}, `FORCE="yes" is not known: use true, or leave it out`},
		{"forced doctor", "invoke", []string{"STACK=s", "MODE=doctor", "FORCE=true"}, "leave it out"},
		{"minutes in words", "logs", []string{"STACK=s", "MINUTES=abc"}, `MINUTES="abc" is no number of minutes`},
		{"no minutes", "logs", []string{"STACK=s", "MINUTES=0"}, "is no number of minutes"},
		{"minutes to come", "logs", []string{"STACK=s", "MINUTES=-5"}, "is no number of minutes"},
		{"octal minutes", "logs", []string{"STACK=s", "MINUTES=010"}, "is no number of minutes"},
		{"more minutes than there were", "logs", []string{"STACK=s", "MINUTES=99999999"}, "is no number of minutes"},
		{"unknown command", "explode", []string{"STACK=s"}, "say what to do"},
	}
	for _, shell := range []string{"dash", "bash"} {
		for _, tt := range tests {
			t.Run(shell+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				programs.Need(t, shell)
				got := runIn(t, root, programs.CleanEnviron(append(tt.env, "AWS_ENDPOINT_URL=http://127.0.0.1:1")...), "", shell, "scripts/stack", tt.command)
				if got.Exit != 2 || !strings.Contains(got.Stderr, tt.says) || got.Stdout != "" || strings.Contains(got.Stderr, likeAKey[:40]) {
					t.Errorf("got exit %d, %q, %q, want 2 and %q", got.Exit, got.Stdout, got.Stderr, tt.says)
				}
			})
		}
	}
}

// Of every parameter it is settled who sets it: deploy, from a variable that is named to whoever tries
// otherwise, or PARAMS.
func TestEveryParameterIsSetInOnePlace(t *testing.T) {
	t.Parallel()
	programs.Need(t, "aws", "jq")
	script, err := os.ReadFile(filepath.Join(root, "scripts", "stack"))
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]string{} // parameters to the variables that deploy sets them from
	for _, found := range regexp.MustCompile(`"([A-Z]\w+)=\$\{?(\w+)`).FindAllSubmatch(script, -1) {
		ours[string(found[1])] = string(found[2])
	}
	parameters := at(t, template(t), "Parameters").(object)
	if len(ours) < 10 || len(ours) >= len(parameters) {
		t.Fatalf("of %d parameters deploy seems to set %v", len(parameters), ours)
	}
	for parameter := range parameters {
		got := runIn(t, root, programs.CleanEnviron("STACK=s", "BUCKET=b", "BOOTSTRAP_SECRET_ARN=arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd",
			"SECRETS_MANAGER_URL=https://x", "API_KEY_SECRET=a", "TOKEN_SECRET=t", "PARAMS="+parameter+"=x"), "", "scripts/stack", "check")
		variable, isOurs := ours[parameter]
		if !isOurs {
			want(t, parameter, fmt.Sprint(got.Exit, got.All()), "0")
			continue
		}
		says := map[string]string{"architecture": "set ARCH", "key": "deploy names the zip"}[variable]
		if says == "" {
			says = "set " + variable
		}
		if got.Exit != 2 || !strings.Contains(got.Stderr, "PARAMS must not set "+parameter+": "+says) {
			t.Errorf("%s: got exit %d, %q, want 2 and %q", parameter, got.Exit, got.Stderr, says)
		}
	}
}

// putSecret replaces the bootstrap secret's value.
func (a *account) putSecret(value string) {
	a.t.Helper()
	a.moto.MustCall(a.t, "secretsmanager", "secretsmanager.PutSecretValue", object{"SecretId": a.arn, "SecretString": value, "ClientRequestToken": strings.Repeat("d", 32)})
}

// inFrontOf serves what answer gives, or else passes requests on to moto. It is
// called for one request at a time.
func (a *account) inFrontOf(answer func(r *http.Request, form url.Values) (int, string)) string {
	a.t.Helper()
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		form, _ := url.ParseQuery(string(body))
		if status, text := answer(r, form); status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		a.moto.ServeHTTP(w, r)
	}))
	a.t.Cleanup(server.Close)
	return server.URL
}

// refusing answers as AWS Secrets Manager does to a role without permission, so
// many times (-1: always).
func (a *account) refusing(times int) string {
	a.t.Helper()
	return a.inFrontOf(func(*http.Request, url.Values) (int, string) {
		if times == 0 {
			return 0, ""
		}
		times--
		return 400, `{"__type":"AccessDeniedException","Message":"User: arn:aws:sts::123456789012:assumed-role/x is not authorized to perform: secretsmanager:GetSecretValue"}`
	})
}

// forbidding answers as CloudFormation does to a person without permission.
func (a *account) forbidding(action string) string {
	a.t.Helper()
	return a.inFrontOf(func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") != action {
			return 0, ""
		}
		return 403, fmt.Sprintf(`<ErrorResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code>`+
			`<Message>User is not authorized to perform: cloudformation:%s</Message></Error></ErrorResponse>`, action)
	})
}

// nextRotation is where what is said of another begins.
var nextRotation = regexp.MustCompile(`(?m)^\w+: `)

// An ensure that comes every minute must not hide that rotate fails.
func TestStatusRemembersAFailedRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		later []logLine // after a rotate failed at read_key
		says  string    // after the outcome of the last run
	}{
		{"fresh", []logLine{report(60, "ensure", "fresh", "fresh", "")}, "last rotate failed at T: read_key: denied: no"},
		{"spared", []logLine{report(60, "ensure", "spared", "already_done", "")}, "last rotate failed at T: read_key: denied: no"},
		{"itself", nil, "read_key: denied: no"},
		{"twice", []logLine{report(60, "ensure", "twice", "failed", "look")}, "look: denied: no\n  last rotate failed at T: read_key: denied: no"},
		{"mended", []logLine{report(90, "rotate", "mended", "rotated", ""), report(60, "ensure", "mended", "fresh", "")}, ""},
		{"done", []logLine{report(90, "rotate", "done", "already_done", ""), report(60, "ensure", "done", "fresh", "")}, ""},
		{"ensured", []logLine{report(90, "ensure", "ensured", "rotated", ""), report(60, "ensure", "ensured", "fresh", "")}, ""},
		{"checked", []logLine{report(90, "check", "checked", "checked", ""), report(60, "ensure", "checked", "fresh", "")}, ""},
		{"unsaved", []logLine{report(95, "rotate", "unsaved", "failed", "save"), report(90, "check", "unsaved", "checked", ""), report(60, "ensure", "unsaved", "fresh", "")}, "last rotate failed at T: save: denied: no"},
		{"uncopied", []logLine{report(95, "rotate", "uncopied", "failed", "mirror"), report(90, "check", "uncopied", "checked", ""), report(60, "ensure", "uncopied", "fresh", "")}, "last rotate failed at T: mirror: denied: no"},
		{"check", []logLine{report(95, "rotate", "check", "rotated", ""), report(90, "check", "check", "failed", "exchange"), report(60, "ensure", "check", "fresh", "")}, "last check failed at T: exchange: denied: no"},
	}
	var lines []logLine
	for _, tt := range tests {
		lines = append(append(lines, report(100, "rotate", tt.name, "failed", "read_key")), tt.later...)
	}
	got := statusOf(t, "remembers", lines...)
	if got.Exit != 0 || got.Stderr != "" {
		t.Fatalf("got exit %d, %s", got.Exit, got.Stderr)
	}
	for _, tt := range tests {
		_, after, _ := strings.Cut("\n"+got.Stdout, "\n"+tt.name+": ")
		says := nextRotation.Split(after, 2)[0]
		_, says, _ = strings.Cut(strings.TrimSpace(says), "; the stored token expires T (in while)")
		if strings.TrimSpace(says) != tt.says {
			t.Errorf("%s: got %q, want %q", tt.name, says, tt.says)
		}
	}
}

// A run that ends without a report must be heard of when it is the last word.
func TestStatusTellsOfRunsWithoutAReport(t *testing.T) {
	t.Parallel()
	const noise = "START RequestId: 8f1b Version: $LATEST\nEND RequestId: 8f1b\nREPORT RequestId: 8f1b\tDuration: 3.00 ms"
	first, second := report(60, "ensure", "first", "fresh", ""), report(20, "ensure", "second", "fresh", "")
	for i, tt := range []struct {
		name  string
		lines []logLine
		exit  int
		says  string // last; empty if it is a rotation's own line
	}{
		{"an odd event", []logLine{first, notBegun(40, "mode \"x\" is not known")}, 0, "the run at T could not begin: mode \"x\" is not known"},
		{"the newest", []logLine{first, notBegun(40, "old"), notBegun(30, "IAM_URL: a\nTOKEN_SECRET: b")}, 0, "the run at T could not begin: IAM_URL: a; TOKEN_SECRET: b"},
		{"the time up", []logLine{first, {40, "2026-01-01T00:00:00.000Z 8f1b Task timed out after 120.00 seconds"}}, 0, "the run at T ended without a report: Task timed out after 120.00 seconds"},
		{"a process that ended", []logLine{first, {40, "RequestId: 8f1b Error: Runtime exited with error: signal: killed\nRuntime.ExitError"}}, 0, "the run at T ended without a report: Error: Runtime exited with error: signal: killed"},
		{"one rotation was heard since", []logLine{first, notBegun(40, "x"), second}, 0, "the run at T could not begin: x"},
		{"all were heard since", []logLine{notBegun(80, "x"), {70, "RequestId: 8f1b Error: Runtime exited"}, first, second}, 0, ""},
		{"Lambda's everyday words", []logLine{first, {40, noise}, said(40, object{"msg": "rotation", "error": "Error: Task timed out"})}, 0, ""},
		{"no report at all", []logLine{notBegun(40, "x")}, 1, "stack: no report in the last hour: the run at T could not begin: x"},
		{"no line at all", nil, 1, "stack: no report in the last hour: do the schedules run? See make logs and the alarms"},
	} {
		got := statusOf(t, fmt.Sprint("silent-", i), tt.lines...)
		lines := strings.Split(strings.TrimSpace(got.All()), "\n")
		last := lines[len(lines)-1]
		if rotation := regexp.MustCompile(`^(first|second): fresh at T; `); got.Exit != tt.exit || last != tt.says && !(tt.says == "" && rotation.MatchString(last)) {
			t.Errorf("%s: got exit %d, want %d and last %q:\n%s", tt.name, got.Exit, tt.exit, tt.says, got.All())
		}
	}
}

// Whatever becomes of a token, the words are for a person.
func TestStatusOfAToken(t *testing.T) {
	t.Parallel()
	token := func(name string, fields object) logLine {
		result := object{"rotation": name, "outcome": "rotated", "attempts": 1}
		for field, value := range fields {
			result[field] = value
		}
		return said(10, object{"msg": "report", "report": object{"mode": "rotate", "results": []object{result}}})
	}
	got := statusOf(t, "tokens", token("gone", object{"expires_at": "2026-01-01T00:00:00Z"}), token("unknown", nil), token("warned", object{"warnings": []string{"w"}}))
	for _, want := range []string{"gone: rotated at T; the stored token EXPIRED T (while ago)\n", "unknown: rotated at T; the expiry of the stored token is not known\n", "\n  warning: w\n"} {
		if !strings.Contains(got.Stdout, want) {
			t.Errorf("got %s, want %q", got.All(), want)
		}
	}
}

// A logLine is a line of a log, so many seconds old.
type logLine struct {
	age  int
	text string
}

func (l logLine) at() time.Time { return time.Now().Add(-time.Duration(l.age) * time.Second) }

// report is the report of one rotation, whose token has five minutes left; of a failure, the step tells.
func report(age int, mode, rotation, outcome, step string) logLine {
	result := object{"rotation": rotation, "outcome": outcome, "attempts": 1, "warnings": []string{}, "expires_at": time.Now().Add(299 * time.Second).UTC().Format(time.RFC3339)}
	if step != "" {
		result["error"] = object{"step": step, "kind": "denied", "message": "no"}
	}
	return said(age, object{"msg": "report", "report": object{"mode": mode, "results": []object{result}}})
}

func notBegun(age int, why string) logLine {
	return said(age, object{"msg": "the run could not begin", "error": why})
}

// said is a line of the function's.
func said(age int, fields object) logLine {
	l := logLine{age: age}
	fields["time"] = l.at().UTC().Format(time.RFC3339Nano)
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	l.text = string(text)
	return l
}

// statusOf is what status says of a stack with such a log.
func statusOf(t *testing.T, stack string, lines ...logLine) programs.Result {
	t.Helper()
	moto := needMoto(t)
	stream := object{"logGroupName": "/aws/lambda/" + stack, "logStreamName": "s"}
	moto.MustCall(t, "logs", "Logs_20140328.CreateLogGroup", object{"logGroupName": "/aws/lambda/" + stack})
	moto.MustCall(t, "logs", "Logs_20140328.CreateLogStream", stream)
	var events []object
	slices.SortStableFunc(lines, func(a, b logLine) int { return b.age - a.age }) // as moto wants them
	for _, l := range lines {
		events = append(events, object{"timestamp": l.at().UnixMilli(), "message": l.text + "\n"})
	}
	if stream["logEvents"] = events; events != nil {
		moto.MustCall(t, "logs", "Logs_20140328.PutLogEvents", stream)
	}
	got := runIn(t, root, awsEnvironment(moto, "STACK="+stack), "", "scripts/stack", "status")
	for shape, mask := range map[string]string{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`: "T", `\d+m\d+s`: "while"} {
		got.Stdout = regexp.MustCompile(shape).ReplaceAllString(got.Stdout, mask)
		got.Stderr = regexp.MustCompile(shape).ReplaceAllString(got.Stderr, mask)
	}
	return got
}

// What the function answers is told in words for a person, whatever it is.
func TestAnswersInWords(t *testing.T) {
	t.Parallel()
	programs.Need(t, "jq")
	const result = `{"run_id":"r","mode":"rotate","results":[{"rotation":"a","attempts":1,"warnings":[],`
	tests := []struct {
		name, mode, answer, says string
	}{
		{"a first token", "rotate", result + `"outcome":"rotated","expires_at":"T","seconds_remaining":3599}]}`, "a: rotated; the stored token expires T (in 59m59s)\n"},
		{"another", "rotate", result + `"outcome":"rotated","expires_at":"T","seconds_remaining":3599,"margin_seconds":598}]}`, "a: rotated; the stored token expires T (in 59m59s); the old one had 9m58s left\n"},
		{"after a gap", "rotate", result + `"outcome":"rotated","expires_at":"T","seconds_remaining":3599,"margin_seconds":-61}]}`,
			"a: rotated; the stored token expires T (in 59m59s); readers had none for 1m1s: the old one had expired\n"},
		{"nothing stored", "check", result + `"outcome":"checked"}]}`, "a: checked; the expiry of the stored token is not known\n"},
		{"an expired token", "check", result + `"outcome":"checked","expires_at":"T","seconds_remaining":-125}]}`, "a: checked; the stored token EXPIRED T (2m5s ago)\n"},
		{"trouble, and warnings", "ensure", `{"results":[{"rotation":"a","outcome":"rotated","attempts":4,"warnings":["v","w"],"expires_at":"T","seconds_remaining":60}]}`,
			"a: rotated after 4 attempts; the stored token expires T (in 1m0s)\n  warning: v\n  warning: w\n"},
		{"two rotations", "check", `{"results":[{"rotation":"a","outcome":"checked","attempts":1},{"rotation":"b","outcome":"checked","attempts":1}]}`,
			"a: checked; the expiry of the stored token is not known\nb: checked; the expiry of the stored token is not known\n"},
		{"a diagnosis with a warning", "doctor", `{"ok":true,"checks":[{"check":"c","status":"warning","detail":"d","advice":"e"},{"check":"f","rotation":"a","status":"ok","detail":"g"},{"check":"f","rotation":"b","status":"ok","detail":"g"}]}`,
			"! c                     d\n                        → e\nrotation a\n✓ f                     g\nrotation b\n✓ f                     g\nnothing failed, 1 warning\n"},
	}
	for _, tt := range tests {
		folder := t.TempDir()
		aws := "#!/bin/sh\nfor last; do :; done\ncat >\"$last\" <<'END'\n" + tt.answer + "\nEND\necho None\n"
		if err := os.WriteFile(filepath.Join(folder, "aws"), []byte(aws), 0o700); err != nil {
			t.Fatal(err)
		}
		got := runIn(t, root, programs.CleanEnviron("PATH="+folder+":"+os.Getenv("PATH"), "STACK=s", "MODE="+tt.mode), "", "scripts/stack", "invoke")
		if got.Exit != 0 || got.All() != tt.says {
			t.Errorf("%s: got exit %d and\n%swant 0 and\n%s", tt.name, got.Exit, got.All(), tt.says)
		}
	}
}

const shfmt = "mvdan.cc/sh/v3/cmd/shfmt@v3.14.1"

func TestTemplateIsClean(t *testing.T) {
	t.Parallel()
	programs.Need(t, "cfn-lint")
	if got := runIn(t, root, programs.CleanEnviron(), "", "cfn-lint", "infra/aws/template.yaml"); got.Exit != 0 {
		t.Errorf("cfn-lint:\n%s", got.All())
	}
}

// shellScripts are the files in scripts that a shell runs.
func shellScripts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "scripts", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && bytes.HasPrefix(text, []byte("#!/bin/sh\n")) {
			found = append(found, file)
		}
	}
	if !slices.Contains(found, filepath.Join(root, "scripts", "stack")) {
		t.Fatalf("scripts/stack is not among the shell scripts %v", found)
	}
	return found
}

func TestScriptsAreClean(t *testing.T) {
	t.Parallel()
	scripts := shellScripts(t)
	t.Run("shellcheck", func(t *testing.T) {
		programs.Need(t, "shellcheck")
		// SC1091: a file that exists only when the script runs cannot be followed.
		if got := runIn(t, root, programs.CleanEnviron(), "", "shellcheck", append([]string{"-e", "SC1091"}, scripts...)...); got.Exit != 0 {
			t.Errorf("shellcheck:\n%s", got.All())
		}
	})
	t.Run("shfmt", func(t *testing.T) {
		programs.Need(t, "go")
		got := runIn(t, root, programs.CleanEnviron(), "", "go", append([]string{"run", shfmt, "-d"}, scripts...)...)
		if strings.Contains(got.Stderr, "proxy") || strings.Contains(got.Stderr, "dial tcp") {
			programs.Missing(t, "shfmt cannot be fetched: "+got.Stderr)
		}
		if got.Exit != 0 {
			t.Errorf("go run %s -w on these:\n%s", shfmt, got.All())
		}
	})
}

func TestPutBootstrapKey(t *testing.T) {
	t.Parallel()
	moto := needMoto(t)
	for _, shell := range []string{"dash", "bash"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			programs.Need(t, shell)
			put := func(key string, args ...string) programs.Result {
				return runIn(t, root, awsEnvironment(moto, "TMPDIR="+t.TempDir()), key, shell, append([]string{"scripts/put-bootstrap-key"}, args...)...)
			}
			name := "put/" + shell
			stored := func() object {
				return moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", object{"SecretId": name})
			}
			created := put("\n\n first-key\t\r\n", "--name", name, "--kms-key-id", "alias/own")
			if created.Exit != 0 || created.Stdout != stored()["ARN"].(string)+"\n" {
				t.Fatalf("got exit %d, %q, %q, want the ARN alone", created.Exit, created.Stdout, created.Stderr)
			}
			want(t, "value", stored()["SecretString"], "first-key")
			description := moto.MustCall(t, "secretsmanager", "secretsmanager.DescribeSecret", object{"SecretId": name})
			want(t, "KMS key", description["KmsKeyId"], "alias/own")

			updated := put("second-key", "--name", name)
			if updated.Exit != 0 || updated.Stdout != created.Stdout {
				t.Fatalf("got exit %d, %q, %q, want the same ARN", updated.Exit, updated.Stdout, updated.Stderr)
			}
			want(t, "value", stored()["SecretString"], "second-key")

			for what, input := range map[string]string{
				"empty": "", "white space": " \n", "two lines": "secret-key\nsecret-key\n", "two words": "secret-key secret-key",
				"JSON": `{"apikey":"secret-key"}`, "too long": strings.Repeat("secret-key", 60), "not ASCII": "secret-kéy",
			} {
				got := put(input, "--name", name)
				if got.Exit != 2 || got.Stdout != "" || strings.Contains(got.Stderr, "secret-k") || !strings.HasPrefix(got.Stderr, "put-bootstrap-key: standard input ") {
					t.Errorf("%s: got exit %d, %q, %q, want 2 and what to do", what, got.Exit, got.Stdout, got.Stderr)
				}
			}
			// Somebody will put the key on the command line all the same.
			for _, args := range [][]string{{"secret-key"}, {"--name"}, {"--secret-key"}} {
				if got := put("key", args...); got.Exit != 2 || strings.Contains(got.All(), "secret-key") {
					t.Errorf("%v: got exit %d, %q, want 2 without the argument", args, got.Exit, got.All())
				}
			}
			want(t, "value in the end", stored()["SecretString"], "second-key")

			moto.MustCall(t, "secretsmanager", "secretsmanager.DeleteSecret", object{"SecretId": name})
			if got := put("third-key", "--name", name); got.Exit != 1 || !strings.Contains(got.Stderr, "restore-secret") {
				t.Errorf("a deleted secret: got exit %d, %q, want 1 and restore-secret", got.Exit, got.Stderr)
			}
		})
	}
}

func (a *account) putObject(key string) {
	a.t.Helper()
	if status, answer := a.moto.MustDo(a.t, awstest.Request{Service: "s3", Method: "PUT", Path: "/" + a.bucket + "/" + key, Body: "x"}); status != 200 {
		a.t.Fatalf("putting %s: %d %s", key, status, answer)
	}
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

func TestCopiesAreReadByTheNamedRolesAlone(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	want(t, "condition", at(t, tmpl, "Resources", "MirrorPolicy", "Condition"), "HasMirrors")
	want(t, "condition", at(t, tmpl, "Resources", "MirrorReaders", "Condition"), "HasMirrorReaders")
	readers := properties(t, tmpl, "MirrorReaders")
	first := show(object{"Fn::Select": []any{0, object{"Fn::Split": []any{",", object{"Ref": "MirrorSecretArns"}}}}})
	want(t, "secret", show(readers["SecretId"]), first)
	found := statements(readers)
	if len(found) != 1 {
		t.Fatalf("got %d statements, want 1", len(found))
	}
	want(t, "action", show(found[0]["Action"]), "secretsmanager:GetSecretValue")
	want(t, "resource", show(found[0]["Resource"]), first)
	want(t, "principal", show(found[0]["Principal"]), show(object{"AWS": object{"Fn::Split": []any{",", object{"Ref": "MirrorReaderRoleArns"}}}}))
}

// A star in an ARN would let the function overwrite, or a role read, what nobody named. An empty
// element of any list would be heard of only when the resource is made.
func TestListParametersTakeWholeElements(t *testing.T) {
	t.Parallel()
	const (
		secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:tokens/logs-Ab12Cd"
		role   = "arn:aws:iam::123456789012:role/jobs/reader"
	)
	network := map[string]values{
		"SubnetIds":        {[]string{"", "subnet-0a1b", "subnet-0a1b,subnet-2c"}, []string{"subnet-0a1b,", ",subnet-0a1b", "subnet-0a1b,,subnet-2c", "subnet-0a1b, subnet-2c", "sg-0a1b"}},
		"SecurityGroupIds": {[]string{"", "sg-0a1b", "sg-0a1b,sg-2c"}, []string{"sg-0a1b,", ",sg-0a1b", "subnet-0a1b"}},
	}
	checkPatterns(t, fleet(t), network)
	checkPatterns(t, template(t), network)
	checkPatterns(t, template(t), map[string]values{
		"MirrorSecretArns":     {[]string{"", secret, secret + "," + secret}, []string{secret + ",", "," + secret, secret + ",," + secret, "*", secret + "*", secret + ", " + secret, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*-Ab12Cd", role}},
		"MirrorReaderRoleArns": {[]string{"", role, role + "," + role}, []string{role + ",", "," + role, "*", "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/a", role + "/*", secret}},
	})
}

// values are what a parameter takes and does not take.
type values struct{ good, bad []string }

// checkPatterns holds parameters' patterns against them.
func checkPatterns(t *testing.T, tmpl object, parameters map[string]values) {
	t.Helper()
	for name, values := range parameters {
		pattern := regexp.MustCompile(at(t, tmpl, "Parameters", name, "AllowedPattern").(string))
		for _, value := range values.good {
			if !pattern.MatchString(value) {
				t.Errorf("%s does not take %q", name, value)
			}
		}
		for _, value := range values.bad {
			if pattern.MatchString(value) {
				t.Errorf("%s takes %q", name, value)
			}
		}
	}
}

func TestFunction(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	function := properties(t, tmpl, "Function")
	for name, value := range (object{
		"Runtime": "provided.al2023", "Handler": "bootstrap", "MemorySize": 128, "Timeout": 120,
		"Architectures": []any{object{"Ref": "Architecture"}},
		"LoggingConfig": object{"LogGroup": object{"Ref": "LogGroup"}},
	}) {
		want(t, name, function[name], value)
	}
	want(t, "Architecture", at(t, tmpl, "Parameters", "Architecture", "Default"), "arm64")

	asynchronous := properties(t, tmpl, "AsynchronousInvocations")
	want(t, "asynchronous retries", asynchronous["MaximumRetryAttempts"], 0)
	want(t, "asynchronous age", asynchronous["MaximumEventAgeInSeconds"], 120)
	want(t, "asynchronous failures go to", at(t, asynchronous, "DestinationConfig", "OnFailure", "Destination"), object{"Fn::GetAtt": []any{"FailedRuns", "Arn"}})
	want(t, "alias", asynchronous["Qualifier"], "$LATEST")
	if size := fileSize(t, "template.yaml"); size > 51200 {
		t.Errorf("the template has %d bytes: without a bucket CloudFormation takes 51200", size)
	}
}

func fileSize(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
