package serving

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes of a sandbox.
const (
	ExitOK    = 0
	ExitError = 1
	ExitUsage = 2 // or something that must be there first is missing
)

// ErrFirst is of what a person must see to before a sandbox can start.
var ErrFirst = errors.New("cannot start")

// Main runs a sandbox until SIGTERM or Ctrl-C, and exits with the code that it returns.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Parse reads a command line that has options alone. Help goes to stdout, with flag.ErrHelp returned.
func Parse(flags *flag.FlagSet, args []string, usage, examples string, stdout io.Writer) error {
	flags.SetOutput(io.Discard) // errors are returned, and printed once
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			flags.SetOutput(stdout)
			flags.PrintDefaults()
			fmt.Fprint(stdout, examples)
		}
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return nil
}

// Refuse tells of a command line that cannot be followed, unless it asked for help, and returns the
// exit code.
func Refuse(stderr io.Writer, name string, err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return ExitOK
	}
	fmt.Fprintf(stderr, "%s: %v\nRun with -h for help.\n", name, err)
	return ExitUsage
}

// End tells of the error with which a sandbox ended, if any, and returns the exit code.
func End(stderr io.Writer, name string, err error) int {
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	if errors.Is(err, ErrFirst) {
		return ExitUsage
	}
	return ExitError
}
