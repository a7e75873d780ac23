package ibm_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
)

// TestNewestKeyOfAMinute: IAM tells the age of keys to the minute, and promises no order.
func TestNewestKeyOfAMinute(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		backwards := httptest.NewServer(reversed{s.cloud})
		t.Cleanup(backwards.Close)
		s.env["IAM_URL"] = backwards.URL
		s.succeed()
		second := s.succeed("--rotate-keys", "--keep-old-keys")
		if again := s.succeed(); again.stdout != second.stdout {
			t.Errorf("got\n%s, want what the last run printed,\n%s", again.stdout, second.stdout)
		}
	})
}

// reversed lists keys in the other order.
type reversed struct{ cloud http.Handler }

func (r reversed) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	answer := httptest.NewRecorder()
	r.cloud.ServeHTTP(answer, request)
	body := answer.Body.Bytes()
	var listing map[string]any
	if request.Method == http.MethodGet && json.NewDecoder(bytes.NewReader(body)).Decode(&listing) == nil {
		if keys, ok := listing["apikeys"].([]any); ok {
			slices.Reverse(keys)
			body, _ = json.Marshal(listing)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body)
}
