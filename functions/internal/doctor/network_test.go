package doctor_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/report"
)

func TestAnInstanceOutOfReach(t *testing.T) {
	tlsServer := func(config *tls.Config) string {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.TLS = config
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.URL
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	const public, private = "https://abc.us-south.secrets-manager.appdomain.cloud", "https://abc.private.us-south.secrets-manager.appdomain.cloud"
	const dns, tcp, secure = "secrets-manager-dns", "secrets-manager-tcp", "secrets-manager-tls"
	unknown := &net.OpError{Op: "dial", Err: &net.DNSError{Err: canary, IsNotFound: true}}
	noWay := &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
	for name, test := range map[string]struct {
		origin string
		dial   error // of every dial but the sandbox's; nil: whatever the network returns
		proxy  string
		check  string
		words  []string
	}{
		"no such name":      {public, unknown, "", dns, []string{"abc.us-south.secrets-manager.appdomain.cloud does not resolve", "private-only"}},
		"private name":      {private, unknown, "", dns, []string{"is a private endpoint", "use the public one in SECRETS_MANAGER_URL"}},
		"no answer":         {public, context.DeadlineExceeded, "", tcp, []string{"did not answer in time", "private-only", "NAT gateway"}},
		"no way":            {public, noWay, "", tcp, []string{"no route to abc.us-south", "NAT gateway"}},
		"something":         {public, errors.New(canary), "", tcp, []string{"the connection to abc.us-south"}},
		"refused":           {"https://127.0.0.1:1", nil, "", tcp, []string{"refuses connections", "check the port in SECRETS_MANAGER_URL", "make sandbox"}},
		"proxy unknown":     {public, unknown, "http://user:" + canary + "@proxy.invalid:3128", dns, []string{"the proxy on the way to", "HTTPS_PROXY"}},
		"proxy down":        {public, noWay, "http://proxy.invalid", tcp, []string{"the proxy on the way to", "NO_PROXY"}},
		"unknown authority": {tlsServer(&tls.Config{}), nil, "", secure, []string{"misconfigured: ", "is not known to this machine", "SSL_CERT_FILE"}},
		"old TLS":           {tlsServer(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), nil, "", secure, []string{"failed or was closed"}},
		"plain HTTP":        {strings.Replace(plain.URL, "http", "https", 1), nil, "", secure, []string{"the port in SECRETS_MANAGER_URL"}},
		"silence":           {"https://" + silent.Addr().String(), nil, "", secure, []string{"did not answer in time", "firewall"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fx := newFixture(t, ibmcloudtest.Options{})
			if name == "silence" {
				fx.timeout = 4 * time.Second
			}
			fx.doctor.SecretsManagerURL = test.origin
			sandbox := strings.TrimPrefix(fx.doctor.IAMURL, "http://")
			fx.doctor.HTTP = &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, Proxy: through(test.proxy),
				DialContext: func(ctx context.Context, kind, address string) (net.Conn, error) {
					if address != sandbox && test.dial != nil {
						return nil, test.dial
					}
					return (&net.Dialer{}).DialContext(ctx, kind, address)
				}}
			diagnosis := fx.run()
			fx.want(diagnosis, test.check, report.CheckFailed, test.words...)
			fx.want(diagnosis, "bootstrap-identity", report.CheckOK)
			fx.want(diagnosis, "key-secret", report.CheckSkipped, "not tried: "+test.check+" failed")
		})
	}
}

// through returns proxy for https, and none for http.
func through(proxy string) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		if proxy == "" || r.URL.Scheme != "https" {
			return nil, nil
		}
		return url.Parse(proxy)
	}
}

func TestTLSThroughAProxy(t *testing.T) {
	fx := newFixture(t, ibmcloudtest.Options{})
	secure := httptest.NewTLSServer(fx.cloud)
	defer secure.Close()
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		there, err := net.Dial("tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			http.Error(rw, "no way", http.StatusBadGateway)
			return
		}
		here, _, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(there, here); _ = there.Close() }()
		_, _ = io.Copy(here, there)
		_ = here.Close()
	}))
	t.Cleanup(proxy.Close)
	fx.doctor.HTTP = network.Plain()
	fx.doctor.HTTP.TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
	fx.doctor.HTTP.Proxy, fx.doctor.SecretsManagerURL = through(proxy.URL), secure.URL
	diagnosis := fx.run()
	fx.want(diagnosis, "secrets-manager-tcp", report.CheckOK, "the proxy 127.0.0.1 accepts connections")
	fx.want(diagnosis, "secrets-manager-tls", report.CheckOK, "TLS 1.3")
	fx.want(diagnosis, "secrets-manager-clock", report.CheckOK)

	fx.doctor.SecretsManagerURL = "https://127.0.0.1:1"
	fx.want(fx.run(), "secrets-manager-tls", report.CheckFailed, "the proxy on the way to 127.0.0.1 answered 502")
}

// An answer that the function would reject is not an answer for doctor either.
func TestAHostThatShowsNoTime(t *testing.T) {
	for says, answer := range map[string]http.HandlerFunc{
		"the host does not show its time": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header()["Date"] = nil
			_, _ = io.WriteString(rw, canary)
		},
		"no answer to read the time from": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X-Endless", strings.Repeat("x", 64<<10))
		},
	} {
		fx := newFixture(t, ibmcloudtest.Options{})
		host := httptest.NewServer(answer)
		t.Cleanup(host.Close)
		fx.doctor.IAMURL = host.URL
		fx.want(fx.run(), "iam-clock", report.CheckSkipped, says)
	}
}
