// Package events puts events on EventBridge: for each token that is saved, and when a
// rotation begins to fail or recovers. It compares each run with the runs before it in the
// same process, which keeps no other state.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// Source is the source of all events.
const Source = "iam-token-rotator"

// Type is an event's detail-type.
type Type string

const (
	TokenRotated      Type = "Token Rotated"
	RotationFailed    Type = "Rotation Failed"
	RotationRecovered Type = "Rotation Recovered"
)

// Event is an event to put.
type Event struct {
	Type   Type
	Detail string // a JSON object
	result *report.Result
}

// Bus puts events. It returns an error for each event, nil if the event was accepted. A report
// may show the error, so it repeats no text of an answer.
type Bus interface {
	Put(ctx context.Context, events []Event) []error
}

const (
	// putLimit is the time limit of a run's events: the report waits for them.
	putLimit = 3 * time.Second
	// retryAfter is the wait before events that were not accepted are put once more.
	retryAfter = 300 * time.Millisecond
	// quiet is the least time between two failures of a rotation that a process announces.
	quiet = 15 * time.Minute
)

// Announcer announces the results of a process's runs.
type Announcer struct {
	Bus        Bus
	TokensOnly bool             // no failure and no recovery: a process of one run knows of no run before
	Now        func() time.Time // if nil, time.Now

	mu   sync.Mutex
	seen map[string]*state // by rotation
}

// state is what a process remembers of a rotation.
type state struct {
	failing     bool      // a failure was announced, and no recovery since
	missed      bool      // but the event of the failure was not accepted
	announcedAt time.Time // of the last failure
	version     string    // the version that was stored when the rotation failed
	untilSaved  bool      // only another version ends the failure, see failed
}

// Announce puts the events of a run. It takes 3 seconds at most, or half of the remaining time.
// An event that is not accepted becomes a warning of its result, and fails nothing. Of a run
// that was interrupted, it announces the tokens only.
func (a *Announcer) Announce(ctx context.Context, ran *report.Report) {
	if rotation.Mode(ran.Mode) == rotation.ModeCheck {
		return
	}
	tokensOnly := a.TokensOnly
	if errors.Is(ctx.Err(), context.Canceled) {
		ctx, tokensOnly = context.WithoutCancel(ctx), true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var events []Event
	for i := range ran.Results {
		result := &ran.Results[i]
		if result.Saved {
			events = append(events, Event{TokenRotated, detailOf(*ran, *result), result})
		}
		if tokensOnly {
			continue
		}
		if change := a.change(*result); change != "" {
			events = append(events, Event{change, detailOf(*ran, *result), result})
		}
	}
	if len(events) > 0 {
		a.warn(events, a.putTwice(ctx, events))
	}
}

// warn adds one warning for each reason why events were not accepted, since a run may have thousands
// of results. The first of these results gets it.
func (a *Announcer) warn(events []Event, errs []error) {
	byReason := map[string][]int{} // indexes of events
	for i, err := range errs {
		if err == nil {
			continue
		}
		reason := err.Error()
		if failure, ok := errors.AsType[*rotation.Error](err); ok {
			reason = string(failure.Kind) + ": " + failure.Message
		}
		byReason[reason] = append(byReason[reason], i)
		if events[i].Type == RotationFailed {
			a.seen[events[i].result.Rotation].missed = true
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		all := byReason[reason]
		first, others := events[all[0]], ""
		if n := len(all) - 1; n > 0 {
			others = ", nor " + report.Count(n, "other")
		}
		first.result.Warnings = append(first.result.Warnings, fmt.Sprintf("the event %q is not announced%s: %s", first.Type, others, reason))
	}
}

// putTwice puts events, and puts those again that were not accepted but may be.
func (a *Announcer) putTwice(ctx context.Context, events []Event) []error {
	limit := putLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	errs := a.Bus.Put(ctx, events)
	var again []Event
	var at []int
	for i, err := range errs {
		if failure, ok := errors.AsType[*rotation.Error](err); ok && failure.Retry != rotation.Never {
			again, at = append(again, events[i]), append(at, i)
		}
	}
	if len(again) == 0 {
		return errs
	}
	select {
	case <-ctx.Done():
		return errs
	case <-time.After(retryAfter):
	}
	for i, err := range a.Bus.Put(ctx, again) {
		errs[at[i]] = err
	}
	return errs
}

// change remembers a result. It returns RotationFailed or RotationRecovered if a failure begins or
// ends with the result, else "".
func (a *Announcer) change(result report.Result) Type {
	if a.seen == nil {
		a.seen = map[string]*state{}
	}
	s := a.seen[result.Rotation]
	if s == nil {
		s = &state{}
		a.seen[result.Rotation] = s
	}
	if result.Outcome == report.Failed {
		return s.failed(result, rotation.WallClock(a.Now))
	}
	return s.succeeded(result)
}

// failed remembers a failure. If the step that failed is one that ensure takes only when it saves a
// token, a later fresh does not show that the step works again.
func (s *state) failed(result report.Result, now time.Time) Type {
	if result.VersionID != "" && result.VersionID != s.version {
		s.version, s.untilSaved = result.VersionID, false
	}
	switch result.Error.Step {
	case rotation.StepBootstrap, rotation.StepReadMetadata, rotation.StepMirror: // every run takes these
	default:
		s.untilSaved = true
	}
	if s.failing && !s.missed || now.Sub(s.announcedAt) < quiet {
		return ""
	}
	s.failing, s.missed, s.announcedAt = true, false, now
	return RotationFailed
}

func (s *state) succeeded(result report.Result) Type {
	if s.untilSaved && result.Outcome == report.Fresh && result.VersionID == s.version {
		return ""
	}
	announced := s.failing
	*s = state{announcedAt: s.announcedAt}
	if announced {
		return RotationRecovered
	}
	return ""
}

// detailOf returns an event's detail: the result as the report has it, without its outcome and warnings.
func detailOf(ran report.Report, result report.Result) string {
	// Marshalling text and numbers cannot fail.
	encoded, _ := json.Marshal(struct {
		report.Result
		RunID    string    `json:"run_id"`
		Mode     string    `json:"mode"`
		Outcome  *struct{} `json:"outcome,omitempty"`
		Warnings *struct{} `json:"warnings,omitempty"`
	}{Result: result, RunID: ran.RunID, Mode: ran.Mode})
	return string(encoded)
}
