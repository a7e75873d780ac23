// Package serving is shared by commands: it parses command lines, and runs the sandboxes' HTTP servers until a
// context ends.
package serving

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// Exit codes.
const (
	ExitOK    = 0
	ExitError = 1
	ExitUsage = 2 // also if something is missing that must be installed or built first
)

// ErrUsage marks an error that a person must correct before a command can start. End prints it, too.
var ErrUsage = errors.New("run with -h for help")

// Main runs a command and exits with the code that it returns. SIGTERM or Ctrl-C ends the command's context.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Parse reads a command line that has only options, none of them empty, and calls check. For -h it prints
// usage, options and examples to stdout and returns flag.ErrHelp. Any other error is an ErrUsage.
func Parse(flags *flag.FlagSet, args []string, usage, examples string, stdout io.Writer, check func() error) error {
	flags.SetOutput(io.Discard) // errors are returned, and printed once
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		_, _ = fmt.Fprint(stdout, examples)
		return err
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	flags.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" {
			err = errors.Join(err, fmt.Errorf("-%s must not be empty", f.Name))
		}
	})
	if err == nil {
		err = check()
	}
	if err != nil {
		return fmt.Errorf("%w\n%w", WithoutKeys(err), ErrUsage)
	}
	return nil
}

// longWord matches everything that could be a key, which has 44 characters.
var longWord = regexp.MustCompile(`[A-Za-z0-9_.~+/=-]{40,}`)

// WithoutKeys removes from an error about a command line everything that could be a key: somebody may have put
// a key in the wrong place.
func WithoutKeys(err error) error {
	text := longWord.ReplaceAllStringFunc(err.Error(), func(word string) string {
		return fmt.Sprintf("(%d characters, not repeated here)", len(word))
	})
	if text == err.Error() {
		return err
	}
	return errors.New(text)
}

// DurationVar is flags.DurationVar, but its error says how to write a duration.
func DurationVar(flags *flag.FlagSet, d *time.Duration, name string, value time.Duration, usage string) {
	*d = value
	flags.Var((*duration)(d), name, usage)
}

type duration time.Duration

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	if _, number := strconv.ParseFloat(text, 64); err != nil && number == nil {
		return fmt.Errorf("say %ss for seconds", text)
	}
	if err != nil {
		return errors.New("use a duration such as 90s or 2m")
	}
	*d = duration(parsed)
	return nil
}

// SplitAddr splits the value of -addr.
func SplitAddr(addr string) (host string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("-addr must be host:port, not %q", addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", fmt.Errorf("-addr must have a port from 0 to 65535, not %q", port)
	}
	return host, nil
}

// End prints the error with which a command ended, if any, and returns the exit code.
func End(stderr io.Writer, name string, err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return ExitOK
	}
	_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err)
	if errors.Is(err, ErrUsage) {
		return ExitUsage
	}
	return ExitError
}

// Listen listens on addr.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listening: %w: stop what listens there, or choose another port: -addr, ADDR of make", err)
	} else if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return listener, nil
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

// Until serves until ctx ends, over TLS if the server has certificates. The contexts of requests in flight then
// end, too; requests that take 2 more seconds are cut off.
func Until(ctx context.Context, server *http.Server, listener net.Listener, stderr io.Writer) error {
	server.BaseContext = func(net.Listener) context.Context { return ctx } // ends delayed answers
	server.ReadHeaderTimeout = 10 * time.Second
	server.ErrorLog = log.New(stderr, "http: ", 0)
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
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
