package ibmcloud

import (
	"strings"
	"testing"
	"time"

	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
)

func TestOnlyAnIDIsRepeated(t *testing.T) {
	const id = "ApiKey-3c9f1b5e-6d0a-4f0c-8a63-0d2f6f1f2b7a"
	for text, same := range map[string]bool{"": true, id: true, "a-key-in-place-of-an-id": false, "ApiKey-\x1b[2J": false, id + "0": false, strings.Repeat("x", 1000): false} {
		if got := keyIDOf(text); (got == text) != same || !same && len(got) != 32 || got != keyIDOf(text) {
			t.Errorf("an id of %d characters: got %q, want it repeated: %t", len(text), got, same)
		}
	}
}

// IBM writes a ttl as it was given.
func TestLifetimesAndRules(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{"1080h": 45 * day, "3888000": 45 * day, "3888000s": 45 * day, "": 0, "45 days": 0, "-1h": 0, "99999999999999": 0} {
		if got := ttlOf(text); got != want {
			t.Errorf("ttl %q: got %s, want %s", text, got, want)
		}
	}
	yes, no, fifteen, huge, negative, d, m, w := true, false, int64(15), int64(1<<62), int64(-1), "day", "month", "week"
	for _, test := range []struct {
		rule sm.RotationPolicyIntf
		want time.Duration
	}{
		{nil, 0},
		{(*sm.RotationPolicy)(nil), 0},
		{&sm.RotationPolicy{}, 0},
		{&sm.RotationPolicy{AutoRotate: &no, Interval: &fifteen, Unit: &d}, 0},
		{&sm.RotationPolicy{AutoRotate: &yes}, 0},
		{&sm.RotationPolicy{AutoRotate: &yes, Interval: &fifteen, Unit: &d}, 15 * day},
		{&sm.RotationPolicy{AutoRotate: &yes, Interval: &fifteen, Unit: &m}, 15 * 31 * day},
		{&sm.RotationPolicy{AutoRotate: &yes, Interval: &fifteen, Unit: &w}, 0},
		{&sm.RotationPolicy{AutoRotate: &yes, Interval: &negative, Unit: &d}, 0},
		{&sm.RotationPolicy{AutoRotate: &yes, Interval: &huge, Unit: &d}, 1000 * day},
	} {
		if got := intervalOf(test.rule); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}
