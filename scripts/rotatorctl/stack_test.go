package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"iam-token-rotator/scripts/awstest"
	"iam-token-rotator/scripts/programs"
)

// A stack from its first deployment through status, runs by hand and updates to its end.
func TestLifeOfAStack(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "life")
	a.store("iam-token-rotator/life/notes.txt", "x")
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
	var dashboard struct { // what it draws is infra/aws's matter
		Body string `xml:"GetDashboardResult>DashboardBody"`
	}
	a.query("monitoring", "Action=GetDashboard&Version=2010-08-01&DashboardName=life-"+awstest.Region, &dashboard)
	if !json.Valid([]byte(dashboard.Body)) || !strings.Contains(dashboard.Body, `"FunctionName", "life"`) {
		t.Errorf("the dashboard is no JSON, or not about the stack's function: %s", dashboard.Body)
	}

	a.must(0, "status", " default: rotated; the stored token expires 20")
	a.must(0, "invoke --mode=ensure", "default: fresh; ")
	a.must(0, "status", " default: fresh; ")
	a.must(0, "invoke --mode check --rotation default", "default: checked; ")
	a.must(0, "invoke --mode=rotate --force", "default: rotated; ")
	a.must(0, "doctor", "✓ configuration         valid: ", "\nrotation default\n✓ ", "\nnothing is wrong that can be seen without writing\n")
	a.must(1, "invoke --mode=ensure --rotation=defualt", `misconfigured: no rotation is called "defualt"`)
	a.must(1, "status", " default: rotated; ", "the run at 20", `could not begin: no rotation is called "defualt"`)
	a.must(0, "logs", "Z rotate by person: default: rotated; ", "Z ensure by person: default: fresh; ", "Z rotate by person, forced: default: rotated; ", "Z the run could not begin: ")
	a.must(0, "logs --since=1ns -o json", `"entries": []`)
	a.must(0, "logs --raw --since=5m", `"msg":"report"`, "CloudWatchMetrics")
	for _, args := range []string{"invoke --mode=check -o json", "doctor -o json"} {
		if got := a.must(0, args); !json.Valid([]byte(got.stdout)) || len(got.stdout) < 50 {
			t.Errorf("%s: got on standard output %s", args, got.stdout)
		}
	}

	a.set["BOOTSTRAP_EXPIRES_AT"] = "2020-01-31"
	a.must(0, "deploy", "default: rotated; ", "warning: the bootstrap API key ")
	want(t, "zips, the same code once", len(a.objects(a.prefix("rotate"))), 1)
	a.set["EXPECT_ACCOUNT"], a.set["PARAMS"] = "", "SecretsManagerMaxRps=7"
	a.useFile()
	if got := a.must(0, "deploy -o json", "Checking ROTATIONS_FILE", `"outcome": "rotated"`); !json.Valid([]byte(got.stdout)) {
		t.Errorf("deploy -o json: got on standard output %s", got.stdout)
	}
	want(t, "requests a second, set", a.variables()["SECRETS_MANAGER_MAX_RPS"], "7")
	a.set["PARAMS"] = "SecretsManagerMaxRps="
	a.must(0, "deploy", one.Name+": rotated", two.Name+": rotated", "2 rotations: 2 rotated")
	if got := a.must(0, "status", one.Name+": rotated", two.Name+": rotated", "2 rotations: 2 rotated").stdout; strings.Contains(got, "default:") {
		t.Errorf("status shows a rotation that is not deployed any more: %s", got)
	}
	want(t, "requests a second, emptied", a.variables()["SECRETS_MANAGER_MAX_RPS"], "")
	a.published(two.TokenSecret)
	a.checkNoSecret("log", a.lambda.Printed())

	a.must(2, "destroy", "destroy deletes the stack life", "--yes")
	a.must(0, "destroy --yes", "destroy: the stack life in account 123456789012, region "+awstest.Region, "the bucket "+a.bucket, "the bootstrap secret "+a.arn)
	want(t, "left in the bucket: what was not ours", a.objects(""), "[iam-token-rotator/life/notes.txt]")
	a.must(1, "destroy --yes", "there is no stack life in account 123456789012, region "+awstest.Region)
	a.must(1, "status", "there is no stack life in")
	a.must(1, "logs", "there is no log of the function life in")
	a.must(1, "invoke --mode=check", "there is no function life in")
	a.must(0, "deploy", one.Name+": rotated; ")
}

