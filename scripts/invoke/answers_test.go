package main

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

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
			got := runInvoke(t, "", with(tt.function, "-n", strconv.Itoa(len(tt.lines)))...)
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
