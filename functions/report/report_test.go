package report_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/report"
)

var expiresAt = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

func TestAResultAndARenewalForAPerson(t *testing.T) {
	failure := &report.Error{Step: "look", Kind: "not_found", Message: "there is no such secret"}
	for _, test := range []struct {
		name   string
		result interface {
			Line() string
			Text() string
		}
		line, text string
	}{
		{"rotated",
			report.Result{Rotation: "a", Outcome: report.Rotated, Attempts: 1, ExpiresAt: &expiresAt, SecondsRemaining: new(int64(3599)), MarginSeconds: new(int64(600))},
			"a: rotated; the stored token expires 2026-01-01T10:00:00Z (in 59m59s); the old one had 10m0s left", ""},
		{"late",
			report.Result{Rotation: "a", Outcome: report.Rotated, Attempts: 3, MarginSeconds: new(int64(-4))},
			"a: rotated after 3 attempts; the old one had expired 4s before", ""},
		{"failed with an expired token",
			report.Result{Rotation: "a", Outcome: report.Failed, Attempts: 1, ExpiresAt: &expiresAt, SecondsRemaining: new(int64(-90)), Error: failure},
			"a: failed; the stored token expired 2026-01-01T10:00:00Z (1m30s ago); look: not_found: there is no such secret",
			"a: failed; the stored token expired 2026-01-01T10:00:00Z (1m30s ago)\n  look: not_found: there is no such secret\n"},
		{"warnings",
			report.Result{Rotation: "a", Outcome: report.Fresh, Warnings: []string{"one", "two"}},
			"a: fresh; 2 warnings", "a: fresh\n  warning: one\n  warning: two\n"},
		{"foreign text",
			report.Result{Rotation: "a\x1b[2J", Outcome: "fa\nke", Warnings: []string{"x\r\u202e\xffy�"}},
			`a\x1b[2J: fa\nke; 1 warning`, "a\\x1b[2J: fa\\nke\n  warning: x\\r\\u202e\\xffy�\n"},
		{"numbers out of all bounds",
			report.Result{Rotation: "a", Outcome: report.Fresh, MarginSeconds: new(int64(-1 << 63))},
			"a: fresh; the old one had expired 878400h0m0s before", ""},
		{"current",
			report.KeyRenewal{Outcome: report.KeyCurrent, ExpiresAt: &expiresAt, NextRotationAt: &expiresAt},
			"bootstrap key: current; it expires 2026-01-01T10:00:00Z; IBM makes the next one 2026-01-01T10:00:00Z", ""},
		{"renewed", report.KeyRenewal{Outcome: report.KeyRenewed, Warnings: []string{"x\n"}}, "bootstrap key: renewed; 1 warning", "bootstrap key: renewed\n  warning: x\\n\n"},
		{"not renewed",
			report.KeyRenewal{Outcome: report.KeyRenewalFailed, Error: &report.Error{Step: "exchange", Kind: "denied", Message: "m\x1b"}},
			`bootstrap key: failed; exchange: denied: m\x1b`, "bootstrap key: failed\n  exchange: denied: m\\x1b\n"},
	} {
		if got := test.result.Line(); got != test.line {
			t.Errorf("%s: got line\n%s\nwant\n%s", test.name, got, test.line)
		}
		if test.text == "" {
			test.text = test.line + "\n"
		}
		if got := test.result.Text(); got != test.text {
			t.Errorf("%s: got text\n%s\nwant\n%s", test.name, got, test.text)
		}
	}
}

func TestAReportForAPersonHasFailuresFirstAndTotals(t *testing.T) {
	var text strings.Builder
	err := report.Report{Results: []report.Result{
		{Rotation: "a", Outcome: report.Fresh},
		{Rotation: "b", Outcome: report.Failed, Error: &report.Error{Step: "save", Kind: "locked", Message: "m"}},
		{Rotation: "c", Outcome: report.Fresh},
	}, KeyRenewal: &report.KeyRenewal{Outcome: report.KeyRenewed}}.WriteText(&text)
	if want := "b: failed\n  save: locked: m\na: fresh\nc: fresh\n3 rotations: 1 failed, 2 fresh\nbootstrap key: renewed\n"; err != nil || text.String() != want {
		t.Errorf("got %s, %v; want\n%s", &text, err, want)
	}
}

