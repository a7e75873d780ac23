// Package network connects the function to other hosts. It holds the connections, checks the
// settings that direct requests, and explains why a request got no answer.
package network

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

const (
	// dialLimit limits the TCP connection and, separately, the TLS handshake.
	dialLimit = 5 * time.Second
	// idleLimit is how long a connection may be unused before it is dropped.
	idleLimit = 90 * time.Second
	// unusedLimit is the same before the first request: servers close a connection sooner
	// that has had none.
	unusedLimit = 30 * time.Second
)

// Transport holds the connections that all clients share. It sends a request at
// most once: http.Transport repeats, below every limiter, what a server answers
// with GOAWAY, REFUSED_STREAM or a reset. It honours HTTPS_PROXY and NO_PROXY,
// speaks HTTP/2 and HTTP/1.1 over TLS 1.2 or later, and asks for no compression.
//
// After a failed request all connections are replaced: what broke one may have broken the
// others.
type Transport struct {
	dialer *http.Transport // only makes connections, and keeps none
	now    func() time.Time

	mu    sync.Mutex
	conns []*conn
}

// New returns a Transport without connections.
func New() *Transport {
	t := &Transport{now: time.Now, dialer: Plain()}
	t.dialer.Proxy = func(req *http.Request) (*url.URL, error) { return targetOf(req.Context()).proxy() }
	return t
}

// Plain returns an http.Transport with the same settings, for doctor, which traces how a
// request reaches its host.
func Plain() *http.Transport {
	return &http.Transport{
		Proxy: func(req *http.Request) (*url.URL, error) { return target{req.URL}.proxy() },
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
			if response.StatusCode != http.StatusOK {
				return proxyRefusal(response.StatusCode)
			}
			return nil
		},
		DialContext:            (&net.Dialer{Timeout: dialLimit, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialLimit,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // an answer takes no more memory than it has bytes on the wire
		IdleConnTimeout:        idleLimit,
		MaxResponseHeaderBytes: 32 << 10,
		// A ping finds out that the other end is gone, before a request waits for the whole
		// of its attempt. The receive buffers limit what has arrived and is not read yet.
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 15 * time.Second, PingTimeout: 3 * time.Second,
			MaxReceiveBufferPerStream: 128 << 10, MaxReceiveBufferPerConnection: 4 << 20,
		},
	}
}

func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	connection, err := t.reserve(req.Context(), target{req.URL})
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		t.CloseIdleConnections()
		return nil, err
	}
	response, err := connection.RoundTrip(req)
	if err != nil {
		t.CloseIdleConnections()
	}
	return response, err
}

// Preconnect begins a connection to each https origin before its first request. It reports no
// error: if the connection fails, the request dials again.
func (t *Transport) Preconnect(origins ...string) {
	for _, origin := range origins {
		if parsed, err := url.Parse(origin); err == nil && parsed.Scheme == "https" && parsed.Hostname() != "" {
			t.dial(target{parsed}, false)
		}
	}
}

// CloseIdleConnections closes every connection. One with requests on it takes no further
// request, and is closed when those have ended.
func (t *Transport) CloseIdleConnections() { t.keep(func(*conn) bool { return false }) }

// conn is a connection, or the attempt to make one.
type conn struct {
	to               string        // scheme and address
	ready            chan struct{} // closed when err and ClientConn are set
	err              error
	*http.ClientConn // not usable when err is set

	// Guarded by Transport.mu.
	last  time.Time     // of its last use, or else when the dial began, by the wall clock
	limit time.Duration // how long after that it may be used
}

// reserve returns a connection with a place for one request. It drops connections that are too
// old by the wall clock, since timers stop while a process is frozen between two invocations.
func (t *Transport) reserve(ctx context.Context, to target) (*http.ClientConn, error) {
	now := t.now().Round(0)
	for _, c := range t.keep(func(c *conn) bool { return now.Sub(c.last) <= c.limit }) {
		if c.to != to.key() {
			continue
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if c.err == nil && c.Reserve() == nil {
			return t.use(c), nil
		}
		if c.err != nil || c.InFlight() == 0 { // closed, or about to be
			t.drop(c)
		}
	}
	c := t.dial(to, true)
	select {
	case <-c.ready:
	case <-ctx.Done():
		go c.release()
		return nil, ctx.Err()
	}
	if c.err != nil {
		t.drop(c)
		return nil, c.err
	}
	return t.use(c), nil
}

func (t *Transport) use(c *conn) *http.ClientConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.last, c.limit = t.now().Round(0), idleLimit
	return c.ClientConn
}

func (t *Transport) drop(dropped *conn) { t.keep(func(c *conn) bool { return c != dropped }) }

// keep returns the wanted connections and drops the others.
func (t *Transport) keep(wanted func(*conn) bool) []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns = slices.DeleteFunc(t.conns, func(c *conn) bool {
		if wanted(c) {
			return false
		}
		go c.closeWhenIdle()
		return true
	})
	return slices.Clone(t.conns)
}

// dial begins a connection, and reserves a place on it if a request waits. If that request
// gives up, the dial goes on for the next one; it ends at the dialer's limits.
func (t *Transport) dial(to target, reserved bool) *conn {
	c := &conn{to: to.key(), ready: make(chan struct{}), last: t.now().Round(0), limit: unusedLimit}
	t.mu.Lock()
	t.conns = append(t.conns, c)
	t.mu.Unlock()
	go func() {
		defer close(c.ready)
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), targetKey{}, to), 2*dialLimit)
		defer cancel()
		c.ClientConn, c.err = t.dialer.NewClientConn(ctx, to.Scheme, to.address())
		if c.err == nil && reserved {
			if c.err = c.Reserve(); c.err != nil {
				_ = c.Close()
			}
		}
	}()
	return c
}

// release gives back the place of a request that has given up.
func (c *conn) release() {
	if <-c.ready; c.err == nil {
		c.Release()
	}
}

func (c *conn) closeWhenIdle() {
	<-c.ready
	if c.err != nil {
		return
	}
	closeIfIdle := func(connection *http.ClientConn) {
		if connection.InFlight() == 0 {
			_ = connection.Close()
		}
	}
	c.SetStateHook(closeIfIdle)
	closeIfIdle(c.ClientConn)
}

// target is where a request goes.
type target struct{ *url.URL }

type targetKey struct{}

// targetOf returns the target of a dial, from its context: the request that http.Transport
// passes to Proxy has no port.
func targetOf(ctx context.Context) target { return ctx.Value(targetKey{}).(target) }

func (to target) key() string { return to.Scheme + "://" + to.address() }

func (to target) address() string {
	port := to.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[to.Scheme]
	}
	return net.JoinHostPort(to.Hostname(), port)
}

// proxy returns the environment's proxy for https. Plain http goes only to this machine and to
// AWS's endpoints for a role's credentials: no proxy may see those requests or their answers.
func (to target) proxy() (*url.URL, error) {
	if to.Scheme == "http" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(&http.Request{URL: to.URL})
}
