package rotation_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

const (
	firstARN  = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token-Ab12Cd"
	secondARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-Ab12Cd"
	thirdARN  = "arn:aws:secretsmanager:us-west-2:123456789012:secret:token-Ab12Cd"

	parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/tokens/logs"
)

// mirrorTo gives the fixture's rotation these mirrors.
func (fx *fixture) mirrorTo(arns ...string) *mirrortest.AWS {
	m := &mirrortest.AWS{}
	fx.rotator.Mirrors, fx.rotator.Refusals, fx.one.Mirror = m, &rotation.Refusals{}, arns
	for _, arn := range arns {
		m.Current(arn) // it is made now
	}
	return m
}

// mirrorFault is the fault of a mirror: what it does to a request.
type mirrorFault = func(ctx context.Context, put bool) error

// failing gives the requests of arn a fault, the first ones alone if times is not 0.
func failing(m *mirrortest.AWS, arn string, times int, of mirrorFault) {
	var failed atomic.Int64
	m.Fault = func(ctx context.Context, to string, put bool) error {
		if to != arn || times > 0 && failed.Load() >= int64(times) {
			return nil
		}
		err := of(ctx, put)
		if err != nil {
			failed.Add(1)
		}
		return err
	}
}

// puts rejects every put, requests everything.
func puts(kind rotation.Kind, retry rotation.Retry) mirrorFault {
	return onlyPuts(requests(kind, retry))
}

func onlyPuts(of mirrorFault) mirrorFault {
	return func(ctx context.Context, put bool) error {
		if !put {
			return nil
		}
		return of(ctx, put)
	}
}

func requests(kind rotation.Kind, retry rotation.Retry) mirrorFault {
	return func(context.Context, bool) error {
		return &rotation.Error{Kind: kind, Retry: retry, Message: "rejected by the test"}
	}
}

// hanging answers when the caller has given up.
func hanging(ctx context.Context, _ bool) error {
	<-ctx.Done()
	return &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "no answer in the test"}
}

// wantMirrored checks that every mirror holds what IBM holds, under its version id.
func (fx *fixture) wantMirrored(m *mirrortest.AWS, arns ...string) {
	fx.t.Helper()
	current := fx.cloud.MustCurrent(fx.one.Token.ID)
	for _, arn := range arns {
		if got := m.Current(arn); got.ID != current.ID || got.Payload != current.Payload {
			fx.t.Errorf("%s: got version %q, want %s with the same payload", arn, got.ID, current.ID)
		}
	}
}

func wantPuts(t *testing.T, m *mirrortest.AWS, arn string, want int) {
	t.Helper()
	if got, limited := m.Versions(arn); len(got) != want || limited != 0 {
		t.Errorf("%s got %d versions, and %d that AWS refused, want %d", arn, len(got), limited, want)
	}
}

// remaining is how long the token of a payload is still valid.
func (fx *fixture) remaining(payload string) time.Duration {
	_, expires, _ := fx.cloud.Validate(payload)
	return time.Until(expires)
}

func TestTheTokenIsInEveryMirror(t *testing.T) {
	for _, format := range []iamtoken.Format{iamtoken.Raw, iamtoken.Bearer, iamtoken.JSON} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			m := fx.mirrorTo(firstARN, secondARN, thirdARN)
			fx.one.Token.Format = format
			fx.rotate()
			fx.wantMirrored(m, firstARN, secondARN, thirdARN)
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
			fx.wantVersions(2)
		})
	}
}

func TestAKVSecretHasTheTokenInItsFieldAndItsMirrorIsTheObject(t *testing.T) {
	for field, want := range map[string]string{"": "iam_token", "logs": "logs"} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			m := fx.mirrorTo(firstARN)
			fx.one.Token.Field = field
			fx.one.Token.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: fx.cloud.TokenGroupName(), Data: map[string]any{want: "no token yet"}, Metadata: marked})
			fx.rotate()
			token, _ := fx.cloud.MustCurrent(fx.one.Token.ID).Data[want].(string)
			if _, _, err := fx.cloud.Validate(token); err != nil {
				t.Errorf("field %q: %v", want, err)
			}
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
			if got, want := m.Current(firstARN).Payload, fmt.Sprintf(`{%q:%q}`, want, token); got != want {
				t.Errorf("got a mirror of %d bytes, want the object of %d", len(got), len(want))
			}
			fx.rotator.MinRemaining = 30 * time.Minute // a mirror's own version is read of kv, too
			time.Sleep(20 * time.Minute)
			failing(m, firstARN, 0, puts(rotation.Denied, rotation.Never))
			fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Denied)
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		})
	}
}

// A mirror that fails for a moment is written again, with the same version: nothing
// more is saved at IBM. So it is when another one refuses for good.
func TestAMirrorIsRetriedWithTheSameToken(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		failing(m, secondARN, 2, puts(rotation.Unavailable, rotation.Later))
		fx.wantAttempts(fx.rotate(), 3)
		fx.wantMirrored(m, firstARN, secondARN)
		fx.wantVersions(2)
	})
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		tries, again := 0, 2
		m.Fault = func(ctx context.Context, arn string, put bool) error {
			if arn == firstARN && put {
				tries++
			} else if arn == firstARN {
				return nil
			} else if again--; again >= 0 {
				return requests(rotation.Unavailable, rotation.Later)(ctx, put)
			} else {
				return nil
			}
			return requests(rotation.Denied, rotation.Never)(ctx, put)
		}
		result := fx.run(rotation.ModeRotate)
		fx.wantFailure(result, rotation.StepMirror, rotation.Denied)
		fx.wantMirrored(m, secondARN)
		if tries != 1 || result.Error.Message != "rejected by the test" {
			t.Errorf("got %d tries and %q, want one", tries, result.Error.Message)
		}
	})
}

