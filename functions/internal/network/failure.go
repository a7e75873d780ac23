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

// Errors that this project returns in place of a response.
var (
	errTooLarge  = errors.New("the response is larger than it can be")
	ErrSuspended = errors.New("the process was suspended before the request left; a new attempt starts again if there is time")
)

// proxyRefusal is the status with which a proxy refuses a connection to a host.
type proxyRefusal int

func (proxyRefusal) Error() string { return "the proxy refuses the connection" }

// temporary reports whether the proxy may accept another attempt.
func (r proxyRefusal) temporary() bool {
	return r >= 500 || r == http.StatusTooManyRequests || r == http.StatusRequestTimeout
}

// Peer is the other end of a request, as an error names it.
type Peer struct {
	Host          string // its name, with a port if the URL has one, or the service's name
	Variable      string // the setting that names it: "IAM_URL"
	Instance      bool   // it is a Secrets Manager instance, which may be private-only
	IfUnreachable string // the advice when it cannot be reached; "" means to open port 443
}

// NoAnswer returns the error for a request that got no answer: why, and what to do. doing
// begins the message ("reading the API key"); it may be empty. The message never repeats the
// text of err, which may have parts of an answer.
func (p Peer) NoAnswer(doing string, err error) *rotation.Error {
	found, advice := p.explain(err)
	failure := &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Advice: advice}
	refusal, refused := errors.AsType[proxyRefusal](err)
	switch {
	case as[*tls.CertificateVerificationError](err), refused && !refusal.temporary():
		failure.Kind, failure.Retry = rotation.Misconfigured, rotation.Never
	case errors.Is(err, ErrSuspended), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		failure.Kind = rotation.Timeout
	}
	said := slices.DeleteFunc([]string{doing, found, advice}, func(part string) bool { return part == "" })
	failure.Message = strings.Join(said, ": ")
	return failure
}

// explain returns the first reason below that applies to err, and what to do.
func (p Peer) explain(err error) (found, advice string) {
	if refusal, ok := errors.AsType[proxyRefusal](err); ok {
		return fmt.Sprintf("the proxy on the way to %s answered %d", p.Host, refusal), p.throughProxy(refusal)
	}
	is := func(target error) bool { return errors.Is(err, target) }
	operation, _ := errors.AsType[*net.OpError](err)
	failedIn := func(prefix string) bool { return operation != nil && strings.HasPrefix(operation.Op, prefix) }
	invalid, _ := errors.AsType[x509.CertificateInvalidError](err)
	timeout, _ := errors.AsType[net.Error](err)
	variable, proxy, certificate := p.Variable, "the proxy on the way to "+p.Host, "the TLS certificate of "+p.Host
	for _, reason := range []struct {
		applies       bool
		found, advice string
	}{
		{is(context.Canceled), "the run was interrupted before an answer came", ""},
		{is(ErrSuspended), ErrSuspended.Error(), ""},
		{is(errTooLarge), p.Host + " sent a larger response than this request can have", "check " + variable + ": does a proxy answer in its place?"},
		{failedIn("socks"), proxy + " refuses the connection", p.throughProxy(http.StatusForbidden)},
		{failedIn("proxyconnect"), proxy + " cannot be reached", "check HTTPS_PROXY, or name the host in NO_PROXY"},
		{as[*net.DNSError](err), "the name of " + p.Host + " does not resolve", "check " + variable + " and this network's DNS" + p.privateOnly()},
		{as[x509.UnknownAuthorityError](err), certificate + " is not trusted: its authority is not known to this machine",
			"name the authority's file in SSL_CERT_FILE if it is your own proxy's; otherwise check " + variable},
		{as[x509.HostnameError](err), certificate + " is for another host", "check " + variable},
		{as[x509.CertificateInvalidError](err) && invalid.Reason == x509.Expired, certificate + " is not trusted: it has expired or is not valid yet", "is this machine's clock right?"},
		{as[*tls.CertificateVerificationError](err), certificate + " is not trusted", "check " + variable + ", and what intercepts TLS on the way"},
		{as[tls.RecordHeaderError](err), p.Host + " does not speak TLS on this port", "check the port in " + variable},
		{is(syscall.ECONNREFUSED), p.Host + " refuses connections on this port",
			"check the port in " + variable + ". The services answer on 443, a sandbox only while it runs (make sandbox)"},
		{timeout != nil && timeout.Timeout(), p.Host + " did not answer in time", p.ifUnreachable()},
		{is(syscall.ENETUNREACH) || is(syscall.EHOSTUNREACH), "this network has no route to " + p.Host, p.ifUnreachable()},
	} {
		if reason.applies {
			return reason.found, reason.advice
		}
	}
	return "the connection to " + p.Host + " failed or was closed before an answer came",
		"nothing to do unless it persists; then check " + variable + " and what is in between"
}

func as[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
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

// ifUnreachable is the advice for a host that cannot be reached.
func (p Peer) ifUnreachable() string {
	if p.IfUnreachable != "" {
		return p.IfUnreachable
	}
	return "open the way to it on port 443 (firewall, security group, NAT gateway, HTTPS_PROXY)" + p.privateOnly()
}

// privateOnly names the most frequent cause that makes an IBM Cloud host unreachable.
func (p Peer) privateOnly() string {
	switch {
	case strings.HasPrefix(p.Host, "private.") || strings.Contains(p.Host, ".private."):
		return ". " + p.Host + " is a private endpoint: it answers only in IBM Cloud's network; elsewhere use the public one in " + p.Variable
	case p.Instance:
		return ". An instance made since April 2025 is private-only, and answers only in IBM Cloud's network, unless created with public-and-private endpoints"
	default:
		return ""
	}
}