// A stack with every optional parameter has what they ask for, and destroy removes all of it.
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
		region   = awstest.Region + ":123456789012:"
		boundary = "arn:aws:iam::123456789012:policy/boundary"
	)
	a.set["BOOTSTRAP_EXPIRES_AT"] = "2999-01-31"
	a.set["PARAMS"] = "BootstrapKmsKeyArn=arn:aws:kms:" + region + "key/0123 PermissionsBoundaryArn=" + boundary +
		" AlarmTopicArn=arn:aws:sns:" + region + "alarms SubnetIds=" + subnets.IDs[0] + "," + subnets.IDs[1] + " SecurityGroupIds=" + groups.IDs[0] +
		" ReservedConcurrency=5 MirrorSecretArns=arn:aws:secretsmanager:" + region + "secret:one-Ab12Cd,arn:aws:secretsmanager:" + region + "secret:two-Ab12Cd MirrorReaderRoleArns=arn:aws:iam::123456789012:role/reader" +
		" KmsKeyArn=arn:aws:kms:" + region + "key/0456 MirrorKmsKeyArn=arn:aws:kms:" + region + "key/0789 TracingMode=Active" +
		" MinRemaining=10m MetricsNamespace=Own/Space Concurrency=3 SecretsManagerMaxRps=7 TokenFormat=bearer LogRetentionInDays=7 EnsureEveryMinutes=2 WithDashboard=false" +
		" EventBusName=default Schedules=ensure"
	a.set["TAGS"], a.set["CLOUDFORMATION_ROLE_ARN"] = "cost-center=7 owner=a@b", "arn:aws:iam::123456789012:role/deployer"
	var sent []url.Values
	a.answer = func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") == "CreateStack" {
			sent = append(sent, form)
		}
		return 0, ""
	}
	a.moto.MustCall(t, "events", "AWSEvents.PutRule", object{"Name": "rotated", "EventPattern": `{"source":["iam-token-rotator"]}`})
	announced := a.moto.MustCall(t, "sqs", "AmazonSQS.CreateQueue", object{"QueueName": "announced"})["QueueUrl"]
	a.moto.MustCall(t, "events", "AWSEvents.PutTargets", object{"Rule": "rotated", "Targets": []any{object{"Id": "queue", "Arn": "arn:aws:sqs:" + region + "announced"}}})
	if got := a.must(0, "deploy", "default: rotated"); strings.Contains(got.all(), "Dashboard: ") {
		t.Errorf("deploy names a dashboard that is not wanted: %s", got.all())
	}
	if len(sent) != 1 || sent[0].Get("RoleARN") != a.set["CLOUDFORMATION_ROLE_ARN"] || sent[0].Get("Tags.member.2.Value") != "a@b" {
		t.Errorf("got %v, want a stack with two tags, made by the service role", sent)
	}
	events, _ := a.moto.MustCall(t, "sqs", "AmazonSQS.ReceiveMessage", object{"QueueUrl": announced, "MaxNumberOfMessages": 10})["Messages"].([]any)
	if len(events) != 1 || !strings.Contains(fmt.Sprint(events), `"Token Rotated"`) {
		t.Errorf("got the events %v, want the one of the first token: a check has none", events)
	}
	resources, err := a.stacks.DescribeStackResources(t.Context(), &cloudformation.DescribeStackResourcesInput{StackName: &a.stack})
	noError(t, err)
	ids := map[string]string{}
	for _, resource := range resources.StackResources {
		ids[aws.ToString(resource.LogicalResourceId)] = aws.ToString(resource.PhysicalResourceId)
	}
	for _, id := range []string{"Dashboard", "RotateSchedule", "AlarmTopic"} { // not wanted, of a region that only ensures, given
		want(t, id, ids[id], "")
	}
	queue := a.moto.MustCall(t, "sqs", "AmazonSQS.GetQueueAttributes", object{"QueueUrl": ids["FailedRuns"], "AttributeNames": []string{"All"}})
	want(t, "the queue's key", queue["Attributes"].(object)["KmsMasterKeyId"], "arn:aws:kms:"+region+"key/0456")
	variables := a.variables()
	for name, value := range map[string]string{
		"MIN_REMAINING": "10m", "METRICS_NAMESPACE": "Own/Space", "CONCURRENCY": "3", "SECRETS_MANAGER_MAX_RPS": "7", "TOKEN_FORMAT": "bearer", "BOOTSTRAP_EXPIRES_AT": "2999-01-31",
		"EVENT_BUS_NAME": "default",
	} {
		want(t, name, variables[name], value)
	}
	_, concurrency := a.moto.MustDo(t, awstest.Request{Service: "lambda", Method: "GET", Path: "/2019-09-30/functions/everything/concurrency"})
	want(t, "reserved concurrency", strings.ReplaceAll(string(concurrency), `"`, ""), "{ReservedConcurrentExecutions: 5}") // moto quotes the number
	var role struct {
		Boundary string `xml:"GetRoleResult>Role>PermissionsBoundary>PermissionsBoundaryArn"`
	}
	for _, id := range []string{"FunctionRole", "ScheduleRole"} {
		a.query("iam", "Action=GetRole&Version=2010-05-08&RoleName="+ids[id], &role)
		want(t, id+" boundary", role.Boundary, boundary)
	}
	a.hostileLog()
	a.must(0, "destroy --yes", "Left as they are")
	for name, left := range map[string]awstest.Request{
		"function":  {Service: "lambda", Method: "GET", Path: awstest.FunctionPath(ids["Function"])},
		"log":       {Service: "logs", Target: "Logs_20140328.DescribeLogStreams", Body: `{"logGroupName":"` + ids["LogGroup"] + `"}`},
		"role":      {Service: "iam", Body: "Action=GetRole&Version=2010-05-08&RoleName=" + ids["FunctionRole"]},
		"schedules": {Service: "iam", Body: "Action=GetRole&Version=2010-05-08&RoleName=" + ids["ScheduleRole"]},
		"queue":     {Service: "sqs", Target: "AmazonSQS.GetQueueAttributes", Body: `{"QueueUrl":"` + ids["FailedRuns"] + `"}`},
		"another":   {Service: "sqs", Target: "AmazonSQS.GetQueueAttributes", Body: `{"QueueUrl":"` + ids["UndeliveredEvents"] + `"}`},
	} {
		if status, answer := a.moto.MustDo(t, left); status == 200 {
			t.Errorf("%s is still there: %s", name, answer)
		}
	}
}

