package ibmcloudtest_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
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
			t.Errorf("http2 %t: got %s, Date %q", http2, got, got.header.Get("Date"))
		}
		other := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "x"})
		if got := c.want(204, admin, "DELETE", "/api/v2/secrets/"+other, ""); got.header.Get("Content-Type") != "" {
			t.Errorf("http2 %t: 204 has Content-Type %q", http2, got.header.Get("Content-Type"))
		}
		cloud.MustAddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Status: 503})
		if got := c.want(503, bootstrap, "POST", "/api/v2/secrets/"+id+"/versions", `{}`); got.raw != "" || got.header.Get("Content-Type") != "" {
			t.Errorf("http2 %t: empty fault: got %q, Content-Type %q", http2, got, got.header.Get("Content-Type"))
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
		cloud.MustAddFault(ibmcloudtest.Fault{Op: "iam.keys", Delay: time.Hour}) // that the server must not wait out
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := c.http.Do(c.request("GET", "/identity/keys", "").WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("http2 %t: delay: got %v", http2, err)
		}
		cancel()
		list := c.want(200, admin, "GET", "/api/v2/secrets", "") // the server goes on
		if want := c.origin + "/api/v2/secrets?limit=200&offset=0"; list.at("first", "href") != want {
			t.Errorf("http2 %t: link to the first page: got %v, want %s", http2, list.at("first", "href"), want)
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
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: 4, KeyPropagation: -1})
	t.Run("all at once", func(t *testing.T) {
		for _, rotation := range cloud.Rotations() {
			t.Run(rotation.Name, func(t *testing.T) {
				t.Parallel()
				c := inProcess(t, cloud)
				admin := c.token(cloud.AdminAPIKey())
				managed := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: rotation.IAMID, ReuseAPIKey: true})
				for range 20 {
					c.token(c.want(201, admin, "POST", "/api/v2/secrets/"+managed+"/versions", "{}").at("api_key").(string))
					id := c.want(201, admin, "POST", "/v1/serviceids", `{"name":"x","account_id":"`+cloud.AccountID()+`"}`).at("id").(string)
					c.want(200, admin, "GET", "/v1/apikeys?iam_id="+rotation.IAMID, "")
					c.want(204, admin, "DELETE", "/v1/serviceids/"+id, "")
					c.want(200, admin, "GET", "/v2/groups", "")
					cloud.Advance(time.Second)
					cloud.Set(ibmcloudtest.Undocumented{OlderKey: "deleted"})
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

// builtRequest is how IBM's generated clients build a request: its method and its path.
var builtRequest = regexp.MustCompile("NewRequestBuilder\\(core\\.([A-Z]+)\\)[\\s\\S]*?`(/[^`]*)`")

// IBM's own clients list the operations. Each is served, or answered 501 in the shape of its service's errors, whoever asks.
func TestEveryOperationOfIBMHasAnAnswer(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "x"})
	found := 0
	for _, source := range []struct{ module, file, prefix string }{
		{"github.com/IBM/secrets-manager-go-sdk/v2", "secretsmanagerv2/secrets_manager_v2.go", ""},
		{"github.com/IBM/platform-services-go-sdk", "iamidentityv1/iam_identity_v1.go", ""},
		{"github.com/IBM/platform-services-go-sdk", "iamaccessgroupsv2/iam_access_groups_v2.go", ""},
		{"github.com/IBM/platform-services-go-sdk", "iampolicymanagementv1/iam_policy_management_v1.go", ""},
		{"github.com/IBM/platform-services-go-sdk", "contextbasedrestrictionsv1/context_based_restrictions_v1.go", ""},
		{"github.com/IBM/platform-services-go-sdk", "resourcecontrollerv2/resource_controller_v2.go", ""},
		{"github.com/IBM/platform-services-go-sdk", "logsrouterv3/logs_router_v3.go", "/v3"},
	} {
		folder, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", source.module).Output()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(folder)), source.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, built := range builtRequest.FindAllStringSubmatch(string(text), -1) {
			found++
			path := source.prefix + regexp.MustCompile(`{[^}]*}`).ReplaceAllString(built[2], "x")
			got := c.do(admin, built[1], path, "")
			known := got.status != 405 && !strings.Contains(got.raw, "The requested path was not found.")
			isHead := built[1] == "HEAD"
			if !known || got.status == 501 && !isHead && !strings.Contains(got.raw, `"message":"The sandbox does not serve `+built[1]+` /`) {
				t.Errorf("%s %s: got %d %s", built[1], path, got.status, got)
			}
			if _, isText := got.at("status_code").(string); got.status == 501 && !isHead && isText != (source.file == "iamidentityv1/iam_identity_v1.go") {
				t.Errorf("%s %s: the error is not of its service's shape: %s", built[1], path, got)
			}
		}
	}
	if found < 200 {
		t.Errorf("found %d operations, want more than 200", found)
	}
}

func TestGzip(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	id, token := cloud.Rotations()[0].TokenSecret, c.token(cloud.BootstrapAPIKey())
	zip := func(text string) string {
		var zipped strings.Builder
		w := gzip.NewWriter(&zipped)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		return zipped.String()
	}
	const version = `{"payload":"zipped"}`
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
		{"gzip", zip(strings.Repeat(" ", 1<<26)), 400}, // 64 KB that would be 64 MB
		{"deflate", version, 415},
		{"gzip, gzip", zip(zip(version)), 415},
		{"br", version, 415},
		{"zstd", version, 415},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := c.send(c.request("POST", "/api/v2/secrets/"+id+"/versions", test.body, "Authorization", "Bearer "+token, "Content-Encoding", test.encoding))
		runtime.ReadMemStats(&after)
		c.check(got, test.status, fmt.Sprintf("%s of %d bytes", test.encoding, len(test.body)))
		if took := after.TotalAlloc - before.TotalAlloc; took > 128<<20 {
			t.Errorf("%s of %d bytes took %d bytes of memory", test.encoding, len(test.body), took)
		}
	}
	if got := cloud.MustCurrent(id).Payload; got != "zipped" || len(cloud.MustVersions(id)) != 4 {
		t.Errorf("got the payload %q and %d versions", got, len(cloud.MustVersions(id)))
	}
	twice := c.request("POST", "/api/v2/secrets/"+id+"/versions", zip(zip(version)), "Authorization", "Bearer "+token, "Content-Encoding", "gzip")
	twice.Header.Add("Content-Encoding", "gzip")
	c.check(c.send(twice), 415, "two headers")
	c.check(c.send(c.request("GET", "/api/v2/secrets/"+id+"/metadata", "", "Authorization", "Bearer "+token, "Content-Encoding", "gzip")), 200, "no body")
	form := url.Values{"grant_type": {apiKeyGrant}, "apikey": {cloud.ReaderAPIKey()}}.Encode()
	for encoding, want := range map[string]int{"gzip": 200, "br": 415} {
		got := c.send(c.request("POST", "/identity/token", zip(form), "Content-Type", "application/x-www-form-urlencoded", "Content-Encoding", encoding))
		if got.status != want || (got.body["errorCode"] == "BXNIM0106E") != (want != 200) {
			t.Errorf("IAM, %s: got %d", encoding, got.status)
		}
	}
	if got := lastOp(cloud); got != "iam.token" {
		t.Errorf("the request log has %q", got)
	}
}

