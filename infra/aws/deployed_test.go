package aws_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	"iam-token-rotator/infra/aws/awstest"
)

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
