// Package ibmcloud adapts IBM's SDKs to the rotation: IAM for the exchange,
// Secrets Manager for the key and the token, and the bootstrap identity that
// opens Secrets Manager.
//
// The SDKs are used for requests and types only. Their token cache, their
// retries, their own connection pools and their error texts are not: the cache
// hands out ageing tokens, the retries repeat a save whose answer was lost, and
// the texts repeat whatever a service answered.
package ibmcloud

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"iam-token-rotator/functions/internal/rotation"
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

// bodyLimit bounds what is read of an answer: the largest secret is 1,000,000
// characters, which JSON may write in up to 6 bytes each.
const bodyLimit = 6_000_000 + 64<<10

var (
	errBodyTooLong = errors.New("an answer longer than the service may give")
	errSuspended   = errors.New("the process was suspended before the request left")
)

// answer is what came back over the wire for one SDK call. It is kept beside the
// SDK's own account, which loses the status of some failures, hides others
// behind a nil error and copies foreign text into its messages.
type answer struct {
	status int // 0 when no answer came
	header http.Header
	body   []byte
	skew   time.Duration // the server's clock less ours; 0 when it did not tell
	err    error         // why no answer came
}

type answerKey struct{}

// withAnswer returns a context under which recorder notes the answer; a caller
// that has asked for it already shares it.
func withAnswer(ctx context.Context) (context.Context, *answer) {
	if got, ok := ctx.Value(answerKey{}).(*answer); ok {
		return ctx, got
	}
	got := &answer{}
	return context.WithValue(ctx, answerKey{}, got), got
}

// recorder is the RoundTripper below every SDK client. It reads each body whole,
// through a limit, and notes the answer for the call that asked.
type recorder struct {
	base http.RoundTripper
	now  func() time.Time
}

// RoundTrip implements http.RoundTripper.
func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	got, ok := req.Context().Value(answerKey{}).(*answer)
	if !ok {
		got = &answer{}
	}
	if latest, ok := rotation.WallDeadline(req.Context()); ok && r.now().Round(0).After(latest) {
		got.err = errSuspended
		return nil, errSuspended
	}
	sent := r.now().Round(0)
	response, err := r.base.RoundTrip(req)
	if err != nil {
		got.err = err
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, bodyLimit+1))
	if err == nil && len(body) > bodyLimit {
		err = errBodyTooLong
	}
	if err != nil {
		got.err = err
		return nil, err
	}
	got.status, got.header, got.body = response.StatusCode, response.Header, body
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		got.skew = clockSkew(date, sent, r.now().Round(0))
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// clockSkew is how far the clock of a server that wrote date is off ours at least:
// it wrote it at some time between sent and received, which are far apart when the
// process was frozen meanwhile.
func clockSkew(date, sent, received time.Time) time.Duration {
	return max(date.Sub(received), min(0, date.Sub(sent)))
}

// client returns an HTTP client for SDK calls whose requests bear their context.
func (r recorder) client() *http.Client {
	return &http.Client{Transport: r, CheckRedirect: refuseRedirect}
}

// boundClient returns an HTTP client for one SDK call that takes no context.
func (r recorder) boundClient(ctx context.Context) *http.Client {
	return &http.Client{Transport: bound{ctx, r}, CheckRedirect: refuseRedirect}
}

// bound gives a context to the requests of an SDK call that takes none.
type bound struct {
	ctx  context.Context
	base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.base.RoundTrip(req.WithContext(b.ctx))
}

// retryAfter is the wait that the service asked for, in seconds or as a date; 0
// when it asked for none.
func (a *answer) retryAfter(now time.Time) time.Duration {
	value := a.header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(0, min(seconds, 3600))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}

// guard calls an SDK and turns its panics into errors: the SDKs index into
// answers without looking ({"errors":[]} is enough), and one odd answer must not
// end the other rotations of a run. The panic's value may hold a part of the
// answer, so only its type is told.
func guard[T any](call func() (T, error)) (result T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("IBM's SDK panicked with a %T", r)
		}
	}()
	return call()
}
