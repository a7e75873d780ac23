package aws_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
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

type batchMap struct {
	Type, Label string
	ItemReader  struct {
		Resource     string
		ReaderConfig map[string]string
		Parameters   map[string]string
	}
	ItemBatcher struct {
		MaxItemsPerBatch int
		BatchInput       map[string]string
	}
	MaxConcurrency             int
	ToleratedFailurePercentage int
	ItemProcessor              struct {
		ProcessorConfig map[string]string
		StartAt         string
		States          map[string]batchTask
	}
	ResultPath json.RawMessage
	End        bool
}

type batchTask struct {
	Type, Resource string
	Parameters     struct {
		FunctionName string
		Payload      map[string]string
	}
	TimeoutSeconds int
	ResultSelector map[string]string
	Retry          []retrier
	End            bool
}

type retrier struct {
	ErrorEquals                                   []string
	IntervalSeconds, BackoffRate, MaxDelaySeconds int
	MaxAttempts                                   *int // 3 if nil
	JitterStrategy                                string
}

// machine is the definition of a state machine.
type machine struct {
	Comment, StartAt string
	TimeoutSeconds   int
	States           map[string]json.RawMessage
}

// machineOf reads the definition of a machine as CloudFormation hands it to Step Functions, for a choice of
// SecretsManagerMaxRps.
func machineOf(t *testing.T, tmpl object, id, rps string) (m machine) {
	t.Helper()
	parts := at(t, properties(t, tmpl, id), "DefinitionString", "Fn::Sub").([]any)
	want(t, id+" batch", at(t, parts[1], "Batch"), object{"Fn::FindInMap": []any{"Pace", object{"Ref": "SecretsManagerMaxRps"}, "Batch"}})
	values := map[string]string{"AWS::Partition": "aws", "CodeBucket": "the-bucket", "NamesKey": "names.json", "Function.Arn": "the-function",
		"Batch": show(at(t, tmpl, "Mappings", "Pace", rps, "Batch"))}
	text := regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllStringFunc(parts[0].(string), func(name string) string {
		value, known := values[strings.Trim(name, "${}")]
		if !known {
			t.Fatalf("%s: CloudFormation does not know %s", id, name)
		}
		return value
	})
	mustDecode(t, id, text, &m)
	return m
}

// mapOf is the distributed map of a machine.
func mapOf(t *testing.T, tmpl object, id, rps string) (m batchMap) {
	t.Helper()
	mustDecode(t, id, string(machineOf(t, tmpl, id, rps).States["EveryBatch"]), &m)
	return m
}

func mustDecode(t *testing.T, id, text string, into any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
}

// task is the only state of a batch's execution.
func (m batchMap) task() batchTask { return m.ItemProcessor.States[m.ItemProcessor.StartAt] }

var formatOfName = regexp.MustCompile(`^States\.Format\('([^'{}]*)\{\}', \$\$\.Execution\.Name\)$`)

// event is what the function gets for one batch of an execution of that name. A
// field whose name ends in .$ is a path into the input of the batch's execution:
// {"Items": the batch, "BatchInput": evaluated by the map itself}.
func (m batchMap) event(t *testing.T, execution string, batch []string) object {
	t.Helper()
	format := formatOfName.FindStringSubmatch(m.ItemBatcher.BatchInput["run_id.$"])
	if format == nil || len(m.ItemBatcher.BatchInput) != 1 {
		t.Fatalf("the map hands down %v, want a run_id made of the execution's name", m.ItemBatcher.BatchInput)
	}
	input := object{"Items": batch, "BatchInput": object{"run_id": format[1] + execution}}
	event := object{}
	for name, value := range m.task().Parameters.Payload {
		field, isPath := strings.CutSuffix(name, ".$")
		if !isPath {
			event[name] = value
			continue
		}
		var path []any
		for step := range strings.SplitSeq(strings.TrimPrefix(value, "$."), ".") {
			path = append(path, step)
		}
		event[field] = at(t, input, path...)
	}
	return event
}

// The machines of a fleet by mode, and the dimension of their metrics.
const (
	byRotateMachine = "StateMachineArn=map[Ref:RotateMachine]"
	byEnsureMachine = "StateMachineArn=map[Ref:EnsureMachine]"
)

