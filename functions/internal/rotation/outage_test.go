package rotation_test

import (
	"cmp"
	"context"
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

// span is from the least to the most that is right.
type span[T int | time.Duration] struct{ least, most T }

func (s span[T]) holds(v T) bool { return v >= s.least && v <= s.most }

func TestFaultsAreRetriedWhileThatHelps(t *testing.T) {
	const metadata, create, token = ibmcloudtest.OpVersionsMetadata, ibmcloudtest.OpVersionsCreate, ibmcloudtest.OpIAMToken
	after := func(seconds string) map[string]string { return map[string]string{"Retry-After": seconds} }
	wholeRun, long := span[time.Duration]{90 * time.Second, 115 * time.Second}, span[int]{5, 100}
	for name, test := range map[string]struct {
		faults   []ibmcloudtest.Fault
		ends     time.Duration // of the faults; 0: never
		within   time.Duration // the deadline; 0: two minutes
		step     rotation.Step // of the failure; empty: success
		kind     rotation.Kind
		attempts span[int]
		took     span[time.Duration]
	}{
		"429 that asks for an hour": {faults: []ibmcloudtest.Fault{{Op: create, Status: 429, Times: 1, Headers: after("3600")}},
			attempts: span[int]{2, 2}, took: span[time.Duration]{10 * time.Second, 11 * time.Second}},
		"429 that asks for 7 seconds": {faults: []ibmcloudtest.Fault{{Op: create, Status: 429, Times: 1, Headers: after("7")}},
			attempts: span[int]{2, 2}, took: span[time.Duration]{7 * time.Second, 8 * time.Second}},
		"IAM down for a minute": {faults: []ibmcloudtest.Fault{{Op: token, Status: 503, ContentType: "text/html", Body: "<h1>503</h1>"}}, ends: time.Minute,
			attempts: long, took: span[time.Duration]{time.Minute, 71 * time.Second}},
		"all down for a minute": {faults: []ibmcloudtest.Fault{{Op: ibmcloudtest.OpAny, Status: 503}}, ends: time.Minute,
			attempts: long, took: span[time.Duration]{time.Minute, 71 * time.Second}},
		"503 for ever":     {faults: []ibmcloudtest.Fault{{Op: metadata, Status: 503}}, step: rotation.StepLook, kind: rotation.Unavailable, attempts: long, took: wholeRun},
		"429 for ever":     {faults: []ibmcloudtest.Fault{{Op: metadata, Status: 429}}, step: rotation.StepLook, kind: rotation.RateLimited, attempts: long, took: wholeRun},
		"dropped for ever": {faults: []ibmcloudtest.Fault{{Op: metadata, Drop: ibmcloudtest.DropBefore}}, step: rotation.StepLook, kind: rotation.Unavailable, attempts: long, took: wholeRun},
		"hanging for ever": {faults: []ibmcloudtest.Fault{{Op: metadata, Delay: time.Hour}}, step: rotation.StepLook, kind: rotation.Timeout, attempts: long, took: wholeRun},
		"slower than the deadline, of which a tenth is kept": {faults: []ibmcloudtest.Fault{{Op: ibmcloudtest.OpSecretsGet, Delay: 8 * time.Second}}, within: 3 * time.Second,
			step: rotation.StepReadKey, kind: rotation.Timeout, attempts: span[int]{1, 1}, took: span[time.Duration]{0, 2700 * time.Millisecond}},
		"slower than an attempt": {faults: []ibmcloudtest.Fault{{Op: token, Identity: ibmcloudtest.IdentityWorkload, Delay: time.Minute, Times: 1}},
			attempts: span[int]{2, 2}, took: span[time.Duration]{10 * time.Second, 11 * time.Second}},
		"an unknown key": {faults: []ibmcloudtest.Fault{{Op: token, Identity: ibmcloudtest.IdentityWorkload, Status: 400}},
			step: rotation.StepExchange, kind: rotation.Denied, attempts: span[int]{2, 2}, took: span[time.Duration]{2 * time.Second, 3 * time.Second}},
		"two keys that are rejected once": {faults: []ibmcloudtest.Fault{
			{Op: metadata, Status: 401, Times: 1}, {Op: token, Identity: ibmcloudtest.IdentityWorkload, Status: 400, Times: 1}},
			attempts: span[int]{3, 3}, took: span[time.Duration]{4 * time.Second, 5 * time.Second}},
		"503, and then no answer in time": {faults: []ibmcloudtest.Fault{{Op: metadata, Status: 503, Times: 1}, {Op: metadata, Delay: time.Hour}}, within: 3 * time.Second,
			step: rotation.StepLook, kind: rotation.Unavailable, attempts: span[int]{2, 2}, took: span[time.Duration]{0, 2700 * time.Millisecond}},
		"503, and then no secret": {faults: []ibmcloudtest.Fault{{Op: metadata, Status: 503, Times: 1}, {Op: metadata, Status: 404}},
			step: rotation.StepLook, kind: rotation.NotFound, attempts: span[int]{2, 2}, took: span[time.Duration]{0, time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				for _, fault := range test.faults {
					fx.fault(fault)
				}
				if test.ends > 0 {
					time.AfterFunc(test.ends, fx.cloud.ClearFaults)
				}
				versions := 2
				result := fx.runWithin(cmp.Or(test.within, 2*time.Minute), fx.rotator, rotation.Request{Mode: rotation.ModeRotate, RunID: "with-faults"})
				if test.step == "" {
					fx.wantOutcome(result, report.Rotated)
				} else {
					fx.wantFailure(result, test.step, test.kind)
					versions = 1
				}
				fx.wantVersions(versions)
				if !test.attempts.holds(result.Attempts) || !test.took.holds(result.Duration) {
					t.Errorf("got %d attempts in %s, want %v in %v", result.Attempts, result.Duration, test.attempts, test.took)
				}
				if test.step == rotation.StepExchange && result.TransactionID == "" {
					t.Error("the failure names no IAM transaction")
				}
			})
		})
	}
}

