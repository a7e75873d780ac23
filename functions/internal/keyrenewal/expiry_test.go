package keyrenewal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

func TestHowEarlyAnExpiryIsAWarning(t *testing.T) {
	for name, test := range map[string]struct {
		ttl, interval, notice time.Duration
		managed               bool
	}{
		"made by a person":          {0, 0, 14 * day, false},
		"never rotated":             {45 * day, 0, 14 * day, false},
		"45 days, every 15":         {45 * day, 15 * day, 27 * day, true},
		"90 days, every month":      {90 * day, 31 * day, 56 * day, true},
		"7 days, every 3":           {7 * day, 3 * day, 2 * day, true},
		"2 days, every day":         {2 * day, day, day / 2, true},
		"no time between the two":   {15 * day, 15 * day, 14 * day, false},
		"an answer that is no good": {0, 15 * day, 14 * day, false},
	} {
		got := ExpiryOf(rotation.KeySecret{TTL: test.ttl, Interval: test.interval})
		if got.Notice != test.notice || got.Managed != test.managed {
			t.Errorf("%s: got %+v, want %s, managed %t", name, got, test.notice, test.managed)
		}
	}
}

// fakeIBM has a secret, and the dates at which keys expire. It answers 403 for a key without a date.
type fakeIBM struct {
	secret  rotation.KeySecret
	expires map[string]time.Time // by key; "bootstrap" is the bootstrap identity's

	mu    sync.Mutex
	asked int
}

func (f *fakeIBM) ReadCurrentKey(context.Context, rotation.KeyRef) (rotation.KeySecret, error) {
	return f.secret, nil
}
func (f *fakeIBM) Prepare(context.Context) {}
func (f *fakeIBM) Exchange(_ context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	return rotation.TokenResponse{Token: iamtoken.Token{Value: iamtoken.NewSecret("token of " + key.Reveal())}}, nil
}
func (f *fakeIBM) KeyExpiry(_ context.Context, key, token iamtoken.Secret) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	at, known := f.expires[key.Reveal()]
	if !known || token.Reveal() != "token of "+key.Reveal() {
		return time.Time{}, errors.New("403")
	}
	return at, nil
}

type fakeBootstrap struct{ *fakeIBM }

func (f fakeBootstrap) KeyExpiry(ctx context.Context) (time.Time, error) {
	return f.fakeIBM.KeyExpiry(ctx, iamtoken.NewSecret("bootstrap"), iamtoken.NewSecret("token of bootstrap"))
}

