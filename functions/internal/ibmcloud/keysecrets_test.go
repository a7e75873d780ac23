package ibmcloud

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
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
	for body, want := range map[string]time.Duration{
		`{}`: 0, `null`: 0, `{"auto_rotate":false,"interval":15,"unit":"day"}`: 0, `{"auto_rotate":true}`: 0,
		`{"auto_rotate":true,"interval":15,"unit":"day"}`:                  15 * day,
		`{"auto_rotate":true,"interval":15,"unit":"month"}`:                15 * 31 * day,
		`{"auto_rotate":true,"interval":15,"unit":"week"}`:                 0,
		`{"auto_rotate":true,"interval":-1,"unit":"day"}`:                  0,
		`{"auto_rotate":true,"interval":4611686018427387904,"unit":"day"}`: 1000 * day,
	} {
		var r rule
		if err := json.Unmarshal([]byte(body), &r); err != nil || r.every() != want {
			t.Errorf("%s: got %s (%v), want %s", body, r.every(), err, want)
		}
	}
}
