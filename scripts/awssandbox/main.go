// Command awssandbox serves a stand-in for AWS on one loopback port: moto_server, and an AWS Lambda
// that runs what is deployed. With scripts/sandbox, which stands for IBM Cloud, the whole deployment
// can be tried without an account.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/serving"
)

func main() { serving.Main(run) }

// run serves until ctx ends and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stdout)
	if err != nil {
		return serving.Refuse(stderr, "awssandbox", err)
	}
	return serving.End(stderr, "awssandbox", serve(ctx, o, stdout, stderr))
}

const usage = `usage: awssandbox [-addr 127.0.0.1:8481] [-env FILE|-] [-bin build/local]

Serves a stand-in for AWS in memory, until SIGTERM or Ctrl-C: moto_server (pip install 'moto[server]')
and an AWS Lambda that runs the deployed function. It enforces no permissions and no
patterns of a stack's parameters, and starts no schedules and no alarms. What it holds is made anew
at each start, a bucket for the code among it.

`

const examples = `
examples:
  awssandbox -env aws.env                then: set -a; . ./aws.env
  awssandbox -addr 127.0.0.1:0 -env -    a free port; the environment on stdout
`

// options are the command line's.
type options struct {
	addr string // host:port on loopback; port 0 picks a free one
	env  string // a file, "-" for stdout, or empty for none
	bin  string // the folder of the built scripts/invoke
}

// parseOptions reads the command line. Help goes to stdout, with flag.ErrHelp returned.
func parseOptions(args []string, stdout io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("awssandbox", flag.ContinueOnError)
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8481", "listen on `host:port` of the loopback interface; port 0 picks a free one")
	flags.StringVar(&o.env, "env", "", "once it listens, write the environment to `FILE`, - for stdout; it is removed at the end")
	flags.StringVar(&o.bin, "bin", "build/local", "`folder` of the built program invoke")
	if err := serving.Parse(flags, args, usage, examples, stdout); err != nil {
		return options{}, err
	}
	return o, o.validate(flags)
}

// validate checks the values; flags tells which were given.
func (o options) validate(flags *flag.FlagSet) error {
	var errs []error
	host, _, err := net.SplitHostPort(o.addr)
	if err != nil {
		errs = append(errs, fmt.Errorf("-addr must be host:port, not %q", o.addr))
	} else if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() {
		errs = append(errs, fmt.Errorf("-addr must be on loopback, not %q: whoever reaches it can run programs here", o.addr))
	}
	flags.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" && f.Name != "addr" {
			errs = append(errs, fmt.Errorf("-%s must not be empty", f.Name))
		}
	})
	return errors.Join(errs...)
}

// unset takes away what would lead the aws CLI elsewhere in spite of the variables, or say more than
// they do. An empty profile would be looked for, too.
const unset = "unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN\n"

// environment is what leads the aws CLI to origin, whatever account its user is used to, and what
// make deploy wants to know of AWS, for sh.
func environment(origin string) string {
	set := awstest.Environment(origin)
	maps.Copy(set, map[string]string{
		"AWS_DEFAULT_REGION": awstest.Region, // for version 1 of the CLI
		"BUCKET":             bucket,
		"ARCH":               runtime.GOARCH, // the function runs on this machine
	})
	var variables [][2]string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		variables = append(variables, [2]string{name, set[name]})
	}
	return unset + envfile.Lines(variables)
}

// bucket is made for the code of whatever is deployed.
const bucket = "iam-token-rotator-code"

// serve starts moto, listens, publishes the environment, and answers until ctx ends or moto does.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	invoke, err := findInvoke(o.bin)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	moto, err := startMoto(ctx)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer moto.Stop()
	origin := serving.Origin(listener.Addr(), false)
	if err := envfile.Publish(o.env, environment(origin), stdout); err != nil {
		return errors.Join(err, listener.Close())
	}
	if o.env != "" && o.env != "-" {
		defer func() { _ = os.Remove(o.env) }()
	}
	fmt.Fprintf(stderr, "awssandbox: serving AWS on %s\n", origin)

	whileMoto, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-moto.Ended()
		cancel()
	}()
	err = serving.Until(whileMoto, &http.Server{
		Handler:           &awstest.Lambda{Moto: moto, Program: invoke},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(stderr, "awssandbox: ", 0),
	}, listener)
	if err == nil && ctx.Err() == nil { // Ctrl-C ends both
		err = errors.New("moto_server has ended by itself")
	}
	return err
}

// findInvoke returns the absolute path of scripts/invoke, which can run what Lambda runs on Linux alone.
func findInvoke(bin string) (string, error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("%w: the deployed function is a program for Linux, this is %s", serving.ErrFirst, runtime.GOOS)
	}
	path, err := filepath.Abs(filepath.Join(bin, "invoke"))
	if err == nil {
		path, err = exec.LookPath(path)
	}
	if err != nil {
		return "", fmt.Errorf("%w: make build-local first: %w", serving.ErrFirst, err)
	}
	return path, nil
}

// startMoto starts moto with the bucket in it.
func startMoto(ctx context.Context) (*awstest.Moto, error) {
	moto, err := awstest.StartMoto()
	if errors.Is(err, awstest.ErrNotInstalled) {
		return nil, fmt.Errorf("%w: %w", serving.ErrFirst, err)
	}
	if err != nil {
		return nil, err
	}
	if err := moto.MakeBucket(ctx, bucket); err != nil {
		moto.Stop()
		return nil, err
	}
	return moto, nil
}
