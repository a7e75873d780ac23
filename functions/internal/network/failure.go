package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"

	"iam-token-rotator/functions/internal/rotation"
)

// Errors of our own in place of a response.
var (
	errTooLarge  = errors.New("the response is larger than it can be")
	ErrSuspended = errors.New("the process was suspended before the request left; a new attempt starts again if there is time")
)

// proxyRefusal is the status with which a proxy refuses a connection to a host.
type proxyRefusal int

func (proxyRefusal) Error() string { return "the proxy refuses the connection" }

// temporary reports whether another attempt may be let through.
func (r proxyRefusal) temporary() bool {
	return r >= 500 || r == http.StatusTooManyRequests || r == http.StatusRequestTimeout
}

// Peer is the other end of a request, as an error names it.
type Peer struct {
	Host     string // its name, with a port if the URL has one, or the service's
	Variable string // the setting that names it: "IAM_URL"
	Instance bool   // it is a Secrets Manager instance, which may be private-only
	NoWay    string // advice when it cannot be reached; empty: to open port 443
}

// NoAnswer says in our own words why a request got no answer, and what to do. The
// text of err is never repeated: it has parts of answers. doing begins the
// message ("reading the API key"); it may be empty.
func (p Peer) NoAnswer(doing string, err error) *rotation.Error {
	found, advice := p.explain(err)
	failure := &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Advice: advice}
	var untrusted *tls.CertificateVerificationError
	var refusal proxyRefusal
	switch {
	case errors.As(err, &untrusted), errors.As(err, &refusal) && !refusal.temporary():
		failure.Kind, failure.Retry = rotation.Misconfigured, rotation.Never
	case errors.Is(err, ErrSuspended), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		failure.Kind = rotation.Timeout
	}
	said := slices.DeleteFunc([]string{doing, found, advice}, func(part string) bool { return part == "" })
	failure.Message = strings.Join(said, ": ")
	return failure
}

func (p Peer) explain(err error) (found, advice string) {
	var refusal proxyRefusal
	var operation *net.OpError
	var dns *net.DNSError
	var untrusted *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "the run was interrupted before an answer came", ""
	case errors.Is(err, ErrSuspended):
		return ErrSuspended.Error(), ""
	case errors.Is(err, errTooLarge):
		return p.Host + " sent a larger response than this request can have", "check " + p.Variable + ": does a proxy answer in its place?"
	case errors.As(err, &refusal):
		return fmt.Sprintf("the proxy on the way to %s answered %d", p.Host, refusal), p.throughProxy(refusal)
	case errors.As(err, &operation) && strings.HasPrefix(operation.Op, "socks"):
		return "the proxy on the way to " + p.Host + " refuses the connection", p.throughProxy(http.StatusForbidden)
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		return "the proxy on the way to " + p.Host + " cannot be reached", "check HTTPS_PROXY, or name the host in NO_PROXY"
	case errors.As(err, &dns):
		return "the name of " + p.Host + " does not resolve", "check " + p.Variable + " and this network's DNS" + p.privateOnly()
	case errors.As(err, &untrusted):
		return p.explainCertificate(untrusted)
	case errors.As(err, &record):
		return p.Host + " does not speak TLS on this port", "check the port in " + p.Variable
	case errors.Is(err, syscall.ECONNREFUSED):
		return p.Host + " refuses connections on this port", "check the port in " + p.Variable + ": the services answer on 443, a sandbox only while it runs (make sandbox)"
	case errors.As(err, &timeout) && timeout.Timeout():
		return p.Host + " did not answer in time", p.noWay()
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "this network has no way to " + p.Host, p.noWay()
	default:
		return "the connection to " + p.Host + " failed or was closed before an answer came",
			"nothing to do unless it persists; then check " + p.Variable + " and what is in between"
	}
}

func (p Peer) explainCertificate(err error) (found, advice string) {
	certificate := "the TLS certificate of " + p.Host
	var authority x509.UnknownAuthorityError
	var other x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &authority):
		return certificate + " is not trusted: its authority is not known to this machine",
			"name the authority's file in SSL_CERT_FILE if it is your own proxy's; otherwise check " + p.Variable
	case errors.As(err, &other):
		return certificate + " is for another host", "check " + p.Variable
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return certificate + " is not trusted: it has expired or is not valid yet", "is this machine's clock right?"
	default:
		return certificate + " is not trusted", "check " + p.Variable + ", and what intercepts TLS on the way"
	}
}

// throughProxy is the advice when a proxy does not let a request through.
func (p Peer) throughProxy(refusal proxyRefusal) string {
	switch {
	case refusal == http.StatusProxyAuthRequired:
		return "check the user and password in HTTPS_PROXY"
	case refusal.temporary():
		return "it may be unable to reach the host: check " + p.Variable + ", and the way from the proxy" + p.privateOnly()
	default:
		return "allow the host at the proxy, or name it in NO_PROXY; check the user and password in HTTPS_PROXY"
	}
}

// noWay is the advice for a host that cannot be reached.
func (p Peer) noWay() string {
	if p.NoWay != "" {
		return p.NoWay
	}
	return "open the way to it on port 443 (firewall, security group, NAT gateway, HTTPS_PROXY)" + p.privateOnly()
}

// privateOnly names what most often makes an IBM Cloud host unreachable.
func (p Peer) privateOnly() string {
	switch {
	case strings.HasPrefix(p.Host, "private.") || strings.Contains(p.Host, ".private."):
		return ". " + p.Host + " is a private endpoint: it answers in IBM Cloud's network alone; elsewhere use the public one in " + p.Variable
	case p.Instance:
		return ". An instance made since April 2025 is private-only, and answers only in IBM Cloud's network, unless created with public-and-private endpoints"
	default:
		return ""
	}
}
