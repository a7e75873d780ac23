package iamtoken_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

func TestPayload(t *testing.T) {
	token := iamtoken.Token{Value: iamtoken.NewSecret("abc"), Expiration: time.Unix(1767261600, 0), ExpiresIn: time.Hour}
	for format, want := range map[iamtoken.Format]string{
		"":              "abc",
		iamtoken.Raw:    "abc",
		iamtoken.Bearer: "Bearer abc",
		iamtoken.JSON:   `{"access_token":"abc","token_type":"Bearer","expires_in":3600,"expiration":1767261600}`,
	} {
		if got := format.Payload(token).Reveal(); got != want {
			t.Errorf("format %q: got %s, want %s", format, got, want)
		}
	}
}

func TestFormatRefusesOtherWords(t *testing.T) {
	for _, word := range []string{"", "RAW", "jwt"} {
		var format iamtoken.Format
		if err := format.UnmarshalText([]byte(word)); err == nil {
			t.Errorf("%q was taken for a format", word)
		}
	}
}

func TestTrimBearer(t *testing.T) {
	for given, want := range map[string]string{
		"abc": "abc", "Bearer abc": "abc", "bearer  abc\n": "abc", " abc ": "abc", "Bearer ": "", "": "",
	} {
		if got := iamtoken.TrimBearer(given); got != want {
			t.Errorf("TrimBearer(%q): got %q, want %q", given, got, want)
		}
	}
}

func jwt(claims string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

// Every payload that the rotator writes can be read, and what others write is
// read or refused.
func TestVersionToken(t *testing.T) {
	soon := created.Add(40 * time.Minute)
	token := jwt(fmt.Sprintf(`{"exp":%d,"iat":%d,"iam_id":"iam-ServiceId-1","account":{"bss":"0123"}}`, soon.Unix(), created.Unix()))
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
		"kv, a field of its own":           {fmt.Sprintf(`{"logs":%q}`, token), time.Time{}, soon},
		"kv, json inside":                  {fmt.Sprintf(`{"iam_token":"{\"access_token\":\"opaque\",\"expiration\":%d}"}`, soon.Unix()), time.Time{}, soon},
		"opaque":                           {"opaque", soon, soon},
		"opaque json":                      {fmt.Sprintf(`{"access_token":"opaque","expiration":%d}`, soon.Unix()), time.Time{}, soon},
		"metadata says sooner":             {token, soon.Add(-time.Minute), soon.Add(-time.Minute)},
		"metadata says later":              {token, soon.Add(time.Minute), soon},
		"metadata says a year":             {"opaque", created.AddDate(1, 0, 0), created.Add(61 * time.Minute)},
		"the token says a year":            {jwt(fmt.Sprintf(`{"exp":%d}`, created.AddDate(1, 0, 0).Unix())), time.Time{}, created.Add(61 * time.Minute)},
		"opaque, by hand":                  {"opaque", time.Time{}, time.Time{}},
		"an expiry that is text":           {jwt(`{"exp":"soon"}`), time.Time{}, time.Time{}},
		"two parts":                        {"eyJ.eyJ", time.Time{}, time.Time{}},
		"empty":                            {"", soon, time.Time{}},
		"Bearer and nothing":               {"Bearer ", soon, time.Time{}},
		"words":                            {"no token yet", soon, time.Time{}},
		"a page":                           {"<html>", soon, time.Time{}},
		"broken JSON":                      {`{"access_token":"`, soon, time.Time{}},
		"JSON with an empty token":         {`{"access_token":""}`, soon, time.Time{}},
		"two entries that could be tokens": {`{"a":"opaque","b":"opaque"}`, soon, time.Time{}},
		"a number":                         {`{"iam_token":1}`, soon, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			version := iamtoken.Version{Payload: iamtoken.NewSecret(test.payload), CreatedAt: created}
			if !test.claimed.IsZero() {
				version.Metadata.Expiration = test.claimed.Unix()
			}
			got, err := version.Token()
			if test.want.IsZero() {
				if !errors.Is(err, iamtoken.ErrNoToken) || !got.Value.IsZero() {
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

func TestVersionTokenTellsItsIdentity(t *testing.T) {
	token := jwt(fmt.Sprintf(`{"exp":%d,"iat":%d,"iam_id":"iam-ServiceId-1","account":{"bss":"0123"}}`, created.Add(time.Hour).Unix(), created.Unix()))
	got, err := iamtoken.Version{Payload: iamtoken.NewSecret(token)}.Token()
	if err != nil {
		t.Fatal(err)
	}
	if got.IAMID != "iam-ServiceId-1" || got.Account != "0123" || got.ExpiresIn != time.Hour || !got.IssuedAt.Equal(created) {
		t.Errorf("got %+v, want what the token tells", got)
	}
}

func TestKVSecretsAndOtherTypes(t *testing.T) {
	inWorld(t, func(w *world) {
		token := w.rotate(time.Hour)
		w.store.SecretID = w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
			Type: "kv", Group: w.cloud.TokenGroupName(), Data: map[string]any{"iam_token": "Bearer " + token},
		})
		w.wantToken(token)
	})
	inWorld(t, func(w *world) {
		w.store.SecretID = w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Group: w.cloud.TokenGroupName(), ReuseAPIKey: true})
		if _, err := w.reader.Token(w.t.Context()); !errors.Is(err, iamtoken.ErrNoToken) {
			t.Errorf("got %v, want ErrNoToken", err)
		}
	})
}
