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
	"time"
)

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
