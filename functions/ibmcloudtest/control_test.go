package ibmcloudtest_test

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// A web page that a browser shows on this machine must not control the sandbox: neither from its own origin nor by
// a name that it lets resolve to loopback.
func TestTheControlInterfaceAnswersThisMachineAlone(t *testing.T) {
	const me = "127.0.0.1:8480"
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Host: "sandbox.internal"})
	servers := map[bool]*httptest.Server{false: httptest.NewServer(cloud), true: httptest.NewTLSServer(cloud)}
	defer servers[false].Close()
	defer servers[true].Close()
	for _, test := range []struct {
		host, origins string // "" for no Origin, several apart by blanks
		plain, secure int
	}{
		{me, "", 200, 200},
		{"127.0.0.1", "", 200, 200},
		{"localhost:1", "", 200, 200}, // proxies stand between
		{"LOCALHOST:8480", "", 200, 200},
		{"[::1]:8480", "", 200, 200},
		{"[::1]", "", 200, 200},
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
		{"evil.example:8480", "", 403, 403},
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
		{"", "", 403, 403},
	} {
		for secure, want := range map[bool]int{false: test.plain, true: test.secure} {
			for path, found := range map[string]int{"/_sandbox/faults": 200, "/_sandbox/%66aults": 200, "/_sandbox/state": 200, "/_sandbox": 404, "/_sandbox/": 404, "/": 200} {
				if want != 200 {
					found = want
				}
				if got := rawStatus(t, servers[secure], "GET "+path, test.host, test.origins); got != found {
					t.Errorf("GET %s, TLS %t, Host %q, Origin %q: got %d, want %d", path, secure, test.host, test.origins, got, found)
				}
			}
			if got := rawStatus(t, servers[secure], "GET /identity/keys", test.host, test.origins); got != 200 {
				t.Errorf("an IBM path, TLS %t, Host %q, Origin %q: got %d, want 200", secure, test.host, test.origins, got)
			}
		}
	}
	for _, host := range []string{"user@127.0.0.1:8480", "127.0.0.1:8480@evil.example"} { // net/http refuses them itself
		if got := rawStatus(t, servers[false], "GET /_sandbox/faults", host, ""); got != 400 {
			t.Errorf("Host %q: got %d, want 400", host, got)
		}
	}
	for target, want := range map[string]int{
		"GET http://evil.example/_sandbox/faults":        403, // what the target names counts, not the header
		"GET http://127.0.0.1:8480/_sandbox/faults":      200,
		"DELETE http://evil.example/_sandbox/faults":     403,
		"POST /_sandbox/faults":                          400, // no body
		"OPTIONS /_sandbox/faults":                       405,
		"POST /_sandbox/state":                           405,
		"POST /":                                         405,
		"DELETE /_sandbox/settings":                      405,
		"DELETE /_sandbox/other":                         404,
		"GET //_sandbox/faults":                          404,
		"GET /identity/../_sandbox/faults":               404,
		"GET http://user@127.0.0.1:8480/_sandbox/faults": 200,
	} {
		if got := rawStatus(t, servers[false], target, me, ""); got != want {
			t.Errorf("%s: got %d, want %d", target, got, want)
		}
	}
}

// rawStatus sends a request as it is written, and returns the status of the answer, which never allows
// another origin anything.
func rawStatus(t *testing.T, server *httptest.Server, methodAndTarget, host, origins string) int {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if server.TLS != nil {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	request := methodAndTarget + " HTTP/1.1\r\nHost: " + host + "\r\n"
	for _, origin := range strings.Fields(origins) {
		request += "Origin: " + origin + "\r\n"
	}
	if _, err := fmt.Fprint(conn, request+"Connection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	for name := range response.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s, Host %q, Origin %q: got the header %s", methodAndTarget, host, origins, name)
		}
	}
	return response.StatusCode
}

// The state shows the token that a version really holds, in any format and whatever its metadata say, and no secret.
func TestTheStateShowsNoSecret(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{EnvFile: "build/sandbox.env"})
	rotation := cloud.Rotations()[0]
	token := c.token(rotation.APIKey)
	sum := sha256.Sum256([]byte(token))
	fingerprint := hex.EncodeToString(sum[:8])
	first := c.want(200, "", "GET", "/_sandbox/state", "")
	if first.at("tokens", 0, "valid") != false || first.at("tokens", 0, "versions", 0) != nil || first.at("tokens_total") != 1.0 || first.at("environment_file") != "build/sandbox.env" {
		t.Errorf("before the first token: got %s", first)
	}
	lie := fmt.Sprintf(`"version_custom_metadata":{"fingerprint":%q,"expiration":4102444800}`, rotation.APIKey)
	for _, payload := range []string{token, "Bearer " + token, `{\"access_token\":\"` + token + `\",\"expires_in\":3600}`} {
		c.want(201, admin, "POST", "/api/v2/secrets/"+rotation.TokenSecret+"/versions", `{"payload":"`+payload+`",`+lie+`}`)
		got := c.want(200, "", "GET", "/_sandbox/state", "")
		expires, _ := time.Parse(time.RFC3339, fmt.Sprint(got.at("tokens", 0, "versions", 0, "expires_at")))
		if left := time.Until(expires); got.at("tokens", 0, "versions", 0, "fingerprint") != fingerprint || got.at("tokens", 0, "versions", 0, "created_by") != "admin" || left <= 0 || left > time.Hour {
			t.Errorf("got %s and %s left, want the token's fingerprint, and an hour at most", got, left)
		}
	}
	forged := token[:len(token)-8] + "AAAAAAAA" // of a signature that is none
	for _, payload := range []string{forged, rotation.APIKey, "no token"} {
		c.want(201, admin, "POST", "/api/v2/secrets/"+rotation.TokenSecret+"/versions", `{"payload":"`+payload+`"}`)
		if got := c.want(200, "", "GET", "/_sandbox/state", ""); got.at("tokens", 0, "valid") != false {
			t.Errorf("got %s for what is no token", got)
		}
	}
	// What a caller mixes up: a key in a path, as the name of a secret, in a fault.
	c.do(admin, "GET", "/api/v2/secrets/"+rotation.APIKey, "")
	group := cloud.TokenGroupID()
	c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"kv","name":"second-token","secret_group_id":"`+group+`","data":{"iam_token":"`+token+`"}}`)
	keys := []string{rotation.APIKey, cloud.AdminAPIKey(), cloud.BootstrapAPIKey(), cloud.ReaderAPIKey()}
	for _, key := range keys { // a name cannot begin or end with a dash, as some keys do
		c.do(admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"`+key+`","secret_group_id":"`+group+`","payload":"`+token+`"}`)
	}
	c.want(201, "", "POST", "/_sandbox/faults", `{"op":"iam.token","status":400,"body":"`+rotation.APIKey+`","headers":{"X-Key":"`+rotation.APIKey+`"}}`)
	got := c.want(200, "", "GET", "/_sandbox/state", "")
	if got.at("tokens", 1, "valid") != true || got.at("faults", 0, "status") != 400.0 {
		t.Errorf("got %s, want a second token and a fault", got)
	}
	for i, secret := range append(keys, token, "eyJ") {
		if strings.Contains(got.raw, secret) {
			t.Errorf("the state holds secret %d", i)
		}
	}
}
