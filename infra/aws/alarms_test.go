package aws_test

import (
	"testing"
)

// alarmRule is what decides whether an alarm rings.
type alarmRule struct {
	namespace, metric, statistic string
	dimension                    string // "Name=value"
	period, of, from             int    // `of` breaching datapoints of the last `from` periods
	comparison                   string
	threshold                    int
	missing                      string
}

const (
	own        = "map[Ref:MetricsNamespace]"
	byFunction = "FunctionName=map[Ref:Function]"
	atLeast    = "GreaterThanOrEqualToThreshold"
	below      = "LessThanThreshold"
)

var alarmRules = map[string]alarmRule{
	"StoredLifeAlarm":        {own, "SecondsRemaining", "Minimum", byFunction, 120, 2, 2, below, 300, "breaching"},
	"FailedInvocationsAlarm": {"AWS/Lambda", "Errors", "Sum", byFunction, 300, 1, 1, atLeast, 1, "notBreaching"},
	"UndeliveredEventsAlarm": {"AWS/SQS", "NumberOfMessagesSent", "Sum", "QueueName=map[Fn::GetAtt:[UndeliveredEvents QueueName]]", 300, 1, 4, atLeast, 1, "notBreaching"},
	"FailedRunsAlarm":        {"AWS/SQS", "NumberOfMessagesSent", "Sum", "QueueName=map[Fn::GetAtt:[FailedRuns QueueName]]", 300, 1, 4, atLeast, 1, "notBreaching"},
	"ThrottlesAlarm":         {"AWS/Lambda", "Throttles", "Sum", byFunction, 300, 1, 1, atLeast, 1, "notBreaching"},
	"TokenLifetimeAlarm":     {own, "TokenLifetimeSeconds", "Minimum", byFunction, 300, 1, 1, below, 3000, "ignore"},
	"BootstrapExpiryAlarm":   {own, "BootstrapExpiresInDays", "Minimum", byFunction, 3600, 1, 1, below, 14, "ignore"},
}

// ruleOf reads an alarm of the template, on a metric or on the metric math of the
// stored life.
func ruleOf(t *testing.T, alarm object) alarmRule {
	t.Helper()
	statistic, measured := alarm, alarm
	if alarm["Metrics"] != nil {
		statistic = at(t, alarm, "Metrics", 0, "MetricStat").(object)
		measured = at(t, statistic, "Metric").(object)
		statistic = object{"Statistic": statistic["Stat"], "Period": statistic["Period"]}
	}
	want(t, "number of dimensions", len(at(t, measured, "Dimensions").([]any)), 1)
	return alarmRule{
		namespace: show(measured["Namespace"]), metric: show(measured["MetricName"]), statistic: show(statistic["Statistic"]),
		dimension: show(at(t, measured, "Dimensions", 0, "Name")) + "=" + show(at(t, measured, "Dimensions", 0, "Value")),
		period:    statistic["Period"].(int), of: alarm["DatapointsToAlarm"].(int), from: alarm["EvaluationPeriods"].(int),
		comparison: show(alarm["ComparisonOperator"]), threshold: alarm["Threshold"].(int), missing: show(alarm["TreatMissingData"]),
	}
}

func TestAlarms(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	alarms := ofType(t, tmpl, "AWS::CloudWatch::Alarm")
	if len(alarms) != len(alarmRules) {
		t.Errorf("got %d alarms, want %d", len(alarms), len(alarmRules))
	}
	topic := []any{object{"Fn::If": []any{"MakesTopic", object{"Ref": "AlarmTopic"}, object{"Ref": "AlarmTopicArn"}}}}
	for id, rule := range alarmRules {
		alarm := properties(t, tmpl, id)
		if got := ruleOf(t, alarm); got != rule {
			t.Errorf("%s:\n got %+v\nwant %+v", id, got, rule)
		}
		want(t, id+" actions", alarm["AlarmActions"], topic)
		if alarm["AlarmDescription"] == nil {
			t.Errorf("%s does not say what it means", id)
		}
	}
	want(t, "the expiry alarm's condition", at(t, alarms["BootstrapExpiryAlarm"], "Condition"), "HasExpiry")
}

