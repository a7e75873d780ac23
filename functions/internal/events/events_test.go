package events

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
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
	retry  rotation.Retry
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
			errs[i] = &rotation.Error{Kind: rotation.Denied, Retry: b.retry, Message: "not here"}
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

// of is a result of the rotation; rotated, fresh and failed are results as runs have them.
func of(outcome report.Outcome, version string) report.Result {
	return report.Result{Rotation: "default", Outcome: outcome, VersionID: version}
}

func rotated(version string) report.Result {
	result := of(report.Rotated, version)
	result.Published = true
	return result
}

func fresh(version string) report.Result { return of(report.Fresh, version) }

func failed(step rotation.Step, version string) report.Result {
	result := of(report.Failed, version)
	result.Error = &report.Error{Step: step, Kind: rotation.Unavailable, Message: "no answer"}
	return result
}

// notMirrored has saved a token that a mirror did not get.
func notMirrored(version string) report.Result {
	result := failed(rotation.StepMirror, version)
	result.Published = true
	return result
}

// process is a new process; announce is one run of it, and a minute.
type process struct {
	Announcer
	bus *bus
	now time.Time
}

func newProcess() *process {
	p := &process{bus: &bus{}, now: time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)}
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
		"each token": {{rotate, rotated("v1"), []Type{TokenRotated}}, {ensure, fresh("v1"), nil}, {rotate, rotated("v2"), []Type{TokenRotated}}},
		"a token that a repeated delivery finds": {{rotate, rotated("v1"), []Type{TokenRotated}},
			{rotate, of(report.AlreadyDone, "v1"), nil}, {rotate, of(report.AlreadyDone, "v1"), nil}},
		"a check": {{rotation.ModeCheck, failed(rotation.StepLook, ""), nil}, {rotation.ModeCheck, of(report.Checked, ""), nil}},
		"an outage of IBM, in a process that knows how it was": {{ensure, fresh("v1"), nil}, {ensure, failed(rotation.StepLook, ""), []Type{RotationFailed}}, {ensure, failed(rotation.StepLook, ""), nil},
			{ensure, failed(rotation.StepBootstrap, ""), nil}, {ensure, fresh("v1"), []Type{RotationRecovered}}, {ensure, fresh("v1"), nil}},
		"an outage of IBM, in a process that does not": {{ensure, failed(rotation.StepLook, ""), []Type{RotationFailed}}, {ensure, failed(rotation.StepLook, ""), nil}, {ensure, fresh("v1"), []Type{RotationRecovered}}},
		"a dead key: that the token is still good shows nothing": {{ensure, fresh("v1"), nil}, {rotate, failed(rotation.StepExchange, "v1"), []Type{RotationFailed}}, {ensure, fresh("v1"), nil},
			{ensure, failed(rotation.StepExchange, "v1"), nil}, {ensure, failed(rotation.StepLook, ""), nil}, {ensure, fresh("v1"), nil}, {ensure, rotated("v2"), both}},
		"a dead key: another run has saved a token": {{ensure, fresh("v1"), nil}, {rotate, failed(rotation.StepSave, "v1"), []Type{RotationFailed}}, {ensure, fresh("v2"), []Type{RotationRecovered}}},
		"kept is no failure":                        {{ensure, fresh("v1"), nil}, {rotate, failed(rotation.StepCheck, "v1"), []Type{RotationFailed}}, {rotate, of(report.Kept, "v1"), []Type{RotationRecovered}}},
		"a mirror that did not get the token": {{ensure, fresh("v1"), nil}, {rotate, notMirrored("v2"), []Type{TokenRotated, RotationFailed}},
			{ensure, failed(rotation.StepMirror, "v2"), nil}, {ensure, fresh("v2"), []Type{RotationRecovered}}},
		"a new process, at the end of a failure": {{ensure, rotated("v2"), []Type{TokenRotated}}, {ensure, fresh("v2"), nil}},
	} {
		p := newProcess()
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
	p, counts := newProcess(), map[Type]int{}
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

// A process that remembers nothing must not announce each failure, and whoever stops a run by hand has not made the
// rotation fail. What was published before is announced.
func TestOnlyTokensAreAnnounced(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	command, stopped := newProcess(), newProcess()
	command.TokensOnly = true
	for p, ctx := range map[*process]context.Context{command: t.Context(), stopped: interrupted} {
		p.Announce(ctx, &report.Report{Mode: "rotate", Results: []report.Result{failed(rotation.StepLook, ""), notMirrored("v2"), fresh("v1"), rotated("v1")}})
		if got := p.bus.types(); !reflect.DeepEqual(got, []Type{TokenRotated, TokenRotated}) {
			t.Errorf("got %v, want the two tokens", got)
		}
	}
}

// What is not taken is put once more, if that may help, and is then a warning of the result.
func TestAnEventThatIsNotTaken(t *testing.T) {
	for _, test := range []struct {
		retry                 rotation.Retry
		refuse, tried, warned int
		want                  []Type
	}{
		{rotation.Never, 1, 1, 1, nil},
		{rotation.Later, 1, 2, 0, []Type{TokenRotated}},
		{rotation.Later, 2, 2, 1, nil},
		{rotation.Once, 99, 2, 1, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newProcess()
			p.bus.refuse, p.bus.retry = test.refuse, test.retry
			ran := p.announce(t, rotation.ModeRotate, report.Result{Rotation: "other", Outcome: report.Fresh}, rotated("v1"))
			got, tried := p.bus.types(), p.bus.tried
			if warned := ran.Results[1].Warnings; !reflect.DeepEqual(got, test.want) || tried != test.tried || len(warned) != test.warned || ran.Results[1].Outcome != report.Rotated ||
				len(warned) > 0 && warned[0] != `the event "Token Rotated" is not announced: denied: not here` || len(ran.Results[0].Warnings) > 0 {
				t.Errorf("%+v: got %v after %d tries with the warnings %q of that rotation and %q of another", test, got, tried, warned, ran.Results[0].Warnings)
			}
			p.bus.refuse, p.bus.tried = 0, 0
			if p.announce(t, rotation.ModeEnsure, fresh("v1")); p.bus.tried != 0 {
				t.Errorf("%+v: the next run put it again", test)
			}
		})
	}
}

