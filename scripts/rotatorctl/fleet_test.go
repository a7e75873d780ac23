package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	logs "github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/aws/aws-sdk-go-v2/service/sfn"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/report"
	"iam-token-rotator/scripts/awstest"
)

// newFleet prepares the deployment of a fleet.
func newFleet(t *testing.T, stack string, rotations int) *account {
	t.Helper()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: rotations})
	ibm := httptest.NewServer(cloud)
	t.Cleanup(ibm.Close)
	a := newAccountFor(t, stack, cloud, ibm.URL)
	a.useFile()
	a.set["FLEET"] = "true"
	a.lambda.Timeout = 6 * time.Second
	a.lambda.Set = map[string]string{"SECRETS_MANAGER_MAX_RPS": "0"} // a batch would take 75 s
	return a
}

// start starts a machine's execution and returns its ARN.
func (a *account) start(machine, name string) string {
	a.t.Helper()
	arn := "arn:aws:states:" + awstest.Region + ":123456789012:stateMachine:" + a.stack + "-" + machine
	started, err := a.states.StartExecution(a.t.Context(), &sfn.StartExecutionInput{StateMachineArn: &arn, Name: &name})
	noError(a.t, err)
	return *started.ExecutionArn
}

// endOf waits until an execution has ended, and returns how, and how many batches succeeded and failed.
func (a *account) endOf(execution string) string {
	a.t.Helper()
	ended, err := a.waitFor(a.t.Context(), execution)
	noError(a.t, err)
	var succeeded, failed int64
	runs, err := a.states.ListMapRuns(a.t.Context(), &sfn.ListMapRunsInput{ExecutionArn: &execution})
	noError(a.t, err)
	for _, run := range runs.MapRuns {
		described, err := a.states.DescribeMapRun(a.t.Context(), &sfn.DescribeMapRunInput{MapRunArn: run.MapRunArn})
		noError(a.t, err)
		succeeded, failed = succeeded+described.ItemCounts.Succeeded, failed+described.ItemCounts.Failed
	}
	return fmt.Sprint(ended.Status, " ", succeeded, " ", failed)
}

// ran is how often the function was invoked for an execution, and which outcomes it reported.
func (a *account) ran(runID string) (invocations int, outcomes map[report.Outcome]int) {
	a.t.Helper()
	outcomes = map[report.Outcome]int{}
	for line := range strings.Lines(a.lambda.Printed()) {
		if r := newEntry(logs.FilteredLogEvent{Message: &line}).Report; r != nil && r.RunID == runID {
			invocations++
			for _, result := range r.Results {
				outcomes[result.Outcome]++
			}
		}
	}
	return invocations, outcomes
}

// saved counts since the last time the secrets that have a new version, the most that one has, and all requests by operation.
func (a *account) saved() (secrets, most int, asked map[string]int) {
	bySecret, asked := map[string]int{}, map[string]int{}
	for _, request := range a.cloud.Requests() {
		asked[request.Op]++
		if request.Op == "versions.create" && request.Status == 201 {
			bySecret[request.Path]++
			most = max(most, bySecret[request.Path])
		}
	}
	a.cloud.ClearRequests()
	return len(bySecret), most, asked
}

