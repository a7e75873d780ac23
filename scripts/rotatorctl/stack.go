package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/spf13/cobra"
)

// findStack describes a stack, by name or id. It returns nil if there is none.
func (p *program) findStack(ctx context.Context, name string) (*types.Stack, error) {
	described, err := p.stacks.DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &name})
	switch {
	case err != nil && strings.Contains(err.Error(), "does not exist"):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("the stack %s cannot be described: %w", name, awsError(err))
	case len(described.Stacks) == 0:
		return nil, nil
	}
	return &described.Stacks[0], nil
}

// ownStack is the stack of --stack; it is an error if there is none.
func (p *program) ownStack(ctx context.Context) (*types.Stack, error) {
	stack, err := p.findStack(ctx, p.stack)
	if err == nil && stack == nil {
		err = fmt.Errorf("there is no stack %s in %s: check STACK and AWS_REGION, or deploy", p.stack, p.who)
	}
	return stack, err
}

// parameters are those of a stack, none for nil. The templates hide none of their values with NoEcho.
func parameters(stack *types.Stack) map[string]string {
	all := map[string]string{}
	if stack != nil {
		for _, p := range stack.Parameters {
			all[aws.ToString(p.ParameterKey)] = aws.ToString(p.ParameterValue)
		}
	}
	return all
}

func parameter(stack *types.Stack, key string) string { return parameters(stack)[key] }

func output(stack *types.Stack, key string) string {
	for _, o := range stack.Outputs {
		if aws.ToString(o.OutputKey) == key {
			return aws.ToString(o.OutputValue)
		}
	}
	return ""
}

// createOrUpdate makes the stack match the template and the parameters. A parameter that is not given keeps its value in an
// existing stack, if the template still has it; otherwise it has the template's default.
func (d *deployment) createOrUpdate(ctx context.Context) error {
	d.say("%s the stack %s", map[bool]string{true: "Creating", false: "Updating"}[d.existing == nil], d.stack)
	kept, all := parameters(d.existing), maps.Clone(d.defaults)
	maps.DeleteFunc(kept, func(name, _ string) bool { return !slices.Contains(d.others, name) })
	maps.Copy(all, kept)
	maps.Copy(all, d.parameters)
	d.parameters = all
	if err := d.change(ctx, d.existing == nil, release{d.template, d.parameters}); err != nil {
		return fmt.Errorf("the deployment failed: %w\nCorrect that and deploy again, or remove the stack: rotatorctl destroy --stack=%s", err, d.stack)
	}
	return nil
}

// change has CloudFormation create or update the stack, and waits until it has.
func (p *program) change(ctx context.Context, create bool, to release) error {
	watch, err := p.watch(ctx, create)
	if err != nil {
		return err
	}
	capabilities, id := []types.Capability{types.CapabilityCapabilityIam}, ""
	var parameters []types.Parameter
	for key, value := range to.Parameters {
		parameters = append(parameters, types.Parameter{ParameterKey: aws.String(key), ParameterValue: aws.String(value)})
	}
	if create {
		var created *cloudformation.CreateStackOutput
		if created, err = p.stacks.CreateStack(ctx, &cloudformation.CreateStackInput{
			StackName: &p.stack, TemplateBody: &to.Template, Capabilities: capabilities, Parameters: parameters, Tags: p.tags, RoleARN: p.role,
		}); err == nil {
			id = aws.ToString(created.StackId)
		}
	} else {
		var updated *cloudformation.UpdateStackOutput
		if updated, err = p.stacks.UpdateStack(ctx, &cloudformation.UpdateStackInput{
			StackName: &p.stack, TemplateBody: &to.Template, Capabilities: capabilities, Parameters: parameters, Tags: p.tags, RoleARN: p.role,
		}); err == nil {
			id = aws.ToString(updated.StackId)
		}
	}
	if err != nil && strings.Contains(err.Error(), "No updates are to be performed") {
		p.say("Nothing has changed")
		return nil
	} else if err != nil {
		return awsError(err)
	}
	return watch.follow(ctx, id, "CREATE_COMPLETE", "UPDATE_COMPLETE")
}

