package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// environ is the configuration for a cloud that listens at origin.
func environ(cloud *ibmcloudtest.Cloud, origin string, more ...string) []string {
	one := cloud.Rotations()[0]
	return append([]string{
		"SECRETS_MANAGER_URL=" + origin, "IAM_URL=" + origin, "SECRETS_MANAGER_APIKEY=" + cloud.BootstrapAPIKey(),
		"API_KEY_SECRET=" + one.APIKeySecret, "TOKEN_SECRET=" + one.TokenSecret,
	}, more...)
}

// newCloud serves a cloud over HTTP.
func newCloud(t *testing.T) (*ibmcloudtest.Cloud, string) {
	t.Helper()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	return cloud, server.URL
}

// invoke delivers one event as the Runtime API would.
func invoke(t *testing.T, f *function, payload string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return f.Invoke(lambdacontext.NewContext(ctx, &lambdacontext.LambdaContext{AwsRequestID: "request-0001"}), []byte(payload))
}

// logged are the JSON lines of a log.
func logged(t *testing.T, log *bytes.Buffer) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range bytes.Lines(log.Bytes()) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("a log line is no JSON: %s", line)
		}
		lines = append(lines, fields)
	}
	return lines
}

func messages(lines []map[string]any) string {
	var all []string
	for _, line := range lines {
		if msg, ok := line["msg"].(string); ok {
			all = append(all, msg)
		} else if _, ok := line["_aws"]; ok {
			all = append(all, "metrics")
		}
	}
	return strings.Join(all, " ")
}

func TestTheResponseIsTheReport(t *testing.T) {
	cloud, origin := newCloud(t)
	var log bytes.Buffer
	response, err := invoke(t, newFunction("the-function", environ(cloud, origin), &log), `{"run_id":"rotate-2026","force":true}`)
	if err != nil {
		t.Fatal(err)
	}
	ran, err := report.Parse(response)
	if err != nil || ran.RunID != "rotate-2026" || ran.Mode != "rotate" || len(ran.Results) != 1 || ran.Results[0].Outcome != report.Rotated {
		t.Errorf("got %s, %v", response, err)
	}
	if !bytes.Contains(response, []byte(`"warnings":[]`)) {
		t.Errorf("got %s, want an empty list of warnings", response)
	}
	lines := logged(t, &log)
	if got := messages(lines); got != "rotation report metrics" {
		t.Fatalf("got log lines %q, want rotation report metrics", got)
	}
	result, _ := lines[0]["result"].(map[string]any)
	for _, field := range []string{"outcome", "attempts", "duration_ms", "version_id", "fingerprint", "seconds_remaining", "iam_transaction_id", "steps_ms"} {
		if _, ok := result[field]; !ok {
			t.Errorf("the rotation's line has no %s: %v", field, result)
		}
	}
	if lines[0]["invoked_by"] != "person" || lines[0]["force"] != true || !bytes.Contains(response, []byte(`"invoked_by":"person","force":true`)) {
		t.Errorf("got line %v, response %s, want who invoked, and by force", lines[0], response)
	}
	if lines[0]["request_id"] != "request-0001" || lines[1]["request_id"] != "request-0001" {
		t.Error("a line has no request id")
	}
	var answered any
	if err := json.Unmarshal(response, &answered); err != nil || !reflect.DeepEqual(lines[1]["report"], answered) {
		t.Errorf("logged report %v, want %s", lines[1]["report"], response)
	}
}

func TestTheErrorMessageNamesTheFirstTenFailures(t *testing.T) {
	ran := report.Report{}
	for i := range 13 {
		ran.Results = append(ran.Results, report.Result{Rotation: fmt.Sprintf("r%d", i), Outcome: report.Failed,
			Error: &report.Error{Step: rotation.StepSave, Kind: rotation.Locked, Message: "why"}})
	}
	ran.Results = append(ran.Results, report.Result{Rotation: "good", Outcome: report.Fresh})
	got := summary(ran)
	for _, part := range []string{"13 of 14 rotations failed; r0: save: locked: why", "r9: save", "and 3 more"} {
		if !strings.Contains(got, part) {
			t.Errorf("got %q, want %q in it", got, part)
		}
	}
	if strings.Contains(got, "r10:") || strings.Contains(got, "good") {
		t.Errorf("got %q, want the first ten failures only", got)
	}
}