// fleetAlarmRules are the alarms whose numbers do not depend on the ensure
// schedule.
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
		storedLife := alarmRule{own, "SecondsRemaining", "Minimum", byFunction, pace(t, tmpl, every, "StoredLifePeriod"), 1, 1, below, pace(t, tmpl, every, "ShortLife"), "breaching"}
		if got := ruleOf(t, paced(t, tmpl, "StoredLifeAlarm", every)); got != storedLife {
			t.Errorf("stored life, every %s:\n got %+v\nwant %+v", every, got, storedLife)
		}
		silent := pace(t, tmpl, every, "SilentMinutes")
		silence := alarmRule{"AWS/States", "ExecutionsStarted", "Sum", byEnsureMachine, 60, silent, silent, below, 1, "breaching"}
		if got := ruleOf(t, paced(t, tmpl, "EnsureSilentAlarm", every)); got != silence {
			t.Errorf("ensure silent, every %s:\n got %+v\nwant %+v", every, got, silence)
		}
		late := alarmRule{"AWS/States", "ExecutionTime", "Maximum", byEnsureMachine, 300, 1, 1, "GreaterThanThreshold", pace(t, tmpl, every, "LongestPass"), "notBreaching"}
		if got := ruleOf(t, paced(t, tmpl, "EnsureLateAlarm", every)); got != late {
			t.Errorf("ensure late, every %s:\n got %+v\nwant %+v", every, got, late)
		}
	}
	alarms := ofType(t, tmpl, "AWS::CloudWatch::Alarm")
	if len(alarms) != len(fleetAlarmRules)+3 {
		t.Errorf("got %d alarms, want %d", len(alarms), len(fleetAlarmRules)+3)
	}
	want(t, "the other machine", at(t, properties(t, tmpl, "MachinesThrottledAlarm"), "Metrics", 1, "MetricStat", "Metric", "Dimensions", 0, "Value"), object{"Ref": "EnsureMachine"})
	topic := []any{object{"Fn::If": []any{"MakesTopic", object{"Ref": "AlarmTopic"}, object{"Ref": "AlarmTopicArn"}}}}
	for id := range alarms {
		want(t, id+" actions", properties(t, tmpl, id)["AlarmActions"], topic)
		if properties(t, tmpl, id)["AlarmDescription"] == nil {
			t.Errorf("%s does not say what it means", id)
		}
	}
	checkKeyAlarms(t, tmpl, alarms)
}

// paced is an alarm with its numbers looked up in the mapping Ensure.
func paced(t *testing.T, tmpl object, id, every string) object {
	t.Helper()
	return resolved(t, tmpl, properties(t, tmpl, id), every).(object)
}

