package iamtoken

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
)

// marked is part of what is fuzzed. No error may contain it.
const marked = "CANARY"

// From any payload a reader gets one bare token that can go into a header, or an error that
// repeats nothing of the payload.
func FuzzPayload(f *testing.F) {
	const token = "CANARY-an-opaque-token-0123456789-abcdef"
	for _, seed := range []string{
		"", "no token yet", token, "Bearer " + token, "bearer  " + token + "\n", "Bearer", "Bearer Bearer " + token, `{"access_token":"` + token + `","expiration":1}`,
		`{"access_token":{"access_token":"` + token + `"}}`, `{"iam_token":"Bearer ` + token + `"}`, `{"other":"` + token + `"}`, `{"a":"b","c":"d"}`, `{`,
		`{"iam_token":"{\"access_token\":\"` + token + `\"}"}`, token + "\r\nX-Evil: b", "e30.eyJleHAiOjE3NjcyNjUyMDB9.CANARY", `{"CANARY":1}`,
		"0  ", "0    ", "!", "B!", "0000AaAAaaa", "0\xa0\xc8", "BeArer \xff\x80", `{""`, `{"":A`, "{\r0",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		token, _, err := unpack(payload)
		if err != nil {
			if !errors.Is(err, ErrNoToken) || strings.Contains(err.Error(), marked) {
				t.Errorf("got the error %v", err)
			}
			return
		}
		if CheckForm(token) != nil {
			t.Errorf("got a token of %d characters that cannot be one", len(token))
		}
		if again, _, err := unpack("Bearer " + token); err != nil || again != token {
			t.Errorf("the token cannot be read after it is stored once more: %v", err)
		}
	})
}

// From any answer of IAM or Secrets Manager a reader gets a token, or an error that repeats
// nothing of the answer.
func FuzzAnswer(f *testing.F) {
	const token = "CANARY-an-opaque-token-0123456789-abcdef"
	for _, seed := range []string{
		`{"access_token":"` + token + `","expires_in":3600,"token_type":"Bearer"}`, `{"access_token":"` + token + `","expires_in":9223372036854775807}`,
		`{"secret_type":"arbitrary","created_at":"2026-01-01T10:00:00Z","payload":"` + token + `","version_custom_metadata":{"expiration":1767265200}}`,
		`{"secret_type":"kv","created_at":"2026-01-01T10:00:00Z","data":{"iam_token":"Bearer ` + token + `"},"version_custom_metadata":{"expiration":"CANARY"}}`,
		`{"secret_type":"arbitrary","payload":"e30.eyJleHAiOjE3NjcyNjUyMDB9.CANARYCANARYCANARYCANARY"}`, `{"secret_type":"iam_credentials","api_key":"CANARY"}`,
		`{"secret_type":"arbitrary","payload":"the-readers-own-key-CANARY-0123456789"}`, `{"access_token":"the-readers-own-key-CANARY-0123456789"}`,
		`{"secret_type":"kv","data":"CANARY"}`, `{"created_at":"CANARY"}`, `{"errors":[{"code":"CANARY"}]}`, "<html>CANARY", "[", "null", "",
	} {
		f.Add([]byte(seed), int64(1767261600))
	}
	store := &SecretsManager{APIKey: NewSecret("the-readers-own-key-CANARY-0123456789")}
	f.Fuzz(func(t *testing.T, body []byte, date int64) {
		got := response{service: "IAM", status: 200, body: body, date: epoch(date)}
		access, lifetime, err := store.accessToken(got)
		if err == nil && (CheckForm(access.Reveal()) != nil || access.Reveal() == store.key() || lifetime < 0 || lifetime > MaxLifetime) {
			t.Errorf("got a token of IAM that cannot be one, for %s", lifetime)
		}
		version, readErr := store.version(got)
		token, tokenErr := version.Token()
		if readErr == nil && tokenErr == nil {
			late := !version.CreatedAt.IsZero() && token.Expiration.After(version.CreatedAt.Add(MaxLifetime))
			if CheckForm(token.Value.Reveal()) != nil || token.Value.Reveal() == store.key() || token.Expiration.IsZero() || late {
				t.Errorf("got a stored token that cannot be one, with expiration %s", token.Expiration)
			}
		}
		for _, err := range []error{err, readErr, tokenErr} {
			if err != nil && (strings.Contains(err.Error(), marked) || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrNoToken)) {
				t.Errorf("got the error %v", err)
			}
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add(int64(4102444800), "iam-ServiceId-1", "0123456789abcdef0123456789abcdef", "0123456789abcdef", "run-12345678", int64(0))
	f.Add(int64(-1), "", "", "not a fingerprint", "", int64(1767261600))
	f.Add(int64(9223372036854775807), "x", "y", "", "\x00", int64(-62135596800))
	f.Add(int64(9223372036854775807), "0", "0", "\xfe00", "0", int64(-62135596800))
	f.Add(int64(9223372036854775729), "&", "0", "0", "&", int64(-62135596716))
	f.Add(int64(4102444874), "&", "&", "&", "\"", int64(144))
	f.Add(int64(4), "0", "", "&&&&&&&&", "0", int64(1767261544))
	f.Add(int64(-1), "\xfb\xf5", "", "00A0000000000000", "", int64(1767261600))
	f.Add(int64(-57), "0", "\"Ǯ\fْ", "0", "0", int64(1767261453))
	f.Add(int64(39), "", "", "0&\xd5\xcc&00\xe4&&\xe2\xf0\r&\xda\xf100&00\"0\xcf0", "0", int64(1767261544))
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
		if parsed.ExpiresAt(createdAt).After(createdAt.Add(MaxLifetime)) {
			t.Errorf("an expiry at %s is trusted of a version made %s", parsed.ExpiresAt(createdAt), createdAt)
		}
	})
}

