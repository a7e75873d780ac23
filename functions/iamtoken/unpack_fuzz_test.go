package iamtoken

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Whatever stands in a secret: what a reader gets is one bare token that can go
// into a header, or an error that repeats nothing of it.
func FuzzPayload(f *testing.F) {
	for _, seed := range []string{
		"", "no token yet", "abc", "Bearer abc", "bearer  abc\n", "Bearer", "Bearer Bearer abc", `{"access_token":"abc","expiration":1}`,
		`{"access_token":{"access_token":"abc"}}`, `{"iam_token":"Bearer abc"}`, `{"other":"abc"}`, `{"a":"b","c":"d"}`, `{`, `{"access_token":"{\"access_token\":\"abc\"}"}`, "a\r\nX-Evil: b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		token, _, err := unpack(payload)
		if err != nil {
			if !errors.Is(err, ErrNoToken) || len(payload) > 40 && strings.Contains(err.Error(), payload) {
				t.Errorf("got the error %v", err)
			}
			return
		}
		if CheckForm(token) != nil {
			t.Errorf("got a token of %d characters that cannot be one", len(token))
		}
		if again, _, err := unpack("Bearer " + token); err != nil || again != token {
			t.Errorf("the token does not survive being stored once more: %v", err)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add(int64(4102444800), "iam-ServiceId-1", "0123456789abcdef0123456789abcdef", "0123456789abcdef", "run-12345678", int64(0))
	f.Add(int64(-1), "", "", "not a fingerprint", "", int64(1767261600))
	f.Add(int64(9223372036854775807), "x", "y", "", "\x00", int64(-62135596800))
	f.Fuzz(func(t *testing.T, expiration int64, iamID, account, fingerprint, runID string, created int64) {
		m := Metadata{Expiration: expiration, IAMID: iamID, Account: account, Fingerprint: fingerprint, RunID: runID}
		parsed, err := ParseMetadata(m.Map())
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if parsed.Expiration != expiration || parsed.Fingerprint != "" && parsed.Fingerprint != fingerprint {
			t.Errorf("got %+v, want %+v", parsed, m)
		}
		createdAt := time.Unix(created%4102444800, 0)
		if parsed.ExpiresAt(createdAt).After(createdAt.Add(MaxLife)) {
			t.Errorf("an expiry at %s is believed of a version made %s", parsed.ExpiresAt(createdAt), createdAt)
		}
	})
}
