package aws_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// nextRotation is where what is said of another begins.
var nextRotation = regexp.MustCompile(`(?m)^\w+: `)

// An ensure that comes every minute must not hide that rotate fails.
func TestStatusRemembersAFailedRun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		later []logLine // after a rotate failed at read_key
		says  string    // after the outcome of the last run
	}{
		{"fresh", []logLine{report(60, "ensure", "fresh", "fresh", "")}, "last rotate failed at T: read_key: denied: no"},
		{"spared", []logLine{report(60, "ensure", "spared", "already_done", "")}, "last rotate failed at T: read_key: denied: no"},
		{"itself", nil, "read_key: denied: no"},
		{"twice", []logLine{report(60, "ensure", "twice", "failed", "look")}, "look: denied: no\n  last rotate failed at T: read_key: denied: no"},
		{"mended", []logLine{report(90, "rotate", "mended", "rotated", ""), report(60, "ensure", "mended", "fresh", "")}, ""},
		{"done", []logLine{report(90, "rotate", "done", "already_done", ""), report(60, "ensure", "done", "fresh", "")}, ""},
		{"ensured", []logLine{report(90, "ensure", "ensured", "rotated", ""), report(60, "ensure", "ensured", "fresh", "")}, ""},
		{"checked", []logLine{report(90, "check", "checked", "checked", ""), report(60, "ensure", "checked", "fresh", "")}, ""},
		{"unsaved", []logLine{report(95, "rotate", "unsaved", "failed", "save"), report(90, "check", "unsaved", "checked", ""), report(60, "ensure", "unsaved", "fresh", "")}, "last rotate failed at T: save: denied: no"},
		{"uncopied", []logLine{report(95, "rotate", "uncopied", "failed", "mirror"), report(90, "check", "uncopied", "checked", ""), report(60, "ensure", "uncopied", "fresh", "")}, "last rotate failed at T: mirror: denied: no"},
		{"check", []logLine{report(95, "rotate", "check", "rotated", ""), report(90, "check", "check", "failed", "exchange"), report(60, "ensure", "check", "fresh", "")}, "last check failed at T: exchange: denied: no"},
	}
	var lines []logLine
	for _, tt := range tests {
		lines = append(append(lines, report(100, "rotate", tt.name, "failed", "read_key")), tt.later...)
	}
	got := statusOf(t, "remembers", lines...)
	if got.Exit != 0 || got.Stderr != "" {
		t.Fatalf("got exit %d, %s", got.Exit, got.Stderr)
	}
	for _, tt := range tests {
		_, after, _ := strings.Cut("\n"+got.Stdout, "\n"+tt.name+": ")
		says := nextRotation.Split(after, 2)[0]
		_, says, _ = strings.Cut(strings.TrimSpace(says), "; the stored token expires T (in while)")
		if strings.TrimSpace(says) != tt.says {
			t.Errorf("%s: got %q, want %q", tt.name, says, tt.says)
		}
	}
}

// A run that ends without a report must be heard of when it is the last word.
func TestStatusTellsOfRunsWithoutAReport(t *testing.T) {
	t.Parallel()
	const noise = "START RequestId: 8f1b Version: $LATEST\nEND RequestId: 8f1b\nREPORT RequestId: 8f1b\tDuration: 3.00 ms"
	first, second := report(60, "ensure", "first", "fresh", ""), report(20, "ensure", "second", "fresh", "")
	for i, tt := range []struct {
		name  string
		lines []logLine
		exit  int
		says  string // last; empty if it is a rotation's own line
	}{
		{"an odd event", []logLine{first, notBegun(40, "mode \"x\" is not known")}, 0, "the run at T could not begin: mode \"x\" is not known"},
		{"the newest", []logLine{first, notBegun(40, "old"), notBegun(30, "IAM_URL: a\nTOKEN_SECRET: b")}, 0, "the run at T could not begin: IAM_URL: a; TOKEN_SECRET: b"},
		{"the time up", []logLine{first, {40, "2026-01-01T00:00:00.000Z 8f1b Task timed out after 120.00 seconds"}}, 0, "the run at T ended without a report: Task timed out after 120.00 seconds"},
		{"a process that ended", []logLine{first, {40, "RequestId: 8f1b Error: Runtime exited with error: signal: killed\nRuntime.ExitError"}}, 0, "the run at T ended without a report: Error: Runtime exited with error: signal: killed"},
		{"one rotation was heard since", []logLine{first, notBegun(40, "x"), second}, 0, "the run at T could not begin: x"},
		{"all were heard since", []logLine{notBegun(80, "x"), {70, "RequestId: 8f1b Error: Runtime exited"}, first, second}, 0, ""},
		{"Lambda's everyday words", []logLine{first, {40, noise}, said(40, object{"msg": "rotation", "error": "Error: Task timed out"})}, 0, ""},
		{"no report at all", []logLine{notBegun(40, "x")}, 1, "stack: no report in the last hour: the run at T could not begin: x"},
		{"no line at all", nil, 1, "stack: no report in the last hour: do the schedules run? See make logs and the alarms"},
	} {
		got := statusOf(t, fmt.Sprint("silent-", i), tt.lines...)
		lines := strings.Split(strings.TrimSpace(got.All()), "\n")
		last := lines[len(lines)-1]
		if rotation := regexp.MustCompile(`^(first|second): fresh at T; `); got.Exit != tt.exit || last != tt.says && !(tt.says == "" && rotation.MatchString(last)) {
			t.Errorf("%s: got exit %d, want %d and last %q:\n%s", tt.name, got.Exit, tt.exit, tt.says, got.All())
		}
	}
}

// Whatever becomes of a token, the words are for a person.
func TestStatusOfAToken(t *testing.T) {
	t.Parallel()
	token := func(name string, fields object) logLine {
		result := object{"rotation": name, "outcome": "rotated", "attempts": 1}
		for field, value := range fields {
			result[field] = value
		}
		return said(10, object{"msg": "report", "report": object{"mode": "rotate", "results": []object{result}}})
	}
	got := statusOf(t, "tokens", token("gone", object{"expires_at": "2026-01-01T00:00:00Z"}), token("unknown", nil), token("warned", object{"warnings": []string{"w"}}))
	for _, want := range []string{"gone: rotated at T; the stored token EXPIRED T (while ago)\n", "unknown: rotated at T; the expiry of the stored token is not known\n", "\n  warning: w\n"} {
		if !strings.Contains(got.Stdout, want) {
			t.Errorf("got %s, want %q", got.All(), want)
		}
	}
}