// removeUnusable returns the stack if it can be updated. It deletes a stack that a failed first deployment or a failed deletion
// left: CloudFormation can do nothing else with it.
func (d *deployment) removeUnusable(ctx context.Context) (*types.Stack, error) {
	stack, err := d.findStack(ctx, d.stack)
	if err != nil || stack == nil {
		return nil, err
	}
	switch status := stack.StackStatus; status {
	case "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS":
		d.say("Deleting the stack %s, which an earlier command left in %s", d.stack, status)
		return nil, d.deleteStack(ctx, stack)
	case "UPDATE_ROLLBACK_FAILED":
		return nil, fmt.Errorf("the stack %s is in %s: run aws cloudformation continue-update-rollback --stack-name %s first", d.stack, status, d.stack)
	default:
		if inProgress(status) {
			return nil, fmt.Errorf("the stack %s is in %s: another deployment is running. Wait until it ends", d.stack, printable(string(status)))
		}
	}
	return stack, nil
}

func inProgress(status types.StackStatus) bool {
	return strings.HasSuffix(string(status), "_IN_PROGRESS")
}

func (p *program) deleteStack(ctx context.Context, stack *types.Stack) error {
	watch, err := p.watch(ctx, false)
	if err != nil {
		return err
	}
	if _, err := p.stacks.DeleteStack(ctx, &cloudformation.DeleteStackInput{StackName: &p.stack}); err != nil {
		return fmt.Errorf("the stack %s cannot be deleted: %w", p.stack, awsError(err))
	}
	if err := watch.follow(ctx, aws.ToString(stack.StackId), "DELETE_COMPLETE"); err != nil {
		return fmt.Errorf("the stack %s is not deleted: %w", p.stack, err)
	}
	return nil
}

// watcher prints a stack's events while CloudFormation works on it.
type watcher struct {
	*program
	began  time.Time
	seen   string              // id of the last event printed
	why    []string            // why resources could not be made or deleted, each reason once
	failed map[string][]string // these resources, by reason
}

// watch begins to watch a stack, which may not exist yet (create): only events from now on are printed.
func (p *program) watch(ctx context.Context, create bool) (*watcher, error) {
	w := &watcher{program: p, began: p.now(), failed: map[string][]string{}}
	if !create {
		for event, err := range p.events(ctx, p.stack) {
			w.seen = aws.ToString(event.EventId)
			return w, err
		}
	}
	return w, nil
}

// events are the events of a stack, newest first. An error ends them.
func (p *program) events(ctx context.Context, stack string) iter.Seq2[types.StackEvent, error] {
	return func(yield func(types.StackEvent, error) bool) {
		pages := cloudformation.NewDescribeStackEventsPaginator(p.stacks, &cloudformation.DescribeStackEventsInput{StackName: &stack})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(types.StackEvent{}, fmt.Errorf("the events of the stack cannot be read: %w", awsError(err)))
				return
			}
			for _, event := range page.StackEvents {
				if !yield(event, nil) {
					return
				}
			}
		}
	}
}

const pollEvery = 2 * time.Second

// follow waits until the stack is deleted, or in a final status. It is an error if that is none of ends.
func (w *watcher) follow(ctx context.Context, id string, ends ...types.StackStatus) error {
	for {
		stack, err := w.findStack(ctx, id)
		if err == nil && stack != nil {
			err = w.printNew(ctx, id)
		}
		switch {
		case err != nil, stack == nil, slices.Contains(ends, stack.StackStatus):
			return err
		case !inProgress(stack.StackStatus):
			return w.failure(stack.StackStatus)
		case w.sleep(ctx, pollEvery) != nil:
			return errors.New("interrupted: CloudFormation continues by itself")
		}
	}
}

// printNew prints the events since the last time, oldest first.
func (w *watcher) printNew(ctx context.Context, id string) error {
	var fresh []types.StackEvent
	for event, err := range w.events(ctx, id) {
		if err != nil {
			return err
		}
		if aws.ToString(event.EventId) == w.seen {
			break
		}
		fresh = append(fresh, event)
	}
	for _, event := range slices.Backward(fresh) {
		w.printEvent(event)
		w.seen = aws.ToString(event.EventId)
	}
	return nil
}