// b64token is RFC 6750's definition, word for word.
var b64token = regexp.MustCompile(`^[A-Za-z0-9\-._~+/]+=*$`)

func FuzzToken(f *testing.F) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for _, value := range []string{"", "null", "Bearer", "no token yet", "a,b", long(31), long(32), long(8192), long(8193), long(31) + "=", "aZ09-._~+/" + long(22) + "==",
		strings.Repeat("=", 40), long(40) + "=a", long(31) + "\n", " " + long(32), long(32) + "\x00", long(32) + "\u00e9", `"` + long(40) + `"`, "<html>" + long(32) + "</html>",
		"e30.eyJleHAiOjE3NjcyNjUyMDB9.c2ln", "e30.eyJleHAiOiIxIiwiaWF0IjoxZTMwMH0.c2ln", "e30.eyJhY2NvdW50IjoieCIsImlhbV9pZCI6N30.c2ln", "a.b.c", "...", "e30.bnVsbA.", "e30.W10.c2ln",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		err := CheckForm(value)
		if want := len(value) >= 32 && len(value) <= 8192 && b64token.MatchString(value) && !strings.HasSuffix(value, "\n"); (err == nil) != want {
			t.Errorf("got %v, want a token: %t", err, want)
		}
		if err != nil && len(value) > 4 && strings.Contains(err.Error(), value) {
			t.Errorf("the error repeats the value: %v", err)
		}
		claims, err := ReadClaims(value)
		if !IsJWT(value) && (err == nil || claims != Claims{}) {
			t.Errorf("got claims %+v of a value that is not a JWT", claims)
		}
		for _, at := range []time.Time{claims.IssuedAt, claims.ExpiresAt} {
			if !at.IsZero() && (at.Unix() < 1 || at.Year() > 5138) {
				t.Errorf("got a time %s", at)
			}
		}
		if id, account := Identity(claims.IAMID, claims.Account); id != claims.IAMID || account != claims.Account {
			t.Errorf("got an identity that must not be shown")
		}
	})
}
