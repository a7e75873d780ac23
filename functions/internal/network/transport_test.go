package network

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log"
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

// started starts a server with TLS.
func started(t *testing.T, http2 bool, handler http.HandlerFunc, changes ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, change := range changes {
		change(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// trusting returns a Transport that trusts the server.
func trusting(t *testing.T, server *httptest.Server) *Transport {
	t.Helper()
	transport := New()
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

// line is a Transport and the one server that it talks to, which counts connections.
type line struct {
	*testing.T
	*Transport
	url  string
	made atomic.Int32
	late time.Duration // of the wall clock
}

func newLine(t *testing.T) *line {
	t.Helper()
	l := &line{T: t}
	server := started(t, true, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
	}, func(server *httptest.Server) {
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				l.made.Add(1)
			}
		}
	})
	l.url, l.Transport = server.URL, trusting(t, server)
	l.now = func() time.Time { return time.Now().Add(l.late) }
	return l
}

// get makes a request, and checks how many connections were made up to then.
func (l *line) get(want int32) {
	l.Helper()
	if _, err := send(l.Transport, http.MethodGet, l.url, ""); err != nil {
		l.Fatal(err)
	}
	l.want(want)
}

func (l *line) want(want int32) {
	l.Helper()
	if got := l.made.Load(); got != want {
		l.Errorf("%d connections were made, want %d", got, want)
	}
}

func (l *line) preconnect() {
	l.Preconnect(l.url)
	<-l.conns[0].ready
	l.want(1)
}

func TestConnections(t *testing.T) {
	for name, test := range map[string]func(*line){
		"a frozen process uses no connection from before": func(l *line) {
			l.get(1)
			for range 2 { // the time counts from the last use
				l.late += 89 * time.Second
				l.get(1)
			}
			l.late += 91 * time.Second
			l.get(2)
		},
		"after a failed request all are replaced": func(l *line) {
			for n, failing := range []string{"https://127.0.0.1:1/", l.url + "/abort"} {
				l.get(int32(n) + 1)
				if _, err := send(l.Transport, http.MethodGet, failing, ""); err == nil {
					l.Fatalf("%s is answered", failing)
				}
				l.get(int32(n) + 2)
			}
		},
		"the first request uses an early one": func(l *line) { l.preconnect(); l.get(1) },
		"an early one that is old is not used": func(l *line) {
			l.preconnect()
			l.late = unusedLimit + time.Second
			l.get(2)
		},
		"one that failed is not used": func(l *line) {
			failed := &conn{to: l.url, ready: make(chan struct{}), err: net.ErrClosed, last: l.now(), limit: unusedLimit}
			close(failed.ready)
			l.conns = []*conn{failed}
			l.get(1)
		},
		"one that a request did not wait for is not used": func(l *line) {
			ctx, cancel := context.WithCancel(l.Context())
			cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
			if err != nil {
				l.Fatal(err)
			}
			if _, err := l.RoundTrip(request); !errors.Is(err, context.Canceled) || len(l.conns) > 0 {
				l.Errorf("got %v and %d connections, want the end of the context and none", err, len(l.conns))
			}
			if _, err := send(l.Transport, http.MethodGet, l.url, ""); err != nil {
				l.Error(err)
			}
		},
		"requests side by side share one": func(l *line) {
			eight := func() {
				var all sync.WaitGroup
				for range 8 {
					all.Go(func() {
						if response, err := send(l.Transport, http.MethodPost, l.url, "x"); err != nil || response.ProtoMajor != 2 {
							l.Errorf("got %v, want an answer over HTTP/2", err)
						}
					})
				}
				all.Wait()
			}
			eight()
			before := l.made.Load()
			eight()
			l.want(before)
		},
	} {
		t.Run(name, func(t *testing.T) { test(newLine(t)) })
	}
}

// Over HTTP/1.1 a connection takes one request at a time.
func TestRequestsOverHTTP1EachHaveAConnection(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(time.Millisecond) }))
	t.Cleanup(server.Close)
	transport := New()
	t.Cleanup(transport.CloseIdleConnections)
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
	if got := len(transport.conns); got > 20 {
		t.Errorf("got %d connections, want at most the 20 that were needed at once", got)
	}
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
		server := started(t, false, http.NotFound, func(server *httptest.Server) {
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		})
		if _, err := send(trusting(t, server), http.MethodGet, server.URL, ""); (err == nil) != accepted {
			t.Errorf("%s: got %v, want accepted %t", tls.VersionName(version), err, accepted)
		}
	}
}

