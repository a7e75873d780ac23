package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

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
