package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/spf13/cobra"

	"iam-token-rotator/functions/report"
)

// rotationStatus is what the log says of a rotation.
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

// status is what the log says of a stack.
type status struct {
	Stack     string           `json:"stack"`
	Since     time.Time        `json:"since"` // what was read begins there
	OK        bool             `json:"ok"`
	Rotations []rotationStatus `json:"rotations"`
	Lost      *lostRun         `json:"lost,omitempty"`   // if nothing was heard of a rotation since
	Passes    []pass           `json:"passes,omitempty"` // a fleet's last ones
}

func (p *program) statusCommand() *cobra.Command {
	var exitZero bool
	cmd := p.newCommand("status", "Show when each token expires and how its last run went",
		`Shows, from the reports in the log of the last hour, when each token expires and how its last run went, failures first.
It also shows a rotate or check that failed and has not succeeded since, and a run that left no report. Of more than 20 rotations those are
listed that are not in order, 20 at most; -o json has all. Of a fleet it shows how the last executions of its machines ended, too.

Exit code 1: a token has expired, a last run failed, or nothing was reported.`,
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

// readStatus also returns what it has read: the runs of the deployed version since then.
func (p *program) readStatus(ctx context.Context, stack *types.Stack, since time.Time) (s status, runs []entry, err error) {
	runs, err = p.entries(ctx, since, runPatterns...)
	if err != nil {
		return s, nil, err
	}
	// A version that deploy has rejected, or replaced, says nothing of the one that runs.
	live, deployed := parameter(stack, aliasVersion), time.Time{}
	runs = slices.DeleteFunc(runs, func(e entry) bool { return live != "" && e.version != live })
	if number(live) == 0 { // of a function without versions, a rotation that has not run since may no longer be deployed
		deployed = aws.ToTime(cmp.Or(stack.LastUpdatedTime, stack.CreationTime))
	}
	s = newStatus(p.stack, since, deployed, runs, p.now())
	if isFleet(stack) {
		s.Passes, err = p.lastPasses(ctx, stack)
		s.OK = s.OK && !slices.ContainsFunc(s.Passes, pass.bad)
	}
	return s, runs, err
}

// newStatus reads the runs since then, oldest first.
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
		r.MarginSeconds, r.SecondsRemaining = nil, nil // of another moment
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

// lastFailed is what is to be remembered after a run. An ensure that finds the stored token good enough proves
// nothing of a rotate that failed: that is shown until a run has gone the same way and come through. A check does
// not go the way of save and mirror.
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

// expired reports whether the stored token has.
func (r rotationStatus) expired() bool { return r.SecondsRemaining != nil && *r.SecondsRemaining < 0 }

// bad reports whether a person has to act.
func (r rotationStatus) bad() bool {
	return r.Outcome == report.Failed || r.LastFailed != nil || r.expired()
}

// mostListed is how many rotations are listed; of more only those that are not in order.
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

// totals counts the outcomes, and the tokens that have expired since.
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
