// Command invoke runs a built Lambda function on this machine: it is the Lambda Runtime API on a loopback port, and
// COMMAND is started as Lambda starts it. What runs is the very binary that is deployed; only AWS is missing.
//
// The protocol is https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, version 2018-06-01. The Extensions,
// Logs and Telemetry APIs are not served.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"
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
