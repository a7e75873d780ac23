package aws_test

import (
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// accepted are the findings that remain, each by the beginning of its line, with the reason.
var accepted = map[string]string{
	"AwsSolutions-IAM5[Resource::*] NetworkInterfacesPolicy": "EC2 has no narrower resource for a function's network interfaces; only in a VPC",
	"AwsSolutions-IAM5[Resource::*] ParameterPolicy":         "ssm:DescribeParameters has none, and shows no value; only with MirrorParameterArns",
	"AwsSolutions-IAM5[Resource::*] TracingPolicy":           "X-Ray has none; only with TracingMode Active",
	"AwsSolutions-IAM5[Resource::*] MachinePolicy":           "the delivery of a state machine's log has none",
	"AwsSolutions-IAM5[Resource::arn:":                       "the streams of one log group, and the executions of one state machine: their names are not known before",
	"AwsSolutions-IAM4 FunctionRole":                         "cdk-nag cannot read a list in a condition; the role has only policies of this stack, see TestPermissions",
	"AwsSolutions-IAM5 FunctionRole":                         "as above",
	"AwsSolutions-SQS3 ":                                     "the queues are the dead-letter queues, of Lambda and EventBridge Scheduler, which cdk-nag does not check",
	"Serverless-SQSRedrivePolicy ":                           "as above",
	"sqs_dlq_check ":                                         "as above",
	"Serverless-LambdaDLQ Function":                          "failed events go to the destination OnFailure, with the error; Step Functions retries a fleet's batch",
	"NIST.800.53.R5-LambdaDLQ Function":                      "as above",
	"Serverless-LambdaTracing Function":                      "a parameter, TracingMode; off, because a trace shows less than the report",
	"NIST.800.53.R5-IAMNoInlinePolicy ":                      "each policy is for one role of this stack, and is deleted with it",
	"NIST.800.53.R5-LambdaConcurrency Function":              "a parameter, ReservedConcurrency; small accounts cannot have it",
	"NIST.800.53.R5-LambdaInsideVPC Function":                "a parameter, SubnetIds; only AWS invokes the function, and it needs IBM Cloud, which is outside",
	"lambda_inside_vpc_check Function":                       "as above",
	"cloudwatch_log_group_retention_period_check ":           "a parameter, LogRetentionInDays; the rule demands a year, the runbook needs 30 days",
	"cloudwatch_log_group_encrypted_check ":                  "a parameter of template.yaml, KmsKeyArn; without it CloudWatch's own key",
	"NIST.800.53.R5-CloudWatchLogGroupEncrypted ":            "as above",
	"sqs_queue_encrypted_check ":                             "as above; without it SQS's own key (the rule reads no condition)",
	"NIST.800.53.R5-SNSEncryptedKMS AlarmTopic":              "the messages name alarms, no secret; a fleet's AlarmTopicArn may be an encrypted topic",
	"AwsSolutions-SF1 ":                                      "the machines log errors; each batch's report is in the function's log",
	"step_functions_state_machine_logging_enabled_check ":    "they log errors; the rule reads no Fn::Sub, and the checker crashes on another reference",
	"AwsSolutions-SF2 ":                                      "a map's history shows its batches",
	"Serverless-StepFunctionStateMachineXray ":               "as above",
	"step_functions_state_machine_tracing_enabled_check ":    "as above",
}

// TestGuardRules runs cdk-nag's packs (AWS Solutions, Serverless, NIST 800-53) and AWS Control Tower's proactive rules.
// testdata/package.json pins them; .ci/run installs them.
func TestGuardRules(t *testing.T) {
	t.Parallel()
	programs.Need(t, "node")
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	guard := filepath.Join(here, "../../build/guard")
	if found, err := filepath.Glob(filepath.Join(guard, "node_modules/cdk-nag/package.json")); err != nil || len(found) == 0 {
		programs.Missing(t, "cdk-nag is not in build/guard: mkdir -p build/guard && cp infra/aws/testdata/package.json build/guard && npm install --prefix build/guard")
	}
	got := programs.Run(t, programs.Command{Env: programs.CleanEnviron(), Dir: guard, Name: "node", Args: []string{
		filepath.Join(here, "testdata/guard.js"), t.TempDir(), filepath.Join(here, "template.yaml"), filepath.Join(here, "fleet.yaml")}})
	findings := strings.Split(strings.TrimSpace(got.Stdout), "\n")
	if got.Exit != 0 || len(findings) < 20 {
		t.Fatalf("got exit code %d and\n%s", got.Exit, got.All())
	}
	needed := map[string]bool{}
	for _, finding := range findings {
		known := false
		for start := range accepted {
			if strings.HasPrefix(finding, start) {
				known, needed[start] = true, true
			}
		}
		if !known {
			t.Errorf("%s: fix it, or accept it with a reason", finding)
		}
	}
	for start := range accepted {
		if !needed[start] {
			t.Errorf("%s: there is no such finding any more", start)
		}
	}
}