func (w *watcher) printEvent(event types.StackEvent) {
	status, resource := string(event.ResourceStatus), printable(aws.ToString(event.LogicalResourceId))
	color := ""
	switch {
	case strings.HasSuffix(status, "_FAILED"):
		color = red
		reason := printable(aws.ToString(event.ResourceStatusReason))
		if reason == "" || strings.Contains(reason, "cancelled") {
			break // explains nothing
		}
		if w.failed[reason] == nil {
			w.why = append(w.why, reason)
		}
		w.failed[reason] = append(w.failed[reason], resource)
	case strings.HasSuffix(status, "_COMPLETE") && !strings.Contains(status, "ROLLBACK"):
		color = green
	case !w.isTerminal(w.stderr) && event.LogicalResourceId != nil && *event.LogicalResourceId != aws.ToString(event.StackName):
		return // that a step has begun is only of interest on a terminal
	}
	w.say("  %5s  %s  %s", w.now().Sub(w.began).Round(time.Second), w.colored(w.stderr, color, fmt.Sprintf("%-18s", printable(status))), resource)
}

// failure is the error of a stack that ended in status.
func (w *watcher) failure(status types.StackStatus) error {
	message := "CloudFormation ended in " + printable(string(status))
	for _, reason := range w.why {
		message += fmt.Sprintf("\n  %s: %s", strings.Join(w.failed[reason], ", "), reason)
		if n := len(w.failed[reason]); n > 1 {
			message += fmt.Sprintf(" (%d times)", n)
		}
	}
	return errors.New(message)
}

func (p *program) destroyCommand() *cobra.Command {
	var bucket string
	cmd := p.newCommand("destroy", "Remove from AWS everything that deploy made", `Deletes the stack, its log included, and its zips and releases in the bucket.
It leaves the bucket, the bootstrap secret and everything in IBM Cloud.`, func(ctx context.Context) error { return p.destroy(ctx, bucket) })
	cmd.Flags().StringVar(&bucket, "bucket", "", "where the zips are, if the stack no longer exists (BUCKET)")
	return cmd
}

// destroy removes the stack, and its zips, names and releases from the bucket.
func (p *program) destroy(ctx context.Context, bucket string) error {
	if !p.yes && !p.isTerminal(p.stdin) {
		return usagef("destroy deletes the stack %s: there is no terminal to ask on, so give --yes (make destroy YES=1)", p.stack)
	}
	if err := p.connect(ctx); err != nil {
		return err
	}
	stack, err := p.findStack(ctx, p.stack)
	if err != nil {
		return err
	}
	missing := fmt.Errorf("there is no stack %s in %s: check STACK and AWS_REGION", p.stack, p.who)
	what, secret := "This deletes only its zips, from the bucket "+printable(bucket), ""
	switch {
	case stack != nil:
		bucket, secret = parameter(stack, "CodeBucket"), parameter(stack, "BootstrapSecretArn")
		what = "This deletes the function, schedules, queues, roles, alarms, dashboard and log"
		p.say("destroy: the stack %s in %s", p.stack, p.who)
	case bucket == "":
		return missing
	default:
		p.say("destroy: %s", missing)
	}
	if err := p.confirm(ctx, what); err != nil {
		return err
	}
	if stack != nil {
		if err := p.deleteStack(ctx, stack); err != nil {
			return err
		}
	}
	if bucket != "" {
		p.say("Deleting its zips from s3://%s/%s*.zip", printable(bucket), p.prefix("rotate"))
		if err := errors.Join(p.deleteObjects(ctx, bucket, "rotate"), p.deleteObjects(ctx, bucket, "release"), p.deleteObjects(ctx, bucket, "names")); err != nil {
			return err
		}
	}
	if stack == nil {
		return missing
	}
	return p.print(
		map[string]string{"deleted": p.stack, "account": p.who.account, "region": p.who.region, "bucket_left": bucket, "bootstrap_secret_left": secret},
		fmt.Sprintf("Left as they are:\n  the bucket %s\n  the bootstrap secret %s\n  everything in IBM Cloud: the API keys stay valid\n", printable(bucket), printable(secret)))
}
