package rotation_test

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

func unixIn(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }

func TestFaultsAreRetriedWhileThatHelps(t *testing.T) {
	const workload = ibmcloudtest.IdentityWorkload
	after := func(seconds string) map[string]string { return map[string]string{"Retry-After": seconds} }
	// took has the faults end after a time, 0 for never, and wants the run to take from least to most.
	took := func(s story, ends, least, most time.Duration, faults ...ibmcloudtest.Fault) story {
		s.first = true
		log := &bytes.Buffer{}
		s.edit = func(fx *fixture) {
			fx.rotator.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			for _, fault := range faults {
				fx.fault(fault)
			}
			if ends > 0 {
				time.AfterFunc(ends, fx.cloud.ClearFaults)
			}
		}
		s.then = func(fx *fixture, result report.Result) {
			if result.Duration < least || result.Duration > most {
				fx.t.Errorf("took %s, want %s to %s", result.Duration, least, most)
			}
			if says := strings.Count(log.String(), "trying again"); says != result.Attempts-1 {
				fx.t.Errorf("the log says %d times that another attempt follows %d", says, result.Attempts)
			}
			if s.fails == rotation.StepExchange && result.TransactionID == "" {
				fx.t.Error("the failure names no IAM transaction")
			}
		}
		return s
	}
	failing := func(step rotation.Step, kind rotation.Kind, attempts int, least, most time.Duration, faults ...ibmcloudtest.Fault) story {
		return took(story{fails: step, kind: kind, attempts: attempts}, 0, least, most, faults...)
	}
	within := func(limit time.Duration, s story) story {
		s.within = limit
		return s
	}
	const whole, end, short = 90 * time.Second, 115 * time.Second, 2700 * time.Millisecond
	play(t, map[string]story{
		"429 that asks for an hour": took(story{attempts: 2}, 0, 10*time.Second, 11*time.Second,
			ibmcloudtest.Fault{Op: saveOp, Status: 429, Times: 1, Headers: after("3600")}),
		"429 that asks for 7 seconds": took(story{attempts: 2}, 0, 7*time.Second, 8*time.Second,
			ibmcloudtest.Fault{Op: saveOp, Status: 429, Times: 1, Headers: after("7")}),
		"IAM down for a minute": took(story{attempts: several}, time.Minute, time.Minute, 71*time.Second,
			ibmcloudtest.Fault{Op: tokenOp, Status: 503, ContentType: "text/html", Body: "<h1>503</h1>"}),
		"all down for a minute": took(story{attempts: several}, time.Minute, time.Minute, 71*time.Second,
			ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Status: 503}),
		"503 for ever": failing(rotation.StepReadMetadata, rotation.Unavailable, several, whole, end,
			ibmcloudtest.Fault{Op: metadataOp, Status: 503}),
		"429 for ever": failing(rotation.StepReadMetadata, rotation.RateLimited, several, whole, end,
			ibmcloudtest.Fault{Op: metadataOp, Status: 429}),
		"dropped for ever": failing(rotation.StepReadMetadata, rotation.Unavailable, several, whole, end,
			ibmcloudtest.Fault{Op: metadataOp, Drop: ibmcloudtest.DropBefore}),
		"hanging for ever": failing(rotation.StepReadMetadata, rotation.Timeout, several, whole, end,
			ibmcloudtest.Fault{Op: metadataOp, Delay: time.Hour}),
		"an unknown key": failing(rotation.StepExchange, rotation.Denied, 2, 2*time.Second, 3*time.Second,
			ibmcloudtest.Fault{Op: tokenOp, Identity: workload, Status: 400}),
		"503, and then no secret": failing(rotation.StepReadMetadata, rotation.NotFound, 2, 0, time.Second,
			ibmcloudtest.Fault{Op: metadataOp, Status: 503, Times: 1}, ibmcloudtest.Fault{Op: metadataOp, Status: 404}),
		"slower than an attempt": took(story{attempts: 2}, 0, 10*time.Second, 11*time.Second,
			ibmcloudtest.Fault{Op: tokenOp, Identity: workload, Delay: time.Minute, Times: 1}),
		"two keys that are rejected once": took(story{attempts: 3}, 0, 4*time.Second, 5*time.Second,
			ibmcloudtest.Fault{Op: metadataOp, Status: 401, Times: 1}, ibmcloudtest.Fault{Op: tokenOp, Identity: workload, Status: 400, Times: 1}),
		"slower than the deadline, of which a tenth is kept": within(3*time.Second,
			failing(rotation.StepReadKey, rotation.Timeout, 1, 0, short, ibmcloudtest.Fault{Op: keyOp, Delay: 8 * time.Second})),
		"503, and then no answer in time": within(3*time.Second,
			failing(rotation.StepReadMetadata, rotation.Unavailable, 2, 0, short, ibmcloudtest.Fault{Op: metadataOp, Status: 503, Times: 1},
				ibmcloudtest.Fault{Op: metadataOp, Delay: time.Hour})),
	})
	// The back-off is 300 ms, doubled each time, spread from half to one and a half.
	for random, want := range map[float64]time.Duration{0: 450 * time.Millisecond, 0.5: 900 * time.Millisecond, 1: 1350 * time.Millisecond} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.rotator.Random = func() float64 { return random }
			fx.fault(ibmcloudtest.Fault{Op: saveOp, Status: 503, Times: 2})
			if got := fx.rotate().Duration; got != want {
				t.Errorf("at %v: two retries took %s, want %s", random, got, want)
			}
		})
	}
}