// The answer to the save is lost, so its version id is found by the next attempt. The
// answer to a put is lost: nothing is put twice.
func TestWhatWasSavedIsMirroredThoughAnAnswerWasLost(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Drop: ibmcloudtest.DropAfter, Times: 1})
		failing(m, secondARN, 1, onlyPuts(func(context.Context, bool) error { return mirrortest.ErrLost }))
		fx.rotate()
		fx.wantMirrored(m, firstARN, secondARN)
		fx.wantVersions(2)
	})
}

func TestNothingOldIsMirrored(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, afterSave: func() { fx.freeze(3 * time.Minute) }}
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Timeout)
		wantPuts(t, m, firstARN, 0)
	})
}

func TestAFailedMirrorFailsTheReportButNotTheSavedToken(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		failing(m, secondARN, 0, puts(rotation.Denied, rotation.Never))
		result := fx.run(rotation.ModeRotate)
		fx.wantFailure(result, rotation.StepMirror, rotation.Denied)
		fx.wantPublished(59 * time.Minute)
		fx.wantMirrored(m, firstARN)
		if want := fx.cloud.MustCurrent(fx.one.Token.ID).ID; result.VersionID != want || result.SecondsRemaining == nil || *result.SecondsRemaining < 3500 {
			t.Errorf("got version %s and %v seconds, want the token that was saved (%s)", result.VersionID, result.SecondsRemaining, want)
		}
	})
}

// day is what the schedules make of 24 hours: ensure every minute, rotate every 50.
type day struct {
	fx      *fixture
	m       *mirrortest.AWS
	cold    bool // every run is a new process
	expired map[string]time.Duration
	failed  int
	warned  int // reports that name an expired token of a mirror
	last    report.Result
}

func (d *day) play(length time.Duration) {
	d.expired = map[string]time.Duration{}
	for minute := range int(length / time.Minute) {
		began := time.Now()
		mode := rotation.ModeEnsure
		if minute%50 == 0 {
			mode = rotation.ModeRotate
		}
		if d.cold {
			d.fx.rotator.Refusals = nil
		}
		done := make(chan report.Result, 1)
		go func() { done <- d.fx.run(mode) }()
		time.Sleep(time.Minute - time.Since(began)) // the next run does not wait for this one
		for _, arn := range d.fx.one.Mirror {
			if left := d.fx.remaining(d.m.Current(arn).Payload); left < 0 {
				d.expired[arn] += time.Minute
			}
		}
		if left := d.fx.remaining(d.fx.cloud.MustCurrent(d.fx.one.Token.ID).Payload); left < 0 {
			d.fx.t.Errorf("minute %d: the token at IBM has expired", minute)
		}
		select {
		case d.last = <-done:
		default: // it tries until its time is up
			defer func() { <-done }()
			d.failed++
			continue
		}
		if d.last.Outcome == report.Failed {
			d.failed++
		}
		if strings.Contains(fmt.Sprint(d.last.Warnings), "readers have an expired token for") {
			d.warned++
		}
	}
}

// One mirror fails for ever: the other gets what it gets alone, and IBM's secret, too.
// ibm is how many versions there may be.
func TestHoursOfAMirrorThatFailsHarmNoOther(t *testing.T) {
	for name, test := range map[string]struct {
		of     mirrorFault
		cold   bool
		ibm    int
		length time.Duration
	}{
		"denied":                      {of: puts(rotation.Denied, rotation.Never), ibm: 12, length: 8 * time.Hour},
		"denied, in cold processes":   {of: puts(rotation.Denied, rotation.Never), cold: true, ibm: 25, length: 8 * time.Hour},
		"missing":                     {of: requests(rotation.NotFound, rotation.Never), ibm: 12, length: 8 * time.Hour},
		"full":                        {of: puts(rotation.RateLimited, rotation.Never), ibm: 12, length: 8 * time.Hour},
		"throttled":                   {of: puts(rotation.RateLimited, rotation.Later), ibm: 70, length: 24 * time.Hour},
		"out of reach":                {of: requests(rotation.Unavailable, rotation.Later), ibm: 12, length: 8 * time.Hour},
		"no answer":                   {of: hanging, ibm: 12, length: 8 * time.Hour},
		"no answer to puts":           {of: onlyPuts(hanging), ibm: 25, length: 8 * time.Hour},
		"slow, and its answers lost":  {of: onlyPuts(func(context.Context, bool) error { time.Sleep(3 * time.Second); return mirrortest.ErrLost }), ibm: 12, length: 8 * time.Hour},
		"in order now, then it fails": {of: puts(rotation.Unavailable, rotation.Later), ibm: 25, length: 8 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				m := fx.mirrorTo(firstARN, secondARN)
				saves := 0
				fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, beforeSave: func() { saves++ }}
				if strings.HasPrefix(name, "in order") {
					fx.rotate()
				}
				failing(m, secondARN, 0, test.of)
				d := day{fx: fx, m: m, cold: test.cold}
				d.play(test.length)
				if d.expired[firstARN] > 0 {
					t.Errorf("readers of the healthy mirror had an expired token for %s", d.expired[firstARN])
				}
				most := int(test.length/(50*time.Minute)) + 2
				if got, limited := m.Versions(firstARN); len(got) > most || limited != 0 {
					t.Errorf("the healthy mirror got %d versions, and %d that AWS refused, want %d at most", len(got), limited, most)
				}
				if saves > test.ibm {
					t.Errorf("IBM got %d versions, want %d at most", saves, test.ibm)
				}
				if second := m.Current(secondARN); second.ID == "" && d.failed < int(test.length.Minutes())-2 {
					t.Errorf("%d runs failed, want nearly all", d.failed)
				}
			})
		})
	}
}

