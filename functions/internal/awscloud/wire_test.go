package awscloud

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

func TestASignedRequestIsNotRedirected(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var elsewhere atomic.Int32
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
		t.Cleanup(other.Close)
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, status) }))
		t.Cleanup(origin.Close)
		awsEnvironment(t, origin.URL)
		_, err := BootstrapKey(testARN, http.DefaultTransport)(t.Context())
		var failure *rotation.Error
		if !errors.As(err, &failure) || failure.Kind != rotation.Misconfigured {
			t.Errorf("%d on a read: got %v, want misconfigured", status, err)
		}
		if err := NewMirrors(http.DefaultTransport).Put(t.Context(), testARN, "e2dd1896-8c39-4160-b230-92430f439ba9", iamtoken.NewSecret(canary)); err == nil {
			t.Errorf("%d on a copy: got no error", status)
		}
		if elsewhere.Load() > 0 {
			t.Errorf("%d: the request was sent on to another host", status)
		}
	}
}

func TestAnEndlessAnswerIsCutOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", awsJSON)
		chunk := []byte(`{"SecretString":"` + strings.Repeat("x", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	awsEnvironment(t, server.URL)
	_, err := BootstrapKey(testARN, http.DefaultTransport)(t.Context())
	var failure *rotation.Error
	if !errors.As(err, &failure) || failure.Kind != rotation.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
}