// The bootstrap key: when it is read, and its token obtained.

// bootstrapKey counts how often the bootstrap key is read. The function returned checks that, and how often it was exchanged.
func (fx *fixture) bootstrapKey(read func(ctx context.Context) (string, error)) (want func(when string, reads, exchanges int)) {
	reads := 0
	fx.rotator = fx.processAs(fx.cloud.Transport(), byKeyOf(func(ctx context.Context) (iamtoken.Secret, error) {
		reads++
		key, err := read(ctx)
		return iamtoken.NewSecret(key), err
	}))
	return func(when string, wantReads, wantExchanges int) {
		fx.t.Helper()
		if got := fx.cloud.CountRequests(tokenOp, ibmcloudtest.IdentityBootstrap); reads != wantReads || got != wantExchanges {
			fx.t.Errorf("%s: got %d reads of the bootstrap key and %d exchanges, want %d and %d", when, reads, got, wantReads, wantExchanges)
		}
	}
}

func TestABootstrapTokenRejectedInAPassIsRenewed(t *testing.T) {
	each(t, map[string]string{"key": keyOp, "look": metadataOp, "save": saveOp}, func(fx *fixture, op string) {
		want := fx.bootstrapKey(func(context.Context) (string, error) { return fx.cloud.BootstrapAPIKey(), nil })
		fx.fault(ibmcloudtest.Fault{Op: op, Status: 401, Times: 1})
		fx.wantAttempts(fx.rotate(), 2)
		want(op, 2, 2)
		fx.wantVersions(2)
	})
}

