package network

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestMain sets a proxy before net/http reads the environment, which it does once.
func TestMain(m *testing.M) {
	if err := os.Setenv("HTTP_PROXY", "http://proxy.test:3128"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// counting serves HTTPS and counts the connections made to it. A request for /abort gets
// no answer.
func counting(t *testing.T) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
	}))
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

func wantConnections(t *testing.T, connections *atomic.Int32, want int32, when string) {
	t.Helper()
	if got := connections.Load(); got != want {
		t.Errorf("%s: got %d connections, want %d", when, got, want)
	}
}

// trusting returns a Transport that trusts the server and whose clock is now.
func trusting(t *testing.T, server *httptest.Server, now func() time.Time) *Transport {
	t.Helper()
	transport := New()
	transport.now = now
	transport.dialer.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func send(transport *Transport, method, url, body string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return response, response.Body.Close()
}

func get(t *testing.T, transport *Transport, url string) *http.Response {
	t.Helper()
	response, err := send(transport, http.MethodGet, url, "")
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func TestAFrozenProcessUsesNoOldConnection(t *testing.T) {
	server, connections := counting(t)
	var frozen time.Duration
	transport := trusting(t, server, func() time.Time { return time.Now().Add(frozen) })
	for _, step := range []struct {
		frozen time.Duration
		want   int32
	}{{0, 1}, {89 * time.Second, 1}, {91*time.Second + 89*time.Second, 2}} {
		frozen = step.frozen
		get(t, transport, server.URL)
		wantConnections(t, connections, step.want, "after "+step.frozen.String())
	}
}

func TestAFailedRequestDropsItsNeighbours(t *testing.T) {
	for _, failing := range []string{"https://127.0.0.1:1/", "/abort"} {
		server, connections := counting(t)
		transport := trusting(t, server, time.Now)
		get(t, transport, server.URL)
		if strings.HasPrefix(failing, "/") {
			failing = server.URL + failing
		}
		if _, err := send(transport, http.MethodGet, failing, ""); err == nil {
			t.Fatalf("%s is answered", failing)
		}
		get(t, transport, server.URL)
		wantConnections(t, connections, 2, "a new one after the failure")
	}
}

func TestRequestsSideBySideShareAConnection(t *testing.T) {
	server, connections := counting(t)
	transport := trusting(t, server, time.Now)
	eight := func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if response, err := send(transport, http.MethodPost, server.URL, "x"); err != nil || response.ProtoMajor != 2 {
					t.Errorf("got %v, want an answer over HTTP/2", err)
				}
			})
		}
		all.Wait()
	}
	eight()
	before := connections.Load()
	if before < 1 || before > 8 {
		t.Errorf("got %d connections", before)
	}
	eight()
	wantConnections(t, connections, before, "the second time, none more")
}

// Over HTTP/1.1 a connection takes one request at a time.
func TestRequestsOverHTTP1EachHaveAConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Millisecond) }))
	t.Cleanup(server.Close)
	transport := trusting(t, httptest.NewTLSServer(http.NotFoundHandler()), time.Now)
	for range 5 {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := send(transport, http.MethodPost, server.URL, "x"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if got := len(transport.conns[server.URL]); got > 20 {
		t.Errorf("got %d connections, want at most the 20 that were needed at once", got)
	}
}

func TestPreconnectServesTheFirstRequest(t *testing.T) {
	server, connections := counting(t)
	transport := trusting(t, server, time.Now)
	transport.Preconnect(server.URL)
	<-transport.conns[server.URL][0].ready
	wantConnections(t, connections, 1, "before any request")
	get(t, transport, server.URL)
	wantConnections(t, connections, 1, "the early one is used")
}

func TestAnUnusedConnectionThatIsOldOrFailedIsNotUsed(t *testing.T) {
	server, connections := counting(t)
	var later time.Duration
	transport := trusting(t, server, func() time.Time { return time.Now().Add(later) })
	transport.Preconnect(server.URL)
	<-transport.conns[server.URL][0].ready
	later = unusedLimit + time.Second
	get(t, transport, server.URL)
	wantConnections(t, connections, 2, "a new one")
	failed := &conn{ready: make(chan struct{}), err: net.ErrClosed, last: transport.now()}
	close(failed.ready)
	transport.conns[server.URL] = []*conn{failed}
	get(t, transport, server.URL)
}

func TestPreconnectIsNotMadeInTheClearOrToNowhere(t *testing.T) {
	transport := New()
	transport.Preconnect("http://127.0.0.1:1", "", "://", "ftp://127.0.0.1", "https://")
	if got := len(transport.conns); got != 0 {
		t.Errorf("got %d early connections, want none", got)
	}
}

func TestTLS12IsTheLeast(t *testing.T) {
	for version, accepted := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		server.Config.ErrorLog = nil
		server.StartTLS()
		if _, err := send(trusting(t, server, time.Now), http.MethodGet, server.URL, ""); (err == nil) != accepted {
			t.Errorf("%s: got %v, want accepted %t", tls.VersionName(version), err, accepted)
		}
		server.Close()
	}
}

