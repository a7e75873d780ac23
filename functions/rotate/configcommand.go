package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"iam-token-rotator/functions/internal/config"
)

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
	_, _ = fmt.Fprintf(stdout, "valid: %s\n", count(len(cfg.Rotations), "rotation"))
	return exitDone
}
