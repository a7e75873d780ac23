// Command invoke runs a built Lambda function on this machine, the same binary that is deployed. It starts COMMAND as
// Lambda would, and serves it the Lambda Runtime API on a loopback port.
//
// The protocol is https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, version 2018-06-01, without streamed
// responses and without the APIs for extensions. Statuses and errors are those of
// https://github.com/aws/aws-lambda-runtime-interface-emulator.
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
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"iam-token-rotator/scripts/serving"
)

func main() {
	// The environment may hold keys, so neither COMMAND nor this program may leave a core file.
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	ctx, interrupt := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { interrupt(interruption{(<-signals).(syscall.Signal)}) }()
	// When a reader closes stdout ("invoke … | head -1"), SIGPIPE would kill this program and leave COMMAND behind. With
	// the signal caught, a write fails instead. To ignore the signal is no option: COMMAND would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// interruption is the cause of a context that a signal ended. COMMAND is in its own process group and does not get the
// terminal's signals, so this program kills it before it ends.
type interruption struct{ syscall.Signal }

func (i interruption) Error() string { return "stopped by signal: " + i.String() }

// run is the whole program. It returns the exit status, see usage. When it returns, no process that it started is left,
// and their whole output is in stderr.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprint(stdout, usage)
		return serving.ExitOK
	}
	failed, code := 0, serving.ExitUsage
	if err == nil {
		failed, err = invokeAll(ctx, o, environ, stdin, stdout, stderr)
	}
	sig, interrupted := errors.AsType[interruption](err)
	switch {
	case interrupted:
		code = 128 + int(sig.Signal) // as a shell would show it
	case err == nil && failed == 0:
		return serving.ExitOK
	case err == nil:
		err, code = fmt.Errorf("%d of %d invocations failed", failed, o.invocations), serving.ExitError
	}
	_, _ = fmt.Fprintf(stderr, "invoke: %v\n", err)
	return code
}

const usage = `Runs a Lambda function's binary on this machine and invokes it.

  invoke [-event FILE] [-n 1] [-timeout 120s] [-report FILE] -- COMMAND…

COMMAND is started once, with this environment and the variables that Lambda adds, and gets the event n times.
Each response or error is one JSON line on stdout; what COMMAND prints goes to stderr.

  -event FILE    the event, JSON; - reads stdin (default: the event {})
  -n N           how many times to invoke (default 1)
  -timeout D     time limit of each invocation, such as 30s or 2m (default 120s), and of the start of a process. After
                 it the process is killed and the invocation has failed; the next invocation gets a new process.
  -report FILE   write {"invocation":1,"init_ms":8.1,"duration_ms":244.8,"failed":false} for each invocation

Exit status: 0 all succeeded, 1 an invocation failed, 2 usage, 128 + the signal that stopped it.

Examples:
  invoke -- build/local/iam-token-rotator
  echo '{"mode":"check"}' | invoke -event - -- build/local/iam-token-rotator
  invoke -n 20 -report timings.jsonl -- build/local/iam-token-rotator
`

type options struct {
	event, report string // names of files; event "-" is stdin, "" the event {}
	invocations   int
	timeout       time.Duration
	command       []string
}

// parseOptions returns flag.ErrHelp for -h.
func parseOptions(args []string) (o options, err error) {
	flags := flag.NewFlagSet("invoke", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.event, "event", "", "")
	flags.IntVar(&o.invocations, "n", 1, "")
	serving.DurationVar(flags, &o.timeout, "timeout", 120*time.Second, "")
	flags.StringVar(&o.report, "report", "", "")
	err = flags.Parse(args)
	o.command = flags.Args()
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		err = serving.WithoutKeys(err)
	case len(o.command) == 0:
		err = errors.New("no COMMAND: name the function's binary after --, for example -- build/local/iam-token-rotator")
	case o.invocations < 1:
		err = fmt.Errorf("-n is %d: give a number of invocations from 1 up", o.invocations)
	case o.timeout < time.Millisecond:
		err = fmt.Errorf("-timeout is %v: give a duration from 1ms up, such as 30s", o.timeout)
	}
	if err != nil {
		err = fmt.Errorf("%w\n%w", err, serving.ErrUsage)
	}
	return o, err
}

// invokeAll invokes the function o.invocations times and returns how many invocations failed. All are in one process,
// until that exits. Each invocation starts one process at most: a function that cannot start is not started forever. The
// error is one of this program, or an interruption.
func invokeAll(ctx context.Context, o options, environ []string, stdin io.Reader, stdout, stderr io.Writer) (failed int, err error) {
	event, err := readEvent(o.event, stdin)
	if err != nil {
		return 0, err
	}
	report := io.Discard
	if o.report != "" {
		file, err := os.OpenFile(o.report, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return 0, fmt.Errorf("creating the report: %w", err)
		}
		defer func() { _ = file.Close() }()
		report = file
	}
	var box *sandbox
	defer func() { box.stop() }()
	for number := 1; number <= o.invocations; number++ {
		if box.gone() {
			box.stop()
			if box, err = start(o.command, environ, stderr); err != nil {
				return failed, fmt.Errorf("cannot start COMMAND: %w: it must be the path of the function's binary, built for %s/%s and executable",
					err, runtime.GOOS, runtime.GOARCH)
			}
		}
		a, err := box.invoke(ctx, event, o.timeout)
		if err != nil {
			return failed, err
		}
		a.Invocation = number
		if a.Failed {
			failed++
		}
		_, err = fmt.Fprintf(stdout, "%s\n", a.line)
		if err == nil {
			err = json.NewEncoder(report).Encode(a)
		}
		if err != nil {
			return failed, fmt.Errorf("writing the answer or the report: %w", err)
		}
		if err := box.settle(ctx); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// readEvent returns the event, unchanged, or an error if it is not JSON. options explains name.
func readEvent(name string, stdin io.Reader) (event []byte, err error) {
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

// lambdaEnvironment returns the function's ARN, and the caller's environment with the variables that Lambda sets for a
// custom runtime; the caller adds AWS_LAMBDA_RUNTIME_API, which differs for each process. It keeps variables that are set
// already. The folder of executable, an absolute path, takes the place of /var/task.
//
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html ("Defined runtime environment variables")
func lambdaEnvironment(caller []string, executable string) (env []string, arn string) {
	set := map[string]string{}
	for _, line := range caller {
		name, value, _ := strings.Cut(line, "=")
		set[name] = value
	}
	name, region := cmp.Or(set["AWS_LAMBDA_FUNCTION_NAME"], "local"), cmp.Or(set["AWS_REGION"], set["AWS_DEFAULT_REGION"], "us-east-1")
	env = slices.Clone(caller)
	for _, line := range []string{
		"AWS_LAMBDA_FUNCTION_NAME=" + name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + strings.ReplaceAll(uuid.NewString(), "-", ""),
		"AWS_REGION=" + region,
		"LAMBDA_TASK_ROOT=" + filepath.Dir(executable),
		"_HANDLER=" + filepath.Base(executable),
	} {
		if variable, _, _ := strings.Cut(line, "="); set[variable] == "" {
			env = append(env, line)
		}
	}
	return env, "arn:aws:lambda:" + region + ":123456789012:function:" + name
}
