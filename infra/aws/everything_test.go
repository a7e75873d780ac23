package aws_test

import (
	"testing"
)

// A stack with every optional parameter set can be made, has what the parameters
// ask for, and goes without a trace.
func TestEveryParameter(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "everything")
	var subnets struct {
		IDs []string `xml:"subnetSet>item>subnetId"`
	}
	a.moto.query(t, "ec2", "Action=DescribeSubnets&Version=2016-11-15", &subnets)
	var groups struct {
		IDs []string `xml:"securityGroupInfo>item>groupId"`
	}
	a.moto.query(t, "ec2", "Action=DescribeSecurityGroups&Version=2016-11-15", &groups)
	const (
		key      = "arn:aws:kms:" + region + ":123456789012:key/0123"
		boundary = "arn:aws:iam::123456789012:policy/boundary"
		topic    = "arn:aws:sns:" + region + ":123456789012:alarms"
		mirrors  = "arn:aws:secretsmanager:" + region + ":123456789012:secret:one-Ab12Cd,arn:aws:secretsmanager:" + region + ":123456789012:secret:two-Ab12Cd"
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
		a.moto.query(t, "iam", "Action=GetRole&Version=2010-05-08&RoleName="+ids[id], &role)
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
			if status, answer := a.moto.request(a.t, left.service, left.method, left.path, left.target, left.body); status == 200 {
				a.t.Errorf("%s %s is still there: %s", logical, id, answer)
			}
		}
	}
}

type lookup struct{ service, method, path, target, body string }

// lookups are requests that fail when a resource is gone.
func (a *account) lookups(logical, id string) []lookup {
	switch logical {
	case "Function":
		return []lookup{{"lambda", "GET", "/2015-03-31/functions/" + id, "", ""}}
	case "LogGroup":
		return []lookup{{"logs", "POST", "/", "Logs_20140328.DescribeLogStreams", `{"logGroupName":"` + id + `"}`}}
	case "Dashboard":
		return []lookup{{"monitoring", "POST", "/", "", "Action=GetDashboard&Version=2010-08-01&DashboardName=" + id}}
	case "FunctionRole", "ScheduleRole":
		return []lookup{{"iam", "POST", "/", "", "Action=GetRole&Version=2010-05-08&RoleName=" + id}}
	case "FailedRuns", "UndeliveredEvents":
		return []lookup{{"sqs", "POST", "/", "AmazonSQS.GetQueueAttributes", `{"QueueUrl":"` + id + `"}`}}
	default:
		return nil
	}
}