// The errors of deploy say what to do.
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
		{"not-allowed", func(a *account) { a.lambda.Secrets = a.refusing(-1) },
			[]string{"New permissions may take minutes", "the stack is deployed, but the check of version 1 failed: RotationRefused: 1 of 1 rotations failed; default: bootstrap: denied: ", "secretsmanager:GetSecretValue"}},
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
			if tt.name == "not-allowed" { // destroy removes what a failed deployment made
				a.must(0, "destroy -y", "Left as they are")
				want(t, "objects left", len(a.objects("")), 0)
			}
		})
	}
}

// The answer of another program is no result, neither as text nor as JSON, and is not printed.
func TestForeignAnswer(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "foreign")
	a.answer = func(r *http.Request, _ url.Values) (int, string) {
		if strings.HasSuffix(r.URL.Path, "/invocations") {
			return 200, `{"key":"` + a.cloud.BootstrapAPIKey() + `"}`
		}
		return 0, ""
	}
	for _, args := range []string{"invoke --mode=check", "doctor -o json"} {
		if got := a.must(1, args, "the function's answer is neither report nor diagnosis: ("); got.stdout != "" {
			t.Errorf("%s: got %d bytes on standard output, want none", args, len(got.stdout))
		}
	}
}

// The SDK retries failed requests, but never a run.
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

// A deployment waits for new permissions, and for nothing else.
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

// deploy deletes a stack that can only be deleted, before it creates a new one.
func TestDeploymentRemovesWhatWasLeft(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "left")
	var actions []string
	a.answer = func(_ *http.Request, form url.Values) (int, string) {
		action := form.Get("Action")
		if actions = append(actions, action); slices.Contains(actions, "DeleteStack") {
			return 0, ""
		}
		switch action {
		case "DescribeStacks":
			return 200, stackIn("left", "REVIEW_IN_PROGRESS")
		case "DescribeStackEvents":
			return 200, eventsAnswer()
		}
		return 0, ""
	}
	a.must(0, "deploy", "Deleting the stack left, which an earlier command left in REVIEW_IN_PROGRESS", "default: rotated")
	deleted, created := slices.Index(actions, "DeleteStack"), slices.Index(actions, "CreateStack")
	if deleted < 0 || created < deleted {
		t.Errorf("got %v, want the stack deleted before it is created", actions)
	}
}

