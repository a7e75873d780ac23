package aws_test

import (
	"testing"

	"iam-token-rotator/infra/aws/awstest"
)

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
