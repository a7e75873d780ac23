package ibmcloudtest_test

import (
	"fmt"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// TestPermissions lists what each identity gets. "key" and "token" are the seeded secrets; a request
// that is allowed but asks for nothing sensible gets 400 or 404.
func TestPermissions(t *testing.T) {
	tests := []struct {
		method, path, body                 string
		bootstrap, workload, reader, admin int
	}{
		{"GET", "/api/v2/secrets/key", "", 200, 403, 403, 200},
		{"GET", "/api/v2/secrets/token", "", 403, 403, 200, 200},
		{"GET", "/api/v2/secrets/none", "", 404, 403, 404, 404},
		{"GET", "/api/v2/secret_groups/iam-api-keys/secret_types/arbitrary/secrets/api-key-default", "", 200, 403, 403, 200},
		{"GET", "/api/v2/secret_groups/iam-tokens/secret_types/arbitrary/secrets/iam-token-default", "", 403, 403, 200, 200},
		// A name counts within its group only: else the right to one group would open another.
		{"GET", "/api/v2/secret_groups/iam-api-keys/secret_types/arbitrary/secrets/iam-token-default", "", 404, 403, 403, 404},
		{"GET", "/api/v2/secret_groups/none/secret_types/arbitrary/secrets/iam-token-default", "", 404, 403, 404, 404},
		{"GET", "/api/v2/secrets/key/metadata", "", 403, 403, 403, 200},
		{"GET", "/api/v2/secrets/token/metadata", "", 200, 403, 200, 200},
		{"GET", "/api/v2/secrets", "", 403, 403, 200, 200},
		{"POST", "/api/v2/secrets", "{}", 403, 403, 403, 400},
		{"PATCH", "/api/v2/secrets/token/metadata", "{}", 403, 403, 403, 200},
		{"POST", "/api/v2/secrets/key/versions", `{"payload":"x"}`, 403, 403, 403, 201},
		{"POST", "/api/v2/secrets/token/versions", `{"payload":"x"}`, 201, 403, 403, 201},
		{"GET", "/api/v2/secrets/token/versions", "", 403, 403, 200, 200},
		{"GET", "/api/v2/secrets/key/versions/current", "", 403, 403, 403, 200},
		{"GET", "/api/v2/secrets/token/versions/current", "", 403, 403, 200, 200},
		{"GET", "/api/v2/secrets/key/versions/current/metadata", "", 403, 403, 403, 200},
		{"GET", "/api/v2/secrets/token/versions/current/metadata", "", 200, 403, 200, 200},
		{"PATCH", "/api/v2/secrets/token/versions/current/metadata", "{}", 403, 403, 403, 200},
		{"GET", "/api/v2/secrets/token/locks", "", 403, 403, 200, 200},
		{"GET", "/api/v2/secrets/token/versions/current/locks", "", 200, 403, 200, 200},
		{"GET", "/api/v2/secrets_locks", "", 403, 403, 200, 200},
		{"POST", "/api/v2/secrets/token/locks_bulk", `{"locks":[{"name":"a"}]}`, 403, 403, 403, 201},
		{"POST", "/api/v2/secrets/token/versions/current/locks_bulk", `{"locks":[{"name":"a"}]}`, 403, 403, 403, 201},
		{"DELETE", "/api/v2/secrets/token/versions/current/locks_bulk", "", 403, 403, 403, 200},
		{"DELETE", "/api/v2/secrets/token/locks_bulk", "", 403, 403, 403, 200},
		{"GET", "/api/v2/secret_groups", "", 403, 403, 403, 200},
		{"POST", "/api/v2/secret_groups", "{}", 403, 403, 403, 400},
		{"GET", "/api/v2/secret_groups/default", "", 403, 403, 403, 200},
		{"PATCH", "/api/v2/secret_groups/none", "{}", 403, 403, 403, 404},
		{"DELETE", "/api/v2/secret_groups/none", "", 403, 403, 403, 404},
		{"GET", "/v1/apikeys", "", 403, 403, 403, 200},
		{"POST", "/v1/apikeys", "", 403, 403, 403, 415},
		{"GET", "/v1/apikeys/x", "", 403, 403, 403, 404},
		{"PUT", "/v1/apikeys/x", "", 403, 403, 403, 404},
		{"DELETE", "/v1/apikeys/x", "", 403, 403, 403, 404},
		{"GET", "/v3/targets", "", 403, 200, 403, 403},
		{"GET", "/v3/settings", "", 403, 200, 403, 403},
		{"GET", "/v1/tenants", "", 403, 200, 403, 403},
		{"DELETE", "/api/v2/secrets/token", "", 403, 403, 403, 204}, // last: nothing is left of it
	}
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	rotation := cloud.Rotations()[0]
	ids := strings.NewReplacer("secrets/key", "secrets/"+rotation.APIKeySecret, "secrets/token", "secrets/"+rotation.TokenSecret)
	tokens := map[string]string{
		"bootstrap": c.token(cloud.BootstrapAPIKey()),
		"workload":  c.token(rotation.APIKey),
		"reader":    c.token(cloud.ReaderAPIKey()),
		"admin":     c.token(cloud.AdminAPIKey()),
	}
	for _, test := range tests {
		for _, who := range []struct {
			name string
			want int
		}{{"bootstrap", test.bootstrap}, {"workload", test.workload}, {"reader", test.reader}, {"admin", test.admin}} {
			r := c.request(test.method, ids.Replace(test.path), test.body,
				"Authorization", "Bearer "+tokens[who.name], "IBM-API-Version", "2026-01-01")
			c.check(c.send(r), who.want, fmt.Sprintf("%s %s as %s", test.method, test.path, who.name))
		}
		c.check(c.send(c.request(test.method, ids.Replace(test.path), test.body)), 401, fmt.Sprintf("%s %s without a token", test.method, test.path))
	}
}

func TestReaderListsItsGroupOnly(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{Rotations: 3})
	got := c.want(200, c.token(cloud.ReaderAPIKey()), "GET", "/api/v2/secrets", "")
	if total := got.at("total_count"); total != 3.0 {
		t.Errorf("total_count: got %v, want the 3 tokens", total)
	}
	if name := got.at("secrets", 0, "name"); name != "iam-token-rotation-00001" {
		t.Errorf("name: got %v, want iam-token-rotation-00001", name)
	}
}

