package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// bus takes events, but for the next refuse of them.
type bus struct {
	put    []Event
	tried  int
	refuse int
	wait   time.Duration
}

func (b *bus) Put(ctx context.Context, events []Event) []error {
	errs := make([]error, len(events))
	select {
	case <-time.After(b.wait):
	case <-ctx.Done():
	}
	for i, event := range events {
		b.tried++
		switch {
		case ctx.Err() != nil:
			errs[i] = ctx.Err()
		case b.refuse > 0:
			b.refuse--
			errs[i] = &rotation.Error{Kind: rotation.Denied, Message: "not here"}
		default:
			b.put = append(b.put, event)
		}
	}
	return errs
}

// types are those of the events taken since the last call.
func (b *bus) types() (all []Type) {
	for _, event := range b.put {
		all = append(all, event.Type)
	}
	b.put = nil
	return all
}

func number(n int64) *int64 { return &n }

// Results as runs have them.
func rotated(version string, margin int64) report.Result {
	return report.Result{Rotation: "default", Outcome: report.Rotated, VersionID: version, Published: true, MarginSeconds: number(margin), SecondsRemaining: number(3599)}
}

func fresh(version string) report.Result {
	return report.Result{Rotation: "default", Outcome: report.Fresh, VersionID: version, SecondsRemaining: number(1200)}
}

func failed(step rotation.Step, version string, remaining ...int64) report.Result {
	result := report.Result{Rotation: "default", Outcome: report.Failed, VersionID: version, Error: &report.Error{Step: step, Kind: rotation.Unavailable, Message: "no answer"}}
	if len(remaining) > 0 {
		result.SecondsRemaining, result.Threshold = &remaining[0], 8*time.Minute
	}
	return result
}

// process is a new process, at a time of its own; announce is one run of it.
type process struct {
	Announcer
	bus *bus
	now time.Time
}

func newProcess(minute int) *process {
	p := &process{bus: &bus{}, now: time.Date(2026, 1, 1, 10, minute, 0, 0, time.UTC)}
	p.Announcer = Announcer{Bus: p.bus, Now: func() time.Time { return p.now }}
	return p
}

func (p *process) announce(t *testing.T, mode rotation.Mode, results ...report.Result) report.Report {
	t.Helper()
	ran := report.Report{RunID: "run-00001", Mode: string(mode), Results: results}
	p.Announce(t.Context(), &ran)
	p.now = p.now.Add(time.Minute)
	return ran
}

func TestWhatAProcessAnnounces(t *testing.T) {
	type run struct {
		mode   rotation.Mode
		result report.Result
		want   []Type
	}
	const rotate, ensure = rotation.ModeRotate, rotation.ModeEnsure
	both := []Type{TokenRotated, RotationRecovered}
	for name, runs := range map[string][]run{
		"each token": {{rotate, rotated("v1", 598), []Type{TokenRotated}}, {ensure, fresh("v1"), nil}, {rotate, rotated("v2", 598), []Type{TokenRotated}}},
		"a token that a repeated delivery finds": {{rotate, rotated("v1", 598), []Type{TokenRotated}},
			{rotate, report.Result{Rotation: "default", Outcome: report.AlreadyDone, VersionID: "v1"}, nil}, {rotate, report.Result{Rotation: "default", Outcome: report.AlreadyDone, VersionID: "v1"}, nil}},
		"a check": {{rotation.ModeCheck, failed(rotation.StepLook, ""), nil}, {rotation.ModeCheck, report.Result{Rotation: "default", Outcome: report.Checked}, nil}},
		"an outage of IBM, in a process that knows how it was": {{ensure, fresh("v1"), nil}, {ensure, failed(rotation.StepLook, ""), []Type{RotationFailed}}, {ensure, failed(rotation.StepLook, ""), nil},
			{ensure, failed(rotation.StepBootstrap, ""), nil}, {ensure, fresh("v1"), []Type{RotationRecovered}}, {ensure, fresh("v1"), nil}},
		"an outage of IBM, in a process that does not": {{ensure, failed(rotation.StepLook, ""), []Type{RotationFailed}}, {ensure, failed(rotation.StepLook, ""), nil}, {ensure, fresh("v1"), []Type{RotationRecovered}}},
		"a dead key: that the token is still good shows nothing": {{ensure, fresh("v1"), nil}, {rotate, failed(rotation.StepExchange, "v1", 600), []Type{RotationFailed}}, {ensure, fresh("v1"), nil},
			{ensure, failed(rotation.StepExchange, "v1", 479), nil}, {ensure, failed(rotation.StepLook, ""), nil}, {ensure, fresh("v1"), nil}, {ensure, rotated("v2", 60), both}},
		"a dead key: another run has saved a token": {{ensure, fresh("v1"), nil}, {rotate, failed(rotation.StepSave, "v1", 600), []Type{RotationFailed}}, {ensure, fresh("v2"), []Type{RotationRecovered}}},
		"kept is no failure":                        {{ensure, fresh("v1"), nil}, {rotate, failed(rotation.StepCheck, "v1", 600), []Type{RotationFailed}}, {rotate, report.Result{Rotation: "default", Outcome: report.Kept, VersionID: "v1"}, []Type{RotationRecovered}}},
		"a mirror that did not get the token": {{ensure, fresh("v1"), nil}, {rotate, func() report.Result { r := failed(rotation.StepMirror, "v2", 3599); r.Published = true; return r }(), []Type{TokenRotated, RotationFailed}},
			{ensure, failed(rotation.StepMirror, "v2", 3500), nil}, {ensure, fresh("v2"), []Type{RotationRecovered}}},
		"a new process that finds no token in time":   {{ensure, rotated("v2", 59), both}},
		"a new process that finds one":                {{ensure, rotated("v2", 60), []Type{TokenRotated}}},
		"a new process and the token of before is no": {{ensure, rotated("v2", -7200), both}, {ensure, fresh("v2"), nil}},
	} {
		p := newProcess(20)
		for i, run := range runs {
			p.announce(t, run.mode, run.result)
			if got := p.bus.types(); !reflect.DeepEqual(got, run.want) {
				t.Errorf("%s, run %d: got %v, want %v", name, i+1, got, run.want)
			}
		}
	}
}