// The back-off is 300 ms, doubled each time, spread from half to one and a half.
func TestRetriesAreSpread(t *testing.T) {
	for random, want := range map[float64]time.Duration{0: 450 * time.Millisecond, 0.5: 900 * time.Millisecond, 1: 1350 * time.Millisecond} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.rotator.Random = func() float64 { return random }
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 2})
			if got := fx.rotate().Duration; got != want {
				t.Errorf("at %v: two retries took %s, want %s", random, got, want)
			}
		})
	}
}

func TestASaveWithoutAnAnswerMakesNoSecondVersion(t *testing.T) {
	for name, fault := range map[string]ibmcloudtest.Fault{
		"lost before the save": {Drop: ibmcloudtest.DropBefore},
		"lost after the save":  {Drop: ibmcloudtest.DropAfter},
		// Only a version's id passes for one: it is logged.
		"of something else": {Status: 201, Body: `{"id":"canary","secret_type":"arbitrary","created_at":"2026-01-01T00:00:00Z"}`},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.rotate()
				time.Sleep(50 * time.Minute)
				fault.Op, fault.Times = ibmcloudtest.OpVersionsCreate, 1
				fx.fault(fault)
				result := fx.rotate()
				fx.wantVersions(3)
				fx.wantPublished(59 * time.Minute)
				if current := fx.cloud.MustCurrent(fx.one.Token.ID); result.VersionID != current.ID || result.Attempts != 2 {
					t.Errorf("got version %s after %d attempts, want %s after 2", result.VersionID, result.Attempts, current.ID)
				}
				if result.MarginSeconds == nil || *result.MarginSeconds < 590 {
					t.Errorf("got margin %v, want about 10 minutes", result.MarginSeconds)
				}
			})
		})
	}
}