// AWS takes 100 versions a day, and tokens of 15 minutes would be 180: the mirror lags, and
// the report says for how long. IBM's secret does not.
func TestHoursOfTokensTooShortForAMirrorStayWithinItsQuota(t *testing.T) {
	t.Parallel()
	withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		failing(m, secondARN, 0, puts(rotation.Unavailable, rotation.Later))
		d := day{fx: fx, m: m, cold: true}
		d.play(26 * time.Hour)
		if got, limited := m.Versions(firstARN); len(got) > 100 || limited != 0 {
			t.Errorf("got %d versions and %d that AWS refused", len(got), limited)
		}
		if got := putsOfADay(m, firstARN); got > 90 || got < 80 {
			t.Errorf("the mirror got %d versions in a day, want 90 at most and not many fewer", got)
		}
		if share := float64(d.expired[firstARN]) / float64(26*time.Hour); share > 0.15 {
			t.Errorf("the mirror's token was expired for %.0f %% of the time, want 2 of 17 minutes or so", 100*share)
		}
	})
	withFixture(t, ibmcloudtest.Options{TokenTTL: 20 * time.Minute}, func(fx *fixture) {
		fx.mirrorTo(firstARN)
		fx.wantWarning(fx.rotate(), "so its readers may have an expired one; a parameter has no such quota")
	})
	for _, cold := range []bool{false, true} {
		withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(fx *fixture) {
			m := fx.mirrorTo(firstARN)
			fx.wantWarning(fx.rotate(), "for 1m0s of that at least; a parameter has no such quota")
			d := day{fx: fx, m: m, cold: cold}
			d.play(6 * time.Hour)
			if d.failed > 0 {
				t.Errorf("%d runs failed for the quota alone: %v", d.failed, d.last.Error)
			}
			if d.warned < 6*60/3 {
				t.Errorf("%d reports name the minutes, want each that waits", d.warned)
			}
		})
	}
}

// A parameter has no quota: it gets each token of 15 minutes, whatever a secret beside it waits for.
func TestHoursOfShortTokensInAParameter(t *testing.T) {
	t.Parallel()
	withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(fx *fixture) {
		m := fx.mirrorTo(parameterARN)
		d := day{fx: fx, m: m, cold: true}
		d.play(26 * time.Hour)
		if d.expired[parameterARN] > 0 || d.failed > 0 || len(d.last.Warnings) > 0 && strings.Contains(fmt.Sprint(d.last.Warnings), "mirror") {
			t.Errorf("got %s without a token, %d failures and the warnings %q", d.expired[parameterARN], d.failed, d.last.Warnings)
		}
	})
	withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(fx *fixture) {
		m := fx.mirrorTo(parameterARN, firstARN)
		d := day{fx: fx, m: m}
		d.play(6 * time.Hour)
		if d.expired[parameterARN] > 0 || d.expired[firstARN] == 0 || d.failed > 0 {
			t.Errorf("beside a secret: got %s without a token, the secret %s, %d failures", d.expired[parameterARN], d.expired[firstARN], d.failed)
		}
	})
}

// What a person writes to a parameter is replaced by the next save, however soon.
func TestAParameterChangedByHand(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(parameterARN)
		fx.rotate()
		time.Sleep(time.Minute)
		must(m.Write(parameterARN, "", "by hand"))
		if result := fx.rotate(); result.Outcome != report.Rotated {
			t.Errorf("got %+v", result)
		}
		fx.wantMirrored(m, parameterARN)
		must(m.Write(parameterARN, "", "by hand"))
		time.Sleep(3 * time.Minute)
		fx.run(rotation.ModeEnsure)
		fx.wantMirrored(m, parameterARN)
	})
}

// putsOfADay is the most that AWS got in any 24 hours.
func putsOfADay(m *mirrortest.AWS, arn string) (most int) {
	kept, _ := m.Versions(arn)
	for i, first := range kept {
		n := 0
		for _, version := range kept[i:] {
			if version.At.Sub(first.At) < 24*time.Hour {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// Tokens of 30 minutes are enough, whatever MIN_REMAINING is.
func TestHoursOfTokensOfHalfAnHourKeepAMirrorValid(t *testing.T) {
	t.Parallel()
	for _, least := range []time.Duration{8 * time.Minute, 20 * time.Minute, time.Hour} {
		withFixture(t, ibmcloudtest.Options{TokenTTL: rotation.MirrorLifetime}, func(fx *fixture) {
			fx.rotator.MinRemaining = least
			m := fx.mirrorTo(firstARN)
			d := day{fx: fx, m: m}
			d.play(8 * time.Hour)
			if d.expired[firstARN] > 0 || d.failed > 0 || d.warned > 0 || putsOfADay(m, firstARN) > 30 {
				t.Errorf("MIN_REMAINING %s: got %s without a token, %d failures, %d warnings and %d puts",
					least, d.expired[firstARN], d.failed, d.warned, putsOfADay(m, firstARN))
			}
		})
	}
}

// A repair is for the failing mirror alone, and comes later and later.
func TestARepairOfAMirrorWaitsLongerAndLonger(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		fx.rotate()
		failing(m, secondARN, 0, puts(rotation.Unavailable, rotation.Later))
		time.Sleep(20 * time.Minute)
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Unavailable)
		wantPuts(t, m, firstARN, 2)
		time.Sleep(32 * time.Minute) // the second mirror's token has 6 minutes left, the first one's 28
		fx.rotator.Refusals = nil
		var at []time.Duration
		for began := time.Now(); time.Since(began) < 40*time.Minute; time.Sleep(time.Minute) {
			before := fx.versions()
			fx.run(rotation.ModeEnsure)
			if fx.versions() > before && m.Current(firstARN).ID != fx.cloud.MustCurrent(fx.one.Token.ID).ID { // not one of the healthy mirror
				at = append(at, time.Since(began).Round(time.Minute))
			}
		}
		if len(at) < 3 || len(at) > 6 || at[0] > 2*time.Minute || at[len(at)-1]-at[len(at)-2] < 8*time.Minute {
			t.Errorf("versions were saved after %s, want the waits to grow", at)
		}
		if got, _ := m.Versions(firstARN); len(got) > 3 {
			t.Errorf("the healthy mirror got %d versions, want one more at most", len(got))
		}
		m.Fault = nil
		time.Sleep(time.Hour)
		fx.run(rotation.ModeEnsure)
		if fx.remaining(m.Current(secondARN).Payload) < 50*time.Minute {
			t.Error("the mirror that works again has no token")
		}
	})
}

// A put that was refused for good is not repaired by saving, and is tried again with the
// next token that is saved anyway.
func TestARefusedMirrorIsNotRepaired(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		failing(m, secondARN, 0, puts(rotation.Denied, rotation.Never))
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Denied)
		for range 45 {
			time.Sleep(time.Minute)
			fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepMirror, rotation.Denied)
		}
		fx.wantVersions(2)
		m.Fault = nil
		time.Sleep(8 * time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
		fx.wantMirrored(m, firstARN, secondARN)
		time.Sleep(20 * time.Minute)
		failing(m, secondARN, 1, puts(rotation.Denied, rotation.Never))
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Denied)
		time.Sleep(20 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Drop: ibmcloudtest.DropAfter, Times: 1})
		fx.rotate() // in the second attempt, the first put of this version
		fx.wantMirrored(m, secondARN)
		failing(m, secondARN, 0, puts(rotation.Denied, rotation.Never)) // what refused once does not count for ever
		time.Sleep(50 * time.Minute)
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Denied)
	})
}

