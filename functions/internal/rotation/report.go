package rotation

import (
	"log/slog"
	"time"
)

// Outcome is how a rotation ended.
type Outcome string

const (
	Rotated     Outcome = "rotated"      // a new token was published
	Kept        Outcome = "kept"         // the new token would have expired sooner than the stored one
	Fresh       Outcome = "fresh"        // ensure: the stored token has life enough
	AlreadyDone Outcome = "already_done" // this run, or another one since it began, has published
	Checked     Outcome = "checked"      // check: all went well, nothing was saved
	Failed      Outcome = "failed"
)

// Report is what a run came to, one result for each rotation in the order asked.
type Report struct {
	RunID   string   `json:"run_id"`
	Mode    Mode     `json:"mode"`
	Results []Result `json:"results"`
}

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

// Result describes one rotation and the token that is stored after it. What is
// not known is left out.
type Result struct {
	Rotation         string     `json:"rotation"`
	Outcome          Outcome    `json:"outcome"`
	VersionID        string     `json:"version_id,omitempty"`
	ExpiresAt        *time.Time `json:"expires_at,omitempty"`
	SecondsRemaining *int64     `json:"seconds_remaining,omitempty"`
	// MarginSeconds is the life left in the old token when the new one was
	// published; negative means that readers saw a gap.
	MarginSeconds *int64   `json:"margin_seconds,omitempty"`
	Fingerprint   string   `json:"fingerprint,omitempty"`
	Attempts      int      `json:"attempts"`
	Warnings      []string `json:"warnings"`
	Error         *Error   `json:"error,omitempty"`

	Duration      time.Duration          `json:"-"`
	Timings       map[Step]time.Duration `json:"-"` // of the last attempt
	TokenLifetime time.Duration          `json:"-"` // expires_in of the token exchanged; 0 when none was
	TransactionID string                 `json:"-"` // of the last IAM exchange
}

// LogValue holds what an operator looks for: never a secret.
func (r Result) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("rotation", r.Rotation),
		slog.String("outcome", string(r.Outcome)),
		slog.Int("attempts", r.Attempts),
		slog.Int64("duration_ms", r.Duration.Milliseconds()),
	}
	if r.VersionID != "" {
		attrs = append(attrs, slog.String("version_id", r.VersionID), slog.String("fingerprint", r.Fingerprint))
	}
	if r.SecondsRemaining != nil {
		attrs = append(attrs, slog.Int64("seconds_remaining", *r.SecondsRemaining))
	}
	if r.MarginSeconds != nil {
		attrs = append(attrs, slog.Int64("margin_seconds", *r.MarginSeconds))
	}
	if r.TransactionID != "" {
		attrs = append(attrs, slog.String("iam_transaction_id", r.TransactionID))
	}
	if len(r.Timings) > 0 {
		attrs = append(attrs, slog.Attr{Key: "steps_ms", Value: timingsValue(r.Timings)})
	}
	if len(r.Warnings) > 0 {
		attrs = append(attrs, slog.Any("warnings", r.Warnings))
	}
	if r.Error != nil {
		attrs = append(attrs, slog.Any("error", r.Error))
	}
	return slog.GroupValue(attrs...)
}

func timingsValue(timings map[Step]time.Duration) slog.Value {
	var attrs []slog.Attr
	for _, step := range []Step{StepLook, StepReadKey, StepExchange, StepSave, StepMirror} {
		if took, ok := timings[step]; ok {
			attrs = append(attrs, slog.Int64(string(step), took.Milliseconds()))
		}
	}
	return slog.GroupValue(attrs...)
}
