package iamtoken

import (
	"encoding/json"
	"testing"
	"time"
)

var created = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

func TestMetadataSurvivesTheWire(t *testing.T) {
	token := Token{
		Value: NewSecret("token"), IssuedAt: created, Expiration: created.Add(time.Hour), ExpiresIn: time.Hour,
		IAMID: "iam-ServiceId-1", Account: "0123456789abcdef0123456789abcdef",
	}
	want := Describe(token, "run-1234", "v1")
	encoded, err := json.Marshal(want.Map())
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		t.Fatal(err)
	}
	got, err := ParseMetadata(fields)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// The SHA-256 of "token" begins so; computed with sha256sum.
	if want := "3c469e9d6c5875d3"; got.Fingerprint != want {
		t.Errorf("got fingerprint %s, want %s", got.Fingerprint, want)
	}
}

func TestMetadataOfOthersIsReadWithCare(t *testing.T) {
	for name, test := range map[string]struct {
		fields      map[string]any
		fails       bool
		fingerprint string
	}{
		"none":                   {nil, false, ""},
		"fields of others":       {map[string]any{"owner": []any{1}}, false, ""},
		"text for a number":      {map[string]any{"expiration": "soon"}, true, ""},
		"a fraction":             {map[string]any{"expiration": 1.5}, true, ""},
		"a token as fingerprint": {map[string]any{"fingerprint": "eyJraWQiOiIyMDI2"}, false, ""},
		"a fingerprint":          {map[string]any{"fingerprint": "0123456789abcdef"}, false, "0123456789abcdef"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseMetadata(test.fields)
			if (err != nil) != test.fails || got.Fingerprint != test.fingerprint {
				t.Errorf("got %+v, %v; want failure %t, fingerprint %q", got, err, test.fails, test.fingerprint)
			}
		})
	}
}

func TestAnExpirationIsTrustedForAtMost61Minutes(t *testing.T) {
	for name, test := range map[string]struct {
		expiration int64
		createdAt  time.Time
		want       time.Time
	}{
		"as claimed":         {created.Add(time.Hour).Unix(), created, created.Add(time.Hour)},
		"61 minutes":         {created.Add(61 * time.Minute).Unix(), created, created.Add(61 * time.Minute)},
		"a second too far":   {created.Add(61*time.Minute + time.Second).Unix(), created, created.Add(61 * time.Minute)},
		"a year ahead":       {created.AddDate(1, 0, 0).Unix(), created, created.Add(61 * time.Minute)},
		"in the past":        {created.Add(-time.Hour).Unix(), created, created.Add(-time.Hour)},
		"none":               {0, created, time.Time{}},
		"negative":           {-1, created, time.Time{}},
		"creation not known": {created.Unix(), time.Time{}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Metadata{Expiration: test.expiration}.ExpiresAt(test.createdAt)
			if !got.Equal(test.want) || got.IsZero() != test.want.IsZero() {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// The digest guards tokens to come, and configurations may name it: it must not change.
func TestAnIAMIDOfAnotherFormIsADigest(t *testing.T) {
	if got, _ := Identity("saml-somebody@example.test", ""); got != "sha256-3f738cb8309702e4" {
		t.Errorf("got %s", got)
	}
	forged, err := ParseMetadata(map[string]any{"iam_id": "saml-somebody@example.test", "account": "mine"})
	if err != nil || forged.IAMID != "" || forged.Account != "" {
		t.Errorf("got %+v, %v; want what somebody else has written dropped", forged, err)
	}
}