// A mirror named for the first time is filled without waiting for the next rotation.
func TestANewMirrorIsFilled(t *testing.T) {
	for name, prepare := range map[string]func(m *mirrortest.AWS){
		"without a value":     func(*mirrortest.AWS) {},
		"with one of its own": func(m *mirrortest.AWS) { must(m.Write(firstARN, "11111111-2919-432f-9883-d5040bfcd326", "none yet")) },
		"changed just now": func(m *mirrortest.AWS) {
			must(m.Write(firstARN, "11111111-2919-432f-9883-d5040bfcd326", "none yet"))
			time.Sleep(3 * time.Minute)
			m.Touch(firstARN) // a resource policy, say
			time.Sleep(10 * time.Second)
		},
		"an id of another kind": func(m *mirrortest.AWS) { must(m.Write(firstARN, "../../../etc/passwd/../../../..//", "none yet")) },
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.rotate()
				time.Sleep(10 * time.Minute)
				m := fx.mirrorTo(firstARN)
				prepare(m)
				fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
				fx.wantMirrored(m, firstARN)
			})
		})
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// die is a run that dies between the save and its puts.
func (fx *fixture) die(mode rotation.Mode) {
	store := fx.rotator.Tokens
	ctx, die := context.WithTimeout(context.Background(), 2*time.Minute)
	fx.rotator.Tokens = hooked{TokenStore: store, afterSave: die}
	fx.rotator.Run(ctx, rotation.Request{Mode: mode, RunID: "it-dies-here"}, []rotation.Rotation{fx.one})
	fx.rotator.Tokens = store
}

// A run dies between the save and its puts: the mirror has its own older token, and gets
// the next one by the expiry of that.
func TestARunThatDiesBeforeItsPutsCostsNoReaderAToken(t *testing.T) {
	for _, mode := range []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			m := fx.mirrorTo(firstARN)
			fx.rotate()
			time.Sleep(map[rotation.Mode]time.Duration{rotation.ModeRotate: 50, rotation.ModeEnsure: 53}[mode] * time.Minute)
			fx.die(mode)
			wantPuts(t, m, firstARN, 1)
			fx.wantVersions(3)
			for range 10 {
				time.Sleep(time.Minute)
				if left := fx.remaining(m.Current(firstARN).Payload); left < 2*time.Minute {
					t.Errorf("%s: the mirror's token has %s left", mode, left)
				}
				fx.run(rotation.ModeEnsure)
			}
			fx.wantMirrored(m, firstARN)
			fx.wantVersions(4)
		})
	}
}

// An outage of IBM is no lag of a mirror: when the first run after it dies before its puts,
// the mirror does not wait for an hour.
func TestAnOutageOfIBMIsNoLagOfAMirror(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotate()
		time.Sleep(3 * time.Hour) // nothing runs
		fx.die(rotation.ModeEnsure)
		wantPuts(t, m, firstARN, 1)
		fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, read: silentBut(rotation.PreviousVersion)} // the version in the mirror need not be read
		for range 4 {
			time.Sleep(time.Minute)
			fx.run(rotation.ModeEnsure)
		}
		fx.wantMirrored(m, firstARN)
		wantPuts(t, m, firstARN, 2)
	})
}

// silentBut is a read of a version that is not answered, unless it is the current one or id.
func silentBut(id string) func(context.Context, string, rotation.CurrentVersion) (rotation.CurrentVersion, error) {
	return func(ctx context.Context, asked string, version rotation.CurrentVersion) (rotation.CurrentVersion, error) {
		if asked == "" || asked == id {
			return version, nil
		}
		return rotation.CurrentVersion{}, hanging(ctx, false)
	}
}

// IBM answers slowly: what it has saved comes to the mirrors all the same, whatever they hold,
// and no sooner after the last put than else.
func TestASlowIBMKeepsNoTokenFromAMirror(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		store := fx.rotator.Tokens
		fx.rotate()
		time.Sleep(20 * time.Minute)
		fx.rotate()
		time.Sleep(20 * time.Minute)
		failing(m, secondARN, 1, puts(rotation.Denied, rotation.Never))
		fx.run(rotation.ModeRotate)
		wantPuts(t, m, secondARN, 2) // it holds neither the current version nor the one before the next
		fx.rotator.Tokens = hooked{TokenStore: store, read: silentBut(""), beforeSave: func() { time.Sleep(9900 * time.Millisecond) }}
		time.Sleep(time.Minute)
		fx.wantAttempts(fx.rotate(), 1)
		fx.wantMirrored(m, secondARN)
		wantPuts(t, m, firstARN, 3)
		for range 3 { // from the second one on the first mirror's version is one that the run does not know
			time.Sleep(4 * time.Minute)
			fx.rotate()
		}
		wantPuts(t, m, firstARN, 3)
		time.Sleep(4 * time.Minute)
		fx.rotate()
		fx.wantMirrored(m, firstARN)
		wantPuts(t, m, firstARN, 4)
		wantPuts(t, m, secondARN, 4)
	})
}