// The margin is measured when the version was made, not when that became known.
func TestTheMarginIsThatOfTheSave(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		time.Sleep(50 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Drop: ibmcloudtest.DropAfter, Delay: 5 * time.Second, Times: 1})
		if got := fx.rotate().MarginSeconds; got == nil || *got != 600 {
			t.Errorf("got margin %v, want 600", got)
		}
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 412, Times: 1})
		if got := fx.run(rotation.ModeRotate).MarginSeconds; got != nil {
			t.Errorf("got margin %d of a run that saved nothing, want none", *got)
		}
		time.Sleep(time.Until(fx.expires()) + 100*time.Millisecond)
		if got := fx.rotate().MarginSeconds; got == nil || *got != -1 {
			t.Errorf("got margin %v after a gap of a tenth of a second, want -1", got)
		}
	})
}

// bootstrapKey counts how often the bootstrap key is read.
func (fx *fixture) bootstrapKey(reads *int) {
	fx.rotator = fx.processWithKey(fx.cloud.Transport(), func(context.Context) (iamtoken.Secret, error) {
		*reads++
		return iamtoken.NewSecret(fx.cloud.BootstrapAPIKey()), nil
	})
}

func (fx *fixture) bootstrapExchanges() int {
	return fx.cloud.CountRequests(ibmcloudtest.OpIAMToken, ibmcloudtest.IdentityBootstrap)
}

func TestATokenRejectedInMidPassIsRenewed(t *testing.T) {
	for _, op := range []string{ibmcloudtest.OpSecretsGet, ibmcloudtest.OpVersionsMetadata, ibmcloudtest.OpVersionsCreate} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			reads := 0
			fx.bootstrapKey(&reads)
			fx.fault(ibmcloudtest.Fault{Op: op, Status: 401, Times: 1})
			result := fx.rotate()
			fx.wantVersions(2)
			if got := fx.bootstrapExchanges(); reads != 2 || got != 2 || result.Attempts != 2 {
				t.Errorf("%s: got %d reads of the bootstrap key, %d exchanges and %d attempts, want 2 of each", op, reads, got, result.Attempts)
			}
		})
	}
}

func TestABootstrapTokenIsReusedForTwoThirdsOfItsLifetime(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		for _, test := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {30 * time.Minute, 1}, {11 * time.Minute, 2}} {
			time.Sleep(test.after)
			fx.rotate()
			if got := fx.bootstrapExchanges(); got != test.want {
				t.Errorf("%s later: got %d bootstrap exchanges, want %d", test.after, got, test.want)
			}
		}
	})
}

func TestAReplacedBootstrapKeyIsReadAfresh(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		key := fx.cloud.BootstrapAPIKey()
		iamID, _, err := fx.cloud.Validate(fx.cloud.MustMintToken(key, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		fx.rotator = fx.processWithKey(fx.cloud.Transport(), func(context.Context) (iamtoken.Secret, error) { return iamtoken.NewSecret(key), nil })
		fx.rotate()
		time.Sleep(50 * time.Minute)
		replacement := fx.cloud.MustCreateAPIKey(iamID)
		fx.cloud.MustDeleteAPIKey(key)
		key = replacement
		fx.wantAttempts(fx.rotate(), 2) // one with the old key, one with the new
	})
}

// A replaced bootstrap key may be of another identity, and the old one without
// its rights: that is a 403, after which a warm process must not go on with it for
// good. But one rotation's 403 must not take the token from the others, nor the key
// while the place it is read from is out of reach.
func TestTheBootstrapKeyIsReadAfreshAfterA403(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		reads, away := 0, false
		fx.rotator = fx.processWithKey(fx.cloud.Transport(), func(ctx context.Context) (iamtoken.Secret, error) {
			if reads++; away {
				<-ctx.Done() // the worst way to be away
				return iamtoken.Secret{}, &rotation.Error{Kind: rotation.Unavailable}
			}
			return iamtoken.NewSecret(fx.cloud.BootstrapAPIKey()), nil
		})
		want := func(when string, wantReads, wantExchanges int) {
			t.Helper()
			if got := fx.bootstrapExchanges(); reads != wantReads || got != wantExchanges {
				t.Errorf("%s: got %d reads of the bootstrap key and %d exchanges, want %d and %d", when, reads, got, wantReads, wantExchanges)
			}
		}
		fx.rotate()
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 403, Times: 1})
		fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepLook, rotation.Denied)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		want("while the token is valid", 1, 1)
		away = true
		time.Sleep(41 * time.Minute)
		result := fx.run(rotation.ModeEnsure)
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
}

