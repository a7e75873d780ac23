package aws_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// ensureChoices are the choices of EnsureEveryMinutes.
var ensureChoices = []string{"5", "10", "15", "20", "30"}

// pace is a number of the mapping Ensure.
func pace(t *testing.T, tmpl object, every, name string) int {
	t.Helper()
	return at(t, tmpl, "Mappings", "Ensure", every, name).(int)
}

// definition is what the tests need of a state machine.
type definition struct {
	StartAt        string
	TimeoutSeconds int
	States         map[string]batchMap
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
	ErrorEquals                                                []string
	IntervalSeconds, BackoffRate, MaxDelaySeconds, MaxAttempts int
	JitterStrategy                                             string
}

// mapOf reads the definition of a machine as CloudFormation hands it to Step
// Functions, and returns its only state with the machine's timeout.
func mapOf(t *testing.T, tmpl object, id, every string) (batchMap, int) {
	t.Helper()
	parts := at(t, properties(t, tmpl, id), "DefinitionString", "Fn::Sub").([]any)
	values := map[string]string{"AWS::Partition": "aws", "CodeBucket": "the-bucket", "NamesKey": "names.json", "FunctionArn": "the-function"}
	if parts[1].(object)["TimeoutSeconds"] != nil {
		want(t, id+" timeout", at(t, parts[1], "TimeoutSeconds"), object{"Fn::FindInMap": []any{"Ensure", object{"Ref": "EnsureEveryMinutes"}, "TimeoutSeconds"}})
		values["TimeoutSeconds"] = show(pace(t, tmpl, every, "TimeoutSeconds"))
	}
	want(t, id+" function", at(t, parts[1], "FunctionArn"), object{"Fn::GetAtt": []any{"Function", "Arn"}})
	text := regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllStringFunc(parts[0].(string), func(name string) string {
		value, known := values[strings.Trim(name, "${}")]
		if !known {
			t.Fatalf("%s: CloudFormation does not know %s", id, name)
		}
		return value
	})
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	var machine struct {
		Comment string
		definition
	}
	if err := decoder.Decode(&machine); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	want(t, id+" states", len(machine.States), 1)
	return machine.States[machine.StartAt], machine.TimeoutSeconds
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
		storedLife := alarmRule{own, "SecondsRemaining", "Minimum", byFunction, pace(t, tmpl, every, "StoredLifePeriod"), 1, 1, below, pace(t, tmpl, every, "ShortLife"), "breaching"}
		if got := ruleOf(t, paced(t, tmpl, "StoredLifeAlarm", every)); got != storedLife {
			t.Errorf("stored life, every %s:\n got %+v\nwant %+v", every, got, storedLife)
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
		batches, _ := mapOf(t, tmpl, m.id, "5")
		rejected := batches.task().Retry[0]
		want(t, m.id+": what is tried again first", rejected.ErrorEquals[0], "Lambda.TooManyRequestsException")
		wait, whole := rejected.IntervalSeconds, 0
		for range rejected.MaxAttempts {
			whole += wait
			wait = min(wait*rejected.BackoffRate, rejected.MaxDelaySeconds)
		}
		if whole >= rule.period {
			t.Errorf("%s: a batch is rejected for up to %d s, over more than two periods of %d", m.id, whole, rule.period)
		}
		tries := rejected.MaxAttempts + 1
		if inOne := (tries + 1) / 2; rule.threshold > inOne {
			t.Errorf("%s: the alarm wants %d refusals in a period, but of the %d of a batch as few as %d may fall into one", m.id, rule.threshold, tries, inOne)
		}
	}
}

// The two maps of the fleet.
var fleetMaps = []struct{ id, mode string }{{"RotateMachine", "rotate"}, {"EnsureMachine", "ensure"}}

const (
	politeRPS       = 15               // requests a second: IBM advises below 20 for one instance, its readers included
	rotateRequests  = 3                // to Secrets Manager: read the metadata, read the key, save
	retriesOfOne    = 120              // seconds, as long as template.yaml lets a rotation try
	functionReserve = 5                // seconds, kept of the deadline for the report
	redeliveries    = 15 * time.Minute // for which a run knows its own work again
)

func maxRPS(t *testing.T, tmpl object) int {
	t.Helper()
	text := at(t, properties(t, tmpl, "Function"), "Environment", "Variables", "SECRETS_MANAGER_MAX_RPS")
	return number(t, text)
}

