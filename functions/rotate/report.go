package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

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
