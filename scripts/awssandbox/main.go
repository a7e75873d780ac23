// Command awssandbox emulates AWS on one loopback port: it is moto_server with an AWS Lambda that really runs the
// deployed function. Together with scripts/sandbox it allows a whole deployment without an account.
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
	"iam-token-rotator/scripts/awstest"
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
Lambda that runs the deployed function. Each start begins with new credentials, which are in the
environment, and with an empty bucket for the code.

The function runs as you, with all your permissions; it is not isolated. So every request must be signed
with those credentials, or with credentials that this sandbox's STS issued; any other request, and one from
a web page, gets 403. AssumeRoleWithWebIdentity is not signed: it needs WEB_IDENTITY_TOKEN. IAM permissions
and the patterns of a stack's parameters are not checked. Schedules and alarms do not fire by themselves.

`

const examples = `
examples:
  awssandbox -env aws.env                then: set -a; . ./aws.env
  awssandbox -addr 127.0.0.1:0 -env -    a free port; the environment on stdout
`

const hint = `To deploy there, while "make sandbox" runs, in a third terminal:
  set -a; . build/sandbox.env && . %s && set +a
  export BOOTSTRAP_SECRET_ARN="$(printenv SECRETS_MANAGER_APIKEY | build/local/rotatorctl put-key)"
  make deploy                           # then: make status, invoke MODE=check, logs, destroy
`

// options are the options of the command line.
type options struct {
	addr, host string // host:port on loopback, and the host alone; port 0 picks a free one
	env        string // a file, "-" for stdout, or empty for none
	bin        string // the folder with the built program invoke
}

// parseOptions reads the command line. For -h it prints the help to stdout and returns flag.ErrHelp.
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

// unset removes variables that would make the aws CLI use another account, or that conflict with the new ones.
// Setting them to nothing does not help: the CLI would search for a profile with an empty name.
const unset = "unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN\n"

// environment is a text for sh. It sets the variables that make the aws CLI use origin, whatever its user's
// configuration, and those that make deploy needs.
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

// bucket is the name of the bucket for the code of deployed functions.
const bucket = "iam-token-rotator-code"

// serve listens, starts moto, writes the environment, and answers until ctx or moto ends.
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
	envfile.Explain(stdout, hint, o.env)

	whileMoto, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-moto.Ended()
		cancel()
	}()
	lambda := &awstest.Lambda{Moto: moto, Program: invoke, Secrets: origin, Host: o.host}
	err = serving.Until(whileMoto, &http.Server{Handler: lambda}, listener, stderr)
	if err == nil && ctx.Err() == nil { // without Ctrl-C, which ends moto, too
		err = errors.New("moto_server has ended unexpectedly")
	}
	return err
}

// findInvoke returns the absolute path of the program invoke. A deployed function runs only on Linux.
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
