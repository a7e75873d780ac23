package iamtoken_test

import (
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
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
