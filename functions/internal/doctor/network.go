package doctor

import (
	"context"
	"net"
	"net/http"
	"net/url"
)

// Host is a service's.
type Host struct {
	Name     string // in the names of its checks: "iam", "secrets-manager"
	Variable string // that names it: "IAM_URL"
	Origin   string // without a path
	Probe    string // a path to ask for without authorization
	Instance bool   // a Secrets Manager instance, which may be private-only
}

// Network is the way to the hosts.
type Network struct {
	Lookup func(ctx context.Context, host string) ([]string, error)             // if nil, the system's resolver
	Dial   func(ctx context.Context, network, address string) (net.Conn, error) // if nil, a net.Dialer
	Proxy  func(*http.Request) (*url.URL, error)                                // if nil, that of HTTPS_PROXY and NO_PROXY
}

// probe is the examination of one host.
type probe struct {
	*Doctor
	*sheet
	Host
	origin *url.URL
	proxy  *url.URL // nil when the host is reached directly
}

// reach checks name, connection, TLS and clock of a host, and returns the name of
// the check that failed, empty when requests can be tried.
func (d *Doctor) reach(ctx context.Context, s *sheet, host Host) (blocker string) {
	p := &probe{Doctor: d, sheet: s, Host: host}
	dns, tcp, tls, clock := host.Name+"-dns", host.Name+"-tcp", host.Name+"-tls", host.Name+"-clock"
	if err := p.locate(); err != nil {
		p.fail(dns, "the proxy's URL in HTTPS_PROXY cannot be used", "correct HTTPS_PROXY: http://host:port")
		p.notTried(dns, tcp, tls, clock)
		return dns
	}
	if !p.resolve(ctx, dns) {
		p.notTried(dns, tcp, tls, clock)
		return dns
	}
	conn, ok := p.connect(ctx, tcp)
	if !ok {
		p.notTried(tcp, tls, clock)
		return tcp
	}
	defer func() { _ = conn.Close() }()
	if !p.secure(ctx, tls, conn) {
		p.notTried(tls, clock)
		return tls
	}
	p.compareClocks(ctx, clock)
	return ""
}

// locate finds out whether a proxy is in between.
func (p *probe) locate() error {
	origin, err := url.Parse(p.Origin)
	if err != nil {
		return err
	}
	p.origin = origin
	proxyFor := p.Network.Proxy
	if proxyFor == nil {
		proxyFor = http.ProxyFromEnvironment
	}
	p.proxy, err = proxyFor(&http.Request{URL: origin})
	return err
}

// next is the host to connect to, and how to call it. A proxy's URL may hold a
// password, so no more than its host is shown.
func (p *probe) next() (target *url.URL, called string) {
	if p.proxy != nil {
		return p.proxy, "the proxy " + p.proxy.Hostname()
	}
	return p.origin, p.origin.Hostname()
}

func address(target *url.URL) string {
	port := target.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[target.Scheme]
	}
	return net.JoinHostPort(target.Hostname(), port)
}
