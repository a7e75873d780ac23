package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
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
	cmd := &cobra.Command{
		Use:   "invoke",
		Short: "Run the deployed function once and print its report",
		Long: `Runs the deployed function once and prints its report.

  rotate  saves a new token
  ensure  saves one only if the stored one expires soon
  check   does everything but save
  doctor  checks all that rotations rely on, from where the function is, and says what to do`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.invoke(cmd.Context(), e) },
	}
	cmd.Flags().StringVar(&e.Mode, "mode", "", strings.Join(modes, ", ")+" (MODE)")
	cmd.Flags().StringArrayVar(&e.Rotations, "rotation", nil, "only this rotation; can be repeated (ROTATION)")
	cmd.Flags().BoolVar(&e.Force, "force", false, "save a token of another identity than the stored one's, one that expires sooner, or over a kv secret's other entries (FORCE)")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions(modes, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (p *program) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check, from where the function is, all that rotations rely on",
		Long:  "Checks, from where the function is, all that rotations rely on, and says what to do. No alarm fires for what it finds.",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return p.invoke(cmd.Context(), event{Mode: "doctor"}) },
	}
}

func (p *program) invoke(ctx context.Context, e event) error {
	switch {
	case e.Mode == "":
		return usagef("set MODE: %s", strings.Join(modes, ", "))
	case !slices.Contains(modes, e.Mode):
		return usagef("MODE=%s is not known: use %s", quote(e.Mode), strings.Join(modes, ", "))
	case e.Mode == "doctor" && e.Force:
		return usagef("FORCE=true is about saving, which MODE=doctor does not do: leave it out")
	}
	for _, name := range e.Rotations {
		if len(name) > 40 { // as the function's configuration has it; a key is longer
			return usagef("%s is no rotation's name: it has 40 characters at most", quote(name))
		}
	}
	if err := p.connect(ctx); err != nil {
		return err
	}
	if stack, err := p.findStack(ctx, p.stack); err == nil && isFleet(stack) && len(e.Rotations) == 0 && e.Mode != "doctor" {
		return p.invokeFleet(ctx, stack, e)
	}
	payload, failure, err := p.call(ctx, aliasName, e)
	if err != nil {
		return err
	}
	if failure != "" {
		return fmt.Errorf("the run failed: %s", failure)
	}
	text, ok, err := answerText(payload)
	if err == nil {
		err = p.print(json.RawMessage(payload), text)
	}
	if err == nil && !ok { // doctor never fails the invocation: no alarm is to fire because somebody asked
		err = errors.New("correct what is marked ✗")
	}
	return err
}

// answerText is the function's answer, a report or a diagnosis, for a person. ok is false if a check failed.
func answerText(payload []byte) (text string, ok bool, err error) {
	var out strings.Builder
	if r, err := report.Parse(payload); err == nil {
		err = r.WriteText(&out)
		return out.String(), true, err
	}
	if d, err := report.ParseDiagnosis(payload); err == nil {
		err = d.WriteText(&out)
		return out.String(), d.OK, err
	}
	return "", true, fmt.Errorf("the function's answer is neither report nor diagnosis: %s", quote(string(payload)))
}

// call invokes a version or alias of the function and waits. The failure is the function's own, printable; the error is AWS's.
func (p *program) call(ctx context.Context, qualifier string, e event) (payload []byte, failure string, err error) {
	request, err := json.Marshal(e)
	if err != nil {
		return nil, "", fmt.Errorf("encoding the event: %w", err)
	}
	once := func(o *lambda.Options) { o.RetryMaxAttempts = 1 } // the function itself retries for as long as it helps
	answer, err := p.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: &p.stack, Qualifier: &qualifier, Payload: request}, once)
	if err != nil {
		return nil, "", p.functionError(err)
	}
	if answer.FunctionError == nil {
		return answer.Payload, "", nil
	}
	var said struct{ ErrorType, ErrorMessage string }
	if json.Unmarshal(answer.Payload, &said) != nil || said.ErrorMessage == "" {
		return nil, "it gave no reason: " + aws.ToString(answer.FunctionError), nil
	}
	return nil, printable(said.ErrorType + ": " + said.ErrorMessage), nil
}
