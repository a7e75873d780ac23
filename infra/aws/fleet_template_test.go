package aws_test

import (
	"testing"

	"iam-token-rotator/scripts/programs"
)

func TestFleetIsClean(t *testing.T) {
	t.Parallel()
	programs.Need(t, "cfn-lint")
	if got := runIn(t, root, programs.CleanEnviron(), "", "cfn-lint", "infra/aws/fleet.yaml"); got.Exit != 0 {
		t.Errorf("cfn-lint:\n%s", got.All())
	}
	if size := fileSize(t, "fleet.yaml"); size > 51200 {
		t.Errorf("the template has %d bytes: without a bucket CloudFormation takes 51200", size)
	}
}

// It is the function of template.yaml but for what makes it one of several.
func TestFleetFunction(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	function, single := properties(t, tmpl, "Function"), properties(t, template(t), "Function")
	for name, value := range single {
		if name != "Timeout" && name != "Environment" {
			want(t, name, function[name], value)
		}
	}
	variables, others := at(t, function, "Environment", "Variables").(object), at(t, single, "Environment", "Variables").(object)
	for name, value := range others {
		switch name {
		case "API_KEY_SECRET", "TOKEN_SECRET", "CONCURRENCY":
			want(t, name, variables[name], nil)
		case "ROTATIONS_FILE":
			want(t, name, variables[name], "rotations.json")
		case "MIN_REMAINING", "SECRETS_MANAGER_MAX_RPS": // see the tests of the pace
		default:
			want(t, name, variables[name], value)
		}
	}
}

func TestFleetPoliciesAreNarrow(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	const states = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:"
	allowed := map[string]string{
		"ReadTheBootstrapKey":          "[secretsmanager:GetSecretValue] on map[Ref:BootstrapSecretArn]",
		"WriteItsLog":                  "[logs:CreateLogStream logs:PutLogEvents] on map[Fn::Sub:arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:${LogGroup}:*]",
		"DecryptTheBootstrapKey":       "[kms:Decrypt] on map[Ref:BootstrapKmsKeyArn]",
		"LambdaMakesNetworkInterfaces": show(anys(noResourceLevel)) + " on *",
		"ItsCodeDoesNot":               show(anys(noResourceLevel)) + " on *",
		"StartTheMaps":                 "[states:StartExecution] on [map[Ref:RotateMachine] map[Ref:EnsureMachine]]",
		"TellOfUndeliveredEvents":      "[sqs:SendMessage] on map[Fn::GetAtt:[UndeliveredEvents Arn]]",
	}
	for id, name := range map[string]string{"Rotate": "${AWS::StackName}-rotate", "Ensure": "${AWS::StackName}-ensure"} {
		allowed[id+"ReadsTheNames"] = "[s3:GetObject] on map[Fn::Sub:arn:${AWS::Partition}:s3:::${CodeBucket}/${NamesKey}]"
		allowed[id+"StartsItsBatches"] = "[states:StartExecution] on map[Fn::Sub:" + states + "stateMachine:" + name + "]"
		allowed[id+"FollowsItsBatches"] = "[states:DescribeExecution states:StopExecution] on [map[Fn::Sub:" + states + "execution:" + name + ":*] map[Fn::Sub:" + states + "execution:" + name + "/Batches:*]]"
		allowed[id+"InvokesTheFunction"] = "[lambda:InvokeFunction] on map[Fn::GetAtt:[Function Arn]]"
		want(t, id+" name", properties(t, tmpl, id+"Machine")["StateMachineName"], object{"Fn::Sub": name})
		want(t, id+" role", properties(t, tmpl, id+"Machine")["RoleArn"], object{"Fn::GetAtt": []any{id + "Role", "Arn"}})
	}
	checkAllowed(t, tmpl, allowed)
}

// Each role is for one service, and for this stack's resources alone.
func TestFleetRolesAreTrustedNarrowly(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for id, name := range map[string]string{"RotateRole": "rotate", "EnsureRole": "ensure"} {
		trust := at(t, properties(t, tmpl, id), "AssumeRolePolicyDocument", "Statement", 0)
		want(t, id+" principal", at(t, trust, "Principal"), object{"Service": "states.amazonaws.com"})
		want(t, id+" condition", at(t, trust, "Condition"), object{
			"StringEquals": object{"aws:SourceAccount": object{"Ref": "AWS::AccountId"}},
			"ArnLike":      object{"aws:SourceArn": object{"Fn::Sub": "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:${AWS::StackName}-" + name + "*"}},
		})
	}
	want(t, "the schedules' trust", at(t, properties(t, tmpl, "ScheduleRole"), "AssumeRolePolicyDocument"), at(t, properties(t, template(t), "ScheduleRole"), "AssumeRolePolicyDocument"))
}

func TestFleetSchedules(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for id, schedule := range map[string]struct {
		machine    string
		expression any
		age        int
	}{
		"RotateSchedule": {"RotateMachine", "rate(50 minutes)", 600},
		"EnsureSchedule": {"EnsureMachine", object{"Fn::FindInMap": []any{"Ensure", object{"Ref": "EnsureEveryMinutes"}, "Schedule"}}, 120},
	} {
		got := properties(t, tmpl, id)
		target := at(t, got, "Target").(object)
		want(t, id+" expression", got["ScheduleExpression"], schedule.expression)
		want(t, id+" window", at(t, got, "FlexibleTimeWindow", "Mode"), "OFF")
		want(t, id+" group", got["GroupName"], object{"Ref": "ScheduleGroup"})
		want(t, id+" target", target["Arn"], object{"Ref": schedule.machine})
		want(t, id+" role", target["RoleArn"], object{"Fn::GetAtt": []any{"ScheduleRole", "Arn"}})
		want(t, id+" input", target["Input"], "{}")
		want(t, id+" age", at(t, target, "RetryPolicy", "MaximumEventAgeInSeconds"), schedule.age)
		want(t, id+" dead letters", at(t, target, "DeadLetterConfig", "Arn"), object{"Fn::GetAtt": []any{"UndeliveredEvents", "Arn"}})
	}
}
