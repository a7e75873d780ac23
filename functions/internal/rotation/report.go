package rotation

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"iam-token-rotator/functions/report"
)

// The types are the report's; their values are below.
type (
	Step = report.Step
	Kind = report.Kind
)

// result describes the outcome and current, the token that is stored now.
func (p *pass) result(outcome report.Outcome, current TokenVersion) report.Result {
	result := report.Result{
		Rotation:      p.Name,
		Outcome:       outcome,
		VersionID:     current.VersionID,
		Fingerprint:   current.Metadata.Fingerprint,
		Attempts:      p.attempts,
		Warnings:      append([]string{}, p.warnings...),
		Timings:       p.timings,
		TokenLifetime: p.lifetime,
		TransactionID: p.txID,
	}
	_, result.Saved = p.sent[current.Metadata.Fingerprint]
	now := p.ibmClock()
	if expires := expiryOf(current); !expires.IsZero() {
		expires = expires.UTC().Truncate(time.Second)
		result.ExpiresAt = &expires
		result.SecondsRemaining = wholeSeconds(min(expires.Sub(now), current.Lifetime()))
	}
	if old := expiryOf(p.replaced); outcome == report.Rotated && !old.IsZero() {
		result.MarginSeconds = wholeSeconds(old.Sub(current.CreatedAt))
	}
	return result
}

// expiryOf is when the token of a version expires, but not before the version was made, since
// a token is saved while it is valid. In a metric, the gap of edited metadata (since 1970) would hide
// all others.
func expiryOf(version TokenVersion) time.Time {
	expires := version.ExpiresAt()
	if !expires.IsZero() && expires.Before(version.CreatedAt) {
		return version.CreatedAt
	}
	return expires
}

// failed describes a failure and, if the metadata was read, the token that is still stored.
func (p *pass) failed(failure *Error) report.Result {
	result := p.result(report.Failed, p.current)
	result.Error = failure.Report()
	result.TransactionID = cmp.Or(failure.TransactionID, result.TransactionID)
	return result
}

// wholeSeconds rounds down, so that a gap of less than a second is negative too.
func wholeSeconds(d time.Duration) *int64 {
	seconds := int64(math.Floor(d.Seconds()))
	return &seconds
}

// timed starts to measure a step; the returned function ends it.
func (p *pass) timed(step Step) func() {
	began := time.Now()
	return func() { p.timings[step] = time.Since(began) }
}

// Classes of failure that a person can act on.
const (
	Misconfigured Kind = "misconfigured" // a setting or a secret's shape is wrong; nothing to wait for
	Denied        Kind = "denied"        // an identity may not do this, or its key is not known
	NotFound      Kind = "not_found"     // a secret does not exist
	Locked        Kind = "locked"        // a lock on a secret version prevents it
	RateLimited   Kind = "rate_limited"  // 429
	Unavailable   Kind = "unavailable"   // 5xx, no connection, or a 200 with an unusable answer
	InvalidToken  Kind = "invalid_token" // IAM answered with a token that must not be saved
	Timeout       Kind = "timeout"       // no answer within the attempt, or the process was suspended
)

// Parts of a pass that can fail.
const (
	StepBootstrap    Step = "bootstrap" // opening Secrets Manager with the bootstrap identity
	StepReadMetadata Step = "look"
	StepReadKey      Step = "read_key"
	StepExchange     Step = "exchange"
	StepCheck        Step = "check"
	StepSave         Step = "save"
	StepMirror       Step = "mirror"
)

// Retry says whether another attempt can help.
type Retry int

const (
	Never Retry = iota // permanent: a person has to act
	Once               // one more attempt, 2 s later: IAM may not know a new key yet
	Later              // with back-off, as long as there is time
)

// Error is why a rotation failed. Its message says what to do next. It never has text of
// a service's answer in it, because that could repeat a key or token.
type Error struct {
	Step    Step
	Kind    Kind
	Message string

	Advice        string // what to do, if Message ends with exactly that; else empty
	Retry         Retry
	RetryAfter    time.Duration // what the service asked for; 0 when it did not
	TransactionID string        // of the IAM request, for IBM support; empty when there is none
}

// Error returns "step: kind: message".
func (e *Error) Error() string { return fmt.Sprintf("%s: %s: %s", e.Step, e.Kind, e.Message) }

// Report returns the error as reports have it. It is permanent if another run would fail, too. A
// timeout is not, because another run has time again.
func (e *Error) Report() *report.Error {
	permanent := e.Retry != Later && e.Kind != Timeout && e.Kind != Unavailable && e.Kind != RateLimited
	return &report.Error{Step: e.Step, Kind: e.Kind, Message: e.Message, Permanent: permanent}
}

// ErrorOf returns the *Error that err is.
func ErrorOf(err error) *Error {
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure
	}
	return &Error{Step: StepReadMetadata, Kind: Unavailable, Message: fmt.Sprintf("unexpected failure of type %T", err)}
}

// At returns a copy of err with its step, unless err has one already: the exchange of the
// bootstrap identity happens inside other steps. It copies because passes share errors.
func At(step Step, err error) error {
	if err == nil {
		return nil
	}
	placed := *ErrorOf(err)
	placed.Step = cmp.Or(placed.Step, step)
	return &placed
}
