package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"iam-token-rotator/scripts/serving"
)

// TestMain makes the test binary usable as other processes: with the arguments "function NAME …" it is a Lambda
// function, with "invoke …" it is this program.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "function" {
		functions[os.Args[2]](os.Args[3:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "invoke" {
		os.Args = append(os.Args[:1], os.Args[2:]...)
		main()
	}
	os.Exit(m.Run())
}

// sighting is what the function "look" returns: its event, context and process.
type sighting struct {
	Event     json.RawMessage
	RequestID string
	ARN       string
	Deadline  time.Time
	PID       int
}

// functions are COMMANDs, by name. Some use aws-lambda-go, as any function does. The others call the Runtime API
// themselves, to do what aws-lambda-go never does.
var functions = map[string]func(args []string){
	"look": func([]string) {
		lambda.Start(func(ctx context.Context, event json.RawMessage) (sighting, error) {
			lc, _ := lambdacontext.FromContext(ctx)
			deadline, _ := ctx.Deadline()
			return sighting{event, lc.AwsRequestID, lc.InvokedFunctionArn, deadline, os.Getpid()}, nil
		})
	},
	"answer": func(args []string) { // with a quoted text
		text, _ := strconv.Unquote(args[0])
		lambda.Start(func() (io.Reader, error) { return strings.NewReader(text), nil })
	},
	"fail":  func([]string) { lambda.Start(func() error { return errors.New("no\nsuch secret") }) },
	"panic": func([]string) { lambda.Start(func() { panic("out of luck") }) },
	"exit":  func([]string) { lambda.Start(func() { os.Exit(3) }) },
	"large": func(args []string) { // a JSON response of so many bytes
		size, _ := strconv.Atoi(args[0])
		lambda.Start(func() (string, error) { return strings.Repeat("x", size-len(`""`)), nil })
	},
	"hang-once": func(args []string) { // in the first process to create the file args[0]
		lambda.Start(func() (string, error) {
			if f, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				f.Close()
				time.Sleep(time.Hour)
			}
			return "done", nil
		})
	},
	"print": func([]string) {
		lambda.Start(func() (string, error) {
			fmt.Println("said on stdout")
			fmt.Fprintln(os.Stderr, "said on stderr")
			return "answered", nil
		})
	},
	"last-words": func([]string) {
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		go func() {
			<-terminated
			fmt.Println(strings.Repeat(".", 1<<20) + "farewell")
			os.Exit(0)
		}()
		lambda.Start(func() {})
	},
	"family": func([]string) { // with a child process that outlives it, unless the group is killed
		lambda.Start(func() {
			startSleeper()
			time.Sleep(time.Hour)
		})
	},
	"leave-family": func([]string) {
		startSleeper()
		os.Exit(4)
	},
	"sleep": func([]string) { // and heed nothing but SIGKILL
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		fmt.Println("asleep")
		time.Sleep(time.Hour)
	},
	"exit-early": func([]string) { os.Exit(0) },
	"init-error": func([]string) {
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		post("init/error", `{"errorMessage":"no configuration","errorType":"Function.Config","stackTrace":[]}`)
		<-terminated
		fmt.Println("got SIGTERM")
	},
	"odd-error": func([]string) {
		post("invocation/"+nextID()+"/error", "out of\nmemory")
		os.Exit(1)
	},
	"answer-and-hang": func([]string) {
		post("invocation/"+nextID()+"/response", `"answered"`)
		time.Sleep(time.Hour)
	},
	"answer-wrongly": func([]string) {
		post("invocation/init/response", `"none"`)
		post("invocation/%2Finit/error", `{"errorMessage":"none","errorType":"E"}`)
		for {
			id := nextID()
			post("invocation/00000000-0000-4000-8000-000000000000/response", `"not mine"`)
			post("invocation/"+id+"/response", `"first"`)
			post("invocation/"+id+"/response", `"second"`)
			post("invocation/"+id+"/error", `{"errorMessage":"third","errorType":"E"}`)
			post("init/error", `{"errorMessage":"fourth","errorType":"E"}`)
		}
	},
	"cut-short": func([]string) { // then whole
		id := nextID()
		conn, err := net.Dial("tcp", os.Getenv("AWS_LAMBDA_RUNTIME_API"))
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(conn, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\n\"half", id, conn.RemoteAddr())
		conn.(*net.TCPConn).CloseWrite()
		got, _ := io.ReadAll(conn)
		fmt.Printf("%.12s\n", got)
		post("invocation/"+id+"/response", `"whole"`)
		nextID()
	},
	"foreign": func([]string) { // sends requests as web pages would that know the port and even the request id
		id := nextID()
		for _, header := range []string{"Origin: http://evil.example", "Origin: null", "Origin: http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API"), "Host: evil.example", "Host: localhost"} {
			for _, path := range []string{"POST init/error", "POST invocation/" + id + "/response", "POST invocation/" + id + "/error", "GET invocation/next"} {
				method, path, _ := strings.Cut(path, " ")
				r, _ := http.NewRequest(method, runtimeURL(path), strings.NewReader(`"forged"`))
				name, value, _ := strings.Cut(header, ": ")
				r.Header.Set(name, value)
				if name == "Host" {
					r.Host = value
				}
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					panic(err)
				}
				resp.Body.Close()
				fmt.Print(resp.StatusCode, " ")
			}
		}
		post("invocation/"+id+"/response", `"true"`)
		nextID()
	},
}

