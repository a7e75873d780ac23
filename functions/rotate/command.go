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
	"path/filepath"
	"strconv"
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
	exitFailed = 1 // a rotation or a check failed
	exitUsage  = 2 // arguments or configuration
)

// program is the name that the command was started with.
var program = report.Printable(filepath.Base(os.Args[0]))

// typed is how a person can start it again: by its path, if a shell takes that as it is.
var typed = asTyped(os.Args[0])

func asTyped(path string) string {
	if strings.Trim(path, "+-./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz") != "" {
		return program
	}
	return path
}

// usages are the help texts, by the first word of the command; a run has none.
var usages = map[string]string{"": `Keeps IBM Cloud IAM access tokens in secrets valid: reads an API key from Secrets
Manager, exchanges it at IAM and saves the token as a new version of a secret.

Usage: PROGRAM [-mode rotate|ensure|check] [-rotation NAME]... [-force]
         [-run-id ID] [-timeout 120s] [-json]
       PROGRAM doctor [-rotation NAME]... [-timeout 120s] [-json]
       PROGRAM config
       PROGRAM -version

  -mode      rotate  save a new token (default)
             ensure  only if the stored one expires within MIN_REMAINING;
                     cron cannot say "every 50 minutes": run this every minute
             check   do everything but save
  -rotation  run this one only; may be given several times
  -force     save the token even if it belongs to another identity than the
             stored one, expires sooner, or replaces entries of a kv secret
             that this program did not write
  -run-id    name this run; another one of the same name within 15 minutes
             does nothing
  -timeout   time for the whole run
  -json      print the report as JSON

The word doctor checks what the rotations rely on and writes nothing; config checks
the configuration alone and opens no connection. See their -h.

Configuration is in environment variables; see functions/rotate/README.md. The
report goes to stdout. stderr has JSON log lines or, if it is a terminal, the
progress. Exit 0: done; 1: a rotation failed; 2: usage or configuration.

Examples:
  PROGRAM -mode check
  PROGRAM -mode ensure -rotation logs-routing
  IAM_TOKEN="$(ibmcloud iam oauth-tokens --output json | jq -r .iam_token)" PROGRAM
`, "doctor": `Checks everything that the rotations rely on, in order, and says what to do about
what is wrong. It writes nothing.

Usage: PROGRAM doctor [-rotation NAME]... [-timeout 120s] [-json]

  -rotation  check this one only; may be given several times
  -timeout   time for all checks
  -json      print {"checks":[{"check","rotation","status","detail","advice"}],"ok"}

  ✗ failed, shown first   ✓ ok   ! a warning   – not tried, and why

Configuration is in environment variables; see functions/rotate/README.md.
Exit 0: nothing is ✗; 1: something is; 2: usage or configuration.
`, "config": `Checks the configuration and opens no connection, neither to IBM Cloud nor to AWS.

Usage: PROGRAM config

Configuration is in environment variables; see functions/rotate/README.md.
Exit 0: it is valid; 2: it is not, and each line says what to correct.
`}

// commandLine is what the arguments ask for.
type commandLine struct {
	event
	name    string // the first word, "doctor" or "config"; empty for a run
	timeout time.Duration
	json    bool
	version bool
}

// command is the host for a run by hand, a Code Engine job or cron.
func command(args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	line, err := parseArguments(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stdout, strings.ReplaceAll(usages[line.name], "PROGRAM", program))
		return exitDone
	case err != nil:
		return line.misused(stderr, err)
	case line.version:
		_, _ = fmt.Fprintln(stdout, program, version)
		return exitDone
	}
	cfg, err := config.Load(environ, os.ReadFile)
	if line.name == "doctor" {
		return line.doctor(cfg, err, stdout, stderr)
	}
	var s *service
	if err == nil {
		s, err = newService(cfg, commandFor)
	}
	if err != nil {
		return misused(stderr, err, "correct these environment variables")
	}
	if line.name == "config" {
		_, _ = fmt.Fprintf(stdout, "valid: %s\n", report.Count(len(cfg.Rotations), "rotation"))
		return exitDone
	}
	return line.run(s, stdin, stdout, stderr)
}

// run rotates, and prints the report.
func (line commandLine) run(s *service, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := line.context()
	defer stop()
	line.invokedBy = "schedule"
	if isTerminal(stdin) || isTerminal(stderr) {
		line.invokedBy = "person"
	}
	if s.events != nil {
		s.events.TokensOnly = true
	}
	log := newLogger(stderr, s.config.LogLevel)
	end := func() {}
	if isTerminal(stderr) {
		log, end = showProgress(stderr, line.timeout)
	}
	ran, err := s.run(ctx, line.event, log)
	end()
	if err != nil {
		return line.misused(stderr, err)
	}
	return line.print(stdout, stderr, ran, exitCode(ctx, stderr, len(ran.Failures()) == 0))
}