func TestLogsRouting(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	token := c.token(cloud.Rotations()[0].APIKey)
	get := func(path, version string) answer {
		return c.send(c.request("GET", path, "", "Authorization", "Bearer "+token, "IBM-API-Version", version))
	}
	const dated = "2026-03-01"
	object := func(path string, at ...any) map[string]any {
		found, _ := get(path, dated).at(at...).(map[string]any)
		return found
	}
	target, route := object("/v3/targets", "targets", 0), object("/v3/routes", "routes", 0)
	tenant, sink := object("/v1/tenants", "tenants", 0), object("/v1/tenants", "tenants", 0, "targets", 0)
	for fields, of := range map[string]map[string]any{
		"id name crn destination_crn target_type write_status created_at updated_at managed_by":                  target,
		"id name crn rules created_at updated_at":                                                                route,
		"id name log_sink_crn type etag created_at updated_at write_status":                                      sink,
		"default_targets permitted_target_regions primary_metadata_region private_api_endpoint_only api_version": object("/v3/settings"),
	} {
		for _, field := range strings.Fields(fields) {
			if of[field] == nil {
				t.Errorf("%s is missing: %v", field, of)
			}
		}
	}
	for _, reference := range []map[string]any{object("/v3/settings", "default_targets", 0), object("/v3/routes", "routes", 0, "rules", 0, "targets", 0)} {
		for _, field := range []string{"id", "crn", "name", "target_type"} {
			if reference[field] == nil || reference[field] != target[field] {
				t.Errorf("%s of a reference: got %v, want %v", field, reference[field], target[field])
			}
		}
	}
	ids := strings.NewReplacer("TARGET", fmt.Sprint(target["id"]), "ROUTE", fmt.Sprint(route["id"]), "TENANT", fmt.Sprint(tenant["id"]), "SINK", fmt.Sprint(sink["id"]))
	for path, want := range map[string]int{
		"/v3/targets/TARGET": 200, "/v3/routes/ROUTE": 200, "/v1/tenants/TENANT": 200, "/v1/tenants/TENANT/targets": 200, "/v1/tenants/TENANT/targets/SINK": 200,
		"/v3/targets/x": 404, "/v3/routes/x": 404, "/v1/tenants/x": 404, "/v1/tenants/x/targets": 404, "/v1/tenants/TENANT/targets/x": 404,
	} {
		got := get(ids.Replace(path), dated)
		c.check(got, want, path)
		if id := path[strings.LastIndex(path, "/")+1:]; want == 200 && id != "targets" && got.at("id") != ids.Replace(id) {
			t.Errorf("%s: got %s", path, got)
		}
	}
	for query, want := range map[string]int{"?name=default": 1, "?name=other": 0, "/TENANT/targets?name=cloud-logs-sink": 1, "/TENANT/targets?name=x": 0} {
		list := map[bool]string{true: "targets", false: "tenants"}[strings.Contains(query, "targets")]
		items, isList := get(ids.Replace("/v1/tenants"+query), dated).at(list).([]any)
		if len(items) != want || !isList {
			t.Errorf("%s: got %d, want %d", query, len(items), want)
		}
	}
	for _, version := range []string{"", "today", "2026-13-01", "20260301"} {
		c.check(get("/v1/tenants", version), 400, "IBM-API-Version "+version)
	}
}

