package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/spf13/cobra"

	"iam-token-rotator/functions/report"
)

// entry is what a line of the function's log means.
type entry struct {
	ID     string         `json:"-"`
	At     time.Time      `json:"at"`
	Report *report.Report `json:"report,omitempty"`
	Lost   string         `json:"lost,omitempty"`  // how a run ended that left no report
	Other  string         `json:"other,omitempty"` // another warning or error
	line   string
	// version of the function that wrote it: the stream has it in brackets
	version string
}

// streamVersion finds the version in a stream's name, 2026/01/31/FUNCTION[VERSION]ENVIRONMENT.
var streamVersion = regexp.MustCompile(`\[([^]]+)\]`)

// lambdaFailure is what Lambda says of a process that ended, or whose time was up.
var lambdaFailure = regexp.MustCompile(`^RequestId: \S+ (Error: .*)|(Task timed out.*)`)

func newEntry(logged types.FilteredLogEvent) entry {
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
	case said.Msg != "rotation" && (said.Level == "WARN" || said.Level == "ERROR"): // the report has the results again
		e.Other = said.Level + " " + said.Msg
		if said.Error != "" {
			e.Other += ": " + said.Error
		}
	}
	return e
}

// text is the entry for a person, nothing if it is of no interest.
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

// runPatterns find what newEntry knows: one pattern cannot ask for both, the function's lines and Lambda's.
var runPatterns = []string{
	`{ ($.msg = "report") || ($.msg = "the run could not begin") || ($.level = "WARN") || ($.level = "ERROR") }`,
	`?"Task timed out" ?"Error:"`,
}

// entries returns what the log has since then and matches one of the patterns, each line once, by time.
func (p *program) entries(ctx context.Context, since time.Time, patterns ...string) ([]entry, error) {
	found := []entry{}
	for _, pattern := range patterns {
		pages := cloudwatchlogs.NewFilterLogEventsPaginator(p.logs, &cloudwatchlogs.FilterLogEventsInput{
			LogGroupName: aws.String("/aws/lambda/" + p.stack), StartTime: aws.Int64(since.UnixMilli()), FilterPattern: aws.String(pattern),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
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
	cmd := p.newCommand("logs", "Print what the deployed function's log says, a line a result", "", func(ctx context.Context) error {
		switch {
		case o.since <= 0 || o.since > 10*365*24*time.Hour:
			return usagef("--since is the time to go back: 30m, 1h, 24h")
		case o.raw && (o.failed || p.output == "json"):
			return usagef("--raw prints all lines as they are: leave out --failed and -o json")
		case o.follow && p.output == "json":
			return usagef("--follow never ends, so there is no JSON document to print: leave out -o json")
		}
		return p.printLogs(ctx, o)
	})
	cmd.Flags().DurationVar(&o.since, "since", time.Hour, "show this much of the log, up to now")
	cmd.Flags().BoolVar(&o.failed, "failed", false, "only what failed")
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "keep printing until Ctrl-C")
	cmd.Flags().BoolVar(&o.raw, "raw", false, "every line, escaped for a terminal but otherwise as it is")
	return cmd
}

const (
	followEvery = 5 * time.Second
	lateBy      = 2 * time.Minute // a line may reach CloudWatch that late
)

// news are the entries of interest that are not printed yet, and their text.
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
		if err != nil && ctx.Err() != nil {
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