// doctor prints a diagnosis. err says what is wrong with the configuration; then that is the
// only finding.
func (line commandLine) doctor(cfg config.Config, err error, stdout, stderr io.Writer) int {
	if err != nil {
		return line.print(stdout, stderr, doctor.Misconfigured(err), exitUsage)
	}
	ctx, stop := line.context()
	defer stop()
	diagnosis, err := diagnose(ctx, cfg, line.rotations, commandFor)
	if err != nil {
		return line.misused(stderr, err)
	}
	return line.print(stdout, stderr, diagnosis, exitCode(ctx, stderr, diagnosis.OK))
}

// context ends after the timeout, or when the process is told to stop.
func (line commandLine) context() (context.Context, func()) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, line.timeout)
	return ctx, func() { cancel(); stop() }
}

// exitCode is exitDone if all is good. If not, and the run or the diagnosis was interrupted, it says
// so on stderr, since the report shows only what had failed until then.
func exitCode(ctx context.Context, stderr io.Writer, good bool) int {
	if good {
		return exitDone
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		_, _ = fmt.Fprintf(stderr, "%s: stopped before it was done: %v\n", program, context.Cause(ctx))
	}
	return exitFailed
}

// commandFor is the command's rotation.HowToRun.
func commandFor(rotation string, force bool) string {
	command := typed + " -rotation " + rotation
	if force {
		command += " -force"
	}
	return command
}

// print prints a report or a diagnosis for a person, or as one line of JSON. It returns code,
// or exitFailed if stdout cannot be written.
func (line commandLine) print(stdout, stderr io.Writer, printed interface{ WriteText(io.Writer) error }, code int) int {
	write := printed.WriteText
	if line.json {
		write = func(w io.Writer) error { return json.NewEncoder(w).Encode(printed) }
	}
	if err := write(stdout); err != nil {
		_, _ = fmt.Fprintf(stderr, "%s: writing to stdout: %v\n", program, err)
		return exitFailed
	}
	return code
}

func (line commandLine) misused(stderr io.Writer, err error) int {
	return misused(stderr, err, "see "+strings.TrimSpace(typed+" "+line.name)+" -h")
}

func misused(stderr io.Writer, err error, advice string) int {
	_, _ = fmt.Fprintf(stderr, "%s: %s\n%s\n", program, strings.ReplaceAll(err.Error(), "\n", "\n"+program+": "), advice)
	return exitUsage
}

// parseArguments returns the first word even with an error, for the help text.
func parseArguments(args []string) (commandLine, error) {
	line := commandLine{event: event{mode: rotation.ModeRotate}, timeout: 2 * time.Minute}
	if len(args) > 0 && (args[0] == "doctor" || args[0] == "config") {
		line.name, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	if line.name == "" {
		flags.StringVar((*string)(&line.mode), "mode", string(rotation.ModeRotate), "")
		flags.BoolVar(&line.force, "force", false, "")
		flags.StringVar(&line.runID, "run-id", "command-"+rand.Text(), "")
		flags.BoolVar(&line.version, "version", false, "")
	}
	if line.name != "config" {
		flags.Func("rotation", "", func(value string) error {
			line.rotations = append(line.rotations, value)
			return nil
		})
		flags.Func("timeout", "", func(value string) (err error) {
			line.timeout, err = parseTimeout(value)
			return err
		})
		flags.BoolVar(&line.json, "json", false, "")
	}
	if err := flags.Parse(args); err != nil {
		return line, withoutLongWords(err)
	}
	if flags.NArg() > 0 {
		return line, fmt.Errorf("unexpected argument %s", quote(flags.Arg(0)))
	}
	if line.name != "" {
		return line, nil
	}
	if err := checkMode(line.mode); err != nil {
		return line, err
	}
	return line, rotation.CheckRunID(line.runID)
}

// parseTimeout returns errors without the value: package flag adds it.
func parseTimeout(value string) (time.Duration, error) {
	timeout, err := time.ParseDuration(value)
	_, numberErr := strconv.ParseUint(value, 10, 32)
	switch {
	case numberErr == nil && value != "0":
		return 0, fmt.Errorf("say %ss for seconds", value)
	case err != nil:
		return 0, errors.New("use a duration such as 90s or 2m")
	case timeout <= 0:
		return 0, errors.New("leaves no time: use 120s, say")
	}
	return timeout, nil
}

// withoutLongWords replaces the words of an error that are too long for an option: the errors of
// package flag repeat the argument, which may be a key.
func withoutLongWords(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	words := strings.Fields(err.Error())
	for i, word := range words {
		if len(word) > len(`"command-options"`) {
			words[i] = "…"
		}
	}
	return errors.New(report.Printable(strings.Join(words, " ")))
}
