package rotation_test

import (
	"context"
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
)

func unixIn(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }

func TestALostAnswerOfASaveMakesNoSecondVersion(t *testing.T) {
	for name, test := range map[string]struct {
		fault    ibmcloudtest.Fault
		attempts int
	}{
		"before the save": {ibmcloudtest.Fault{Drop: ibmcloudtest.DropBefore}, 2},
		"after the save":  {ibmcloudtest.Fault{Drop: ibmcloudtest.DropAfter}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.rotate()
				time.Sleep(50 * time.Minute)
				test.fault.Op, test.fault.Times = ibmcloudtest.OpVersionsCreate, 1
				w.fault(test.fault)
				result := w.run(rotation.ModeRotate)
				w.wantOutcome(result, rotation.Rotated)
				w.wantVersions(3)
				if result.Attempts != test.attempts {
					t.Errorf("got %d attempts, want %d", result.Attempts, test.attempts)
				}
				if current := w.cloud.MustCurrent(w.one.Token.ID); result.VersionID != current.ID {
					t.Errorf("reported version %s, want %s", result.VersionID, current.ID)
				}
				if result.MarginSeconds == nil || *result.MarginSeconds < 590 {
					t.Errorf("got margin %v, want about 10 minutes", result.MarginSeconds)
				}
				w.wantPublished(59 * time.Minute)
			})
		})
	}
}

func TestASaveAnsweredWithNonsenseIsSettledByLooking(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		// The first save happens, but its answer is cut off on the way.
		w.rotator = w.process(truncating{w.cloud.Transport(), http.MethodPost, "/versions", 1, new(int)})
		result := w.run(rotation.ModeRotate)
		w.wantOutcome(result, rotation.Rotated)
		w.wantVersions(2)
		if result.Attempts != 2 {
			t.Errorf("got %d attempts, want 2", result.Attempts)
		}
	})
}

func TestATokenRefusedInMidPassIsRenewed(t *testing.T) {
	for _, op := range []string{ibmcloudtest.OpSecretsGet, ibmcloudtest.OpVersionsMetadata, ibmcloudtest.OpVersionsCreate} {
		t.Run(op, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				reads := 0
				w.rotator = w.processWithKey(w.cloud.Transport(), func(context.Context) (iamtoken.Secret, error) {
					reads++
					return iamtoken.NewSecret(w.cloud.BootstrapAPIKey()), nil
				})
				w.fault(ibmcloudtest.Fault{Op: op, Status: 401, Times: 1})
				result := w.rotate()
				w.wantVersions(2)
				if reads != 2 {
					t.Errorf("the bootstrap key was read %d times, want 2: it may have been replaced", reads)
				}
				if got := w.bootstrapExchanges(); got != 2 {
					t.Errorf("got %d bootstrap exchanges, want 2", got)
				}
				if result.Attempts != 2 {
					t.Errorf("got %d attempts, want 2", result.Attempts)
				}
			})
		})
	}
}

func TestABootstrapTokenIsReusedWhileItHasAmpleLife(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(30 * time.Minute)
		w.rotate()
		if got := w.bootstrapExchanges(); got != 1 {
			t.Errorf("got %d bootstrap exchanges in 30 minutes, want 1", got)
		}
		time.Sleep(11 * time.Minute)
		w.rotate()
		if got := w.bootstrapExchanges(); got != 2 {
			t.Errorf("got %d bootstrap exchanges in 41 minutes, want 2", got)
		}
	})
}

func (w *world) bootstrapExchanges() int {
	count := 0
	for _, request := range w.cloud.Requests() {
		if request.Op == ibmcloudtest.OpIAMToken && request.Identity == ibmcloudtest.IdentityBootstrap {
			count++
		}
	}
	return count
}

func TestAReplacedBootstrapKeyIsReadAfresh(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		key := w.cloud.BootstrapAPIKey()
		iamID, _, err := w.cloud.Validate(w.cloud.MustMintToken(key, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		w.rotator = w.processWithKey(w.cloud.Transport(), func(context.Context) (iamtoken.Secret, error) { return iamtoken.NewSecret(key), nil })
		w.rotate()
		time.Sleep(50 * time.Minute)
		replacement := w.cloud.MustCreateAPIKey(iamID)
		w.cloud.MustDeleteAPIKey(key)
		key = replacement
		result := w.run(rotation.ModeRotate)
		w.wantOutcome(result, rotation.Rotated)
		if result.Attempts != 2 {
			t.Errorf("got %d attempts, want 2: one with the old key, one with the new", result.Attempts)
		}
	})
}