// A rotation that comes soon after a repair leaves the mirror its token, which is in order. This machine's clock may be wrong, on
// either side: IBM's counts.
func TestAMirrorIsNotPutTwiceInAQuarterOfAnHour(t *testing.T) {
	for _, off := range []time.Duration{0, -20 * time.Minute, 20 * time.Minute, -24 * time.Hour, 24 * time.Hour} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			m := fx.mirrorTo(firstARN)
			fx.skew.Store(int64(off))
			fx.rotate()
			time.Sleep(10 * time.Minute)
			if result := fx.rotate(); off == 0 {
				fx.wantNoWarning(result)
			}
			wantPuts(t, m, firstARN, 1)
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
			fx.wantOutcome(fx.force(), report.Rotated)
			fx.wantMirrored(m, firstARN) // a person may
			wantPuts(t, m, firstARN, 2)
			time.Sleep(16 * time.Minute)
			fx.rotate()
			fx.wantMirrored(m, firstARN)
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		})
	}
}

// Two runs at once may both save; the mirror gets a token that is good, and no third.
func TestRunsThatOverlapLeaveAMirrorInOrder(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		fx.rotate()
		time.Sleep(53 * time.Minute)
		done := make(chan report.Result)
		for range 3 {
			go func() { done <- fx.run(rotation.ModeEnsure) }()
		}
		for range 3 {
			<-done
		}
		time.Sleep(time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		if left := fx.remaining(m.Current(firstARN).Payload); left < 50*time.Minute {
			t.Errorf("the mirror's token has %s left", left)
		}
	})
}

// Two runs at the same moment may put theirs in the other order: the mirror waits for its next
// put as any other, and no run fails.
func TestPutsThatCrossFailNoRun(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotate()
		time.Sleep(3 * time.Second)
		fx.wantOutcome(fx.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: true}), report.Rotated)
		kept, _ := m.Versions(firstARN)
		m.Move(firstARN, kept[len(kept)-2].ID)
		for minute := range 18 {
			time.Sleep(time.Minute)
			if got := fx.run(rotation.ModeEnsure); got.Outcome == report.Failed {
				t.Fatalf("minute %d: %v", minute, got.Error)
			}
		}
		fx.wantMirrored(m, firstARN)
	})
}

// People change mirrors and versions by hand.
func TestAMirrorChangedByHand(t *testing.T) {
	old := func(fx *fixture, m *mirrortest.AWS) { // back to an expired token
		fx.rotate()
		time.Sleep(50 * time.Minute)
		fx.rotate()
		time.Sleep(12 * time.Minute)
		kept, _ := m.Versions(firstARN)
		m.Move(firstARN, kept[0].ID)
	}
	for name, test := range map[string]struct {
		edit  func(fx *fixture, m *mirrortest.AWS)
		says  string
		waits time.Duration // until it is repaired
	}{
		"an older version made current": {edit: old, says: "or one with force now", waits: 5 * time.Minute},
		"overwritten by someone": {says: "does not hold a token that this function has put there", waits: 17 * time.Minute, edit: func(fx *fixture, m *mirrortest.AWS) {
			fx.rotate()
			time.Sleep(30 * time.Minute)
			must(m.Write(firstARN, "11111111-2919-432f-9883-d5040bfcd326", "mine"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				m := fx.mirrorTo(firstARN)
				test.edit(fx, m)
				fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepMirror, rotation.Unavailable, test.says)
				before := fx.versions()
				for began := time.Now(); time.Since(began) < test.waits; time.Sleep(time.Minute) {
					fx.run(rotation.ModeEnsure)
				}
				fx.wantMirrored(m, firstARN)
				fx.wantVersions(before + 1)
			})
		})
	}
}

// Someone who writes to the mirror all the time is not fought: the run fails.
func TestHoursOfAMirrorThatSomeoneElseWrites(t *testing.T) {
	t.Parallel()
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotator.Refusals = nil
		fx.rotate()
		ours := 0
		m.OnPut = func(_ string, version mirrortest.Version) {
			if strings.HasPrefix(version.Payload, "ey") {
				ours++
			}
		}
		for minute := range 8 * 60 {
			time.Sleep(time.Minute)
			if minute%15 == 0 {
				_ = m.Write(firstARN, fmt.Sprintf("11111111-2919-432f-9883-%012d", minute), "mine")
			}
			fx.run(rotation.ModeEnsure)
		}
		if ours > 1 {
			t.Errorf("got %d puts in 8 hours", ours)
		}
	})
}

// The metadata of a mirror's version can be changed by others, as that of the current one.
func TestTheMetadataOfAMirrorsVersion(t *testing.T) {
	for name, test := range map[string]struct {
		metadata map[string]any
		after    time.Duration // its version is this old
		repaired bool
	}{
		"erased, and new":             {nil, 10 * time.Minute, false}, // its put is counted
		"erased":                      {nil, 22 * time.Minute, true},
		"unreadable":                  {map[string]any{"expiration": "soon"}, 22 * time.Minute, true},
		"far in the future":           {map[string]any{"expiration": int64(1) << 40}, 22 * time.Minute, false},
		"far in the future, and late": {map[string]any{"expiration": int64(1) << 40}, 54 * time.Minute, true}, // trusted for 61 minutes
		"in the past":                 {map[string]any{"expiration": 1}, 22 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				m := fx.mirrorTo(firstARN)
				fx.rotate()
				time.Sleep(test.after - 5*time.Minute)
				failing(m, firstARN, 1, puts(rotation.Denied, rotation.Never))
				fx.run(rotation.ModeRotate)
				fx.rotator.Refusals = nil
				fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "previous", test.metadata)
				time.Sleep(5 * time.Minute)
				want := report.Fresh
				if test.repaired {
					want = report.Rotated
				}
				fx.wantOutcome(fx.run(rotation.ModeEnsure), want)
			})
		})
	}
}

