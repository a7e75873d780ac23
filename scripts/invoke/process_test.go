package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

func TestLastWordsOfAnIdleProcessAreKept(t *testing.T) {
	t.Parallel()
	got := runInvoke(t, "", with("last-words")...)
	if got.code != exitOK {
		t.Errorf("got exit status %d, want 0", got.code)
	}
	if want := strings.Repeat(".", 1<<20) + "farewell\n"; !strings.HasSuffix(got.stderr, want) {
		t.Errorf("got %d bytes of stderr, want the %d that the function wrote on SIGTERM", len(got.stderr), len(want))
	}
}

func TestProcessThatIgnoresSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	start := time.Now()
	got := runInvoke(t, "", with("ignore-sigterm")...)
	if got.code != exitOK {
		t.Errorf("got exit status %d, want 0", got.code)
	}
	if took := time.Since(start); took < stopGrace {
		t.Errorf("got an end after %v, want the process to have had %v to end by itself", took, stopGrace)
	}
}

// startInvoke starts this program as a process and returns it with a pipe that all it starts writes to, too. The pipe
// ends when the last of them has.
func startInvoke(t *testing.T, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	cmd := exec.Command(os.Args[0], append([]string{"invoke"}, args...)...)
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	return cmd, bufio.NewReader(read)
}

// exitStatus waits for cmd to end. It is -1 when a signal ended it.
func exitStatus(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestSignalLeavesNoProcessBehind(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd, stderr := startInvoke(t, with("family")...)
			if line, err := stderr.ReadString('\n'); line != "asleep\n" {
				t.Fatalf("got the first line %q (%v), want that of the function's child", line, err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			// It ends only when the function and its child have ended too; else the test times out here.
			rest, err := io.ReadAll(stderr)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("invoke: stopped by signal: %v\n", sig); string(rest) != want {
				t.Errorf("got the stderr %q, want %q", rest, want)
			}
			if got, want := exitStatus(t, cmd), 128+int(sig); got != want {
				t.Errorf("got exit status %d, want %d", got, want)
			}
		})
	}
}

func TestWhatAnExitedFunctionLeftRunningIsKilled(t *testing.T) {
	t.Parallel()
	cmd, stderr := startInvoke(t, with("leave-family")...)
	if _, err := io.ReadAll(stderr); err != nil { // see TestSignalLeavesNoProcessBehind
		t.Fatal(err)
	}
	if got := exitStatus(t, cmd); got != exitFailed {
		t.Errorf("got exit status %d, want %d", got, exitFailed)
	}
}

func TestClosedStdoutLeavesNoProcessBehind(t *testing.T) {
	t.Parallel()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	cmd := exec.Command(os.Args[0], append([]string{"invoke"}, with("look", "-n", "5")...)...)
	cmd.Stdout = write
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(stderr) // see TestSignalLeavesNoProcessBehind
	if err != nil {
		t.Fatal(err)
	}
	if want := "invoke: writing the answer to stdout: "; !strings.HasPrefix(string(said), want) {
		t.Errorf("got the stderr %q, want it to begin with %q", said, want)
	}
	if got := exitStatus(t, cmd); got != exitUsage {
		t.Errorf("got exit status %d, want %d", got, exitUsage)
	}
}

// TestMain lets the test binary be what the tests need as processes of their own: "function NAME …" is a Lambda function,
// "invoke …" is this program.
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

// sighting is what the function "look" sees of its surroundings.
type sighting struct {
	Event     json.RawMessage
	RequestID string
	ARN       string
	Deadline  time.Time
	PID       int
	Name      string // AWS_LAMBDA_FUNCTION_NAME as aws-lambda-go took it
}

