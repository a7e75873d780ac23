package iamtoken

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

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

const opaque = "an-opaque-token-of-40-characters-0123456"

func storeOf(v Version) Store {
	return StoreFunc(func(context.Context) (Version, error) { return v, nil })
}

func jwt(claims string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

// Every payload that the rotator writes can be read, and what others write is
// read or rejected.
func TestVersionToken(t *testing.T) {
	soon := created.Add(40 * time.Minute)
	token := jwt(fmt.Sprintf(`{"exp":%d,"iat":%d,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, soon.Unix(), created.Unix()))
	for name, test := range map[string]struct {
		payload string
		claimed time.Time // by metadata
		want    time.Time // zero: no token
	}{
		"raw":                              {token, soon, soon},
		"raw, by hand":                     {token + "\n", time.Time{}, soon},
		"bearer":                           {"Bearer " + token, soon, soon},
		"token.json":                       {fmt.Sprintf(`{"access_token":%q,"expiration":%d}`, token, soon.Unix()), time.Time{}, soon},
		"kv":                               {fmt.Sprintf(`{"iam_token":"Bearer %s"}`, token), time.Time{}, soon},
		"kv, its own field":                {fmt.Sprintf(`{"logs":%q}`, token), time.Time{}, soon},
		"kv, token.json inside":            {fmt.Sprintf(`{"iam_token":%q}`, fmt.Sprintf(`{"access_token":%q,"expiration":%d}`, opaque, soon.Unix())), time.Time{}, soon},
		"opaque":                           {opaque, soon, soon},
		"opaque json":                      {fmt.Sprintf(`{"access_token":%q,"expiration":%d}`, opaque, soon.Unix()), time.Time{}, soon},
		"metadata says sooner":             {token, soon.Add(-time.Minute), soon.Add(-time.Minute)},
		"metadata says later":              {token, soon.Add(time.Minute), soon},
		"metadata says a year":             {opaque, created.AddDate(1, 0, 0), created.Add(61 * time.Minute)},
		"the token says a year":            {jwt(fmt.Sprintf(`{"exp":%d}`, created.AddDate(1, 0, 0).Unix())), time.Time{}, created.Add(61 * time.Minute)},
		"aud and nbf of other types":       {jwt(fmt.Sprintf(`{"exp":%d,"aud":7,"nbf":"x"}`, soon.Unix())), time.Time{}, soon},
		"32 characters":                    {strings.Repeat("a", 32), soon, soon},
		"8192 characters":                  {strings.Repeat("a", 8192), soon, soon},
		"990,000 characters":               {strings.Repeat("a", 990_000), soon, time.Time{}},
		"990,000 blanks":                   {strings.Repeat(" ", 990_000) + "x", soon, time.Time{}},
		"a no-break space":                 {opaque + "\u00a0", soon, time.Time{}},
		"two lines":                        {opaque + "\n" + opaque, soon, time.Time{}},
		"Bearer twice":                     {"Bearer Bearer " + opaque, soon, time.Time{}},
		"opaque, by hand":                  {opaque, time.Time{}, time.Time{}},
		"an exp that is text":              {jwt(`{"exp":"soon"}`), soon, time.Time{}},
		"an exp beyond all time":           {jwt(`{"exp":1e300}`), soon, time.Time{}},
		"a JWT without exp":                {jwt(`{"iat":1}`), soon, time.Time{}},
		"a JWT that is no JSON":            {jwt(`exp`), soon, time.Time{}},
		"an expiration beyond all time":    {fmt.Sprintf(`{"access_token":%q,"expiration":1e300}`, opaque), time.Time{}, created.Add(61 * time.Minute)},
		"a negative expiration":            {fmt.Sprintf(`{"access_token":%q,"expiration":-1}`, opaque), time.Time{}, time.Time{}},
		"empty":                            {"", soon, time.Time{}},
		"Bearer and nothing":               {"Bearer ", soon, time.Time{}},
		"words":                            {"no token yet", soon, time.Time{}},
		"broken JSON":                      {`{"access_token":"`, soon, time.Time{}},
		"JSON with an empty token":         {`{"access_token":""}`, soon, time.Time{}},
		"two entries that could be tokens": {fmt.Sprintf(`{"a":%q,"b":%q}`, opaque, opaque), soon, time.Time{}},
		"a number":                         {`{"iam_token":1}`, soon, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			version := Version{Payload: NewSecret(test.payload), CreatedAt: created}
			if !test.claimed.IsZero() {
				version.Metadata.Expiration = test.claimed.Unix()
			}
			got, err := version.Token()
			if test.want.IsZero() {
				if !errors.Is(err, ErrNoToken) || !got.Value.IsZero() {
					t.Fatalf("got %v, want ErrNoToken", err)
				}
				return
			}
			if err != nil || !got.Expiration.Equal(test.want) {
				t.Errorf("got expiration %s (%v), want %s", got.Expiration, err, test.want)
			}
		})
	}
}

// A Date earlier than the version or the token would take an expired one for valid.
func TestADateBeforeTheVersionIsUnusable(t *testing.T) {
	for lag, want := range map[time.Duration]error{59 * time.Second: nil, 61 * time.Second: ErrUnavailable, 2 * time.Hour: ErrUnavailable} {
		version := Version{Payload: NewSecret(opaque), CreatedAt: created, ReadAt: created.Add(-lag),
			Metadata: Metadata{Expiration: created.Add(time.Hour).Unix()}}
		if _, err := version.Token(); !errors.Is(err, want) {
			t.Errorf("%s early by created_at: got %v, want %v", lag, err, want)
		}
		version.CreatedAt, version.Payload = time.Time{}, NewSecret(jwt(fmt.Sprintf(`{"exp":%d,"iat":%d}`, created.Add(time.Hour).Unix(), created.Unix())))
		if _, err := version.Token(); !errors.Is(err, want) {
			t.Errorf("%s early by iat: got %v, want %v", lag, err, want)
		}
	}
}

func TestVersionTokenHasItsIdentity(t *testing.T) {
	token := jwt(fmt.Sprintf(`{"exp":%d,"iat":%d,"iam_id":"iam-ServiceId-1","account":{"bss":"0123456789abcdef0123456789abcdef"}}`, created.Add(time.Hour).Unix(), created.Unix()))
	got, err := Version{Payload: NewSecret(token)}.Token()
	if err != nil {
		t.Fatal(err)
	}
	if got.IAMID != "iam-ServiceId-1" || got.Account != "0123456789abcdef0123456789abcdef" || got.ExpiresIn != time.Hour || !got.IssuedAt.Equal(created) {
		t.Errorf("got %+v, want what the token states", got)
	}
}
