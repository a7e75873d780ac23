package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// session is one run of this program.
type session struct {
	code           int
	stdout, stderr string
}

// lines returns the lines of stdout, each of which must be JSON.
func (s session) lines(t *testing.T) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(s.stdout, "\n"), "\n")
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("got the stdout line %q, want JSON", line)
		}
	}
	return lines
}

// output is a buffer that the program and its child may write to at once.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func runInvoke(t *testing.T, stdin string, args ...string) session {
	t.Helper()
	var stdout, stderr output
	code := run(context.Background(), args, os.Environ(), strings.NewReader(stdin), &stdout, &stderr)
	return session{code, stdout.buf.String(), stderr.buf.String()}
}

// with completes flags to a command line that runs the named function of functions.
func with(function string, flags ...string) []string {
	return append(flags, append([]string{"--", os.Args[0], "function"}, strings.Fields(function)...)...)
}

// TestAnswers runs each function as often as it has lines to print.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const exact, over = "6291556", "6291557" // bytes: the largest response, and one more
	tests := []struct {
		name, function string
		code           int
		lines          []string // regular expressions
		stderr         string   // a part of it
	}{
		{"a response", "print", 0, []string{`^"answered"$`}, ""},
		{"stdout of the function", "print", 0, []string{`^"answered"$`}, "said on stdout\n"},
		{"stderr of the function", "print", 0, []string{`^"answered"$`}, "said on stderr\n"},
		{"no response", "nothing", 0, []string{`^null$`, `^null$`}, ""},
		{"JSON of several lines", "pretty", 0, []string{`^{"a":1}$`}, ""},
		{"not JSON", "text", 0, []string{`^"\\u003cp\\u003e\\nhello"$`}, ""},
		{"an error", "fail", 1, []string{
			`^{"errorMessage":"no\\nsuch secret","errorType":"errorString"}$`,
			`^{"errorMessage":"no\\nsuch secret","errorType":"errorString"}$`,
		}, "invoke: 2 of 2 invocations failed\n"},
		{"an error that is not JSON", "odd-error", 1, []string{
			`^{"errorMessage":"out of\\nmemory","errorType":"Runtime.Unknown"}$`}, "error: 202"},
		{"a panic, each in a new process", "panic", 1, []string{
			`^{"errorMessage":"out of luck","errorType":"string","stackTrace":\[.*\]}$`,
			`^{"errorMessage":"out of luck","errorType":"string","stackTrace":\[.*\]}$`,
		}, "the process should exit"},
		{"an exit, each in a new process", "exit", 1, []string{
			`^{"errorMessage":"RequestId: [-0-9a-f]{36} Error: Runtime exited with error: exit status 3","errorType":"Runtime.ExitError"}$`,
			`"errorType":"Runtime.ExitError"`,
		}, ""},
		{"an exit before the first poll", "exit-early", 1, []string{
			`Runtime exited without providing a reason","errorType":"Runtime.ExitError"}$`,
			`"errorType":"Runtime.ExitError"`,
		}, ""},
		{"an error in initialising", "init-error", 1, []string{
			`^{"errorMessage":"no configuration","errorType":"Function.Config","stackTrace":\[\]}$`,
			`^{"errorMessage":"no configuration","errorType":"Function.Config","stackTrace":\[\]}$`,
		}, "told to end\n"},
		{"a stream that breaks off", "break-off", 1, []string{
			`^{"errorMessage":"the source ran dry","errorType":"errorString"}$`,
			`^{"errorMessage":"the source ran dry","errorType":"errorString"}$`,
		}, ""},
		{"the largest response", "large " + exact, 0, []string{`^"x+"$`}, ""},
		{"a larger response", "large " + over, 1, []string{
			`^{"errorMessage":"Response payload size \(6291557 bytes\) exceeded maximum allowed payload size \(6291556 bytes\).",` +
				`"errorType":"Function.ResponseSizeTooLarge"}$`,
			`"errorType":"Function.ResponseSizeTooLarge"`,
		}, "unexpected status code: 413"},
		{"only the first answer counts", "answer-wrongly", 0, []string{`^"first"$`, `^"first"$`},
			"response: 400 " + `{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}` + "\n" +
				"response: 202 " + `{"status":"OK"}` + "\n" +
				"response: 400 " + `{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}` + "\n" +
				"error: 400 " + `{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}` + "\n" +
				"error: 403 " + `{"errorMessage":"The runtime's initialisation is over","errorType":"InvalidStateTransition"}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := string(rune('0' + len(tt.lines)))
			got := runInvoke(t, "", with(tt.function, "-n", n)...)
			if got.code != tt.code {
				t.Errorf("got exit status %d, want %d; stderr:\n%s", got.code, tt.code, got.stderr)
			}
			lines := got.lines(t)
			if len(lines) != len(tt.lines) {
				t.Fatalf("got %d lines on stdout, want %d:\n%.500s", len(lines), len(tt.lines), got.stdout)
			}
			for i, line := range lines {
				if !regexp.MustCompile(tt.lines[i]).MatchString(line) {
					t.Errorf("line %d: got %.500s, want a match of %s", i+1, line, tt.lines[i])
				}
			}
			if !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("got the stderr\n%.2000s\nwant it to contain\n%s", got.stderr, tt.stderr)
			}
		})
	}
}

func TestWhatTheFunctionSees(t *testing.T) {
	t.Parallel()
	event := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(event, []byte("{\"mode\":\n \"check\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, stdin string
		flags       []string
		event       string
	}{
		{"no event", "", nil, `{}`},
		{"event from a file", "", []string{"-event", event}, `{"mode":"check"}`},
		{"event from stdin", ` null`, []string{"-event", "-"}, `null`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := time.Now()
			got := runInvoke(t, tt.stdin, with("look", append(tt.flags, "-n", "3", "-timeout", "30s")...)...)
			if got.code != exitOK {
				t.Fatalf("got exit status %d, want 0; stderr:\n%s", got.code, got.stderr)
			}
			ids := make(map[string]bool)
			pids := make(map[int]bool)
			for _, line := range got.lines(t) {
				var s sighting
				if err := json.Unmarshal([]byte(line), &s); err != nil {
					t.Fatal(err)
				}
				ids[s.RequestID], pids[s.PID] = true, true
				if string(s.Event) != tt.event {
					t.Errorf("got the event %s, want %s", s.Event, tt.event)
				}
				if uuid := `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`; !regexp.MustCompile(uuid).MatchString(s.RequestID) {
					t.Errorf("got the request id %q, want a version 4 UUID", s.RequestID)
				}
				if from, to := before.Add(30*time.Second-time.Millisecond), time.Now().Add(30*time.Second); s.Deadline.Before(from) || s.Deadline.After(to) {
					t.Errorf("got the deadline %v, want it from %v to %v", s.Deadline, from, to)
				}
				if !strings.HasPrefix(s.ARN, "arn:aws:lambda:") || !strings.HasSuffix(s.ARN, ":function:"+s.Name) || s.Name == "" {
					t.Errorf("got the ARN %q of the function %q, want one that ends in its name", s.ARN, s.Name)
				}
			}
			if len(ids) != 3 || len(pids) != 1 {
				t.Errorf("got %d request ids in %d processes, want 3 in 1", len(ids), len(pids))
			}
		})
	}
}
