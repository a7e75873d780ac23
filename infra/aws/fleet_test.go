package aws_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The choices of EnsureEveryMinutes and SecretsManagerMaxRps.
var (
	ensureChoices = []string{"5", "10", "15", "20", "30"}
	rpsChoices    = []string{"15", "10", "5"}
)

// pace is a number of the mapping Ensure.
func pace(t *testing.T, tmpl object, every, name string) int {
	t.Helper()
	return at(t, tmpl, "Mappings", "Ensure", every, name).(int)
}

// machineOf is the definition of a machine as CloudFormation hands it to Step Functions, for a choice of SecretsManagerMaxRps.
func machineOf(t *testing.T, id, rps string) object {
	t.Helper()
	m := inFleet(t, "5")
	m.values["SecretsManagerMaxRps"] = rps
	text := m.of(properties(t, m.tmpl, id)["DefinitionString"]).(string)
	if !json.Valid([]byte(text)) {
		t.Fatalf("%s: its definition is no JSON", id)
	}
	return parsed(t, text)
}

// mapOf is the distributed map of a machine, and the only task of a batch's execution.
func mapOf(t *testing.T, id, rps string) (batches, task object) {
	t.Helper()
	batches = at(t, machineOf(t, id, rps), "States", "EveryBatch").(object)
	start := at(t, batches, "ItemProcessor", "StartAt")
	return batches, at(t, batches, "ItemProcessor", "States", start).(object)
}

// inFleet is the fleet as CloudFormation makes it, for a choice of EnsureEveryMinutes.
func inFleet(t *testing.T, every string) made {
	m := inStack(t)
	m.tmpl, m.values["EnsureEveryMinutes"] = fleet(t), every
	return m
}

// The machines of a fleet by mode, and the dimension of their metrics.
const (
	byRotateMachine = "StateMachineArn=<RotateMachine>"
	byEnsureMachine = "StateMachineArn=<EnsureMachine>"
)