// Silence must count as no life at all, in the midst of the data and without any.
func TestStoredLifeCountsSilenceAsZero(t *testing.T) {
	t.Parallel()
	metrics := at(t, properties(t, template(t), "StoredLifeAlarm"), "Metrics").([]any)
	want(t, "metrics", len(metrics), 2)
	want(t, "the metric is", show(at(t, metrics, 0, "Id"))+" "+show(at(t, metrics, 0, "ReturnData")), "life false")
	want(t, "the alarm is on", show(at(t, metrics, 1, "Expression"))+" "+show(at(t, metrics, 1, "ReturnData")), "FILL(life, 0) true")
}

// rings tells after how many seconds the stored-life alarm rings when the word of
// the function at second s is life(s), -1 for none, and every period begins
// `phase` seconds off. It returns -1 if it stays quiet until the end.
func (a alarmRule) rings(life func(second int) int, phase, end int) int {
	breaching := 0
	for start := phase - a.period; start+a.period <= end; start += a.period {
		lowest := -1
		for second := max(start, 0); second < start+a.period; second++ {
			if said := life(second); said >= 0 && (lowest < 0 || said < lowest) {
				lowest = said
			}
		}
		if max(lowest, 0) >= a.threshold { // FILL(…, 0)
			breaching = 0
			continue
		}
		if breaching++; breaching == a.of {
			return start + a.period
		}
	}
	return -1
}

// The stored-life alarm must be heard before a reader meets an expired token, and
// must be quiet as long as nothing is wrong.
func TestStoredLifeAlarmRingsInTime(t *testing.T) {
	t.Parallel()
	rule := ruleOf(t, properties(t, template(t), "StoredLifeAlarm"))
	const minRemaining, hour = 480, 3600
	earliest, latest := hour, 0
	for phase := range rule.period {
		// The function's last word, at second 0, is that the token has just enough
		// life for ensure to leave it; then the schedules die.
		dead := func(second int) int {
			if second == 0 {
				return minRemaining
			}
			return -1
		}
		rang := rule.rings(dead, phase, hour)
		earliest, latest = min(earliest, rang), max(latest, rang)
		// Every run fails at IAM: each minute the look tells of less life. The
		// failed-invocations alarm is heard before; this one follows at the latest
		// when the token ends.
		outage := func(second int) int {
			if second%60 != 0 {
				return -1
			}
			return max(minRemaining-second, 0)
		}
		if rang := rule.rings(outage, phase, hour); rang < 0 || rang > minRemaining {
			t.Errorf("phase %d: an outage is heard after %d s, but readers fail after %d", phase, rang, minRemaining)
		}
		checkQuiet(t, rule, phase)
	}
	if earliest < 240 || latest > 360 || latest >= minRemaining {
		t.Errorf("a dead schedule is heard after %d to %d s, want 240 to 360, and less than the %d that the token lives", earliest, latest, minRemaining)
	}
}

// checkQuiet plays three hours without a fault, of long tokens and short ones,
// each way with one metric lost or late.
func checkQuiet(t *testing.T, rule alarmRule, phase int) {
	t.Helper()
	for _, lifetime := range []int{3600, 900} {
		for _, every := range []int{60, 120} { // the choices of EnsureEveryMinutes
			normal := func(second int) int {
				if second%every != 0 || second == 40*60 {
					return -1
				}
				// Replaced as soon as a look finds less than MIN_REMAINING.
				return lifetime - second%(lifetime-480+every)
			}
			if rang := rule.rings(normal, phase, 3*3600); rang >= 0 {
				t.Errorf("phase %d, tokens of %d s, ensure every %d s: the alarm rings after %d s without a fault", phase, lifetime, every, rang)
			}
		}
	}
}