func TestAKeyReplacedDuringThePassIsUsed(t *testing.T) {
	for _, mode := range []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.cloud.MustDeleteAPIKey(fx.workload().APIKey)
			time.AfterFunc(time.Second, func() {
				fx.cloud.MustPutVersion(fx.one.APIKey.ID, fx.cloud.MustCreateAPIKey(fx.workload().IAMID), nil)
			})
			fx.wantOutcome(fx.run(mode), report.Rotated)
		})
	}
}

func TestAFailedKeyReadIsNotShared(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{Rotations: 3}, func(fx *fixture) {
		fx.rotator.Concurrency = 1
		for i := range fx.all {
			fx.all[i].APIKey = fx.all[0].APIKey
		}
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 503, Times: 1})
		ran := fx.runAll("equal-keys")
		attempts := 0
		for _, result := range ran.Results {
			fx.wantOutcome(result, report.Rotated)
			attempts += result.Attempts
		}
		// The one whose read failed reads again, as does the next; the third shares.
		if reads := fx.countRequests(ibmcloudtest.OpSecretsGet); attempts != 4 || reads > 3 {
			t.Errorf("got %d attempts and %d key reads, want 4 and at most 3", attempts, reads)
		}
	})
}

func TestTwoRunsAtOnceAreHarmless(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		time.Sleep(50 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Delay: 3 * time.Second, Times: 1})
		results := make([]report.Result, 2)
		var both sync.WaitGroup
		for i, runID := range []string{"the-first-run", "the-second-run"} {
			process := fx.process(fx.cloud.Transport())
			both.Go(func() {
				results[i] = fx.runWithin(2*time.Minute, process, rotation.Request{Mode: rotation.ModeRotate, RunID: runID})
			})
		}
		both.Wait()
		for _, result := range results {
			fx.wantOutcome(result, report.Rotated)
		}
		fx.wantPublished(59 * time.Minute)
	})
}

// A run by force goes on: a person asked for it.
func TestARetryStopsWhenAnotherRunHasSavedMeanwhile(t *testing.T) {
	for force, want := range map[bool]report.Outcome{false: report.AlreadyDone, true: report.Rotated} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.rotate()
			time.Sleep(50 * time.Minute)
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 1, Headers: map[string]string{"Retry-After": "5"}})
			other := fx.process(fx.cloud.Transport())
			time.AfterFunc(2*time.Second, func() {
				fx.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"})
			})
			before := fx.versions()
			fx.wantOutcome(fx.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: force, RunID: "perhaps-by-force"}), want)
			fx.wantVersions(before + map[bool]int{false: 1, true: 2}[force])
		})
	}
}

func TestAWrongClockOfThisMachineIsAWarning(t *testing.T) {
	for _, skew := range []time.Duration{-10 * time.Minute, -5 * time.Minute, 5 * time.Minute} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.rotate()
			time.Sleep(61 * time.Minute) // by a slow clock it has not expired yet
			fx.skew.Store(int64(skew))
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 2})
			result := fx.run(rotation.ModeEnsure)
			fx.wantOutcome(result, report.Rotated)
			fx.wantPublished(59 * time.Minute)
			if len(result.Warnings) != 1 || *result.SecondsRemaining > 3600 {
				t.Errorf("%s: got warnings %q and %ds remaining, want one on the clock and at most an hour", skew, result.Warnings, *result.SecondsRemaining)
			}
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		})
	}
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		time.Sleep(2 * time.Minute)
		fx.skew.Store(int64(-2 * time.Minute)) // it is when it was
		if result := fx.rotate(); result.Duration > time.Second {
			t.Errorf("took %s after the clock was set back, want 1s at most", result.Duration)
		}
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

