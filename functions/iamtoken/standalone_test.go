package iamtoken

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// service is Secrets Manager with one secret, IAM, and an API that takes the stored token
// alone. Package ibmcloudtest, which a copy of this folder is without, emulates far more.
type service struct {
	*httptest.Server
	token atomic.Value // that is stored
	reads atomic.Int32
}

func newService(t *testing.T, now func() time.Time) *service {
	s := &service{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /identity/token", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"access_token":"%s","expires_in":3600,"expiration":%d}`, opaque, now().Add(time.Hour).Unix())
	})
	mux.HandleFunc("GET /api/v2/secrets/{id}/versions/current", func(w http.ResponseWriter, _ *http.Request) {
		s.reads.Add(1)
		_, _ = fmt.Fprintf(w, `{"secret_type":"arbitrary","created_at":%q,"payload":%q}`, now().UTC().Format(time.RFC3339), s.token.Load())
	})
	mux.HandleFunc("GET /api", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+s.token.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", now().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/json")
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func jwtUntil(expires time.Time) string {
	return jwt(fmt.Sprintf(`{"exp":%d,"iat":%d}`, expires.Unix(), expires.Add(-time.Hour).Unix()))
}

func TestAReaderReadsOncePerRotationAndAgainAfterA401(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	s := newService(t, clock)
	reader := &Reader{Now: clock, Store: &SecretsManager{URL: s.URL, IAMURL: s.URL, APIKey: NewSecret("a-key"), SecretID: "7cf9d6e1-2919-432f-9883-d5040bfcd326"}}
	client := &http.Client{Transport: reader.Transport(nil)}
	call := func(reads int32, what string) {
		t.Helper()
		response, err := client.Get(s.URL + "/api")
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK || s.reads.Load() != reads {
			t.Errorf("%s: got %s after %d reads, want 200 after %d", what, response.Status, s.reads.Load(), reads)
		}
	}
	s.token.Store(jwtUntil(now.Add(time.Hour)))
	call(1, "the first time")
	call(1, "a second time")
	s.token.Store(jwtUntil(now.Add(59 * time.Minute)))
	call(2, "replaced early")
	now = now.Add(57 * time.Minute)
	s.token.Store(jwtUntil(now.Add(time.Hour)))
	call(3, "two minutes before it expires")
	now = now.Add(2 * time.Hour)
	if _, err := reader.Token(t.Context()); !errors.Is(err, ErrExpired) || strings.Contains(err.Error(), base64.RawURLEncoding.EncodeToString([]byte(`{"exp"`))) {
		t.Errorf("got %v, want ErrExpired", err)
	}
}
