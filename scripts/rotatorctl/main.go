// Command rotatorctl sets up, deploys and operates iam-token-rotator on AWS.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf16"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version is set by the linker.
var version = "dev"

// program is one run of rotatorctl: its environment, and the options that all commands have.
type program struct {
	getenv  func(string) string
	stdin   io.Reader
	answers *bufio.Reader // reads stdin; nil before the first question
	stdout  io.Writer     // the result, and nothing else
	stderr  io.Writer     // progress, warnings, questions
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	// isTerminal reports whether file is a terminal, so that a person reads or types there.
	isTerminal func(file any) bool
	// loadAWS finds region and credentials. The SDK's way reads the environment of the process, so tests have another.
	loadAWS func(context.Context) (aws.Config, error)
	build   func(ctx context.Context, d *deployment, binary string) error
	// terraform runs Terraform in a folder.
	terraform func(folder string, args ...string) (printed, complaint []byte, err error)

	stack  string
	output string // text or json
	yes    bool

	clients // set by connect

	// deploy gives these to the stack. CloudFormation keeps the present ones if an update has none.
	tags []types.Tag
	role *string // CloudFormation's service role
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	p := program{
		getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		now: time.Now, sleep: sleep, isTerminal: isTerminal, loadAWS: loadAWS, build: buildByMake, terraform: terraform,
	}
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) // a core dump would contain keys
	log.SetOutput(io.Discard)                                     // with GODEBUG=http2debug=2 it gets every header
	os.Exit(p.run(ctx, os.Args[1:]))
}

// run runs one command line and returns the exit code: 0 done, 1 failed, 2 usage.
func (p *program) run(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if silent, ok := errors.AsType[exitError](err); ok {
		return int(silent)
	}
	fmt.Fprintf(p.stderr, "rotatorctl: %s\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

// usageError is an error of the command line or of a variable: exit code 2.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// exitError ends the program with a code and without a further message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// newCommand is a command that accepts no arguments: those might be keys pasted into the wrong place.
func (p *program) newCommand(use, short, long string, run func(context.Context) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Long: long, Args: noArguments, RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context()) }}
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rotatorctl",
		Short: "Sets up, deploys and operates iam-token-rotator on AWS",
		Long: `Sets up, deploys and operates iam-token-rotator on AWS.

A name in parentheses after an option is an environment variable that you can set in its place.
The AWS SDK finds account, region and credentials: AWS_PROFILE, AWS_REGION, SSO, web identity, instance roles.

Exit code: 0 done, 1 failed, 2 wrong usage.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		Args:                       noArguments,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.takeVariables(cmd); err != nil {
				return err
			}
			if p.output != "text" && p.output != "json" {
				return usagef("-o %s is not known: use text or json", quote(p.output))
			}
			if !stackName.MatchString(p.stack) {
				return usagef("STACK=%s is no name of a stack: use up to 39 letters, digits and hyphens, beginning with a letter", quote(p.stack))
			}
			return nil
		},
	}
	root.SetVersionTemplate("rotatorctl {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	flags := root.PersistentFlags()
	flags.StringVar(&p.stack, "stack", "iam-token-rotator", "name of the CloudFormation stack and of the function (STACK)")
	flags.StringVarP(&p.output, "output", "o", "text", "text, or json: one JSON document on standard output")
	flags.BoolVarP(&p.yes, "yes", "y", false, "do what needs confirmation without asking")
	root.AddCommand(p.setupCommand(), p.replaceCommand(), p.putKeyCommand(), p.deployCommand(), p.statusCommand(), p.logsCommand(),
		p.invokeCommand(), p.doctorCommand(), p.rollbackCommand(), p.destroyCommand())
	return root
}

var (
	// stackName is the shape of names that CloudFormation and Lambda accept: the function has the same name. As the name is part
	// of URLs, the limit is shorter than a key.
	stackName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,38}$`)
	// optionVariable finds the variable at the end of an option's description.
	optionVariable = regexp.MustCompile(`\(([A-Z_]+)\)$`)
)

// takeVariables sets each option that is not on the command line to the value of its variable.
func (p *program) takeVariables(cmd *cobra.Command) (err error) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		found := optionVariable.FindStringSubmatch(f.Usage)
		if found == nil || f.Changed || p.getenv(found[1]) == "" {
			return
		}
		if value := p.getenv(found[1]); f.Value.Set(value) != nil {
			err = usagef("%s=%s is no %s", found[1], quote(value), kind(f))
		}
	})
	return err
}

// print prints a command's result: the document with -o json, else the text.
func (p *program) print(document any, text string) error {
	if p.output == "json" {
		return p.printJSON(document)
	}
	_, err := io.WriteString(p.stdout, text)
	return err
}

// printJSON prints the document of -o json. It escapes every character that could control a terminal.
func (p *program) printJSON(document any) error {
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the output: %w", err)
	}
	var safe strings.Builder
	for _, r := range string(text) + "\n" {
		if r == '\n' || strconv.IsPrint(r) {
			safe.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&safe, `\u%04x`, unit)
		}
	}
	_, err = io.WriteString(p.stdout, safe.String())
	return err
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return usagef("%s takes no arguments, got %s", cmd.CommandPath(), quote(args[0]))
	}
	message := fmt.Sprintf("%s is not a command", quote(args[0]))
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		message += ": do you mean " + strings.Join(similar, " or ") + "?"
	}
	return usagef("%s (rotatorctl -h lists the commands)", message)
}

// flagError is pflag's error without the option's value, which may be a key.
func flagError(err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usagef("option --%s: %s is no %s", invalid.GetFlag().Name, quote(invalid.GetValue()), kind(invalid.GetFlag()))
	}
	return usagef("%s (-h lists the options)", strings.Trim(quote(strings.ReplaceAll(err.Error(), "flag", "option")), `"`))
}

// kind names the values that an option accepts, in words for a person.
func kind(f *pflag.Flag) string {
	kinds := map[string]string{"duration": "duration: use 30m or 24h", "bool": "truth value: use true or false", "int": "whole number"}
	return cmp.Or(kinds[f.Value.Type()], f.Value.Type())
}

// sleep waits, or returns an error when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return errors.New("interrupted")
	}
}
