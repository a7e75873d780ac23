package events

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// bus accepts events, but not the next refuse of them.
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

// types are the types of the events accepted since the last call, without their first word.
func (b *bus) types() string {
	var all []string
	for _, event := range b.put {
		_, what, _ := strings.Cut(string(event.Type), " ")
		all = append(all, what)
	}
	b.put = nil
	return strings.Join(all, " ")
}

// process is a new process.
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

// runs has the process announce a run with each of these results, a minute after the one before.
func (p *process) runs(t *testing.T, results ...string) (ran report.Report) {
	for _, result := range results {
		ran = report.Report{RunID: "run-00001", Mode: "rotate", Results: []report.Result{resultOf(result)}}
		p.Announce(t.Context(), &ran)
		p.now = p.now.Add(time.Minute)
	}
	return ran
}

// resultOf reads a result: its outcome or, with a "!", the step that failed, with a "+" if a token was saved all the same;
// then the version that is stored.
func resultOf(text string) report.Result {
	what, version, _ := strings.Cut(text, " ")
	what, saved := strings.CutSuffix(what, "+")
	step, failed := strings.CutSuffix(what, "!")
	result := report.Result{Rotation: "default", Outcome: report.Outcome(what), VersionID: version, Saved: saved || what == "rotated"}
	if failed {
		result.Outcome, result.Error = report.Failed, &report.Error{Step: report.Step(step), Kind: rotation.Unavailable, Message: "no answer"}
	}
	return result
}

// Runs of a process, each with the events that it announces.
func TestWhatAProcessAnnounces(t *testing.T) {
	for name, runs := range map[string]string{
		"each token":                                             "rotated v1: Rotated, fresh v1, rotated v2: Rotated",
		"a token that a repeated delivery finds":                 "rotated v1: Rotated, already_done v1, already_done v1",
		"an outage of IBM, in a process that knows how it was":   "fresh v1, look!: Failed, look!, bootstrap!, fresh v1: Recovered, fresh v1",
		"an outage of IBM that begins within a run":              "fresh v1, look! v1: Failed, bootstrap! v1, fresh v1: Recovered",
		"an outage of IBM, in a process that does not":           "look!: Failed, look!, fresh v1: Recovered",
		"a dead key: that the token is still good shows nothing": "fresh v1, exchange! v1: Failed, fresh v1, exchange! v1, look!, fresh v1, rotated v2: Rotated Recovered",
		"a dead key: another run has saved a token":              "fresh v1, save! v1: Failed, fresh v2: Recovered",
		"kept is no failure":                                     "fresh v1, check! v1: Failed, kept v1: Recovered",
		"a mirror that did not get the token":                    "fresh v1, mirror!+ v2: Rotated Failed, mirror! v2, fresh v2: Recovered",
		"a new process, at the end of a failure":                 "rotated v2: Rotated, fresh v2",
	} {
		p := newProcess()
		for i, run := range strings.Split(runs, ", ") {
			result, want, _ := strings.Cut(run, ": ")
			p.runs(t, result)
			if got := p.bus.types(); got != want {
				t.Errorf("%s, run %d: got %q, want %q", name, i+1, got, want)
			}
		}
	}
}

