package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	cloudformation "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/spf13/cobra"

	"iam-token-rotator/functions/report"
)

// event is what the function is invoked with.
type event struct {
	Mode      string   `json:"mode"`
	Rotations []string `json:"rotations,omitempty"`
	Force     bool     `json:"force,omitempty"`
}

var modes = []string{"rotate", "ensure", "check", "doctor"}

func (p *program) invokeCommand() *cobra.Command {
	var e event
	cmd := p.newCommand("invoke", "Run the deployed function once and print its report", `Runs the deployed function once and prints its report.

  rotate  saves a new token
  ensure  saves one only if the stored one expires soon
  check   does everything but save
  doctor  checks, from inside the function, everything that rotations need, and says what to do`,
		func(ctx context.Context) error { return p.invoke(ctx, e) })
	cmd.Flags().StringVar(&e.Mode, "mode", "", strings.Join(modes, ", ")+" (MODE)")
	cmd.Flags().StringArrayVar(&e.Rotations, "rotation", nil, "only this rotation; can be repeated (ROTATION)")
	cmd.Flags().BoolVar(&e.Force, "force", false, "save a token even if it is another identity's or expires sooner than the stored one, or if a kv secret has other entries (FORCE)")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions(modes, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (p *program) doctorCommand() *cobra.Command {
	return p.newCommand("doctor", "Check, from inside the deployed function, everything that rotations need",
		"Checks, from inside the deployed function, everything that rotations need, and says what to do. No alarm fires for what it finds.",
		func(ctx context.Context) error { return p.invoke(ctx, event{Mode: "doctor"}) })
}

func (p *program) invoke(ctx context.Context, e event) error {
	switch {
	case e.Mode == "":
		return usagef("set MODE: %s", strings.Join(modes, ", "))
	case !slices.Contains(modes, e.Mode):
		return usagef("MODE=%s is not known: use %s", quote(e.Mode), strings.Join(modes, ", "))
	case e.Mode == "doctor" && e.Force:
		return usagef("MODE=doctor saves nothing: leave out FORCE=true")
	}
	for _, name := range e.Rotations {
		if len(name) > 40 { // as the function's configuration has it; a key is longer
			return usagef("%s is no rotation's name, which has 40 characters at most", quote(name))
		}
	}
	if err := p.connect(ctx); err != nil {
		return err
	}
	var ran result
	stack, err := p.findStack(ctx, p.stack)
	if err == nil && isFleet(stack) && len(e.Rotations) == 0 && e.Mode == "doctor" {
		names, err := p.fleetNames(ctx, stack)
		if err != nil {
			return err
		}
		e.Rotations = sample(names)
		p.say("Checking %d of %d rotations; another: rotatorctl invoke --mode=doctor --rotation=NAME", len(e.Rotations), len(names))
	}
	if err == nil && isFleet(stack) && len(e.Rotations) == 0 {
		if e.Mode == "check" || e.Force {
			return usagef("%s is a fleet, with too many rotations for one run: name some (ROTATION)", p.stack)
		}
		ran, err = p.runFleet(ctx, stack, e.Mode)
	} else if ran, err = p.call(ctx, aliasName, e); isFailure(err) {
		err = fmt.Errorf("the run failed: %w", err)
	}
	if ran.document == nil {
		return err
	}
	return errors.Join(p.print(ran.document, ran.text), err)
}

// result is the result of a run, as a document for -o json (nil if there is none) and as text.
type result struct {
	document any
	text     string
}

// runFailure says why the function, or a rotation, failed, in printable text. Every other error of a run comes from AWS.
type runFailure string

func (f runFailure) Error() string { return string(f) }

func isFailure(err error) bool {
	_, is := errors.AsType[runFailure](err)
	return is
}

// call invokes a version or alias of the function, and waits.
func (p *program) call(ctx context.Context, qualifier string, e event) (result, error) {
	request, err := json.Marshal(e)
	if err != nil {
		return result{}, fmt.Errorf("encoding the event: %w", err)
	}
	once := func(o *lambda.Options) { o.RetryMaxAttempts = 1 } // the function itself retries
	answer, err := p.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: &p.stack, Qualifier: &qualifier, Payload: request}, once)
	if err != nil {
		return result{}, p.functionError(err)
	}
	if answer.FunctionError == nil {
		return newResult(answer.Payload)
	}
	var said struct{ ErrorType, ErrorMessage string }
	if json.Unmarshal(answer.Payload, &said) != nil || said.ErrorMessage == "" {
		return result{}, runFailure("it gave no reason: " + aws.ToString(answer.FunctionError))
	}
	return result{}, runFailure(printable(said.ErrorType + ": " + said.ErrorMessage))
}

// newResult reads the function's answer, a report or a diagnosis. It returns an error if a check of the diagnosis failed: the
// invocation itself succeeds then, because a question must not fire an alarm.
func newResult(payload []byte) (result, error) {
	var text strings.Builder
	var err error
	if r, unknown := report.Parse(payload); unknown == nil {
		err = r.WriteText(&text)
	} else if d, unknown := report.ParseDiagnosis(payload); unknown == nil {
		if err = d.WriteText(&text); err == nil && !d.OK {
			err = errors.New("correct what is marked ✗")
		}
	} else {
		return result{}, fmt.Errorf("the function's answer is neither report nor diagnosis: %s", quote(string(payload)))
	}
	return result{json.RawMessage(payload), text.String()}, err
}

// runOnce runs all rotations of a stack, and retries while permissions may be new.
func (p *program) runOnce(ctx context.Context, stack *cloudformation.Stack, e event) (result, error) {
	if isFleet(stack) {
		return p.retryDenied(ctx, func() (result, error) { return p.runFleet(ctx, stack, e.Mode) })
	}
	return p.callPatiently(ctx, aliasName, e)
}

func (p *program) callPatiently(ctx context.Context, qualifier string, e event) (result, error) {
	return p.retryDenied(ctx, func() (result, error) { return p.call(ctx, qualifier, e) })
}

const (
	deniedFor   = 5 * time.Minute // new permissions take that long to reach everywhere
	deniedPause = 15 * time.Second
)

// retryDenied repeats a run while it fails only for missing permissions, for five minutes at most: they may be new.
func (p *program) retryDenied(ctx context.Context, run func() (result, error)) (result, error) {
	last := ""
	for began := p.now(); ; {
		ran, err := run()
		if !isFailure(err) || !onlyDenied(err.Error()) || p.now().Sub(began) >= deniedFor {
			return ran, err
		}
		if err.Error() != last {
			last = err.Error()
			p.say("  %s\n  New permissions may take minutes: trying again every %s for %s at most", last, deniedPause, deniedFor)
		}
		if err := p.sleep(ctx, deniedPause); err != nil {
			return result{}, err
		}
	}
}

var (
	failureKind  = regexp.MustCompile(`: (misconfigured|denied|not_found|locked|rate_limited|unavailable|invalid_token|timeout): `)
	accessDenied = regexp.MustCompile(`^the execution .*ccessDenied`) // of a state machine
)

// onlyDenied reports whether every failure in the text is of kind denied.
func onlyDenied(failure string) bool {
	kinds := failureKind.FindAllString(failure, -1)
	return accessDenied.MatchString(failure) || kinds != nil && !slices.ContainsFunc(kinds, func(kind string) bool { return kind != ": denied: " })
}