func TestFleetIsPolite(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	functions := 0
	for _, m := range fleetMaps {
		batches, _ := mapOf(t, tmpl, m.id, "5")
		if batches.MaxConcurrency < 1 {
			t.Errorf("%s: got MaxConcurrency %d: 0 means ten thousand", m.id, batches.MaxConcurrency)
		}
		functions += batches.MaxConcurrency
	}
	if sum := functions * maxRPS(t, tmpl); sum > politeRPS || maxRPS(t, tmpl) < 1 {
		t.Errorf("%d functions of %d requests a second make %d, want %d at most", functions, maxRPS(t, tmpl), sum, politeRPS)
	}
	reserved := at(t, tmpl, "Parameters", "ReservedConcurrency")
	want(t, "reserved concurrency", at(t, reserved, "Default"), functions)
	want(t, "reserved concurrency", at(t, reserved, "AllowedValues"), []any{functions, ""})
}

func TestFleetMaps(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for _, m := range fleetMaps {
		batches, _ := mapOf(t, tmpl, m.id, "5")
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
		want(t, m.id+" task", task.Type+" "+task.Resource+" "+task.Parameters.FunctionName+" "+show(task.End), "Task arn:aws:states:::lambda:invoke the-function true")
		want(t, m.id+" keeps of the report", task.ResultSelector, map[string]string{"status.$": "$.StatusCode"})
	}
}

// A batch must have time for every rotation's requests, and for the retries that
// a rotation has in its own stack.
func TestFleetBatchesHaveTime(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	timeout := properties(t, tmpl, "Function")["Timeout"].(int)
	for _, m := range fleetMaps {
		batches, _ := mapOf(t, tmpl, m.id, "5")
		needed := batches.ItemBatcher.MaxItemsPerBatch*rotateRequests/maxRPS(t, tmpl) + retriesOfOne + functionReserve
		if timeout < needed {
			t.Errorf("%s: an invocation has %d s, but a batch of %d needs %d", m.id, timeout, batches.ItemBatcher.MaxItemsPerBatch, needed)
		}
		if task := batches.task(); task.TimeoutSeconds <= timeout {
			t.Errorf("%s: the map waits %d s for a function that may run %d", m.id, task.TimeoutSeconds, timeout)
		}
	}
}

