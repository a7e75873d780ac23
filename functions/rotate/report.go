package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/rotation"
)

// printReport prints the report for a person, or as one line of JSON.
func printReport(w io.Writer, report rotation.Report, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(report)
	}
	for _, result := range report.Results {
		if _, err := io.WriteString(w, describe(result)); err != nil {
			return err
		}
	}
	return nil
}

// life says until when a token lives, or since when it does not.
func life(expiresAt time.Time, secondsRemaining int64) string {
	at, left := expiresAt.Format(time.RFC3339), time.Duration(secondsRemaining)*time.Second
	if left < 0 {
		return fmt.Sprintf("expired %s (%s ago)", at, -left)
	}
	return fmt.Sprintf("expires %s (in %s)", at, left)
}

// describe says in plain words what became of a rotation.
func describe(result rotation.Result) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s", result.Rotation, result.Outcome)
	if result.Attempts > 1 {
		fmt.Fprintf(&text, " after %d attempts", result.Attempts)
	}
	if result.ExpiresAt != nil {
		text.WriteString("; the stored token " + life(*result.ExpiresAt, *result.SecondsRemaining))
	}
	if result.MarginSeconds != nil {
		fmt.Fprintf(&text, "; the old one had %s left", time.Duration(*result.MarginSeconds)*time.Second)
	}
	text.WriteByte('\n')
	if result.Error != nil {
		fmt.Fprintf(&text, "  %v\n", result.Error)
	}
	for _, warning := range result.Warnings {
		fmt.Fprintf(&text, "  warning: %s\n", warning)
	}
	return text.String()
}

// marks are how a person sees at once what is wrong.
var marks = map[doctor.Status]string{doctor.OK: "✓", doctor.Failed: "✗", doctor.Warning: "!", doctor.Skipped: "–"}

// printDiagnosis prints it for a person, or as one line of JSON.
func printDiagnosis(w io.Writer, diagnosis doctor.Diagnosis, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(diagnosis)
	}
	var text strings.Builder
	rotation := ""
	for checks := diagnosis.Checks; len(checks) > 0; {
		first, others := checks[0], alike(checks)
		checks = checks[1+len(others):]
		if first.Rotation != rotation {
			rotation = first.Rotation
			fmt.Fprintf(&text, "rotation %s\n", rotation)
		}
		fmt.Fprintf(&text, "%s %-21s %s\n", marks[first.Status], first.Name, first.Detail)
		if len(others) > 0 {
			fmt.Fprintf(&text, "  %-21s nor %s\n", "", strings.Join(others, ", "))
		}
		if first.Advice != "" {
			fmt.Fprintf(&text, "  %-21s → %s\n", "", first.Advice)
		}
	}
	text.WriteString(summaryOf(diagnosis))
	_, err := io.WriteString(w, text.String())
	return err
}

// alike names the checks after the first that were not tried for its reason.
func alike(checks []doctor.Check) []string {
	var names []string
	first := checks[0]
	for _, check := range checks[1:] {
		if check.Status != doctor.Skipped || check.Rotation != first.Rotation || check.Detail != first.Detail {
			break
		}
		names = append(names, check.Name)
	}
	return names
}

func summaryOf(diagnosis doctor.Diagnosis) string {
	failed, warnings := diagnosis.Count(doctor.Failed), diagnosis.Count(doctor.Warning)
	switch {
	case failed > 0:
		return fmt.Sprintf("%s failed, %s\n", count(failed, "check"), count(warnings, "warning"))
	case warnings > 0:
		return fmt.Sprintf("nothing failed, %s\n", count(warnings, "warning"))
	default:
		return "nothing is wrong that can be seen without writing\n"
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