// A rotation that fails now and again is announced four times an hour at most, and so is
// the end of it.
func TestARotationThatComesAndGoesIsAnnouncedSeldom(t *testing.T) {
	p, counts := newProcess(0), map[Type]int{}
	for minute := range 600 {
		result := fresh("v1")
		if minute%2 == 0 {
			result = failed(rotation.StepLook, "")
		}
		p.announce(t, rotation.ModeEnsure, result)
	}
	for _, kind := range p.bus.types() {
		counts[kind]++
	}
	if n := counts[RotationFailed]; n < 20 || n > 40 || counts[RotationRecovered] != n {
		t.Errorf("got %v in 10 hours, want 40 of each at most, and as many ends as beginnings", counts)
	}
}

// Cron starts a process for each run, which remembers nothing and must not announce each failure.
func TestNewProcessesAnnounceAFailureSeldom(t *testing.T) {
	for name, test := range map[string]struct {
		every       int // minutes
		step        rotation.Step
		least, most int
	}{
		"nothing is known, every minute":       {1, rotation.StepLook, 20, 20},
		"nothing is known, every five minutes": {5, rotation.StepLook, 4, 4},
		"a dead key, every minute":             {1, rotation.StepExchange, 22, 26},
		"a dead key, every five minutes":       {5, rotation.StepExchange, 5, 6},
	} {
		announced := 0
		for minute := 13; minute < 13+240; minute += test.every {
			p := newProcess(minute)
			p.SingleRun = true
			result := failed(test.step, "")
			if test.step != rotation.StepLook {
				result = failed(test.step, "v1", int64(8*60-(minute-13)*60))
			}
			p.announce(t, rotation.ModeEnsure, result)
			announced += len(p.bus.types())
		}
		if announced < test.least || announced > test.most {
			t.Errorf("%s: %d events in four hours, want %d to %d", name, announced, test.least, test.most)
		}
	}
}