func TestErrorBodies(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/api/v2/secrets/none", 404, ""},
		{"GET", "/nowhere", 404, ""},
		{"GET", "/", 404, ""},
		{"GET", "/api/v2/secrets//metadata", 404, ""},
		{"PUT", "/api/v2/secrets", 405, "GET, POST"},
		{"PUT", "/v3/targets/", 405, "GET, POST"},
		{"POST", "/v3/targets", 501, ""},
	} {
		got := c.do(admin, test.method, test.path, "")
		if got.status != test.status || got.header.Get("Allow") != test.allow {
			t.Errorf("%s %s: got %d, Allow %q; want %d, %q", test.method, test.path, got.status, got.header.Get("Allow"), test.status, test.allow)
		}
		if got.at("errors", 0, "message") == nil || got.at("errors", 0, "code") == nil || got.at("trace") == nil || got.at("status_code") != float64(test.status) {
			t.Errorf("%s %s: got %s, want errors, trace and status_code", test.method, test.path, got.raw)
		}
		if got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: Content-Type: got %q, want JSON", test.method, test.path, got.header.Get("Content-Type"))
		}
	}
}

func TestTenantsNeedADatedVersion(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	token := c.token(cloud.Rotations()[0].APIKey)
	for version, want := range map[string]int{"": 400, "latest": 400, "2026-01-01": 200} {
		got := c.send(c.request("GET", "/v1/tenants", "", "Authorization", "Bearer "+token, "IBM-API-Version", version))
		if got.status != want {
			t.Errorf("IBM-API-Version %q: got %d, want %d", version, got.status, want)
		}
	}
}
