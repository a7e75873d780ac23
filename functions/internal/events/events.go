// Package events announces on EventBridge what becomes of rotations: each token that is
// published, and when a rotation begins or ceases to fail. What begins and ends is known
// from the memory of the process, the only state there is.
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

// Source is that of all events.
const Source = "iam-token-rotator"

// Type is an event's detail-type.
type Type string

const (
	TokenRotated      Type = "Token Rotated"
	RotationFailed    Type = "Rotation Failed"
	RotationRecovered Type = "Rotation Recovered"
)

// Event is one event as it is put.
type Event struct {
	Type   Type
	Detail string // a JSON object
	result *report.Result
}

// Bus takes events. It returns what prevented each one: nil for one that was taken. An
// error is one of our own words, which a report may show.
type Bus interface {
	Put(ctx context.Context, events []Event) []error
}

const (
	// putLimit is the longest that the events of a run may take: the report waits for them.
	putLimit = 3 * time.Second
	// retryAfter is when an event that was not taken is put once more.
	retryAfter = 300 * time.Millisecond
	// quiet is how long after one failure of a rotation a process announces no other one.
	quiet = 15 * time.Minute
)

// Announcer announces the results of a process's runs.
type Announcer struct {
	Bus        Bus
	TokensOnly bool             // the process has one run: it remembers none before
	Now        func() time.Time // if nil, time.Now

	mu   sync.Mutex
	seen map[string]*state // by rotation
}

// state is what a process remembers of a rotation.
type state struct {
	failing     bool // that it fails was announced
	missed      bool // and not taken
	announcedAt time.Time
	version     string // stored when it failed
	untilSaved  bool   // it fails until another version is stored: that one is up to date shows nothing
}

// Announce puts the events that follow from a run, after all else that the run does for
// its tokens, and waits for that no longer than 3 seconds or half the time that is left.
// What prevents it is a warning of the result, and fails nothing. Of a run that somebody has
// interrupted only the tokens are announced.
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

// warn has one warning for all events that a reason has prevented: a run may have thousands of results.
func (a *Announcer) warn(events []Event, errs []error) {
	prevented := map[string][]int{}
	for i, err := range errs {
		if err == nil {
			continue
		}
		reason := err.Error()
		if failure, ok := errors.AsType[*rotation.Error](err); ok {
			reason = string(failure.Kind) + ": " + failure.Message
		}
		prevented[reason] = append(prevented[reason], i)
		if events[i].Type == RotationFailed {
			a.seen[events[i].result.Rotation].missed = true
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(prevented)) {
		all := prevented[reason]
		first, others := events[all[0]], ""
		if n := len(all) - 1; n > 0 {
			others = ", nor " + report.Count(n, "other")
		}
		first.result.Warnings = append(first.result.Warnings, fmt.Sprintf("the event %q is not announced%s: %s", first.Type, others, reason))
	}
}

// putTwice puts events, and once more those that were not taken and may be.
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

// change returns what a result is the beginning or the end of, "" if of nothing, and remembers it.
func (a *Announcer) change(result report.Result) Type {
	if a.seen == nil {
		a.seen = map[string]*state{}
	}
	s := a.seen[result.Rotation]
	if s == nil {
		s = &state{}
		a.seen[result.Rotation] = s
	}
	if result.Outcome != report.Failed {
		if s.untilSaved && result.Outcome == report.Fresh && result.VersionID == s.version {
			return ""
		}
		failed := s.failing
		*s = state{announcedAt: s.announcedAt}
		if failed {
			return RotationRecovered
		}
		return ""
	}
	if result.VersionID != "" && result.VersionID != s.version {
		s.version, s.untilSaved = result.VersionID, false
	}
	switch result.Error.Step {
	case rotation.StepBootstrap, rotation.StepLook, rotation.StepMirror: // the next run of any mode takes these steps
	default:
		s.untilSaved = true
	}
	now := rotation.WallClock(a.Now)
	if s.failing && !s.missed || now.Sub(s.announcedAt) < quiet {
		return ""
	}
	s.failing, s.missed, s.announcedAt = true, false, now
	return RotationFailed
}

// detailOf returns an event's detail: the report's result without what the type says and what is of no use to others.
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
