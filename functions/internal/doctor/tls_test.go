package doctor_test

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
)

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
			w.want(diagnosis, "secrets-manager-tls", doctor.Failed, test.words...)
			w.want(diagnosis, "key-secret", doctor.Skipped, "not tried: secrets-manager-tls failed")
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
	w.want(diagnosis, "secrets-manager-tcp", doctor.OK, "the proxy 127.0.0.1 accepts connections")
	w.want(diagnosis, "secrets-manager-tls", doctor.OK, "TLS 1.3")
	w.want(diagnosis, "secrets-manager-clock", doctor.OK)

	w.doctor.HTTP = &http.Transport{Proxy: proxy} // does not know the authority
	w.want(w.run(), "secrets-manager-tls", doctor.Failed, "does not know")
	w.doctor.InstanceHost.Origin = "https://127.0.0.1:1"
	w.want(w.run(), "secrets-manager-tls", doctor.Failed, "no TLS connection")
}
