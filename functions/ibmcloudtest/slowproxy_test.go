package ibmcloudtest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestSlowProxyAddsRoundTrips(t *testing.T) {
	const roundTrip = 100 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer server.Close()
	proxy, err := NewSlowProxy(strings.TrimPrefix(server.URL, "http://"), roundTrip)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proxy.Close() }()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		name  string
		trips time.Duration
	}{{"connecting and asking", 2}, {"asking", 1}} {
		began := time.Now()
		response, err := client.Post("http://"+proxy.Addr(), "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if string(body) != "hello" {
			t.Errorf("got %q, want hello", body)
		}
		// A lower bound holds on a slow machine too.
		if took := time.Since(began); took < test.trips*roundTrip {
			t.Errorf("%s took %s, want at least %d round trips", test.name, took, test.trips)
		}
	}
	if got := proxy.Connections(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}
