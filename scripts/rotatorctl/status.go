package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	logs "github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/spf13/cobra"

	"iam-token-rotator/functions/report"
)

// entry is a line of the function's log, parsed.
type entry struct {
	ID      string         `json:"-"`
	At      time.Time      `json:"at"`
	Report  *report.Report `json:"report,omitempty"`
	Lost    string         `json:"lost,omitempty"`  // how a run ended that left no report
	Other   string         `json:"other,omitempty"` // another warning or error
	line    string
	version string // of the function that wrote the line
}

// streamVersion finds the version in a stream's name, 2026/01/31/FUNCTION[VERSION]ENVIRONMENT.
var streamVersion = regexp.MustCompile(`\[([^]]+)\]`)

// lambdaFailure finds Lambda's own lines about a process that crashed or ran out of time.
var lambdaFailure = regexp.MustCompile(`^RequestId: \S+ (Error: .*)|(Task timed out.*)`)

func newEntry(logged logs.FilteredLogEvent) entry {
	line := strings.TrimRight(aws.ToString(logged.Message), "\r\n")
	e := entry{ID: aws.ToString(logged.EventId), At: time.UnixMilli(aws.ToInt64(logged.Timestamp)).UTC(), line: line}
	if found := streamVersion.FindStringSubmatch(aws.ToString(logged.LogStreamName)); found != nil {
		e.version = found[1]
	}
	var said struct {
		Msg, Level, Error string
		Report            json.RawMessage
	}
	if json.Unmarshal([]byte(line), &said) != nil {
		if found := lambdaFailure.FindStringSubmatch(line); found != nil && !strings.HasPrefix(line, "{") {
			e.Lost = "ended without a report: " + found[1] + found[2]
		}
		return e
	}
	switch {
	case said.Msg == "report":
		if r, err := report.Parse(said.Report); err == nil {
			e.Report = &r
		}
	case said.Msg == "the run could not begin":
		e.Lost = "could not begin: " + strings.ReplaceAll(said.Error, "\n", "; ")
	case said.Msg != "rotation" && (said.Level == "WARN" || said.Level == "ERROR"): // the report has the results of rotations
		e.Other = said.Level + " " + said.Msg
		if said.Error != "" {
			e.Other += ": " + said.Error
		}
	}
	return e
}

// text is the entry for a person; it is empty for what the options leave out.
func (e entry) text(o logOptions) string {
	if o.raw {
		return printable(e.line) + "\n"
	}
	var text strings.Builder
	at := e.At.Format(time.RFC3339)
	switch {
	case e.Report != nil:
		run := e.Report.Mode
		if e.Report.InvokedBy != "" && e.Report.InvokedBy != "schedule" {
			run += " by " + e.Report.InvokedBy
		}
		if e.Report.Force {
			run += ", forced"
		}
		for _, result := range e.Report.Results {
			fmt.Fprintf(&text, "%s %s: %s\n", at, printable(run), result.Line())
		}
		if renewal := e.Report.KeyRenewal; renewal != nil && renewal.IsNews() && (!o.failed || renewal.Outcome == report.KeyRenewalFailed) {
			fmt.Fprintf(&text, "%s %s: %s\n", at, printable(run), renewal.Line())
		}
	case e.Lost != "":
		fmt.Fprintf(&text, "%s the run %s\n", at, printable(e.Lost))
	case e.Other != "" && !o.failed:
		fmt.Fprintf(&text, "%s %s\n", at, printable(e.Other))
	}
	return text.String()
}

// runPatterns find the lines that newEntry parses: the first the function's own, the second Lambda's. No pattern can find both.
var runPatterns = []string{
	`{ ($.msg = "report") || ($.msg = "the run could not begin") || ($.level = "WARN") || ($.level = "ERROR") }`,
	`?"Task timed out" ?"Error:"`,
}

