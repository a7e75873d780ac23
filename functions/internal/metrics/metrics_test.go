package metrics_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/report"
)

var now = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

// document is a line of the embedded metric format.
type document struct {
	AWS struct {
		Timestamp         int64
		CloudWatchMetrics []struct {
			Namespace  string
			Dimensions [][]string
			Metrics    []struct{ Name, Unit string }
		}
	} `json:"_aws"`
	FunctionName, Rotation string
	values                 map[string]any
}

func emit(t *testing.T, e metrics.Emitter, results ...report.Result) []document {
	t.Helper()
	var out bytes.Buffer
	e.Writer, e.Namespace, e.FunctionName, e.Now = &out, "IAMTokenRotator", "the-function", func() time.Time { return now }
	if err := e.Emit(report.Report{Results: results}); err != nil {
		t.Fatal(err)
	}
	var documents []document
	for line := range bytes.Lines(out.Bytes()) {
		var d document
		if err := json.Unmarshal(line, &d); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if err := json.Unmarshal(line, &d.values); err != nil {
			t.Fatal(err)
		}
		documents = append(documents, d)
	}
	return documents
}

// declared are the metric names that the document declares.
func (d document) declared() []string {
	var names []string
	for _, metric := range d.AWS.CloudWatchMetrics[0].Metrics {
		names = append(names, metric.Name)
	}
	return names
}

func seconds(n int64) *int64 { return &n }

func TestAllThatIsKnownIsEmitted(t *testing.T) {
	emitter, daysLeft := metrics.Emitter{Rotations: []string{"default", "another"}}, 1.5
	got := emit(t, emitter, report.Result{
		Rotation: "default", Outcome: report.Rotated, SecondsRemaining: seconds(3599), MarginSeconds: seconds(-5),
		TokenLifetime: time.Hour, Duration: 1500 * time.Millisecond, Attempts: 2, KeyDaysLeft: &daysLeft, KeyExpiring: true,
	})
	if len(got) != 2 || got[1].Rotation != "" || fmt.Sprint(got[1].declared()) != "[KeyExpiring]" || got[1].values["KeyExpiring"] != 1.0 {
		t.Fatalf("got %+v, want two documents, the second of the keys", got)
	}
	directive := got[0].AWS.CloudWatchMetrics[0]
	if directive.Namespace != "IAMTokenRotator" || got[0].AWS.Timestamp != now.UnixMilli() || got[0].FunctionName != "the-function" || got[0].Rotation != "default" {
		t.Errorf("got %+v", got[0])
	}
	if want := [][]string{{"FunctionName"}, {"FunctionName", "Rotation"}}; fmt.Sprint(directive.Dimensions) != fmt.Sprint(want) {
		t.Errorf("got dimensions %v, want %v", directive.Dimensions, want)
	}
	// One alone is not paid for twice.
	alone := emit(t, metrics.Emitter{Rotations: []string{"default"}}, report.Result{Rotation: "default", Outcome: report.Rotated})[0]
	if dimensions := alone.AWS.CloudWatchMetrics[0].Dimensions; alone.Rotation != "" || fmt.Sprint(dimensions) != "[[FunctionName]]" {
		t.Errorf("one rotation alone: got dimensions %v and Rotation %q, want FunctionName alone", dimensions, alone.Rotation)
	}
	want := map[string]float64{
		"Success": 1, "Failure": 0, "SecondsRemaining": 3599, "SafetyMarginSeconds": -5, "TokenLifetimeSeconds": 3600,
		"DurationMilliseconds": 1500, "Attempts": 2, "KeyExpiresInDays": 1.5,
	}
	for name, value := range want {
		if got[0].values[name] != value || !slices.Contains(got[0].declared(), name) {
			t.Errorf("%s: got %v (declared: %v), want %v", name, got[0].values[name], got[0].declared(), value)
		}
	}
}

func TestWhatIsNotKnownIsLeftOut(t *testing.T) {
	got := emit(t, metrics.Emitter{Rotations: []string{"default"}}, report.Result{Rotation: "default", Outcome: report.Failed, Attempts: 1, Duration: time.Second})[0]
	if got.values["Success"] != 0.0 || got.values["Failure"] != 1.0 {
		t.Errorf("got Success %v, Failure %v; want 0, 1", got.values["Success"], got.values["Failure"])
	}
	for _, name := range []string{"SecondsRemaining", "SafetyMarginSeconds", "TokenLifetimeSeconds", "KeyExpiresInDays"} {
		if _, ok := got.values[name]; ok || slices.Contains(got.declared(), name) {
			t.Errorf("%s is there, but is not known", name)
		}
	}
}

