// Package events announces on EventBridge what becomes of rotations: each token that is
// published, and when a rotation begins or ceases to fail.
//
// A function keeps no state but the memory of its process, so that is what a process goes
// by, and what it does not remember it infers from the stored token. The page
// functions/rotate/README.md says what follows for whoever receives the events.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
}

// Bus takes events. It returns what prevented each one: nil for one that was taken. An
// error is one of our own words, which a report may show.
type Bus interface {
	Put(ctx context.Context, events []Event) []error
}

const (
	// putLimit is the longest that the events of a run may take: the report waits for them.
	putLimit = 3 * time.Second
	// quiet is how long after one failure of a rotation a process announces no other one.
	quiet = 15 * time.Minute
	// news is how long a failure is news where each run is a process, which remembers nothing: the
	// slowest schedule that keeps a token valid, ensure every five minutes, has run once in that time.
	news = 5 * time.Minute
	// leastMargin is less than any schedule leaves of a token, unless runs fail or are missing.
	leastMargin = time.Minute
)

// Announcer announces the results of a process's runs.
type Announcer struct {
	Bus       Bus
	SingleRun bool             // a schedule starts a process for each run
	Now       func() time.Time // if nil, time.Now

	mu   sync.Mutex
	seen map[string]*state // by rotation
	held []entry           // of the run before, to be put once more
}

// state is what a process remembers of a rotation.
type state struct {
	announced   bool      // that it fails
	announcedAt time.Time // when that was announced last
	version     string    // stored when it failed
	untilSaved  bool      // it fails until another version is stored: that one is up to date shows nothing
}

// entry is an event that is to be put.
type entry struct {
	Event
	rotation string
	made     time.Time
	again    bool // it was put before, and not taken for sure
}