func startSleeper() {
	child := exec.Command(os.Args[0], "function", "sleep")
	child.Stdout = os.Stdout
	if err := child.Start(); err != nil {
		panic(err)
	}
}

func runtimeURL(path string) string {
	return "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/" + path
}

// nextID polls for an event and returns its request id.
func nextID() string {
	resp, err := http.Get(runtimeURL("invocation/next"))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
}

// post sends a request to the Runtime API and prints the status.
func post(path, body string) {
	resp, err := http.Post(runtimeURL(path), "application/json", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	fmt.Printf("%s: %d\n", path[strings.LastIndex(path, "/")+1:], resp.StatusCode)
}

// output is a buffer for concurrent writes of the program and its child.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// runInvoke runs this program and checks that stdout has only lines of JSON.
func runInvoke(t *testing.T, stdin string, args ...string) (code int, lines []string, stderr string) {
	t.Helper()
	var out, err output
	code = run(context.Background(), args, os.Environ(), strings.NewReader(stdin), &out, &err)
	for line := range strings.Lines(out.buf.String()) {
		if lines = append(lines, strings.TrimSuffix(line, "\n")); !json.Valid([]byte(line)) {
			t.Errorf("got the stdout line %q, want JSON", line)
		}
	}
	return code, lines, err.buf.String()
}

// with returns a command line with these flags and, as COMMAND, a function of functions with its arguments.
func with(function string, flags ...string) []string {
	return append(flags, append([]string{"--", os.Args[0], "function"}, strings.Fields(function)...)...)
}

// match compares each line with a regular expression.
func match(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %d lines, want %d:\n%.500s", what, len(got), len(want), strings.Join(got, "\n"))
	}
	for i, line := range got {
		if !regexp.MustCompile(want[i]).MatchString(line) {
			t.Errorf("%s, line %d: got %.500s, want a match of %s", what, i+1, line, want[i])
		}
	}
}

