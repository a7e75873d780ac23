package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
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
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
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
	if err := printTo(stdout, report, opts.json); err != nil {
		_, _ = fmt.Fprintln(stderr, "bootstrap: printing the report:", err)
		return exitFailed
	}
	if len(report.Failures()) > 0 {
		return exitFailed
	}
	return exitDone
}

// printTo prints a report or a diagnosis for a person, or as one line of JSON.
func printTo(w io.Writer, printed interface{ WriteText(io.Writer) error }, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(printed)
	}
	return printed.WriteText(w)
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

// parseFlags parses arguments that are options alone. The errors of package flag
// repeat what was given, and somebody will give a key: words too long to be an
// option's are left out.
func parseFlags(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		words := strings.Fields(err.Error())
		for i, word := range words {
			if len(word) > len(`"command-options"`) {
				words[i] = "…"
			}
		}
		return errors.New(strings.Join(words, " "))
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %s", short(flags.Arg(0)))
	}
	return nil
}

const configUsage = `Checks the configuration and asks nobody: neither IBM Cloud nor AWS.

Usage: bootstrap config

Configuration is in environment variables; see README.md. Exit 0: it is valid;
2: it is not, and each line says what to correct.
`

// configCommand is "bootstrap config", with which a deployment refuses a faulty list
// of rotations before it replaces one that works.
func configCommand(args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bootstrap config", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	err := parseFlags(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, configUsage)
		return exitDone
	}
	if err != nil {
		return complain(stderr, err, "see bootstrap config -h")
	}
	cfg, err := config.Load(environ, os.ReadFile)
	if err == nil {
		_, err = newService(cfg)
	}
	if err != nil {
		return complain(stderr, err, "correct these environment variables")
	}
	_, _ = fmt.Fprintf(stdout, "valid: %s\n", report.Count(len(cfg.Rotations), "rotation"))
	return exitDone
}

const doctorUsage = `Checks everything that the rotations rely on, in order, and says what to do about
what is wrong. It writes nothing.

Usage: bootstrap doctor [-rotation NAME]... [-timeout 120s] [-json]

  -rotation  check this one only; may be given several times
  -timeout   time for all checks
  -json      print {"checks":[{"check","rotation","status","detail","advice"}],"ok"}

  ✓ ok   ✗ failed   ! a warning   – not tried, and why

Configuration is in environment variables; see README.md. Exit 0: nothing is ✗;
1: something is; 2: usage or configuration.
`

// doctorCommand is "bootstrap doctor".
func doctorCommand(args, environ []string, stdout, stderr io.Writer) int {
	opts, err := parseDoctorArguments(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, doctorUsage)
		return exitDone
	}
	if err != nil {
		return complain(stderr, err, "see bootstrap doctor -h")
	}
	exit := exitUsage
	var diagnosis report.Diagnosis
	cfg, err := config.Load(environ, os.ReadFile)
	if err != nil {
		diagnosis = doctor.Misconfigured(err)
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, opts.timeout)
		defer cancel()
		if diagnosis, err = diagnose(ctx, cfg, opts.rotations); err != nil {
			return complain(stderr, err, "see bootstrap doctor -h")
		}
		exit = exitFailed
	}
	if err := printTo(stdout, diagnosis, opts.json); err != nil {
		_, _ = fmt.Fprintln(stderr, "bootstrap: printing the diagnosis:", err)
		return exitFailed
	}
	if diagnosis.OK {
		return exitDone
	}
	return exit
}

func parseDoctorArguments(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("bootstrap doctor", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Func("rotation", "", func(value string) error {
		opts.rotations = append(opts.rotations, value)
		return nil
	})
	flags.DurationVar(&opts.timeout, "timeout", 120*time.Second, "")
	flags.BoolVar(&opts.json, "json", false, "")
	if err := parseFlags(flags, args); err != nil {
		return options{}, err
	}
	if opts.timeout <= 0 {
		return options{}, fmt.Errorf("-timeout %s leaves no time: use 120s, say", opts.timeout)
	}
	return opts, nil
}