func TestPlainHTTPGoesToNoProxy(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "http://169.254.170.2/credentials", nil)
	if proxy, err := (target{request.URL}).proxy(); proxy != nil || err != nil {
		t.Errorf("got %v, %v; want no proxy", proxy, err)
	}
}

// hostileHTTP1 answers the first request of a connection, so that the connection is
// kept, and does with the second what end says.
func hostileHTTP1(t *testing.T, end func(net.Conn)) (url string, received *atomic.Int32) {
	t.Helper()
	received = new(atomic.Int32)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	serve := func(connection net.Conn) {
		defer func() { _ = connection.Close() }()
		buffer := make([]byte, 64<<10)
		for first := true; ; first = false {
			n, err := connection.Read(buffer)
			if err != nil {
				return
			}
			received.Add(int32(bytes.Count(buffer[:n], []byte(" HTTP/1.1\r\n"))))
			if !first {
				end(connection)
				return
			}
			_, _ = io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(connection)
		}
	}()
	return "http://" + listener.Addr().String(), received
}

// Types of HTTP/2 frames (RFC 9113, 6).
const (
	frameHeaders   = 1
	frameRSTStream = 3
	frameSettings  = 4
	frameGoAway    = 7
)

// writeFrame writes a frame whose payload is words of 32 bits.
func writeFrame(w io.Writer, kind byte, stream uint32, payload ...uint32) {
	frame := []byte{0, 0, byte(4 * len(payload)), kind, 0}
	for _, word := range append([]uint32{stream}, payload...) {
		frame = binary.BigEndian.AppendUint32(frame, word)
	}
	_, _ = w.Write(frame)
}

// hostileHTTP2 answers each request with what end writes.
func hostileHTTP2(t *testing.T, end func(w io.Writer, stream uint32)) (server *httptest.Server, received *atomic.Int32) {
	t.Helper()
	received = new(atomic.Int32)
	server = httptest.NewUnstartedServer(http.NotFoundHandler())
	server.EnableHTTP2 = true
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": func(_ *http.Server, connection *tls.Conn, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, connection, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
		writeFrame(connection, frameSettings, 0)
		header := make([]byte, 9)
		for {
			if _, err := io.ReadFull(connection, header); err != nil {
				return
			}
			length := int64(header[0])<<16 | int64(header[1])<<8 | int64(header[2])
			_, _ = io.CopyN(io.Discard, connection, length)
			if header[3] == frameHeaders {
				received.Add(1)
				end(connection, binary.BigEndian.Uint32(header[5:]))
			}
		}
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, received
}

// TestARequestIsSentOnce holds the Transport to it with servers that make
// http.Transport repeat one, up to seven times.
func TestARequestIsSentOnce(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"closed": func(net.Conn) {},
		"reset":  func(connection net.Conn) { _ = connection.(*net.TCPConn).SetLinger(0) },
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run("HTTP/1.1 "+name+" "+method, func(t *testing.T) {
				url, received := hostileHTTP1(t, end)
				transport := New()
				get(t, transport, url)
				if _, err := send(transport, method, url, strings.Repeat("x", map[string]int{"POST": 1}[method])); err == nil {
					t.Error("got no error")
				}
				if got := received.Load(); got != 2 {
					t.Errorf("the server received %d requests, want the 2 that were made", got)
				}
			})
		}
	}
	reset := func(code uint32) func(io.Writer, uint32) {
		return func(w io.Writer, stream uint32) { writeFrame(w, frameRSTStream, stream, code) }
	}
	goAway := func(code uint32) func(io.Writer, uint32) {
		return func(w io.Writer, _ uint32) { writeFrame(w, frameGoAway, 0, 0, code) }
	}
	for name, end := range map[string]func(io.Writer, uint32){
		"GOAWAY": goAway(0), "GOAWAY ENHANCE_YOUR_CALM": goAway(11),
		"PROTOCOL_ERROR": reset(1), "REFUSED_STREAM": reset(7), "CANCEL": reset(8), "HTTP_1_1_REQUIRED": reset(13),
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(fmt.Sprintf("HTTP/2 %s %s", name, method), func(t *testing.T) {
				server, received := hostileHTTP2(t, end)
				transport := trusting(t, server, time.Now)
				for range 2 {
					if _, err := send(transport, method, server.URL, "body"); err == nil {
						t.Error("got no error")
					}
				}
				if got := received.Load(); got != 2 {
					t.Errorf("the server received %d requests, want the 2 that were made", got)
				}
			})
		}
	}
}

func started(t *testing.T, http2 bool, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestLargeHeadersAreRejected(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		server := started(t, http2, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Large", strings.Repeat("x", 40<<10)) })
		if _, err := send(trusting(t, server, time.Now), http.MethodGet, server.URL, ""); err == nil {
			t.Errorf("HTTP/2 %t: got no error", http2)
		}
	}
}

func TestASlowBodyEndsWithTheContext(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		server := started(t, http2, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := trusting(t, server, time.Now).RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := ReadBody(response, SmallAnswer); !errors.Is(err, context.DeadlineExceeded) || len(body) == 0 {
			t.Errorf("%s: got %d bytes, %v; want some, and the end of the context", response.Proto, len(body), err)
		}
	}
}