func TestAnUnknownKeyIsTriedOnceMoreTwoSecondsLater(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.cloud.MustDeleteAPIKey(w.workload().APIKey)
		result := w.run(rotation.ModeRotate)
		w.wantFailure(result, rotation.StepExchange, rotation.Denied)
		if result.Attempts != 2 || result.Duration < 2*time.Second || result.Duration > 3*time.Second {
			t.Errorf("got %d attempts in %s, want 2 in 2s", result.Attempts, result.Duration)
		}
		if result.TransactionID == "" {
			t.Error("the failure names no IAM transaction")
		}
	})
}

func TestAKeyReplacedDuringThePassIsUsed(t *testing.T) {
	for _, mode := range []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.cloud.MustDeleteAPIKey(w.workload().APIKey)
			time.AfterFunc(time.Second, func() {
				w.cloud.MustPutVersion(w.one.APIKey.ID, w.cloud.MustCreateAPIKey(w.workload().IAMID), nil)
			})
			w.wantOutcome(w.run(mode), rotation.Rotated)
		})
	}
}

func TestRetryAfterIsHonouredUpToTenSeconds(t *testing.T) {
	for after, want := range map[string]time.Duration{"3600": 10 * time.Second, "7": 7 * time.Second} {
		t.Run(after, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 429, Times: 1, Headers: map[string]string{"Retry-After": after}})
				result := w.rotate()
				if result.Duration < want || result.Duration > want+time.Second {
					t.Errorf("took %s, want %s", result.Duration, want)
				}
			})
		})
	}
}

func TestAnOutageShorterThanTheRunIsSurvived(t *testing.T) {
	for _, op := range []string{ibmcloudtest.OpIAMToken, ibmcloudtest.OpAny} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.fault(ibmcloudtest.Fault{Op: op, Status: 503, ContentType: "text/html", Body: "<h1>503</h1>"})
			time.AfterFunc(time.Minute, w.cloud.ClearFaults)
			result := w.rotate()
			if result.Duration > 71*time.Second {
				t.Errorf("%s: took %s after an outage of 1m, want at most 10s more", op, result.Duration)
			}
			w.wantVersions(2)
		})
	}
}

func TestAnOutageLongerThanTheRunFailsInsideTheDeadline(t *testing.T) {
	for name, test := range map[string]struct {
		fault ibmcloudtest.Fault
		kind  rotation.Kind
	}{
		"503":     {ibmcloudtest.Fault{Status: 503}, rotation.Unavailable},
		"429":     {ibmcloudtest.Fault{Status: 429}, rotation.RateLimited},
		"dropped": {ibmcloudtest.Fault{Drop: ibmcloudtest.DropBefore}, rotation.Unavailable},
		"hanging": {ibmcloudtest.Fault{Delay: time.Hour}, rotation.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				test.fault.Op = ibmcloudtest.OpVersionsMetadata
				w.fault(test.fault)
				result := w.run(rotation.ModeRotate)
				w.wantFailure(result, rotation.StepLook, test.kind)
				if result.Duration > 115*time.Second || result.Duration < 90*time.Second {
					t.Errorf("gave up after %s, want between 90s and the deadline of 2m less 5s", result.Duration)
				}
				if result.Attempts < 5 {
					t.Errorf("got %d attempts, want more", result.Attempts)
				}
			})
		})
	}
}

func TestADeadlineNearerThanOneAttemptIsKept(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Delay: 8 * time.Second})
		result := w.runWithin(3*time.Second, w.rotator, rotation.Request{Mode: rotation.ModeRotate, RunID: "in-a-hurry"})
		w.wantFailure(result, rotation.StepReadKey, rotation.Timeout)
		if want := 2700 * time.Millisecond; result.Duration > want {
			t.Errorf("took %s, want at most %s: a tenth of the deadline is kept", result.Duration, want)
		}
		w.wantVersions(1)
	})
}

func TestASlowAttemptIsCutAtTenSeconds(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Delay: time.Minute, Times: 1})
		result := w.rotate()
		if result.Attempts != 2 || result.Duration > 11*time.Second {
			t.Errorf("got %d attempts in %s, want 2 in about 10s", result.Attempts, result.Duration)
		}
	})
}

