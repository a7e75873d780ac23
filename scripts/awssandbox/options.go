package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"

	"iam-token-rotator/scripts/serving"
)

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
