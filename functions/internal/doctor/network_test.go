package doctor_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
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
			w.want(diagnosis, test.check, doctor.Failed, test.words...)
			w.want(diagnosis, "bootstrap-identity", doctor.OK)
			w.want(diagnosis, "key-secret", doctor.Skipped, "not tried: "+test.check+" failed")
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
