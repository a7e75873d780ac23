package main

import (
	"context"
	"fmt"
	"io"
)

// invoker hands one event to one function, time after time.
type invoker struct {
	opts   options
	event  []byte
	fn     *function
	stdout io.Writer
	report *report

	box *sandbox // where the next invocation runs, unless it is gone
}

// newInvoker reads the event, finds COMMAND and creates the report: what can be wrong with the command line is found
// before anything is started. The caller must close the invoker.
func newInvoker(opts options, environ []string, stdin io.Reader, stdout, stderr io.Writer) (*invoker, error) {
	event, err := readEvent(opts.event, stdin)
	if err != nil {
		return nil, err
	}
	fn, err := newFunction(opts.command, environ, stderr)
	if err != nil {
		return nil, err
	}
	report, err := createReport(opts.report)
	if err != nil {
		return nil, err
	}
	return &invoker{opts: opts, event: event, fn: fn, stdout: stdout, report: report}, nil
}

// invokeAll invokes the function as often as asked and returns how many invocations failed. The error is this program's
// own, or an interruption: how the function fares is never an error here.
func (i *invoker) invokeAll(ctx context.Context) (failed int, err error) {
	for number := 1; number <= i.opts.invocations; number++ {
		out, err := i.invoke(ctx)
		if err != nil {
			return failed, err
		}
		if out.failed {
			failed++
		}
		if _, err := fmt.Fprintf(i.stdout, "%s\n", out.line); err != nil {
			return failed, fmt.Errorf("writing the answer to stdout: %w", err)
		}
		if err := i.report.write(number, out); err != nil {
			return failed, err
		}
		if err := i.box.settle(ctx); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// invoke runs one invocation in the process of the last one, or in a new one if that is gone. It starts one at the most,
// so that a function which cannot start fails its invocation and is not tried for ever.
func (i *invoker) invoke(ctx context.Context) (outcome, error) {
	if i.box.gone() {
		i.box.close()
		box, err := i.fn.start()
		if err != nil {
			return outcome{}, err
		}
		i.box = box
	}
	return i.box.invoke(ctx, newRequestID(), i.event, i.opts.timeout)
}

// close ends the process, if there is one, and waits for it.
func (i *invoker) close() {
	i.box.close()
	i.report.close()
}
