package ibmcloud_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

func FuzzSecretPayload(f *testing.F) {
	if _, err := fuzzedSecretsManager(f, 0, "application/json", goodSecret).ReadKey(context.Background(), rotation.KeyRef{ID: "cb1e238c"}); err != nil {
		f.Fatal("a good answer:", err)
	}
	for _, body := range []string{
		``, `null`, `{}`, `{"errors":[]}`, `{"secret_type":"arbitrary"}`, goodSecret,
		`{"secret_type":"arbitrary","payload":7}`, `{"secret_type":"kv","data":{"k":"v"}}`, `{"secret_type":"kv","data":null}`,
		`{"secret_type":"iam_credentials","reuse_api_key":true,"api_key":"k"}`, `{"secret_type":"service_credentials","credentials":{"apikey":"k"}}`,
		`{"secret_type":"service_credentials","credentials":null}`, `{"secret_type":"username_password"}`, `{"secret_type":null}`, `{"secret_type":"arbitrary","payload":"a\u0000b"}`,
	} {
		f.Add(uint8(0), "application/json", body, "")
		f.Add(uint8(0), "application/json", body, "k")
	}
	f.Fuzz(func(t *testing.T, status uint8, contentType, body, field string) {
		key, err := fuzzedSecretsManager(t, status, contentType, body).ReadKey(context.Background(), rotation.KeyRef{ID: "cb1e238c", Field: field})
		if err != nil {
			checkFailure(t, err)
			return
		}
		if value := key.Reveal(); value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("got a key of %d characters that cannot be one", len(value))
		}
	})
}

func FuzzVersionMetadata(f *testing.F) {
	if _, err := fuzzedSecretsManager(f, 0, "application/json", goodLook).Look(context.Background(), rotation.TokenRef{ID: "e2dd1896"}); err != nil {
		f.Fatal("a good answer:", err)
	}
	for _, fields := range []string{
		`null`, `{}`, `[]`, `{"expiration":1767265200}`, `{"expiration":"soon"}`, `{"expiration":-1}`, `{"expiration":1e300}`, `{"expiration":1.5}`,
		`{"expiration":1767261600,"iam_id":"iam-ServiceId-1","fingerprint":"` + keyCanary + `"}`, `{"run_id":7}`, `{"expiration":{"a":[]}}`,
	} {
		f.Add(uint8(0), `{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"arbitrary","created_at":"2026-01-01T10:00:00.000Z","version_custom_metadata":`+fields+`}`)
	}
	f.Add(uint8(0), goodLook)
	f.Add(uint8(0), `{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"kv","created_at":"yesterday"}`)
	f.Add(uint8(0), `{"id":"","secret_type":"arbitrary"}`)
	f.Fuzz(func(t *testing.T, status uint8, body string) {
		stored, err := fuzzedSecretsManager(t, status, "application/json", body).Look(context.Background(), rotation.TokenRef{ID: "e2dd1896"})
		if err != nil {
			checkFailure(t, err)
			return
		}
		if stored.VersionID == "" || stored.SecretType == "" {
			t.Errorf("got a version without id or type: %+v", stored)
		}
		if latest := stored.CreatedAt.Add(iamtoken.MaxLife); stored.ExpiresAt().After(latest) {
			t.Errorf("got expiry %s of a version made %s: no later than %s may be believed", stored.ExpiresAt(), stored.CreatedAt, latest.Format(time.RFC3339))
		}
	})
}