// fleetAlarmRules are the alarms whose numbers do not depend on EnsureEveryMinutes.
var fleetAlarmRules = map[string]alarmRule{
	"FailedInvocationsAlarm": {"AWS/Lambda", "Errors", "Sum", byFunction, 300, 1, 1, atLeast, 1, "notBreaching"},
	"UndeliveredEventsAlarm": alarmRules["UndeliveredEventsAlarm"],
	"TokenLifetimeAlarm":     alarmRules["TokenLifetimeAlarm"],
	"KeyExpiryAlarm":         alarmRules["KeyExpiryAlarm"],
	"KeyRenewalAlarm":        alarmRules["KeyRenewalAlarm"],
	"ThrottlesAlarm":         {"AWS/Lambda", "Throttles", "Sum", byFunction, 300, 1, 1, atLeast, 4, "notBreaching"},
	"RotateFailedAlarm":      {"AWS/States", "ExecutionsFailed", "Sum", byRotateMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"RotateTimedOutAlarm":    {"AWS/States", "ExecutionsTimedOut", "Sum", byRotateMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"EnsureFailedAlarm":      {"AWS/States", "ExecutionsFailed", "Sum", byEnsureMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"MachinesThrottledAlarm": {"AWS/States", "ExecutionThrottled", "Sum", byRotateMachine, 300, 1, 1, atLeast, 1, "notBreaching"},
	"RotateSilentAlarm":      {"AWS/States", "ExecutionsStarted", "Sum", byRotateMachine, 60, 52, 52, lessThan, 1, "breaching"},
}

func TestFleetAlarms(t *testing.T) {
	t.Parallel()
	for _, every := range ensureChoices {
		m := inFleet(t, every)
		number := func(name string) int { return pace(t, m.tmpl, every, name) }
		silent := number("SilentMinutes")
		rules := maps.Clone(fleetAlarmRules)
		rules["StoredLifeAlarm"] = alarmRule{own, "SecondsRemaining", "Minimum", byFunction,
			number("StoredLifePeriod"), 1, 1, lessThan, number("ShortLife"), "breaching"}
		rules["EnsureSilentAlarm"] = alarmRule{"AWS/States", "ExecutionsStarted", "Sum", byEnsureMachine, 60, silent, silent, lessThan, 1, "breaching"}
		rules["EnsureLateAlarm"] = alarmRule{"AWS/States", "ExecutionTime", "Maximum", byEnsureMachine, 300, 1, 1,
			"GreaterThanThreshold", number("LongestPass"), "notBreaching"}
		checkAlarms(t, m, rules)
	}
}

// No data counts as 0, between datapoints (FILL) and without any.
func TestFleetFacts(t *testing.T) {
	t.Parallel()
	checkFacts(t, fleet(t), sharedFacts, `
Conditions.RenewsEncryptedKey: !And [!Condition RenewsKey, !Condition HasKmsKey]
Parameters.EnsureEveryMinutes.AllowedValues: ['5', '10', '15', '20', '30']
Parameters.EnsureEveryMinutes.Default: '5'
Parameters.SecretsManagerMaxRps.AllowedValues: ['15', '10', '5']
Parameters.SecretsManagerMaxRps.Default: '15'
Function.Environment.Variables.MIN_REMAINING: !FindInMap [Ensure, !Ref EnsureEveryMinutes, MinRemaining]
Function.Environment.Variables.ROTATIONS_FILE: rotations.json
Function.Environment.Variables.SECRETS_MANAGER_MAX_RPS: !FindInMap [Pace, !Ref SecretsManagerMaxRps, Share]
RotateSchedule.Target: {Arn: !Ref RotateMachine, RoleArn: !GetAtt ScheduleRole.Arn,
  Input: '{}', RetryPolicy: {MaximumEventAgeInSeconds: 600, MaximumRetryAttempts: 10},
  DeadLetterConfig: {Arn: !GetAtt UndeliveredEvents.Arn}}
EnsureSchedule.FlexibleTimeWindow.Mode: 'OFF'
EnsureSchedule.GroupName: !Ref ScheduleGroup
EnsureSchedule.ScheduleExpression: !FindInMap [Ensure, !Ref EnsureEveryMinutes, Schedule]
EnsureSchedule.Target: {Arn: !Ref EnsureMachine, RoleArn: !GetAtt ScheduleRole.Arn,
  Input: '{}', RetryPolicy: {MaximumEventAgeInSeconds: 120, MaximumRetryAttempts: 3},
  DeadLetterConfig: {Arn: !GetAtt UndeliveredEvents.Arn}}
StoredLifeAlarm.Metrics.0.ReturnData: false
StoredLifeAlarm.Metrics.1.Expression: FILL(life, 0)
StoredLifeAlarm.Metrics.1.ReturnData: true
EnsureSilentAlarm.Metrics.0.ReturnData: false
EnsureSilentAlarm.Metrics.1.Expression: FILL(started, 0)
EnsureSilentAlarm.Metrics.1.ReturnData: true
RotateSilentAlarm.Metrics.0.ReturnData: false
RotateSilentAlarm.Metrics.1.Expression: FILL(started, 0)
RotateSilentAlarm.Metrics.1.ReturnData: true
MachinesThrottledAlarm.Metrics.1.MetricStat.Metric.Dimensions.0.Value: !Ref EnsureMachine
`)
	for _, m := range fleetMaps { // with the names that the permissions have
		checkFacts(t, fleet(t), strings.ReplaceAll(`
ID.LoggingConfiguration: {Level: ERROR, IncludeExecutionData: true,
  Destinations: [{CloudWatchLogsLogGroup: {LogGroupArn: !Sub 'arn:@logs:log-group:${MachinesLog}:*'}}]}
ID.RoleArn: !GetAtt MachineRole.Arn
ID.StateMachineName: !Sub '${AWS::StackName}-`+m.mode+`'
ID.StateMachineType: STANDARD
`, "ID", m.id))
		batches, task := mapOf(t, m.id, "15")
		checkFacts(t, batches, strings.ReplaceAll(`
Type: Map
Label: Batches # its role names it
ItemReader: {Resource: 'arn:aws:states:::s3:getObject', ReaderConfig: {InputType: JSON}, Parameters: {Bucket: <CodeBucket>, Key: <NamesKey>}}
ItemBatcher: {MaxItemsPerBatch: 75, BatchInput: {run_id.$: "States.Format('MODE-{}', $$.Execution.Name)"}}
ItemProcessor.ProcessorConfig: {Mode: DISTRIBUTED, ExecutionType: STANDARD} # an express one has no time for a batch and its retry
ToleratedFailurePercentage: 100
ToleratedFailureCount: ~
ItemSelector: ~
Catch: ~
ResultPath: ~
End: true
`, "MODE", m.mode))
		if path, set := batches["ResultPath"]; !set || path != nil {
			t.Errorf("%s: got the ResultPath %v, set %v; want null", m.id, path, set)
		}
		checkFacts(t, task, strings.ReplaceAll(`
Type: Task
Resource: arn:aws:states:::lambda:invoke
Parameters: {FunctionName: '<Function.Arn>:live', Payload: {mode: MODE, rotations.$: $.Items, run_id.$: $.BatchInput.run_id}}
ResultSelector: {status.$: $.StatusCode}
Catch: ~
End: true
`, "MODE", m.mode))
	}
}

// A batch that Lambda throttles seven times is lost, and only the alarm throttles fires.
func TestFleetReportsALostBatch(t *testing.T) {
	t.Parallel()
	m := inFleet(t, "5")
	rule := ruleOf(t, m.of(properties(t, m.tmpl, "ThrottlesAlarm")).(object))
	for _, m := range fleetMaps {
		_, task := mapOf(t, m.id, "15")
		rejected := at(t, task, "Retry", 0)
		want(t, m.id+": what is tried again first", at(t, rejected, "ErrorEquals", 0), "Lambda.TooManyRequestsException")
		wait, tries, whole := at(t, rejected, "IntervalSeconds").(int), at(t, rejected, "MaxAttempts").(int)+1, 0
		for range tries - 1 {
			whole += wait
			wait = min(wait*at(t, rejected, "BackoffRate").(int), at(t, rejected, "MaxDelaySeconds").(int))
		}
		if whole >= rule.period {
			t.Errorf("%s: a batch is rejected for up to %d s, over more than two periods of %d", m.id, whole, rule.period)
		}
		if inOne := (tries + 1) / 2; rule.threshold > inOne {
			t.Errorf("%s: the alarm needs %d throttles in a period, but of the %d of a batch only %d may fall into one", m.id, rule.threshold, tries, inOne)
		}
	}
}

// The two maps of the fleet.
var fleetMaps = []struct{ id, mode string }{{"RotateMachine", "rotate"}, {"EnsureMachine", "ensure"}}

const (
	adviseRPS       = 20               // requests a second: IBM advises less for one instance, its readers included
	rotateRequests  = 3                // to Secrets Manager: read the metadata, read the key, save
	retriesOfOne    = 120              // seconds of retries that a rotation has in template.yaml
	functionReserve = 5                // seconds before the deadline that the function keeps for the report
	ownWork         = 15 * time.Minute // within which a run finds the token that it saved before
)

// share is a function's part of SecretsManagerMaxRps.
func share(t *testing.T, tmpl object, rps string) int {
	t.Helper()
	return number(t, at(t, tmpl, "Mappings", "Pace", rps, "Share"))
}

func TestFleetIsPolite(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	functions := 0
	for _, m := range fleetMaps {
		batches, _ := mapOf(t, m.id, "15")
		concurrency := at(t, batches, "MaxConcurrency").(int)
		if concurrency < 1 {
			t.Errorf("%s: got MaxConcurrency %d: 0 means ten thousand", m.id, concurrency)
		}
		functions += concurrency
	}
	for _, rps := range rpsChoices {
		want(t, fmt.Sprint(functions, " functions at ", rps), functions*share(t, tmpl, rps), rps)
		if left := adviseRPS - number(t, rps); left < 5 {
			t.Errorf("%s leave %d for readers, want 5", rps, left)
		}
		// So the wait of a batch is the same for every choice.
		want(t, "a batch at "+rps, oneBatch(t, tmpl, rps), oneBatch(t, tmpl, "15"))
	}
	reserved := at(t, tmpl, "Parameters", "ReservedConcurrency")
	want(t, "reserved concurrency", at(t, reserved, "Default"), functions)
	want(t, "reserved concurrency", at(t, reserved, "AllowedValues"), []any{functions, ""})
}

// A batch must have time for the requests of all its rotations, and for the retries that a rotation has in template.yaml.
func TestFleetBatchesHaveTime(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	timeout := properties(t, tmpl, "Function")["Timeout"].(int)
	for _, m := range fleetMaps {
		for _, rps := range rpsChoices {
			batches, task := mapOf(t, m.id, rps)
			size := at(t, batches, "ItemBatcher", "MaxItemsPerBatch").(int)
			if needed := size*rotateRequests/share(t, tmpl, rps) + retriesOfOne + functionReserve; timeout < needed {
				t.Errorf("%s: an invocation has %d s, but a batch of %d needs %d", m.id, timeout, size, needed)
			}
			if waits := at(t, task, "TimeoutSeconds").(int); waits <= timeout {
				t.Errorf("%s: the map waits %d s for a function that may run %d", m.id, waits, timeout)
			}
		}
	}
}

// Step Functions uses the first retrier that names the error. The rotate map retries the function's temporary errors once, the
// ensure map none of the function's errors.
func TestFleetRetries(t *testing.T) {
	t.Parallel()
	for _, m := range fleetMaps {
		_, task := mapOf(t, m.id, "15")
		retry := at(t, task, "Retry").([]any)
		attempts := func(failure string) any {
			for _, r := range retry {
				if names := at(t, r, "ErrorEquals").([]any); slices.Contains(names, any(failure)) || slices.Contains(names, any("States.ALL")) {
					return at(t, r, "MaxAttempts")
				}
			}
			return 0
		}
		again := 0
		if m.mode == "rotate" {
			again = 1
		}
		for name, wanted := range map[string]int{"Lambda.TooManyRequestsException": 6, "Lambda.ServiceException": 6, "Lambda.AWSLambdaException": 6,
			"Lambda.SdkClientException": 6, "RotationRefused": 0, "RotationError": again, "States.TaskFailed": again, "States.Timeout": again, "Runtime.ExitError": again, "Sandbox.Timedout": again} {
			want(t, m.id+" tries again after "+name, attempts(name), wanted)
		}
		service, last := retry[0], retry[len(retry)-1].(object)
		pause, _ := last["IntervalSeconds"].(int)
		whole := at(t, service, "MaxAttempts").(int)*at(t, service, "MaxDelaySeconds").(int) + 2*at(t, task, "TimeoutSeconds").(int) + pause
		if time.Duration(whole)*time.Second >= ownWork {
			t.Errorf("%s: a batch may take %d s with its retries, but the function finds its own token for %v", m.id, whole, ownWork)
		}
	}
}

// number is a whole number in the template, also one written as text.
func number(t *testing.T, value any) int {
	t.Helper()
	n, err := strconv.Atoi(show(value))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const (
	tokenLife     = 60 * time.Minute
	rotateEvery   = 50 * time.Minute
	schedulerLate = time.Minute      // EventBridge Scheduler is accurate to a minute
	onePass       = 10 * time.Second // start of a function and one rotation
)

// minRemaining is MIN_REMAINING for a choice of EnsureEveryMinutes.
func minRemaining(t *testing.T, tmpl object, every string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(at(t, tmpl, "Mappings", "Ensure", every, "MinRemaining").(string))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func seconds(number any) time.Duration { return time.Duration(number.(int)) * time.Second }

func minutes(every string) time.Duration {
	d, _ := time.ParseDuration(every + "m")
	return d
}

// oneBatch is the time of a rotate batch, and so how much later a rotation's turn may come than in the map before.
func oneBatch(t *testing.T, tmpl object, rps string) time.Duration {
	t.Helper()
	batches, _ := mapOf(t, "RotateMachine", rps)
	return time.Duration(at(t, batches, "ItemBatcher", "MaxItemsPerBatch").(int)*rotateRequests) * time.Second / time.Duration(share(t, tmpl, rps))
}

const (
	failingShare    = 0.01 // of the rotations, for good
	failingRequests = 4    // of a key that IAM rejects: metadata and key, and both once more
	measured        = 1.05 // of what the requests alone would take
	startAndRetry   = 3.0  // seconds of a round: Step Functions and a new process (assumed), and the 2 until a rejected key is tried again
	serviceIDs      = 2000 // that an IBM Cloud account has
)

// mostRotations is how many rotations a choice of EnsureEveryMinutes and SecretsManagerMaxRps has time for, in whole rounds: the
// batches of a round run in parallel, and the next round begins when they end.
func mostRotations(t *testing.T, tmpl object, every, rps string) int {
	t.Helper()
	// rotate replaces a token with 10 minutes left, 9 if it is late. If MIN_REMAINING is more, ensure saves this share of the
	// tokens first, with two more requests for each.
	early := max(0, minRemaining(t, tmpl, every)-(tokenLife-rotateEvery-schedulerLate)).Minutes() / rotateEvery.Minutes()
	inTime := func(id string, requests float64, whole time.Duration) int {
		m, _ := mapOf(t, id, rps)
		batch := at(t, m, "ItemBatcher", "MaxItemsPerBatch").(int)
		failing := math.Ceil(failingShare * float64(batch))
		round := ((float64(batch)-failing)*requests+failing*failingRequests)/float64(share(t, tmpl, rps))*measured + startAndRetry
		return int(whole.Seconds()/round) * at(t, m, "MaxConcurrency").(int) * batch
	}
	return min(inTime("RotateMachine", rotateRequests, seconds(at(t, machineOf(t, "RotateMachine", rps), "TimeoutSeconds"))),
		inTime("EnsureMachine", 1+2*early, time.Duration(pace(t, tmpl, every, "LongestPass"))*time.Millisecond))
}

func TestFleetPace(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for _, every := range ensureChoices {
		schedule, least := minutes(every), minRemaining(t, tmpl, every)
		period, short := seconds(pace(t, tmpl, every, "StoredLifePeriod")), seconds(pace(t, tmpl, every, "ShortLife"))
		want(t, every+" schedule", at(t, tmpl, "Mappings", "Ensure", every, "Schedule"), "cron(2/"+every+" * * * ? *)")
		want(t, every+" pass", time.Duration(pace(t, tmpl, every, "LongestPass"))*time.Millisecond, schedule-schedulerLate)
		want(t, every+" period", period, schedule+2*time.Minute)
		want(t, every+" silence", minutes(show(pace(t, tmpl, every, "SilentMinutes"))), schedule+2*time.Minute)
		if least <= short {
			t.Errorf("every %s: a token with %v left is not replaced, but the alarm fires below %v", every, least, short)
		}
		if every == "30" { // for which the page promises nothing after a lost rotation
			continue
		}
		want(t, every+" short life", short, schedule+time.Minute)
		want(t, every+" MIN_REMAINING", least, schedule+4*time.Minute)
		if left := lostRun(t, tmpl, every); left <= 0 {
			t.Errorf("every %s: after one lost rotation %v are left, want more than none", every, left)
		}
		if fires := minutes(show(pace(t, tmpl, every, "SilentMinutes"))) + time.Minute; fires >= least {
			t.Errorf("every %s: the alarm of silence fires after %v, but a token may have no more than %v left", every, fires, least)
		}
	}
	want(t, "rotate timeout", seconds(at(t, machineOf(t, "RotateMachine", "15"), "TimeoutSeconds")), rotateEvery-schedulerLate)
}

// lostRun is the least remaining lifetime of a token whose rotation was lost.
func lostRun(t *testing.T, tmpl object, every string) time.Duration {
	return minRemaining(t, tmpl, every) - minutes(every) - schedulerLate - oneBatch(t, tmpl, "15") - onePass
}

func clock(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "−", -d
	}
	return fmt.Sprintf("%s%d:%02d", sign, int(d.Minutes()), int(d.Seconds())%60)
}

// The page's table of limits is computed from the template.
func TestFleetLimitsAreTheTemplates(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	page := textOf(t, "README.md")
	without := tokenLife - rotateEvery - schedulerLate - oneBatch(t, tmpl, "15") - onePass
	for _, every := range ensureChoices {
		row := "| " + every + " |"
		for _, rps := range rpsChoices {
			row += fmt.Sprintf(" %d |", mostRotations(t, tmpl, every, rps))
		}
		row += fmt.Sprintf(" %d | %d min | %s | %s |", (mostRotations(t, tmpl, every, "15")+serviceIDs-1)/serviceIDs,
			int(minRemaining(t, tmpl, every).Minutes()), clock(without), clock(lostRun(t, tmpl, every)))
		if !strings.Contains(page, row) {
			t.Errorf("README.md has no row %s", row)
		}
	}
}

// The fleet's function is that of template.yaml, except for what batches need.
func TestFleetFunction(t *testing.T) {
	t.Parallel()
	function, single := properties(t, fleet(t), "Function"), properties(t, template(t), "Function")
	for name, value := range single {
		if !slices.Contains([]string{"Timeout", "Environment", "TracingConfig", "CodeSigningConfigArn"}, name) {
			want(t, name, function[name], value)
		}
	}
	variables := at(t, function, "Environment", "Variables").(object)
	for name, value := range at(t, single, "Environment", "Variables").(object) {
		switch name {
		case "API_KEY_SECRET", "TOKEN_SECRET", "EXPECT_ACCOUNT", "EXPECT_IAM_ID", "CONCURRENCY":
			want(t, name, variables[name], nil)
		case "ROTATIONS_FILE", "MIN_REMAINING", "SECRETS_MANAGER_MAX_RPS": // see the facts
		default:
			want(t, name, variables[name], value)
		}
	}
}
