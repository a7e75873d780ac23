package aws_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

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
