package rotation_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
)

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
