package aws_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/scripts/envfile"
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

// The two maps of the fleet.
var fleetMaps = []struct{ id, mode string }{{"RotateMachine", "rotate"}, {"EnsureMachine", "ensure"}}

const (
	politeRPS       = 20               // requests a second that IBM advises for one instance
	rotateRequests  = 3                // to Secrets Manager: look, read the key, save
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
		// An express child may live 5 minutes: too short for a batch and its retry.
		want(t, m.id+" processor", batches.ItemProcessor.ProcessorConfig, map[string]string{"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"})
		want(t, m.id+" tolerates", batches.ToleratedFailurePercentage, 100)
		want(t, m.id+" task", task.Type+" "+task.Resource+" "+task.Parameters.FunctionName+" "+show(task.End), "Task arn:aws:states:::lambda:invoke the-function true")
		want(t, m.id+" keeps of the report", task.ResultSelector, map[string]string{"status.$": "$.StatusCode"})
	}
}

// A batch must have time for every rotation's requests, and for the retries that
// a rotation has in a stack of its own.
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
	looked := 0.9 * float64(ensureTime*ensure.MaxConcurrency) * rps / (1 + 2*early.Minutes()/rotateEvery.Minutes())
	return int(min(rotated, looked)) / 100 * 100
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
			t.Errorf("every %s: a token is left alone with %v, but the alarm rings below %v", every, least, seconds("ShortLife"))
		}
		if every == "30" { // without a promise
			continue
		}
		want(t, every+" short life", seconds("ShortLife"), schedule+time.Minute)
		want(t, every+" MIN_REMAINING", least, schedule+4*time.Minute)
		if left := lostRun(t, tmpl, every); left <= 0 {
			t.Errorf("every %s: after one lost rotation %v are left, want more than none", every, left)
		}
		if rings := minutes(show(pace(t, tmpl, every, "SilentMinutes"))) + time.Minute; rings >= least {
			t.Errorf("every %s: silence is heard after %v, but a token may live no more than %v", every, rings, least)
		}
	}
	_, rotateTime := mapOf(t, tmpl, "RotateMachine", "5")
	want(t, "rotate timeout", time.Duration(rotateTime)*time.Second, rotateEvery-schedulerLate)
}

// lostRun is the life left at worst in a token whose rotation was lost.
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

// Ten thousand rotations, in the batches and with the events that the state
// machines make of their names, through the built function and the Lambda Runtime
// API. Only the politeness is left out.
func TestFleetOfTenThousand(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes half a minute of two processors")
	}
	tmpl := fleet(t)
	const rotations = 10_000
	timeout := time.Duration(properties(t, tmpl, "Function")["Timeout"].(int)) * time.Second
	stage := newFleetStage(t, "10000", timeout)
	want(t, "names", len(stage.names), rotations)

	rotate, _ := mapOf(t, tmpl, "RotateMachine", "30")
	const execution = "6a1d2c34-7e5f-4a0b-9c8d-0e1f2a3b4c5d"
	batches := slices.Collect(slices.Chunk(stage.names, rotate.ItemBatcher.MaxItemsPerBatch))
	rotated := stage.runMap(rotate, execution, batches)
	want(t, "outcomes of the first map", rotated, map[string]int{"rotated": rotations})
	asked := stage.requests()
	for _, op := range []string{"versions.metadata", "secrets.get", "versions.create"} { // rotateRequests of them
		want(t, "requests "+op, asked[op], rotations)
	}
	want(t, "exchanges", asked["iam.token"], rotations+len(batches)) // each process opens Secrets Manager once

	stage.redeliver(rotate.event(t, execution, batches[0]))
	stage.failOne(rotate.event(t, "another-execution", batches[1]), batches[1][50])

	ensure, _ := mapOf(t, tmpl, "EnsureMachine", "30")
	before := stage.requests()
	fresh := stage.invoke(ensure.event(t, "one-more-execution", batches[2]))
	want(t, "outcomes of ensure", outcomes(fresh), map[string]int{"fresh": len(batches[2])})
	after := stage.requests()
	want(t, "looks of ensure", after["versions.metadata"]-before["versions.metadata"], len(batches[2]))
	want(t, "keys read by ensure", after["secrets.get"]-before["secrets.get"], 0)
}

// runMap invokes the function for each batch, as many at a time as the map
// allows, and counts the outcomes of distinct rotations.
func (s *fleetStage) runMap(m batchMap, execution string, batches [][]string) map[string]int {
	s.t.Helper()
	queue := make(chan []string)
	var mu sync.Mutex
	ended := map[string]string{}
	var all sync.WaitGroup
	for range m.MaxConcurrency {
		all.Go(func() {
			for batch := range queue {
				event := m.event(s.t, execution, batch)
				report := s.invoke(event)
				want(s.t, "run_id", report.RunID, event["run_id"])
				mu.Lock()
				for _, result := range report.Results {
					ended[result.Rotation] = result.Outcome
				}
				mu.Unlock()
			}
		})
	}
	for _, batch := range batches {
		queue <- batch
	}
	close(queue)
	all.Wait()
	count := map[string]int{}
	for _, outcome := range ended {
		count[outcome]++
	}
	return count
}

func outcomes(report batchReport) map[string]int {
	count := map[string]int{}
	for _, result := range report.Results {
		count[result.Outcome]++
	}
	return count
}

