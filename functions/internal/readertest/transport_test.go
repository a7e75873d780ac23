package readertest

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/logsrouterv3"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

const targetsURL = "https://api.us-south.logs-router.test/v3/targets"

// client calls Logs Routing through the Reader's transport.
func (fx *fixture) client() *http.Client {
	return &http.Client{Transport: fx.reader.Transport(fx.cloud.Transport())}
}

// service is a client whose requests answer serves: with a status, and a redirect unless location is "".
func (fx *fixture) service(answer func(r *http.Request) (status int, location string)) *http.Client {
	return &http.Client{Transport: fx.reader.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
		response := &http.Response{Body: http.NoBody, Request: r, Header: http.Header{}}
		status, location := answer(r)
		response.StatusCode = status
		response.Header.Set("Location", location)
		return response, nil
	}))}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A Reader is an authenticator of IBM's Go SDKs, without importing them.
var _ core.Authenticator = (*iamtoken.Reader)(nil)

// After a 401 the secret is read once more: the token may have been replaced early, with its
// key. IBM's client does the same with the Reader's transport.
func TestA401ReloadsOnce(t *testing.T) {
	for name, list := range map[string]func(fx *fixture) error{
		"net/http": func(fx *fixture) error {
			response, err := fx.client().Get(targetsURL)
			if err == nil && response.StatusCode != http.StatusOK {
				t.Errorf("Logs Routing answered %s, want 200 with the new token", response.Status)
			}
			return err
		},
		"IBM's client": func(fx *fixture) error {
			service, err := logsrouterv3.NewLogsRouterV3(&logsrouterv3.LogsRouterV3Options{URL: "https://logs.test/v3", Authenticator: fx.reader})
			if err != nil {
				return err
			}
			service.Service.SetHTTPClient(fx.client())
			_, _, err = service.ListTargets(service.NewListTargetsOptions())
			return err
		},
	} {
		withFixture(t, func(fx *fixture) {
			fx.wantToken(fx.rotate(time.Hour), 0)
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpTargetsList, Status: 401, Times: 1})
			second := fx.rotate(time.Hour - time.Minute)
			if err := list(fx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			fx.wantToken(second, 0)
			fx.wantReads(2)
		})
	}
}

func TestA401ThatANewReadDoesNotCure(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.rotate(time.Hour)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpTargetsList, Status: 401, Body: `{"errors":[]}`})
		for range 5 {
			response, err := fx.client().Get(targetsURL)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusUnauthorized || string(body) != `{"errors":[]}` || err != nil {
				t.Errorf("got %s and %q (%v), want the service's own 401", response.Status, body, err)
			}
			time.Sleep(time.Minute)
		}
		fx.wantReads(2)
		if got := fx.count(ibmcloudtest.OpTargetsList); got != 5 {
			t.Errorf("got %d requests, want 5: the same token is not tried twice", got)
		}
	})
}

func TestBodiesAreSentAgain(t *testing.T) {
	for want, body := range map[int]io.Reader{200: strings.NewReader("hello"), 401: io.MultiReader(strings.NewReader("hello"))} { // a stream can be read once
		withFixture(t, func(fx *fixture) {
			fx.wantToken(fx.rotate(time.Hour), 0)
			second := fx.rotate(time.Hour)
			status := 401
			response, err := fx.service(func(r *http.Request) (int, string) {
				if body, err := io.ReadAll(r.Body); string(body) != "hello" {
					t.Errorf("got the body %q (%v), want hello", body, err)
				}
				defer func() { status = 200 }()
				return status, ""
			}).Post("https://service.test", "text/plain", body)
			if err != nil || response.StatusCode != want {
				t.Fatalf("got %v, %v; want status %d", response, err, want)
			}
			fx.wantToken(second, 0)
		})
	}
}

