// Command awssandbox emulates AWS on one loopback port: moto_server, and an AWS Lambda that runs what is deployed. With
// scripts/sandbox, which emulates IBM Cloud, the whole deployment can be tried without an account.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/serving"
)

func main() { serving.Main(run) }

// run serves until ctx ends and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stdout)
	if err == nil {
		err = serve(ctx, o, stdout, stderr)
	}
	return serving.End(stderr, "awssandbox", err)
}

const usage = `usage: awssandbox [-addr 127.0.0.1:8481] [-env FILE|-] [-bin build/local]

Emulates AWS in memory, until SIGTERM or Ctrl-C: moto_server (pip install 'moto[server]') and an AWS
Lambda that runs the deployed function. Its contents are new at each start, including a bucket for
the code and the credentials of the environment.

The function runs as you, with all that you may do: there is no jail. So every request must be signed
with those credentials, or with some that this sandbox's STS issued; anything else gets 403, as does what
a web page sends. AssumeRoleWithWebIdentity, which is not signed, takes WEB_IDENTITY_TOKEN. Beyond that it
enforces no permissions and no patterns of a stack's parameters, and starts no schedules and no alarms.

`

const examples = `
examples:
  awssandbox -env aws.env                then: set -a; . ./aws.env
  awssandbox -addr 127.0.0.1:0 -env -    a free port; the environment on stdout
`

// options are the command line's.
type options struct {
	addr, host string // host:port on loopback, and the host alone; port 0 picks a free one
	env        string // a file, "-" for stdout, or empty for none
	bin        string // the folder of the built scripts/invoke
}

// parseOptions reads the command line. Help goes to stdout, with flag.ErrHelp returned.
func parseOptions(args []string, stdout io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("awssandbox", flag.ContinueOnError)
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8481", "listen on `host:port` of the loopback interface; port 0 picks a free one")
	flags.StringVar(&o.env, "env", "", "once it listens, write the environment to `FILE`, - for stdout; it is removed at the end")
	flags.StringVar(&o.bin, "bin", "build/local", "`folder` of the built program invoke")
	return o, serving.Parse(flags, args, usage, examples, stdout, func() (err error) {
		if o.host, err = serving.SplitAddr(o.addr); err != nil {
			return err
		}
		if !iamtoken.IsLoopback(o.host) {
			return fmt.Errorf("-addr must be on loopback, not %q: this sandbox runs programs", o.addr)
		}
		return nil
	})
}

// unset removes variables that would point the aws CLI elsewhere in spite of the others, or conflict
// with them. They would search for an empty profile, too.
const unset = "unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN\n"

// environment has the variables that point the aws CLI to origin, whatever its user's configuration, and
// those that make deploy needs, for sh.
func environment(origin string) string {
	set := awstest.Environment(origin)
	maps.Copy(set, map[string]string{
		"AWS_DEFAULT_REGION": awstest.Region, // for version 1 of the CLI
		"WEB_IDENTITY_TOKEN": awstest.WebIdentityToken(),
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

// serve listens, starts moto, writes the environment, and answers until ctx ends or moto does.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	invoke, err := findInvoke(o.bin)
	if err != nil {
		return err
	}
	listener, err := serving.Listen(ctx, o.addr)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	moto, err := awstest.StartMoto()
	if errors.Is(err, awstest.ErrNotInstalled) {
		err = fmt.Errorf("%w\n%w", err, serving.ErrUsage)
	}
	if err != nil {
		return err
	}
	defer moto.Stop()
	if err := moto.MakeBucket(ctx, bucket); err != nil {
		return err
	}
	origin := serving.Origin(listener.Addr(), false)
	remove, err := envfile.Offer("awssandbox", o.env, environment(origin), stdout, stderr)
	if err != nil {
		return err
	}
	defer remove()
	_, _ = fmt.Fprintf(stderr, "awssandbox: serving AWS on %s\n", origin)

	whileMoto, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-moto.Ended()
		cancel()
	}()
	lambda := &awstest.Lambda{Moto: moto, Program: invoke, Secrets: origin, Host: o.host}
	err = serving.Until(whileMoto, &http.Server{Handler: lambda}, listener, stderr)
	if err == nil && ctx.Err() == nil { // Ctrl-C ends both
		err = errors.New("moto_server has ended unexpectedly")
	}
	return err
}

// findInvoke returns the absolute path of scripts/invoke, which can run what Lambda runs on Linux alone.
func findInvoke(bin string) (string, error) {
	if runtime.GOOS != "linux" {
		return "", fmt.Errorf("the deployed function is a program for Linux, this is %s\n%w", runtime.GOOS, serving.ErrUsage)
	}
	path, err := filepath.Abs(filepath.Join(bin, "invoke"))
	if err == nil {
		path, err = exec.LookPath(path)
	}
	if err != nil {
		return "", fmt.Errorf("make build-local first: %w\n%w", err, serving.ErrUsage)
	}
	return path, nil
}