// A replaced bootstrap key may be of another identity, and the old one without its rights: that is a 403, after which a warm
// process must not go on with it for good. But one rotation's 403 must not take the token from the others, nor the key
// while the place it is read from is out of reach.
func TestTheBootstrapKeyIsReadAfresh(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		away := false
		want := fx.bootstrapKey(func(ctx context.Context) (string, error) {
			if away {
				<-ctx.Done() // the worst way to be away
				return "", &rotation.Error{Kind: rotation.Unavailable}
			}
			return fx.cloud.BootstrapAPIKey(), nil
		})
		fx.rotate()
		time.Sleep(30 * time.Minute)
		fx.rotate()
		fx.fault(ibmcloudtest.Fault{Op: metadataOp, Status: 403, Times: 1})
		fx.wantFailure(fx.run(ensure), rotation.StepReadMetadata, rotation.Denied)
		fx.wantOutcome(fx.run(ensure), report.Fresh)
		want("while the token is valid", 1, 1)
		away = true
		time.Sleep(11 * time.Minute) // two thirds of its lifetime
		result := fx.run(ensure)
		fx.wantOutcome(result, report.Fresh)
		fx.wantAttempts(result, 1)
		want("with the source away", 2, 2)
		away = false
		time.Sleep(41 * time.Minute)
		fx.rotate()
		want("with the source back", 3, 3)
		time.Sleep(41 * time.Minute)
		fx.rotate()
		want("when all is well again", 3, 4)
	})
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) { // the key is replaced
		key := fx.cloud.BootstrapAPIKey()
		iamID, _, err := fx.cloud.Validate(fx.cloud.MustMintToken(key, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		fx.bootstrapKey(func(context.Context) (string, error) { return key, nil })
		fx.rotate()
		time.Sleep(50 * time.Minute)
		replacement := fx.cloud.MustCreateAPIKey(iamID)
		fx.cloud.MustDeleteAPIKey(key)
		key = replacement
		fx.wantAttempts(fx.rotate(), 2) // one with the old key, one with the new
	})
}

// Clocks.

// dated answers op with a Date that is off, and does not go on.
func dated(op string, off time.Duration) func(*fixture) {
	return func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: op, Identity: map[string]string{tokenOp: "workload"}[op],
			Headers: map[string]string{"Date": time.Now().Add(off).UTC().Format(http.TimeFormat)}})
	}
}

