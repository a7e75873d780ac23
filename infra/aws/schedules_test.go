package aws_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestSchedules(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	tests := []struct {
		id, mode   string
		expression any
		retries    int
	}{
		{"RotateSchedule", "rotate", "rate(50 minutes)", 5},
		{"EnsureTokenSchedule", "ensure", object{"Fn::If": []any{"EnsuresEveryMinute", "rate(1 minute)", "rate(2 minutes)"}}, 1},
	}
	for _, tt := range tests {
		schedule := properties(t, tmpl, tt.id)
		target := at(t, schedule, "Target").(object)
		want(t, tt.id+" expression", schedule["ScheduleExpression"], tt.expression)
		want(t, tt.id+" window", at(t, schedule, "FlexibleTimeWindow", "Mode"), "OFF")
		want(t, tt.id+" group", schedule["GroupName"], object{"Ref": "ScheduleGroup"})
		want(t, tt.id+" target", target["Arn"], object{"Fn::GetAtt": []any{"Function", "Arn"}})
		want(t, tt.id+" role", target["RoleArn"], object{"Fn::GetAtt": []any{"ScheduleRole", "Arn"}})
		want(t, tt.id+" age", at(t, target, "RetryPolicy", "MaximumEventAgeInSeconds"), 120)
		want(t, tt.id+" retries", at(t, target, "RetryPolicy", "MaximumRetryAttempts"), tt.retries)
		want(t, tt.id+" dead letters", at(t, target, "DeadLetterConfig", "Arn"), object{"Fn::GetAtt": []any{"UndeliveredEvents", "Arn"}})

		var input map[string]string
		if err := json.Unmarshal([]byte(target["Input"].(string)), &input); err != nil {
			t.Fatalf("%s: its input is no JSON object of texts: %v", tt.id, err)
		}
		want(t, tt.id+" input", input, map[string]string{"mode": tt.mode, "run_id": tt.mode + "-<aws.scheduler.scheduled-time>"})
	}
	if schedules := ofType(t, tmpl, "AWS::Scheduler::Schedule"); len(schedules) != len(tests) {
		t.Errorf("got %d schedules, want %d", len(schedules), len(tests))
	}
	ensure := at(t, tmpl, "Parameters", "EnsureEveryMinutes")
	want(t, "ensure default", at(t, ensure, "Default"), "1")
	want(t, "ensure choices", at(t, ensure, "AllowedValues"), "[1 2]")
	want(t, "condition", at(t, tmpl, "Conditions", "EnsuresEveryMinute"), object{"Fn::Equals": []any{object{"Ref": "EnsureEveryMinutes"}, "1"}})
}

// The interval of the schedule stands in three places, which must agree.
func TestIntervalIsTheSchedules(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	expression := at(t, properties(t, tmpl, "RotateSchedule"), "ScheduleExpression").(string)
	number, _, _ := strings.Cut(strings.TrimPrefix(expression, "rate("), " ")
	scheduled, err := time.ParseDuration(number + "m")
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	told, err := time.ParseDuration(at(t, properties(t, tmpl, "Function"), "Environment", "Variables", "ROTATION_INTERVAL").(string))
	if err != nil || told != scheduled {
		t.Errorf("ROTATION_INTERVAL is %v (%v), but the schedule's %v", told, err, scheduled)
	}
	if threshold := at(t, properties(t, tmpl, "TokenLifetimeAlarm"), "Threshold").(int); time.Duration(threshold)*time.Second != scheduled {
		t.Errorf("the token-lifetime alarm rings below %d s, but the schedule's %v", threshold, scheduled)
	}
}

func TestScheduleRoleIsForThisGroupAlone(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	group := properties(t, tmpl, "ScheduleGroup")
	want(t, "group name", group["Name"], object{"Ref": "AWS::StackName"})
	trust := at(t, properties(t, tmpl, "ScheduleRole"), "AssumeRolePolicyDocument", "Statement")
	want(t, "statements", len(trust.([]any)), 1)
	want(t, "principal", at(t, trust, 0, "Principal"), object{"Service": "scheduler.amazonaws.com"})
	want(t, "condition", at(t, trust, 0, "Condition"), object{"StringEquals": object{
		"aws:SourceAccount": object{"Ref": "AWS::AccountId"},
		"aws:SourceArn":     object{"Fn::Sub": "arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule-group/${AWS::StackName}"},
	}})
}
