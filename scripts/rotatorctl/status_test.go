package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// logged is a line of the log, so many seconds old.
func logged(age int, line string) entry {
	at := now.Add(-time.Duration(age) * time.Second)
	return newEntry(types.FilteredLogEvent{EventId: aws.String(fmt.Sprint(age, line)), Timestamp: aws.Int64(at.UnixMilli()), Message: aws.String(line + "\n")})
}

func said(age int, fields object) entry {
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return logged(age, string(text))
}

// ran is the report of one rotation, whose token has five minutes left; of a failure, at the step.
func ran(age int, mode, rotation, outcome, step string) entry {
	result := object{"rotation": rotation, "outcome": outcome, "attempts": 1, "warnings": []string{}, "expires_at": now.Add(299 * time.Second)}
	if step != "" {
		result["error"] = object{"step": step, "kind": "denied", "message": "no"}
	}
	return said(age, object{"msg": "report", "report": object{"mode": mode, "results": []object{result}}})
}

func notBegun(age int, why string) entry {
	return said(age, object{"msg": "the run could not begin", "error": why})
}

// shown is the status of these runs, with every time as T.
func shown(runs ...entry) (string, status) {
	s := newStatus("s", now.Add(-time.Hour), now.Add(-time.Hour/2), runs, now)
	p := &program{getenv: func(string) string { return "" }, isTerminal: func(any) bool { return false }}
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`).ReplaceAllString(s.text(p), "T"), s
}

// An ensure that comes every minute must not hide that rotate fails.
func TestStatusRemembersAFailedRun(t *testing.T) {
	t.Parallel()
	failed := ran(100, "rotate", "a", "failed", "read_key")
	fresh := ran(60, "ensure", "a", "fresh", "")
	const rotate = "  last rotate failed at T: read_key: denied: no\n"
	for _, tt := range []struct {
		name  string
		later []entry
		says  string // below the line of the last run
	}{
		{"fresh", []entry{fresh}, rotate},
		{"spared", []entry{ran(60, "ensure", "a", "already_done", "")}, rotate},
		{"itself", nil, "  read_key: denied: no\n"},
		{"twice", []entry{ran(60, "ensure", "a", "failed", "look")}, "  look: denied: no\n" + rotate},
		{"corrected", []entry{ran(90, "rotate", "a", "rotated", ""), fresh}, ""},
		{"done", []entry{ran(90, "rotate", "a", "already_done", ""), fresh}, ""},
		{"ensured", []entry{ran(90, "ensure", "a", "rotated", ""), fresh}, ""},
		{"checked", []entry{ran(90, "check", "a", "checked", ""), fresh}, ""},
		{"unsaved", []entry{ran(95, "rotate", "a", "failed", "save"), ran(90, "check", "a", "checked", ""), fresh}, "  last rotate failed at T: save: denied: no\n"},
		{"not mirrored", []entry{ran(95, "rotate", "a", "failed", "mirror"), ran(90, "check", "a", "checked", ""), fresh}, "  last rotate failed at T: mirror: denied: no\n"},
		{"check", []entry{ran(95, "rotate", "a", "rotated", ""), ran(90, "check", "a", "failed", "exchange"), fresh}, "  last check failed at T: exchange: denied: no\n"},
	} {
		text, s := shown(append([]entry{failed}, tt.later...)...)
		if _, below, _ := strings.Cut(text, "\n"); below != tt.says || s.OK != (tt.says == "") {
			t.Errorf("%s: got ok %v and %q, want %q", tt.name, s.OK, below, tt.says)
		}
	}
}

// A run without a report is shown until every rotation has reported again.
func TestStatusShowsRunsWithoutAReport(t *testing.T) {
	t.Parallel()
	first, second := ran(60, "ensure", "first", "fresh", ""), ran(20, "ensure", "second", "fresh", "")
	for _, tt := range []struct {
		name string
		runs []entry
		says string // empty: nothing of a lost run
	}{
		{"an odd event", []entry{first, notBegun(40, "mode \"x\" is not known")}, "the run at T could not begin: mode \"x\" is not known\n"},
		{"the newest", []entry{first, notBegun(40, "old"), notBegun(30, "IAM_URL: a\nTOKEN_SECRET: b")}, "the run at T could not begin: IAM_URL: a; TOKEN_SECRET: b\n"},
		{"the time up", []entry{first, logged(40, "2026-01-01T00:00:00.000Z 8f1b Task timed out after 120.00 seconds")}, "the run at T ended without a report: Task timed out after 120.00 seconds\n"},
		{"a process that ended", []entry{first, logged(40, "RequestId: 8f1b Error: Runtime exited with error: signal: killed\nRuntime.ExitError")}, "the run at T ended without a report: Error: Runtime exited with error: signal: killed\n"},
		{"one rotation was heard since", []entry{first, notBegun(40, "x"), second}, "the run at T could not begin: x\n"},
		{"all were heard since", []entry{notBegun(80, "x"), logged(70, "RequestId: 8f1b Error: Runtime exited"), first, second}, ""},
		{"Lambda's everyday words", []entry{first, logged(40, "REPORT RequestId: 8f1b\tDuration: 3.00 ms"), said(40, object{"msg": "rotation", "error": "Error: Task timed out"})}, ""},
		{"the loss first", []entry{first, notBegun(40, "x")}, "the run at T could not begin: x\nT first: "},
		{"no report at all", []entry{notBegun(40, "x")}, "the run at T could not begin: x\nno report since T: see rotatorctl logs and the alarms\n"},
		{"no line at all", nil, "no report since T: see rotatorctl logs and the alarms\n"},
	} {
		text, s := shown(tt.runs...)
		if encoded, err := json.Marshal(s); err != nil || strings.Contains(string(encoded), "null") {
			t.Errorf("%s: got %s, %v; want no null for an empty list", tt.name, encoded, err)
		}
		if !strings.Contains(text, tt.says) || strings.Contains(text, "the run") != strings.Contains(tt.says, "the run") || s.OK != (tt.says == "") {
			t.Errorf("%s: got ok %v and %q, want %q", tt.name, s.OK, text, tt.says)
		}
	}
}

// What is wrong comes first, and many are summed up.
func TestStatusOfTokens(t *testing.T) {
	t.Parallel()
	token := func(name, outcome string, fields object) entry {
		result := object{"rotation": name, "outcome": outcome, "attempts": 1}
		for field, value := range fields {
			result[field] = value
		}
		return said(10, object{"msg": "report", "report": object{"mode": "rotate", "results": []object{result}}})
	}
	// What has not run since the deployment, half an hour ago, is not deployed any more; what was known before still is.
	text, s := shown(ran(1900, "rotate", "gone", "failed", "look"), ran(1900, "rotate", "failed", "rotated", ""), token("a", "rotated", object{"expires_at": now.Add(time.Hour)}), token("unknown", "rotated", nil), token("warned", "rotated", object{"warnings": []string{"w"}}),
		token("expired", "fresh", object{"expires_at": now.Add(-4 * time.Second)}), token("failed", "failed", object{"error": object{"step": "look", "kind": "denied", "message": "no\x1b[2J"}}))
	want := `T expired: fresh; the stored token expired T (4s ago)
T failed: failed; the stored token expires T (in 4m59s)
  look: denied: no\x1b[2J
T a: rotated; the stored token expires T (in 1h0m0s)
T unknown: rotated
  the expiry of the stored token is not known
T warned: rotated
  warning: w
  the expiry of the stored token is not known
5 rotations: 1 failed, 3 rotated, 1 fresh; 1 token expired
`
	if text != want || s.OK {
		t.Errorf("got ok %v and\n%swant\n%s", s.OK, text, want)
	}
}

// log writes lines to the function's log that are so old.
func (a *account) log(age time.Duration, lines ...string) {
	a.t.Helper()
	stream := object{"logGroupName": "/aws/lambda/" + a.stack, "logStreamName": "s"}
	a.moto.MustCall(a.t, "logs", "Logs_20140328.CreateLogStream", stream)
	var events []object
	for _, line := range lines {
		events = append(events, object{"timestamp": time.Now().Add(-age).UnixMilli(), "message": line})
	}
	stream["logEvents"] = events
	a.moto.MustCall(a.t, "logs", "Logs_20140328.PutLogEvents", stream)
}

// A line of the log may come from anybody who can write to it.
func (a *account) hostileLog() {
	a.t.Helper()
	const title = "\x1b]0;owned\x07\u202e\u009b31m\r"
	lines := []string{
		title, `{"msg":"report","report":{"mode":"x` + "\u202e" + `\u001b[2J","results":[{"rotation":"\u001b[1mr","outcome":"failed\u009b","warnings":["\u001bw"],"error":{"step":"\u0007","kind":"\n","message":"\r\u2066"}}]}}`,
		`{"msg":"the run could not begin","error":"\u001b[31m\r\u202e"}`, `{"level":"ERROR","msg":"\u001bm","error":"\u0000"}`,
		`{"msg":"report","report":{"results":[{"rotation":"good","outcome":"rotated"},{"rotation":"bad","outcome":"failed"}]}}`,
		"RequestId: x Error: " + title, "Task timed out " + title, `{"msg":"report","report":`, `{"msg":"report","report":{"results":[null,{}]}}`, `{"msg":7}`, "null", "[]", "{", "\xff\xfe", strings.Repeat("[", 100_000),
	}
	a.log(0, lines...)
	for _, args := range []string{"logs", "logs --raw", "logs --failed", "logs --failed -o json", "logs -o json", "status --exit-zero -o json"} {
		got := a.must(0, args)
		for _, r := range strings.ReplaceAll(got.all(), "\n", "") {
			if !strconv.IsPrint(r) {
				a.t.Errorf("%s prints %U raw:\n%q", args, r, got.all())
				break
			}
		}
		if failed := strings.Contains(args, "--failed"); strings.HasPrefix(args, "logs") && (!strings.Contains(got.all(), "bad") || strings.Contains(got.all(), "good") == failed) {
			a.t.Errorf("%s: got %s, want what failed, and the rest unless --failed is given", args, got.all())
		}
		if strings.Contains(args, "json") && !json.Valid([]byte(got.stdout)) {
			a.t.Errorf("%s is no JSON: %s", args, got.stdout)
		}
	}
}
