package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
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

func (p *probe) resolve(ctx context.Context, name string) bool {
	target, called := p.next()
	if net.ParseIP(target.Hostname()) != nil {
		p.ok(name, "%s is an address", called)
		return true
	}
	lookup := p.Network.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupHost
	}
	addresses, err := try(ctx, p.limit, func(ctx context.Context) ([]string, error) { return lookup(ctx, target.Hostname()) })
	if err != nil || len(addresses) == 0 {
		p.fail(name, called+" does not resolve", p.dnsAdvice())
		return false
	}
	p.ok(name, "%s resolves", called)
	return true
}

func (p *probe) dnsAdvice() string {
	if p.proxy != nil {
		return "check HTTPS_PROXY and this network's DNS"
	}
	return "check " + p.Variable + " and this network's DNS" + p.privateOnly()
}

func (p *probe) connect(ctx context.Context, name string) (net.Conn, bool) {
	target, called := p.next()
	dial := p.Network.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	address := address(target)
	_, port, _ := net.SplitHostPort(address)
	conn, err := try(ctx, p.limit, func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", address) })
	if err == nil {
		p.ok(name, "%s accepts connections on port %s", called, port)
		return conn, true
	}
	var timeout net.Error
	switch {
	case p.proxy != nil:
		p.fail(name, called+" does not accept a connection", "check HTTPS_PROXY, or name the host in NO_PROXY")
	case errors.Is(err, syscall.ECONNREFUSED) && p.origin.Scheme == "http":
		p.fail(name, called+" refuses connections on port "+port, "nothing listens there: if it is the sandbox, start it again (make sandbox) and load its new settings")
	case errors.Is(err, syscall.ECONNREFUSED):
		p.fail(name, called+" refuses connections on port "+port, "check the port in "+p.Variable+": the services answer on 443")
	case errors.As(err, &timeout) && timeout.Timeout():
		p.fail(name, called+" does not answer: the connection timed out", p.wayOut())
	default:
		p.fail(name, "there is no way to "+called+" from this network", p.wayOut())
	}
	return nil, false
}

// wayOut is the advice for a host that cannot be reached.
func (p *probe) wayOut() string {
	return "open the way from here to it on port 443 (firewall, security group, NAT gateway, or HTTPS_PROXY)" + p.privateOnly()
}

// privateOnly tells by the name of the host what most often makes one unreachable.
func (p *probe) privateOnly() string {
	host := p.origin.Hostname()
	switch {
	case strings.HasPrefix(host, "private.") || strings.Contains(host, ".private."):
		return fmt.Sprintf(". %s is a private endpoint: it answers inside IBM Cloud's network alone; from elsewhere use the public one in %s", host, p.Variable)
	case p.Instance:
		return fmt.Sprintf(". If the instance %s is private-only, as those made since April 2025 are unless created with public-and-private endpoints, "+
			"it answers inside IBM Cloud's network alone: give it a public endpoint, or run there with its private one", host)
	default:
		return ""
	}
}

// secure checks that TLS can be spoken over conn. Behind a proxy conn leads to
// the proxy, so a request is made through it instead.
func (p *probe) secure(ctx context.Context, name string, conn net.Conn) bool {
	if p.origin.Scheme != "https" {
		p.skip(name, "plain http, which is for loopback only")
		return true
	}
	state, err := try(ctx, p.limit, func(ctx context.Context) (*tls.ConnectionState, error) {
		if p.proxy != nil {
			response, err := p.ask(ctx)
			if err != nil {
				return nil, err
			}
			return response.TLS, nil
		}
		return handshake(ctx, conn, p.origin.Hostname())
	})
	if err != nil || state == nil {
		detail, advice := p.explainTLS(err)
		p.fail(name, detail, advice)
		return false
	}
	p.ok(name, "%s, certificate valid until %s", tls.VersionName(state.Version), state.PeerCertificates[0].NotAfter.UTC().Format(time.DateOnly))
	return true
}

// handshake trusts the system's authorities, or those in SSL_CERT_FILE.
func handshake(ctx context.Context, conn net.Conn, host string) (*tls.ConnectionState, error) {
	client := tls.Client(conn, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12})
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := client.ConnectionState()
	return &state, nil
}

func (p *probe) explainTLS(err error) (detail, advice string) {
	host := p.origin.Hostname()
	var authority x509.UnknownAuthorityError
	var other x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.As(err, &authority):
		return "the certificate of " + host + " is signed by an authority that this machine does not know",
			"name the authority's file in SSL_CERT_FILE, if it is your own proxy's; otherwise check " + p.Variable
	case errors.As(err, &other):
		return "the certificate is for another host than " + host, "check " + p.Variable
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate of " + host + " has expired or is not valid yet", "is this machine's clock right?"
	case errors.As(err, &invalid):
		return "the certificate of " + host + " is not valid", "check " + p.Variable + ", or what intercepts TLS on the way"
	case errors.As(err, &record):
		return host + " does not speak TLS on this port", "check the port in " + p.Variable
	case errors.As(err, &timeout) && timeout.Timeout():
		return host + " does not answer the TLS handshake", "is there a firewall or proxy on the way that swallows it?" + p.privateOnly()
	default:
		return "no TLS connection to " + host + " could be made", "check " + p.Variable + ", and what intercepts TLS on the way; 1.2 is the least that is spoken"
	}
}

// ask sends one request without authorization over the function's own transport.
func (p *probe) ask(ctx context.Context) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Origin+p.Probe, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.HTTP.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	return response, response.Body.Close()
}

// compareClocks holds our clock against the host's Date header.
func (p *probe) compareClocks(ctx context.Context, name string) {
	asked := p.now()
	response, err := try(ctx, p.limit, p.ask)
	if err != nil {
		p.skip(name, "no answer to read the time from")
		return
	}
	told, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		p.skip(name, "the host does not tell its time")
		return
	}
	// The header has whole seconds; it was written between asking and now.
	ours := asked.Add(p.now().Sub(asked) / 2)
	skew := told.Add(500 * time.Millisecond).Sub(ours).Round(time.Second)
	if skew.Abs() <= maxClockSkew {
		p.ok(name, "this machine's clock is right within %s", max(time.Second, skew.Abs()))
		return
	}
	p.warn(name, fmt.Sprintf("this machine's clock is off: that of %s less ours is %s", p.origin.Hostname(), skew),
		"set the clock (NTP): tokens seem older or younger than they are, and past some minutes AWS refuses requests")
}