// A fleet of 225 rotations is deployed, its machines executed by moto's interpreter, and it goes without a trace. What the
// interpreter lacks is in awstest/statemachines.py; the requests a second are not limited, an invocation has 6 s of its 200.
func TestLifeOfAFleet(t *testing.T) {
	t.Parallel()
	const rotations = 225
	a := newFleet(t, "fleet", rotations)
	all := a.cloud.Rotations()

	a.must(0, "deploy", "Creating the stack fleet", "Checking version 1 before", "225 rotations: 225 rotated", "the last rotate: SUCCEEDED after ", "Dashboard: https://")
	secrets, most, asked := a.saved()
	want(t, "secrets with a token, tokens saved for one", fmt.Sprint(secrets, most), "225 1")
	want(t, "metadata read, three by the check", asked["versions.metadata"], rotations+3)
	want(t, "keys read, three by the check", asked["secrets.get"], rotations+3)
	want(t, "exchanges, of the bootstrap key and the check too", asked["iam.token"], rotations+3+1+3)
	if got := a.must(0, "status", "225 rotations: 225 rotated").stdout; strings.Contains(got, all[0].Name+":") {
		t.Errorf("status lists what is in order: %s", got)
	}
	a.must(0, "invoke --mode=ensure --rotation="+all[3].Name, all[3].Name+": fresh")
	if got := a.must(0, "doctor", "Checking 3 of 225 rotations", "rotation "+all[0].Name).stdout; strings.Contains(got, all[1].Name) {
		t.Errorf("doctor checks more than an invocation can: %s", got)
	}
	a.must(2, "invoke --mode=check", "is a fleet, with too many rotations for one run")

	// Of a pass in which saving begins to fail, what failed is tried again, and nothing else is saved again.
	a.saved()
	a.cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.create", Skip: 100, Status: 503})
	execution := a.start("rotate", "interrupted")
	for n := 0; n < 3; n, _ = a.ran("rotate-interrupted") {
		if time.Sleep(100 * time.Millisecond); t.Context().Err() != nil {
			t.FailNow()
		}
	}
	a.cloud.ClearFaults()
	want(t, "the execution, its batches", a.endOf(execution), "SUCCEEDED 3 0")
	secrets, most, _ = a.saved()
	want(t, "secrets with a new token, tokens saved for one", fmt.Sprint(secrets, most), "225 1")
	invocations, outcomes := a.ran("rotate-interrupted")
	if again := 125 - outcomes["already_done"]; outcomes["rotated"] != rotations || outcomes["failed"] != 125 || again < 0 || invocations < 5 {
		t.Errorf("got %d invocations, %v: want 100 rotations done and 125 failed first, and those alone worked on again", invocations, outcomes)
	}

	// Failures for good are not tried again, and stop no other batch.
	for _, i := range []int{5, 160} {
		a.cloud.MustDeleteSecret(all[i].APIKeySecret)
	}
	want(t, "the execution, its batches", a.endOf(a.start("rotate", "broken")), "SUCCEEDED 1 2")
	invocations, outcomes = a.ran("rotate-broken")
	want(t, "invocations and outcomes", fmt.Sprint(invocations, outcomes), "3 map[failed:2 rotated:223]")
	secrets, most, _ = a.saved()
	want(t, "tokens saved", fmt.Sprint(secrets, most), "223 1")

	// A failed ensure batch is not sent again. While an ensure runs, another execution of it ends at once.
	a.cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.metadata", Skip: 100, Status: 503})
	execution = a.start("ensure", "failing")
	time.Sleep(time.Second)
	want(t, "a second check", a.endOf(a.start("ensure", "second")), "SUCCEEDED 0 0")
	if ended := a.endOf(execution); strings.HasSuffix(ended, " 0") {
		t.Errorf("got %s, want batches that failed", ended)
	}
	a.cloud.ClearFaults()
	invocations, outcomes = a.ran("ensure-failing")
	want(t, "invocations and outcomes, each batch once", fmt.Sprint(invocations, outcomes), "3 map[failed:125 fresh:100]")

	a.moto.MustDo(t, awstest.Request{Service: "s3", Method: "DELETE", Path: "/" + a.bucket + "/" + a.objects(a.prefix("names"))[0]})
	want(t, "the document of a run that cannot begin", a.must(1, "invoke -o json --mode=rotate", "is FAILED: ", "NoSuchKey").stdout, "")
	a.must(1, "status", "the last rotate: FAILED", "  last rotate failed at 20", ": read_key: not_found: ", " more are not in order: rotatorctl status -o json lists them\n225 rotations: 125 failed")
	a.must(0, "destroy --yes", "destroy: the stack fleet")
	want(t, "objects left", len(a.objects("")), 0)
}