// redeliver sends a batch a second time: it must find its work done.
func (s *fleetStage) redeliver(event object) {
	s.t.Helper()
	before := s.requests()
	again := s.invoke(event)
	want(s.t, "outcomes of a batch delivered twice", outcomes(again), map[string]int{"already_done": len(event["rotations"].([]string))})
	after := s.requests()
	want(s.t, "versions made by a batch delivered twice", after["versions.create"]-before["versions.create"], 0)
	// Look and key side by side, as the template reckons a retry.
	want(s.t, "looks", after["versions.metadata"]-before["versions.metadata"], len(again.Results))
	// The key is read beside the look; where that tells first, the read may not set out.
	if got := after["secrets.get"] - before["secrets.get"]; got > len(again.Results) {
		s.t.Errorf("keys read: got %d, want at most %d", got, len(again.Results))
	}
}

// failOne runs a batch of which one rotation cannot succeed, and retries it as
// the map does: that one is named, and nothing but it is worked on again.
func (s *fleetStage) failOne(event object, broken string) {
	s.t.Helper()
	s.deleteToken(broken)
	for attempt, newVersions := range []int{len(event["rotations"].([]string)) - 1, 0} {
		before := s.requests()["versions.create"]
		report := s.invoke(event)
		want(s.t, "error", report.ErrorType, "RotationError")
		if !strings.HasPrefix(report.ErrorMessage, "1 of 100 rotations failed; "+broken+": look: not_found: ") {
			s.t.Errorf("attempt %d: got %q, want the failure of %s alone", attempt+1, report.ErrorMessage, broken)
		}
		want(s.t, "versions made", s.requests()["versions.create"]-before, newVersions)
	}
}

// fleetStage is a sandbox of IBM Cloud as a process of its own, and a folder that
// holds what the deployed zip does.
type fleetStage struct {
	t       *testing.T
	folder  string            // with rotations.json
	names   []string          // as the map reads them
	secrets map[string]string // token secrets by rotation
	env     map[string]string // that the sandbox has written
	timeout string            // of the deployed function
}

// newFleetStage starts scripts/sandbox; it ends with the test.
func newFleetStage(t *testing.T, rotations string, timeout time.Duration) *fleetStage {
	t.Helper()
	s := &fleetStage{t: t, folder: t.TempDir(), secrets: map[string]string{}, timeout: timeout.String()}
	file := filepath.Join(s.folder, "sandbox.env")
	sandbox := exec.Command(filepath.Join(builtPrograms(t), "sandbox"), "-addr", "127.0.0.1:0", "-rotations", rotations, "-env", file)
	if err := sandbox.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sandbox.Process.Signal(syscall.SIGTERM)
		_ = sandbox.Wait()
	})
	var err error
	if s.env, err = envfile.Await(t.Context(), file, time.Minute); err != nil {
		t.Fatal(err)
	}
	s.readRotations()
	return s
}

// readRotations makes the list of names as the page says, and puts rotations.json
// where the zip has it.
func (s *fleetStage) readRotations() {
	s.t.Helper()
	programs.Need(s.t, "jq")
	text, err := os.ReadFile(s.env["ROTATIONS_FILE"])
	if err == nil {
		err = os.WriteFile(filepath.Join(s.folder, "rotations.json"), text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var entries []struct {
		Name        string
		TokenSecret string `json:"token_secret"`
	}
	if err := json.Unmarshal(text, &entries); err != nil {
		s.t.Fatal(err)
	}
	for _, entry := range entries {
		s.secrets[entry.Name] = entry.TokenSecret
	}
	listed := runIn(s.t, s.folder, programs.CleanEnviron(), "", "jq", "-c", "[.[].name]", "rotations.json")
	if err := json.Unmarshal([]byte(listed.Stdout), &s.names); err != nil {
		s.t.Fatalf("jq: %v: %s", err, listed.All())
	}
}

// batchReport is a batch's answer: a report, or an error.
type batchReport struct {
	RunID        string `json:"run_id"`
	Results      []struct{ Rotation, Outcome string }
	ErrorType    string
	ErrorMessage string
}

// invoke delivers an event to the function as the map does, without politeness.
func (s *fleetStage) invoke(event object) batchReport {
	s.t.Helper()
	payload, err := json.Marshal(event)
	if err != nil {
		s.t.Error(err)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "ROTATIONS_FILE=rotations.json", "SECRETS_MANAGER_MAX_RPS=0", "LOG_LEVEL=error"}
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY"} {
		env = append(env, name+"="+s.env[name])
	}
	bin := builtPrograms(s.t)
	got := runIn(s.t, s.folder, env, string(payload), filepath.Join(bin, "invoke"), "-event", "-", "-timeout", s.timeout, "--", filepath.Join(bin, "deploy", "bootstrap"))
	var report batchReport
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil || (got.Exit == 0) != (report.ErrorType == "") {
		s.t.Errorf("the batch came to exit %d, %.300s, %.2000s", got.Exit, got.Stdout, got.Stderr)
	}
	return report
}

// requests counts what was asked of IBM Cloud so far, by operation.
func (s *fleetStage) requests() map[string]int {
	s.t.Helper()
	var all []struct{ Op string }
	s.ask(http.MethodGet, "/_sandbox/requests", "", "", &all)
	count := map[string]int{}
	for _, request := range all {
		count[request.Op]++
	}
	return count
}

// deleteToken deletes a rotation's token secret, as an administrator.
func (s *fleetStage) deleteToken(rotation string) {
	s.t.Helper()
	var token struct {
		Value string `json:"access_token"`
	}
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {s.env["ADMIN_APIKEY"]}}
	s.ask(http.MethodPost, "/identity/token", "", form.Encode(), &token)
	s.ask(http.MethodDelete, "/api/v2/secrets/"+s.secrets[rotation], token.Value, "", nil)
}

func (s *fleetStage) ask(method, path, token, form string, into any) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.env["IAM_URL"]+path, strings.NewReader(form))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if into != nil {
		err = json.NewDecoder(response.Body).Decode(into)
	}
	if err != nil || response.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %d, %v", method, path, response.StatusCode, err)
	}
}

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