// What cannot be read of a mirror's version at IBM is tried again, and publishes nothing.
func TestAMirrorsVersionThatCannotBeRead(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotate()
		time.Sleep(20 * time.Minute)
		failing(m, firstARN, 1, puts(rotation.Denied, rotation.Never))
		fx.run(rotation.ModeRotate)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Skip: 1, Times: 1, Status: 503})
		result := fx.run(rotation.ModeEnsure)
		fx.wantOutcome(result, report.Fresh)
		fx.wantAttempts(result, 2)
		for _, status := range []int{400, 404} { // as if IBM had forgotten it
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Skip: 1, Times: 2, Status: status})
			time.Sleep(time.Minute)
			fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepMirror, rotation.Denied)
			fx.cloud.ClearFaults()
		}
		fx.wantVersions(3)
	})
}

func TestARepeatedDeliveryChecksTheMirrors(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		request := rotation.Request{Mode: rotation.ModeRotate, RunID: "delivered-twice"}
		failing(m, firstARN, 1, puts(rotation.Denied, rotation.Never))
		fx.wantFailure(fx.runAs(request), rotation.StepMirror, rotation.Denied)
		fx.wantFailure(fx.runAs(request), rotation.StepMirror, rotation.Denied)
		fx.rotator.Refusals = nil
		fx.wantFailure(fx.runAs(request), rotation.StepMirror, rotation.Unavailable)
		time.Sleep(6 * time.Minute)
		fx.wantFailure(fx.runAs(request), rotation.StepMirror, rotation.Unavailable)
		fx.wantVersions(2) // ensure repairs it, and rotate with the next version
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
		fx.wantMirrored(m, firstARN)
		fx.wantOutcome(fx.runAs(rotation.Request{Mode: rotation.ModeRotate, RunID: "another-run"}), report.Rotated)
	})
}

// A run that is just writing its mirrors is no failure of another one.
func TestARunInTheMiddleOfItsMirrorsIsWaitedFor(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		failing(m, firstARN, 1, onlyPuts(func(context.Context, bool) error { time.Sleep(time.Second); return mirrortest.ErrLost }))
		go fx.run(rotation.ModeRotate)
		time.Sleep(500 * time.Millisecond)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		fx.wantVersions(2)
	})
}

func TestCheckReadsTheMirrorsAndWritesNone(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		result := fx.run(rotation.ModeCheck)
		fx.wantOutcome(result, report.Checked)
		fx.wantWarning(result, "does not hold a token")
		wantPuts(t, m, firstARN, 0)
		failing(m, firstARN, 0, requests(rotation.NotFound, rotation.Never))
		fx.wantFailure(fx.run(rotation.ModeCheck), rotation.StepMirror, rotation.NotFound)
	})
}

func TestAKeptTokenMustBeInTheMirrors(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		fx.rotate()
		time.Sleep(20 * time.Minute)
		failing(m, secondARN, 1, puts(rotation.Denied, rotation.Never))
		fx.run(rotation.ModeRotate)
		fx.cloud.SetTokenTTL(15 * time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeRotate), report.Kept)
		time.Sleep(35 * time.Minute) // the second one's token has 5 minutes left, IBM's 25
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Unavailable)
		wantPuts(t, m, secondARN, 1)
		fx.wantOutcome(fx.force(), report.Rotated)
		fx.wantMirrored(m, firstARN, secondARN)
	})
}

// One mirror does not answer: another that needs a token gets it in the same run.
func TestAMirrorThatHangsDelaysNoRepairOfAnother(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotator = fx.process(roundTripper(func(req *http.Request) (*http.Response, error) {
			time.Sleep(50 * time.Millisecond)
			if err := req.Context().Err(); err != nil { // what comes late has no answer
				return nil, err
			}
			return fx.cloud.Transport().RoundTrip(req)
		}))
		fx.rotate()
		time.Sleep(10 * time.Minute)
		m := fx.mirrorTo(firstARN, secondARN)
		failing(m, secondARN, 0, hanging)
		fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepMirror, rotation.Timeout)
		fx.wantMirrored(m, firstARN)
		fx.wantVersions(3)
	})
}

// A process that was suspended before a put was not refused.
func TestAPutThatCameTooLateIsNoRefusal(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		failing(m, firstARN, 1, puts(rotation.Timeout, rotation.Never))
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Timeout)
		time.Sleep(3 * time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
	})
}

// Without IBM's time every token counts as expired: IBM's secret gets one every minute, and
// a mirror still one in 16. Its second one alone may come sooner: AWS shows of the first one only
// that there was none before, as of a value that a person made the secret with.
func TestAMirrorKeepsWithinItsQuotaWithoutIBMsTime(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, read: func(_ context.Context, _ string, version rotation.CurrentVersion) (rotation.CurrentVersion, error) {
			version.CreatedAt = time.Time{}
			return version, nil
		}}
		for range 60 {
			fx.run(rotation.ModeEnsure)
			time.Sleep(time.Minute)
		}
		if got := putsOfADay(m, firstARN); got < 3 || got > 5 {
			t.Errorf("got %d puts in an hour, want 4 or 5", got)
		}
	})
}

func TestAMirrorsVersionOfTheFutureIsNotBelieved(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotate()
		time.Sleep(10 * time.Minute)
		fx.rotate()
		fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, read: func(_ context.Context, id string, version rotation.CurrentVersion) (rotation.CurrentVersion, error) {
			if id != "" {
				version.CreatedAt = version.CreatedAt.Add(24 * time.Hour)
			}
			return version, nil
		}}
		time.Sleep(10 * time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
		fx.wantMirrored(m, firstARN)
	})
}

