package ibmcloudtest_test

import (
	"fmt"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// TestPermissions lists what each identity gets, and under which name the operation is logged. "key" and "token" are the seeded secrets; a request
// that is allowed but asks for nothing sensible gets 400 or 404.
func TestPermissions(t *testing.T) {
	tests := []struct {
		op, method, path, body             string
		bootstrap, workload, reader, admin int
	}{
		{"secrets.get", "GET", "/api/v2/secrets/key", "", 200, 403, 403, 200},
		{"secrets.get", "GET", "/api/v2/secrets/token", "", 403, 403, 200, 200},
		{"secrets.get", "GET", "/api/v2/secrets/none", "", 404, 403, 404, 404},
		{"secrets.get", "GET", "/api/v2/secret_groups/iam-api-keys/secret_types/arbitrary/secrets/api-key-default", "", 200, 403, 403, 200},
		{"secrets.get", "GET", "/api/v2/secret_groups/iam-tokens/secret_types/arbitrary/secrets/iam-token-default", "", 403, 403, 200, 200},
		// A name counts within its group only: else the right to one group would open another.
		{"secrets.get", "GET", "/api/v2/secret_groups/iam-api-keys/secret_types/arbitrary/secrets/iam-token-default", "", 404, 403, 403, 404},
		{"secrets.get", "GET", "/api/v2/secret_groups/none/secret_types/arbitrary/secrets/iam-token-default", "", 404, 403, 404, 404},
		{"secrets.metadata", "GET", "/api/v2/secrets/key/metadata", "", 403, 403, 403, 200},
		{"secrets.metadata", "GET", "/api/v2/secrets/token/metadata", "", 200, 403, 200, 200},
		{"secrets.list", "GET", "/api/v2/secrets", "", 403, 403, 200, 200},
		{"secrets.create", "POST", "/api/v2/secrets", "{}", 403, 403, 403, 400},
		{"secrets.patch", "PATCH", "/api/v2/secrets/token/metadata", "{}", 403, 403, 403, 200},
		{"versions.create", "POST", "/api/v2/secrets/key/versions", `{"payload":"x"}`, 403, 403, 403, 201},
		{"versions.create", "POST", "/api/v2/secrets/token/versions", `{"payload":"x"}`, 201, 403, 403, 201},
		{"versions.list", "GET", "/api/v2/secrets/token/versions", "", 403, 403, 200, 200},
		{"versions.get", "GET", "/api/v2/secrets/key/versions/current", "", 403, 403, 403, 200},
		{"versions.get", "GET", "/api/v2/secrets/token/versions/current", "", 403, 403, 200, 200},
		{"versions.metadata", "GET", "/api/v2/secrets/key/versions/current/metadata", "", 403, 403, 403, 200},
		{"versions.metadata", "GET", "/api/v2/secrets/token/versions/current/metadata", "", 200, 403, 200, 200},
		{"versions.patch", "PATCH", "/api/v2/secrets/token/versions/current/metadata", "{}", 403, 403, 403, 200},
		{"locks", "GET", "/api/v2/secrets/token/locks", "", 403, 403, 200, 200},
		{"locks", "GET", "/api/v2/secrets/token/versions/current/locks", "", 200, 403, 200, 200},
		{"locks", "GET", "/api/v2/secrets_locks", "", 403, 403, 200, 200},
		{"locks", "POST", "/api/v2/secrets/token/locks_bulk", `{"locks":[{"name":"a"}]}`, 403, 403, 403, 201},
		{"locks", "POST", "/api/v2/secrets/token/versions/current/locks_bulk", `{"locks":[{"name":"a"}]}`, 403, 403, 403, 201},
		{"locks", "DELETE", "/api/v2/secrets/token/versions/current/locks_bulk", "", 403, 403, 403, 200},
		{"locks", "DELETE", "/api/v2/secrets/token/locks_bulk", "", 403, 403, 403, 200},
		{"groups", "GET", "/api/v2/secret_groups", "", 403, 403, 403, 200},
		{"groups", "POST", "/api/v2/secret_groups", "{}", 403, 403, 403, 400},
		{"groups", "GET", "/api/v2/secret_groups/default", "", 403, 403, 403, 200},
		{"groups", "PATCH", "/api/v2/secret_groups/none", "{}", 403, 403, 403, 404},
		{"groups", "DELETE", "/api/v2/secret_groups/none", "", 403, 403, 403, 404},
		{"apikeys.list", "GET", "/v1/apikeys", "", 403, 403, 403, 200},
		{"apikeys.create", "POST", "/v1/apikeys", "", 403, 403, 403, 415},
		{"apikeys.details", "GET", "/v1/apikeys/details", "", 403, 403, 403, 404},
		{"apikeys.get", "GET", "/v1/apikeys/x", "", 403, 403, 403, 404},
		{"apikeys.update", "PUT", "/v1/apikeys/x", "", 403, 403, 403, 404},
		{"apikeys.delete", "DELETE", "/v1/apikeys/x", "", 403, 403, 403, 404},
		{"targets.list", "GET", "/v3/targets", "", 403, 200, 403, 403},
		{"targets.get", "GET", "/v3/targets/x", "", 403, 404, 403, 403},
		{"routes.list", "GET", "/v3/routes", "", 403, 200, 403, 403},
		{"routes.get", "GET", "/v3/routes/x", "", 403, 404, 403, 403},
		{"settings.get", "GET", "/v3/settings", "", 403, 200, 403, 403},
		{"tenants.list", "GET", "/v1/tenants", "", 403, 200, 403, 403},
		{"tenants.get", "GET", "/v1/tenants/x", "", 403, 404, 403, 403},
		{"tenants.targets", "GET", "/v1/tenants/x/targets", "", 403, 404, 403, 403},
		{"tenants.targets", "GET", "/v1/tenants/x/targets/y", "", 403, 404, 403, 403},
		{"accessgroups.list", "GET", "/v2/groups", "", 403, 403, 403, 200},
		{"accessgroups.list", "GET", "/v2/groups/", "", 403, 403, 403, 200},
		{"accessgroups.get", "GET", "/v2/groups/x", "", 403, 403, 403, 404},
		{"secrets.delete", "DELETE", "/api/v2/secrets/token", "", 403, 403, 403, 204}, // last: nothing is left of it
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
		if got := lastOp(cloud); got != test.op {
			t.Errorf("%s %s: got the operation %q, want %q", test.method, test.path, got, test.op)
		}
		c.check(c.send(c.request(test.method, ids.Replace(test.path), test.body)), 401, fmt.Sprintf("%s %s without a token", test.method, test.path))
	}
}

// lastOp is the operation of the last request.
func lastOp(cloud *ibmcloudtest.Cloud) string {
	requests := cloud.Requests()
	return requests[len(requests)-1].Op
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
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
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
		{"POST", "/", 405, "common", "GET, HEAD"},
		{"GET", "/api/v2/secrets//metadata", 404, "common", ""},
		{"GET", "/v9/targets", 404, "common", ""},
		{"GET", "/api/v1/secrets", 404, "common", ""}, // IBM ended version 1
		{"GET", "/identity/nowhere", 404, "token", ""},
		{"GET", "/v1/apikeys/x/nowhere", 404, "keys", ""},
		{"PUT", "/api/v2/secrets", 405, "common", "GET, POST"},
		{"PUT", "/api/v2/secrets/x/metadata", 405, "common", "GET, PATCH"},
		{"PUT", "/v1/apikeys", 405, "keys", "GET, POST"},
		{"GET", "/identity/token", 405, "token", "POST"},
		{"POST", "/v3/targets", 501, "common", ""},
		{"GET", "/v2/groups/settings", 501, "common", ""},
		{"GET", "/v1/profiles/", 501, "keys", ""},
		{"PUT", "/v1/serviceids/x", 501, "keys", ""},
		{"DELETE", "/v1/tenants", 501, "common", ""},
		{"POST", "/identity/introspect", 501, "token", ""},
	} {
		got := c.do(admin, test.method, test.path, "")
		if allow, kind := got.header.Get("Allow"), got.header.Get("Content-Type"); got.status != test.status || allow != test.allows || kind != "application/json" {
			t.Errorf("%s %s: got %d, Allow %q, of type %q; want %d, %q, JSON", test.method, test.path, got.status, allow, kind, test.status, test.allows)
		}
		if got := lastOp(cloud); (got == ibmcloudtest.OpNotServed) != (test.status == 501) {
			t.Errorf("%s %s: got the operation %q", test.method, test.path, got)
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