// watched reads and exchanges the key of one rotation, as a run does, and returns the result.
func watched(t *testing.T, w *Watch, exchange bool, renewal *report.KeyRenewal) report.Result {
	t.Helper()
	run := w.Begin(t.Context())
	rotations, results := []rotation.Rotation{{APIKey: rotation.KeyRef{ID: "a"}}}, []report.Result{{}}
	if exchange {
		key, err := run.ReadKey(t.Context(), rotations[0].APIKey)
		if err == nil {
			_, err = run.Exchange(t.Context(), key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run.End(rotations, results, renewal)
	return results[0]
}

func TestWhenKeysExpireIsInTheResults(t *testing.T) {
	in := func(days int) time.Time { return start.Add(time.Duration(days) * day) }
	managed := rotation.KeySecret{SecretDescription: rotation.SecretDescription{ExpiresAt: in(26)}, TTL: 45 * day, Interval: 15 * day}
	for name, test := range map[string]struct {
		secret     rotation.KeySecret
		expires    map[string]time.Time
		configured time.Time
		renewal    *report.KeyRenewal
		at         time.Time
		warnings   []string
	}{
		"nothing is known":     {},
		"neither ever expires": {expires: map[string]time.Time{"key": {}, "bootstrap": {}}, configured: in(3)},
		"both from IAM": {expires: map[string]time.Time{"key": in(13), "bootstrap": in(12)}, at: in(12),
			warnings: []string{"the bootstrap API key expires 2026-01-13", "the API key expires 2026-01-14"}},
		"the workload's is sooner": {expires: map[string]time.Time{"key": in(15), "bootstrap": in(80)}, at: in(15)},
		"its secret's is sooner": {secret: rotation.KeySecret{SecretDescription: rotation.SecretDescription{ExpiresAt: in(2)}},
			expires: map[string]time.Time{"key": in(15)}, at: in(2), warnings: []string{"the API key expires 2026-01-03"}},
		"the configured date": {configured: in(-1), at: in(-1), warnings: []string{"the bootstrap API key has been expired since 2025-12-31"}},
		"IAM's date counts":   {expires: map[string]time.Time{"bootstrap": in(30)}, configured: in(1), at: in(30)},
		"IBM is late": {secret: managed, at: in(26),
			warnings: []string{"the API key expires 2026-01-27T00:00:00Z: IBM's Secrets Manager should have rotated it"}},
		"the renewal's": {secret: managed, renewal: &report.KeyRenewal{ExpiresAt: &start, DaysLeft: 1, Expiring: true},
			at: in(1), warnings: []string{"the API key expires"}},
		"the renewal's is unknown": {expires: map[string]time.Time{"key": in(80)}, renewal: &report.KeyRenewal{Error: &report.Error{}}},
	} {
		t.Run(name, func(t *testing.T) {
			test.secret.Key = iamtoken.NewSecret("key")
			ibm := &fakeIBM{secret: test.secret, expires: test.expires}
			w := &Watch{Keys: ibm, IAM: ibm, Bootstrap: fakeBootstrap{ibm}, BootstrapExpiresAt: test.configured,
				Now: func() time.Time { return start }}
			got := watched(t, w, true, test.renewal)
			if known := got.KeyDaysLeft != nil; known == test.at.IsZero() || known && *got.KeyDaysLeft != test.at.Sub(start).Hours()/24 ||
				len(got.Warnings) != len(test.warnings) || got.KeyExpiring != (len(test.warnings) > 0) {
				t.Fatalf("got %v, expiring %t, %q; want %s and %d warnings", got.KeyDaysLeft, got.KeyExpiring, got.Warnings, test.at,
					len(test.warnings))
			}
			for i, warning := range got.Warnings {
				if !strings.HasPrefix(warning, test.warnings[i]) {
					t.Errorf("got %q, want %q", warning, test.warnings[i])
				}
			}
		})
	}
}

// IAM is asked once a day for each key, not by a young process, not in a run that made no
// token, and never about a key that Secrets Manager renews.
func TestIAMIsAskedOnceADay(t *testing.T) {
	ibm := &fakeIBM{secret: rotation.KeySecret{Key: iamtoken.NewSecret("key")}, expires: map[string]time.Time{"key": start.Add(90 * day)}}
	now := start
	w := &Watch{Keys: ibm, IAM: ibm, Bootstrap: fakeBootstrap{ibm}, Since: start.Add(time.Hour), Now: func() time.Time { return now }}
	asked := func(after time.Duration, exchange bool, want int) {
		t.Helper()
		now, ibm.asked = start.Add(after), 0
		if watched(t, w, exchange, nil); ibm.asked != want {
			t.Errorf("after %s: asked %d times, want %d", after, ibm.asked, want)
		}
	}
	asked(0, true, 0)
	asked(time.Hour, false, 0)
	asked(time.Hour, true, 2)
	asked(2*time.Hour, true, 0)
	ibm.secret.Key = iamtoken.NewSecret("another") // it was replaced
	asked(3*time.Hour, true, 1)
	asked(25*time.Hour, true, 1) // the bootstrap's
	ibm.secret.TTL, ibm.secret.Interval = 45*day, 15*day
	asked(48*time.Hour, true, 0)
	if got := watched(t, w, true, nil); got.KeyDaysLeft != nil {
		t.Errorf("got %f, of a key that is no more", *got.KeyDaysLeft)
	}
}

// A run looks up no more than maxLookUps keys.
func TestARunAsksAboutFewKeys(t *testing.T) {
	ibm := &fakeIBM{}
	run := (&Watch{Keys: ibm, IAM: ibm, Now: func() time.Time { return start }}).Begin(t.Context())
	for i := range 3 * maxLookUps {
		if _, err := run.Exchange(t.Context(), iamtoken.NewSecret(fmt.Sprint("key ", i))); err != nil {
			t.Fatal(err)
		}
	}
	run.End(nil, nil, nil)
	if ibm.asked != maxLookUps {
		t.Errorf("asked %d times, want %d", ibm.asked, maxLookUps)
	}
}