// MIN_REMAINING is capped by what the token allows: no lifetime makes every run save one.
func TestMinRemainingIsCapped(t *testing.T) {
	for _, test := range []struct{ least, lifetime, want time.Duration }{
		{480, 60, 480}, {480, 15, 480}, {44 * 60, 60, 44 * 60}, {59 * 60, 60, 44 * 60}, {60, 60, 60},
		{45 * 60, 15, 480}, {45 * 60, 24, 480}, {45 * 60, 30, 14 * 60}, {480, 10, 320}, {480, 6, 192}, {45 * 60, 5, 160},
	} {
		if got := rotation.Threshold(test.least*time.Second, test.lifetime*time.Minute); got != test.want*time.Second {
			t.Errorf("MIN_REMAINING %d, lifetime %d: got %s, want %d", test.least, test.lifetime, got, test.want)
		}
	}
	for lifetime, most := range map[time.Duration]int{6: 20, 10: 12, 15: 8, 20: 5, 30: 4, 60: 4} { // every 3, 5, 8, 12, 16 and 16 minutes
		withFixture(t, ibmcloudtest.Options{TokenTTL: lifetime * time.Minute}, func(fx *fixture) {
			fx.rotator.MinRemaining = time.Hour
			m := fx.mirrorTo(parameterARN) // it has no part in when a version is saved
			fx.wantWarning(fx.rotate(), "more than tokens of")
			saved := 0
			for range 60 {
				time.Sleep(time.Minute)
				if fx.run(rotation.ModeEnsure).Outcome == report.Rotated {
					saved++
				}
			}
			if saved > most || saved < most-1 {
				t.Errorf("tokens of %d minutes: %d versions in an hour, want %d", lifetime, saved, most)
			}
			wantPuts(t, m, parameterARN, saved+1)
		})
	}
}

// However much lifetime is to remain, IBM's secret gets no version that its mirror may not have too.
func TestEachVersionIsPutToTheMirrorsToo(t *testing.T) {
	t.Parallel()
	for _, lifetime := range []time.Duration{30, 60} {
		withFixture(t, ibmcloudtest.Options{TokenTTL: lifetime * time.Minute}, func(fx *fixture) {
			fx.rotator.MinRemaining = 45 * time.Minute
			m := fx.mirrorTo(firstARN)
			fx.rotate()
			for range 12 * 60 {
				time.Sleep(time.Minute)
				fx.run(rotation.ModeEnsure)
			}
			wantPuts(t, m, firstARN, fx.versions()-1) // the first one is the set-up's
		})
	}
}

// A repeated delivery saves nothing, whatever lifetime tokens have and is to remain.
func TestARepeatedDeliverySavesNothingWhateverIsToRemain(t *testing.T) {
	for _, lifetime := range []time.Duration{5, 15, 20, 30, 60} {
		for _, least := range []time.Duration{1, 8, 25, 45, 59} {
			withFixture(t, ibmcloudtest.Options{TokenTTL: lifetime * time.Minute}, func(fx *fixture) {
				fx.rotator.MinRemaining = least * time.Minute
				request := rotation.Request{Mode: rotation.ModeRotate, RunID: "rotate-2026-01-01T10:00:00Z"}
				fx.wantOutcome(fx.runAs(request), report.Rotated)
				before := fx.versions()
				time.Sleep(2 * time.Minute) // EventBridge Scheduler and Lambda try for as long
				if got := fx.runAs(request); got.Outcome != report.AlreadyDone || fx.versions() != before {
					t.Errorf("MIN_REMAINING %d, lifetime %d: got %s and %d versions more", least, lifetime, got.Outcome, fx.versions()-before)
				}
			})
		}
	}
}

// A run that does not know the version in a mirror counts from AWS's date of it, which is later
// than IBM's: what was saved in between was not put, and that is no failure.
func TestAVersionThatHadToWaitIsNoFailureOfTheMirror(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotator.Random = func() float64 { return 0 } // no put waits for another deployment's
		m.Fault = func(_ context.Context, _ string, put bool) error {
			if put {
				time.Sleep(2 * time.Second)
			}
			return nil
		}
		fx.cloud.SetTokenTTL(15 * time.Minute)
		fx.rotate()
		time.Sleep(20 * time.Minute)
		fx.rotate()
		time.Sleep(8 * time.Minute)
		fx.rotate()
		time.Sleep(8*time.Minute - 2*time.Second + time.Second) // since the second one's save: 16 minutes and a second
		fx.wantWarning(fx.rotate(), "gets a later token")
		wantPuts(t, m, firstARN, 2)
		time.Sleep(time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		time.Sleep(time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
		fx.wantMirrored(m, firstARN)
	})
}

// Puts of short tokens wait for those of other deployments: neither past the end of the run, nor in the way of other rotations.
func TestTheWaitOfAPutCostsNoPut(t *testing.T) {
	for within, rotations := range map[time.Duration]int{6 * time.Second: 1, 2 * time.Minute: 60} {
		withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute, Rotations: rotations}, func(fx *fixture) {
			m := fx.mirrorTo()
			for i := range fx.all {
				fx.all[i].Mirror = []string{fmt.Sprint(firstARN, i)}
				m.Current(fx.all[i].Mirror[0])
			}
			fx.rotator.Random, fx.rotator.Concurrency = func() float64 { return 0.99 }, 2
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			for i, result := range fx.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "run"}, fx.all).Results {
				fx.wantOutcome(result, report.Rotated)
				fx.one = fx.all[i]
				fx.wantMirrored(m, fx.one.Mirror...)
			}
		})
	}
}

// The account's lifetime of tokens was cut: a mirror that has a better one than IAM gives does not fail.
func TestAMirrorWithABetterTokenThanANewOneIsInOrder(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotator.MinRemaining = 44 * time.Minute
		fx.mirrorTo(firstARN)
		fx.rotate()
		fx.cloud.SetTokenTTL(15 * time.Minute)
		for age := time.Minute; age < 59*time.Minute; age += time.Minute {
			time.Sleep(time.Minute)
			if got := fx.run(rotation.ModeEnsure); got.Outcome == report.Failed {
				t.Fatalf("at %s: %v", age, got.Error)
			}
		}
	})
}

// region is a deployment of the one rotation in a region of AWS, with a mirror of its own there.
type region struct {
	rotator  *rotation.Rotator
	rotation rotation.Rotation
	rotates  bool // else it ensures alone
	dead     func(minute int) bool
	mirror   string

	failed int
	least  time.Duration // left of the mirror's token, by minutes
}