func TestTwoRunsAtOnceAreHarmless(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(50 * time.Minute)
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Delay: 3 * time.Second, Times: 1})
		results := make([]rotation.Result, 2)
		var both sync.WaitGroup
		for i, runID := range []string{"the-first-run", "the-second-run"} {
			process := w.process(w.cloud.Transport())
			both.Go(func() {
				results[i] = w.runWithin(2*time.Minute, process, rotation.Request{Mode: rotation.ModeRotate, RunID: runID})
			})
		}
		both.Wait()
		for _, result := range results {
			w.wantOutcome(result, rotation.Rotated)
		}
		w.wantPublished(59 * time.Minute)
	})
}

func TestARetryStopsWhenAnotherRunHasPublishedMeanwhile(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(50 * time.Minute)
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 1, Headers: map[string]string{"Retry-After": "5"}})
		other := w.process(w.cloud.Transport())
		time.AfterFunc(2*time.Second, func() {
			w.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"})
		})
		w.wantOutcome(w.run(rotation.ModeRotate), rotation.AlreadyDone)
		w.wantVersions(3)
	})
}

func TestAClockOffByFiveMinutesIsSurvivedWithAWarning(t *testing.T) {
	for _, skew := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.skew.Store(int64(skew))
			result := w.rotate()
			w.wantPublished(59 * time.Minute)
			if len(result.Warnings) != 1 {
				t.Errorf("skew %s: got warnings %q, want one on the clock", skew, result.Warnings)
			}
			w.wantOutcome(w.run(rotation.ModeEnsure), rotation.Fresh)
		})
	}
}

func TestACancelledRunEndsAtOnce(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Delay: time.Hour})
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		report := w.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "cancelled"}, w.all)
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %s, want 1s", took)
		}
		if report.Results[0].Outcome != rotation.Failed {
			t.Errorf("got outcome %s, want failed", report.Results[0].Outcome)
		}
	})
}

func TestTheReportWarnsOfABootstrapKeyThatExpiresSoon(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotator.BootstrapExpiresAt = time.Now().Add(15 * 24 * time.Hour)
		if result := w.rotate(); len(result.Warnings) != 0 {
			t.Errorf("15 days before: got warnings %q, want none", result.Warnings)
		}
		time.Sleep(25 * time.Hour)
		if result := w.rotate(); len(result.Warnings) != 1 {
			t.Errorf("13 days before: got warnings %q, want one", result.Warnings)
		}
		time.Sleep(14 * 24 * time.Hour)
		want := "the bootstrap API key has been expired since " + w.rotator.BootstrapExpiresAt.UTC().Format(time.RFC3339)
		if result := w.rotate(); len(result.Warnings) != 1 || !strings.HasPrefix(result.Warnings[0], want) {
			t.Errorf("the day after: got warnings %q, want %q", result.Warnings, want)
		}
	})
}

// truncating cuts off the answers to the first few requests that match, after
// the service has done its work.
type truncating struct {
	http.RoundTripper
	method, suffix string
	times          int
	seen           *int
}

func (c truncating) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := c.RoundTripper.RoundTrip(req)
	if err == nil && req.Method == c.method && len(req.URL.Path) > len(c.suffix) && req.URL.Path[len(req.URL.Path)-len(c.suffix):] == c.suffix && *c.seen < c.times {
		*c.seen++
		_ = response.Body.Close()
		response.Body = http.NoBody
	}
	return response, err
}

func TestASlowClockDoesNotMakeAnExpiredTokenFresh(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(61 * time.Minute)
		w.skew.Store(int64(-10 * time.Minute))
		result := w.run(rotation.ModeEnsure)
		w.wantOutcome(result, rotation.Rotated)
		if len(result.Warnings) != 1 || *result.SecondsRemaining > 3600 {
			t.Errorf("got warnings %q and %ds remaining, want one warning on the clock and at most an hour", result.Warnings, *result.SecondsRemaining)
		}
	})
}

func TestEveryKeyThatIsRefusedIsTriedOnceMore(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 401, Times: 1})
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 400, Times: 1})
		if result := w.rotate(); result.Attempts != 3 {
			t.Errorf("got %d attempts, want 3", result.Attempts)
		}
	})
}

func TestAGapOfLessThanASecondIsNegative(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(time.Hour + 100*time.Millisecond)
		if result := w.rotate(); result.MarginSeconds == nil || *result.MarginSeconds != -1 {
			t.Errorf("got margin %v, want -1: readers saw a gap", result.MarginSeconds)
		}
	})
}