// CloudFormation's events are printed as they come; at the end each reason of a failure is printed once.
func TestEventsOfAFailure(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "events")
	all := []string{stackEvent("5", "events", "ROLLBACK_COMPLETE", ""), stackEvent("4", "FunctionRole", "CREATE_FAILED", "no \u202eright"),
		stackEvent("3", "Topic", "CREATE_FAILED", "Resource creation cancelled"), stackEvent("2", "ScheduleRole", "CREATE_FAILED", "no \u202eright"), stackEvent("1", "LogGroup", "CREATE_COMPLETE", "")}
	shown, created := 0, false
	a.answer = func(_ *http.Request, form url.Values) (int, string) {
		switch action := form.Get("Action"); {
		case action == "CreateStack":
			created = true
			return 200, `<CreateStackResponse><CreateStackResult><StackId>events</StackId></CreateStackResult></CreateStackResponse>`
		case action == "DescribeStacks" && created && shown == len(all):
			return 200, stackIn("events", "ROLLBACK_COMPLETE")
		case action == "DescribeStacks" && created:
			return 200, stackIn("events", "ROLLBACK_IN_PROGRESS")
		case action == "DescribeStackEvents":
			shown = min(shown+2, len(all))
			return 200, eventsAnswer(all[len(all)-shown:]...)
		}
		return 0, ""
	}
	got := a.must(1, "deploy", "     0s  CREATE_COMPLETE     LogGroup\n", "     2s  CREATE_FAILED       FunctionRole\n", "     4s  ROLLBACK_COMPLETE   events\n",
		"CloudFormation ended in ROLLBACK_COMPLETE\n  ScheduleRole, FunctionRole: no \\u202eright (2 times)\n", "rotatorctl destroy --stack=events")
	if n := strings.Count(got.all(), "LogGroup"); n != 1 || strings.Contains(got.all(), "\u202e") {
		t.Errorf("LogGroup is printed %d times, want 1, and no control character: %q", n, got.all())
	}
}