func resolved(t *testing.T, tmpl object, value any, every string) any {
	t.Helper()
	switch value := value.(type) {
	case object:
		if found, ok := value["Fn::FindInMap"].([]any); ok {
			want(t, "looked up", found[:2], []any{"Ensure", object{"Ref": "EnsureEveryMinutes"}})
			return at(t, tmpl, "Mappings", "Ensure", every, found[2])
		}
		fields := object{}
		for name, inner := range value {
			fields[name] = resolved(t, tmpl, inner, every)
		}
		return fields
	case []any:
		values := make([]any, len(value))
		for i, inner := range value {
			values[i] = resolved(t, tmpl, inner, every)
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

// A batch that Lambda rejects until it is given up makes no other alarm fire.
func TestFleetHearsABatchThatIsGivenUp(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	rule := ruleOf(t, properties(t, tmpl, "ThrottlesAlarm"))
	for _, m := range fleetMaps {
		rejected := mapOf(t, tmpl, m.id, "15").task().Retry[0]
		want(t, m.id+": what is tried again first", rejected.ErrorEquals[0], "Lambda.TooManyRequestsException")
		wait, whole := rejected.IntervalSeconds, 0
		for range *rejected.MaxAttempts {
			whole += wait
			wait = min(wait*rejected.BackoffRate, rejected.MaxDelaySeconds)
		}
		if whole >= rule.period {
			t.Errorf("%s: a batch is rejected for up to %d s, over more than two periods of %d", m.id, whole, rule.period)
		}
		tries := *rejected.MaxAttempts + 1
		if inOne := (tries + 1) / 2; rule.threshold > inOne {
			t.Errorf("%s: the alarm wants %d refusals in a period, but of the %d of a batch as few as %d may fall into one", m.id, rule.threshold, tries, inOne)
		}
	}
}

// The two maps of the fleet.
var fleetMaps = []struct{ id, mode string }{{"RotateMachine", "rotate"}, {"EnsureMachine", "ensure"}}

const (
	adviseRPS       = 20               // requests a second: IBM advises less for one instance, its readers included
	rotateRequests  = 3                // to Secrets Manager: read the metadata, read the key, save
	retriesOfOne    = 120              // seconds, as long as template.yaml lets a rotation try
	functionReserve = 5                // seconds, kept of the deadline for the report
	redeliveries    = 15 * time.Minute // for which a run knows its own work again
)

// share is a function's part of SecretsManagerMaxRps.
func share(t *testing.T, tmpl object, rps string) int {
	t.Helper()
	return number(t, at(t, tmpl, "Mappings", "Pace", rps, "Share"))
}

func TestFleetIsPolite(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	want(t, "choices", at(t, tmpl, "Parameters", "SecretsManagerMaxRps", "AllowedValues"), rpsChoices)
	want(t, "default", at(t, tmpl, "Parameters", "SecretsManagerMaxRps", "Default"), rpsChoices[0])
	want(t, "what a function has", at(t, properties(t, tmpl, "Function"), "Environment", "Variables", "SECRETS_MANAGER_MAX_RPS"),
		object{"Fn::FindInMap": []any{"Pace", object{"Ref": "SecretsManagerMaxRps"}, "Share"}})
	functions := 0
	for _, m := range fleetMaps {
		batches := mapOf(t, tmpl, m.id, "15")
		if batches.MaxConcurrency < 1 {
			t.Errorf("%s: got MaxConcurrency %d: 0 means ten thousand", m.id, batches.MaxConcurrency)
		}
		functions += batches.MaxConcurrency
	}
	for _, rps := range rpsChoices {
		want(t, fmt.Sprint(functions, " functions at ", rps), functions*share(t, tmpl, rps), rps)
		if left := adviseRPS - number(t, rps); left < 5 {
			t.Errorf("%s leave %d for readers, want 5", rps, left)
		}
		// So a turn slips by as much, whatever the choice.
		want(t, "a batch at "+rps, oneBatch(t, tmpl, rps), oneBatch(t, tmpl, "15"))
	}
	reserved := at(t, tmpl, "Parameters", "ReservedConcurrency")
	want(t, "reserved concurrency", at(t, reserved, "Default"), functions)
	want(t, "reserved concurrency", at(t, reserved, "AllowedValues"), []any{functions, ""})
}

func TestFleetMaps(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for _, m := range fleetMaps {
		batches := mapOf(t, tmpl, m.id, "15")
		task := batches.task()
		want(t, m.id+" kind", properties(t, tmpl, m.id)["StateMachineType"], "STANDARD")
		want(t, m.id+" state", batches.Type+" "+show(batches.End)+" "+string(batches.ResultPath), "Map true null")
		want(t, m.id+" label", batches.Label, "Batches") // its role names it
		want(t, m.id+" reader", batches.ItemReader.Resource, "arn:aws:states:::s3:getObject")
		want(t, m.id+" list", batches.ItemReader.ReaderConfig, map[string]string{"InputType": "JSON"})
		want(t, m.id+" names", batches.ItemReader.Parameters, map[string]string{"Bucket": "the-bucket", "Key": "names.json"})
		// An express child may run for 5 minutes: too short for a batch and its retry.
		want(t, m.id+" processor", batches.ItemProcessor.ProcessorConfig, map[string]string{"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"})
		want(t, m.id+" tolerates", batches.ToleratedFailurePercentage, 100)
		want(t, m.id+" task", task.Type+" "+task.Resource+" "+task.Parameters.FunctionName+" "+show(task.End), "Task arn:aws:states:::lambda:invoke the-function:live true")
		want(t, m.id+" keeps of the report", task.ResultSelector, map[string]string{"status.$": "$.StatusCode"})
		want(t, m.id+" logs", properties(t, tmpl, m.id)["LoggingConfiguration"], object{"Level": "ERROR", "IncludeExecutionData": true,
			"Destinations": []any{object{"CloudWatchLogsLogGroup": object{"LogGroupArn": object{"Fn::Sub": "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:${MachinesLog}:*"}}}}})
	}
}

// A batch must have time for every rotation's requests, and for the retries that
// a rotation has in its own stack.
func TestFleetBatchesHaveTime(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	timeout := properties(t, tmpl, "Function")["Timeout"].(int)
	for _, m := range fleetMaps {
		for _, rps := range rpsChoices {
			batches := mapOf(t, tmpl, m.id, rps)
			needed := batches.ItemBatcher.MaxItemsPerBatch*rotateRequests/share(t, tmpl, rps) + retriesOfOne + functionReserve
			if timeout < needed {
				t.Errorf("%s: an invocation has %d s, but a batch of %d needs %d", m.id, timeout, batches.ItemBatcher.MaxItemsPerBatch, needed)
			}
			if task := batches.task(); task.TimeoutSeconds <= timeout {
				t.Errorf("%s: the map waits %d s for a function that may run %d", m.id, task.TimeoutSeconds, timeout)
			}
		}
	}
}

// Step Functions takes the first retrier that names the error. rotate tries once more what may pass, ensure nothing that
// the function has failed with.
func TestFleetRetries(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	attempts := func(task batchTask, failure string) int {
		for _, r := range task.Retry {
			if !slices.Contains(r.ErrorEquals, failure) && !slices.Contains(r.ErrorEquals, "States.ALL") {
				continue
			}
			if r.MaxAttempts == nil {
				return 3
			}
			return *r.MaxAttempts
		}
		return 0
	}
	for _, m := range fleetMaps {
		task := mapOf(t, tmpl, m.id, "15").task()
		for _, name := range []string{"Lambda.TooManyRequestsException", "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException"} {
			want(t, m.id+" tries again after "+name, attempts(task, name), 6)
		}
		for name, again := range map[string]int{"RotationRefused": 0, "RotationError": 1, "States.TaskFailed": 1, "States.Timeout": 1, "Runtime.ExitError": 1, "Sandbox.Timedout": 1} {
			if m.mode == "ensure" {
				again = 0
			}
			want(t, m.id+" tries again after "+name, attempts(task, name), again)
		}
		service, last := task.Retry[0], task.Retry[len(task.Retry)-1]
		whole := time.Duration(*service.MaxAttempts*service.MaxDelaySeconds+2*task.TimeoutSeconds+last.IntervalSeconds) * time.Second
		if whole >= redeliveries {
			t.Errorf("%s: a batch may take %v with its retries, but the function knows its own work for %v", m.id, whole, redeliveries)
		}
	}
}

// What the maps send must be what the function takes.
func TestFleetEvents(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	accepted := regexp.MustCompile(`^[A-Za-z0-9:._/-]{8,256}$`)
	for _, m := range fleetMaps {
		batches := mapOf(t, tmpl, m.id, "15")
		for _, name := range []string{"a", "0b6a1f8e-3c1d-4f6e-9a55-2f6d6b1f2c11", strings.Repeat("n", 80)} { // 80 is the longest
			event := batches.event(t, name, []string{"the-only-one"})
			runID := event["run_id"].(string)
			if !accepted.MatchString(runID) {
				t.Errorf("%s: the function does not accept the run_id %q", m.id, runID)
			}
			want(t, m.id+" event", event, object{"mode": m.mode, "rotations": []string{"the-only-one"}, "run_id": m.mode + "-" + name})
		}
	}
}

// number reads a whole number that the template may hold as a text.
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

func minutes(every string) time.Duration {
	d, _ := time.ParseDuration(every + "m")
	return d
}

// oneBatch is how long a batch takes, and by how much a rotation's turn may slip
// from one map to the next.
func oneBatch(t *testing.T, tmpl object, rps string) time.Duration {
	t.Helper()
	return time.Duration(mapOf(t, tmpl, "RotateMachine", rps).ItemBatcher.MaxItemsPerBatch*rotateRequests) * time.Second / time.Duration(share(t, tmpl, rps))
}

const (
	failingShare    = 0.01 // of the rotations, for good
	failingRequests = 4    // of a key that IAM rejects: metadata and key, and both once more
	measured        = 1.05 // of what the requests alone would take
	startAndRetry   = 3.0  // seconds of a round: Step Functions and a new process (assumed), and the 2 until a rejected key is tried again
	serviceIDs      = 2000 // that an IBM Cloud account has
)

// mostRotations is how many rotations a choice of EnsureEveryMinutes and SecretsManagerMaxRps has time for, in whole
// rounds: a machine's batches run side by side, and the next ones begin when they end.
func mostRotations(t *testing.T, tmpl object, every, rps string) int {
	t.Helper()
	// A token is rotated with 10 minutes left, 9 if late. Where ensure steps in before that, it publishes that share of the
	// tokens too: two more requests.
	early := max(0, minRemaining(t, tmpl, every)-(tokenLife-rotateEvery-schedulerLate)).Minutes() / rotateEvery.Minutes()
	inTime := func(id string, requests float64, whole time.Duration) int {
		m := mapOf(t, tmpl, id, rps)
		batch := m.ItemBatcher.MaxItemsPerBatch
		failing := math.Ceil(failingShare * float64(batch))
		round := ((float64(batch)-failing)*requests+failing*failingRequests)/float64(share(t, tmpl, rps))*measured + startAndRetry
		return int(whole.Seconds()/round) * m.MaxConcurrency * batch
	}
	return min(inTime("RotateMachine", rotateRequests, time.Duration(machineOf(t, tmpl, "RotateMachine", rps).TimeoutSeconds)*time.Second),
		inTime("EnsureMachine", 1+2*early, time.Duration(pace(t, tmpl, every, "LongestPass"))*time.Millisecond))
}

func TestFleetPace(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	want(t, "choices", at(t, tmpl, "Parameters", "EnsureEveryMinutes", "AllowedValues"), ensureChoices)
	want(t, "default", at(t, tmpl, "Parameters", "EnsureEveryMinutes", "Default"), "5")
	variables := at(t, properties(t, tmpl, "Function"), "Environment", "Variables")
	want(t, "MIN_REMAINING", at(t, variables, "MIN_REMAINING"), object{"Fn::FindInMap": []any{"Ensure", object{"Ref": "EnsureEveryMinutes"}, "MinRemaining"}})
	want(t, "ROTATION_INTERVAL", at(t, variables, "ROTATION_INTERVAL"), "50m")
	for _, every := range ensureChoices {
		schedule, least := minutes(every), minRemaining(t, tmpl, every)
		seconds := func(name string) time.Duration { return time.Duration(pace(t, tmpl, every, name)) * time.Second }
		want(t, every+" schedule", at(t, tmpl, "Mappings", "Ensure", every, "Schedule"), "cron(2/"+every+" * * * ? *)")
		want(t, every+" pass", time.Duration(pace(t, tmpl, every, "LongestPass"))*time.Millisecond, schedule-schedulerLate)
		want(t, every+" period", seconds("StoredLifePeriod"), schedule+2*time.Minute)
		want(t, every+" silence", minutes(show(pace(t, tmpl, every, "SilentMinutes"))), schedule+2*time.Minute)
		if least <= seconds("ShortLife") {
			t.Errorf("every %s: a token with %v left is not replaced, but the alarm fires below %v", every, least, seconds("ShortLife"))
		}
		if every == "30" { // without a promise
			continue
		}
		want(t, every+" short life", seconds("ShortLife"), schedule+time.Minute)
		want(t, every+" MIN_REMAINING", least, schedule+4*time.Minute)
		if left := lostRun(t, tmpl, every); left <= 0 {
			t.Errorf("every %s: after one lost rotation %v are left, want more than none", every, left)
		}
		if fires := minutes(show(pace(t, tmpl, every, "SilentMinutes"))) + time.Minute; fires >= least {
			t.Errorf("every %s: the alarm of silence fires after %v, but a token may have no more than %v left", every, fires, least)
		}
	}
	want(t, "rotate timeout", time.Duration(machineOf(t, tmpl, "RotateMachine", "15").TimeoutSeconds)*time.Second, rotateEvery-schedulerLate)
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

// The page's table of limits is the template's arithmetic.
func TestFleetLimitsAreTheTemplates(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	without := tokenLife - rotateEvery - schedulerLate - oneBatch(t, tmpl, "15") - onePass
	for _, every := range ensureChoices {
		row := "| " + every + " |"
		for _, rps := range rpsChoices {
			row += fmt.Sprintf(" %d |", mostRotations(t, tmpl, every, rps))
		}
		row += fmt.Sprintf(" %d | %d min | %s | %s |", (mostRotations(t, tmpl, every, "15")+serviceIDs-1)/serviceIDs,
			int(minRemaining(t, tmpl, every).Minutes()), clock(without), clock(lostRun(t, tmpl, every)))
		if !strings.Contains(string(page), row) {
			t.Errorf("README.md has no row %s", row)
		}
	}
}

// It is the function of template.yaml but for what makes it one of several.
func TestFleetFunction(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	function, single := properties(t, tmpl, "Function"), properties(t, template(t), "Function")
	for name, value := range single {
		if !slices.Contains([]string{"Timeout", "Environment", "TracingConfig", "CodeSigningConfigArn"}, name) {
			want(t, name, function[name], value)
		}
	}
	variables, others := at(t, function, "Environment", "Variables").(object), at(t, single, "Environment", "Variables").(object)
	for name, value := range others {
		switch name {
		case "API_KEY_SECRET", "TOKEN_SECRET", "EXPECT_ACCOUNT", "EXPECT_IAM_ID", "CONCURRENCY":
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
		"StoreTheRenewedKey":           "[secretsmanager:PutSecretValue] on map[Ref:BootstrapSecretArn]",
		"EncryptTheRenewedKey":         "[kms:GenerateDataKey] on map[Ref:BootstrapKmsKeyArn]",
		"WriteItsLog":                  "[logs:CreateLogStream logs:PutLogEvents] on map[Fn::Sub:arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:${LogGroup}:*]",
		"DecryptTheBootstrapKey":       "[kms:Decrypt] on map[Ref:BootstrapKmsKeyArn]",
		"PutItsEvents":                 "[events:PutEvents] on " + ofTheBus,
		"LambdaMakesNetworkInterfaces": show(anys(noResourceLevel)) + " on *",
		"ItsCodeDoesNot":               show(anys(noResourceLevel)) + " on *",
		"DeliverTheLog":                show(anys(delivery)) + " on *",
		"StartTheMaps":                 "[states:StartExecution] on [map[Ref:RotateMachine] map[Ref:EnsureMachine]]",
		"ReportUndeliveredEvents":      "[sqs:SendMessage] on map[Fn::GetAtt:[UndeliveredEvents Arn]]",
	}
	machine := func(name string) string {
		return "map[Fn::Sub:" + states + "stateMachine:${AWS::StackName}-" + name + "]"
	}
	executions := func(name string) string {
		name = states + "execution:${AWS::StackName}-" + name
		return "map[Fn::Sub:" + name + ":*] map[Fn::Sub:" + name + "/Batches:*]"
	}
	allowed["ReadTheNames"] = "[s3:GetObject] on map[Fn::Sub:arn:${AWS::Partition}:s3:::${CodeBucket}/${NamesKey}]"
	allowed["StartBatchesAndListPasses"] = "[states:StartExecution states:ListExecutions] on [" + machine("rotate") + " " + machine("ensure") + "]"
	allowed["FollowBatches"] = "[states:DescribeExecution states:StopExecution states:RedriveExecution] on [" + executions("rotate") + " " + executions("ensure") + "]"
	allowed["InvokeTheFunction"] = "[lambda:InvokeFunction] on map[Fn::Sub:${Function.Arn}:live]"
	for id, name := range map[string]string{"Rotate": "${AWS::StackName}-rotate", "Ensure": "${AWS::StackName}-ensure"} {
		want(t, id+" name", properties(t, tmpl, id+"Machine")["StateMachineName"], object{"Fn::Sub": name})
		want(t, id+" role", properties(t, tmpl, id+"Machine")["RoleArn"], object{"Fn::GetAtt": []any{"MachineRole", "Arn"}})
	}
	checkAllowed(t, tmpl, allowed)
}

// Each role is for one service, and for this stack's resources alone: a star after its name would also be another's.
func TestFleetRolesAreTrustedNarrowly(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	trust := at(t, properties(t, tmpl, "MachineRole"), "AssumeRolePolicyDocument", "Statement", 0)
	want(t, "principal", at(t, trust, "Principal"), object{"Service": "states.amazonaws.com"})
	var machines []any
	for _, name := range []string{"rotate", "ensure"} {
		machine := "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:${AWS::StackName}-" + name
		machines = append(machines, object{"Fn::Sub": machine}, object{"Fn::Sub": machine + "/Batches"})
	}
	want(t, "condition", at(t, trust, "Condition"), object{"StringEquals": object{"aws:SourceAccount": object{"Ref": "AWS::AccountId"}, "aws:SourceArn": machines}})
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
