package readertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

const targetsURL = "https://api.us-south.logs-router.test/v3/targets"

// After a 401 the secret is read once more: the key and its token may have been
// replaced before their time.
func TestA401ReloadsOnce(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.wantToken(fx.rotate(time.Hour))
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpTargetsList, Status: 401, Times: 1})
		second := fx.rotate(time.Hour)
		response, err := fx.client().Get(targetsURL)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusOK {
			t.Errorf("Logs Routing answered %s, want 200 with the new token", response.Status)
		}
		fx.wantToken(second)
		fx.wantReads(2)
	})
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
	for name, test := range map[string]struct {
		body   io.Reader
		status int
	}{
		"one that can be had again": {strings.NewReader("hello"), 200},
		"a stream":                  {io.MultiReader(strings.NewReader("hello")), 401},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(fx *fixture) {
				fx.wantToken(fx.rotate(time.Hour))
				fx.rotate(time.Hour)
				var bodies []string
				client := &http.Client{Transport: fx.reader.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
					body, _ := io.ReadAll(r.Body)
					bodies = append(bodies, string(body))
					status := map[bool]int{true: 401, false: 200}[len(bodies) == 1]
					return &http.Response{StatusCode: status, Body: io.NopCloser(&bytes.Buffer{}), Request: r}, nil
				}))}
				response, err := client.Post("https://service.test", "text/plain", test.body)
				if err != nil || response.StatusCode != test.status {
					t.Fatalf("got %v, %v; want status %d", response, err, test.status)
				}
				for _, body := range bodies {
					if body != "hello" {
						t.Errorf("got the body %q, want hello", body)
					}
				}
				fx.wantToken(fx.cloud.MustCurrent(fx.secret()).Payload)
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A client of IBM's SDK sets the header before the transport does, and net/http takes
// that along to another port or a name below.
func TestTheTokenStaysWithItsHostAndIsEncrypted(t *testing.T) {
	for _, elsewhere := range []string{"https://elsewhere.test/", "https://below.service.test/", "https://service.test:8443/", "http://service.test/"} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			var authorized []string
			client := &http.Client{Transport: fx.reader.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("Authorization") != "" {
					authorized = append(authorized, r.URL.String())
				}
				response := &http.Response{StatusCode: 200, Body: http.NoBody, Request: r, Header: http.Header{}}
				if r.URL.String() == "https://service.test/" {
					response.StatusCode = 302
					response.Header.Set("Location", elsewhere)
				}
				return response, nil
			}))}
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

// With a list of hosts, no other gets the token: not by a request of the job's own,
// not by a redirect.
func TestHosts(t *testing.T) {
	for name, test := range map[string]struct {
		hosts []string
		url   string
		gets  bool
	}{
		"no list":                     {nil, "https://service.test/", true},
		"listed":                      {[]string{"other.test", "Service.test"}, "https://SERVICE.test:8443/", true},
		"listed with its port":        {[]string{"service.test:443"}, "https://service.test/", true},
		"another port":                {[]string{"service.test:443"}, "https://service.test:8443/", false},
		"a name's end":                {[]string{".service.test"}, "https://eu.service.test/", true},
		"the end itself":              {[]string{".service.test"}, "https://service.test/", false},
		"an end without a dot before": {[]string{".service.test"}, "https://evilservice.test/", false},
		"not listed":                  {[]string{"service.test"}, "https://service.test.evil.test/", false},
		"a user that looks like it":   {[]string{"service.test"}, "https://service.test@evil.test/", false},
		"an address":                  {[]string{"[::1]:8080"}, "http://[::1]:8080/", true},
		"another address":             {[]string{"::1"}, "http://127.0.0.1/", false},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(fx *fixture) {
				fx.rotate(time.Hour)
				fx.reader.Hosts = test.hosts
				sent := 0
				client := &http.Client{Transport: fx.reader.Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
					sent++
					if (r.Header.Get("Authorization") != "") != test.gets {
						t.Errorf("got the token sent: %t, want %t", !test.gets, test.gets)
					}
					return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r, Header: http.Header{}}, nil
				}))}
				_, err := client.Get(test.url)
				if (err == nil) != test.gets || (sent == 1) != test.gets {
					t.Errorf("got %v and %d requests, want success: %t", err, sent, test.gets)
				}
				request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, test.url, nil)
				if err := fx.reader.Authenticate(request); (err == nil) != test.gets || (request.Header.Get("Authorization") != "") != test.gets {
					t.Errorf("Authenticate: got %v, want success: %t", err, test.gets)
				}
			})
		})
	}
	for _, entry := range []string{"", "https://service.test", "service.test/", "*.service.test", "a b", "key@service.test"} {
		reader := &iamtoken.Reader{Store: storeOf(iamtoken.Version{}), Hosts: []string{entry}}
		if err := reader.Validate(); err == nil || entry != "" && strings.Contains(err.Error(), entry) {
			t.Errorf("the entry %q: got %v, want a rejection that does not repeat it", entry, err)
		}
	}
}

func TestTheReadersOwnTokenIsRenewedAfterA401(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.wantToken(fx.rotate(time.Hour))
		time.Sleep(56 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 401, Times: 1})
		fx.wantToken(fx.rotate(time.Hour))
	})
}

func TestATokenFunctionOpensTheStore(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.store.APIKey = iamtoken.Secret{}
		fx.store.AccessToken = func(context.Context) (iamtoken.Secret, error) {
			return iamtoken.NewSecret("Bearer " + fx.cloud.MustMintToken(fx.cloud.ReaderAPIKey(), time.Hour)), nil
		}
		fx.wantToken(fx.rotate(time.Hour))
		if got := fx.count(ibmcloudtest.OpIAMToken); got != 0 {
			t.Errorf("got %d exchanges, want none", got)
		}
	})
	withFixture(t, func(fx *fixture) {
		lost := errors.New("the profile is gone")
		fx.store.APIKey = iamtoken.Secret{}
		fx.store.AccessToken = func(context.Context) (iamtoken.Secret, error) { return iamtoken.Secret{}, lost }
		if _, err := fx.reader.Token(context.Background()); !errors.Is(err, lost) {
			t.Errorf("got %v, want the function's error", err)
		}
	})
}