// A Date that is wrong would have an old token pass for a fresh one, or raise alarms. With the Date right again, all is well.
func TestAWrongClock(t *testing.T) {
	cold := func(edit func(*fixture)) func(*fixture) {
		return func(fx *fixture) {
			fx.rotator = fx.process(fx.cloud.Transport())
			edit(fx)
		}
	}
	byTokenOf := func(edit func(*fixture)) func(*fixture) { // IAM's clock is not known: an answer still has to agree with itself
		return func(fx *fixture) {
			fx.rotator = fx.processAs(fx.cloud.Transport(), byToken(fx.cloud.MustMintToken(fx.cloud.BootstrapAPIKey(), time.Hour)))
			edit(fx)
		}
	}
	skewed := func(off time.Duration, f ibmcloudtest.Fault) func(*fixture) {
		return func(fx *fixture) {
			fx.skew.Store(int64(off))
			fx.fault(f)
		}
	}
	again := func(fx *fixture, result report.Result) {
		fx.cloud.ClearFaults()
		if next := fx.run(cmp.Or(map[rotation.Step]rotation.Mode{rotation.StepReadMetadata: ensure}[result.Error.Step],
			rotation.ModeRotate)); next.Outcome == report.Failed {
			fx.t.Errorf("with the Date right again: got %v", next.Error)
		}
	}
	const hours, thirty, fifty, minutes = -2 * time.Hour, -30 * time.Minute, 50 * time.Minute, 39 * time.Minute
	play(t, with(func(s *story) {
		s.within, s.attempts, s.kind, s.then = 20*time.Second, several, cmp.Or(s.kind, rotation.Unavailable), again
	}, map[string]story{
		"Secrets Manager, before the version": {edit: dated(metadataOp, hours), mode: ensure, after: fifty, fails: rotation.StepReadMetadata},
		"Secrets Manager, 1970": {edit: cold(func(fx *fixture) { dated(metadataOp, -time.Since(time.Unix(0, 0)))(fx) }),
			mode: ensure, after: fifty, fails: rotation.StepReadMetadata},
		"Secrets Manager, back, cold":       {edit: cold(dated(metadataOp, thirty)), mode: ensure, after: fifty, fails: rotation.StepReadMetadata},
		"Secrets Manager, back, warm":       {edit: dated(metadataOp, thirty), mode: ensure, after: minutes, fails: rotation.StepReadMetadata},
		"Secrets Manager, back, by a token": {edit: byTokenOf(dated(metadataOp, -time.Hour)), mode: ensure, after: fifty, fails: rotation.StepReadMetadata},
		"Secrets Manager, ahead":            {edit: dated(metadataOp, 2*time.Minute), after: minutes, fails: rotation.StepReadMetadata},
		"IAM, before the token was issued": {edit: dated(tokenOp, -10*time.Second), after: minutes, fails: rotation.StepCheck,
			kind: rotation.InvalidToken},
		"IAM, ahead": {edit: dated(tokenOp, 2*time.Minute), after: minutes, fails: rotation.StepExchange},
	}))
	const isOff = "this machine's clock is off: IBM's clock less ours is"
	noDate := map[string]string{"Date": ""}
	play(t, map[string]story{
		"Secrets Manager, a minute ahead": {edit: dated(metadataOp, 59*time.Second), after: minutes},
		"Secrets Manager, a minute back":  {edit: dated(metadataOp, -59*time.Second), mode: ensure, after: 10 * time.Minute, want: report.Fresh},
		"IAM, a minute ahead":             {edit: dated(tokenOp, 59*time.Second), after: minutes},
		// By a slow clock the token before has not expired yet.
		"this machine, back": {edit: skewed(-10*time.Minute, ibmcloudtest.Fault{Op: saveOp, Status: 503, Times: 2}),
			after: 61 * time.Minute, mode: ensure, attempts: 3, says: isOff,
			then: func(fx *fixture, _ report.Result) { fx.wantOutcome(fx.run(ensure), report.Fresh) }},
		"this machine, ahead": {edit: skewed(5*time.Minute, ibmcloudtest.Fault{Op: saveOp, Status: 503, Times: 2}),
			after: 61 * time.Minute, mode: ensure, attempts: 3, says: isOff + " -"},
		"set back to what it was at the last run": {edit: skewed(-2*time.Minute, ibmcloudtest.Fault{Op: keyOp, Status: 503, Times: 1}),
			after: 2 * time.Minute, then: func(fx *fixture, result report.Result) {
				if result.Duration > time.Second {
					fx.t.Errorf("took %s, want 1s at most", result.Duration)
				}
			}},
		"this machine, and IAM has no Date": {first: true,
			edit: skewed(40*time.Minute, ibmcloudtest.Fault{Op: tokenOp, Headers: noDate})}, // by Secrets Manager's clock the token is fresh
		"this machine, and Secrets Manager has no Date for a rotation": {first: true,
			edit: skewed(40*time.Minute, ibmcloudtest.Fault{Op: metadataOp, Headers: noDate})}, // by IAM's clock it is
		"this machine, and Secrets Manager has no Date": {edit: skewed(-10*time.Minute,
			ibmcloudtest.Fault{Op: metadataOp, Headers: noDate}), mode: ensure, want: report.Fresh},
	})
}

// Suspended processes.

// An answer that was read long after it came says nothing of the clock.
func TestAnAnswerReadAfterAFreezeDoesNotMakeAnExpiredTokenFresh(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		frozen := false
		fx.rotator = fx.process(roundTripper(func(req *http.Request) (*http.Response, error) {
			response, err := fx.cloud.Transport().RoundTrip(req)
			if strings.Contains(req.URL.Path, "/versions/current/metadata") && !frozen {
				frozen = true
				fx.freeze(90 * time.Minute)
			}
			return response, err
		}))
		if got := fx.run(ensure); got.Outcome == report.Fresh {
			t.Errorf("got %s with %d s left of a token that expired half an hour ago", got.Outcome, *got.SecondsRemaining)
		}
	})
}

// suspended is a process that is frozen before or after an exchange.
type suspended struct {
	rotation.Exchanger
	before, after func()
}

func (s suspended) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	s.before()
	defer s.after()
	return s.Exchanger.Exchange(ctx, key)
}