// Step Functions tries a RotationError again, and a RotationRefused not: one rotation that may succeed is enough for the first.
func TestTheErrorShowsWhetherARetryHelps(t *testing.T) {
	for name, test := range map[string]struct {
		fault   string // of the second rotation, 503 or 403; the first one's secret does not exist
		timeout time.Duration
		want    string
	}{
		"refused":              {"denied", time.Minute, "*main.RotationRefused"},
		"one may pass":         {"unavailable", 2 * time.Second, "*main.RotationError"},
		"no time was left":     {"", 0, "*main.RotationError"},
		"a rotation succeeded": {"none", time.Minute, "*main.RotationRefused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 2})
			server := httptest.NewServer(cloud)
			t.Cleanup(server.Close)
			missing, second := cloud.Rotations()[0], cloud.Rotations()[1]
			cloud.MustDeleteSecret(missing.TokenSecret)
			switch test.fault {
			case "denied":
				cloud.MustDeleteSecret(second.APIKeySecret)
			case "unavailable":
				cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.create", Status: 503})
			}
			list := fmt.Sprintf(`ROTATIONS=[{"name":"a","api_key_secret":%q,"token_secret":%q},{"name":"b","api_key_secret":%q,"token_secret":%q}]`,
				missing.APIKeySecret, missing.TokenSecret, second.APIKeySecret, second.TokenSecret)
			var log bytes.Buffer
			f := newFunction("the-function", []string{"SECRETS_MANAGER_URL=" + server.URL, "IAM_URL=" + server.URL, "SECRETS_MANAGER_APIKEY=" + cloud.BootstrapAPIKey(), list}, &log)
			ctx, cancel := context.WithTimeout(t.Context(), test.timeout)
			defer cancel()
			_, err := f.Invoke(ctx, []byte(`{}`))
			if got := fmt.Sprintf("%T", err); got != test.want {
				t.Errorf("got %s %v, want a %s", got, err, test.want)
			}
			if bytes.Contains(log.Bytes(), []byte("ermanent")) {
				t.Errorf("got log %s, which has a field more", &log)
			}
		})
	}
}

// A failed rotation, a faulty configuration and a bad event fail each invocation and are counted, whatever the log level.
// Of a bad event the log shows the first fault, who invoked, and by force.
func TestWhatFailsTheInvocation(t *testing.T) {
	cloud, origin := newCloud(t)
	quiet, quietOrigin := newCloud(t) // is asked nothing: none of its runs begins
	good := environ(quiet, quietOrigin)
	for _, test := range []struct {
		payload string
		environ []string
		says    []string
		logs    string // the messages
		logged  []string
	}{
		{`{}`, environ(cloud, origin, noSuchSecret, "LOG_LEVEL=error"), []string{"1 of 1 rotations failed", "default: look: not_found: "}, "rotation report metrics", []string{`"run_id":"request-0001"`}},
		{`{}`, []string{"LOG_LEVEL=loud", "IAM_URL=http://iam.cloud.ibm.com", "METRICS_NAMESPACE=Mine"},
			[]string{"misconfigured: ", "LOG_LEVEL", "SECRETS_MANAGER_URL: is required", "IAM_URL: must begin with https://"}, "the run could not begin metrics", []string{`"Namespace":"Mine"`}},
		{`{"rotations":["unknown"],"force":true}`, good, []string{"no rotation is called"}, "the run could not begin metrics", []string{`"invoked_by":"person","force":true`}},
		{`{"mode":"dance","force":true,"run_id":"x","other":1}`, good, []string{`mode "dance"`}, "the run could not begin metrics", []string{`"invoked_by":"person","force":true`}},
	} {
		var log bytes.Buffer
		f := newFunction("the-function", test.environ, &log)
		for range 8 { // the order of a map's keys is random, and each invocation must fail
			log.Reset()
			response, err := invoke(t, f, test.payload)
			if _, refused := errors.AsType[*RotationRefused](err); !refused || response != nil || messages(logged(t, &log)) != test.logs {
				t.Fatalf("%s: got %s, %v and log %s; want a *RotationRefused, no response and log lines %s", test.payload, response, err, &log, test.logs)
			}
			for _, part := range test.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("got %q, want %q in it", err, part)
				}
			}
			for _, part := range append(test.logged, `"Failure":1`) {
				if !bytes.Contains(log.Bytes(), []byte(part)) {
					t.Errorf("got log %s, want %s in it", &log, part)
				}
			}
		}
	}
	if got := quiet.Requests(); len(got) > 0 {
		t.Errorf("got %d requests, want none", len(got))
	}
}

