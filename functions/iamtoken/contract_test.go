package iamtoken

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

const opaque = "an-opaque-token-of-40-characters-0123456"

var created = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

func jwt(claims string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

func TestASecretCannotBePrinted(t *testing.T) {
	const canary = "canary-5gkHXZ0r8vPw2QmB1sTq"
	secret := NewSecret(canary)
	private := struct{ key Secret }{secret}
	nested := map[string]any{"a": []any{secret, &secret, private, &private}}
	encoded, err := json.Marshal(nested)
	if err != nil || secret.Reveal() != canary {
		t.Fatalf("got %v; or Reveal does not return the value", err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secret", secret, "nested", nested)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "secret", secret, "private", private, "nested", nested)
	printed := []string{string(encoded), logged.String(), secret.String() + secret.GoString()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%10.3s"} {
		for _, value := range []any{secret, &secret, private, &private, nested, fmt.Errorf("wrapped: %v", secret)} {
			printed = append(printed, "[secret]"+fmt.Sprintf(verb, value))
		}
	}
	for _, text := range printed {
		if strings.Contains(text, canary[:8]) || strings.Contains(text, fmt.Sprintf("%x", canary[:8])) || !strings.Contains(text, "[secret]") {
			t.Errorf("got %s, want the secret redacted", text)
		}
	}
}

func TestEachClaimIsReadForItself(t *testing.T) {
	const account = `"account":{"bss":"0123456789abcdef0123456789abcdef"}`
	whole := Claims{IssuedAt: time.Unix(1000, 0), ExpiresAt: time.Unix(4600, 0), IAMID: "iam-ServiceId-1", Account: "0123456789abcdef0123456789abcdef"}
	noExpiry, noAccount := whole, whole
	noExpiry.ExpiresAt, noAccount.Account = time.Time{}, ""
	for body, want := range map[string]Claims{ // all but whole come with an error
		`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1",` + account + `}`:                                                                                 whole,
		`{"iat":1000.5,"exp":4.6e3,"iam_id":"iam-ServiceId-1","aud":7,"nbf":"x","sub":[],"jti":{},"iss":null,"EXP":"x","Iam_id":"somebody",` + account + `}`: whole,
		`{"iat":1000,"exp":"4600","iam_id":"iam-ServiceId-1",` + account + `}`:                                                                               noExpiry,
		`{"iat":1000,"exp":null,"iam_id":"iam-ServiceId-1",` + account + `}`:                                                                                 noExpiry,
		`{"iat":1000,"exp":-1,"iam_id":"iam-ServiceId-1",` + account + `}`:                                                                                   noExpiry,
		`{"iat":1000,"exp":1e300,"iam_id":"iam-ServiceId-1",` + account + `}`:                                                                                noExpiry,
		`{"iat":1767225600000,"exp":4600,"iam_id":"iam-ServiceId-1",` + account + `}`:                                                                        {ExpiresAt: whole.ExpiresAt, IAMID: whole.IAMID, Account: whole.Account},
		`{"iat":1000,"exp":4600,"iam_id":7,` + account + `}`:                                                                                                 {IssuedAt: whole.IssuedAt, ExpiresAt: whole.ExpiresAt, Account: whole.Account},
		`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1","account":"0123456789abcdef0123456789abcdef"}`:                                                    noAccount,
		`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1","account":null}`:                                                                                  noAccount,
		`{"iat":1000,"exp":4600,"iam_id":"iam-ServiceId-1","account":{"bss":7}}`:                                                                             noAccount,
		`[]`: {}, `null`: {}, `x`: {},
	} {
		got, err := ReadClaims("e30." + base64.RawURLEncoding.EncodeToString([]byte(body)) + ".c2ln")
		if got != want || (err == nil) != (want == whole) {
			t.Errorf("%s: got %+v and %v, want %+v", body, got, err, want)
		}
	}
}

func TestMetadataSurvivesTheWire(t *testing.T) {
	want := Describe(Token{Value: NewSecret("token"), IssuedAt: created, Expiration: created.Add(time.Hour), ExpiresIn: time.Hour,
		IAMID: "iam-ServiceId-1", Account: "0123456789abcdef0123456789abcdef"}, "run-1234", "v1")
	want.Mirrors = "none"
	encoded, err := json.Marshal(want.Map())
	var fields map[string]any
	if err := errors.Join(err, json.Unmarshal(encoded, &fields)); err != nil {
		t.Fatal(err)
	}
	got, err := ParseMetadata(fields)
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	// The SHA-256 of "token" begins so; computed with sha256sum.
	if want := "3c469e9d6c5875d3"; got.Fingerprint != want {
		t.Errorf("got fingerprint %s, want %s", got.Fingerprint, want)
	}
}

// Others can edit metadata: a value without the form that the rotator writes is dropped, since a report would repeat it.
func TestMetadataOfOthersIsReadWithCare(t *testing.T) {
	for text, want := range map[string]Metadata{
		`{}`:                                 {},
		`{"owner":[1]}`:                      {},
		`{"expiration":"soon"}`:              {RunID: "an error"},
		`{"expiration":1.5}`:                 {RunID: "an error"},
		`{"fingerprint":"eyJraWQiOiIyMDI2"}`: {},
		`{"fingerprint":"0123456789abcdef"}`: {Fingerprint: "0123456789abcdef"},
		`{"iam_id":"saml-somebody@example.test","account":"mine"}`: {},
	} {
		var fields map[string]any
		if err := json.Unmarshal([]byte(text), &fields); err != nil {
			t.Fatal(err)
		}
		got, err := ParseMetadata(fields)
		if err != nil {
			got.RunID = "an error"
		}
		if got != want {
			t.Errorf("%s: got %+v (%v), want %+v", text, got, err, want)
		}
	}
	// The hash must not change: later tokens are compared with it, and configurations may name it.
	if got, _ := Identity("saml-somebody@example.test", ""); got != "sha256-3f738cb8309702e4" {
		t.Errorf("got %s", got)
	}
}

func TestTrimBearer(t *testing.T) {
	for given, want := range map[string]string{
		"abc": "abc", "Bearer abc": "abc", "bearer  abc\n": "abc", " abc ": "abc", "Bearer ": "", "": "",
		"IAM token:  Bearer abc": "abc", "iam\tTOKEN:\u00a0bEARER\r\n abc\n": "abc", "IAM token: abc": "abc", "IAM token:Bearer abc": "abc",
		"Bearerabc": "Bearerabc", "IAM abc": "IAM abc", "IAM token:": "", "Bearer a b": "a b",
		"IAM token:  Bearer abc\nUAA token:  Bearer def\n": "abc", "UAA token: Bearer def": "",
	} {
		if got := TrimBearer(given); got != want {
			t.Errorf("TrimBearer(%q): got %q, want %q", given, got, want)
		}
	}
}

// Every payload that the rotator writes can be read. What others write is read or rejected.
// The tests of scripts/iam-token have more payloads.
func TestVersionToken(t *testing.T) {
	soon, latest := created.Add(40*time.Minute), created.Add(61*time.Minute)
	token := jwt(fmt.Sprintf(`{"exp":%d,"iat":%d,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, soon.Unix(), created.Unix()))
	whole := Token{Value: NewSecret(token), IssuedAt: created, Expiration: soon, ExpiresIn: 40 * time.Minute}
	none := time.Time{}
	for name, test := range map[string]struct {
		payload string
		claimed time.Time // by metadata
		want    time.Time // zero: no token
	}{
		"raw":                           {Raw.Payload(whole).Reveal(), soon, soon},
		"bearer":                        {Bearer.Payload(whole).Reveal(), none, soon},
		"token.json":                    {JSON.Payload(whole).Reveal(), none, soon},
		"kv":                            {`{"iam_token":"Bearer ` + token + `"}`, none, soon},
		"kv, its own field":             {`{"logs":"` + token + `"}`, none, soon},
		"kv, token.json inside":         {fmt.Sprintf(`{"iam_token":%q}`, fmt.Sprintf(`{"access_token":%q,"expiration":%d}`, opaque, soon.Unix())), none, soon},
		"opaque":                        {opaque, soon, soon},
		"metadata says sooner":          {token, soon.Add(-time.Minute), soon.Add(-time.Minute)},
		"metadata says later":           {token, soon.Add(time.Minute), soon},
		"metadata says a year":          {opaque, created.AddDate(1, 0, 0), latest},
		"metadata says a second more":   {opaque, latest.Add(time.Second), latest},
		"the token says a year":         {jwt(fmt.Sprintf(`{"exp":%d}`, created.AddDate(1, 0, 0).Unix())), none, latest},
		"990,000 characters":            {strings.Repeat("a", 990_000), soon, none},
		"990,000 blanks":                {strings.Repeat(" ", 990_000) + "x", soon, none},
		"two lines":                     {opaque + "\n" + opaque, soon, none},
		"opaque, by hand":               {opaque, none, none},
		"metadata below zero":           {opaque, time.Unix(-1, 0), none},
		"a JWT without exp":             {jwt(`{"iat":1}`), soon, none},
		"an expiration beyond all time": {fmt.Sprintf(`{"access_token":%q,"expiration":1e300}`, opaque), none, latest},
		"a negative expiration":         {fmt.Sprintf(`{"access_token":%q,"expiration":-1}`, opaque), none, none},
		"empty":                         {"", soon, none},
		"not yet":                       {"no token yet", soon, none},
		"broken JSON":                   {`{"access_token":"`, soon, none},
		"JSON with an empty token":      {`{"access_token":""}`, soon, none},
		"two entries":                   {fmt.Sprintf(`{"a":%q,"b":%q}`, opaque, opaque), soon, none},
	} {
		version := Version{Payload: NewSecret(test.payload), CreatedAt: created}
		if !test.claimed.IsZero() {
			version.Metadata.Expiration = test.claimed.Unix()
		}
		got, err := version.Token()
		if !got.Expiration.Equal(test.want) || errors.Is(err, ErrNoToken) != test.want.IsZero() {
			t.Errorf("%s: got expiration %s (%v), want %s", name, got.Expiration, err, test.want)
		}
		if got.Value.Reveal() == token && (got.IAMID != "iam-ServiceId-1" || got.Account != "0123456789abcdef0123456789abcdef" || !got.IssuedAt.Equal(created) || got.Opaque()) {
			t.Errorf("%s: got %+v, want what the token states", name, got)
		}
	}
	if got, err := (Version{Payload: NewSecret(opaque), Metadata: Metadata{Expiration: soon.Unix()}}).Token(); !errors.Is(err, ErrNoToken) {
		t.Errorf("got %v, %v of metadata of a version whose age is not known", got, err)
	}
}

// By a Date earlier than the version or the token, an expired token would seem valid.
func TestADateBeforeTheVersionIsUnusable(t *testing.T) {
	for lag, want := range map[time.Duration]error{59 * time.Second: nil, 61 * time.Second: ErrUnavailable} {
		version := Version{Payload: NewSecret(opaque), CreatedAt: created, ReadAt: created.Add(-lag), Metadata: Metadata{Expiration: created.Add(time.Hour).Unix()}}
		if _, err := version.Token(); !errors.Is(err, want) {
			t.Errorf("%s early by created_at: got %v, want %v", lag, err, want)
		}
		version.CreatedAt, version.Payload = time.Time{}, NewSecret(jwt(fmt.Sprintf(`{"exp":%d,"iat":%d}`, created.Add(time.Hour).Unix(), created.Unix())))
		if _, err := version.Token(); !errors.Is(err, want) {
			t.Errorf("%s early by iat: got %v, want %v", lag, err, want)
		}
	}
}

func TestFaultyFieldsAreReportedAtOnce(t *testing.T) {
	const id, other = "e2dd1896-8c39-4160-b230-92430f439ba9", "11111111-8c39-4160-b230-92430f439ba9"
	unused := func(context.Context) (Secret, error) { return Secret{}, nil }
	readers := map[*Reader]string{
		{}:                                  "Store is required",
		{Store: StoreFunc(nil), Margin: -1}: "Margin is negative",
		{Store: &SecretsManager{IAMURL: "https://canary@x.test/"}}:                                                  "IAMURL must be",
		{Store: &SecretsManager{AccessToken: unused, APIKey: NewSecret("k")}}:                                       "APIKey or AccessToken is required, and not both",
		{Store: &SecretsManager{SecretID: "us-south/" + id + "/" + id, URL: "https://" + other + ".us-south.test"}}: "SecretID is of another",
	}
	with := func(says string, change func(s *SecretsManager), hosts ...string) {
		store := &SecretsManager{URL: "https://x.test", SecretID: id, APIKey: NewSecret("key")}
		change(store)
		readers[&Reader{Store: store, Hosts: hosts}] = says
	}
	for _, entry := range []string{"", "https://canary.test", "canary.test/", "*.canary.test", "a b", "key@canary.test"} {
		with("Reader.Hosts[0] is not a host", func(*SecretsManager) {}, entry)
	}
	for _, text := range []string{"canary", "canary/" + id + "/" + other + "/x", "my-group/canary", "group/" + id} {
		with("SecretID is not a secret id", func(s *SecretsManager) { s.SecretID = text })
	}
	for url, says := range map[string]string{"": "is required", "http://x.test": "must be", "https://<canary>.us-south.test": "still has a placeholder",
		"https://.us-south.test": "has an empty part", "https://null.us-south.test": "has null", "https://[::1]x": "must be"} {
		with("URL "+says, func(s *SecretsManager) { s.URL = url })
	}
	for key, says := range map[string]string{
		"": "or AccessToken is required", `"canary"`: "is in quotes", "'canary": "is in quotes", "\u201ccanary\u201d": "is in quotes",
		"\ufeffcanary": "begins with a byte-order mark", "\xff\xfec\x00a\x00": "begins with a byte-order mark",
		"canary\ncanary": "is not an API key on one line", `{"apikey":"canary"}`: "is JSON", "eyJcanary.canary.canary": "is an access token", "ApiKey-" + id: "is the id of an API key",
		"KEY=canary": "is a line NAME=key", "export IBMCLOUD_API_KEY=canary": "is a line NAME=key", "null\n": "is what a program prints", "None": "is what a program prints",
		"${canary}": "is a placeholder", "<canary key>": "is a placeholder", "{{ .canary }}": "is a placeholder",
		"canary\u200b": "has an invisible character", "canary\x00": "has an invisible character", "c\xffanary": "has an invisible character", "canary\u00e9": "has a character that no",
	} {
		with("APIKey "+says, func(s *SecretsManager) { s.APIKey = NewSecret(key) })
	}
	for reader, says := range readers {
		_, err := reader.Token(t.Context())
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v, want it to say %q and to repeat no value", err, says)
		}
	}
}
