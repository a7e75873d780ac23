package iamtokentest

import (
	"encoding/base64"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestBadInput(t *testing.T) {
	jwt := func(claims string) string {
		return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
	}
	for name, test := range map[string]struct {
		payload  string
		metadata map[string]any // nil: none
		exit     int
		advice   string
	}{
		"no token yet":               {"no token yet", nil, 1, "no token yet"},
		"white space":                {" \n ", nil, 1, "is empty"},
		"a web page":                 {"<html><body>502</body></html>", future(), 1, "no token"},
		"words":                      {"to be done", future(), 1, "no token"},
		"an API key":                 {"a-key-of-44-characters-has-no-expiry-to-read", nil, 1, "cannot be told"},
		"Bearer without a token":     {"Bearer ", future(), 1, "no token"},
		"JSON without a token":       {`{"refresh_token":1,"expires_in":3600}`, future(), 1, "no token"},
		"JSON with an empty token":   {`{"access_token":""}`, future(), 1, "no token"},
		"JSON with a broken token":   {`{"access_token":"two words"}`, future(), 1, "no token"},
		"broken JSON":                {`{"access_token":"eyJ`, future(), 1, "no token"},
		"a JSON list":                {`["eyJ"]`, future(), 1, "no token"},
		"two lines":                  {"eyJhbGci\neyJhbGci", future(), 1, "no token"},
		"no expiry to read":          {"opaque", nil, 1, "cannot be told"},
		"unreadable metadata":        {"opaque", map[string]any{"expiration": "soon"}, 1, "cannot be told"},
		"a JWT without exp":          {jwt(`{"iat":1}`), nil, 1, "cannot be told"},
		"a JWT with a text for exp":  {jwt(`{"exp":"soon"}`), nil, 1, "cannot be told"},
		"a JWT that is no JSON":      {jwt(`exp`), nil, 1, "cannot be told"},
		"expired by metadata":        {"opaque", past(), 3, "expired 1h30m ago"},
		"expired, without metadata":  {jwt(`{"exp":1767225600}`), nil, 3, "2026-01-01T00:00:00Z"},
		"expired by its own account": {jwt(`{"exp":1767225600}`), future(), 3, "2026-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				s.cloud.MustPutVersion(s.secret(), test.payload, test.metadata)
				s.wantFailure(test.exit, nil, test.advice)
			})
		})
	}
}

func future() map[string]any {
	return map[string]any{"expiration": time.Now().Add(time.Hour).Unix()}
}

func past() map[string]any {
	return map[string]any{"expiration": time.Now().Add(-90 * time.Minute).Unix()}
}

func TestBadSecrets(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.publish(time.Hour)
		for name, test := range map[string]struct {
			secret string
			advice string
		}{
			"missing":                 {"00000000-0000-4000-8000-000000000000", "no such secret"},
			"forbidden":               {s.cloud.Rotations()[0].APIKeySecret, "SecretsReader"},
			"no id":                   {"token", "the SECRET given is no secret id"},
			"an API key for an id":    {s.cloud.ReaderAPIKey(), "no secret id"},
			"a kv secret of many":     {s.kv(map[string]any{"a": token, "b": token}), "no token"},
			"a kv secret of a number": {s.kv(map[string]any{"iam_token": 1}), "no token"},
			"a secret of another type": {s.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
				Type: "iam_credentials", Group: s.cloud.TokenGroupName(), ReuseAPIKey: true,
			}), "a type that holds no token"},
		} {
			stdout, stderr, exit := s.iamToken(test.secret)
			if exit == 0 || stdout != "" {
				s.t.Errorf("%s: got exit %d and %d bytes, want a failure", name, exit, len(stdout))
			}
			wantSaid(s.t, name, stderr, test.advice)
			s.wantNoSecret(name, stderr)
		}
	})
}

func (s *stage) kv(data map[string]any) (id string) {
	return s.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: s.cloud.TokenGroupName(), Data: data, Metadata: future()})
}

// A token that somebody wrote by hand bears no metadata, but tells its expiry itself.
func TestATokenWrittenByHand(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.token(20 * time.Minute)
		s.cloud.MustPutVersion(s.secret(), token, nil)
		s.wantRaw("by hand", token, "--min-ttl", "19m")
		s.wantFailure(1, []string{"--min-ttl", "21m"}, "--min-ttl")
		s.wantFailure(1, []string{"--check"}, "no metadata")
	})
}

// Metadata can be edited: a year ahead is believed up to 61 minutes after the version was made.
func TestAForgedExpiryIsNotBelieved(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}, func(s *stage) {
		s.cloud.MustPutVersion(s.secret(), "opaque", map[string]any{"expiration": time.Now().AddDate(1, 0, 0).Unix()})
		s.wantRaw("while it can be true", "opaque")
		stdout, _, _ := s.iamToken("--check")
		printed, err := time.Parse(time.RFC3339, stdout[:max(0, len(stdout)-1)])
		if left := time.Until(printed.Add(2 * time.Hour)); err != nil || left > 61*time.Minute {
			s.t.Errorf("got %q (%v), %s from the version's creation, want 61m at most", stdout, err, left)
		}
	})
}

func TestThisMachinesClockIsOff(t *testing.T) {
	for name, test := range map[string]struct {
		ahead time.Duration // of the cloud's clock
		ttl   time.Duration // of the stored token, by the cloud's clock
		exit  int
		note  string
	}{
		"slow, the token has expired": {7*time.Minute + 30*time.Second, -time.Minute, 3, "slow; "},
		"fast, the token is good":     {-70 * time.Minute, 50 * time.Minute, 0, "fast; "},
	} {
		t.Run(name, func(t *testing.T) {
			now := func() time.Time { return time.Now().Truncate(time.Second).Add(test.ahead) }
			underEachShell(t, ibmcloudtest.Options{Now: now}, func(s *stage) {
				s.store(s.token(test.ttl), now().Add(test.ttl))
				stdout, stderr, exit := s.iamToken()
				if exit != test.exit || (stdout != "") != (test.exit == 0) {
					s.t.Errorf("got exit %d and %d bytes (stderr %q), want exit %d", exit, len(stdout), stderr, test.exit)
				}
				wantSaid(s.t, name, stderr, test.note)
			})
		})
	}
}