func TestDecodeEvent(t *testing.T) {
	scheduled, err := os.ReadFile("event.json")
	if err != nil {
		t.Fatal(err)
	}
	byPerson := event{mode: rotation.ModeRotate, invokedBy: "person"}
	bySchedule := event{mode: rotation.ModeRotate, invokedBy: "schedule"}
	const time = "2026-01-01T10:00:00Z"
	for name, test := range map[string]struct {
		payload string
		want    event
		says    string // of an error, if it is one
	}{
		"nothing":             {"", byPerson, ""},
		"null":                {"null", byPerson, ""},
		"empty object":        {"{}", byPerson, ""},
		"white space":         {" \n{ \"force\" : false }\n", byPerson, ""},
		"EventBridge":         {string(scheduled), bySchedule, ""},
		"a rule's own detail": {`{"source":"my.app","detail-type":"x","detail":{"mode":"check"},"anything":1}`, bySchedule, ""},
		"mode":                {`{"mode":"ensure"}`, event{mode: rotation.ModeEnsure, invokedBy: "person"}, ""},
		"a schedule":          {`{"mode":"ensure","run_id":"ensure-` + time + `"}`, event{mode: rotation.ModeEnsure, runID: "ensure-" + time, invokedBy: "schedule"}, ""},
		"of a batch": {`{"mode":"rotate","rotations":["a"],"run_id":"rotate-0123abcd"}`,
			event{mode: rotation.ModeRotate, rotations: []string{"a"}, runID: "rotate-0123abcd", invokedBy: "batch"}, ""},
		"everything": {`{"mode":"check","rotations":["a","b"],"force":true,"run_id":"by-hand-1"}`,
			event{mode: rotation.ModeCheck, rotations: []string{"a", "b"}, force: true, runID: "by-hand-1", invokedBy: "person"}, ""},

		"text":                {`"rotate"`, event{}, "not a JSON object"},
		"a list":              {`[]`, event{}, "not a JSON object"},
		"not JSON":            {`mode=rotate`, event{}, "not a JSON object"},
		"two values":          {`{} {}`, event{}, "not a JSON object"},
		"unknown field":       {`{"rotation":"a"}`, event{}, `unknown field "rotation"`},
		"another case":        {`{"Mode":"check"}`, event{}, `unknown field "Mode"`},
		"source alone":        {`{"source":"my.app"}`, event{}, `unknown field "source"`},
		"a rule's and manual": {`{"source":"aws.events","detail-type":"Scheduled Event","mode":"check"}`, event{}, `EventBridge's have, and also "mode"`},
		"and rotations":       {`{"source":"aws.events","detail-type":"x","rotations":["a"]}`, event{}, `and also "rotations"`},
		"and null":            {`{"source":"aws.events","detail-type":"x","run_id":null}`, event{}, `and also "run_id"`},
		"and misspelt":        {`{"source":"aws.events","detail-type":"x","Mode":"check"}`, event{}, `and also "Mode"`},
		"and a blank":         {`{"source":"aws.events","detail-type":"x"," mode ":"check"}`, event{}, `and also " mode "`},
		"and another script":  {`{"source":"aws.events","detail-type":"x","m\u043ede":"check"}`, event{}, `and also "m`},
		"the function's own":  {`{"source":"iam-token-rotato\u0072","detail-type":"Token Rotated","detail":{}}`, event{}, "from iam-token-rotator itself"},
		"and a mode":          {`{"source":"aws.events","detail-type":"x","check":true}`, event{}, `and also "check"`},
		"twice":               {`{"mode":"check","mode":"rotate"}`, event{}, `has the field "mode" twice`},
		"twice, escaped":      {`{"mode":"check","run_id":"12345678","m\u006fde":"rotate"}`, event{}, `has the field "mode" twice`},
		"too long":            {`{"rotations":["` + strings.Repeat("x", maxEvent) + `"]}`, event{}, "bytes, 1048576 at most"},
		"source of no text":   {`{"source":1,"detail-type":"x"}`, event{}, "unknown field"},
		"unknown mode":        {`{"mode":"dance"}`, event{}, `mode "dance" is not known: use rotate, ensure or check`},
		"mode of no text":     {`{"mode":1}`, event{}, "mode has the wrong type"},
		"null mode":           {`{"mode":null}`, event{}, "mode has the wrong type"},
		"one rotation's name": {`{"rotations":"a"}`, event{}, "rotations has the wrong type"},
		"no rotation":         {`{"rotations":[]}`, event{}, "rotations are empty"},
		"null rotations":      {`{"rotations":null}`, event{}, "rotations has the wrong type"},
		"force of text":       {`{"force":"yes"}`, event{}, "force has the wrong type"},
		"short run_id":        {`{"run_id":"1234567"}`, event{}, "run_id must be 8 to 256 characters"},
		"empty run_id":        {`{"run_id":""}`, event{}, "run_id must be 8 to 256 characters"},
		"long run_id":         {`{"run_id":"` + strings.Repeat("x", 257) + `"}`, event{}, "run_id must be 8 to 256 characters"},
		"not substituted":     {`{"run_id":"rotate-<aws.scheduler.scheduled-time>"}`, event{}, "<aws.scheduler.scheduled-time>"},
	} {
		got, err := decodeEvent([]byte(test.payload))
		switch {
		case test.says != "":
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: got %+v, %v; want it to say %s", name, got, err, test.says)
			}
		case err != nil || !reflect.DeepEqual(got, test.want):
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, test.want)
		}
	}
}

