package rotation_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
)

// Of two hosts that disagree on the time, the one that answered last counts.
func TestAWrongClockOfOneHostDoesNotOutvoteTheOther(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(50 * time.Minute)
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Headers: dated(40 * time.Minute)})
		w.rotate()
	})
}

func TestAnAgeingTokenUnderAnOldClockIsNotPublished(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Headers: dated(-59 * time.Minute)})
		w.ageingToken(30 * time.Second)
		w.wantOutcome(w.run(rotation.ModeRotate), rotation.Failed)
	})
}

// dated is the Date header of a clock that is off.
func dated(off time.Duration) map[string]string {
	return map[string]string{"Date": time.Now().Add(off).UTC().Format(http.TimeFormat)}
}

// frozenReading is a process that is frozen once, with an answer on its way to it.
type frozenReading struct {
	base http.RoundTripper
	path string
	thaw func()
}

func (f *frozenReading) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := f.base.RoundTrip(req)
	if strings.Contains(req.URL.Path, f.path) && f.thaw != nil {
		f.thaw()
		f.thaw = nil
	}
	return response, err
}

// An answer that was read long after it came says nothing of the clock.
func TestAnAnswerReadAfterAFreezeDoesNotMakeADeadTokenFresh(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		w.rotator = w.process(&frozenReading{w.cloud.Transport(), "/versions/current/metadata", func() { w.skew.Add(int64(90 * time.Minute)) }})
		if got := w.run(rotation.ModeEnsure); got.Outcome == rotation.Fresh {
			t.Errorf("got %s with %d s left of a token that is dead for half an hour", got.Outcome, *got.SecondsRemaining)
		}
	})
}

// An old token, of which IAM tells only what is left, is an old token.
func TestAnOldTokenThatCountsFromNowIsNotPublished(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(50 * time.Minute)
		w.answerWith(jwt("RS256", w.workload().IAMID, w.cloud.AccountID(), -49*time.Minute, 11*time.Minute), "660", 11*time.Minute)
		w.wantOutcome(w.run(rotation.ModeRotate), rotation.Failed)
	})
}

func TestTheFieldOfAKeySecretIsNotRepeated(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		const pasted = "hV9cJk3l-0aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
		id := w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Name: "kvkey", Data: map[string]any{"apikey": "x"}})
		w.one.APIKey = rotation.KeyRef{ID: id, Field: pasted}
		got := w.run(rotation.ModeRotate)
		if got.Error == nil || strings.Contains(got.Error.Message, pasted) {
			t.Errorf("got %v, want a failure that does not repeat what may be the key", got.Error)
		}
	})
}

// staleStore answers the second look with what was stored before the first.
type staleStore struct {
	rotation.TokenStore
	before rotation.Stored
	looks  int
}

func (s *staleStore) Look(ctx context.Context, ref rotation.TokenRef) (rotation.Stored, error) {
	if s.looks++; s.looks == 2 {
		return s.before, nil
	}
	return s.TokenStore.Look(ctx, ref)
}

func TestAnOlderVersionAtTheSecondLookIsNobodysWork(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		before, err := w.rotator.Tokens.Look(context.Background(), w.one.Token)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		w.rotate()
		w.rotator.Tokens = &staleStore{TokenStore: w.rotator.Tokens, before: before}
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 1})
		w.rotate()
	})
}

// Only a version's id passes for one: it is logged.
func TestASaveAnsweredWithAnotherIDIsSettledByLooking(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 201, Times: 1,
			Body: `{"id":"canary","secret_type":"arbitrary","created_at":"2026-01-01T00:00:00Z"}`})
		if result := w.rotate(); result.Attempts != 2 || result.VersionID == "canary" {
			t.Errorf("got version %s after %d attempts, want a true one after 2", result.VersionID, result.Attempts)
		}
	})
}