// What is not taken is a warning of the result, and is tried once more.
func TestAnEventThatIsNotTaken(t *testing.T) {
	p := newProcess(20)
	p.bus.refuse = 1
	ran := p.announce(t, rotation.ModeRotate, report.Result{Rotation: "other", Outcome: report.Fresh}, rotated("v1", 598))
	want := `the event "Token Rotated" is not announced: denied: not here`
	if got := ran.Results[1].Warnings; len(got) != 1 || got[0] != want || len(ran.Results[0].Warnings) > 0 || ran.Results[1].Outcome != report.Rotated {
		t.Errorf("got the warnings %q, want %q of that rotation, which did not fail", got, want)
	}
	p.announce(t, rotation.ModeEnsure, fresh("v1"))
	if got := p.bus.types(); !reflect.DeepEqual(got, []Type{TokenRotated}) {
		t.Errorf("the next run put %v, want the token", got)
	}
	many := make([]report.Result, 1000)
	for i := range many {
		many[i] = rotated(fmt.Sprint("v", i), 598)
		many[i].Rotation = fmt.Sprint("r", i)
	}
	many[0].Published = false
	p.bus.refuse = len(many)
	ran = p.announce(t, rotation.ModeRotate, many...)
	if got := ran.Results[1].Warnings; len(got) != 1 || !strings.HasPrefix(got[0], `the event "Token Rotated" is not announced, nor are 998 others: denied`) || len(ran.Results[2].Warnings) > 0 {
		t.Errorf("got the warnings %q and %q, want one for all", got, ran.Results[2].Warnings)
	}
	p.announce(t, rotation.ModeEnsure, fresh("v1"))
	_ = p.bus.types()
	p.bus.refuse, p.bus.tried = 1000, 0
	p.announce(t, rotation.ModeRotate, rotated("v2", 598))
	for range 10 {
		p.announce(t, rotation.ModeEnsure, fresh("v2"))
	}
	if p.bus.tried != 2 {
		t.Errorf("an event that nobody takes was put %d times, want 2", p.bus.tried)
	}
	p.bus.tried = 0
	for range 60 {
		p.announce(t, rotation.ModeEnsure, failed(rotation.StepLook, ""))
	}
	if p.bus.tried < 6 || p.bus.tried > 8 {
		t.Errorf("a failure that nobody takes was put %d times in an hour, want 2 in each quarter of it", p.bus.tried)
	}
	p = newProcess(20)
	p.bus.refuse = 1
	p.announce(t, rotation.ModeRotate, rotated("v1", 598))
	p.now = p.now.Add(time.Hour) // frozen in between
	p.announce(t, rotation.ModeEnsure, fresh("v1"))
	if got := p.bus.types(); got != nil {
		t.Errorf("an hour later %v was put, want nothing that old", got)
	}
}

func TestTheEventsOfARunHaveThreeSecondsAtMost(t *testing.T) {
	for deadline, want := range map[time.Duration]time.Duration{time.Minute: 3 * time.Second, 4 * time.Second: 2 * time.Second, 0: 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			if deadline > 0 {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, deadline)
				defer cancel()
			}
			a := Announcer{Bus: &bus{wait: time.Hour}}
			began := time.Now()
			ran := report.Report{Mode: "rotate", Results: []report.Result{rotated("v1", 598)}}
			a.Announce(ctx, &ran)
			if took := time.Since(began); took != want || len(ran.Results[0].Warnings) != 1 {
				t.Errorf("with %s left: it took %s with the warnings %q, want %s and one", deadline, took, ran.Results[0].Warnings, want)
			}
		})
	}
}

// Whoever stops a run by hand has not made the rotation fail. What was published before is announced.
func TestAnInterruptedRunAnnouncesItsTokensAlone(t *testing.T) {
	p := newProcess(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mirrored := failed(rotation.StepMirror, "v1")
	mirrored.Published = true
	p.Announce(ctx, &report.Report{Mode: "rotate", Results: []report.Result{failed(rotation.StepLook, ""), mirrored}})
	if got := p.bus.types(); !reflect.DeepEqual(got, []Type{TokenRotated}) {
		t.Errorf("got %v, want the token", got)
	}
}

// The detail is what the report shows of the rotation, under the same names.
func TestTheDetailIsOfTheReport(t *testing.T) {
	expires := time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC)
	result := failed(rotation.StepMirror, "v2", 3599)
	result.Published, result.ExpiresAt, result.Fingerprint, result.Attempts, result.MarginSeconds = true, &expires, "7fca81ad1553a659", 2, number(598)
	p := newProcess(0)
	ran := p.announce(t, rotation.ModeRotate, result)
	var shown map[string]any
	encoded, err := json.Marshal(ran.Results[0])
	if err = errors.Join(err, json.Unmarshal(encoded, &shown)); err != nil {
		t.Fatal(err)
	}
	delete(shown, "warnings")
	delete(shown, "outcome") // the type says it
	shown["run_id"], shown["mode"] = ran.RunID, ran.Mode
	for _, event := range p.bus.put {
		var got map[string]any
		if err := json.Unmarshal([]byte(event.Detail), &got); err != nil || fmt.Sprint(got) != fmt.Sprint(shown) {
			t.Errorf("%s: got %s (%v), want %v", event.Type, event.Detail, err, shown)
		}
	}
	if got := strings.Join([]string{string(p.bus.put[0].Type), string(p.bus.put[1].Type)}, ", "); got != "Token Rotated, Rotation Failed" {
		t.Errorf("got %s", got)
	}
}