func TestChoose(t *testing.T) {
	a, b, c := rotation.Rotation{Name: "a"}, rotation.Rotation{Name: "b"}, rotation.Rotation{Name: "c"}
	for names, want := range map[string][]rotation.Rotation{"": {a, b, c}, "c a": {c, a}, "a d": nil, "a a": nil, "A": nil} {
		got, err := choose([]rotation.Rotation{a, b, c}, strings.Fields(names))
		if (err != nil) != (want == nil) || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, %v; want %v", names, got, err, want)
		}
	}
	_, err := choose(nil, slices.Repeat([]string{"unknown"}, 500_000))
	if err == nil || len(err.Error()) > 400 || !strings.Contains(err.Error(), `"unknown", and 499990 more`) {
		t.Errorf("got %.500v, want the first names and how many more there are", err)
	}
}

// Whatever arrives: an event is understood whole or rejected, and a rejection does not repeat what could be a key.
func FuzzEvent(f *testing.F) {
	for _, seed := range []string{
		"", "null", "{}", " {} ", "[]", `"rotate"`, `{"mode":"rotate"}`, `{"mode":"ensure","run_id":"ensure-2026-01-01T10:00:00Z"}`,
		`{"source":"aws.events","detail-type":"Scheduled Event","detail":{}}`, `{"source":"","detail-type":"x"}`,
		`{"mode":"check","rotations":["a","b"],"force":true}`, `{"rotations":[]}`, `{"mode":null}`, `{"Mode":"rotate"}`, `{"mode":"doctor"}`,
		`{"mode":"check","mode":"rotate"}`, `{"run_id":"<aws.scheduler.scheduled-time>"}`, `{"force":"yes"}`, "{\"mode\":\"\\u0000\"}",
		"A", "{0", "{\x00", `{""`, `{"000000":",000000000000`, "\x80", "\xf1", "\xda0\xda", "\xc7\xff0", "\xff\xff\x800",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := decodeEvent(payload)
		if err != nil {
			if long := longestWord(payload); len(long) > 40 && strings.Contains(err.Error(), long) {
				t.Errorf("the error repeats %d characters of the event", len(long))
			}
			return
		}
		modes := []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure, rotation.ModeCheck, modeDoctor}
		if !slices.Contains(modes, got.mode) {
			t.Errorf("got mode %q", got.mode)
		}
		if got.runID != "" && rotation.CheckRunID(got.runID) != nil {
			t.Errorf("got run id %q", got.runID)
		}
		if got.force && !bytes.Contains(payload, []byte("force")) && !bytes.Contains(payload, []byte(`\u`)) {
			t.Error("got force, which nobody asked for")
		}
		var fields map[string]json.RawMessage
		if json.Unmarshal(payload, &fields); fields["rotations"] != nil && len(got.rotations) == 0 {
			t.Error("no rotation was named, and that meant all")
		}
	})
}

func longestWord(payload []byte) (longest string) {
	for _, word := range strings.FieldsFunc(string(payload), func(r rune) bool { return strings.ContainsRune(" \t\r\n\"{}[]:,\\", r) }) {
		if len(word) > len(longest) {
			longest = word
		}
	}
	return longest
}