func TestFleetRetries(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for _, m := range fleetMaps {
		batches, _ := mapOf(t, tmpl, m.id, "5")
		task := batches.task()
		if len(task.Retry) != 2 {
			t.Fatalf("%s: got %d retriers, want one for Lambda's errors and one for the function's", m.id, len(task.Retry))
		}
		service, own := task.Retry[0], task.Retry[1]
		for _, name := range []string{"Lambda.TooManyRequestsException", "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException"} {
			if !slices.Contains(service.ErrorEquals, name) {
				t.Errorf("%s: %s is not retried", m.id, name)
			}
		}
		for _, name := range []string{"RotationError", "States.TaskFailed", "States.Timeout"} {
			if !slices.Contains(own.ErrorEquals, name) {
				t.Errorf("%s: %s is not retried", m.id, name)
			}
		}
		want(t, m.id+" tries again", own.MaxAttempts, 1)
		whole := time.Duration(service.MaxAttempts*service.MaxDelaySeconds+2*task.TimeoutSeconds+own.IntervalSeconds) * time.Second
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
		batches, _ := mapOf(t, tmpl, m.id, "5")
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
func oneBatch(t *testing.T, tmpl object) time.Duration {
	batches, _ := mapOf(t, tmpl, "RotateMachine", "5")
	return time.Duration(batches.ItemBatcher.MaxItemsPerBatch*rotateRequests) * time.Second / time.Duration(maxRPS(t, tmpl))
}

// mostRotations is how many rotations a choice of EnsureEveryMinutes has time
// for, a tenth of it kept in hand.
func mostRotations(t *testing.T, tmpl object, every string) int {
	t.Helper()
	rotate, rotateTime := mapOf(t, tmpl, "RotateMachine", every)
	ensure, ensureTime := mapOf(t, tmpl, "EnsureMachine", every)
	rps := float64(maxRPS(t, tmpl))
	rotated := 0.9 * float64(rotateTime*rotate.MaxConcurrency) * rps / rotateRequests
	// A token is rotated with 10 minutes left, 9 if late. Where ensure steps in
	// before that, it publishes that share of the tokens too: two more requests.
	early := max(0, minRemaining(t, tmpl, every)-(tokenLife-rotateEvery-schedulerLate))
	ensured := 0.9 * float64(ensureTime*ensure.MaxConcurrency) * rps / (1 + 2*early.Minutes()/rotateEvery.Minutes())
	return int(min(rotated, ensured)) / 100 * 100
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
		want(t, every+" timeout", seconds("TimeoutSeconds"), schedule-schedulerLate)
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
	_, rotateTime := mapOf(t, tmpl, "RotateMachine", "5")
	want(t, "rotate timeout", time.Duration(rotateTime)*time.Second, rotateEvery-schedulerLate)
}

// lostRun is the least remaining lifetime of a token whose rotation was lost.
func lostRun(t *testing.T, tmpl object, every string) time.Duration {
	return minRemaining(t, tmpl, every) - minutes(every) - schedulerLate - oneBatch(t, tmpl) - onePass
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
	without := tokenLife - rotateEvery - schedulerLate - oneBatch(t, tmpl) - onePass
	for _, every := range ensureChoices {
		row := fmt.Sprintf("| %s | %d | %d min | %s | %s |", every, mostRotations(t, tmpl, every), int(minRemaining(t, tmpl, every).Minutes()), clock(without), clock(lostRun(t, tmpl, every)))
		if !strings.Contains(string(page), row) {
			t.Errorf("README.md has no row %s", row)
		}
	}
}

// Some hundred rotations, in the batches and with the events that the state machines make of their names, through
// the built function and the Lambda Runtime API. Only the politeness is left out. What ten thousand cost is a
// multiple of these counts.
func TestFleetReplay(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	const rotations = 250
	f := newReplay(t, rotations, time.Duration(properties(t, tmpl, "Function")["Timeout"].(int))*time.Second)
	rotate, _ := mapOf(t, tmpl, "RotateMachine", "30")
	ensure, _ := mapOf(t, tmpl, "EnsureMachine", "30")
	batches := slices.Collect(slices.Chunk(f.names, rotate.ItemBatcher.MaxItemsPerBatch))
	const execution = "6a1d2c34-7e5f-4a0b-9c8d-0e1f2a3b4c5d"
	for _, batch := range batches {
		event := rotate.event(t, execution, batch)
		got := f.invoke(event)
		want(t, "run_id", got.RunID, event["run_id"])
		want(t, "outcomes", got.outcomes(), map[string]int{"rotated": len(batch)})
	}
	asked := f.asked()
	for _, op := range []string{"versions.metadata", "secrets.get", "versions.create"} { // rotateRequests of them
		want(t, "requests "+op, asked[op], rotations)
	}
	want(t, "exchanges", asked["iam.token"], rotations+len(batches)) // each process opens Secrets Manager once

	// Delivered a second time, a batch must find its work done: it reads the metadata, and keys in parallel, as the template
	// reckons a retry.
	again := f.invoke(rotate.event(t, execution, batches[0]))
	want(t, "outcomes of a batch delivered twice", again.outcomes(), map[string]int{"already_done": len(batches[0])})
	asked = f.asked()
	want(t, "versions made by a batch delivered twice", asked["versions.create"], 0)
	want(t, "metadata read by it", asked["versions.metadata"], len(batches[0]))
	if got := asked["secrets.get"]; got > len(batches[0]) {
		t.Errorf("keys read: got %d, want at most %d", got, len(batches[0]))
	}

	// Of a batch of which one rotation cannot succeed that one is named, and a retry works on nothing else.
	broken := batches[1][50]
	f.cloud.MustDeleteSecret(f.secrets[broken])
	for attempt, newVersions := range []int{len(batches[1]) - 1, 0} {
		got := f.invoke(rotate.event(t, "another-execution", batches[1]))
		want(t, "error", got.ErrorType, "RotationError")
		if !strings.HasPrefix(got.ErrorMessage, fmt.Sprintf("1 of %d rotations failed; %s", len(batches[1]), broken)+": look: not_found: ") {
			t.Errorf("attempt %d: got %q, want the failure of %s alone", attempt+1, got.ErrorMessage, broken)
		}
		want(t, "versions made", f.asked()["versions.create"], newVersions)
	}

	fresh := f.invoke(ensure.event(t, "one-more-execution", batches[2]))
	want(t, "outcomes of ensure", fresh.outcomes(), map[string]int{"fresh": len(batches[2])})
	asked = f.asked()
	want(t, "metadata read by ensure", asked["versions.metadata"], len(batches[2]))
	want(t, "keys read by ensure", asked["secrets.get"], 0)
}

// replay is a sandbox of IBM Cloud, and a folder that holds what the deployed zip does.
type replay struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	folder  string
	names   []string          // as the map reads them
	secrets map[string]string // token secrets by rotation
	env     []string
	timeout string // of the deployed function
}

func newReplay(t *testing.T, rotations int, timeout time.Duration) *replay {
	t.Helper()
	f := &replay{t: t, cloud: ibmcloudtest.New(ibmcloudtest.Options{Rotations: rotations}), folder: t.TempDir(), secrets: map[string]string{}, timeout: timeout.String()}
	ibm := httptest.NewServer(f.cloud)
	t.Cleanup(ibm.Close)
	var entries []object
	for _, r := range f.cloud.Rotations() {
		f.names = append(f.names, r.Name)
		f.secrets[r.Name] = r.TokenSecret
		entries = append(entries, object{"name": r.Name, "api_key_secret": r.APIKeySecret, "token_secret": r.TokenSecret})
	}
	text, err := json.Marshal(entries)
	if err == nil {
		err = os.WriteFile(filepath.Join(f.folder, "rotations.json"), text, 0o600)
	}
	if err == nil {
		err = programs.Build(f.folder, map[string]string{"bootstrap": "functions/rotate", "invoke": "scripts/invoke"})
	}
	if err != nil {
		t.Fatal(err)
	}
	f.env = []string{"PATH=" + os.Getenv("PATH"), "ROTATIONS_FILE=rotations.json", "SECRETS_MANAGER_MAX_RPS=0", "LOG_LEVEL=error",
		"SECRETS_MANAGER_URL=" + ibm.URL, "IAM_URL=" + ibm.URL, "SECRETS_MANAGER_APIKEY=" + f.cloud.BootstrapAPIKey()}
	return f
}

// replayed is a batch's answer: a report, or an error.
type replayed struct {
	RunID        string `json:"run_id"`
	Results      []struct{ Rotation, Outcome string }
	ErrorType    string
	ErrorMessage string
}

func (r replayed) outcomes() map[string]int {
	count := map[string]int{}
	for _, result := range r.Results {
		count[result.Outcome]++
	}
	return count
}

// invoke delivers an event to the function as the map does, without politeness.
func (f *replay) invoke(event object) replayed {
	f.t.Helper()
	payload, err := json.Marshal(event)
	if err != nil {
		f.t.Fatal(err)
	}
	got := programs.Run(f.t, programs.Command{Dir: f.folder, Env: f.env, Stdin: string(payload), Name: filepath.Join(f.folder, "invoke"),
		Args: []string{"-event", "-", "-timeout", f.timeout, "--", "./bootstrap"}})
	var answer replayed
	if err := json.Unmarshal([]byte(got.Stdout), &answer); err != nil || (got.Exit == 0) != (answer.ErrorType == "") {
		f.t.Errorf("the batch came to exit code %d, %.300s, %.2000s", got.Exit, got.Stdout, got.Stderr)
	}
	return answer
}

// asked counts what was asked of IBM Cloud since the last time, by operation.
func (f *replay) asked() map[string]int {
	count := map[string]int{}
	for _, request := range f.cloud.Requests() {
		count[request.Op]++
	}
	f.cloud.ClearRequests()
	return count
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
		"StartTheMaps":                 "[states:StartExecution] on [map[Ref:RotateMachine] map[Ref:EnsureMachine]]",
		"ReportUndeliveredEvents":      "[sqs:SendMessage] on map[Fn::GetAtt:[UndeliveredEvents Arn]]",
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

// Each role is for one service, and for this stack's resources alone: a star after its name would also be another's.
func TestFleetRolesAreTrustedNarrowly(t *testing.T) {
	t.Parallel()
	tmpl := fleet(t)
	for id, name := range map[string]string{"RotateRole": "rotate", "EnsureRole": "ensure"} {
		trust := at(t, properties(t, tmpl, id), "AssumeRolePolicyDocument", "Statement", 0)
		want(t, id+" principal", at(t, trust, "Principal"), object{"Service": "states.amazonaws.com"})
		machine := "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:${AWS::StackName}-" + name
		want(t, id+" condition", at(t, trust, "Condition"), object{"StringEquals": object{
			"aws:SourceAccount": object{"Ref": "AWS::AccountId"},
			"aws:SourceArn":     []any{object{"Fn::Sub": machine}, object{"Fn::Sub": machine + "/Batches"}},
		}})
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
