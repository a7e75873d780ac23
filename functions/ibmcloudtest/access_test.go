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

// Each service's errors have a shape of their own. A path that no service has is answered as Secrets Manager would.
func TestErrorBodies(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	shapes := map[string][][]any{
		"token":  {{"errorCode"}, {"errorMessage"}, {"context"}},
		"keys":   {{"errors", 0, "code"}, {"errors", 0, "message"}, {"errors", 0, "message_code"}, {"trace"}},
		"common": {{"errors", 0, "code"}, {"errors", 0, "message"}, {"trace"}},
	}
	for _, test := range []struct {
		method, path  string
		status        int
		shape, allows string
	}{
		{"GET", "/api/v2/secrets/none", 404, "common", ""},
		{"GET", "/nowhere", 404, "common", ""},
		{"POST", "/", 404, "common", ""},
		{"GET", "/api/v2/secrets//metadata", 404, "common", ""},
		{"GET", "/v1/profiles/x/nowhere", 404, "common", ""},
		{"GET", "/v9/targets", 404, "common", ""},
		{"GET", "/api/v1/secrets", 404, "common", ""}, // IBM ended version 1
		{"GET", "/identity/nowhere", 404, "token", ""},
		{"GET", "/v1/apikeys/x/nowhere", 404, "keys", ""},
		{"PUT", "/api/v2/secrets", 405, "common", "GET, POST"},
		{"PUT", "/v3/targets/", 405, "common", "GET, POST"},
		{"DELETE", "/v1/tenants", 405, "common", "GET, POST"},
		{"PUT", "/v1/apikeys", 405, "keys", "GET, POST"},
		{"POST", "/v1/serviceids/x", 405, "keys", "DELETE, GET, PUT"},
		{"GET", "/identity/token", 405, "token", "POST"},
		{"POST", "/v3/targets", 501, "common", ""},
		{"GET", "/v1/profiles/", 501, "keys", ""},
		{"POST", "/identity/introspect", 501, "token", ""},
	} {
		got := c.do(admin, test.method, test.path, "")
		if allow, kind := got.header.Get("Allow"), got.header.Get("Content-Type"); got.status != test.status || allow != test.allows || kind != "application/json" {
			t.Errorf("%s %s: got %d, Allow %q, of type %q; want %d, %q, JSON", test.method, test.path, got.status, allow, kind, test.status, test.allows)
		}
		for _, field := range shapes[test.shape] {
			if got.at(field...) == nil {
				t.Errorf("%s %s: got %s, want %v", test.method, test.path, got, field)
			}
		}
		if want := map[string]any{"keys": fmt.Sprint(test.status), "common": float64(test.status)}[test.shape]; got.at("status_code") != want {
			t.Errorf("%s %s: status_code: got %v, want %v", test.method, test.path, got.at("status_code"), want)
		}
	}
}