func TestOnlyTwentyRotationsHaveMetricsOfTheirOwn(t *testing.T) {
	var names []string
	var results []report.Result
	for i := range 250 {
		names = append(names, fmt.Sprintf("rotation-%d", i))
		results = append(results, report.Result{Rotation: names[i], Outcome: report.Fresh, SecondsRemaining: seconds(int64(i))})
	}
	var own, values int
	for _, d := range emit(t, metrics.Emitter{Rotations: names}, results...) {
		if d.Rotation != "" {
			own++
			continue
		}
		if d.values["FailingRotations"] != nil { // of the whole function
			continue
		}
		list, ok := d.values["SecondsRemaining"].([]any)
		if !ok || len(list) > 100 {
			t.Fatalf("got %T of %d values, want a list of at most 100", d.values["SecondsRemaining"], len(list))
		}
		values += len(list)
	}
	if own != 20 || values != 230 {
		t.Errorf("got %d rotations of their own and %d together, want 20 and 230", own, values)
	}
	// A batch of later rotations gets no dimension either.
	if got := emit(t, metrics.Emitter{Rotations: names}, results[200]); got[0].Rotation != "" {
		t.Errorf("rotation 200 has its own metrics: %q", got[0].Rotation)
	}
}

func TestAFailureBeforeAnyRotationCounts(t *testing.T) {
	var out bytes.Buffer
	e := metrics.Emitter{Writer: &out, Namespace: "IAMTokenRotator", FunctionName: "the-function", Now: time.Now}
	if err := e.EmitFailure(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(out.Bytes(), []byte(`"Failure":1`)) {
		t.Errorf("got %s, want Failure 1", out.Bytes())
	}
}

// How many fail is known after a run of all of them, and is of no use where there is one.
func TestFailingRotationsAreCounted(t *testing.T) {
	failed, fresh := report.Result{Rotation: "a", Outcome: report.Failed}, report.Result{Rotation: "b", Outcome: report.Fresh}
	for _, test := range []struct {
		rotations int
		results   []report.Result
		want      any
	}{
		{3, []report.Result{failed, fresh, failed}, 2.0}, {2, []report.Result{fresh, fresh}, 0.0},
		{3, []report.Result{failed, fresh}, nil}, {1, []report.Result{failed}, nil},
	} {
		documents := emit(t, metrics.Emitter{Rotations: []string{"a", "b", "c"}[:test.rotations]}, test.results...)
		if got := documents[len(documents)-1].values["FailingRotations"]; got != test.want {
			t.Errorf("%d results of %d rotations: got %v failing, want %v", len(test.results), test.rotations, got, test.want)
		}
	}
}

func TestRenewalsAreOfTheWholeFunction(t *testing.T) {
	for name, test := range map[string]struct {
		renewal *report.KeyRenewal
		want    string
	}{
		"none":         {nil, ""},
		"current":      {&report.KeyRenewal{Outcome: report.KeyCurrent}, `"KeyRenewalFailure":0,`},
		"renewed":      {&report.KeyRenewal{Outcome: report.KeyRenewed}, `"KeyRenewalFailure":0,`},
		"failed":       {&report.KeyRenewal{Outcome: report.KeyRenewalFailed}, `"KeyRenewalFailure":1,`},
		"the net":      {&report.KeyRenewal{Outcome: report.KeyRenewed, ByPreviousKey: true}, `"KeyRenewalFailure":2,`},
		"a failed net": {&report.KeyRenewal{Outcome: report.KeyRenewalFailed, ByPreviousKey: true}, `"KeyRenewalFailure":2,`},
	} {
		var out bytes.Buffer
		e := metrics.Emitter{Writer: &out, Namespace: "N", FunctionName: "f", Now: time.Now}
		if err := e.Emit(report.Report{Results: []report.Result{}, KeyRenewal: test.renewal}); err != nil {
			t.Fatal(err)
		}
		got := out.String()
		if got == "" != (test.want == "") || !strings.Contains(got, test.want) || strings.Contains(got, `"Rotation"`) {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
	}
}