// TestAnswers runs each function as often as it has lines to print.
func TestAnswers(t *testing.T) {
	const exact, over = "6291556", "6291557" // bytes: the largest response, and one more
	const ms = `(0\.\d*[1-9]\d*|[1-9]\d*(\.\d{1,3})?)`
	const first, later, none = `{"invocation":1,"init_ms":` + ms + `,"duration_ms":` + ms, `{"invocation":2,"duration_ms":` + ms, `,"duration_ms":0,`
	const exited = `^{"errorMessage":"RequestId: [-0-9a-f]{36} Error: Runtime exited with`
	for _, tt := range []struct {
		name, function string
		code           int
		lines          []string // regular expressions
		stderr         string   // a part of it
		reports        []string // regular expressions, nil for any
	}{
		{"a response", "print", 0, []string{`^"answered"$`, `^"answered"$`}, "said on stdout\nsaid on stderr\n", []string{first, later}},
		{"no response", `answer ""`, 0, []string{`^null$`, `^null$`}, "", nil},
		{"JSON of several lines", `answer "{\n\t\"a\":1\n}"`, 0, []string{`^{"a":1}$`}, "", nil},
		{"not JSON", `answer "<p>\nhello"`, 0, []string{`^"\\u003cp\\u003e\\nhello"$`}, "", nil},
		{"an error", "fail", 1, []string{`^{"errorMessage":"no\\nsuch secret","errorType":"errorString"}$`, `"errorString"`},
			"invoke: 2 of 2 invocations failed\n", []string{first + `,"failed":true}`, later + `,"failed":true}`}},
		{"an error that is not JSON", "odd-error", 1, []string{`^{"errorMessage":"out of\\nmemory","errorType":"Runtime.Unknown"}$`}, "error: 202\n", nil},
		{"a panic, each in a new process", "panic", 1, []string{`^{"errorMessage":"out of luck","errorType":"string","stackTrace":\[.*\]}$`, `"out of luck"`},
			"the process should exit", nil},
		{"an exit, each in a new process", "exit", 1, []string{exited + ` error: exit status 3","errorType":"Runtime.ExitError"}$`, exited}, "",
			[]string{first, strings.Replace(first, "1", "2", 1)}},
		{"an exit before the first poll", "exit-early", 1, []string{exited + `out providing a reason","errorType":"Runtime.ExitError"}$`, exited}, "", []string{none, none}},
		{"an error in initialising", "init-error", 1, []string{`^{"errorMessage":"no configuration","errorType":"Function.Config","stackTrace":\[\]}$`, `"no configuration"`},
			"got SIGTERM\n", nil},
		{"the largest response", "large " + exact, 0, []string{`^"x+"$`}, "", nil},
		{"a larger response", "large " + over, 1, []string{`^{"errorMessage":"Response payload size \(6291557 bytes\) exceeded maximum allowed payload size \(6291556 bytes\).",` +
			`"errorType":"Function.ResponseSizeTooLarge"}$`, `TooLarge`}, "unexpected status code: 413", nil},
		{"only the first answer counts", "answer-wrongly", 0, []string{`^"first"$`, `^"first"$`},
			"response: 400\nerror: 400\nresponse: 400\nresponse: 202\nresponse: 400\nerror: 400\nerror: 403\n", nil},
		{"a response cut short", "cut-short", 0, []string{`^"whole"$`}, "HTTP/1.1 400\nresponse: 202", nil},
		{"requests from elsewhere", "foreign", 0, []string{`^"true"$`}, strings.Repeat("403 ", 20) + "response: 202", nil},
		{"last words of an idle process", "last-words", 0, []string{`^null$`}, strings.Repeat(".", 1<<20) + "farewell\n", nil},
		{"a timeout, then a new process", "hang-once " + filepath.Join(t.TempDir(), "hung") + " -timeout 3s", 1,
			[]string{`^{"errorMessage":"[-0-9a-f]{36} Task timed out after 3.00 seconds","errorType":"Sandbox.Timedout"}$`, `^"done"$`}, "", nil},
		{"a process that never polls", "sleep -timeout 100ms", 1, []string{"Task timed out after 0.10 seconds without asking for an event", "Sandbox.Timedout"}, "", nil},
		{"an answer stands when the process then hangs", "answer-and-hang -timeout 1s", 0, []string{`^"answered"$`, `^"answered"$`},
			"did not poll again before its deadline: killed", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "report.jsonl")
			function, timeout, found := strings.Cut(tt.function, " -timeout ")
			if !found {
				timeout = "30s"
			}
			code, lines, stderr := runInvoke(t, "", with(function, "-n", strconv.Itoa(len(tt.lines)), "-timeout", timeout, "-report", path)...)
			if code != tt.code || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("got exit status %d, want %d; stderr:\n%.2000s\nwant it to contain\n%.2000s", code, tt.code, stderr, tt.stderr)
			}
			match(t, "stdout", lines, tt.lines)
			report, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if tt.reports != nil {
				match(t, "report", strings.Split(strings.TrimSuffix(string(report), "\n"), "\n"), tt.reports)
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("got a report of mode %v (%v), want 0600", info.Mode(), err)
			}
		})
	}
}

