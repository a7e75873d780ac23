package ibmcloudtest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

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
					_ = cloud.AddFault(ibmcloudtest.Fault{Op: "*", Times: 1, Headers: map[string]string{"X-Test": "1"}})
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

// BenchmarkRequests is the cost of one read of version metadata, what a pass does most.
func BenchmarkRequests(b *testing.B) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 10_000})
	token := cloud.MustMintToken(cloud.BootstrapAPIKey(), time.Hour)
	path := "https://any.test/api/v2/secrets/" + cloud.Rotations()[5_000].TokenSecret + "/versions/current/metadata"
	transport := cloud.Transport()
	for b.Loop() {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, path, nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		response, err := transport.RoundTrip(r)
		if err != nil || response.StatusCode != http.StatusOK {
			b.Fatal(err, response)
		}
	}
}
