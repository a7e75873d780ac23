package rotation

import (
	"fmt"
	"math"
	"time"
)

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
