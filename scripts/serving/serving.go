// Package serving is what the commands share that serve a sandbox: a command line, and an HTTP server
// that answers until it is told to end.
package serving

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// shutdownTime is how long requests in flight may take to end.
const shutdownTime = 2 * time.Second

// Until answers what comes to listener until ctx ends, over TLS if the server has certificates.
// Requests in flight then see their context end, and are cut off when they do not end in time.
func Until(ctx context.Context, server *http.Server, listener net.Listener) error {
	server.BaseContext = func(net.Listener) context.Context { return ctx } // a delayed answer does not delay the end
	served := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			served <- server.ServeTLS(listener, "", "")
		} else {
			served <- server.Serve(listener)
		}
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// Origin is the origin that a client on this machine uses. A listener on every address is reached on
// the loopback one.
func Origin(addr net.Addr, secure bool) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return scheme + "://" + addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

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
