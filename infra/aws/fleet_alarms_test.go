package aws_test

import (
	"testing"
)

const (
	byRotateMachine = "StateMachineArn=map[Ref:RotateMachine]"
	byEnsureMachine = "StateMachineArn=map[Ref:EnsureMachine]"
)

// fleetAlarmRules are the alarms whose numbers do not depend on the ensure
// schedule.
var fleetAlarmRules = map[string]alarmRule{
	"FailedInvocationsAlarm": alarmRules["FailedInvocationsAlarm"],
	"UndeliveredEventsAlarm": alarmRules["UndeliveredEventsAlarm"],
	"TokenLifetimeAlarm":     alarmRules["TokenLifetimeAlarm"],
	"BootstrapExpiryAlarm":   alarmRules["BootstrapExpiryAlarm"],
	"ThrottlesAlarm":         {"AWS/Lambda", "Throttles", "Sum", byFunction, 300, 1, 1, atLeast, 4, "notBreaching"},
	"RotateFailedAlarm":      {"AWS/States", "ExecutionsFailed", "Sum", byRotateMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"RotateTimedOutAlarm":    {"AWS/States", "ExecutionsTimedOut", "Sum", byRotateMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"RotateThrottledAlarm":   {"AWS/States", "ExecutionThrottled", "Sum", byRotateMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"EnsureFailedAlarm":      {"AWS/States", "ExecutionsFailed", "Sum", byEnsureMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"EnsureTimedOutAlarm":    {"AWS/States", "ExecutionsTimedOut", "Sum", byEnsureMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"EnsureThrottledAlarm":   {"AWS/States", "ExecutionThrottled", "Sum", byEnsureMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"RotateSilentAlarm":      {"AWS/States", "ExecutionsStarted", "Sum", byRotateMachine, 60, 52, 52, below, 1, "breaching"},
}

func TestFleetAlarms(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for id, rule := range fleetAlarmRules {
		if got := ruleOf(t, properties(t, tmpl, id)); got != rule {
			t.Errorf("%s:\n got %+v\nwant %+v", id, got, rule)
		}
	}
	for _, every := range ensureChoices {
		life := alarmRule{own, "SecondsRemaining", "Minimum", byFunction, pace(t, tmpl, every, "StoredLifePeriod"), 1, 1, below, pace(t, tmpl, every, "ShortLife"), "breaching"}
		if got := ruleOf(t, paced(t, tmpl, "StoredLifeAlarm", every)); got != life {
			t.Errorf("stored life, every %s:\n got %+v\nwant %+v", every, got, life)
		}
		silent := pace(t, tmpl, every, "SilentMinutes")
		silence := alarmRule{"AWS/States", "ExecutionsStarted", "Sum", byEnsureMachine, 60, silent, silent, below, 1, "breaching"}
		if got := ruleOf(t, paced(t, tmpl, "EnsureSilentAlarm", every)); got != silence {
			t.Errorf("ensure silent, every %s:\n got %+v\nwant %+v", every, got, silence)
		}
	}
	alarms := ofType(t, tmpl, "AWS::CloudWatch::Alarm")
	if len(alarms) != len(fleetAlarmRules)+2 {
		t.Errorf("got %d alarms, want %d", len(alarms), len(fleetAlarmRules)+2)
	}
	topic := []any{object{"Fn::If": []any{"MakesTopic", object{"Ref": "AlarmTopic"}, object{"Ref": "AlarmTopicArn"}}}}
	for id := range alarms {
		want(t, id+" actions", properties(t, tmpl, id)["AlarmActions"], topic)
		if properties(t, tmpl, id)["AlarmDescription"] == nil {
			t.Errorf("%s does not say what it means", id)
		}
	}
	want(t, "the expiry alarm's condition", at(t, alarms["BootstrapExpiryAlarm"], "Condition"), "HasExpiry")
}

// paced is an alarm with its numbers looked up in the mapping Ensure.
func paced(t *testing.T, tmpl object, id, every string) object {
	t.Helper()
	return looked(t, tmpl, properties(t, tmpl, id), every).(object)
}

func looked(t *testing.T, tmpl object, value any, every string) any {
	t.Helper()
	switch value := value.(type) {
	case object:
		if found, ok := value["Fn::FindInMap"].([]any); ok {
			want(t, "looked up", found[:2], []any{"Ensure", object{"Ref": "EnsureEveryMinutes"}})
			return at(t, tmpl, "Mappings", "Ensure", every, found[2])
		}
		fields := object{}
		for name, inner := range value {
			fields[name] = looked(t, tmpl, inner, every)
		}
		return fields
	case []any:
		values := make([]any, len(value))
		for i, inner := range value {
			values[i] = looked(t, tmpl, inner, every)
		}
		return values
	default:
		return value
	}
}

// Silence must count as none, in the midst of the data and without any.
func TestFleetCountsSilence(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for id, expression := range map[string]string{"StoredLifeAlarm": "FILL(life, 0)", "EnsureSilentAlarm": "FILL(started, 0)", "RotateSilentAlarm": "FILL(started, 0)"} {
		metrics := at(t, properties(t, tmpl, id), "Metrics")
		want(t, id+" metric", at(t, metrics, 0, "ReturnData"), false)
		want(t, id+" is on", show(at(t, metrics, 1, "Expression"))+" "+show(at(t, metrics, 1, "ReturnData")), expression+" true")
	}
}

// A batch that Lambda refuses until it is given up fails nothing that any other alarm looks at.
func TestFleetHearsABatchThatIsGivenUp(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	rule := ruleOf(t, properties(t, tmpl, "ThrottlesAlarm"))
	for _, m := range fleetMaps {
		batches, _ := mapOf(t, tmpl, m.id, "5")
		refused := batches.task().Retry[0]
		want(t, m.id+": what is tried again first", refused.ErrorEquals[0], "Lambda.TooManyRequestsException")
		wait, whole := refused.IntervalSeconds, 0
		for range refused.MaxAttempts {
			whole += wait
			wait = min(wait*refused.BackoffRate, refused.MaxDelaySeconds)
		}
		if whole >= rule.period {
			t.Errorf("%s: a batch is refused for up to %d s, over more than two periods of %d", m.id, whole, rule.period)
		}
		tries := refused.MaxAttempts + 1
		if inOne := (tries + 1) / 2; rule.threshold > inOne {
			t.Errorf("%s: the alarm wants %d refusals in a period, but of the %d of a batch as few as %d may fall into one", m.id, rule.threshold, tries, inOne)
		}
	}
}
