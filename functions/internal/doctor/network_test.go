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
	"os"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/report"
)

const public = "https://abc.us-south.secrets-manager.appdomain.cloud"

func lookup(addresses ...string) func(context.Context, string) ([]string, error) {
	return func(context.Context, string) ([]string, error) {
		if len(addresses) == 0 {
			return nil, errors.New("no such host " + canary)
		}
		return addresses, nil
	}
}

func dialFails(err error) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return nil, err }
}

func TestAnInstanceOutOfReach(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for name, test := range map[string]struct {
		origin  string
		network doctor.Network
		check   string
		words   []string
	}{
		"no such name":    {public, doctor.Network{Lookup: lookup()}, "secrets-manager-dns", []string{"abc.us-south.secrets-manager.appdomain.cloud does not resolve", "private-only"}},
		"private name":    {"https://abc.private.us-south.secrets-manager.appdomain.cloud", doctor.Network{Lookup: lookup()}, "secrets-manager-dns", []string{"is a private endpoint", "use the public one in SECRETS_MANAGER_URL"}},
		"no answer":       {public, doctor.Network{Lookup: lookup("192.0.2.1"), Dial: dialFails(os.ErrDeadlineExceeded)}, "secrets-manager-tcp", []string{"timed out", "private-only", "public endpoint"}},
		"no way":          {public, doctor.Network{Lookup: lookup("192.0.2.1"), Dial: dialFails(errors.New(canary))}, "secrets-manager-tcp", []string{"no way to", "NAT gateway"}},
		"private, no way": {"https://abc.private.us-south.secrets-manager.appdomain.cloud", doctor.Network{Lookup: lookup("166.9.0.1"), Dial: dialFails(errors.New(canary))}, "secrets-manager-tcp", []string{"is a private endpoint"}},
		"sandbox gone":    {"http://" + closed.Addr().String(), doctor.Network{}, "secrets-manager-tcp", []string{"refuses connections", "make sandbox"}},
		"refused":         {"https://" + closed.Addr().String(), doctor.Network{}, "secrets-manager-tcp", []string{"refuses connections", "check the port in SECRETS_MANAGER_URL"}},
		"proxy unknown":   {public, doctor.Network{Lookup: lookup(), Proxy: through("http://user:" + canary + "@proxy.invalid:3128")}, "secrets-manager-dns", []string{"the proxy proxy.invalid does not resolve", "HTTPS_PROXY"}},
		"proxy down":      {public, doctor.Network{Lookup: lookup("192.0.2.1"), Dial: dialFails(errors.New(canary)), Proxy: through("http://proxy.invalid")}, "secrets-manager-tcp", []string{"the proxy proxy.invalid does not accept", "NO_PROXY"}},
		"proxy no URL":    {public, doctor.Network{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New(canary) }}, "secrets-manager-dns", []string{"correct HTTPS_PROXY"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ibmcloudtest.Options{})
			w.doctor.InstanceHost.Origin = test.origin
			w.doctor.Network = except(w, test.network)
			diagnosis := w.run()
			w.want(diagnosis, test.check, report.CheckFailed, test.words...)
			w.want(diagnosis, "bootstrap-identity", report.CheckOK)
			w.want(diagnosis, "key-secret", report.CheckSkipped, "not tried: "+test.check+" failed")
		})
	}
}

func through(proxy string) func(*http.Request) (*url.URL, error) {
	parsed, err := url.Parse(proxy)
	return func(*http.Request) (*url.URL, error) { return parsed, err }
}

// except leaves the way to the sandbox, which is IAM too, as it is.
func except(w *world, n doctor.Network) doctor.Network {
	sandbox := strings.TrimPrefix(w.doctor.IAMHost.Origin, "http://")
	dial, proxy := n.Dial, n.Proxy
	n.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dial == nil || address == sandbox {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
		return dial(ctx, network, address)
	}
	n.Proxy = func(r *http.Request) (*url.URL, error) {
		if proxy == nil || r.URL.Host == sandbox {
			return nil, nil
		}
		return proxy(r)
	}
	return n
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
		"unknown authority": {tlsServer(&tls.Config{}), []string{"does not know", "SSL_CERT_FILE"}},
		"old TLS":           {tlsServer(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), []string{"no TLS connection", "1.2 is the least"}},
		"plain HTTP":        {strings.Replace(plain.URL, "http", "https", 1), []string{"does not speak TLS", "port"}},
		"silence":           {"https://" + silent.Addr().String(), []string{"does not answer the TLS handshake", "firewall"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ibmcloudtest.Options{})
			w.timeout = 2 * time.Second
			w.doctor.InstanceHost.Origin = test.origin
			diagnosis := w.run()
			w.want(diagnosis, "secrets-manager-tls", report.CheckFailed, test.words...)
			w.want(diagnosis, "key-secret", report.CheckSkipped, "not tried: secrets-manager-tls failed")
		})
	}
}

// proxying serves CONNECT and nothing else.
func proxying(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		there, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, "no way", http.StatusBadGateway)
			return
		}
		here, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(there, here); _ = there.Close() }()
		_, _ = io.Copy(here, there)
		_ = here.Close()
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestTLSThroughAProxy(t *testing.T) {
	w := newWorld(t, ibmcloudtest.Options{})
	secure := httptest.NewTLSServer(w.cloud)
	defer secure.Close()
	parsed, err := url.Parse(proxying(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme == "https" {
			return parsed, nil
		}
		return nil, nil
	}
	transport := secure.Client().Transport.(*http.Transport).Clone()
	transport.Proxy = proxy
	defer transport.CloseIdleConnections()
	w.doctor.HTTP, w.doctor.Network.Proxy, w.doctor.InstanceHost.Origin = transport, proxy, secure.URL
	diagnosis := w.run()
	w.want(diagnosis, "secrets-manager-tcp", report.CheckOK, "the proxy 127.0.0.1 accepts connections")
	w.want(diagnosis, "secrets-manager-tls", report.CheckOK, "TLS 1.3")
	w.want(diagnosis, "secrets-manager-clock", report.CheckOK)

	w.doctor.HTTP = &http.Transport{Proxy: proxy} // does not know the authority
	w.want(w.run(), "secrets-manager-tls", report.CheckFailed, "does not know")
	w.doctor.InstanceHost.Origin = "https://127.0.0.1:1"
	w.want(w.run(), "secrets-manager-tls", report.CheckFailed, "no TLS connection")
}