// Announce puts the events that follow from a run, after all else that the run does for
// its tokens, and waits for that no longer than 3 seconds or half the time that is left.
// What prevents it is a warning of the result, and fails nothing. Of a run that somebody has
// interrupted only the tokens are announced.
func (a *Announcer) Announce(ctx context.Context, ran *report.Report) {
	if rotation.Mode(ran.Mode) == rotation.ModeCheck {
		return
	}
	interrupted := errors.Is(ctx.Err(), context.Canceled)
	if interrupted {
		ctx = context.WithoutCancel(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := rotation.WallClock(a.Now)
	entries := slices.DeleteFunc(a.held, func(e entry) bool { return now.Sub(e.made) > quiet })
	a.held = nil
	for _, result := range ran.Results {
		if interrupted && !result.Published {
			continue
		}
		kinds := a.follow(rotation.Mode(ran.Mode), result, now)
		if interrupted {
			kinds = kinds[:1]
		}
		for _, kind := range kinds {
			entries = append(entries, entry{Event{kind, detailOf(*ran, result)}, result.Rotation, now, false})
		}
	}
	if len(entries) > 0 {
		a.put(ctx, entries, ran.Results)
	}
}

// put puts events, and holds for the next run those that it is the first time for.
func (a *Announcer) put(ctx context.Context, entries []entry, results []report.Result) {
	limit := putLimit
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	events := make([]Event, len(entries))
	for i, e := range entries {
		events[i] = e.Event
	}
	var reasons []string // in their order
	missed := map[string][]entry{}
	for i, err := range a.Bus.Put(ctx, events) {
		if err == nil {
			continue
		}
		e, reason := entries[i], explain(err)
		if missed[reason] == nil {
			reasons = append(reasons, reason)
		}
		missed[reason] = append(missed[reason], e)
		switch {
		case !e.again:
			e.again = true
			a.held = append(a.held, e)
		case e.Type == RotationFailed && a.seen[e.rotation] != nil:
			a.seen[e.rotation].announced = false // as new, when it has been quiet
		}
	}
	for _, reason := range reasons {
		warn(results, missed[reason], reason)
	}
}

// warn adds one warning for all that a reason has prevented: a run may have thousands of results.
func warn(results []report.Result, missed []entry, reason string) {
	first, others := missed[0], ""
	if n := len(missed) - 1; n > 0 {
		others = ", nor is " + report.Count(n, "other")
		if n > 1 {
			others = ", nor are " + report.Count(n, "other")
		}
	}
	at := max(0, slices.IndexFunc(results, func(r report.Result) bool { return r.Rotation == first.rotation }))
	results[at].Warnings = append(results[at].Warnings, fmt.Sprintf("the event %q is not announced%s: %s", first.Type, others, reason))
}

func explain(err error) string {
	var failure *rotation.Error
	if errors.As(err, &failure) {
		return string(failure.Kind) + ": " + failure.Message
	}
	return err.Error()
}

// follow returns what a result is news of, and remembers it.
func (a *Announcer) follow(mode rotation.Mode, result report.Result, now time.Time) (news []Type) {
	if a.seen == nil {
		a.seen = map[string]*state{}
	}
	s := a.seen[result.Rotation]
	if s == nil {
		s = &state{}
		a.seen[result.Rotation] = s
	}
	if result.Published {
		news = append(news, TokenRotated)
	}
	switch {
	case result.Outcome == report.Failed:
		if s.fails(result, now) && (!a.SingleRun || isNew(mode, result, now)) {
			s.announced, s.announcedAt = true, now
			news = append(news, RotationFailed)
		}
	case s.recovers(result):
		news = append(news, RotationRecovered)
	}
	return news
}

// fails remembers a failure, and reports whether it may be announced.
func (s *state) fails(result report.Result, now time.Time) bool {
	if result.VersionID != "" && result.VersionID != s.version {
		s.version, s.untilSaved = result.VersionID, false
	}
	switch result.Error.Step {
	case rotation.StepBootstrap, rotation.StepLook, rotation.StepMirror: // the next run of any mode takes these steps
	default:
		s.untilSaved = true
	}
	return !s.announced && now.Sub(s.announcedAt) >= quiet
}

// recovers remembers a success, unless it shows nothing, and reports whether it is the end
// of a failure: of one that was announced, or of one that has left readers no token.
func (s *state) recovers(result report.Result) bool {
	if s.untilSaved && result.Outcome == report.Fresh && result.VersionID == s.version {
		return false
	}
	recovered := s.announced || result.MarginSeconds != nil && *result.MarginSeconds < int64(leastMargin/time.Second)
	*s = state{announcedAt: s.announcedAt}
	return recovered
}

// isNew reports whether a run of five minutes before may have had nothing to do, so that
// this failure is the first; of what cannot be known, the first five minutes of an hour are
// taken for that.
func isNew(mode rotation.Mode, result report.Result, now time.Time) bool {
	if mode == rotation.ModeEnsure && result.SecondsRemaining != nil {
		overdue := result.Threshold - time.Duration(*result.SecondsRemaining)*time.Second
		if overdue >= 0 && overdue <= news {
			return true
		}
	}
	return now.UTC().Sub(now.UTC().Truncate(time.Hour)) < news
}

// detail is an event's, with the names and units of the report.
type detail struct {
	Rotation         string        `json:"rotation"`
	RunID            string        `json:"run_id"`
	Mode             string        `json:"mode"`
	VersionID        string        `json:"version_id,omitempty"`
	ExpiresAt        *time.Time    `json:"expires_at,omitempty"`
	SecondsRemaining *int64        `json:"seconds_remaining,omitempty"`
	MarginSeconds    *int64        `json:"margin_seconds,omitempty"`
	Fingerprint      string        `json:"fingerprint,omitempty"`
	Attempts         int           `json:"attempts"`
	Error            *report.Error `json:"error,omitempty"`
}

func detailOf(ran report.Report, result report.Result) string {
	// Marshalling text and numbers cannot fail.
	encoded, _ := json.Marshal(detail{
		Rotation: result.Rotation, RunID: ran.RunID, Mode: ran.Mode, VersionID: result.VersionID, ExpiresAt: result.ExpiresAt,
		SecondsRemaining: result.SecondsRemaining, MarginSeconds: result.MarginSeconds, Fingerprint: result.Fingerprint,
		Attempts: result.Attempts, Error: result.Error,
	})
	return string(encoded)
}
