package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"iam-token-rotator/functions/internal/rotation"
)

func TestNoAnswer(t *testing.T) {
	untrusted := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	dialing := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	for name, test := range map[string]struct {
		err   error
		kind  rotation.Kind
		retry rotation.Retry
		says  string
	}{
		"interrupted":       {context.Canceled, rotation.Timeout, rotation.Later, "interrupted"},
		"deadline":          {context.DeadlineExceeded, rotation.Timeout, rotation.Later, "did not answer in time: open the way"},
		"suspended":         {ErrSuspended, rotation.Timeout, rotation.Later, "suspended"},
		"large":             {errTooLarge, rotation.Unavailable, rotation.Later, "larger response than this request can have: check IAM_URL"},
		"name":              {&net.DNSError{Err: "canary"}, rotation.Unavailable, rotation.Later, "does not resolve: check IAM_URL"},
		"refused":           {dialing(syscall.ECONNREFUSED), rotation.Unavailable, rotation.Later, "refuses connections"},
		"unreachable":       {dialing(syscall.ENETUNREACH), rotation.Unavailable, rotation.Later, "no route to iam.test: open the way"},
		"dial timeout":      {dialing(syscall.ETIMEDOUT), rotation.Unavailable, rotation.Later, "in time"},
		"proxy":             {&net.OpError{Op: "proxyconnect", Err: errors.New("canary")}, rotation.Unavailable, rotation.Later, "HTTPS_PROXY"},
		"proxy credentials": {proxyRefusal(407), rotation.Misconfigured, rotation.Never, "the proxy on the way to iam.test answered 407: check the user and password in HTTPS_PROXY"},
		"proxy's rule":      {fmt.Errorf("%w", proxyRefusal(403)), rotation.Misconfigured, rotation.Never, "iam.test answered 403: allow the host at the proxy"},
		"proxy in trouble":  {proxyRefusal(503), rotation.Unavailable, rotation.Later, "iam.test answered 503: it may be unable to reach the host: check IAM_URL"},
		"proxy is busy":     {proxyRefusal(429), rotation.Unavailable, rotation.Later, "iam.test answered 429: "},
		"SOCKS":             {&net.OpError{Op: "socks connect", Err: errors.New("canary")}, rotation.Unavailable, rotation.Later, "refuses the connection: allow the host"},
		"authority":         {untrusted(x509.UnknownAuthorityError{}), rotation.Misconfigured, rotation.Never, "SSL_CERT_FILE"},
		"another host":      {untrusted(x509.HostnameError{Host: "canary"}), rotation.Misconfigured, rotation.Never, "another host: check IAM_URL"},
		"expired":           {untrusted(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "canary"}), rotation.Misconfigured, rotation.Never, "clock"},
		"certificate":       {untrusted(errors.New("canary")), rotation.Misconfigured, rotation.Never, "intercepts"},
		"no TLS":            {tls.RecordHeaderError{Msg: "canary"}, rotation.Unavailable, rotation.Later, "does not speak TLS"},
		"malformed":         {errors.New("malformed HTTP response canary"), rotation.Unavailable, rotation.Later, "failed or was closed"},
		"closed":            {fmt.Errorf("read: %w", syscall.ECONNRESET), rotation.Unavailable, rotation.Later, "failed or was closed"},
		"no error":          {nil, rotation.Unavailable, rotation.Later, "failed or was closed"},
	} {
		failure := Peer{Host: "iam.test", Variable: "IAM_URL"}.NoAnswer("exchanging the API key", test.err)
		if strings.Contains(failure.Message, "canary") {
			t.Fatalf("%s: the failure repeats the error's text", name)
		}
		if failure.Kind != test.kind || failure.Retry != test.retry || !strings.Contains(failure.Message, test.says) {
			t.Errorf("%s: got %+v, want %s (retry %d) that says %q", name, failure, test.kind, test.retry, test.says)
		}
		if !strings.HasPrefix(failure.Message, "exchanging the API key: ") || !strings.HasSuffix(failure.Message, failure.Advice) {
			t.Errorf("%s: got %q, want what was done, what was found and the advice", name, failure.Message)
		}
	}
	silent := Peer{Host: "AWS", IfUnreachable: "use an interface endpoint"}.NoAnswer("", context.DeadlineExceeded)
	if silent.Message != "AWS did not answer in time: use an interface endpoint" {
		t.Errorf("got %q, want the peer's own advice", silent.Message)
	}
}
