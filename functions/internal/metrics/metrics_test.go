package metrics_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/report"
)

var now = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

// emitted returns a line for each document that emit writes: its dimensions and the values of the metrics that it declares.
func emitted(t *testing.T, rotations []string, emit func(metrics.Emitter) error) (lines []string) {
	t.Helper()
	var out bytes.Buffer
	if err := emit(metrics.Emitter{Writer: &out, Namespace: "IAMTokenRotator", FunctionName: "f", Rotations: rotations,
		Now: func() time.Time { return now }}); err != nil {
		t.Fatal(err)
	}
	for encoded := range bytes.Lines(out.Bytes()) {
		var d struct {
			AWS struct {
				Timestamp         int64
				CloudWatchMetrics []struct {
					Namespace  string
					Dimensions [][]string
					Metrics    []struct{ Name, Unit string }
				}
			} `json:"_aws"`
		}
		values := map[string]any{}
		if err := errors.Join(json.Unmarshal(encoded, &d), json.Unmarshal(encoded, &values)); err != nil {
			t.Fatal(err)
		}
		of := d.AWS.CloudWatchMetrics[0]
		if of.Namespace != "IAMTokenRotator" || d.AWS.Timestamp != now.UnixMilli() || values["FunctionName"] != "f" ||
			(values["Rotation"] != nil) != (len(of.Dimensions) == 2) {
			t.Errorf("got %s", encoded)
		}
		line := strings.TrimPrefix(fmt.Sprintf("%v %v:", values["Rotation"], of.Dimensions), "<nil> ")
		for _, m := range of.Metrics {
			line += fmt.Sprintf(" %s %v %s,", m.Name, values[m.Name], m.Unit)
		}
		lines = append(lines, strings.ReplaceAll(strings.TrimSuffix(line, ","), " None", ""))
	}
	return lines
}

func TestWhatIsEmitted(t *testing.T) {
	const (
		whole = "[[FunctionName]]:"
		fails = "[[FunctionName]]: Success 0 Count, Failure 1 Count"
		fresh = "[[FunctionName]]: Success 1 Count, Failure 0 Count"
	)
	own := func(name, values string) string {
		return name + " [[FunctionName] [FunctionName Rotation]]: " + values
	}
	a, b := report.Result{Rotation: "a", Outcome: report.Failed}, report.Result{Rotation: "b", Outcome: report.Fresh}
	known := report.Result{
		Rotation: "a", Outcome: report.Rotated, SecondsRemaining: new(int64(3599)), MarginSeconds: new(int64(-5)),
		TokenLifetime: time.Hour, Duration: 1500 * time.Millisecond, Attempts: 2, KeyDaysLeft: new(1.5), KeyExpiring: true,
	}
	later := report.Result{Rotation: "a", Outcome: report.Rotated, KeyDaysLeft: new(50.0)}
	for name, test := range map[string]struct {
		rotations []string
		ran       report.Report
		want      []string
	}{
		"all that is known": {[]string{"a", "b"}, report.Report{Results: []report.Result{known}}, []string{
			own("a", "Success 1 Count, Failure 0 Count, SecondsRemaining 3599 Seconds, SafetyMarginSeconds -5 Seconds, TokenLifetimeSeconds 3600 Seconds, "+
				"DurationMilliseconds 1500 Milliseconds, Attempts 2 Count, KeyExpiresInDays 1.5"), whole + " KeyExpiring 1"}},
		"one alone is not paid for twice": {[]string{"a"}, report.Report{Results: []report.Result{a}}, []string{fails}},
		"several, one of which fails": {[]string{"a", "b"}, report.Report{Results: []report.Result{a, b}},
			[]string{own("a", fails[18:]), own("b", fresh[18:]), whole + " FailingRotations 1"}},
		"how many fail is not known": {[]string{"a", "b"}, report.Report{Results: []report.Result{b}}, []string{own("b", fresh[18:])}},
		"one key of two expires soon": {nil, report.Report{Results: []report.Result{known, later}},
			[]string{whole + " Success [1 1] Count, Failure [0 0] Count, SecondsRemaining 3599 Seconds, SafetyMarginSeconds -5 Seconds, TokenLifetimeSeconds 3600 Seconds, DurationMilliseconds 1500 Milliseconds, Attempts 2 Count, KeyExpiresInDays [1.5 50]", whole + " KeyExpiring 1"}},
		"no key expires soon": {nil, report.Report{Results: []report.Result{later}},
			[]string{fresh + ", KeyExpiresInDays 50", whole + " KeyExpiring 0"}},
		"the key is current": {nil, report.Report{KeyRenewal: &report.KeyRenewal{Outcome: report.KeyCurrent}},
			[]string{whole + " KeyRenewalFailure 0"}},
		"the key is renewed": {nil, report.Report{KeyRenewal: &report.KeyRenewal{Outcome: report.KeyRenewed}},
			[]string{whole + " KeyRenewalFailure 0"}},
		"a renewal failed": {nil, report.Report{KeyRenewal: &report.KeyRenewal{Outcome: report.KeyRenewalFailed}},
			[]string{whole + " KeyRenewalFailure 1"}},
		"by the previous key": {nil, report.Report{KeyRenewal: &report.KeyRenewal{Outcome: report.KeyRenewed,
			ByPreviousKey: true}}, []string{whole + " KeyRenewalFailure 2"}},
		"the previous key has ended": {nil, report.Report{KeyRenewal: &report.KeyRenewal{Outcome: report.KeyRenewalFailed,
			PreviousEnded: true}}, []string{whole + " KeyRenewalFailure 2"}},
		"nothing": {[]string{"a"}, report.Report{}, nil},
	} {
		if got := emitted(t, test.rotations, func(e metrics.Emitter) error { return e.Emit(test.ran) }); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
	if got := emitted(t, nil, metrics.Emitter.EmitFailure); len(got) != 1 || got[0] != fails {
		t.Errorf("a failure before any rotation: got %q", got)
	}
	reader, writer := io.Pipe()
	_ = reader.Close()
	for _, rotations := range [][]string{{"a", "b"}, nil} {
		e := metrics.Emitter{Writer: writer, Rotations: rotations, Now: time.Now}
		if err := e.Emit(report.Report{Results: []report.Result{a}}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("got %v, want that the metrics could not be written", err)
		}
	}
}

// Of 250 rotations the first 20 have metrics of their own, also in a run of some; the others come in lists of 100 values.
func TestOnlyTwentyRotationsHaveMetricsOfTheirOwn(t *testing.T) {
	var names []string
	var results []report.Result
	for i := range 250 {
		names = append(names, fmt.Sprint("r", i))
		results = append(results, report.Result{Rotation: names[i], Outcome: report.Fresh})
	}
	for some, want := range map[int][]int{0: {100, 100, 30}, 200: {50}} {
		var got []int
		for _, line := range emitted(t, names, func(e metrics.Emitter) error { return e.Emit(report.Report{Results: results[some:]}) })[max(0, 20-some):] {
			if success, _, ok := strings.Cut(line, "] Count, Failure"); ok {
				got = append(got, len(strings.Fields(success))-2)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("from %d on: got lists of %v values, want %v", some, got, want)
		}
	}
}