// Missing and unknown values are rejected before anything is built or sent.
func TestUsage(t *testing.T) {
	t.Parallel()
	programs.Need(t, "go")
	folder := t.TempDir()
	mustBuild(t)
	files := map[string]string{}
	for name, text := range map[string]string{"broken": `[{"name":"x"},]`,
		"faulty": `[{"name":"a b","api_key_secret":"g/k","token_secret":"00000000-0000-4000-8000-000000000000"}]`} {
		files[name] = filepath.Join(folder, name)
		noError(t, os.WriteFile(files[name], []byte(text), 0o600))
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
		{"odd stack", "deploy", whole, object{"STACK": "9 lives"}, `STACK="9 lives" is no name`},
		{"long stack", "status", whole, object{"STACK": "a" + strings.Repeat("b", 64)}, "is no name of a stack"},
		{"partial ARN", "deploy", whole, object{"BOOTSTRAP_SECRET_ARN": "rotator/bootstrap"}, "rotatorctl put-key prints"},
		{"no key stored", "deploy", whole, object{"BOOTSTRAP_SECRET_ARN": ""}, "without setup, rotatorctl put-key stores a key"},
		{"unknown ARCH", "deploy", whole, object{"ARCH": "mips"}, "use arm64 or amd64"},
		{"plain http", "deploy", whole, object{"SECRETS_MANAGER_URL": "http://x.example"}, "SECRETS_MANAGER_URL must be the instance's https origin"},
		{"both sources", "deploy", whole, object{"ROTATIONS_FILE": files["faulty"]}, "ROTATIONS_FILE and API_KEY_SECRET, TOKEN_SECRET are set"},
		{"expected with a list", "deploy", list, object{"ROTATIONS_FILE": files["faulty"], "EXPECT_IAM_ID": "x"}, "ROTATIONS_FILE and EXPECT_IAM_ID are set"},
		{"no such file", "deploy", list, object{"ROTATIONS_FILE": "/no/such"}, "cannot be read"},
		{"a faulty entry", "deploy", list, object{"ROTATIONS_FILE": files["faulty"]}, "ROTATIONS_FILE[0]: name: use 1 to 40"},
		{"a syntax error", "deploy", list, object{"ROTATIONS_FILE": files["broken"]}, "nothing was deployed"},
		{"misspelt parameter", "deploy", whole, object{"PARAMS": "LogLevel=info MinRemaning=10m"}, `the key "MinRemaning", which the template does not know. It may have: AlarmEmail `},
		{"a space in a value", "deploy", whole, object{"PARAMS": "AlarmEmail=me and@example.com"}, `PARAMS has "and@example.com", which is no Key=Value`},
		{"a key for a parameter", "deploy", whole, object{"PARAMS": likeAKey}, "(40 characters, not repeated here)"},
		{"a key for a stack", "status", whole, object{"STACK": likeAKey}, "(40 characters, not repeated here)"},
		{"a key for a rotation", "invoke --mode=rotate --rotation " + likeAKey + "EFGH", whole, nil, "(44 characters, not repeated here)"},
		{"a key for an id", "deploy", whole, object{"API_KEY_SECRET": likeAKey}, "API_KEY_SECRET must be the id of a secret, or group/name"},
		{"a key for a bucket", "deploy", whole, object{"BUCKET": likeAKey}, "BUCKET must be"},
		{"a key in a URL's path", "deploy", whole, object{"SECRETS_MANAGER_URL": "https://x/" + likeAKey}, "SECRETS_MANAGER_URL must be"},
		{"a key for a password", "deploy", whole, object{"IAM_URL": "https://u:" + likeAKey + "@x"}, "IAM_URL must be"},
		{"a key for a parameter's value", "deploy", whole, object{"PARAMS": "AlarmEmail=" + likeAKey}, "AlarmEmail must be"},
		{"a parameter with a variable", "deploy", whole, object{"PARAMS": "IamUrl=https://x"}, "PARAMS must not set IamUrl: set IAM_URL"},
		{"a tag without a value", "deploy", whole, object{"TAGS": "cost-center=7 team"}, `TAGS has "team", which is no Key=Value`},
		{"a tag that AWS keeps", "deploy", whole, object{"TAGS": "AWS:x=1"}, "no key begins with aws:"},
		{"a tag twice", "deploy", whole, object{"TAGS": "a=1 a=2"}, `the key "a" twice`},
		{"a key for a tag", "deploy", whole, object{"TAGS": likeAKey}, "(40 characters, not repeated here)"},
		{"too many tags", "deploy", whole, object{"TAGS": strings.Repeat("tag=x ", 41)}, "TAGS has 41 tags"},
		{"a service role's name", "deploy", whole, object{"CLOUDFORMATION_ROLE_ARN": "deployer"}, "CLOUDFORMATION_ROLE_ARN must be a role's ARN"},
		{"no mode", "invoke", nil, nil, "set MODE: rotate, ensure, check, doctor"},
		{"unknown mode", "invoke", nil, object{"MODE": "bogus"}, `MODE="bogus" is not known: use rotate, ensure, check, doctor`},
		{"a key for a mode", "invoke --mode " + likeAKey, nil, nil, "(40 characters, not repeated here)"},
		{"unknown force", "invoke --mode=rotate", nil, object{"FORCE": "yes"}, `FORCE="yes" is no truth value: use true or false`},
		{"forced doctor", "invoke --mode=doctor --force", nil, nil, "leave out FORCE=true"},
		{"since in words", "logs --since=abc", nil, nil, `option --since: "abc" is no duration: use 30m or 24h`},
		{"since the future", "logs --since=-5m", nil, nil, "--since is how far to go back"},
		{"raw and failed", "logs --raw --failed", nil, nil, "leave out --failed"},
		{"endless JSON", "logs -f -o json", nil, nil, "leave out -o json"},
		{"destroy unasked", "destroy", nil, nil, "give --yes"},
		{"argument", "status now", nil, nil, `takes no arguments, got "now"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"GO": "fake-go"}
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

// The templates have every parameter that deploy sets, and no NoEcho: an update reads the stored values and sets them again.
func TestEveryParameterIsInTheTemplate(t *testing.T) {
	for _, fleet := range []bool{false, true} {
		d := deployment{program: &program{stack: "s"}, root: "../..", fleet: fleet, values: map[string]string{}}
		if err := d.readParameters(); err != nil || strings.Contains(d.template, "NoEcho") {
			t.Errorf("fleet %t: got %v, or a hidden parameter", fleet, err)
		}
		for name := range ownParameters {
			if _, known := d.defaults[name]; known != (fleet || name != namesKey) {
				t.Errorf("fleet %t: %s is in the template: %t", fleet, name, known)
			}
		}
		for _, s := range settings {
			if _, known := d.defaults[s.parameter]; s.parameter != "" && !known && !fleet {
				t.Errorf("%s is not in the template", s.parameter)
			}
		}
	}
}

// Every name of an architecture means one of two.
func TestArchitectures(t *testing.T) {
	for given, want := range map[string]string{"": "arm64", "aarch64": "arm64", "amd64": "x86_64", "x86_64": "x86_64"} {
		d := deployment{program: &program{stack: "s"}, values: map[string]string{"ARCH": given, "BUCKET": "bucket", "SECRETS_MANAGER_URL": "https://x",
			"BOOTSTRAP_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd", "API_KEY_SECRET": "group/name", "TOKEN_SECRET": "00000000-0000-4000-8000-000000000000"}}
		if err := d.check(t.Context()); err != nil || d.parameters["Architecture"] != want {
			t.Errorf("%q: got %q, %v; want %q", given, d.parameters["Architecture"], err, want)
		}
	}
}

// The programs of a build get no key and no token of any cloud.
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