// What cannot be a fleet, or is one already, is rejected before anything is changed.
func TestAFleetIsChecked(t *testing.T) {
	t.Parallel()
	a := newFleet(t, "checked", 2)
	file := a.set["ROTATIONS_FILE"]
	for becomes, message := range map[string]string{
		`[{"mirror":["arn:aws:ssm:eu-central-1:123456789012:parameter/a"],`: "has a mirror for",
		`[{"nmae":"x",`: "nothing was deployed",
	} {
		a.useFile(`[{`, becomes)
		a.must(2, "deploy", message)
	}
	a.set["ROTATIONS_FILE"] = ""
	a.must(2, "deploy", "set ROTATIONS_FILE")
	a.set["ROTATIONS_FILE"], a.set["PARAMS"] = file, "NamesKey=x"
	a.must(2, "deploy", "PARAMS must not set NamesKey")
	a.set["PARAMS"] = "SecretsManagerMaxRps=40"
	a.must(2, "deploy", "SecretsManagerMaxRps must be one of: 15 10 5")
	want(t, "objects", len(a.objects("")), 0)

	a.set["PARAMS"] = "SecretsManagerMaxRps=10 EnsureEveryMinutes=10"
	a.cloud.MustDeleteSecret(a.cloud.Rotations()[1].APIKeySecret)
	a.must(1, "deploy", "Warning: RotationRefused: 1 of 2 rotations failed; ", "the stack is deployed, but not all rotations are in order:", "2 rotations: 1 failed, 1 rotated")
	want(t, "a function's share", a.variables()["SECRETS_MANAGER_MAX_RPS"], "2")
	want(t, "MIN_REMAINING", a.variables()["MIN_REMAINING"], "14m")
	a.set["FLEET"], a.set["PARAMS"] = "", ""
	a.must(1, "deploy", "the stack checked is a fleet: ")
	a.set["FLEET"], a.set["BOOTSTRAP_EXPIRES_AT"] = "true", "2020-01-31"
	a.must(1, "deploy", "The schedules run version 2 from now on", "the last ensure: SUCCEEDED", "1 fresh")
	a.must(1, "rollback", "Returning the stack checked from version 2 to 1", "version 1 runs again, but")
	a.set["SECRETS_MANAGER_URL"] = "http://127.0.0.1:1"
	a.must(1, "deploy", "The schedules run version 1. Correct that and deploy again")
	a.store(a.objects(a.prefix("names"))[0], `["nobody"]`) // its batch cannot begin, and the map succeeds all the same
	a.must(1, "invoke --mode=ensure", "1 rotation left no report, the first of them nobody: the log ")
	a.must(0, "destroy --yes")
	want(t, "objects left", len(a.objects("")), 0)
}

// What AWS answers of a machine and its executions is shown without characters that a terminal obeys.
func TestAnExecutionIsShownPrintably(t *testing.T) {
	const hostile = `x\u001b[31m\u202e`
	answers := map[string]string{
		"AWSStepFunctions.StartExecution":    `{"executionArn":"` + hostile + `"}`,
		"AWSStepFunctions.DescribeExecution": `{"executionArn":"` + hostile + `","status":"` + hostile + `","error":"` + hostile + `","cause":"` + hostile + `"}`,
	}
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := answers[r.Header.Get("X-Amz-Target")]
		if answer == "" {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(aws.Close)
	p := program{now: time.Now}
	p.states = sfn.New(sfn.Options{Region: "eu-central-1", BaseEndpoint: &aws.URL})
	key, arn := "RotateMachineArn", "x\x1b[31m\u202e"
	stack := &types.Stack{Outputs: []types.Output{{OutputKey: &key, OutputValue: &arn}}}
	for range 2 {
		_, err := p.runFleet(t.Context(), stack, "rotate")
		if said := fmt.Sprint(err); !strings.Contains(said, `x\x1b[31m`) || strings.ContainsAny(said, "\x1b\u202e") {
			t.Errorf("got %q", said)
		}
		delete(answers, "AWSStepFunctions.StartExecution")
	}
}
