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
	"iam-token-rotator/functions/report"
)

func TestAnInstanceOutOfReach(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	const public, private = "https://abc.us-south.secrets-manager.appdomain.cloud", "https://abc.private.us-south.secrets-manager.appdomain.cloud"
	unknown := &net.OpError{Op: "dial", Err: &net.DNSError{Err: canary, IsNotFound: true}}
	noWay := &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
	for name, test := range map[string]struct {
		origin string
		dial   error // of the way to the instance; nil: the network's own
		proxy  string
		check  string
		words  []string
	}{
		"no such name":  {public, unknown, "", "secrets-manager-dns", []string{"abc.us-south.secrets-manager.appdomain.cloud does not resolve", "private-only"}},
		"private name":  {private, unknown, "", "secrets-manager-dns", []string{"is a private endpoint", "use the public one in SECRETS_MANAGER_URL"}},
		"no answer":     {public, context.DeadlineExceeded, "", "secrets-manager-tcp", []string{"did not answer in time", "private-only", "NAT gateway"}},
		"no way":        {public, noWay, "", "secrets-manager-tcp", []string{"no way to abc.us-south", "NAT gateway"}},
		"something":     {public, errors.New(canary), "", "secrets-manager-tcp", []string{"the connection to abc.us-south"}},
		"sandbox gone":  {"http://" + closed.Addr().String(), nil, "", "secrets-manager-tcp", []string{"refuses connections", "sandbox"}},
		"refused":       {"https://" + closed.Addr().String(), nil, "", "secrets-manager-tcp", []string{"refuses connections", "check the port in SECRETS_MANAGER_URL"}},
		"proxy unknown": {public, unknown, "http://user:" + canary + "@proxy.invalid:3128", "secrets-manager-dns", []string{"the proxy on the way to", "HTTPS_PROXY"}},
		"proxy down":    {public, noWay, "http://proxy.invalid", "secrets-manager-tcp", []string{"the proxy on the way to", "NO_PROXY"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ibmcloudtest.Options{})
			w.doctor.InstanceHost.Origin = test.origin
			sandbox := strings.TrimPrefix(w.doctor.IAMHost.Origin, "http://")
			w.doctor.HTTP = &http.Transport{Proxy: through(test.proxy), DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if address != sandbox && test.dial != nil {
					return nil, test.dial
				}
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}}
			diagnosis := w.run()
			w.want(diagnosis, test.check, report.CheckFailed, test.words...)
			w.want(diagnosis, "bootstrap-identity", report.CheckOK)
			w.want(diagnosis, "key-secret", report.CheckSkipped, "not tried: "+test.check+" failed")
		})
	}
}

// through leads https through a proxy, if there is one.
func through(proxy string) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		if proxy == "" || r.URL.Scheme != "https" {
			return nil, nil
		}
		return url.Parse(proxy)
	}
}

func TestTLSThatCannotBeSpoken(t *testing.T) {
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
	defer func() { _ = silent.Close() }()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, test := range map[string]struct {
		origin string
		words  []string
	}{
		"unknown authority": {tlsServer(&tls.Config{}), []string{"misconfigured: ", "is not known to this machine", "SSL_CERT_FILE"}},
		"old TLS":           {tlsServer(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), []string{"failed or was closed"}},
		"plain HTTP":        {strings.Replace(plain.URL, "http", "https", 1), []string{"the port in SECRETS_MANAGER_URL"}},
		"silence":           {"https://" + silent.Addr().String(), []string{"did not answer in time", "firewall"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ibmcloudtest.Options{})
			w.timeout = 2 * time.Second
			w.doctor.InstanceHost.Origin = test.origin
			diagnosis := w.run()
			w.want(diagnosis, "secrets-manager-tcp", report.CheckOK)
			w.want(diagnosis, "secrets-manager-tls", report.CheckFailed, test.words...)
			w.want(diagnosis, "key-secret", report.CheckSkipped, "not tried: secrets-manager-tls failed")
		})
	}
}

func TestTLSThroughAProxy(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	secure := httptest.NewTLSServer(w.cloud)
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
	w.doctor.HTTP = secure.Client().Transport.(*http.Transport).Clone()
	w.doctor.HTTP.Proxy, w.doctor.InstanceHost.Origin = through(proxy.URL), secure.URL
	diagnosis := w.run()
	w.want(diagnosis, "secrets-manager-tcp", report.CheckOK, "the proxy 127.0.0.1 accepts connections")
	w.want(diagnosis, "secrets-manager-tls", report.CheckOK, "TLS 1.3")
	w.want(diagnosis, "secrets-manager-clock", report.CheckOK)

	w.doctor.HTTP = &http.Transport{Proxy: through(proxy.URL)} // does not know the authority
	w.want(w.run(), "secrets-manager-tls", report.CheckFailed, "is not known to this machine")
	w.doctor.InstanceHost.Origin = "https://127.0.0.1:1"
	w.want(w.run(), "secrets-manager-tls", report.CheckFailed, "failed or was closed")
}