// When this program ends, no process is left: not if a signal ends it, not if its reader is gone, and not if a
// function exited and left a child running.
func TestNoProcessIsLeftBehind(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		signal syscall.Signal // sent once the function's child prints "asleep"; 0 for none
		code   int
		stderr string // the end of it
	}{
		{with("family"), syscall.SIGINT, 130, "invoke: stopped by signal: interrupt\n"},
		{with("family"), syscall.SIGTERM, 143, "invoke: stopped by signal: terminated\n"},
		{with("family"), syscall.SIGHUP, 129, "invoke: stopped by signal: hangup\n"},
		{with("leave-family"), 0, serving.ExitError, "invoke: 1 of 1 invocations failed\n"},
		{with("look", "-n", "5"), 0, serving.ExitUsage, "broken pipe\n"}, // stdout is closed
	} {
		t.Run(fmt.Sprint(tt.signal, tt.code), func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], append([]string{"invoke"}, tt.args...)...)
			if tt.code == serving.ExitUsage {
				read, write, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				read.Close()
				defer write.Close()
				cmd.Stdout = write
			}
			stderr, err := cmd.StderrPipe() // ends when the last of all that write to it has
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var said []byte
			if tt.signal != 0 {
				said = make([]byte, len("asleep\n"))
				if _, err := io.ReadFull(stderr, said); err != nil || string(said) != "asleep\n" {
					t.Fatalf("got %q (%v), want what the function's child prints", said, err)
				}
				_ = cmd.Process.Signal(tt.signal)
			}
			rest, _ := io.ReadAll(stderr)
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != tt.code || !strings.HasSuffix(string(rest), tt.stderr) {
				t.Errorf("got exit status %d and %q, want %d and %q", got, rest, tt.code, tt.stderr)
			}
		})
	}
}

func TestWhatTheFunctionSees(t *testing.T) {
	event := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(event, []byte("{\"mode\":\n \"check\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		stdin string
		flags []string
		event string
	}{
		{"", nil, `{}`},
		{"", []string{"-event", event}, `{"mode":"check"}`},
		{` null`, []string{"-event", "-"}, `null`},
	} {
		before := time.Now()
		code, lines, stderr := runInvoke(t, tt.stdin, with("look", append(tt.flags, "-n", "3", "-timeout", "30s")...)...)
		if code != serving.ExitOK {
			t.Fatalf("got exit status %d, want 0; stderr:\n%s", code, stderr)
		}
		ids, pids := map[string]bool{}, map[int]bool{}
		for _, line := range lines {
			var s sighting
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				t.Fatal(err)
			}
			ids[s.RequestID], pids[s.PID] = true, true
			if string(s.Event) != tt.event {
				t.Errorf("got the event %s, want %s", s.Event, tt.event)
			}
			match(t, "request id", []string{s.RequestID}, []string{`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`})
			match(t, "ARN", []string{s.ARN}, []string{`^arn:aws:lambda:[a-z0-9-]+:123456789012:function:.+$`})
			if from, to := before.Add(30*time.Second-time.Millisecond), time.Now().Add(30*time.Second); s.Deadline.Before(from) || s.Deadline.After(to) {
				t.Errorf("got the deadline %v, want it from %v to %v", s.Deadline, from, to)
			}
		}
		if len(ids) != 3 || len(pids) != 1 {
			t.Errorf("got %d request ids in %d processes, want 3 in 1", len(ids), len(pids))
		}
	}
}

