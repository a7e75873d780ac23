package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTimedOutInvocationIsFollowedByANewProcess(t *testing.T) {
	t.Parallel()
	got := runInvoke(t, "", with("hang-once "+filepath.Join(t.TempDir(), "hung"), "-n", "2", "-timeout", "3s")...)
	if got.code != exitFailed {
		t.Errorf("got exit status %d, want %d", got.code, exitFailed)
	}
	lines := got.lines(t)
	if len(lines) != 2 {
		t.Fatalf("got %d lines, want 2:\n%s", len(lines), got.stdout)
	}
	timedOut := `^{"errorMessage":"[-0-9a-f]{36} Task timed out after 3.00 seconds","errorType":"Sandbox.Timedout"}$`
	if !regexp.MustCompile(timedOut).MatchString(lines[0]) {
		t.Errorf("got %s, want a match of %s", lines[0], timedOut)
	}
	if lines[1] != `"done"` {
		t.Errorf("after the timeout: got %s, want \"done\"", lines[1])
	}
}

func TestProcessThatNeverPolls(t *testing.T) {
	t.Parallel()
	got := runInvoke(t, "", with("sleep", "-n", "2", "-timeout", "100ms")...)
	if got.code != exitFailed {
		t.Errorf("got exit status %d, want %d", got.code, exitFailed)
	}
	want := "Task timed out after 0.10 seconds without asking for an event"
	if n := strings.Count(got.stdout, want); n != 2 {
		t.Errorf("got %d lines with %q, want 2:\n%s", n, want, got.stdout)
	}
}

func TestAnswerStandsWhenTheProcessThenHangs(t *testing.T) {
	t.Parallel()
	got := runInvoke(t, "", with("answer-and-hang", "-n", "2", "-timeout", "1s")...)
	if got.code != exitOK {
		t.Errorf("got exit status %d, want 0", got.code)
	}
	if want := "\"answered\"\n\"answered\"\n"; got.stdout != want {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
	if n := strings.Count(got.stderr, "did not poll again before its deadline: killed"); n != 2 {
		t.Errorf("got %d notes of a killed process, want 2; stderr:\n%s", n, got.stderr)
	}
}