func (r *region) run(mode rotation.Mode, at time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	// Schedules of all regions name a run alike.
	request := rotation.Request{Mode: mode, RunID: string(mode) + "-" + at.Format(time.RFC3339)}
	if r.rotator.Run(ctx, request, []rotation.Rotation{r.rotation}).Results[0].Outcome == report.Failed {
		r.failed++
	}
}

// Two functions with one token secret, the second of which ensures alone, and a mirror for each: the loss of either
// region harms no reader of the other, and what it costs stays within AWS's quota.
func TestHoursOfTwoRegions(t *testing.T) {
	t.Parallel()
	never := func(int) bool { return false }
	threeHours := func(minute int) bool { return minute >= 6*60+17 && minute < 9*60+17 }
	for name, test := range map[string]struct {
		first, second func(minute int) bool // dead
		mirrored      bool
		saves, puts   int // a day, at most
	}{
		"nothing happens":               {never, never, true, 58, 30},
		"nothing happens, no mirrors":   {never, never, false, 32, 0},
		"the first is dead for 3 hours": {threeHours, never, true, 58, 30},
		"the second is":                 {never, threeHours, true, 58, 30},
		"the first for good":            {func(minute int) bool { return minute > 60 }, never, true, 35, 30},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				mirrors := &mirrortest.AWS{}
				regions := []*region{{rotates: true, dead: test.first, mirror: firstARN}, {dead: test.second, mirror: secondARN}}
				for _, r := range regions {
					r.rotator, r.rotation, r.least = fx.process(fx.cloud.Transport()), fx.one, time.Hour
					r.rotator.Mirrors, r.rotator.Refusals = mirrors, &rotation.Refusals{}
					if test.mirrored {
						r.rotation.Mirror = []string{r.mirror}
					}
				}
				playDay(t, fx, mirrors, regions, test.mirrored)
				saves := fx.countRequests(ibmcloudtest.OpVersionsCreate)
				if saves > test.saves {
					t.Errorf("%d versions at IBM in a day, want %d at most", saves, test.saves)
				}
				for _, r := range regions {
					versions, limited := mirrors.Versions(r.mirror)
					if len(versions) > test.puts || limited > 0 || r.failed > 0 || test.mirrored && r.least < 5*time.Minute {
						t.Errorf("%s: %d puts, %d refused, %d failed runs, %s left at least; want %d puts at most and 5m", r.mirror, len(versions), limited, r.failed, r.least, test.puts)
					}
				}
			})
		})
	}
}

// Two functions that cannot put, each to its own mirror, do not answer each other's saves for ever.
func TestHoursOfTwoRegionsThatCannotPut(t *testing.T) {
	t.Parallel()
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		mirrors := &mirrortest.AWS{Fault: func(ctx context.Context, _ string, put bool) error {
			return puts(rotation.Unavailable, rotation.Later)(ctx, put)
		}}
		regions := []*region{{mirror: firstARN}, {mirror: secondARN}}
		for _, r := range regions {
			r.rotator, r.rotation = fx.process(fx.cloud.Transport()), fx.one
			r.rotator.Mirrors, r.rotation.Mirror = mirrors, []string{r.mirror}
		}
		for range 6 * 60 {
			for _, r := range regions {
				r.run(rotation.ModeEnsure, time.Now())
			}
			time.Sleep(time.Minute)
		}
		if saves := fx.countRequests(ibmcloudtest.OpVersionsCreate); saves > 30 || regions[0].failed < 60 {
			t.Errorf("%d versions at IBM in 6 hours, and %d failed runs of the first; want 30 at most and 60 at least", saves, regions[0].failed)
		}
	})
}

// A save in the seconds when a mirror may be put again, by IBM's date and not yet by AWS's, was no try that failed:
// another function's next save is no answer to it.
func TestASaveThatCouldNotBePutIsNoTry(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(fx *fixture) {
		fx.mirrorTo(firstARN, secondARN)
		fx.rotate()
		other := fx.process(fx.cloud.Transport())
		other.Mirrors = &mirrortest.AWS{} // what it saves is in none of this function's mirrors
		for _, save := range []struct {
			after   time.Duration
			mirrors []string
		}{{rotation.PutInterval + 15*time.Second, []string{firstARN, secondARN}}, {2 * time.Minute, []string{firstARN}}} {
			time.Sleep(save.after)
			fx.one.Mirror = save.mirrors
			fx.wantOutcome(fx.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, Force: true, RunID: "save after " + save.after.String()}), report.Rotated)
		}
		fx.one.Mirror = []string{secondARN}
		for range 4 {
			time.Sleep(time.Minute)
			if got := fx.run(rotation.ModeEnsure); got.Outcome == report.Failed {
				t.Fatal(got.Error)
			}
		}
	})
}

// playDay plays a day. The readers of a dead region's mirror are dead, too, and for the minutes that its function needs after.
func playDay(t *testing.T, fx *fixture, mirrors *mirrortest.AWS, regions []*region, mirrored bool) {
	t.Helper()
	start := time.Now()
	for minute := range 24 * 60 {
		var running sync.WaitGroup
		for _, r := range regions {
			if r.dead(minute) {
				continue
			}
			if r.rotates && minute%50 == 0 {
				running.Go(func() { r.run(rotation.ModeRotate, start.Add(time.Duration(minute)*time.Minute)) })
			}
			running.Go(func() { r.run(rotation.ModeEnsure, start.Add(time.Duration(minute)*time.Minute)) })
		}
		running.Wait()
		time.Sleep(time.Until(start.Add(time.Duration(minute+1) * time.Minute)))
		if left := fx.remaining(fx.cloud.MustCurrent(fx.one.Token.ID).Payload); left < 5*time.Minute {
			t.Errorf("minute %d: %s left at IBM", minute, left)
		}
		for _, r := range regions {
			if mirrored && minute > 3 && !r.dead(minute) && !r.dead(minute-3) {
				r.least = min(r.least, fx.remaining(mirrors.Current(r.mirror).Payload))
			}
		}
	}
}
