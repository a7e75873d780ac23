package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/infra/aws/awstest"
)

// query makes a call of one of AWS's XML protocols and decodes the answer.
func (a *account) query(service, body string, into any) {
	a.t.Helper()
	status, answer := a.moto.MustDo(a.t, awstest.Request{Service: service, Body: body})
	if err := xml.Unmarshal(answer, into); err != nil || status != 200 {
		a.t.Fatalf("%s: %d, %v: %s", body, status, err, answer)
	}
}

// resources are the stack's physical ids by logical id; moto leaves out what it passes over.
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

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// A stack has what the template and the parameters ask for, and goes without a trace.
func TestWhatIsDeployed(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "whole")
	a.must(0, "deploy --params=ReservedConcurrency=5")
	function := a.function().Configuration
	want(t, "handler", function.Handler, "bootstrap")
	want(t, "timeout", function.Timeout, 120)
	want(t, "memory", function.MemorySize, 128)
	want(t, "environment", function.Environment.Variables, map[string]string{
		"SECRETS_MANAGER_URL": a.set["SECRETS_MANAGER_URL"], "IAM_URL": a.set["IAM_URL"], "SECRETS_MANAGER_APIKEY_ARN": a.arn, "BOOTSTRAP_EXPIRES_AT": "",
		"API_KEY_SECRET": a.set["API_KEY_SECRET"], "TOKEN_SECRET": a.set["TOKEN_SECRET"], "EXPECT_ACCOUNT": "", "EXPECT_IAM_ID": "", "ROTATIONS_FILE": "",
		"TOKEN_FORMAT": "raw", "MIN_REMAINING": "8m", "ROTATION_INTERVAL": "50m", "SECRETS_MANAGER_MAX_RPS": "", "CONCURRENCY": "",
		"METRICS_NAMESPACE": "IAMTokenRotator", "LOG_LEVEL": "info",
	})
	_, concurrency := a.moto.MustDo(t, awstest.Request{Service: "lambda", Method: "GET", Path: "/2019-09-30/functions/whole/concurrency"})
	want(t, "reserved concurrency", strings.ReplaceAll(string(concurrency), `"`, ""), "{ReservedConcurrentExecutions: 5}") // moto quotes the number

	ids := a.resources()
	here := awstest.Region + ":123456789012:"
	queue := func(name string) string {
		return "arn:aws:sqs:" + here + ids[name][strings.LastIndexByte(ids[name], '/')+1:]
	}
	a.checkRole(ids["FunctionRole"], "secretsmanager:GetSecretValue on "+a.arn, "logs:CreateLogStream on arn:aws:logs:"+here+"log-group:/aws/lambda/whole:*",
		"logs:PutLogEvents on arn:aws:logs:"+here+"log-group:/aws/lambda/whole:*", "sqs:SendMessage on "+queue("FailedRuns"))
	a.checkRole(ids["ScheduleRole"], "lambda:InvokeFunction on arn:aws:lambda:"+here+"function:whole", "sqs:SendMessage on "+queue("UndeliveredEvents"))
	for _, name := range []string{"FailedRuns", "UndeliveredEvents"} {
		attributes := a.moto.MustCall(t, "sqs", "AmazonSQS.GetQueueAttributes", object{"QueueUrl": ids[name], "AttributeNames": []string{"All"}})
		want(t, name+" keeps messages for", attributes["Attributes"].(object)["MessageRetentionPeriod"], "1209600")
	}
	groups := a.moto.MustCall(t, "logs", "Logs_20140328.DescribeLogGroups", object{"logGroupNamePrefix": "/aws/lambda/whole"})
	want(t, "log retention", groups["logGroups"].([]any)[0].(object)["retentionInDays"], 30)
	if topic := ids["AlarmTopic"]; !strings.HasSuffix(topic, ":whole-alarms") {
		t.Errorf("got the topic %q, want whole-alarms", topic)
	}
	a.checkDashboard()
}

