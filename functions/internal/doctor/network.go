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
	"sync"
	"sync/atomic"
	"time"

	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// Host is a service's.
type Host struct {
	Name     string // in the names of its checks: "iam", "secrets-manager"
	Variable string // that names it: "IAM_URL"
	Origin   string // without a path
	Probe    string // a path to ask for without authorization
	Instance bool   // a Secrets Manager instance, which may be private-only
}

// blockers name the check, if any, whose failure leaves a service out of reach.
type blockers struct{ iam, instance string }

// reachHosts checks both hosts in parallel. If both fail at one address, such as
// the sandbox's or a proxy's, that is one cause.
func (d *Doctor) reachHosts(ctx context.Context, shared *findings) blockers {
	var blocked blockers
	var iamAddress, instanceAddress string
	iam, instance := &findings{}, &findings{}
	var both sync.WaitGroup
	both.Go(func() { blocked.iam, iamAddress = d.reach(ctx, iam, d.IAMHost) })
	both.Go(func() { blocked.instance, instanceAddress = d.reach(ctx, instance, d.InstanceHost) })
	both.Wait()
	if blocked.iam != "" && blocked.instance != "" && iamAddress == instanceAddress {
		failed := instance.checks
		instance.checks, blocked.instance = nil, blocked.iam
		for _, check := range failed {
			instance.notTried(blocked.iam, check.Name)
		}
	}
	shared.checks = append(append(shared.checks, iam.checks...), instance.checks...)
	return blocked
}

// reach checks name, connection, TLS and clock of a host by one request without
// authorization. It returns the name of the check that failed, empty when requests
// can be tried, and the address that was connected to.
func (d *Doctor) reach(ctx context.Context, f *findings, host Host) (blocker, address string) {
	dns, tcp, secure, clock := host.Name+"-dns", host.Name+"-tcp", host.Name+"-tls", host.Name+"-clock"
	origin, err := url.Parse(host.Origin)
	if err != nil {
		origin = &url.URL{} // config has rejected it
	}
	asked := d.now()
	way, err := tryOf(ctx, d.limit, d.ask, host)
	failure := network.Peer{Host: origin.Hostname(), Variable: host.Variable, Instance: host.Instance}.NoAnswer("", err)
	target, called := origin, origin.Hostname()
	if way.proxy != nil { // its URL may hold a password
		target, called = way.proxy, "the proxy "+way.proxy.Hostname()
	}

	var unknown *net.DNSError
	var dialed *net.OpError
	switch {
	case errors.As(err, &unknown):
		f.failed(dns, failure)
		f.notTried(dns, tcp, secure, clock)
		return dns, target.Host
	case net.ParseIP(target.Hostname()) != nil:
		f.ok(dns, "%s is an address", called)
	case way.connected, errors.As(err, &dialed):
		f.ok(dns, "%s resolves", called)
	default:
		f.skip(dns, "not known, see "+tcp)
	}
	if !way.connected {
		f.failed(tcp, failure)
		f.notTried(tcp, secure, clock)
		return tcp, target.Host
	}
	f.ok(tcp, "%s accepts connections on port %s", called, cmp.Or(target.Port(), map[string]string{"http": "80", "https": "443"}[target.Scheme], "1080"))
	switch {
	case origin.Scheme != "https":
		f.skip(secure, "plain http, which is for loopback only")
	case way.tls == nil:
		f.failed(secure, failure)
		f.notTried(secure, clock)
		return secure, target.Host
	default:
		f.ok(secure, "%s, certificate valid until %s", tls.VersionName(way.tls.Version), day(way.tls.PeerCertificates[0].NotAfter))
	}
	if err != nil {
		f.skip(clock, "no answer to read the time from")
	} else {
		d.compareClocks(f, clock, called, way.date, asked)
	}
	return "", target.Host
}

// way is how far a request got.
type way struct {
	proxy     *url.URL // nil when the host is reached directly
	connected bool
	tls       *tls.ConnectionState // with the host; nil before the handshake has succeeded
	date      string               // the answer's
}

func (d *Doctor) ask(ctx context.Context, host Host) (way, error) {
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
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, host.Origin+host.Probe, nil)
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
