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

// blockers are the names of the failed checks because of which IAM and Secrets Manager cannot
// be reached; "" if they can.
type blockers struct{ iam, instance string }

// reachHosts checks both hosts in parallel. If both fail at the same address, such as the
// sandbox's or a proxy's, they have one cause, which is shown once.
func (d *Doctor) reachHosts(ctx context.Context, shared *findings) blockers {
	iam := &host{name: "iam", url: d.IAMURL, path: "/identity/keys", peer: network.Peer{Variable: "IAM_URL"}}
	instance := &host{name: "secrets-manager", url: d.SecretsManagerURL, path: "/", peer: network.Peer{Variable: "SECRETS_MANAGER_URL", Instance: true}}
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

// host is the host of a service, and its checks.
type host struct {
	name string // the names of its checks begin with it
	url  string // an origin
	path string // one that needs no authorization
	peer network.Peer

	findings
	address string // the one connected to: the host's own, or a proxy's
	blocker string // the name of the check that failed; "" if none did
}

// stop adds a failed check, and skips the checks that depend on it.
func (h *host) stop(failure error, check string, dependent ...string) {
	h.failed(check, failure)
	h.notTried(check, dependent...)
	h.blocker = check
}

// reach checks a host's name, connection, TLS and clock with one request without authorization.
func (d *Doctor) reach(ctx context.Context, h *host) {
	dns, tcp, secure, clock := h.name+"-dns", h.name+"-tcp", h.name+"-tls", h.name+"-clock"
	origin, err := url.Parse(h.url)
	if err != nil {
		origin = &url.URL{} // config has rejected it
	}
	sent := d.now()
	found, err := tryOf(ctx, d.limit, d.trace, h.url+h.path)
	h.peer.Host = origin.Hostname()
	failure := h.peer.NoAnswer("", err)
	target, targetName := origin, origin.Hostname()
	if found.proxy != nil { // its URL may hold a password
		target, targetName = found.proxy, "the proxy "+found.proxy.Hostname()
	}
	h.address = target.Host

	var unknown *net.DNSError
	var dialed *net.OpError
	switch {
	case errors.As(err, &unknown):
		h.stop(failure, dns, tcp, secure, clock)
		return
	case net.ParseIP(target.Hostname()) != nil:
		h.ok(dns, "%s is an address", targetName)
	case found.connected, errors.As(err, &dialed):
		h.ok(dns, "%s resolves", targetName)
	default:
		h.skip(dns, "not known, see "+tcp)
	}
	if !found.connected {
		h.stop(failure, tcp, secure, clock)
		return
	}
	port := cmp.Or(target.Port(), map[string]string{"http": "80", "https": "443"}[target.Scheme], "1080")
	h.ok(tcp, "%s accepts connections on port %s", targetName, port)
	switch {
	case origin.Scheme != "https":
		h.skip(secure, "plain http, which is for loopback only")
	case found.tls == nil:
		h.stop(failure, secure, clock)
		return
	default:
		h.ok(secure, "%s, certificate valid until %s", tls.VersionName(found.tls.Version), day(found.tls.PeerCertificates[0].NotAfter))
	}
	if err != nil {
		h.skip(clock, "no answer to read the time from")
	} else {
		d.compareClocks(&h.findings, clock, targetName, found.date, sent)
	}
}

// route is how far a request got on its way to a host.
type route struct {
	proxy     *url.URL // nil if no proxy is used
	connected bool
	tls       *tls.ConnectionState // with the host; nil before the handshake has succeeded
	date      string               // the answer's
}

// trace sends a GET request and records its route. It returns the error of the request.
func (d *Doctor) trace(ctx context.Context, address string) (route, error) {
	var found route
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
		return found, err
	}
	found.proxy, _ = transport.Proxy(request)
	response, err := transport.RoundTrip(request)
	found.connected, found.tls = connected.Load(), secured.Load()
	if err != nil {
		return found, err
	}
	found.date = response.Header.Get("Date")
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	return found, response.Body.Close()
}

// compareClocks compares this machine's clock with the host's Date header.
func (d *Doctor) compareClocks(f *findings, name, host, date string, sent time.Time) {
	theirs, err := http.ParseTime(date)
	if err != nil {
		f.skip(name, "the host does not show its time")
		return
	}
	// The header has whole seconds, and was written between sent and now.
	ours := sent.Add(d.now().Sub(sent) / 2)
	skew := theirs.Add(500 * time.Millisecond).Sub(ours).Round(time.Second)
	if skew.Abs() <= rotation.MaxClockSkew {
		f.ok(name, "this machine's clock is right within %s", max(time.Second, skew.Abs()))
		return
	}
	direction := map[bool]string{true: "ahead of", false: "behind"}[skew < 0]
	f.warn(name, fmt.Sprintf("this machine's clock is off: it is %s %s the clock of %s", skew.Abs(), direction, host),
		"set the clock (NTP): tokens seem older or younger than they are, and past some minutes AWS refuses requests")
}
