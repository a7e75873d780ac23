package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
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

// checkDashboard holds the dashboard that was made to JSON; what it draws is infra/aws's matter.
func (a *account) checkDashboard() {
	a.t.Helper()
	var answer struct {
		Body string `xml:"GetDashboardResult>DashboardBody"`
	}
	a.query("monitoring", "Action=GetDashboard&Version=2010-08-01&DashboardName="+a.stack+"-"+awstest.Region, &answer)
	if !json.Valid([]byte(answer.Body)) || !strings.Contains(answer.Body, `"FunctionName", "`+a.stack+`"`) {
		a.t.Errorf("the dashboard is no JSON, or not about the stack's function: %s", answer.Body)
	}
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
		" KmsKeyArn=arn:aws:kms:" + awstest.Region + ":123456789012:key/0456 MirrorKmsKeyArn=arn:aws:kms:" + awstest.Region + ":123456789012:key/0789 TracingMode=Active" +
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
	a.moto.MustCall(t, "events", "AWSEvents.PutRule", map[string]any{"Name": "rotated", "EventPattern": `{"source":["iam-token-rotator"]}`})
	announced := a.moto.MustCall(t, "sqs", "AmazonSQS.CreateQueue", map[string]any{"QueueName": "announced"})["QueueUrl"]
	a.moto.MustCall(t, "events", "AWSEvents.PutTargets", map[string]any{"Rule": "rotated", "Targets": []any{map[string]any{"Id": "queue", "Arn": "arn:aws:sqs:" + awstest.Region + ":123456789012:announced"}}})
	if got := a.must(0, "deploy", "default: rotated"); strings.Contains(got.all(), "Dashboard: ") {
		t.Errorf("deploy names a dashboard that is not wanted: %s", got.all())
	}
	if len(sent) != 1 || sent[0].Get("RoleARN") != a.set["CLOUDFORMATION_ROLE_ARN"] || sent[0].Get("Tags.member.2.Value") != "a@b" {
		t.Errorf("got %v, want a stack with two tags, made by the service role", sent)
	}
	events, _ := a.moto.MustCall(t, "sqs", "AmazonSQS.ReceiveMessage", map[string]any{"QueueUrl": announced, "MaxNumberOfMessages": 10})["Messages"].([]any)
	if len(events) != 1 || !strings.Contains(fmt.Sprint(events), `"Token Rotated"`) {
		t.Errorf("got the events %v, want the one of the first token: a check has none", events)
	}
	ids := a.resources()
	want(t, "a dashboard that is not wanted", ids["Dashboard"], "")
	want(t, "a schedule in a region that only ensures", ids["RotateSchedule"], "")
	var queue struct{ Attributes map[string]string }
	_, attributes := a.moto.MustDo(t, awstest.Request{Service: "sqs", Target: "AmazonSQS.GetQueueAttributes", Body: `{"QueueUrl":"` + ids["FailedRuns"] + `","AttributeNames":["All"]}`})
	if err := json.Unmarshal(attributes, &queue); err != nil {
		t.Fatal(err)
	}
	want(t, "the queue's key", queue.Attributes["KmsMasterKeyId"], "arn:aws:kms:"+awstest.Region+":123456789012:key/0456")
	want(t, "a topic made although one was given", ids["AlarmTopic"], "")
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
