package ibmcloudtest_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// The cloud also works over sockets: with HTTP/1.1, and with HTTP/2 and TLS.
func TestOverSockets(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := newStory(newClient(t, ibmcloudtest.Options{}))
		server := httptest.NewUnstartedServer(s.cloud)
		if server.EnableHTTP2 = http2; http2 {
			server.StartTLS()
		} else {
			server.Start()
		}
		defer server.Close()
		s.http, s.origin, s.values["ORIGIN"] = server.Client(), server.URL, server.URL
		s.play(`bootstrap POST /api/v2/secrets/$TOKEN/versions {"payload":"<token>"} => 201 {"payload":"<token>"}
			admin POST /api/v2/secrets {"secret_type":"arbitrary","name":"other","payload":"x"} => 201 {"id":"$other"}`)
		if got := s.ask("admin", "DELETE /api/v2/secrets/$other"); got.status != 204 || got.header.Get("Content-Type") != "" || got.header.Get("Date") != "Sun, 01 Mar 2026 12:00:00 GMT" {
			t.Errorf("http2 %t: got %d, %v", http2, got.status, got.header)
		}
		s.cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Status: 503})
		if got := s.ask("bootstrap", "POST /api/v2/secrets/$TOKEN/versions {}"); got.status != 503 || got.raw != "" || got.header.Get("Content-Type") != "" {
			t.Errorf("http2 %t: empty fault: got %d %q, %v", http2, got.status, got, got.header)
		}
		s.cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Drop: "after"})
		s.play(`bootstrap POST /api/v2/secrets/$TOKEN/versions {"payload":"y"} => 0
			reader GET /api/v2/secrets/$TOKEN => 200 {"payload":"y"}`)
		s.cloud.MustAddFault(ibmcloudtest.Fault{Op: "iam.keys", Delay: time.Hour}) // that the server must not wait out
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := s.http.Do(s.request("GET", "/identity/keys", "").WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("http2 %t: delay: got %v", http2, err)
		}
		cancel()
		s.play(`admin GET /api/v2/secrets => 200 {"first":{"href":"*"}}`) // the server goes on
		if got := s.ask("admin", "GET /api/v2/secrets").at("first", "href"); got != server.URL+"/api/v2/secrets?limit=200&offset=0" {
			t.Errorf("http2 %t: the link to the first page: got %v", http2, got)
		}
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
	if _, err := cloud.Transport().RoundTrip(r); !errors.Is(err, context.Canceled) || !body.isClosed || len(cloud.Requests()) != 0 {
		t.Errorf("canceled: got %v, the body closed %t, %d requests", err, body.isClosed, len(cloud.Requests()))
	}
	response, err := cloud.Transport().RoundTrip(r.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if raw, _ := io.ReadAll(response.Body); int64(len(raw)) != response.ContentLength || response.Request == nil || response.Status != "415 Unsupported Media Type" {
		t.Errorf("got %d bytes, ContentLength %d, Status %q", len(raw), response.ContentLength, response.Status)
	}
	r.Body = io.NopCloser(&broken{})
	if _, err := cloud.Transport().RoundTrip(r.WithContext(t.Context())); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a body that breaks off: got %v", err)
	}
}

// closed is an empty body that records that it was closed.
type closed struct{ isClosed bool }

func (*closed) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closed) Close() error           { c.isClosed = true; return nil }

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestConcurrentUse is for the race detector: every kind of call at once.
func TestConcurrentUse(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 4, KeyPropagation: -1})
	t.Run("all at once", func(t *testing.T) {
		for _, rotation := range cloud.Rotations() {
			t.Run(rotation.Name, func(t *testing.T) {
				t.Parallel()
				s := newStory(inProcess(t, cloud))
				s.values["TOKEN"], s.values["KEY"], s.values["IAM_ID"] = rotation.TokenSecret, rotation.APIKeySecret, rotation.IAMID
				s.values["managed"] = cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: rotation.IAMID, ReuseAPIKey: true})
				for range 5 {
					s.play(`admin POST /api/v2/secrets/$managed/versions {} => 201 {"api_key":"$key"}
						exchange $key => 200
						admin POST /v1/serviceids {"name":"x","account_id":"$ACCOUNT"} => 201 {"id":"$id"}
						admin GET /v1/apikeys?iam_id=$IAM_ID => 200
						admin DELETE /v1/serviceids/$id => 204
						admin GET /v2/groups => 200
						advance 1s
						nobody PATCH /_sandbox/settings {"older_key":"deleted"} => 200
						bootstrap GET /api/v2/secrets/$KEY => 200
						bootstrap POST /api/v2/secrets/$TOKEN/versions {"payload":"x","version_custom_metadata":{"a":1}} => 201
						reader GET /api/v2/secrets => 200
						nobody GET /_sandbox/requests => 200
						nobody GET /_sandbox/state => 200`)
					delete(s.values, "key")
					delete(s.values, "id")
					cloud.MustAddFault(ibmcloudtest.Fault{Op: "*", Times: 1, Headers: map[string]string{"X-Test": "1"}})
					cloud.MustVersions(rotation.TokenSecret)
				}
			})
		}
	})
	for _, rotation := range cloud.Rotations() {
		if got := len(cloud.MustVersions(rotation.TokenSecret)); got != 6 {
			t.Errorf("%s: got %d versions, want 6", rotation.Name, got)
		}
	}
}

// builtRequest matches the code in IBM's generated clients that builds a request, with its method and path.
var builtRequest = regexp.MustCompile("NewRequestBuilder\\(core\\.([A-Z]+)\\)[\\s\\S]*?`(/[^`]*)`")

