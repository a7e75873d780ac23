package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	states "github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"iam-token-rotator/functions/report"
)

// namesKey is a parameter that only a fleet's template has: the key of the list of names that its state machines read.
const namesKey = "NamesKey"

func isFleet(stack *types.Stack) bool { return stack != nil && parameter(stack, namesKey) != "" }

// machineOf is the ARN of the state machine that runs all rotations in a mode.
func machineOf(stack *types.Stack, mode string) string {
	return output(stack, map[string]string{"rotate": "RotateMachineArn", "ensure": "EnsureMachineArn"}[mode])
}

// readNames reads the names of the list, which the function has found valid.
func (d *deployment) readNames() error {
	var entries []struct {
		Name   string
		Mirror []string
	}
	if err := json.Unmarshal(d.list, &entries); err != nil {
		return fmt.Errorf("reading the names in ROTATIONS_FILE: %w", err)
	}
	for _, entry := range entries {
		if len(entry.Mirror) > 0 {
			return usagef("ROTATIONS_FILE has a mirror for %s, but a fleet's function may not write to mirrors in AWS: leave mirror out", quote(entry.Name))
		}
		d.names = append(d.names, entry.Name)
	}
	return nil
}

// uploadNames stores the names under a key with their hash.
func (d *deployment) uploadNames(ctx context.Context) error {
	text, err := json.Marshal(d.names)
	if err != nil {
		return fmt.Errorf("encoding the names: %w", err)
	}
	d.parameters[namesKey] = fmt.Sprintf("%s%.16x.json", d.prefix("names"), sha256.Sum256(text))
	return d.put(ctx, d.values["BUCKET"], d.parameters[namesKey], text)
}

// sample are the rotations of a fleet for check and doctor: all would take longer than an invocation may. It is nil, which
// means all, for other stacks.
func sample(names []string) []string {
	if n := len(names); n > 3 {
		return []string{names[0], names[n/2], names[n-1]}
	}
	return names
}

// fleetNames are the names of a fleet's rotations.
func (p *program) fleetNames(ctx context.Context, stack *types.Stack) (names []string, err error) {
	list, err := p.get(ctx, parameter(stack, "CodeBucket"), parameter(stack, namesKey))
	if err == nil && json.Unmarshal(list, &names) != nil {
		err = errors.New("the list of names cannot be read: deploy again")
	}
	return names, err
}

var countOfFailures = regexp.MustCompile(`^Rotation(?:Error|Refused): ([0-9]+) of ([0-9]+) rotations failed; `)

// someSucceeded reports whether some rotations have failed and others have not.
func someSucceeded(failure string) bool {
	found := countOfFailures.FindStringSubmatch(failure)
	return found != nil && found[1] != found[2]
}

// runFleet has a state machine run all rotations, and waits until it ends. An execution of ensure that finds another one running
// ends at once; then it waits for the other and starts again. The result is the status of all rotations after the run.
func (p *program) runFleet(ctx context.Context, stack *types.Stack, mode string) (result, error) {
	machine := machineOf(stack, mode)
	for {
		name := "rotatorctl-" + p.now().UTC().Format("20060102T150405.000000")
		started, err := p.states.StartExecution(ctx, &sfn.StartExecutionInput{StateMachineArn: &machine, Name: &name})
		if err != nil {
			return result{}, fmt.Errorf("the state machine %s cannot be started: %w", printable(machine), awsError(err))
		}
		ended, err := p.waitFor(ctx, aws.ToString(started.ExecutionArn))
		if err != nil {
			return result{}, err
		}
		var first struct{ Own, Oldest string }
		_ = json.Unmarshal([]byte(aws.ToString(ended.Output)), &first) // rotate has none
		switch {
		case first.Own != first.Oldest:
			p.say("  Another ensure is running: waiting until it ends")
			if _, err := p.waitFor(ctx, first.Oldest); err != nil {
				return result{}, err
			}
		case ended.Status == states.ExecutionStatusSucceeded:
			return p.fleetResult(ctx, stack, mode+"-"+name, aws.ToTime(ended.StartDate))
		default:
			return result{}, runFailure(fmt.Sprintf("the execution %s is %s: %s: %s", printable(aws.ToString(ended.ExecutionArn)), printable(string(ended.Status)),
				printable(aws.ToString(ended.Error)), withoutSecrets(aws.ToString(ended.Cause))))
		}
	}
}

