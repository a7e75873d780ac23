package ibmcloud

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// counting serves HTTPS and counts the connections made to it.
func counting(t *testing.T) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, &connections
}

// trusting returns a transport that trusts the server and whose clock is now.
func trusting(t *testing.T, server *httptest.Server, now func() time.Time) *Transport {
	t.Helper()
	transport := NewTransport()
	transport.now, transport.early.now = now, now
	pool := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	transport.early.dialer.Config.RootCAs = pool
	t.Cleanup(transport.pool.CloseIdleConnections)
	return transport
}

func get(t *testing.T, transport *Transport, url string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response
}

func TestAProcessThatWasFrozenUsesNoOldConnection(t *testing.T) {
	server, connections := counting(t)
	var frozen time.Duration
	transport := trusting(t, server, func() time.Time { return time.Now().Add(frozen) })
	for _, step := range []struct {
		frozen time.Duration
		want   int32
	}{{0, 1}, {89 * time.Second, 1}, {91*time.Second + 89*time.Second, 2}} {
		frozen = step.frozen
		get(t, transport, server.URL)
		if got := connections.Load(); got != step.want {
			t.Errorf("after %s: got %d connections, want %d", step.frozen, got, step.want)
		}
	}
}

// A connection that fails tells of the others: what broke it broke them.
func TestAFailedRequestDropsItsNeighbours(t *testing.T) {
	server, connections := counting(t)
	transport := trusting(t, server, time.Now)
	get(t, transport, server.URL)
	request, err := http.NewRequest(http.MethodGet, "https://127.0.0.1:1/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := transport.RoundTrip(request); err == nil {
		_ = response.Body.Close()
		t.Fatal("port 1 answers")
	}
	get(t, transport, server.URL)
	if got := connections.Load(); got != 2 {
		t.Errorf("got %d connections, want a new one after the failure", got)
	}
}

func TestAnEarlyConnectionServesTheFirstRequest(t *testing.T) {
	server, connections := counting(t)
	transport := trusting(t, server, time.Now)
	transport.Preconnect(server.URL, server.URL)
	<-transport.early.begun[server.Listener.Addr().String()].done
	if got := connections.Load(); got != 1 {
		t.Fatalf("got %d connections before any request, want 1", got)
	}
	if response := get(t, transport, server.URL); response.ProtoMajor != 2 {
		t.Errorf("got %s, want HTTP/2: look and key read share a connection", response.Proto)
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want the early one used", got)
	}
}

func TestAnEarlyConnectionThatIsOldOrFailedIsNotUsed(t *testing.T) {
	server, connections := counting(t)
	var later time.Duration
	transport := trusting(t, server, func() time.Time { return time.Now().Add(later) })
	transport.Preconnect(server.URL)
	<-transport.early.begun[server.Listener.Addr().String()].done
	later = earlyLimit + time.Second
	get(t, transport, server.URL)
	if got := connections.Load(); got != 2 {
		t.Errorf("got %d connections, want a new one", got)
	}
	failing := trusting(t, server, time.Now)
	address := server.Listener.Addr().String()
	failed := &earlyConnection{done: make(chan struct{}), err: net.ErrClosed, begun: time.Now()}
	close(failed.done)
	failing.early.put(address, failed)
	get(t, failing, server.URL)
}

func TestAnEarlyConnectionIsNotMadeInTheClearOrToNowhere(t *testing.T) {
	transport := NewTransport()
	transport.Preconnect("http://127.0.0.1:1", "", "://", "ftp://127.0.0.1")
	if got := len(transport.early.begun); got != 0 {
		t.Errorf("got %d early connections, want none", got)
	}
}

func TestTLS12IsTheLeast(t *testing.T) {
	for version, accepted := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		server.Config.ErrorLog = nil
		server.StartTLS()
		transport := trusting(t, server, time.Now)
		request, err := http.NewRequest(http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err == nil {
			_ = response.Body.Close()
		}
		if (err == nil) != accepted {
			t.Errorf("%s: got %v, want accepted %t", tls.VersionName(version), err, accepted)
		}
		server.Close()
	}
}

func TestAPanicOfTheSDKIsAnError(t *testing.T) {
	_, err := guard(func() (string, error) {
		var answers []string
		return answers[0], nil
	})
	if err == nil {
		t.Error("got no error")
	}
}

func TestPlainHTTPGoesToNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://proxy.test:3128")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://169.254.170.2/credentials", nil)
	if err != nil {
		t.Fatal(err)
	}
	if proxy, err := NewTransport().pool.Proxy(request); proxy != nil || err != nil {
		t.Errorf("got %v, %v; want no proxy", proxy, err)
	}
}
