package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// mustServe serves an API that has handed out the invocation with this id, as if a process had polled for it.
func mustServe(t *testing.T, id string) *runtimeAPI {
	t.Helper()
	api, err := serveRuntimeAPI("arn:test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.close)
	api.handOut(&poll{event: make(chan invocation, 1)}, invocation{id: id})
	return api
}

// mustPost posts the body and returns the status and body of what comes back.
func mustPost(t *testing.T, api *runtimeAPI, path, body string) (int, string) {
	t.Helper()
	resp, err := http.Post("http://"+api.address+"/2018-06-01/runtime/"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

func TestLateAnswerIsNotTakenForTheNextInvocation(t *testing.T) {
	t.Parallel()
	api := mustServe(t, "first")
	api.handOut(&poll{event: make(chan invocation, 1)}, invocation{id: "second"})
	for _, kind := range []string{"response", "error"} {
		if status, body := mustPost(t, api, "invocation/first/"+kind, `"late"`); status != http.StatusBadRequest {
			t.Errorf("late %s: got %d %s, want 400", kind, status, body)
		}
	}
	if status, body := mustPost(t, api, "invocation/second/response", `"in time"`); status != http.StatusAccepted {
		t.Errorf("got %d %s, want 202", status, body)
	}
	if got := <-api.answers; string(got.line) != `"in time"` || got.failed {
		t.Errorf(`got the answer %s (failed: %t), want "in time"`, got.line, got.failed)
	}
}

func TestTruncatedAnswerIsRefused(t *testing.T) {
	t.Parallel()
	api := mustServe(t, "id")
	conn, err := net.Dial("tcp", api.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /2018-06-01/runtime/invocation/id/response HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n\"half")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d, want 400", resp.StatusCode)
	}
	if status, body := mustPost(t, api, "invocation/id/response", `"whole"`); status != http.StatusAccepted {
		t.Errorf("the whole answer after it: got %d %s, want 202", status, body)
	}
}

func TestInitErrorExcludesPolling(t *testing.T) {
	t.Parallel()
	api, err := serveRuntimeAPI("arn:test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.close)
	if status, body := mustPost(t, api, "init/error", `{"errorMessage":"m","errorType":"T"}`); status != http.StatusAccepted {
		t.Errorf("first init error: got %d %s, want 202", status, body)
	}
	if status, body := mustPost(t, api, "init/error", `{"errorMessage":"m","errorType":"T"}`); status != http.StatusForbidden {
		t.Errorf("second init error: got %d %s, want 403", status, body)
	}
	resp, err := http.Get("http://" + api.address + "/2018-06-01/runtime/invocation/next")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("poll after it: got %d, want 403", resp.StatusCode)
	}
}

func TestPollEndsWhenItsClientLeaves(t *testing.T) {
	t.Parallel()
	api := mustServe(t, "id")
	ctx, leave := context.WithCancel(context.Background())
	request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/2018-06-01/runtime/invocation/next", nil)

	returned := make(chan struct{})
	go func() { api.next(httptest.NewRecorder(), request); close(returned) }()
	<-api.polls // taken, and no event follows
	leave()
	<-returned

	api.next(httptest.NewRecorder(), request) // not even taken
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

// TestResponseThatBreaksOff has the forms of the trailers that aws-lambda-go alone does not produce.
func TestResponseThatBreaksOff(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, errorType, errorBody string
		want                       string
	}{
		{"type and body", "E", "eyJlcnJvck1lc3NhZ2UiOiJtIn0=", `{"errorMessage":"m"}`},
		{"body alone", "", "eyJlcnJvck1lc3NhZ2UiOiJtIn0=", `{"errorMessage":"m"}`},
		{"type alone", "E", "", `{"errorMessage":"the response broke off","errorType":"E"}`},
		{"body not base64", "E", "{}", `{"errorMessage":"the response broke off","errorType":"E"}`},
		{"body null", "E", "bnVsbA==", `{"errorMessage":"null","errorType":"E"}`},
		{"body not JSON", "", "b29wcw==", `{"errorMessage":"oops","errorType":"Runtime.Unknown"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"half`))
			request.Trailer = http.Header{errorTypeHeader: {tt.errorType}, errorBodyHeader: {tt.errorBody}}
			got, err := readResponse(request)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.line) != tt.want || !got.failed {
				t.Errorf("got %s (failed: %t), want %s, failed", got.line, got.failed, tt.want)
			}
		})
	}
}

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

func TestReport(t *testing.T) {
	t.Parallel()
	const ms = `(0\.\d*[1-9]\d*|[1-9]\d*(\.\d{1,3})?)` // above 0
	first := `"init_ms":` + ms + `,"duration_ms":` + ms
	tests := []struct {
		name, function string
		lines          []string // regular expressions
	}{
		{"one process", "look", []string{
			`^{"invocation":1,` + first + `,"failed":false}$`,
			`^{"invocation":2,"duration_ms":` + ms + `,"failed":false}$`,
		}},
		{"errors in one process", "fail", []string{
			`^{"invocation":1,` + first + `,"failed":true}$`,
			`^{"invocation":2,"duration_ms":` + ms + `,"failed":true}$`,
		}},
		{"a process each", "exit", []string{
			`^{"invocation":1,` + first + `,"failed":true}$`,
			`^{"invocation":2,` + first + `,"failed":true}$`,
		}},
		{"never polled", "exit-early", []string{
			`^{"invocation":1,"duration_ms":0,"failed":true}$`,
			`^{"invocation":2,"duration_ms":0,"failed":true}$`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "report.jsonl")
			runInvoke(t, "", with(tt.function, "-n", "2", "-report", path)...)
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
			if len(lines) != len(tt.lines) {
				t.Fatalf("got %d lines, want %d:\n%s", len(lines), len(tt.lines), got)
			}
			for i, line := range lines {
				if !regexp.MustCompile(tt.lines[i]).MatchString(line) {
					t.Errorf("got %s, want a match of %s", line, tt.lines[i])
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("got a report of mode %v (%v), want 0600", info.Mode(), err)
			}
		})
	}
}
