package ibmcloudtest_test

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// A web page in a browser on this machine must not control the sandbox, neither from its own origin nor by
// a name that resolves to loopback.
func TestTheControlInterfaceAnswersThisMachineAlone(t *testing.T) {
	const me = "127.0.0.1:8480"
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Host: "sandbox.internal"})
	// status sends a request exactly as given and returns the status. No answer may have a CORS header.
	status := func(methodAndTarget, host, origins string, secure bool) int {
		t.Helper()
		text := methodAndTarget + " HTTP/1.1\r\nHost: " + host + "\r\n"
		for origin := range strings.FieldsSeq(origins) {
			text += "Origin: " + origin + "\r\n"
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		if secure {
			r.TLS = &tls.ConnectionState{}
		}
		recorder := httptest.NewRecorder()
		cloud.ServeHTTP(recorder, r)
		for name := range recorder.Header() {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s, Host %q, Origin %q: got the header %s", methodAndTarget, host, origins, name)
			}
		}
		return recorder.Code
	}
	for _, test := range []struct {
		host, origins string // "" for no Origin, several apart by blanks
		plain, secure int
	}{
		{me, "", 200, 200},
		{"127.0.0.1", "", 200, 200},
		{"localhost:1", "", 200, 200}, // proxies stand between
		{"LOCALHOST:8480", "", 200, 200},
		{"[::1]:8480", "", 200, 200},
		{"[0:0:0:0:0:0:0:1]:8480", "", 200, 200},
		{"sandbox.internal:8480", "", 200, 200}, // Options.Host
		{me, "http://" + me, 200, 403},
		{me, "https://" + me, 403, 200},
		{"localhost:8480", "http://LocalHost:8480", 200, 403},
		{"[::1]:8480", "http://[::1]:8480", 200, 403},

		{me, "http://evil.example", 403, 403},
		{me, "null", 403, 403},
		{me, "http://127.0.0.1", 403, 403},
		{me, "http://127.0.0.1:8481", 403, 403},
		{me, "http://localhost:8480", 403, 403},
		{me, "http://127.0.0.1:8480.evil.example", 403, 403},
		{me, "http://127.0.0.1:8480@evil.example", 403, 403},
		{me, "http://127.0.0.1:8480/", 403, 403},
		{me, "http://" + me + " http://evil.example", 403, 403},
		{me, "http://" + me + " http://" + me, 403, 403},
		{me, "http://" + me + ",http://evil.example", 403, 403},
		{"evil.example:8480", "http://evil.example:8480", 403, 403}, // DNS rebinding
		{"evil.example", "", 403, 403},
		{"localhost.evil.example:8480", "", 403, 403},
		{"127.0.0.1.evil.example", "", 403, 403},
		{"evil.localhost:8480", "", 403, 403},
		{"localhost.:8480", "", 403, 403},
		{"127.0.0.1.:8480", "", 403, 403},
		{"127.0.0.2:8480", "", 403, 403},
		{"0.0.0.0:8480", "", 403, 403},
		{"[::]:8480", "", 403, 403},
		{"[::ffff:127.0.0.1]:8480", "", 403, 403},
		{"2130706433:8480", "", 403, 403},
		{"127.1:8480", "", 403, 403},
		{"127.0.0.1:port", "", 403, 403},
		{"user@127.0.0.1:8480", "", 403, 403},
		{"127.0.0.1:8480@evil.example", "", 403, 403},
		{"", "", 403, 403},
	} {
		for secure, want := range map[bool]int{false: test.plain, true: test.secure} {
			for path, found := range map[string]int{"/_sandbox/faults": 200, "/_sandbox/%66aults": 200, "/_sandbox/state": 200, "/_sandbox": 404, "/_sandbox/": 404, "/": 200} {
				if want != 200 {
					found = want
				}
				if got := status("GET "+path, test.host, test.origins, secure); got != found {
					t.Errorf("GET %s, TLS %t, Host %q, Origin %q: got %d, want %d", path, secure, test.host, test.origins, got, found)
				}
			}
			if got := status("GET /identity/keys", test.host, test.origins, secure); got != 200 {
				t.Errorf("an IBM path, TLS %t, Host %q, Origin %q: got %d, want 200", secure, test.host, test.origins, got)
			}
		}
	}
	for target, want := range map[string]int{
		"GET http://evil.example/_sandbox/faults":        403, // what the target names counts, not the header
		"GET http://127.0.0.1:8480/_sandbox/faults":      200,
		"DELETE http://evil.example/_sandbox/faults":     403,
		"POST /_sandbox/faults":                          400, // no body
		"OPTIONS /_sandbox/faults":                       405,
		"POST /_sandbox/state":                           405,
		"DELETE /_sandbox/other":                         404,
		"GET //_sandbox/faults":                          404,
		"GET /_sandbox%2Ffaults":                         404,
		"GET /identity/../_sandbox/faults":               404,
		"GET http://user@127.0.0.1:8480/_sandbox/faults": 200,
	} {
		if got := status(target, me, "", false); got != want {
			t.Errorf("%s: got %d, want %d", target, got, want)
		}
	}
}

