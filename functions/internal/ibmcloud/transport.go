package ibmcloud

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	// idleLimit is how long a connection may lie unused before it is dropped.
	idleLimit = 90 * time.Second
	// dialLimit bounds connecting and, apart from it, the TLS handshake.
	dialLimit = 5 * time.Second
)

// Transport is the one connection pool that all clients share. It honours
// HTTPS_PROXY and NO_PROXY, and TLS 1.2 is the least it speaks.
type Transport struct {
	pool  *http.Transport
	early earlyConnections
	now   func() time.Time

	mu   sync.Mutex
	last time.Time // of the last request, by the wall clock
}

// NewTransport returns a pool without connections.
func NewTransport() *Transport {
	t := &Transport{now: time.Now}
	t.early.now = t.now
	t.early.dialer = &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialLimit, KeepAlive: 15 * time.Second},
		Config:    &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
	}
	t.pool = &http.Transport{
		Proxy:                  proxy,
		DialContext:            t.early.dialer.NetDialer.DialContext,
		DialTLSContext:         t.early.dial,
		TLSClientConfig:        t.early.dialer.Config, // behind a proxy, where DialTLSContext is not asked
		TLSHandshakeTimeout:    dialLimit,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        idleLimit,
		MaxResponseHeaderBytes: 64 << 10,
		// A connection whose other end has gone is noticed by a ping, not by
		// the next request waiting for its whole attempt.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 3 * time.Second},
	}
	return t
}

// proxy is the environment's for what goes over TLS. Plain http is for this machine
// and for the endpoint from which a container on AWS has its credentials: neither
// they nor what asks for them is for a proxy to see.
func proxy(req *http.Request) (*url.URL, error) {
	if req.URL.Scheme == "http" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(req)
}

// RoundTrip implements http.RoundTripper. Connections that are stale by the wall
// clock are dropped first: the pool's own timers stand still while a process is
// frozen between two invocations.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.idleTooLong() {
		t.pool.CloseIdleConnections()
	}
	response, err := t.pool.RoundTrip(req)
	if err != nil {
		t.pool.CloseIdleConnections() // its neighbours may be as dead
	}
	return response, err
}

func (t *Transport) idleTooLong() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now().Round(0)
	stale := !t.last.IsZero() && now.Sub(t.last) > idleLimit
	t.last = now
	return stale
}

// refuseRedirect keeps keys and tokens at the host they were meant for: a 3xx
// is returned as the answer.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// describe says in our own words why no answer came.
func (o operation) describe(err error) string {
	host := o.host
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "the run was interrupted before an answer came"
	case errors.Is(err, errBodyTooLong):
		return fmt.Sprintf("%s gave %v", host, errBodyTooLong)
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s does not resolve: check the URL and the network's DNS.%s", host, o.privateOnly())
	case errors.As(err, &cert):
		return fmt.Sprintf("the TLS certificate of %s is not trusted: check the URL, or name the CA in SSL_CERT_FILE", host)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("%s did not answer in time: is it reachable from this network?%s", host, o.privateOnly())
	default:
		return fmt.Sprintf("the connection to %s failed or was closed before an answer came: nothing to do unless it goes on; then check the URL and what is in between", host)
	}
}

// privateOnly reminds of what most often makes an instance unreachable.
func (o operation) privateOnly() string {
	if !o.instance {
		return ""
	}
	return " Instances made since April 2025 are private-only, out of reach outside IBM Cloud, unless created with public-and-private endpoints"
}
