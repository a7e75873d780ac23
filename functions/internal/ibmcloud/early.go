package ibmcloud

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// earlyLimit is how old an early connection may be when it is first used.
const earlyLimit = 30 * time.Second

// Preconnect begins a TLS connection to each https origin, ahead of the first
// request to it. A cold pass spends two round trips on each host's handshakes;
// begun together with the process they cost it those of one host, and in part
// fall into the time in which the event is fetched. Errors are left to the
// requests, which dial again. Behind a proxy it does nothing.
func (t *Transport) Preconnect(origins ...string) {
	for _, origin := range origins {
		target, err := url.Parse(origin)
		if err != nil || target.Scheme != "https" {
			continue
		}
		if proxy, err := t.pool.Proxy(&http.Request{URL: target}); err != nil || proxy != nil {
			continue
		}
		port := target.Port()
		if port == "" {
			port = "443"
		}
		t.early.begin(net.JoinHostPort(target.Hostname(), port))
	}
}

// earlyConnections are connections that no request has used yet.
type earlyConnections struct {
	dialer *tls.Dialer
	now    func() time.Time

	mu    sync.Mutex
	begun map[string]*earlyConnection // by address
}

type earlyConnection struct {
	done  chan struct{}
	conn  net.Conn
	err   error
	begun time.Time // by the wall clock
}

func (e *earlyConnections) begin(address string) {
	early := &earlyConnection{done: make(chan struct{}), begun: e.now().Round(0)}
	if !e.put(address, early) {
		return
	}
	go func() {
		defer close(early.done)
		ctx, cancel := context.WithTimeout(context.Background(), 2*dialLimit)
		defer cancel()
		early.conn, early.err = e.dialer.DialContext(ctx, "tcp", address)
	}()
}

// put reports whether there was none to address yet.
func (e *earlyConnections) put(address string, early *earlyConnection) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun == nil {
		e.begun = map[string]*earlyConnection{}
	}
	if _, taken := e.begun[address]; taken {
		return false
	}
	e.begun[address] = early
	return true
}

// take returns the early connection to address, or nil if there is none.
func (e *earlyConnections) take(address string) *earlyConnection {
	e.mu.Lock()
	defer e.mu.Unlock()
	early := e.begun[address]
	delete(e.begun, address)
	return early
}

// dial is http.Transport's DialTLSContext: the early connection if there is a
// fresh one, else a new one.
func (e *earlyConnections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if early := e.take(address); early != nil {
		select {
		case <-early.done:
		case <-ctx.Done():
			e.put(address, early)
			return nil, ctx.Err()
		}
		if early.err == nil && e.now().Round(0).Sub(early.begun) <= earlyLimit {
			return early.conn, nil
		}
		if early.err == nil {
			_ = early.conn.Close()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dialLimit)
	defer cancel()
	return e.dialer.DialContext(ctx, network, address)
}
