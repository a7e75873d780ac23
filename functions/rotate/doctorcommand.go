package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/doctor"
)

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
	var diagnosis doctor.Diagnosis
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
	if err := printDiagnosis(stdout, diagnosis, opts.json); err != nil {
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