// checkRole compares what a role allows, over all of its policies, with the list.
func (a *account) checkRole(role string, allowed ...string) {
	a.t.Helper()
	var policies struct {
		Names []string `xml:"ListRolePoliciesResult>PolicyNames>member"`
	}
	a.query("iam", "Action=ListRolePolicies&Version=2010-05-08&RoleName="+role, &policies)
	var got []string
	for _, name := range policies.Names {
		var answer struct {
			Document string `xml:"GetRolePolicyResult>PolicyDocument"`
		}
		a.query("iam", "Action=GetRolePolicy&Version=2010-05-08&RoleName="+role+"&PolicyName="+name, &answer)
		text, _ := url.PathUnescape(answer.Document)
		var document struct {
			Statement []struct{ Effect, Action, Resource any }
		}
		if err := json.Unmarshal([]byte(text), &document); err != nil {
			a.t.Fatalf("policy %s: %v: %s", name, err, text)
		}
		for _, s := range document.Statement {
			want(a.t, role+" effect", s.Effect, "Allow")
			actions, several := s.Action.([]any)
			if !several {
				actions = []any{s.Action}
			}
			for _, action := range actions {
				got = append(got, fmt.Sprint(action, " on ", s.Resource))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(allowed)
	want(a.t, role, strings.Join(got, "\n"), strings.Join(allowed, "\n"))
}

var ownMetric = regexp.MustCompile(`\["IAMTokenRotator", "(\w+)", "FunctionName", "(\w+)"`)

// checkDashboard holds the dashboard to the metrics that the function has really written: a misspelt name would draw
// an empty line for ever.
func (a *account) checkDashboard() {
	a.t.Helper()
	var answer struct {
		Body string `xml:"GetDashboardResult>DashboardBody"`
	}
	a.query("monitoring", "Action=GetDashboard&Version=2010-08-01&DashboardName="+a.stack+"-"+awstest.Region, &answer)
	if !json.Valid([]byte(answer.Body)) {
		a.t.Fatalf("the dashboard is no JSON: %s", answer.Body)
	}
	body := strings.ReplaceAll(answer.Body, `[".", "TokenLifetimeSeconds", ".", "."`, `["IAMTokenRotator", "TokenLifetimeSeconds", "FunctionName", "`+a.stack+`"`)
	drawn := map[string]bool{}
	for _, found := range ownMetric.FindAllStringSubmatch(body, -1) {
		drawn[found[1]] = true
		want(a.t, found[1]+" is of", found[2], a.stack)
		if written := strings.Contains(a.lambda.Printed(), `"Name":"`+found[1]+`"`); !written && found[1] != "SafetyMarginSeconds" { // no margin at the first token
			a.t.Errorf("the dashboard draws %s, which the function does not write", found[1])
		}
	}
	want(a.t, "metrics drawn", len(drawn), 6)
	want(a.t, "metrics that repeat the one before", strings.Count(body, `[".", `), 0)
}

// With every optional parameter set a stack can be made, has what they ask for, and goes without a trace.
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
		secret   = "arn:aws:secretsmanager:" + awstest.Region + ":123456789012:secret:"
		boundary = "arn:aws:iam::123456789012:policy/boundary"
	)
	a.set["BOOTSTRAP_EXPIRES_AT"] = "2999-01-31"
	a.set["PARAMS"] = "BootstrapKmsKeyArn=arn:aws:kms:" + awstest.Region + ":123456789012:key/0123 PermissionsBoundaryArn=" + boundary +
		" AlarmTopicArn=arn:aws:sns:" + awstest.Region + ":123456789012:alarms SubnetIds=" + subnets.IDs[0] + "," + subnets.IDs[1] + " SecurityGroupIds=" + groups.IDs[0] +
		" ReservedConcurrency=5 MirrorSecretArns=" + secret + "one-Ab12Cd," + secret + "two-Ab12Cd MirrorReaderRoleArns=arn:aws:iam::123456789012:role/reader" +
		" MinRemaining=10m MetricsNamespace=Own/Space Concurrency=3 SecretsManagerMaxRps=7 TokenFormat=bearer LogRetentionInDays=7 EnsureEveryMinutes=2"
	a.must(0, "deploy", "default: rotated")
	ids := a.resources()
	want(t, "a topic made although one was given", ids["AlarmTopic"], "")
	variables := a.variables()
	for name, value := range map[string]string{
		"MIN_REMAINING": "10m", "METRICS_NAMESPACE": "Own/Space", "CONCURRENCY": "3", "SECRETS_MANAGER_MAX_RPS": "7", "TOKEN_FORMAT": "bearer", "BOOTSTRAP_EXPIRES_AT": "2999-01-31",
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
	a.must(0, "destroy --yes", "Left as they are")
	for name, left := range map[string]awstest.Request{
		"function":  {Service: "lambda", Method: "GET", Path: awstest.FunctionPath(ids["Function"])},
		"log":       {Service: "logs", Target: "Logs_20140328.DescribeLogStreams", Body: `{"logGroupName":"` + ids["LogGroup"] + `"}`},
		"dashboard": {Service: "monitoring", Body: "Action=GetDashboard&Version=2010-08-01&DashboardName=" + ids["Dashboard"]},
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