// The documented forms, which others decode: every field, in this order.
func TestTheJSONIsTheDocumentedOne(t *testing.T) {
	const full = `{"run_id":"r","mode":"rotate","invoked_by":"schedule","force":true,"results":[{"rotation":"default","outcome":"failed","version_id":"v",` +
		`"expires_at":"2026-01-01T10:00:00Z","seconds_remaining":3599,"margin_seconds":598,"fingerprint":"f","attempts":1,"warnings":[],` +
		`"error":{"step":"save","kind":"denied","message":"m"}}]}`
	const least = `{"run_id":"r","mode":"rotate","results":[{"rotation":"default","outcome":"fresh","attempts":0,"warnings":[]}]}`
	for _, want := range []string{full, least} {
		decoded, err := report.Parse([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(decoded); err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
	const diagnosis = `{"checks":[{"check":"key-secret","rotation":"default","status":"failed","detail":"d","advice":"a"},` +
		`{"check":"save","status":"skipped","detail":"d"}],"ok":false}`
	decoded, err := report.ParseDiagnosis([]byte(diagnosis))
	if got, _ := json.Marshal(decoded); err != nil || string(got) != diagnosis {
		t.Errorf("got %s, %v; want %s", got, err, diagnosis)
	}
	for _, other := range []string{"", "null", "[]", "{}", `{"errorMessage":"x"}`, `{"results":1}`, `{"checks":{}}`, "<html>"} {
		if got, err := report.Parse([]byte(other)); err == nil {
			t.Errorf("report %q: got %+v, want an error", other, got)
		}
		if got, err := report.ParseDiagnosis([]byte(other)); err == nil {
			t.Errorf("diagnosis %q: got %+v, want an error", other, got)
		}
	}
}

func TestADiagnosisForAPerson(t *testing.T) {
	var text strings.Builder
	err := report.NewDiagnosis([]report.Check{
		{Name: "configuration", Status: report.CheckOK, Detail: "valid"},
		{Name: "key-secret", Rotation: "a", Status: report.CheckOK, Detail: "read"},
		{Name: "key-identity", Rotation: "a", Status: report.CheckOK, Detail: "read"},
		{Name: "token-secret", Rotation: "a", Status: report.CheckFailed, Detail: "it is gone", Advice: "make one\x07"},
		{Name: "token-locks", Rotation: "a", Status: report.CheckSkipped, Detail: "not tried: token-secret failed"},
		{Name: "stored-token", Rotation: "a", Status: report.CheckSkipped, Detail: "not tried: token-secret failed"},
		{Name: "save", Rotation: "a", Status: "new", Detail: "from a later version"},
	}).WriteText(&text)
	want := `rotation a
✗ token-secret          it is gone
                        → make one\a

✓ configuration         valid
rotation a
✓ key-secret            read
✓ key-identity          read
– token-locks           not tried: token-secret failed
                        nor stored-token
? save                  from a later version
1 check failed, 0 warnings
`
	if err != nil || text.String() != want {
		t.Errorf("got\n%s%v\nwant\n%s", &text, err, want)
	}
	for want, checks := range map[string][]report.Check{
		"nothing failed, 1 warning\n":                         {{Name: "a", Status: report.CheckWarning}},
		"nothing is wrong that can be seen without writing\n": nil,
	} {
		text.Reset()
		if _ = report.NewDiagnosis(checks).WriteText(&text); !strings.HasSuffix(text.String(), want) {
			t.Errorf("got %q, want %q", &text, want)
		}
	}
}

func TestARenewalThatChangesNothingIsNoNews(t *testing.T) {
	warned := []string{"why"}
	for _, test := range []struct {
		renewal report.KeyRenewal
		want    bool
	}{{report.KeyRenewal{Outcome: report.KeyCurrent}, false}, {report.KeyRenewal{Outcome: report.KeyCurrent, Warnings: warned}, true}, {report.KeyRenewal{Outcome: report.KeyRenewed}, true}} {
		if got := test.renewal.IsNews(); got != test.want {
			t.Errorf("%+v: got news %t", test.renewal, got)
		}
	}
}
