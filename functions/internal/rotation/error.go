package rotation

import (
	"errors"
	"fmt"
	"time"
)

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
