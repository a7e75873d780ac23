package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

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
