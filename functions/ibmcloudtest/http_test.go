package ibmcloudtest_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
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
		_ = cloud.AddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Status: 503})
		if got := c.want(503, bootstrap, "POST", "/api/v2/secrets/"+id+"/versions", `{}`); got.raw != "" || got.header.Get("Content-Type") != "" {
			t.Errorf("http2 %t: empty fault: got %q, Content-Type %q", http2, got.raw, got.header.Get("Content-Type"))
		}
		_ = cloud.AddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Drop: "after"})
		response, err := c.http.Do(c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"y"}`, "Authorization", "Bearer "+bootstrap))
		if err == nil {
			response.Body.Close()
			t.Errorf("http2 %t: drop: got %d, want no answer", http2, response.StatusCode)
		}
		if got := cloud.MustCurrent(id).Payload; got != "y" {
			t.Errorf("http2 %t: drop after: current is %q, want y", http2, got)
		}
		c.want(200, admin, "GET", "/api/v2/secrets/"+id, "") // the server lives on
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
	_ = cloud.AddFault(ibmcloudtest.Fault{Op: "iam.keys", Delay: time.Hour})
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

func TestLinksNameTheServer(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	server := httptest.NewTLSServer(cloud)
	defer server.Close()
	c := client{t, server.Client(), server.URL}
	got := c.want(200, c.token(cloud.AdminAPIKey()), "GET", "/api/v2/secrets", "")
	if want := server.URL + "/api/v2/secrets?limit=200&offset=0"; got.at("first", "href") != want {
		t.Errorf("first: got %v, want %s", got.at("first", "href"), want)
	}
}
