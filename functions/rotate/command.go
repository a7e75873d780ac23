package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/rotation"
)

// Exit codes of the command.
const (
	exitDone   = 0
	exitFailed = 1 // a rotation failed
	exitUsage  = 2 // arguments or configuration
)

const usage = `Keeps IBM Cloud IAM access tokens in secrets fresh: reads an API key from Secrets
Manager, exchanges it at IAM and saves the token as a new version of a secret.

Usage: bootstrap [-mode rotate|ensure|check] [-rotation NAME]... [-force]
                 [-run-id ID] [-timeout 120s] [-json]
       bootstrap doctor [-rotation NAME]... [-timeout 120s] [-json]
       bootstrap config

  -mode      rotate  publish a new token (default)
             ensure  only if the stored one has less than MIN_REMAINING left;
                     cron cannot say "every 50 minutes": run this every minute
             check   do everything but save
  -rotation  run this one only; may be given several times
  -force     publish even if the token belongs to another identity than the
             stored one, or expires sooner
  -run-id    name this run; another one of the same name within 15 minutes
             does nothing
  -timeout   time for the whole run
  -json      print the report as JSON

"bootstrap doctor" checks what the rotations rely on and writes nothing, "bootstrap
config" the configuration alone and asks nobody; see their -h.

Configuration is in environment variables; see README.md. The report goes to
stdout, logs to stderr. Exit 0: done; 1: a rotation failed; 2: usage or
configuration.

Examples:
  bootstrap -mode check
  bootstrap -mode ensure -rotation logs-routing
  IAM_TOKEN="$(ibmcloud iam oauth-tokens --output json | jq -r .iam_token)" bootstrap
`

// options are the command's arguments.
type options struct {
	event
	timeout time.Duration
	json    bool
}

// command is the host for a run by hand, a Code Engine job or cron.
func command(args, environ []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case string(modeDoctor):
			return doctorCommand(args[1:], environ, stdout, stderr)
		case "config":
			return configCommand(args[1:], environ, stdout, stderr)
		}
	}
	opts, err := parseArguments(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, usage)
		return exitDone
	}
	if err != nil {
		return complain(stderr, err, "see bootstrap -h")
	}
	cfg, err := config.Load(environ, os.ReadFile)
	if err != nil {
		return complain(stderr, err, "correct these environment variables")
	}
	service, err := newService(cfg)
	if err != nil {
		return complain(stderr, err, "correct these environment variables")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, opts.timeout)
	defer cancel()
	log := newLogger(stderr, cfg.LogLevel)
	report, err := service.run(ctx, opts.event, log)
	if err != nil {
		return complain(stderr, err, "see bootstrap -h")
	}
	logResults(log, report)
	if err := printReport(stdout, report, opts.json); err != nil {
		_, _ = fmt.Fprintln(stderr, "bootstrap: printing the report:", err)
		return exitFailed
	}
	if len(report.Failures()) > 0 {
		return exitFailed
	}
	return exitDone
}

func complain(stderr io.Writer, err error, advice string) int {
	_, _ = fmt.Fprintf(stderr, "bootstrap: %s\n%s\n", strings.ReplaceAll(err.Error(), "\n", "\nbootstrap: "), advice)
	return exitUsage
}

func parseArguments(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("bootstrap", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar((*string)(&opts.mode), "mode", string(rotation.ModeRotate), "")
	flags.Func("rotation", "", func(value string) error {
		opts.rotations = append(opts.rotations, value)
		return nil
	})
	flags.BoolVar(&opts.force, "force", false, "")
	flags.StringVar(&opts.runID, "run-id", "command-"+rand.Text(), "")
	flags.DurationVar(&opts.timeout, "timeout", 120*time.Second, "")
	flags.BoolVar(&opts.json, "json", false, "")
	if err := parseFlags(flags, args); err != nil {
		return options{}, err
	}
	if err := checkMode(opts.mode); err != nil {
		return options{}, err
	}
	if opts.timeout <= 0 {
		return options{}, fmt.Errorf("-timeout %s leaves no time: use 120s, say", opts.timeout)
	}
	return opts, rotation.CheckRunID(opts.runID)
}