func TestSettingsOverHTTP(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{}))
	for body, want := range map[string]int{
		`{"token_ttl_seconds":0}`: 400, `{"token_ttl_seconds":-1}`: 400, `{"token_ttl_seconds":3601}`: 400, `{"token_ttl_seconds":"1h"}`: 400,
		`{"destroyed_status":"410"}`: 400, `{"ttl":1}`: 400, `{"duplicate_status":418}`: 400, `{"too_large_status":413,"token_ttl_seconds":900}`: 200, `{}`: 200,
	} {
		if got := s.do("", "PATCH", "/_sandbox/settings", body); got.status != want || goTypes.MatchString(got.raw) {
			t.Errorf("%s: got %d %s, want %d", body, got.status, got, want)
		}
	}
	s.play(`nobody GET /_sandbox/settings => 200 {"token_ttl_seconds":900,"too_large_status":413,"duplicate_status":409}
		exchange $READER_KEY => 200 {"expires_in":900}
		nobody PUT /_sandbox/fault => 404 {"errors":[{"message":"The control interface has /_sandbox/cases, /_sandbox/clock, /_sandbox/faults,\
			 /_sandbox/requests, /_sandbox/settings, /_sandbox/state."}]}
		nobody GET /_sandbox => 404 {"errors":[{"code":"not_found"}]}`)
}

func TestRequestLog(t *testing.T) {
	c := newClient(t, ibmcloudtest.Options{})
	key := c.cloud.Rotations()[0].APIKey
	token := c.token(key)
	c.want(200, token, "GET", "/v3/targets?secret="+key, "")
	c.want(404, token, "GET", "/nowhere/"+key+"/"+token, "")
	c.want(403, token, "GET", "/api/v2/secrets/"+key, "")
	c.do("x", "GET", "/v3/settings", "")
	c.do("", key, "/x", "")
	c.do("", "X", "/"+strings.Repeat("é", 400_000), "")

	const at = `{"at":"2026-03-01T12:00:00Z",`
	want := "[" + strings.Join([]string{
		at + `"op":"iam.token","method":"POST","path":"/identity/token","status":200,"identity":"workload"}`,
		at + `"op":"targets.list","method":"GET","path":"/v3/targets","status":200,"identity":"workload"}`,
		at + `"op":"","method":"GET","path":"/nowhere/REDACTED/REDACTED","status":404,"identity":""}`,
		at + `"op":"secrets.get","method":"GET","path":"/api/v2/secrets/REDACTED","status":403,"identity":"workload"}`,
		at + `"op":"settings.get","method":"GET","path":"/v3/settings","status":401,"identity":""}`,
		at + `"op":"","method":"REDACTED","path":"/x","status":404,"identity":""}`,
		at + `"op":"","method":"X","path":"/` + strings.Repeat("é", 127) + `","status":404,"identity":""}`,
	}, ",") + "]"
	if got := c.do("", "GET", "/_sandbox/requests", ""); got.raw != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c.do("", "DELETE", "/_sandbox/requests", "")
	if got := c.do("", "GET", "/_sandbox/requests", "").raw; got != "[]" {
		t.Errorf("emptied: got %s, want []", got)
	}
	for limit, want := range map[int]string{3: "/2 /3 /4", 5: "/0 /1 /2 /3 /4", -1: ""} {
		c := newClient(t, ibmcloudtest.Options{RequestLog: limit})
		var paths []string
		for i := range 5 {
			c.do("", "GET", fmt.Sprintf("/%d", i), "")
		}
		for _, r := range c.cloud.Requests() {
			paths = append(paths, r.Path)
		}
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("limit %d: got %q, want %q", limit, got, want)
		}
	}
}

