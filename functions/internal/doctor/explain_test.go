package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"

	"iam-token-rotator/functions/internal/rotation"
)

// Certificates that only the system's own authorities could have signed.
func TestExplainTLS(t *testing.T) {
	p := &probe{Host: Host{Variable: "IAM_URL"}, origin: &url.URL{Scheme: "https", Host: "iam.test"}}
	for name, test := range map[string]struct {
		err   error
		words string
	}{
		"another host": {&tls.CertificateVerificationError{Err: x509.HostnameError{Host: "iam.test", Certificate: &x509.Certificate{}}}, "for another host than iam.test → check IAM_URL"},
		"expired":      {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}, "not valid yet → is this machine's clock right?"},
		"not valid":    {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}}, "is not valid → check IAM_URL"},
		"unknown":      {x509.UnknownAuthorityError{}, "does not know → "},
		"no TLS":       {tls.RecordHeaderError{}, "does not speak TLS"},
		"timeout":      {context.DeadlineExceeded, "does not answer the TLS handshake"},
		"something":    {errors.New("x"), "no TLS connection"},
	} {
		if detail, advice := p.explainTLS(test.err); !strings.Contains(detail+" → "+advice, test.words) {
			t.Errorf("%s: got %q, %q; want %q", name, detail, advice, test.words)
		}
	}
}

func TestEveryKindOfFailureHasAdvice(t *testing.T) {
	for _, kind := range []rotation.Kind{rotation.Misconfigured, rotation.Denied, rotation.NotFound, rotation.Locked,
		rotation.RateLimited, rotation.Unavailable, rotation.InvalidToken, rotation.Timeout} {
		detail, advice := explain(&rotation.Error{Kind: kind, Message: "what was found"})
		if detail != string(kind)+": what was found" || advice == "" {
			t.Errorf("%s: got %q, %q", kind, detail, advice)
		}
	}
	if detail, advice := explain(&rotation.Error{Kind: rotation.Denied, Message: "found: do this", Advice: "do this"}); detail != "denied: found" || advice != "do this" {
		t.Errorf("got %q, %q: the advice is not to be said twice", detail, advice)
	}
}