func TestPlainHTTPGoesToNoProxy(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "http://169.254.170.2/credentials", nil)
	if proxy, err := (target{request.URL}).proxy(); proxy != nil || err != nil {
		t.Errorf("got %v, %v; want no proxy", proxy, err)
	}
}

// hostileHTTP1 answers the first request of a connection, so that the connection is kept, and
// calls end for the second.
func hostileHTTP1(t *testing.T, end func(net.Conn)) (url string, received *atomic.Int32) {
	t.Helper()
	received = new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if received.Add(1) == 1 {
			return
		}
		if connection, _, err := http.NewResponseController(w).Hijack(); err == nil {
			end(connection)
			_ = connection.Close()
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, received
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

// hostileHTTP2 answers each request with the frames that end writes.
func hostileHTTP2(t *testing.T, end func(w io.Writer, stream uint32)) (server *httptest.Server, received *atomic.Int32) {
	t.Helper()
	received = new(atomic.Int32)
	serve := func(_ *http.Server, connection *tls.Conn, _ http.Handler) {
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
	}
	return started(t, true, http.NotFound, func(server *httptest.Server) {
		server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": serve}
	}), received
}

// Two requests are sent once each, to servers that make http.Transport repeat one up to seven
// times.
func TestARequestIsSentOnce(t *testing.T) {
	closed := func(net.Conn) {}
	resetTCP := func(connection net.Conn) { _ = connection.(*net.TCPConn).SetLinger(0) }
	reset := func(code uint32) func(io.Writer, uint32) {
		return func(w io.Writer, stream uint32) { writeFrame(w, frameRSTStream, stream, code) }
	}
	goAway := func(code uint32) func(io.Writer, uint32) {
		return func(w io.Writer, _ uint32) { writeFrame(w, frameGoAway, 0, 0, code) }
	}
	for name, test := range map[string]struct {
		http1 func(net.Conn)
		http2 func(io.Writer, uint32)
	}{
		"HTTP/1.1, closed": {http1: closed}, "HTTP/1.1, reset": {http1: resetTCP},
		"GOAWAY": {http2: goAway(0)}, "GOAWAY ENHANCE_YOUR_CALM": {http2: goAway(11)},
		"PROTOCOL_ERROR": {http2: reset(1)}, "REFUSED_STREAM": {http2: reset(7)}, "CANCEL": {http2: reset(8)}, "HTTP_1_1_REQUIRED": {http2: reset(13)},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+" "+method, func(t *testing.T) {
				var url string
				var received *atomic.Int32
				transport := New()
				if test.http1 != nil {
					url, received = hostileHTTP1(t, test.http1)
				} else {
					var server *httptest.Server
					server, received = hostileHTTP2(t, test.http2)
					url, transport = server.URL, trusting(t, server)
				}
				_, first := send(transport, http.MethodGet, url, "")
				_, second := send(transport, method, url, map[string]string{http.MethodPost: "body"}[method])
				if (first == nil) != (test.http1 != nil) || second == nil {
					t.Errorf("got %v, then %v; want failures", first, second)
				}
				if got := received.Load(); got != 2 {
					t.Errorf("the server received %d requests, want the 2 that were made", got)
				}
			})
		}
	}
}

func TestLargeHeadersAreRejected(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		server := started(t, http2, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Large", strings.Repeat("x", 40<<10)) })
		if _, err := send(trusting(t, server), http.MethodGet, server.URL, ""); err == nil {
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
		response, err := trusting(t, server).RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := ReadBody(response, SmallAnswer); !errors.Is(err, context.DeadlineExceeded) || len(body) == 0 {
			t.Errorf("%s: got %d bytes, %v; want some, and the end of the context", response.Proto, len(body), err)
		}
	}
}