// Each operation in IBM's own clients is served, or answered 501 with the JSON of its service's errors.
func TestEveryOperationOfIBMHasAnAnswer(t *testing.T) {
	c := newClient(t, ibmcloudtest.Options{})
	admin, found := c.token(c.cloud.AdminAPIKey()), 0
	for file, module := range map[string]string{
		"secretsmanagerv2/secrets_manager_v2.go":                      "github.com/IBM/secrets-manager-go-sdk/v2",
		"iamidentityv1/iam_identity_v1.go":                            "github.com/IBM/platform-services-go-sdk",
		"iamaccessgroupsv2/iam_access_groups_v2.go":                   "github.com/IBM/platform-services-go-sdk",
		"iampolicymanagementv1/iam_policy_management_v1.go":           "github.com/IBM/platform-services-go-sdk",
		"contextbasedrestrictionsv1/context_based_restrictions_v1.go": "github.com/IBM/platform-services-go-sdk",
		"resourcecontrollerv2/resource_controller_v2.go":              "github.com/IBM/platform-services-go-sdk",
		"logsrouterv3/logs_router_v3.go":                              "github.com/IBM/platform-services-go-sdk",
	} {
		folder, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(folder)), file))
		if err != nil {
			t.Fatal(err)
		}
		for _, built := range builtRequest.FindAllStringSubmatch(string(text), -1) {
			found++
			path := regexp.MustCompile(`{[^}]*}`).ReplaceAllString(built[2], "x")
			if strings.HasPrefix(file, "logsrouter") {
				path = "/v3" + path
			}
			got := c.do(admin, built[1], path, "")
			known := got.status != 405 && !strings.Contains(got.raw, "The requested path was not found.")
			isHead := built[1] == "HEAD"
			if !known || got.status == 501 && !isHead && !strings.Contains(got.raw, `"message":"The sandbox does not serve `+built[1]+` /`) {
				t.Errorf("%s %s: got %d %s", built[1], path, got.status, got)
			}
			if _, isText := got.at("status_code").(string); got.status == 501 && !isHead && isText != strings.HasPrefix(file, "iamidentity") {
				t.Errorf("%s %s: the error is not of its service's shape: %s", built[1], path, got)
			}
		}
	}
	if found < 200 {
		t.Errorf("found %d operations, want more than 200", found)
	}
}

func TestGzip(t *testing.T) {
	c := newClient(t, ibmcloudtest.Options{})
	id, token := c.cloud.Rotations()[0].TokenSecret, c.token(c.cloud.BootstrapAPIKey())
	zip := func(text string) string {
		var zipped strings.Builder
		w := gzip.NewWriter(&zipped)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		return zipped.String()
	}
	const version = `{"payload":"zipped"}`
	path := "/api/v2/secrets/" + id + "/versions"
	for _, test := range []struct {
		encoding, body string
		status         int
	}{
		{"gzip", zip(version), 201},
		{"GZIP", zip(version), 201},
		{"identity", version, 201},
		{"gzip", version, 400},
		{"gzip", zip(version)[:20], 400},
		{"gzip", zip(version) + "more", 400},
		{"gzip", zip(strings.Repeat(" ", 1<<25)), 400}, // 32 KB that would be 32 MB
		{"gzip, gzip", zip(zip(version)), 415},
		{"br", version, 415},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := c.do(token, "POST", path, test.body, "Content-Encoding", test.encoding)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; got.status != test.status || took > 64<<20 {
			t.Errorf("%s of %d bytes: got %d, want %d; it took %d bytes of memory", test.encoding, len(test.body), got.status, test.status, took)
		}
	}
	if got := c.cloud.MustCurrent(id).Payload; got != "zipped" || len(c.cloud.MustVersions(id)) != 4 {
		t.Errorf("got the payload %q and %d versions", got, len(c.cloud.MustVersions(id)))
	}
	twice := c.request("POST", path, zip(zip(version)), "Authorization", "Bearer "+token, "Content-Encoding", "gzip")
	twice.Header.Add("Content-Encoding", "gzip")
	if got := c.send(twice); got.status != 415 {
		t.Errorf("two headers: got %d", got.status)
	}
	if got := c.do(token, "GET", "/api/v2/secrets/"+id+"/metadata", "", "Content-Encoding", "gzip"); got.status != 200 {
		t.Errorf("no body: got %d", got.status)
	}
	form := url.Values{"grant_type": {apiKeyGrant}, "apikey": {c.cloud.ReaderAPIKey()}}.Encode()
	for encoding, want := range map[string]int{"gzip": 200, "br": 415} {
		got := c.do("", "POST", "/identity/token", zip(form), "Content-Type", formType, "Content-Encoding", encoding)
		if got.status != want || (got.at("errorCode") == "BXNIM0106E") != (want != 200) || c.lastOp() != "iam.token" {
			t.Errorf("IAM, %s: got %d", encoding, got.status)
		}
	}
}

func TestSlowProxyAddsRoundTrips(t *testing.T) {
	const roundTrip = 40 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer server.Close()
	proxy, err := ibmcloudtest.NewSlowProxy(strings.TrimPrefix(server.URL, "http://"), roundTrip)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = proxy.Close() }()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, trips := range []time.Duration{2, 1} { // connecting and asking, asking
		began := time.Now()
		response, err := client.Post("http://"+proxy.Addr(), "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		// A lower bound holds on a slow machine too.
		if took := time.Since(began); took < trips*roundTrip || string(body) != "hello" {
			t.Errorf("got %q after %s, want hello after %d round trips at least", body, took, trips)
		}
	}
	if got := proxy.Connections(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}