// The state shows the token that a version contains, in any format, ignores its metadata, and holds no secret.
func TestTheStateShowsNoSecret(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{EnvFile: "build/sandbox.env"}))
	rotation := s.cloud.Rotations()[0]
	admin, token := s.token(s.cloud.AdminAPIKey()), s.token(rotation.APIKey)
	sum := sha256.Sum256([]byte(token))
	s.values["fingerprint"], s.values["token"], s.values["GROUP"] = hex.EncodeToString(sum[:8]), token, s.cloud.TokenGroupID()
	s.values["forged"] = token[:len(token)-8] + "AAAAAAAA" // with a wrong signature
	s.play(`nobody GET /_sandbox/state => 200 {"tokens":[{"valid":false,"versions":[]}],"tokens_total":1,"environment_file":"build/sandbox.env"}`)
	expires := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC).Format(time.RFC3339)
	for _, payload := range []string{"$token", "Bearer $token", `{\"access_token\":\"$token\",\"expires_in\":3600}`} {
		s.cloud.MustPutVersion(rotation.TokenSecret, "x", nil)
		s.play(`admin POST /api/v2/secrets/$TOKEN/versions {"payload":"` + payload + `",\
				"version_custom_metadata":{"fingerprint":"$WORKLOAD_KEY","expiration":4102444800}} => 201
			nobody GET /_sandbox/state => 200 {"tokens":[{"valid":true}]}`)
		got := s.want(200, "", "GET", "/_sandbox/state", "").at("tokens", 0, "versions", 0)
		want := map[string]any{"fingerprint": "$fingerprint", "created_by": "admin", "expires_at": strings.Replace(expires, "Z", ".000Z", 1)}
		if !s.fits(want, got) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	for _, payload := range []string{"$forged", "$WORKLOAD_KEY", "no token"} {
		s.play(`admin POST /api/v2/secrets/$TOKEN/versions {"payload":"` + payload + `"} => 201
			nobody GET /_sandbox/state => 200 {"tokens":[{"valid":false}]}`)
	}
	// A caller may mix up its arguments: a key in a path, as the name of a secret, in a fault.
	s.do(admin, "GET", "/api/v2/secrets/"+rotation.APIKey, "")
	s.play(`admin POST /api/v2/secrets {"secret_type":"kv","name":"second-token","secret_group_id":"$GROUP","data":{"iam_token":"$token"}} => 201`)
	keys := []string{rotation.APIKey, s.cloud.AdminAPIKey(), s.cloud.BootstrapAPIKey(), s.cloud.ReaderAPIKey()}
	for _, key := range keys { // a name cannot begin or end with a dash, as some keys do
		s.do(admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"`+key+`","secret_group_id":"`+s.cloud.TokenGroupID()+`","payload":"`+token+`"}`)
	}
	s.play(`nobody POST /_sandbox/faults {"op":"iam.keys","status":400,"body":"$WORKLOAD_KEY","headers":{"X-Key":"$WORKLOAD_KEY"}} => 201`)
	got := s.want(200, "", "GET", "/_sandbox/state", "")
	if got.at("tokens", 1, "valid") != true || got.at("faults", 0, "status") != 400.0 {
		t.Errorf("got %s, want a second token and a fault", got)
	}
	for i, secret := range append(keys, token, "eyJ") {
		if strings.Contains(got.raw, secret) {
			t.Errorf("the state holds secret %d", i)
		}
	}
}