// A check announces nothing. A command remembers no run before, and a run that a person stops is no failure: they announce
// the tokens that were saved, and nothing else.
func TestRunsThatAnnounceLess(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx        context.Context
		mode       string
		tokensOnly bool
		want       string
	}{
		"a check": {t.Context(), "check", false, ""}, "a command": {t.Context(), "rotate", true,
			"Rotated Rotated"}, "interrupted": {interrupted, "rotate", false, "Rotated Rotated"},
	} {
		p := newProcess()
		p.TokensOnly = test.tokensOnly
		p.Announce(test.ctx, &report.Report{Mode: test.mode,
			Results: []report.Result{resultOf("look!"), resultOf("mirror!+ v2"), resultOf("fresh v1"), resultOf("rotated v1")}})
		if got := p.bus.types(); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// A rotation that fails now and again is announced four times an hour at most, and so is the end of it.
func TestARotationThatComesAndGoesIsAnnouncedSeldom(t *testing.T) {
	p := newProcess()
	for range 300 {
		p.runs(t, "look!", "fresh v1")
	}
	got := p.bus.types()
	if n := strings.Count(got, "Failed"); n < 20 || n > 40 || strings.Count(got, "Recovered") != n {
		t.Errorf("got %v in 10 hours, want 40 of each at most, and as many ends as beginnings", got)
	}
}

// An event that is not accepted is put once more, if that may help. Then it is a warning, one for all events of one reason.
func TestAnEventThatIsNotAccepted(t *testing.T) {
	const alone, many = `["the event \"Token Rotated\" is not announced: denied: not here"]`,
		`["the event \"Token Rotated\" is not announced, nor 998 others: denied: not here"]`
	for _, test := range []struct {
		events         int
		retry          rotation.Retry
		refuse, tried  int
		warnings, want string
	}{
		{1, rotation.Never, 1, 1, alone, ""}, {1, rotation.Later, 1, 2, "[]", "Rotated"}, {1, rotation.Later, 2, 2, alone, ""},
		{1, rotation.Once, 99, 2, alone, ""},
		{999, rotation.Never, 999, 999, many, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newProcess()
			p.bus.refuse, p.bus.retry = test.refuse, test.retry
			ran := report.Report{Mode: "rotate", Results: []report.Result{resultOf("fresh v1")}}
			for range test.events {
				ran.Results = append(ran.Results, resultOf("rotated v1"))
			}
			p.Announce(t.Context(), &ran)
			got, tried := p.bus.types(), p.bus.tried
			if got != test.want || tried != test.tried || fmt.Sprintf("%q", ran.Results[1].Warnings) != test.warnings ||
				ran.Results[1].Outcome != report.Rotated {
				t.Errorf("%+v: got %v after %d tries with the warnings %q", test, got, tried, ran.Results[1].Warnings)
			}
			if len(ran.Results[0].Warnings)+len(ran.Results[len(ran.Results)-1].Warnings) > min(1, len(ran.Results[1].Warnings)) {
				t.Errorf("%+v: others have warnings, too", test)
			}
			p.bus.refuse, p.bus.tried = 0, 0
			if p.runs(t, "fresh v1"); p.bus.tried != 0 {
				t.Errorf("%+v: the next run put it again", test)
			}
		})
	}
}

// A failure that lasts is announced again, as seldom as any, until the event is accepted. Its end
// is announced in any case: an event that seems lost may have been accepted.
func TestAFailureThatIsNotAccepted(t *testing.T) {
	p, hour := newProcess(), strings.Split(strings.Repeat("look!,", 60), ",")[:60]
	p.bus.refuse = 1000
	if p.runs(t, hour...); p.bus.tried != 4 {
		t.Errorf("a failure that is not accepted was put %d times in an hour, want 4", p.bus.tried)
	}
	p.bus.refuse = 0
	p.runs(t, append(hour, "fresh v1")...)
	p.now = p.now.Add(time.Hour)
	p.bus.refuse = 1
	p.runs(t, "look!", "fresh v1")
	if got := p.bus.types(); got != "Failed Recovered Recovered" {
		t.Errorf("got %v, want the failure once, and its end, and the end of the next", got)
	}
}

func TestTheEventsOfARunHaveThreeSecondsAtMost(t *testing.T) {
	for deadline, want := range map[time.Duration]time.Duration{time.Minute: 3 * time.Second, 4 * time.Second: 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			a, began := Announcer{Bus: &bus{wait: time.Hour}}, time.Now()
			ran := report.Report{Mode: "rotate", Results: []report.Result{resultOf("rotated v1")}}
			a.Announce(ctx, &ran)
			if took := time.Since(began); took != want || len(ran.Results[0].Warnings) != 1 {
				t.Errorf("with %s left: it took %s with the warnings %q, want %s and one", deadline, took, ran.Results[0].Warnings, want)
			}
		})
	}
}

// The detail is what the report shows of the rotation, under the same names.
func TestTheDetailIsOfTheReport(t *testing.T) {
	p, expires, result := newProcess(), time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC), resultOf("mirror!+ v2")
	result.ExpiresAt, result.SecondsRemaining, result.MarginSeconds = &expires, new(int64(3599)), new(int64(598))
	result.Fingerprint, result.Attempts, result.Warnings = "7fca81ad1553a659", 2, []string{"something else"}
	p.Announce(t.Context(), &report.Report{RunID: "run-00001", Mode: "rotate", Results: []report.Result{result}})
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
	if got := p.bus.put[0].Type + ", " + p.bus.put[1].Type; got != "Token Rotated, Rotation Failed" {
		t.Errorf("got %s", got)
	}
}