const executionPause = 5 * time.Second

// waitFor waits until an execution has ended.
func (p *program) waitFor(ctx context.Context, execution string) (*sfn.DescribeExecutionOutput, error) {
	for {
		described, err := p.states.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: &execution})
		if err != nil {
			return nil, fmt.Errorf("the execution %s cannot be described: %w", printable(execution), awsError(err))
		}
		if described.Status != states.ExecutionStatusRunning {
			return described, nil
		}
		if err := p.sleep(ctx, executionPause); err != nil {
			return nil, errors.New("interrupted: the execution continues by itself, and rotatorctl status shows how its rotations end")
		}
	}
}

// fleetResult is the status after a run, which may have begun hours ago. A map succeeds even if its batches fail. So every
// rotation must have a report of this run in the log; it waits for reports that reach the log late.
func (p *program) fleetResult(ctx context.Context, stack *types.Stack, runID string, began time.Time) (result, error) {
	missing, err := p.fleetNames(ctx, stack)
	if err != nil {
		return result{}, err
	}
	since := began.Add(-time.Minute)
	if usual := p.now().Add(-time.Hour); usual.Before(since) {
		since = usual
	}
	for ended := p.now(); ; {
		s, runs, err := p.readStatus(ctx, stack, since)
		if err != nil {
			return result{}, err
		}
		reported := map[string]bool{}
		for _, run := range runs {
			if run.Report != nil && run.Report.RunID == runID {
				for _, r := range run.Report.Results {
					reported[r.Rotation] = true
				}
			}
		}
		missing = slices.DeleteFunc(missing, func(name string) bool { return reported[name] })
		switch n := len(missing); {
		case n == 0 && s.OK:
			return result{s, s.text(p)}, nil
		case n == 0:
			return result{document: s}, runFailure("not all rotations are in order:\n" + strings.TrimRight(s.text(p), "\n"))
		case p.now().Sub(ended) > lateBy:
			return result{}, runFailure(fmt.Sprintf("%s left no report, the first of them %s: the log /aws/vendedlogs/states/%s says why", report.Count(n, "rotation"), printable(missing[0]), p.stack))
		}
		if err := p.sleep(ctx, 4*executionPause); err != nil {
			return result{}, err
		}
	}
}

// pass is the last execution of one of a fleet's machines.
type pass struct {
	Mode   string     `json:"mode"`
	Status string     `json:"status"`
	Began  time.Time  `json:"began"`
	Ended  *time.Time `json:"ended,omitempty"`
}

func (p *program) lastPasses(ctx context.Context, stack *types.Stack) (passes []pass, err error) {
	for _, mode := range []string{"rotate", "ensure"} {
		machine := machineOf(stack, mode)
		listed, err := p.states.ListExecutions(ctx, &sfn.ListExecutionsInput{StateMachineArn: &machine, MaxResults: 1})
		if err != nil {
			return nil, fmt.Errorf("the executions of %s cannot be listed: %w", printable(machine), awsError(err))
		}
		for _, e := range listed.Executions {
			passes = append(passes, pass{mode, string(e.Status), aws.ToTime(e.StartDate).UTC(), e.StopDate})
		}
	}
	return passes, nil
}

// bad reports whether the pass did not reach the end of the list.
func (l pass) bad() bool { return l.Status != "RUNNING" && l.Status != "SUCCEEDED" }

func (l pass) text() string {
	text := fmt.Sprintf("%s the last %s: %s", l.Began.Format(time.RFC3339), l.Mode, printable(l.Status))
	if l.Ended != nil {
		text += " after " + l.Ended.Sub(l.Began).Round(time.Second).String()
	}
	return text + "\n"
}
