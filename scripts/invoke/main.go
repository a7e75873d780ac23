// Command invoke runs a built Lambda function on this machine: it is the Lambda Runtime API on a loopback port, and
// COMMAND is started as Lambda starts it. What runs is the very binary that is deployed; only AWS is missing.
//
// The protocol is https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, version 2018-06-01. The Extensions,
// Logs and Telemetry APIs are not served.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	exitOK     = 0
	exitFailed = 1 // an invocation failed
	exitUsage  = 2 // nothing to run, or this program could not do its own work
)

func main() {
	// The environment that COMMAND gets may hold keys: neither it nor this program leaves a core file.
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program with its surroundings passed in, and returns the exit status: 0, 1 if an invocation failed,
// 2 for a usage error, 128 + the signal's number when one ended it. When it returns, no process that it started is
// left, and what they wrote is in stderr.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	opts, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "invoke: %v\nRun it with -h for the usage.\n", err)
		return exitUsage
	}
	inv, err := newInvoker(opts, environ, stdin, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "invoke: %v\n", err)
		return exitUsage
	}
	failed, err := inv.invokeAll(ctx)
	inv.close()
	if sig, ok := errors.AsType[interruption](err); ok {
		fmt.Fprintf(stderr, "invoke: %v\n", sig)
		return sig.exitStatus()
	}
	if err != nil {
		fmt.Fprintf(stderr, "invoke: %v\n", err)
		return exitUsage
	}
	if failed > 0 {
		fmt.Fprintf(stderr, "invoke: %d of %d invocations failed\n", failed, opts.invocations)
		return exitFailed
	}
	return exitOK
}

const usage = `Runs a Lambda function's binary on this machine and invokes it.

  invoke [-event FILE] [-n 1] [-timeout 120s] [-report FILE] -- COMMAND…

COMMAND is started once, with this environment and the variables that Lambda adds, and is handed the event n times.
Each response or error is one JSON line on stdout; what COMMAND prints goes to stderr.

  -event FILE    the event, JSON; - reads stdin (default: the event {})
  -n N           how many times to invoke (default 1)
  -timeout D     the deadline told to the function, as 30s or 2m (default 120s). Past it the process is killed and
                 the invocation has failed; the next one gets a new process. Starting up may take as long again.
  -report FILE   write {"invocation":1,"init_ms":8.1,"duration_ms":244.8,"failed":false} for each invocation

Exit status: 0 all succeeded, 1 an invocation failed, 2 usage, 128 + the signal that stopped it.

Examples:
  invoke -- ./build/rotate/bootstrap
  echo '{"mode":"check"}' | invoke -event - -- ./build/rotate/bootstrap
  invoke -n 20 -report timings.jsonl -- ./build/rotate/bootstrap
`

// options is the command line, checked.
type options struct {
	event       string // a file's name, "-" for stdin, "" for the event {}
	invocations int
	timeout     time.Duration
	report      string // a file's name, "" for none
	command     []string
}

// parseOptions returns flag.ErrHelp for -h.
func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("invoke", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.event, "event", "", "")
	flags.IntVar(&o.invocations, "n", 1, "")
	flags.DurationVar(&o.timeout, "timeout", 120*time.Second, "")
	flags.StringVar(&o.report, "report", "", "")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	o.command = flags.Args()
	switch {
	case len(o.command) == 0:
		return options{}, errors.New("no COMMAND: name the function's binary after --, as in -- ./build/rotate/bootstrap")
	case o.invocations < 1:
		return options{}, fmt.Errorf("-n is %d: give a number of invocations from 1 up", o.invocations)
	case o.timeout < time.Millisecond:
		return options{}, fmt.Errorf("-timeout is %v: give a duration from 1ms up, such as 30s", o.timeout)
	}
	return o, nil
}

// readEvent returns the event that name stands for (see options.event), byte for byte, once it is known to be JSON.
func readEvent(name string, stdin io.Reader) ([]byte, error) {
	var event []byte
	var err error
	switch name {
	case "":
		return []byte("{}"), nil
	case "-":
		event, err = io.ReadAll(stdin)
	default:
		event, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the event: %w", err)
	}
	if err := json.Unmarshal(event, new(json.RawMessage)); err != nil {
		return nil, fmt.Errorf("the event (-event %s) is not JSON: %w", name, err)
	}
	return event, nil
}

// lambdaEnvironment returns the caller's environment with the variables that Lambda sets for a custom runtime, but for
// AWS_LAMBDA_RUNTIME_API, which each process gets anew. What the caller has set stays. executable is the absolute path
// of the function's binary; its directory stands for /var/task.
//
// The list is https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html ("Defined runtime environment
// variables").
func lambdaEnvironment(caller []string, executable string) []string {
	name := cmp.Or(lookup(caller, "AWS_LAMBDA_FUNCTION_NAME"), "local")
	stream := time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + strings.ReplaceAll(newRequestID(), "-", "")
	env := caller[:len(caller):len(caller)]
	for _, variable := range [][2]string{
		{"AWS_LAMBDA_FUNCTION_NAME", name},
		{"AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"},
		{"AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"},
		{"AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/" + name},
		{"AWS_LAMBDA_LOG_STREAM_NAME", stream},
		{"AWS_REGION", cmp.Or(lookup(caller, "AWS_DEFAULT_REGION"), "us-east-1")},
		{"LAMBDA_TASK_ROOT", filepath.Dir(executable)},
		{"_HANDLER", filepath.Base(executable)},
	} {
		if lookup(caller, variable[0]) == "" {
			env = append(env, variable[0]+"="+variable[1])
		}
	}
	return env
}

// lookup returns the last value of name in env ("NAME=value" lines), as a process started with env would see it, or "".
func lookup(env []string, name string) string {
	var value string
	for _, line := range env {
		if key, v, ok := strings.Cut(line, "="); ok && key == name {
			value = v
		}
	}
	return value
}