// entries returns the lines since a time that match one of the patterns, each once, in order of time.
func (p *program) entries(ctx context.Context, since time.Time, patterns ...string) ([]entry, error) {
	found := []entry{}
	for _, pattern := range patterns {
		pages := cloudwatchlogs.NewFilterLogEventsPaginator(p.logs, &cloudwatchlogs.FilterLogEventsInput{
			LogGroupName: aws.String("/aws/lambda/" + p.stack), StartTime: aws.Int64(since.UnixMilli()), FilterPattern: aws.String(pattern),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if _, missing := errors.AsType[*logs.ResourceNotFoundException](err); missing {
				return nil, fmt.Errorf("there is no log of the function %s in %s: check STACK and AWS_REGION, or deploy", p.stack, p.who)
			} else if err != nil {
				return nil, fmt.Errorf("the log of %s cannot be read: %w", p.stack, awsError(err))
			}
			for _, logged := range page.Events {
				found = append(found, newEntry(logged))
			}
		}
	}
	slices.SortStableFunc(found, func(a, b entry) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	return slices.CompactFunc(found, func(a, b entry) bool { return a.ID == b.ID }), nil
}

// logOptions are those of the command logs.
type logOptions struct {
	since               time.Duration
	failed, follow, raw bool
}

func (p *program) logsCommand() *cobra.Command {
	var o logOptions
	cmd := p.newCommand("logs", "Print the deployed function's log, one line for each result", "", func(ctx context.Context) error {
		switch {
		case o.since <= 0 || o.since > 10*365*24*time.Hour:
			return usagef("--since is how far to go back: 30m, 1h, 24h")
		case o.raw && (o.failed || p.output == "json"):
			return usagef("--raw prints all lines as they are: leave out --failed and -o json")
		case o.follow && p.output == "json":
			return usagef("--follow never ends, so there is no JSON document to print: leave out -o json")
		}
		return p.printLogs(ctx, o)
	})
	cmd.Flags().DurationVar(&o.since, "since", time.Hour, "show this much of the log, up to now")
	cmd.Flags().BoolVar(&o.failed, "failed", false, "only failures")
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "keep printing until Ctrl-C")
	cmd.Flags().BoolVar(&o.raw, "raw", false, "every line as it is, escaped for a terminal")
	return cmd
}

const (
	followEvery = 5 * time.Second
	lateBy      = 2 * time.Minute // a line may reach CloudWatch that late
)

// news returns the entries that the options want and that are not printed yet, with their text.
func (o logOptions) news(found []entry, printed map[string]bool) ([]entry, string) {
	var text strings.Builder
	fresh := slices.DeleteFunc(found, func(e entry) bool {
		if o.failed && e.Report != nil {
			e.Report.Results = e.Report.Failures()
		}
		said := e.text(o)
		if said == "" || printed[e.ID] {
			return true
		}
		printed[e.ID] = true
		text.WriteString(said)
		return false
	})
	return fresh, text.String()
}

func (p *program) printLogs(ctx context.Context, o logOptions) error {
	if err := p.connect(ctx); err != nil {
		return err
	}
	patterns := runPatterns
	if o.raw {
		patterns = []string{""}
	}
	printed := map[string]bool{}
	for since := p.now().Add(-o.since); ; {
		asked := p.now()
		found, err := p.entries(ctx, since, patterns...)
		if o.follow && ctx.Err() != nil {
			return nil // Ctrl-C
		} else if err != nil {
			return err
		}
		found, text := o.news(found, printed)
		if err := p.print(map[string]any{"entries": found}, text); err != nil {
			return err
		}
		if !o.follow {
			if len(found) == 0 && p.output != "json" {
				p.say("%s in the log of the last %s", map[bool]string{false: "Nothing is", true: "No failure is"}[o.failed], o.since)
			}
			return nil
		}
		if p.sleep(ctx, followEvery) != nil {
			return nil // Ctrl-C
		}
		if later := asked.Add(-lateBy); later.After(since) {
			since = later
		}
	}
}

// rotationStatus is the state of a rotation by the log: the result of its last run.
type rotationStatus struct {
	report.Result
	At         time.Time  `json:"at"` // of its last run
	LastFailed *failedRun `json:"last_failed,omitempty"`
}

// failedRun is a rotate or check that failed and has not succeeded since.
type failedRun struct {
	At   time.Time `json:"at"`
	Mode string    `json:"mode"`
	*report.Error
}

// lostRun is a run that left no report.
type lostRun struct {
	At  time.Time `json:"at"`
	Why string    `json:"why"`
}

// status is the state of a stack by the log.
type status struct {
	Stack     string           `json:"stack"`
	Since     time.Time        `json:"since"` // what was read begins there
	OK        bool             `json:"ok"`
	Rotations []rotationStatus `json:"rotations"`
	Lost      *lostRun         `json:"lost,omitempty"`   // if a rotation has not reported since
	Passes    []pass           `json:"passes,omitempty"` // a fleet's last ones
}

func (p *program) statusCommand() *cobra.Command {
	var exitZero bool
	cmd := p.newCommand("status", "Show when each token expires and how its last run went",
		`Shows when each token expires and how its last run went, failures first, from the reports in the log of the last hour.
It also shows a rotate or check that failed and has not succeeded since, and a run that left no report. With more than 20
rotations it lists only those that are not in order, 20 at most; -o json has all. For a fleet it also shows how the last
executions of its state machines ended.

Exit code 1: a token has expired, a last run failed, or there is no report.`,
		func(ctx context.Context) error {
			if err := p.connect(ctx); err != nil {
				return err
			}
			stack, err := p.ownStack(ctx)
			if err != nil {
				return err
			}
			s, _, err := p.readStatus(ctx, stack, p.now().Add(-time.Hour))
			if err == nil {
				err = p.print(s, s.text(p))
			}
			if err == nil && !s.OK && !exitZero {
				return exitError(1)
			}
			return err
		})
	cmd.Flags().BoolVar(&exitZero, "exit-zero", false, "exit 0 whatever it shows")
	return cmd
}

// readStatus returns the status, and the runs of the live version since a time, from which it is made.
func (p *program) readStatus(ctx context.Context, stack *types.Stack, since time.Time) (s status, runs []entry, err error) {
	runs, err = p.entries(ctx, since, runPatterns...)
	if err != nil {
		return s, nil, err
	}
	// Runs of rejected or replaced versions do not count.
	live, deployed := parameter(stack, aliasVersion), time.Time{}
	runs = slices.DeleteFunc(runs, func(e entry) bool { return live != "" && e.version != live })
	if number(live) == 0 { // without versions: a rotation that has not run since the update may no longer exist
		deployed = aws.ToTime(cmp.Or(stack.LastUpdatedTime, stack.CreationTime))
	}
	s = newStatus(p.stack, since, deployed, runs, p.now())
	if isFleet(stack) {
		s.Passes, err = p.lastPasses(ctx, stack)
		s.OK = s.OK && !slices.ContainsFunc(s.Passes, pass.bad)
	}
	return s, runs, err
}

// newStatus makes the status from the runs, oldest first.
func newStatus(stack string, since, deployed time.Time, runs []entry, now time.Time) status {
	rotations := map[string]rotationStatus{}
	var lost *lostRun
	for _, run := range runs {
		if run.Lost != "" {
			lost = &lostRun{run.At, run.Lost}
		}
		if run.Report == nil {
			continue
		}
		for _, result := range run.Report.Results {
			before := rotations[result.Rotation]
			if result.ExpiresAt == nil {
				result.ExpiresAt = before.ExpiresAt
			}
			rotations[result.Rotation] = rotationStatus{result, run.At, lastFailed(before.LastFailed, run, result)}
		}
	}
	maps.DeleteFunc(rotations, func(_ string, r rotationStatus) bool { return r.At.Before(deployed) })
	s := status{Stack: stack, Since: since.UTC(), OK: len(rotations) > 0, Rotations: slices.AppendSeq([]rotationStatus{}, maps.Values(rotations))}
	if len(rotations) == 0 {
		s.Lost = lost
	}
	for i := range s.Rotations {
		r := &s.Rotations[i]
		r.MarginSeconds, r.SecondsRemaining = nil, nil // they were true at the time of the run
		if r.ExpiresAt != nil {
			r.SecondsRemaining = aws.Int64(int64(r.ExpiresAt.Sub(now) / time.Second))
		}
		if lost != nil && r.At.Before(lost.At) {
			s.Lost = lost
		}
		s.OK = s.OK && !r.bad()
	}
	s.OK = s.OK && s.Lost == nil
	slices.SortFunc(s.Rotations, func(a, b rotationStatus) int {
		first := map[bool]int{true: -1} // what is bad
		return cmp.Or(first[a.bad()]-first[b.bad()], strings.Compare(a.Rotation, b.Rotation))
	})
	return s
}

// lastFailed is the failure to show after a run, given the one before it. It is shown until a run has succeeded at the same step:
// an ensure that finds the stored token fresh does not reach that step, and a check does not reach save and mirror.
func lastFailed(before *failedRun, run entry, result report.Result) *failedRun {
	mode := run.Report.Mode
	switch {
	case result.Error != nil && mode != "ensure":
		return &failedRun{run.At, mode, result.Error}
	case result.Error != nil:
		return before
	case result.Outcome == report.Rotated, mode == "rotate":
		return nil
	case mode == "check" && before != nil && before.Step != "save" && before.Step != "mirror":
		return nil
	}
	return before
}

// expired reports whether the stored token has expired.
func (r rotationStatus) expired() bool { return r.SecondsRemaining != nil && *r.SecondsRemaining < 0 }

// bad reports whether a person has to act.
func (r rotationStatus) bad() bool {
	return r.Outcome == report.Failed || r.LastFailed != nil || r.expired()
}

// mostListed is how many rotations the status lists for a person. If there are more, it lists only those that are not in order.
const mostListed = 20

// text is the status for a person.
func (s status) text(p *program) string {
	var text strings.Builder
	write := func(bad bool, line string) {
		if bad {
			line = p.colored(p.stdout, red, line)
		}
		text.WriteString(line)
	}
	if s.Lost != nil {
		write(true, fmt.Sprintf("the run at %s %s\n", s.Lost.At.Format(time.RFC3339), printable(s.Lost.Why)))
	}
	for _, pass := range s.Passes {
		write(pass.bad(), pass.text())
	}
	listed := s.Rotations // the bad ones first
	if len(listed) > mostListed {
		listed = slices.DeleteFunc(slices.Clone(listed), func(r rotationStatus) bool { return !r.bad() })
	}
	for _, r := range listed[:min(len(listed), mostListed)] {
		write(r.bad(), r.text())
	}
	if left := len(listed) - mostListed; left > 0 {
		fmt.Fprintf(&text, "%d more are not in order: rotatorctl status -o json lists them\n", left)
	}
	if len(s.Rotations) == 0 {
		fmt.Fprintf(&text, "no report since %s: see rotatorctl logs and the alarms\n", s.Since.Format(time.RFC3339))
	}
	if len(s.Rotations) > 1 {
		text.WriteString(s.totals() + "\n")
	}
	return text.String()
}

func (r rotationStatus) text() string {
	text := r.At.Format(time.RFC3339) + " " + r.Text()
	if r.ExpiresAt == nil {
		text += "  the expiry of the stored token is not known\n"
	}
	if f := r.LastFailed; f != nil && !f.At.Equal(r.At) {
		text += fmt.Sprintf("  last %s failed at %s: %s\n", printable(f.Mode), f.At.Format(time.RFC3339), printable(f.Error.Error()))
	}
	return text
}

// totals counts the outcomes, and the tokens that have expired since the last run.
func (s status) totals() string {
	var all report.Report
	expired := 0
	for _, r := range s.Rotations {
		all.Results = append(all.Results, r.Result)
		if r.expired() {
			expired++
		}
	}
	if expired == 0 {
		return all.Totals()
	}
	return all.Totals() + "; " + report.Count(expired, "token") + " expired"
}