func TestLambdaEnvironment(t *testing.T) {
	for _, tt := range []struct {
		caller []string
		want   []string // regular expressions, in the order of what is added
	}{
		{nil, []string{"_NAME=local$", `_VERSION=\$LATEST$`, "_MEMORY_SIZE=128$", "_GROUP_NAME=/aws/lambda/local$", `_STREAM_NAME=\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}$`,
			"^AWS_REGION=us-east-1$", "^LAMBDA_TASK_ROOT=/build/rotate$", "^_HANDLER=bootstrap$"}},
		{[]string{"PATH=/sbin", "PATH=/bin", "AWS_LAMBDA_FUNCTION_NAME=mine", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512", "AWS_REGION=", "AWS_DEFAULT_REGION=eu-west-2"},
			[]string{"_VERSION=", "_GROUP_NAME=/aws/lambda/mine$", "_STREAM_NAME=", "^AWS_REGION=eu-west-2$", "^LAMBDA_TASK_ROOT=", "^_HANDLER="}},
		{[]string{"AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-2", "_HANDLER=h", "LAMBDA_TASK_ROOT=/t"},
			[]string{"_NAME=local$", "_VERSION=", "_MEMORY_SIZE=", "_GROUP_NAME=", "_STREAM_NAME="}},
	} {
		env, _ := lambdaEnvironment(tt.caller, "/build/rotate/bootstrap")
		match(t, fmt.Sprint(tt.caller), env[len(tt.caller):], tt.want)
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	notJSON, data, missing := write("event.json", `{"mode":`, 0o600), write("data", "x", 0o600), filepath.Join(dir, "missing")
	otherMachine := write("bootstrap", "\x7fELF and nothing more", 0o700)
	for _, tt := range []struct {
		args   []string
		stderr string // a part of it
	}{
		{nil, "no COMMAND: name the function's binary after --"},
		{[]string{"-event-file", "x", "--", "true"}, "-event-file"},
		{[]string{"-n", "0", "--", "true"}, "-n is 0"},
		{[]string{"-timeout", "0s", "--", "true"}, "-timeout is 0s"},
		{[]string{"-timeout", "30", "--", "true"}, "say 30s for seconds"},
		{[]string{"-timeout", "soon", "--", "true"}, "use a duration such as 90s"},
		{[]string{"-event", missing, "--", "true"}, "reading the event: open " + missing},
		{[]string{"-event", notJSON, "--", "true"}, "(-event " + notJSON + ") is not JSON"},
		{[]string{"-event", "-", "--", "true"}, "(-event -) is not JSON"},
		{with("look", "-report", missing+"/r"), "creating the report: open " + missing + "/r"},
		{[]string{"--", missing}, "cannot start COMMAND: "},
		{[]string{"--", data}, "permission denied: it must be the path"},
		{[]string{"--", otherMachine}, "exec format error: it must be the path of the function's binary, built for "},
	} {
		code, lines, stderr := runInvoke(t, "", tt.args...)
		if code != serving.ExitUsage || lines != nil || !strings.HasPrefix(stderr, "invoke: ") || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("%q: got exit status %d, %q and %q; want 2, nothing and %q", tt.args, code, lines, stderr, tt.stderr)
		}
	}
	var stdout, stderr output
	code := run(context.Background(), []string{"-h"}, nil, nil, &stdout, &stderr)
	if code != serving.ExitOK || stderr.buf.Len() > 0 || stdout.buf.String() != usage {
		t.Errorf("-h: got exit status %d, %q and %q; want 0 and the usage", code, stdout.buf.String(), stderr.buf.String())
	}
}