// A client of IBM's SDK sets the header before the transport does, and net/http keeps it in a
// redirect to another port or to a subdomain.
func TestTheTokenStaysWithItsHostAndIsEncrypted(t *testing.T) {
	for _, elsewhere := range []string{"https://elsewhere.test/", "https://below.service.test/", "https://service.test:8443/", "http://service.test/"} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			var authorized []string
			client := fx.service(func(r *http.Request) (int, string) {
				if r.Header.Get("Authorization") != "" {
					authorized = append(authorized, r.URL.String())
				}
				if r.URL.String() == "https://service.test/" {
					return 302, elsewhere
				}
				return 200, ""
			})
			request, _ := http.NewRequestWithContext(fx.t.Context(), http.MethodGet, "https://service.test/", nil)
			if err := fx.reader.Authenticate(request); err != nil {
				t.Fatal(err)
			}
			_, err := client.Do(request)
			if len(authorized) != 1 || authorized[0] != "https://service.test/" {
				t.Errorf("redirected to %s: the token went to %v, want service.test alone", elsewhere, authorized)
			}
			if inTheClear := strings.HasPrefix(elsewhere, "http:"); (err != nil) != inTheClear || inTheClear && !strings.Contains(err.Error(), "in the clear") {
				t.Errorf("redirected to %s: got %v, want a rejection of http alone", elsewhere, err)
			}
		})
	}
}

// With a list of hosts, no other host gets the token, neither in a request nor in a redirect.
func TestHosts(t *testing.T) {
	for _, test := range []struct {
		host string // the one entry of the list; empty: there is no list
		url  string
		gets bool
	}{
		{"", "https://service.test/", true},
		{"Service.test", "https://SERVICE.test:8443/", true},
		{"service.test:443", "https://service.test/", true},
		{"service.test:443", "https://service.test:8443/", false},
		{".service.test", "https://eu.service.test/", true},
		{".service.test", "https://service.test/", false},
		{".service.test", "https://evilservice.test/", false},
		{"service.test", "https://service.test.evil.test/", false},
		{"service.test", "https://service.test@evil.test/", false},
		{"[::1]:8080", "http://[::1]:8080/", true},
		{"::1", "http://127.0.0.1/", false},
	} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			if test.host != "" {
				fx.reader.Hosts = []string{"other.test", test.host}
			}
			sent := 0
			_, err := fx.service(func(r *http.Request) (int, string) {
				if sent++; r.Header.Get("Authorization") == "" {
					t.Errorf("%s: got a request without the token", test.url)
				}
				return 200, ""
			}).Get(test.url)
			if (err == nil) != test.gets || (sent == 1) != test.gets {
				t.Errorf("%s of %s: got %v and %d requests, want success: %t", test.url, test.host, err, sent, test.gets)
			}
			request, _ := http.NewRequestWithContext(fx.t.Context(), http.MethodGet, test.url, nil)
			if err := fx.reader.Authenticate(request); (err == nil) != test.gets || (request.Header.Get("Authorization") != "") != test.gets {
				t.Errorf("Authenticate, %s of %s: got %v, want success: %t", test.url, test.host, err, test.gets)
			}
		})
	}
}

// A reader identity's token that is rejected is renewed within the read. However many reads at a
// time are denied, each makes two requests at most.
func TestTheReadersOwnTokenIsRenewedAfterA401(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.wantToken(fx.rotate(10*time.Minute), 0)
		time.Sleep(7 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: read, Status: 401, Times: 1})
		fx.wantToken(fx.rotate(time.Hour), 0)
		fx.wantReads(3)

		fx.fault(ibmcloudtest.Fault{Op: read, Status: 403, Delay: time.Second})
		fx.fault(ibmcloudtest.Fault{Op: iam, Delay: 100 * time.Millisecond})
		fx.cloud.ClearRequests()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { time.Sleep(rand.N(time.Second)); _, _ = fx.store.Read(fx.t.Context()) })
		}
		all.Wait()
		if got := fx.count(read); got > 200 {
			t.Errorf("100 denied reads made %d requests, want 200 at most", got)
		}
	})
}
