package rotation

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
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

// result describes the outcome and the token that is stored now.
func (p *pass) result(outcome Outcome, stored Stored) Result {
	result := Result{
		Rotation:      p.Name,
		Outcome:       outcome,
		VersionID:     stored.VersionID,
		Fingerprint:   stored.Metadata.Fingerprint,
		Attempts:      p.attempts,
		Warnings:      append([]string{}, p.warnings...),
		Timings:       p.timings,
		TokenLifetime: p.lifetime,
		TransactionID: p.txID,
	}
	now := p.ibmClock()
	if expires := stored.ExpiresAt(); !expires.IsZero() {
		expires = expires.UTC().Truncate(time.Second)
		result.ExpiresAt = &expires
		result.SecondsRemaining = wholeSeconds(expires.Sub(now))
	}
	if old := p.replaced.ExpiresAt(); outcome == Rotated && !old.IsZero() {
		result.MarginSeconds = wholeSeconds(old.Sub(stored.CreatedAt))
	}
	if left := p.BootstrapExpiresAt.Sub(now); !p.BootstrapExpiresAt.IsZero() && left < keyExpiryNotice {
		result.Warnings = append(result.Warnings, fmt.Sprintf("the bootstrap API key expires %s: replace it", p.BootstrapExpiresAt.UTC().Format(time.RFC3339)))
	}
	return result
}

// failed describes a failure and, if a look has told, the token that is still stored.
func (p *pass) failed(failure *Error) Result {
	var stored Stored
	if p.stored != nil {
		stored = *p.stored
	}
	result := p.result(Failed, stored)
	result.Error = failure
	if failure.TransactionID != "" {
		result.TransactionID = failure.TransactionID
	}
	return result
}

// wholeSeconds rounds down, so that a gap of less than a second is negative too.
func wholeSeconds(d time.Duration) *int64 {
	seconds := int64(math.Floor(d.Seconds()))
	return &seconds
}

func typeName(v any) string { return fmt.Sprintf("%T", v) }

// timed measures a step; call what it returns at the step's end.
func (p *pass) timed(step Step) func() {
	began := time.Now()
	return func() { p.timings[step] = time.Since(began) }
}

// Kind is a class of failure that a person can act on.
type Kind string

const (
	Misconfigured Kind = "misconfigured" // a setting or a secret's shape is wrong; nothing to wait for
	Denied        Kind = "denied"        // an identity may not do this, or its key is not known
	NotFound      Kind = "not_found"     // a secret does not exist
	Locked        Kind = "locked"        // a lock on a secret version is in the way
	RateLimited   Kind = "rate_limited"  // 429
	Unavailable   Kind = "unavailable"   // 5xx, no connection, or a 200 that cannot be used
	InvalidToken  Kind = "invalid_token" // IAM answered with a token that must not be published
	Timeout       Kind = "timeout"       // no answer within the attempt, or the process was suspended
)

// Step is the part of a pass that failed.
type Step string

const (
	StepBootstrap Step = "bootstrap" // opening Secrets Manager with the bootstrap identity
	StepLook      Step = "look"
	StepReadKey   Step = "read_key"
	StepExchange  Step = "exchange"
	StepCheck     Step = "check"
	StepSave      Step = "save"
	StepMirror    Step = "mirror"
)

// Retry says whether another attempt can help.
type Retry int

const (
	Never Retry = iota // permanent: a person has to act
	Once               // once more, 2 s later: a key just made or just replaced is not yet known everywhere
	Later              // with back-off, as long as there is time
)

// Error is why a rotation failed. Its message says what to do next and is made
// of our own words: no text of a service's answer enters it, since that could
// repeat a key or token.
type Error struct {
	Step    Step   `json:"step"`
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`

	Advice        string        `json:"-"` // the end of Message, where that is apart from the finding
	Retry         Retry         `json:"-"`
	RetryAfter    time.Duration `json:"-"` // what the service asked for; 0 when it did not
	TransactionID string        `json:"-"` // of the IAM request, for IBM support; empty when there is none
}

// Error returns "step: kind: message".
func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %s", e.Step, e.Kind, e.Message) }

// at gives err its step unless it already bears one (the bootstrap exchange
// happens inside other steps).
func at(step Step, err error) error {
	var failure *Error
	if errors.As(err, &failure) && failure.Step == "" {
		failure.Step = step
	}
	return err
}