// IBM's secrets engine for Vault asks this when a role is configured: the token's keys, an access group or a service id, the API key's
// details. Its requests carry a JSON content type without a body, and write the header's name in its own way.
func TestWhatIBMsVaultPluginAsks(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	ask := func(path string, header ...string) answer {
		header = append(header, "Authorization", "Bearer "+admin, "Content-Type", "application/json", "Accept", "application/json")
		return c.send(c.request("GET", path, "", header...))
	}
	for i := range 2 {
		id := fmt.Sprint(ask("/v2/groups").at("groups", i, "id"))
		if got := ask("/v2/groups/" + id); got.status != 200 || got.at("account_id") != cloud.AccountID() || got.at("id") != id {
			t.Errorf("the access group %s: got %d %s", id, got.status, got)
		}
	}
	c.check(ask("/v2/groups/AccessGroupId-none"), 404, "an access group that is not there")
	workload := strings.TrimPrefix(cloud.Rotations()[0].IAMID, "iam-")
	if got := ask("/v1/serviceids/" + workload); got.at("account_id") != cloud.AccountID() || got.at("id") != workload {
		t.Errorf("the service id: got %d %s", got.status, got)
	}
	c.check(ask("/v1/serviceids/ServiceId-none"), 404, "a service id that is not there")
	if got := ask("/v1/apikeys/details", "IAM-Apikey", cloud.BootstrapAPIKey()); got.at("account_id") != cloud.AccountID() || got.at("iam_id") != cloud.BootstrapIAMID() {
		t.Errorf("the details of a key: got %d", got.status)
	}
	found := c.send(c.request("GET", "/identity/.well-known/openid-configuration", ""))
	if found.at("issuer") != "https://iam.cloud.ibm.com/identity" || found.at("jwks_uri") != "https://cloud.test/identity/keys" || lastOp(cloud) != "iam.openid" {
		t.Errorf("OpenID: got %d %s", found.status, found)
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