// Whatever a process knew before it was frozen for longer than its run may take is
// too old to go on with: the token, the metadata, the decision to save.
func TestAProcessThatWasFrozenSavesNothingOld(t *testing.T) {
	nothing := func() {}
	afterExchange := func(d time.Duration) func(*fixture) {
		return func(fx *fixture) { fx.rotator.IAM = suspended{fx.rotator.IAM, nothing, func() { fx.freeze(d) }} }
	}
	beforeSave := func(d time.Duration) func(*fixture) {
		return func(fx *fixture) {
			fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, beforeSave: func() { fx.freeze(d) }}
		}
	}
	play(t, with(func(s *story) { s.after, s.kind = 50*time.Minute, rotation.Timeout }, map[string]story{
		"a minute after the exchange":     {edit: afterExchange(time.Minute)},
		"2 minutes after the exchange":    {edit: afterExchange(121 * time.Second), fails: rotation.StepSave},
		"25 minutes after the exchange":   {edit: afterExchange(25 * time.Minute), fails: rotation.StepSave},
		"an hour after the exchange":      {edit: afterExchange(time.Hour), fails: rotation.StepReadMetadata},
		"a minute before the save":        {edit: beforeSave(time.Minute)},
		"three minutes before the save":   {edit: beforeSave(3 * time.Minute), fails: rotation.StepReadMetadata},
		"most of an hour before the save": {edit: beforeSave(54 * time.Minute), fails: rotation.StepReadMetadata},
	}))
	// Another run has saved one meanwhile that is better.
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		other := fx.process(fx.cloud.Transport())
		fx.rotator.IAM = suspended{fx.rotator.IAM, func() {
			fx.freeze(41 * time.Minute)
			fx.wantOutcome(fx.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"}), report.Rotated)
			fx.cloud.SetTokenTTL(45 * time.Minute)
		}, nothing}
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepSave, rotation.Timeout)
		fx.wantVersions(2)
		fx.wantStored(59 * time.Minute)
	})
}

// Runs and rotations in parallel.

func TestTwoRunsAtOnceAreHarmless(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		time.Sleep(50 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: tokenOp, Identity: ibmcloudtest.IdentityWorkload, Delay: 3 * time.Second, Times: 1})
		var both sync.WaitGroup
		for _, runID := range []string{"the-first-run", "the-second-run"} {
			process := fx.process(fx.cloud.Transport())
			both.Go(func() {
				result := fx.runWithin(2*time.Minute, process, rotation.Request{Mode: rotation.ModeRotate, RunID: runID})
				if result.Outcome != report.Rotated {
					t.Errorf("got %s (%v)", result.Outcome, result.Error)
				}
			})
		}
		both.Wait()
		fx.wantStored(59 * time.Minute)
	})
}

func TestAnInterruptedRunEndsAtOnceAndSaysSo(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Delay: time.Hour})
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		result := fx.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "interrupted"}, fx.all).Results[0]
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s, want 1s", took)
		}
		if result.Error == nil || result.Error.Kind != rotation.Timeout || !strings.Contains(result.Error.Message, "interrupted") {
			t.Errorf("got %v, want a timeout that says interrupted", result.Error)
		}
	})
}

// stubborn is a key reader that does not heed its context.
type stubborn struct {
	rotation.KeyReader
	running atomic.Int32
	given   time.Duration // the time that the context left
}

func (s *stubborn) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	deadline, _ := ctx.Deadline()
	s.given = time.Until(deadline)
	time.Sleep(3 * time.Second)
	return s.KeyReader.ReadKey(context.WithoutCancel(ctx), ref)
}

func TestARunEndsWithItsKeyReads(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		keys := &stubborn{KeyReader: fx.rotator.Keys}
		fx.rotator.Keys = keys
		fx.fault(ibmcloudtest.Fault{Op: metadataOp, Status: 404})
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepReadMetadata, rotation.NotFound)
		if running := keys.running.Load(); running != 0 || keys.given != 10*time.Second {
			t.Errorf("got %d key reads that still run after it, each with %s; want none, and the 10s of an attempt", running, keys.given)
		}
	})
}