func TestAFailedKeyReadIsNotShared(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{Rotations: 3}, func(w *world) {
		w.rotator.Concurrency = 1
		for i := range w.all {
			w.all[i].APIKey = w.all[0].APIKey
		}
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 503, Times: 1})
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		report := w.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "equal-keys"}, w.all)
		attempts := 0
		for _, result := range report.Results {
			w.wantOutcome(result, rotation.Rotated)
			attempts += result.Attempts
		}
		// The one whose read failed reads again, as does the next; the third shares.
		if reads := w.countRequests(ibmcloudtest.OpSecretsGet); attempts != 4 || reads > 3 {
			t.Errorf("got %d attempts and %d key reads, want 4 and at most 3", attempts, reads)
		}
	})
}

func TestForceGoesOnWhenAnotherRunHasPublishedMeanwhile(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 1, Headers: map[string]string{"Retry-After": "5"}})
		other := w.process(w.cloud.Transport())
		time.AfterFunc(2*time.Second, func() {
			w.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"})
		})
		w.wantOutcome(w.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: true, RunID: "by-force-1"}), rotation.Rotated)
		w.wantVersions(4)
	})
}

func TestAnInterruptedRunSaysSo(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Delay: time.Hour})
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		result := w.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "interrupted"}, w.all).Results[0]
		if result.Error == nil || result.Error.Kind != rotation.Timeout || !strings.Contains(result.Error.Message, "interrupted") {
			t.Errorf("got %v, want a timeout that says interrupted", result.Error)
		}
	})
}

func TestNoMoreAttemptsRunAtOnceThanTheConcurrency(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{Rotations: 12}, func(w *world) {
		w.rotator.Concurrency = 3
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Delay: time.Second})
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for _, result := range w.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "three-at-once"}, w.all).Results {
			w.wantOutcome(result, rotation.Rotated)
		}
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("12 rotations of a second took %s, want 4s: three at a time", took)
		}
	})
}

// The back-off is 300 ms, doubled each time, spread from half to one and a half.
func TestRetriesAreSpread(t *testing.T) {
	for random, want := range map[float64]time.Duration{0: 450 * time.Millisecond, 0.5: 900 * time.Millisecond, 1: 1350 * time.Millisecond} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.rotator.Random = func() float64 { return random }
			w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 2})
			if got := w.rotate().Duration; got != want {
				t.Errorf("at %v: two retries took %s, want %s", random, got, want)
			}
		})
	}
}

func TestAWarningIsGivenOnce(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.skew.Store(int64(5 * time.Minute))
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 2})
		if got := w.rotate().Warnings; len(got) != 1 {
			t.Errorf("after three attempts: got warnings %q, want one on the clock", got)
		}
	})
}

func TestTheLastAttemptTellsWhy(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 503, Times: 1})
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 404})
		w.wantFailure(w.run(rotation.ModeRotate), rotation.StepLook, rotation.NotFound)
	})
}

// A replaced bootstrap key may be of another identity, and the old one without
// its rights: that is a 403, after which a warm process must not go on with it for
// good. But one rotation's 403 must not take the token from the others, nor the key
// while the place it is read from is out of reach.
func TestTheBootstrapKeyIsReadAfreshAfterA403(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		reads, away := 0, false
		w.rotator = w.processWithKey(w.cloud.Transport(), func(ctx context.Context) (iamtoken.Secret, error) {
			if reads++; away {
				<-ctx.Done() // the worst way to be away
				return iamtoken.Secret{}, &rotation.Error{Kind: rotation.Unavailable}
			}
			return iamtoken.NewSecret(w.cloud.BootstrapAPIKey()), nil
		})
		want := func(when string, wantReads, wantExchanges int) {
			t.Helper()
			if got := w.bootstrapExchanges(); reads != wantReads || got != wantExchanges {
				t.Errorf("%s: got %d reads of the bootstrap key and %d exchanges, want %d and %d", when, reads, got, wantReads, wantExchanges)
			}
		}
		w.rotate()
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 403, Times: 1})
		w.wantFailure(w.run(rotation.ModeEnsure), rotation.StepLook, rotation.Denied)
		w.wantOutcome(w.run(rotation.ModeEnsure), rotation.Fresh)
		want("while the token lives", 1, 1)
		away = true
		time.Sleep(41 * time.Minute)
		result := w.run(rotation.ModeEnsure)
		w.wantOutcome(result, rotation.Fresh)
		if result.Attempts != 1 {
			t.Errorf("got %d attempts with the source away, want 1", result.Attempts)
		}
		want("with the source away", 2, 2)
		away = false
		time.Sleep(41 * time.Minute)
		w.rotate()
		want("with the source back", 3, 3)
		time.Sleep(41 * time.Minute)
		w.rotate()
		want("when all is well again", 3, 4)
	})
}

