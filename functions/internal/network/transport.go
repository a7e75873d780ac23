// Package network connects the function to other hosts: its connections, the check
// of the settings that lead there, and why no answer came.
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
	// dialLimit bounds connecting and, apart from it, the TLS handshake.
	dialLimit = 5 * time.Second
	// idleLimit is how long a connection may be unused before it is dropped.
	idleLimit = 90 * time.Second
	// unusedLimit is the same for one that no request has used yet: servers wait
	// for a first request less long than for a next one.
	unusedLimit = 30 * time.Second
)

// Transport holds the connections that all clients share. It sends a request at
// most once: http.Transport repeats, below every limiter, what a server answers
// with GOAWAY, REFUSED_STREAM or a reset. It honours HTTPS_PROXY and NO_PROXY,
// speaks HTTP/2 and HTTP/1.1 over TLS 1.2 or later, and asks for no compression.
//
// After a failed request no other uses a connection made before: what broke one
// may have broken its neighbours.
type Transport struct {
	dialer *http.Transport // for its connections alone: it has no pool
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

// Plain returns a transport of package net/http with the settings of a Transport's
// connections, for a request whose way to a host is traced.
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
		DisableCompression:     true, // an answer is no larger than what crosses the wire
		IdleConnTimeout:        idleLimit,
		MaxResponseHeaderBytes: 32 << 10,
		// A connection whose other end has gone is noticed by a ping, not by
		// the next request waiting for its whole attempt.
		// What has arrived and is not yet read stays within the receive buffers.
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

// Preconnect begins a connection to each https origin, ahead of the first request
// to it. Errors are left to the requests, which dial again.
func (t *Transport) Preconnect(origins ...string) {
	for _, origin := range origins {
		if parsed, err := url.Parse(origin); err == nil && parsed.Scheme == "https" && parsed.Hostname() != "" {
			t.dial(target{parsed}, false)
		}
	}
}

// CloseIdleConnections closes every connection: one with requests on it as soon as
// those have ended, and no further request uses it.
func (t *Transport) CloseIdleConnections() { t.keep(func(*conn) bool { return false }) }

// conn is a connection, or the attempt to make one.
type conn struct {
	to               string        // scheme and address
	ready            chan struct{} // closed when the next two are set
	err              error
	*http.ClientConn // not usable when err is set

	last  time.Time     // of its use, or when it was begun, by the wall clock; guarded by Transport.mu
	limit time.Duration // for how long it may be unused; likewise
}

// reserve returns a connection that will take one request. It drops those that are stale by
// the wall clock: other timers stop while a process is frozen between two invocations.
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

// keep drops the connections that are not wanted, and returns the others.
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

// dial begins a connection, with a place reserved on it for the request that wants
// it. It continues for the next request when that one has given up, and ends by the
// dialer's limits.
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

// targetOf returns the target of a dial: what http.Transport asks a proxy for
// lacks the port.
func targetOf(ctx context.Context) target { return ctx.Value(targetKey{}).(target) }

func (to target) key() string { return to.Scheme + "://" + to.address() }

func (to target) address() string {
	port := to.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[to.Scheme]
	}
	return net.JoinHostPort(to.Hostname(), port)
}

// proxy is the environment's for requests over TLS. Plain http goes to this machine and
// to where AWS gives a role's credentials: no proxy may see those requests or their answers.
func (to target) proxy() (*url.URL, error) {
	if to.Scheme == "http" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(&http.Request{URL: to.URL})
}
