package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// blockers name the check, if any, whose failure leaves a service out of reach.
type blockers struct{ iam, instance string }

// reachHosts checks both hosts in parallel. If both fail at one address, such as
// the sandbox's or a proxy's, that is one cause.
func (d *Doctor) reachHosts(ctx context.Context, shared *findings) blockers {
	iam := &host{name: "iam", url: d.IAMURL, probe: "/identity/keys", peer: network.Peer{Variable: "IAM_URL"}}
	instance := &host{name: "secrets-manager", url: d.SecretsManagerURL, probe: "/", peer: network.Peer{Variable: "SECRETS_MANAGER_URL", Instance: true}}
	var both sync.WaitGroup
	both.Go(func() { d.reach(ctx, iam) })
	both.Go(func() { d.reach(ctx, instance) })
	both.Wait()
	if iam.blocker != "" && instance.blocker != "" && iam.address == instance.address {
		failed := instance.checks
		instance.checks, instance.blocker = nil, iam.blocker
		for _, check := range failed {
			instance.notTried(iam.blocker, check.Name)
		}
	}
	shared.checks = slices.Concat(shared.checks, iam.checks, instance.checks)
	return blockers{iam.blocker, instance.blocker}
}

// host is a service's, and what was found.
type host struct {
	name  string // in the names of its checks
	url   string // an origin
	probe string // a path to ask for without authorization
	peer  network.Peer

	findings
	address string // that was connected to: its own, or a proxy's
	blocker string // the check that failed; empty when requests can be tried
}

// stop adds the failure of a check and skips those that depend on it.
func (h *host) stop(failure error, check string, dependent ...string) {
	h.failed(check, failure)
	h.notTried(check, dependent...)
	h.blocker = check
}

// reach checks name, connection, TLS and clock of a host by one request without
// authorization.
func (d *Doctor) reach(ctx context.Context, h *host) {
	dns, tcp, secure, clock := h.name+"-dns", h.name+"-tcp", h.name+"-tls", h.name+"-clock"
	origin, err := url.Parse(h.url)
	if err != nil {
		origin = &url.URL{} // config has rejected it
	}
	asked := d.now()
	way, err := tryOf(ctx, d.limit, d.ask, h.url+h.probe)
	h.peer.Host = origin.Hostname()
	failure := h.peer.NoAnswer("", err)
	target, called := origin, origin.Hostname()
	if way.proxy != nil { // its URL may hold a password
		target, called = way.proxy, "the proxy "+way.proxy.Hostname()
	}
	h.address = target.Host

	var unknown *net.DNSError
	var dialed *net.OpError
	switch {
	case errors.As(err, &unknown):
		h.stop(failure, dns, tcp, secure, clock)
		return
	case net.ParseIP(target.Hostname()) != nil:
		h.ok(dns, "%s is an address", called)
	case way.connected, errors.As(err, &dialed):
		h.ok(dns, "%s resolves", called)
	default:
		h.skip(dns, "not known, see "+tcp)
	}
	if !way.connected {
		h.stop(failure, tcp, secure, clock)
		return
	}
	port := cmp.Or(target.Port(), map[string]string{"http": "80", "https": "443"}[target.Scheme], "1080")
	h.ok(tcp, "%s accepts connections on port %s", called, port)
	switch {
	case origin.Scheme != "https":
		h.skip(secure, "plain http, which is for loopback only")
	case way.tls == nil:
		h.stop(failure, secure, clock)
		return
	default:
		h.ok(secure, "%s, certificate valid until %s", tls.VersionName(way.tls.Version), day(way.tls.PeerCertificates[0].NotAfter))
	}
	if err != nil {
		h.skip(clock, "no answer to read the time from")
	} else {
		d.compareClocks(&h.findings, clock, called, way.date, asked)
	}
}

// way is how far a request got.
type way struct {
	proxy     *url.URL // nil when the host is reached directly
	connected bool
	tls       *tls.ConnectionState // with the host; nil before the handshake has succeeded
	date      string               // the answer's
}

func (d *Doctor) ask(ctx context.Context, address string) (way, error) {
	var w way
	transport := network.Plain()
	if d.HTTP != nil {
		transport = d.HTTP.Clone()
	}
	defer transport.CloseIdleConnections()
	var connected atomic.Bool
	var secured atomic.Pointer[tls.ConnectionState]
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				connected.Store(true)
			}
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			if err == nil && len(state.PeerCertificates) > 0 {
				secured.Store(&state)
			}
		},
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return w, err
	}
	w.proxy, _ = transport.Proxy(request)
	response, err := transport.RoundTrip(request)
	w.connected, w.tls = connected.Load(), secured.Load()
	if err != nil {
		return w, err
	}
	w.date = response.Header.Get("Date")
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	return w, response.Body.Close()
}

// compareClocks compares our clock with the host's Date header.
func (d *Doctor) compareClocks(f *findings, name, host, date string, asked time.Time) {
	theirs, err := http.ParseTime(date)
	if err != nil {
		f.skip(name, "the host does not show its time")
		return
	}
	// The header has whole seconds; it was written between asking and now.
	ours := asked.Add(d.now().Sub(asked) / 2)
	skew := theirs.Add(500 * time.Millisecond).Sub(ours).Round(time.Second)
	if skew.Abs() <= rotation.MaxClockSkew {
		f.ok(name, "this machine's clock is right within %s", max(time.Second, skew.Abs()))
		return
	}
	f.warn(name, fmt.Sprintf("this machine's clock is off: that of %s less ours is %s", host, skew),
		"set the clock (NTP): tokens seem older or younger than they are, and past some minutes AWS refuses requests")
}
