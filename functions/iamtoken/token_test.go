package iamtoken

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

const canary = "canary-5gkHXZ0r8vPw2QmB1sTq"

func TestASecretCannotBePrinted(t *testing.T) {
	secret := NewSecret(canary)
	private := struct{ key Secret }{secret}
	nested := map[string]any{"a": []any{secret, &secret, private, &private}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%10.3s"} {
		for _, value := range []any{secret, &secret, private, &private, nested, fmt.Errorf("wrapped: %v", secret)} {
			if printed := fmt.Sprintf(verb, value); strings.Contains(printed, canary[:8]) || strings.Contains(printed, fmt.Sprintf("%x", canary[:8])) {
				t.Errorf("%s of %T printed the secret", verb, value)
			}
		}
	}
	encoded, err := json.Marshal(nested)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secret", secret, "nested", nested)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "secret", secret, "private", private, "nested", nested)
	for _, out := range []string{string(encoded), logged.String()} {
		if strings.Contains(out, canary[:8]) || !strings.Contains(out, "[secret]") {
			t.Errorf("got %s, want the secret redacted", out)
		}
	}
	if secret.Reveal() != canary {
		t.Error("Reveal does not return the value")
	}
}

func TestTheFormOfAToken(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for value, want := range map[string]bool{
		long(32): true, long(8192): true, long(31) + "=": true, "aZ09-._~+/" + long(22) + "==": true,
		long(40) + "." + long(40) + "." + long(40): true,
		"": false, long(31): false, long(8193): false, strings.Repeat("=", 40): false, long(40) + "=a": false,
		"a,b": false, "null": false, "Bearer": false, "no token yet": false, "<html>502</html>": false,
		"Bearer " + long(32): false, `"` + long(32) + `"`: false, long(32) + ",b": false, long(32) + "\n": false,
		" " + long(32): false, long(32) + "\x00": false, long(32) + "é": false, "<html>" + long(32) + "</html>": false,
	} {
		err := CheckForm(value)
		if (err == nil) != want {
			t.Errorf("%.50q, %d bytes: got %v, want a token: %t", value, len(value), err, want)
		}
		if err != nil && len(value) > 2 && strings.Contains(err.Error(), value) {
			t.Errorf("the error repeats the value: %v", err)
		}
	}
}

func TestEachClaimIsReadForItself(t *testing.T) {
	const identity, account = "iam-ServiceId-1", "0123456789abcdef0123456789abcdef"
	whole := Claims{IssuedAt: time.Unix(1000, 0), ExpiresAt: time.Unix(4600, 0), IAMID: identity, Account: account}
	for name, test := range map[string]struct {
		body    string
		without func(c *Claims) // what cannot be read; nil if all can
	}{
		"as it should be": {`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, nil},
		"odd, but not of the needed ones": {`{"iat":1000.5,"exp":4.6e3,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef","valid":"x"},
			"aud":7,"nbf":"x","sub":[],"jti":{},"iss":null,"EXP":"x","Iam_id":"somebody"}`, nil},
		"expiry as text":   {`{"iat":1000,"exp":"4600","iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, func(c *Claims) { c.ExpiresAt = time.Time{} }},
		"expiry null":      {`{"iat":1000,"exp":null,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, func(c *Claims) { c.ExpiresAt = time.Time{} }},
		"expiry negative":  {`{"iat":1000,"exp":-1,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, func(c *Claims) { c.ExpiresAt = time.Time{} }},
		"expiry too large": {`{"iat":1000,"exp":1e300,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, func(c *Claims) { c.ExpiresAt = time.Time{} }},
		"issued in ms":     {`{"iat":1767225600000,"exp":4600,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, func(c *Claims) { c.IssuedAt = time.Time{} }},
		"identity 7":       {`{"iat":1000,"exp":4600,"iam_id":7,"account":{"bss":"0123456789abcdef0123456789abcdef"}}`, func(c *Claims) { c.IAMID = "" }},
		"account a text":   {`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1","account":"0123456789abcdef0123456789abcdef"}`, func(c *Claims) { c.Account = "" }},
		"account null":     {`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1","account":null}`, func(c *Claims) { c.Account = "" }},
		"account's bss 7":  {`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1","account":{"bss":7}}`, func(c *Claims) { c.Account = "" }},
		"a list":           {`[]`, func(c *Claims) { *c = Claims{} }},
		"null":             {`null`, func(c *Claims) { *c = Claims{} }},
		"no JSON":          {`x`, func(c *Claims) { *c = Claims{} }},
	} {
		want := whole
		if test.without != nil {
			test.without(&want)
		}
		got, err := ReadClaims("e30." + base64.RawURLEncoding.EncodeToString([]byte(test.body)) + ".c2ln")
		if got != want || (err == nil) != (test.without == nil) {
			t.Errorf("%s: got %+v and %v, want %+v", name, got, err, want)
		}
	}
	for _, opaque := range []string{"", "opaque", "a.b", "a.b.c.d"} {
		if _, err := ReadClaims(opaque); err == nil || IsJWT(opaque) {
			t.Errorf("%q passes for a JWT", opaque)
		}
	}
}

// b64token is RFC 6750's definition, word for word.
var b64token = regexp.MustCompile(`^[A-Za-z0-9\-._~+/]+=*$`)

func FuzzToken(f *testing.F) {
	for _, value := range []string{"", "null", "Bearer", strings.Repeat("a", 32), strings.Repeat("=", 32), strings.Repeat("a", 31) + "\n", `"` + strings.Repeat("a", 40) + `"`,
		"e30.eyJleHAiOjE3NjcyNjUyMDB9.c2ln", "e30.eyJleHAiOiIxIiwiaWF0IjoxZTMwMH0.c2ln", "e30.eyJhY2NvdW50IjoieCIsImlhbV9pZCI6N30.c2ln", "a.b.c", "...", "e30.bnVsbA.", "e30.W10.c2ln",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		err := CheckForm(value)
		if want := len(value) >= 32 && len(value) <= 8192 && b64token.MatchString(value) && !strings.HasSuffix(value, "\n"); (err == nil) != want {
			t.Errorf("got %v, want a token: %t", err, want)
		}
		claims, err := ReadClaims(value)
		if !IsJWT(value) && (err == nil || claims != Claims{}) {
			t.Errorf("got claims %+v of what is no JWT", claims)
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

// A job that reads the token must not get the rotator or an SDK into its binary.
func TestNothingButTheStandardLibraryIsImported(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(out)); len(got) != 1 {
		t.Errorf("got imports %q, want none but itself", got)
	}
}