// functions are COMMANDs. Those on aws-lambda-go behave as any function does; the others speak to the Runtime API
// themselves, to do what it never does.
var functions = map[string]func(args []string){
	"look": func([]string) {
		lambda.Start(func(ctx context.Context, event json.RawMessage) (sighting, error) {
			lc, _ := lambdacontext.FromContext(ctx)
			deadline, _ := ctx.Deadline()
			return sighting{event, lc.AwsRequestID, lc.InvokedFunctionArn, deadline, os.Getpid(), lambdacontext.FunctionName}, nil
		})
	},
	"fail":  func([]string) { lambda.Start(func() error { return errors.New("no\nsuch secret") }) },
	"panic": func([]string) { lambda.Start(func() { panic("out of luck") }) },
	"exit":  func([]string) { lambda.Start(func() { os.Exit(3) }) },
	"nothing": func([]string) {
		lambda.Start(func() (io.Reader, error) { return strings.NewReader(""), nil })
	},
	"text": func([]string) {
		lambda.Start(func() (io.Reader, error) { return strings.NewReader("<p>\nhello"), nil })
	},
	"pretty": func([]string) {
		lambda.Start(func() (io.Reader, error) { return strings.NewReader("{\n  \"a\": 1\n}\n"), nil })
	},
	"large": func(args []string) { // a JSON response of so many bytes
		size, _ := strconv.Atoi(args[0])
		lambda.Start(func() (string, error) { return strings.Repeat("x", size-len(`""`)), nil })
	},
	"break-off": func([]string) {
		lambda.Start(func() (io.Reader, error) {
			return io.MultiReader(strings.NewReader(`{"half`), brokenReader{}), nil
		})
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
	"ignore-sigterm": func([]string) {
		signal.Ignore(syscall.SIGTERM)
		lambda.Start(func() {})
	},
	"family": func([]string) { // with a process of its own that outlives it, unless the group is killed
		lambda.Start(func() {
			child := exec.Command(os.Args[0], "function", "sleep")
			child.Stdout = os.Stdout
			if err := child.Start(); err != nil {
				panic(err)
			}
			time.Sleep(time.Hour)
		})
	},
	"leave-family": func([]string) {
		child := exec.Command(os.Args[0], "function", "sleep")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			panic(err)
		}
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
		fmt.Println("told to end")
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
		for {
			id := nextID()
			post("invocation/00000000-0000-4000-8000-000000000000/response", `"not mine"`)
			post("invocation/"+id+"/response", `"first"`)
			post("invocation/"+id+"/response", `"second"`)
			post("invocation/"+id+"/error", `{"errorMessage":"third","errorType":"E"}`)
			post("init/error", `{"errorMessage":"fourth","errorType":"E"}`)
		}
	},
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the source ran dry") }

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

// post prints the status and body that come back.
func post(path, body string) {
	resp, err := http.Post(runtimeURL(path), "application/json", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	fmt.Printf("%s: %d %s", path[strings.LastIndex(path, "/")+1:], resp.StatusCode, got)
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

func TestLambdaEnvironment(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, variable string
		caller         []string
		want           string // a regular expression
	}{
		{"name", "AWS_LAMBDA_FUNCTION_NAME", nil, `^local$`},
		{"caller's name", "AWS_LAMBDA_FUNCTION_NAME", []string{"AWS_LAMBDA_FUNCTION_NAME=mine"}, `^mine$`},
		{"version", "AWS_LAMBDA_FUNCTION_VERSION", nil, `^\$LATEST$`},
		{"memory", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", nil, `^128$`},
		{"caller's memory", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", []string{"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512"}, `^512$`},
		{"log group", "AWS_LAMBDA_LOG_GROUP_NAME", nil, `^/aws/lambda/local$`},
		{"log group of the caller's name", "AWS_LAMBDA_LOG_GROUP_NAME", []string{"AWS_LAMBDA_FUNCTION_NAME=mine"}, `^/aws/lambda/mine$`},
		{"log stream", "AWS_LAMBDA_LOG_STREAM_NAME", nil, `^\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}$`},
		{"region", "AWS_REGION", nil, `^us-east-1$`},
		{"empty region", "AWS_REGION", []string{"AWS_REGION="}, `^us-east-1$`},
		{"caller's region", "AWS_REGION", []string{"AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-2"}, `^eu-west-1$`},
		{"caller's default region", "AWS_REGION", []string{"AWS_DEFAULT_REGION=eu-west-2"}, `^eu-west-2$`},
		{"task root", "LAMBDA_TASK_ROOT", nil, `^/build/rotate$`},
		{"handler", "_HANDLER", nil, `^bootstrap$`},
		{"anything else", "PATH", []string{"PATH=/bin"}, `^/bin$`},
		{"set twice: the last", "PATH", []string{"PATH=/sbin", "PATH=/bin"}, `^/bin$`},
		{"never ours to set", "AWS_LAMBDA_RUNTIME_API", nil, `^$`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := lookup(lambdaEnvironment(tt.caller, "/build/rotate/bootstrap"), tt.variable)
			if !regexp.MustCompile(tt.want).MatchString(got) {
				t.Errorf("got %s=%q, want a match of %s", tt.variable, got, tt.want)
			}
		})
	}
}

func TestUsageErrors(t *testing.T) {
	dir := t.TempDir()
	mustWrite := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	notJSON := mustWrite("event.json", `{"mode":`, 0o600)
	data := mustWrite("data", "x", 0o600)
	otherMachine := mustWrite("bootstrap", "\x7fELF and nothing more", 0o700)
	missing := filepath.Join(dir, "missing")
	// Not before: a process forked elsewhere while the file is open for writing would make it "text file busy".
	t.Parallel()

	tests := []struct {
		name   string
		args   []string
		stderr string // a part of it
	}{
		{"no COMMAND", nil, "no COMMAND: name the function's binary after --"},
		{"no COMMAND after --", []string{"-n", "2", "--"}, "no COMMAND"},
		{"unknown flag", []string{"-event-file", "x", "--", "true"}, "-event-file"},
		{"no invocation", []string{"-n", "0", "--", "true"}, "-n is 0"},
		{"no time", []string{"-timeout", "0s", "--", "true"}, "-timeout is 0s"},
		{"time without a unit", []string{"-timeout", "30", "--", "true"}, "-timeout"},
		{"event not there", []string{"-event", missing, "--", "true"}, "reading the event: open " + missing},
		{"event not JSON", []string{"-event", notJSON, "--", "true"}, "(-event " + notJSON + ") is not JSON"},
		{"empty event", []string{"-event", "-", "--", "true"}, "(-event -) is not JSON"},
		{"report in no directory", with("look", "-report", missing+"/r"), "creating the report: open " + missing + "/r"},
		{"COMMAND not there", []string{"--", missing}, "build it first"},
		{"COMMAND not on the path", []string{"--", "no-such-command"}, "is called ./no-such-command"},
		{"COMMAND not executable", []string{"--", data}, "chmod +x"},
		{"COMMAND a directory", []string{"--", dir}, "is it the function's binary?"},
		{"COMMAND for another machine", []string{"--", otherMachine}, "build it for this machine"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := runInvoke(t, "", tt.args...)
			if got.code != exitUsage {
				t.Errorf("got exit status %d, want %d", got.code, exitUsage)
			}
			if got.stdout != "" {
				t.Errorf("got the stdout %q, want none", got.stdout)
			}
			if !strings.HasPrefix(got.stderr, "invoke: ") || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("got the stderr %q, want it to contain %q", got.stderr, tt.stderr)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	got := runInvoke(t, "", "-h")
	if got.code != exitOK || got.stderr != "" {
		t.Errorf("got exit status %d and stderr %q, want 0 and none", got.code, got.stderr)
	}
	for _, flag := range []string{"-event", "-n", "-timeout", "-report", "Examples:"} {
		if !strings.Contains(got.stdout, flag) {
			t.Errorf("got a usage without %s:\n%s", flag, got.stdout)
		}
	}
}
