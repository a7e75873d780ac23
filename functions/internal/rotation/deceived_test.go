package rotation_test

import (
	"encoding/base64"
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

// A signature of a kind that the library does not know hides nobody.
func TestAnUnknownAlgorithmHidesNoIdentity(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		w.answerWith(jwt("ML-DSA-65", "iam-ServiceId-somebody-else", w.cloud.AccountID(), 0, time.Hour), "3600", time.Hour)
		w.wantOutcome(w.run(rotation.ModeRotate), rotation.Failed)
	})
}

func jwt(algorithm, iamID, account string, issued, expires time.Duration) string {
	header := `{"alg":"` + algorithm + `"}`
	claims := `{"iam_id":"` + iamID + `","account":{"bss":"` + account + `"},"iat":` + unixIn(issued) + `,"exp":` + unixIn(expires) + `}`
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func (w *world) answerWith(token, expiresIn string, expires time.Duration) {
	w.t.Helper()
	w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200,
		Body: `{"access_token":"` + token + `","token_type":"Bearer","expires_in":` + expiresIn + `,"expiration":` + unixIn(expires) + `}`})
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
