// Package report holds the types of a run's report and of a diagnosis, which the
// function and the command emit as JSON, and turns both into text for a person.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Report describes a run: one result for each rotation, in the order asked.
type Report struct {
	RunID     string   `json:"run_id"`
	Mode      string   `json:"mode"`
	InvokedBy string   `json:"invoked_by,omitempty"` // "schedule", "person" or "batch"; empty in reports of older versions
	Force     bool     `json:"force,omitempty"`
	Results   []Result `json:"results"`

	KeyRenewal *KeyRenewal `json:"key_renewal,omitempty"` // nil when the run did not renew the bootstrap key
}

// Outcome is how a rotation ended.
type Outcome string

const (
	Rotated     Outcome = "rotated"      // a new token was saved
	Kept        Outcome = "kept"         // the new token would have expired sooner than the stored one
	Fresh       Outcome = "fresh"        // ensure: the stored token has enough remaining lifetime
	AlreadyDone Outcome = "already_done" // this run, or another one since it began, has saved a token
	Checked     Outcome = "checked"      // check: all went well, nothing was saved
	Failed      Outcome = "failed"
)

// Result describes one rotation and the token that is stored after it. What is
// not known is left out.
type Result struct {
	Rotation         string     `json:"rotation"`
	Outcome          Outcome    `json:"outcome"`
	VersionID        string     `json:"version_id,omitempty"`
	ExpiresAt        *time.Time `json:"expires_at,omitempty"`
	SecondsRemaining *int64     `json:"seconds_remaining,omitempty"`
	// MarginSeconds is the remaining lifetime of the old token when the new one was
	// saved; negative means that readers saw a gap.
	MarginSeconds *int64   `json:"margin_seconds,omitempty"`
	Fingerprint   string   `json:"fingerprint,omitempty"`
	Attempts      int      `json:"attempts"`
	Warnings      []string `json:"warnings"`
	Error         *Error   `json:"error,omitempty"`

	// For the log, the metrics and the events of the run itself.
	Saved         bool                   `json:"-"` // this run saved the stored token; it may have failed after that
	Duration      time.Duration          `json:"-"`
	Timings       map[Step]time.Duration `json:"-"` // of the last attempt
	TokenLifetime time.Duration          `json:"-"` // expires_in of the token exchanged; 0 when none was
	TransactionID string                 `json:"-"` // of the last IAM exchange
	KeyDaysLeft   *float64               `json:"-"` // of the API key or the bootstrap key, whichever expires sooner; nil when neither is known
	KeyExpiring   bool                   `json:"-"` // one of them expires so soon that it is a warning
}

// Step is the part of a rotation that failed. Kind is a class of failure that a person can
// act on. Their values are in package rotation.
type (
	Step string
	Kind string
)

// Error is why a rotation failed.
type Error struct {
	Step    Step   `json:"step"`
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`

	Permanent bool `json:"-"` // another run would fail, too: a person has to act
}

// Error returns "step: kind: message".
func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %s", e.Step, e.Kind, e.Message) }

// Failures returns the results that failed.
func (r Report) Failures() []Result {
	var failed []Result
	for _, result := range r.Results {
		if result.Outcome == Failed {
			failed = append(failed, result)
		}
	}
	return failed
}

// Parse decodes the JSON of a report.
func Parse(encoded []byte) (Report, error) {
	var report Report
	if json.Unmarshal(encoded, &report) != nil || report.Results == nil {
		return Report{}, errors.New("not the JSON of a report")
	}
	return report, nil
}

// LogValue holds what an operator needs: never a secret.
func (r Result) LogValue() slog.Value {
	steps := make(map[Step]int64, len(r.Timings))
	for step, took := range r.Timings {
		steps[step] = took.Milliseconds()
	}
	return slog.GroupValue(
		slog.String("rotation", r.Rotation),
		slog.String("outcome", string(r.Outcome)),
		slog.Int("attempts", r.Attempts),
		slog.Int64("duration_ms", r.Duration.Milliseconds()),
		attrIf(r.VersionID != "", "version_id", r.VersionID),
		attrIf(r.VersionID != "", "fingerprint", r.Fingerprint),
		attrIf(r.SecondsRemaining != nil, "seconds_remaining", r.SecondsRemaining),
		attrIf(r.MarginSeconds != nil, "margin_seconds", r.MarginSeconds),
		attrIf(r.TransactionID != "", "iam_transaction_id", r.TransactionID),
		attrIf(len(steps) > 0, "steps_ms", steps),
		attrIf(len(r.Warnings) > 0, "warnings", r.Warnings),
		attrIf(r.Error != nil, "error", r.Error),
	)
}

// attrIf is an attribute, or the empty one, which handlers leave out.
func attrIf(known bool, key string, value any) slog.Attr {
	if !known {
		return slog.Attr{}
	}
	return slog.Any(key, value)
}