// The margin is measured when the version was made, not when that became known.
func TestTheMarginIsThatOfTheSave(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(50 * time.Minute)
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Drop: ibmcloudtest.DropAfter, Delay: 5 * time.Second, Times: 1})
		if got := w.rotate().MarginSeconds; got == nil || *got != 600 {
			t.Errorf("got margin %v, want 600", got)
		}
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 412})
		if got := w.run(rotation.ModeRotate).MarginSeconds; got != nil {
			t.Errorf("got margin %d of a run that published nothing, want none", *got)
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
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		keys := &stubborn{KeyReader: w.rotator.Keys, takes: 3 * time.Second}
		w.rotator.Keys = keys
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 404})
		w.wantFailure(w.run(rotation.ModeRotate), rotation.StepLook, rotation.NotFound)
		if running := keys.running.Load(); running != 0 {
			t.Errorf("got %d key reads that outlive the run, want none", running)
		}
		if keys.given != 10*time.Second {
			t.Errorf("a key read has %s, want the 10s of an attempt", keys.given)
		}
	})
}

// freezing is an exchanger whose process is suspended after the exchange: the
// wall clock moves on, no timer fires.
type freezing struct {
	rotation.Exchanger
	freeze func()
}

func (f freezing) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	exchanged, err := f.Exchanger.Exchange(ctx, key)
	f.freeze()
	return exchanged, err
}

func TestATokenExchangedBeforeTheProcessWasFrozenIsNotPublished(t *testing.T) {
	for _, frozen := range []time.Duration{121 * time.Second, 25 * time.Minute} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.rotator.IAM = freezing{w.rotator.IAM, func() { w.freeze(frozen) }}
			w.wantFailure(w.run(rotation.ModeRotate), rotation.StepSave, rotation.Timeout)
			w.wantVersions(1)
		})
	}
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotator.IAM = freezing{w.rotator.IAM, func() { w.freeze(time.Hour) }}
		result := w.run(rotation.ModeRotate)
		if result.Outcome != rotation.Failed || w.versions() != 1 {
			t.Errorf("got outcome %s and %d versions, want a failure and nothing published", result.Outcome, w.versions())
		}
	})
}

// thawing is an exchanger before which the process is suspended: the token it
// gets is fresh, what the look found is not.
type thawing struct {
	rotation.Exchanger
	freeze func()
}

func (f thawing) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	f.freeze()
	return f.Exchanger.Exchange(ctx, key)
}

func TestALookBeforeTheProcessWasFrozenDoesNotCountAfterwards(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(50 * time.Minute)
		other := w.process(w.cloud.Transport())
		w.rotator.IAM = thawing{w.rotator.IAM, func() {
			w.freeze(41 * time.Minute)
			published := w.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"})
			w.wantOutcome(published, rotation.Rotated)
			w.cloud.SetTokenTTL(45 * time.Minute) // ours would take life from readers now
		}}
		w.wantFailure(w.run(rotation.ModeRotate), rotation.StepSave, rotation.Timeout)
		w.wantVersions(3)
		w.wantPublished(59 * time.Minute)
	})
}

// freezingStore is a store before which the process is suspended: it has decided
// to save, and the request has not left yet.
type freezingStore struct {
	rotation.TokenStore
	freeze func()
}

func (f freezingStore) Save(ctx context.Context, ref rotation.TokenRef, stored rotation.CurrentVersion, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	f.freeze()
	return f.TokenStore.Save(ctx, ref, stored, token, metadata)
}

func TestASaveDecidedBeforeTheProcessWasFrozenDoesNotLeave(t *testing.T) {
	for frozen, want := range map[time.Duration]rotation.Outcome{
		time.Minute: rotation.Rotated, 3 * time.Minute: rotation.Failed, 54 * time.Minute: rotation.Failed,
	} {
		t.Run(frozen.String(), func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.rotate()
				w.rotator.Tokens = freezingStore{w.rotator.Tokens, func() { w.freeze(frozen) }}
				result := w.run(rotation.ModeRotate)
				w.wantOutcome(result, want)
				if want == rotation.Failed {
					w.wantFailure(result, rotation.StepLook, rotation.Timeout)
					w.wantVersions(2)
				}
			})
		})
	}
}
