package ibmcloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// overHTTP speaks to the cloud over a socket, by HTTP/1.1 or, with TLS, HTTP/2.
func overHTTP(t *testing.T, cloud *ibmcloudtest.Cloud, http2 bool) client {
	t.Helper()
	server := httptest.NewUnstartedServer(cloud)
	server.EnableHTTP2 = http2
	if http2 {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return client{t, server.Client(), server.URL}
}

func TestOverSockets(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		now := newClock()
		cloud := ibmcloudtest.New(ibmcloudtest.Options{Now: now.Now})
		c := overHTTP(t, cloud, http2)
		id := cloud.Rotations()[0].TokenSecret
		bootstrap, admin := c.token(cloud.BootstrapAPIKey()), c.token(cloud.AdminAPIKey())

		got := c.want(201, bootstrap, "POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"<token>"}`)
		if got.at("payload") != "<token>" || got.header.Get("Date") != "Sun, 01 Mar 2026 12:00:00 GMT" {
			t.Errorf("http2 %t: got %s, Date %q", http2, got.raw, got.header.Get("Date"))
		}
		other := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "x"})
		if got := c.want(204, admin, "DELETE", "/api/v2/secrets/"+other, ""); got.header.Get("Content-Type") != "" {
			t.Errorf("http2 %t: 204 has Content-Type %q", http2, got.header.Get("Content-Type"))
		}
		cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Status: 503})
		if got := c.want(503, bootstrap, "POST", "/api/v2/secrets/"+id+"/versions", `{}`); got.raw != "" || got.header.Get("Content-Type") != "" {
			t.Errorf("http2 %t: empty fault: got %q, Content-Type %q", http2, got.raw, got.header.Get("Content-Type"))
		}
		cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Drop: "after"})
		response, err := c.http.Do(c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"y"}`, "Authorization", "Bearer "+bootstrap))
		if err == nil {
			response.Body.Close()
			t.Errorf("http2 %t: drop: got %d, want no answer", http2, response.StatusCode)
		}
		if got := cloud.MustCurrent(id).Payload; got != "y" {
			t.Errorf("http2 %t: drop after: current is %q, want y", http2, got)
		}
		list := c.want(200, admin, "GET", "/api/v2/secrets", "") // the server goes on
		if want := c.origin + "/api/v2/secrets?limit=200&offset=0"; list.at("first", "href") != want {
			t.Errorf("http2 %t: link to the first page: got %v, want %s", http2, list.at("first", "href"), want)
		}
	}
}

// TestLeavingCallerEndsADelay would hang if the server waited the hour out.
func TestLeavingCallerEndsADelay(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	arrived := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		cloud.ServeHTTP(w, r)
	}))
	defer server.Close()
	cloud.MustAddFault(ibmcloudtest.Fault{Op: "iam.keys", Delay: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/identity/keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client().Do(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

func TestTransportKeepsToRoundTripper(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	body := &closed{}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://any.test/identity/token", body)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cloud.Transport().RoundTrip(r); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v", err)
	}
	if !body.isClosed {
		t.Error("the request's body was left open")
	}
	if got := len(cloud.Requests()); got != 0 {
		t.Errorf("a canceled request arrived: got %d in the log", got)
	}
	response, err := cloud.Transport().RoundTrip(r.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if raw, _ := io.ReadAll(response.Body); int64(len(raw)) != response.ContentLength || response.Request == nil || response.Status != "415 Unsupported Media Type" {
		t.Errorf("got %d bytes, ContentLength %d, Status %q", len(raw), response.ContentLength, response.Status)
	}
}

// closed is an empty body that notes its closing.
type closed struct{ isClosed bool }

func (*closed) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closed) Close() error           { c.isClosed = true; return nil }

// TestConcurrentUse is for the race detector: every kind of call at once.
func TestConcurrentUse(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 4})
	t.Run("all at once", func(t *testing.T) {
		for _, rotation := range cloud.Rotations() {
			t.Run(rotation.Name, func(t *testing.T) {
				t.Parallel()
				c := inProcess(t, cloud)
				for range 20 {
					bootstrap := c.token(cloud.BootstrapAPIKey())
					c.want(200, bootstrap, "GET", "/api/v2/secrets/"+rotation.APIKeySecret, "")
					c.want(201, bootstrap, "POST", "/api/v2/secrets/"+rotation.TokenSecret+"/versions", `{"payload":"x","version_custom_metadata":{"a":1}}`)
					c.want(200, c.token(cloud.ReaderAPIKey()), "GET", "/api/v2/secrets", "")
					cloud.MustAddFault(ibmcloudtest.Fault{Op: "*", Times: 1, Headers: map[string]string{"X-Test": "1"}})
					cloud.MustVersions(rotation.TokenSecret)
					cloud.Requests()
				}
			})
		}
	})
	for _, rotation := range cloud.Rotations() {
		if got := len(cloud.MustVersions(rotation.TokenSecret)); got != 21 {
			t.Errorf("%s: got %d versions, want 21", rotation.Name, got)
		}
	}
}

func TestEveryOperationHasItsName(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := cloud.Rotations()[0].TokenSecret
	routes := map[string][][2]string{
		"iam.token":         {{"POST", "/identity/token"}},
		"iam.keys":          {{"GET", "/identity/keys"}},
		"apikeys.list":      {{"GET", "/v1/apikeys"}},
		"apikeys.create":    {{"POST", "/v1/apikeys"}},
		"apikeys.details":   {{"GET", "/v1/apikeys/details"}},
		"apikeys.get":       {{"GET", "/v1/apikeys/x"}},
		"apikeys.update":    {{"PUT", "/v1/apikeys/x"}},
		"apikeys.delete":    {{"DELETE", "/v1/apikeys/x"}},
		"groups":            {{"POST", "/api/v2/secret_groups"}, {"GET", "/api/v2/secret_groups"}, {"GET", "/api/v2/secret_groups/x"}, {"PATCH", "/api/v2/secret_groups/x"}, {"DELETE", "/api/v2/secret_groups/x"}},
		"secrets.list":      {{"GET", "/api/v2/secrets"}},
		"secrets.create":    {{"POST", "/api/v2/secrets"}},
		"secrets.get":       {{"GET", "/api/v2/secrets/%s"}, {"GET", "/api/v2/secret_groups/g/secret_types/t/secrets/n"}},
		"secrets.delete":    {{"DELETE", "/api/v2/secrets/%s"}},
		"secrets.metadata":  {{"GET", "/api/v2/secrets/%s/metadata"}},
		"secrets.patch":     {{"PATCH", "/api/v2/secrets/%s/metadata"}},
		"versions.create":   {{"POST", "/api/v2/secrets/%s/versions"}},
		"versions.list":     {{"GET", "/api/v2/secrets/%s/versions"}},
		"versions.get":      {{"GET", "/api/v2/secrets/%s/versions/current"}},
		"versions.metadata": {{"GET", "/api/v2/secrets/%s/versions/current/metadata"}},
		"versions.patch":    {{"PATCH", "/api/v2/secrets/%s/versions/current/metadata"}},
		"locks": {{"POST", "/api/v2/secrets/%s/locks_bulk"}, {"DELETE", "/api/v2/secrets/%s/locks_bulk"}, {"GET", "/api/v2/secrets/%s/locks"},
			{"POST", "/api/v2/secrets/%s/versions/current/locks_bulk"}, {"DELETE", "/api/v2/secrets/%s/versions/current/locks_bulk"},
			{"GET", "/api/v2/secrets/%s/versions/current/locks"}, {"GET", "/api/v2/secrets_locks"}},
		"targets.list": {{"GET", "/v3/targets"}},
		"settings.get": {{"GET", "/v3/settings"}},
		"tenants.list": {{"GET", "/v1/tenants"}},
	}
	for name, requests := range routes {
		for _, request := range requests {
			cloud.MustAddFault(ibmcloudtest.Fault{Op: name, Times: 1, Status: 418})
			c.check(c.do(admin, request[0], strings.Replace(request[1], "%s", id, 1), ""), 418, fmt.Sprintf("%s %s is not %s", request[0], request[1], name))
			cloud.ClearFaults()
		}
	}
}

func TestSlowProxyAddsRoundTrips(t *testing.T) {
	const roundTrip = 100 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer server.Close()
	proxy, err := ibmcloudtest.NewSlowProxy(strings.TrimPrefix(server.URL, "http://"), roundTrip)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proxy.Close() }()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, test := range []struct {
		name  string
		trips time.Duration
	}{{"connecting and asking", 2}, {"asking", 1}} {
		began := time.Now()
		response, err := client.Post("http://"+proxy.Addr(), "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if string(body) != "hello" {
			t.Errorf("got %q, want hello", body)
		}
		// A lower bound holds on a slow machine too.
		if took := time.Since(began); took < test.trips*roundTrip {
			t.Errorf("%s took %s, want at least %d round trips", test.name, took, test.trips)
		}
	}
	if got := proxy.Connections(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}
