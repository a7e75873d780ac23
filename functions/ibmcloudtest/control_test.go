package ibmcloudtest_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
			for path, found := range map[string]int{"/_sandbox/faults": 200, "/_sandbox/%66aults": 200, "/_sandbox": 404, "/_sandbox/": 404, "/": 404} {
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
