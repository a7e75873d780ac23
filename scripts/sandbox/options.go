package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"time"

	"iam-token-rotator/scripts/serving"
)

const usage = `usage: sandbox [-addr 127.0.0.1:8480] [-tls-dir DIR] [-rotations 1] [-token-ttl 1h] [-env FILE|-]

Serves a stand-in for IBM Cloud (IAM, Secrets Manager, Logs Routing) in memory, until SIGTERM or
Ctrl-C. What it holds is made anew at each start.

`

const examples = `
examples:
  sandbox -env sandbox.env            then: set -a; . ./sandbox.env
  sandbox -addr 127.0.0.1:0 -env -    a free port; the environment on stdout
  sandbox -addr 0.0.0.0:8480          for other machines and containers too; the environment is for this one
  sandbox -tls-dir tls -env tls.env   HTTPS; trust tls/ca.pem (SSL_CERT_FILE, curl --cacert)
  sandbox -rotations 1000 -token-ttl 15m -env fleet.env
  curl -X POST localhost:8480/_sandbox/faults -d '{"op":"iam.token","times":2,"status":503}'
  curl localhost:8480/_sandbox/requests
`

// Limits of the command line.
const (
	maxRotations = 100_000
	minTokenTTL  = time.Second // IBM allows 15m to 1h; shorter ones let a check see a token expire
	maxTokenTTL  = time.Hour
)

// options are the command line's.
type options struct {
	addr      string        // host:port; port 0 picks a free one
	tlsDir    string        // where ca.pem goes; empty: plain HTTP
	rotations int           // at least 1
	tokenTTL  time.Duration // whole seconds
	env       string        // a file, "-" for stdout, or empty for none
}

// parseOptions reads the command line. Help goes to stdout, with flag.ErrHelp returned.
func parseOptions(args []string, stdout io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8480", "listen on `host:port`; port 0 picks a free one")
	flags.StringVar(&o.tlsDir, "tls-dir", "", "serve HTTPS with a certificate of a new CA, and write the CA's to `DIR`/ca.pem")
	flags.IntVar(&o.rotations, "rotations", 1, "`how many` pairs of key secret and token secret to make")
	flags.DurationVar(&o.tokenTTL, "token-ttl", maxTokenTTL, "`life` of an access token, 1s to 1h (IBM: 15m to 1h)")
	flags.StringVar(&o.env, "env", "", "once it listens, write the environment to `FILE`, - for stdout")
	if err := serving.Parse(flags, args, usage, examples, stdout); err != nil {
		return options{}, err
	}
	return o, o.validate(flags)
}

// validate checks the values; flags tells which were given.
func (o options) validate(flags *flag.FlagSet) error {
	var errs []error
	errs = append(errs, checkAddr(o.addr))
	if o.rotations < 1 || o.rotations > maxRotations {
		errs = append(errs, fmt.Errorf("-rotations must be 1 to %d, not %d", maxRotations, o.rotations))
	}
	if o.tokenTTL < minTokenTTL || o.tokenTTL > maxTokenTTL || o.tokenTTL%time.Second != 0 {
		errs = append(errs, fmt.Errorf("-token-ttl must be whole seconds from 1s to 1h, not %s", o.tokenTTL))
	}
	flags.Visit(func(f *flag.Flag) {
		if (f.Name == "tls-dir" || f.Name == "env") && f.Value.String() == "" {
			errs = append(errs, fmt.Errorf("-%s must not be empty", f.Name))
		}
	})
	return errors.Join(errs...)
}

// checkAddr refuses an address at which nothing could use the sandbox: the function takes plain http
// from loopback alone, and the certificate is for that.
func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-addr must be host:port, not %q", addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("-addr must have a port from 0 to 65535, not %q", port)
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() && !ip.IsUnspecified() {
		return fmt.Errorf("-addr must be on loopback, or 0.0.0.0 for every address, not %q", host)
	}
	return nil
}