func TestManyEventsThatAreNotTakenAreOneWarning(t *testing.T) {
	p, many := newProcess(), make([]report.Result, 1000)
	for i := range many {
		many[i] = rotated(fmt.Sprint("v", i))
		many[i].Rotation = fmt.Sprint("r", i)
	}
	many[0].Published = false
	p.bus.refuse = len(many)
	ran := p.announce(t, rotation.ModeRotate, many...)
	if got := ran.Results[1].Warnings; len(got) != 1 || got[0] != `the event "Token Rotated" is not announced, nor 998 others: denied: not here` || len(ran.Results[2].Warnings) > 0 {
		t.Errorf("got the warnings %q and %q, want one for all", got, ran.Results[2].Warnings)
	}
}

// A failure that lasts is announced again, as seldom as any, until that is taken. Its end
// is announced in any case: what seems not taken may be.
func TestAFailureThatIsNotTaken(t *testing.T) {
	p := newProcess()
	p.bus.refuse = 1000
	for range 60 {
		p.announce(t, rotation.ModeEnsure, failed(rotation.StepLook, ""))
	}
	if p.bus.tried != 4 {
		t.Errorf("a failure that nobody takes was put %d times in an hour, want 4", p.bus.tried)
	}
	p.bus.refuse = 0
	for range 60 {
		p.announce(t, rotation.ModeEnsure, failed(rotation.StepLook, ""))
	}
	p.announce(t, rotation.ModeEnsure, fresh("v1"))
	p.now = p.now.Add(time.Hour)
	p.bus.refuse = 1
	p.announce(t, rotation.ModeEnsure, failed(rotation.StepLook, ""))
	p.announce(t, rotation.ModeEnsure, fresh("v1"))
	if got := p.bus.types(); !reflect.DeepEqual(got, []Type{RotationFailed, RotationRecovered, RotationRecovered}) {
		t.Errorf("got %v, want the failure once, and its end, and the end of the next", got)
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
			ran := report.Report{Mode: "rotate", Results: []report.Result{rotated("v1")}}
			a.Announce(ctx, &ran)
			if took := time.Since(began); took != want || len(ran.Results[0].Warnings) != 1 {
				t.Errorf("with %s left: it took %s with the warnings %q, want %s and one", deadline, took, ran.Results[0].Warnings, want)
			}
		})
	}
}

// The detail is what the report shows of the rotation, under the same names.
func TestTheDetailIsOfTheReport(t *testing.T) {
	p, expires := newProcess(), time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC)
	result := notMirrored("v2")
	result.ExpiresAt, result.SecondsRemaining, result.MarginSeconds = &expires, new(int64(3599)), new(int64(598))
	result.Fingerprint, result.Attempts, result.Warnings = "7fca81ad1553a659", 2, []string{"something else"}
	p.announce(t, rotation.ModeRotate, result)
	var got, want any
	if err := json.Unmarshal([]byte(`{"rotation":"default","run_id":"run-00001","mode":"rotate","version_id":"v2","expires_at":"2026-01-01T11:00:00Z",
		"seconds_remaining":3599,"margin_seconds":598,"fingerprint":"7fca81ad1553a659","attempts":2,"error":{"step":"mirror","kind":"unavailable","message":"no answer"}}`), &want); err != nil {
		t.Fatal(err)
	}
	for _, event := range p.bus.put {
		if err := json.Unmarshal([]byte(event.Detail), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %s (%v), want %v", event.Type, event.Detail, err, want)
		}
	}
	if got := fmt.Sprintf("%q", p.bus.types()); got != `["Token Rotated" "Rotation Failed"]` {
		t.Errorf("got %s", got)
	}
}