func TestNoMoreAttemptsRunAtOnceThanTheConcurrency(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{Rotations: 12}, func(fx *fixture) {
		fx.rotator.Concurrency = 3
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Delay: time.Second})
		began := time.Now()
		for _, result := range fx.runAll("three-at-once").Results {
			fx.wantOutcome(result, report.Rotated)
		}
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("12 rotations of a second took %s, want 4s: three at a time", took)
		}
	})
}

// stubborn is a key reader that does not heed its context.
type stubborn struct {
	rotation.KeyReader
	takes   time.Duration
	running atomic.Int32
	given   time.Duration // the time that the context left
}

func (s *stubborn) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	deadline, _ := ctx.Deadline()
	s.given = time.Until(deadline)
	time.Sleep(s.takes)
	return s.KeyReader.ReadKey(context.WithoutCancel(ctx), ref)
}

func TestARunEndsWithItsKeyReads(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		keys := &stubborn{KeyReader: fx.rotator.Keys, takes: 3 * time.Second}
		fx.rotator.Keys = keys
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 404})
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepLook, rotation.NotFound)
		if running := keys.running.Load(); running != 0 {
			t.Errorf("got %d key reads that still run after it, want none", running)
		}
		if keys.given != 10*time.Second {
			t.Errorf("a key read has %s, want the 10s of an attempt", keys.given)
		}
	})
}

// suspended is a process that is frozen: the wall clock moves on, no timer fires.
type suspended struct {
	rotation.Exchanger
	beforeExchange, afterExchange func()
}

func (s suspended) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	s.beforeExchange()
	defer s.afterExchange()
	return s.Exchanger.Exchange(ctx, key)
}

// Whatever a process knew before it was frozen for longer than its run may take is
// too old to go on with: the token, the metadata, the decision to save.
func TestAProcessThatWasFrozenSavesNothingOld(t *testing.T) {
	const afterExchange, beforeExchange, beforeSave = "after the exchange", "before the exchange", "before the save"
	for _, test := range []struct {
		at     string
		frozen time.Duration
		step   rotation.Step // of the failure; empty: success
	}{
		{afterExchange, time.Minute, ""}, {afterExchange, 121 * time.Second, rotation.StepSave}, {afterExchange, 25 * time.Minute, rotation.StepSave},
		{afterExchange, time.Hour, rotation.StepLook}, {beforeExchange, 41 * time.Minute, rotation.StepSave},
		{beforeSave, time.Minute, ""}, {beforeSave, 3 * time.Minute, rotation.StepLook}, {beforeSave, 54 * time.Minute, rotation.StepLook},
	} {
		t.Run(test.frozen.String()+" "+test.at, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.rotate()
				time.Sleep(50 * time.Minute)
				other := fx.process(fx.cloud.Transport())
				at := func(place string, also func()) func() {
					return func() {
						if place == test.at {
							fx.freeze(test.frozen)
							also()
						}
					}
				}
				fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, beforeSave: at(beforeSave, func() {})}
				beforeIt := at(beforeExchange, func() {
					fx.wantOutcome(fx.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"}), report.Rotated)
					fx.cloud.SetTokenTTL(45 * time.Minute) // ours would expire sooner now
				})
				fx.rotator.IAM = suspended{fx.rotator.IAM, beforeIt, at(afterExchange, func() {})}
				before := fx.versions()
				result := fx.run(rotation.ModeRotate)
				switch {
				case test.step == "":
					fx.wantOutcome(result, report.Rotated)
				case test.at == beforeExchange:
					fx.wantFailure(result, test.step, rotation.Timeout)
					fx.wantVersions(before + 1)
					fx.wantPublished(59 * time.Minute)
				default:
					fx.wantFailure(result, test.step, rotation.Timeout)
					fx.wantVersions(before)
				}
			})
		})
	}
}
