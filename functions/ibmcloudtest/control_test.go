package ibmcloudtest_test

import (
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestFaultsOverHTTP(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	for _, test := range []struct {
		body   string
		status int
		says   string // part of the error
	}{
		{`{"op":"*"}`, 201, ""},
		{`{"op":"iam.token","identity":"bootstrap","skip":1,"times":2,"status":429,"headers":{"Retry-After":"1"},"content_type":"text/html","body":"x","delay":"1.5s"}`, 201, ""},
		{`{"op":"versions.create","drop":"after","delay":"0s"}`, 201, ""},
		{`{"status":500}`, 400, "versions.create"},
		{`{"op":"versions"}`, 400, "versions.create"},
		{`{"op":"*","identity":"root"}`, 400, "bootstrap, workload, reader, admin"},
		{`{"op":"*","identity":7}`, 400, "identity has the wrong type"},
		{`{"op":"*","skip":-1}`, 400, "skip must be 0 or more"},
		{`{"op":"*","times":-1}`, 400, "times must be"},
		{`{"op":"*","times":"2"}`, 400, "times has the wrong type"},
		{`{"op":"*","status":99}`, 400, "200 to 599"},
		{`{"op":"*","status":600}`, 400, "200 to 599"},
		{`{"op":"*","delay":"-1s"}`, 400, "delay must be a Go duration"},
		{`{"op":"*","delay":"soon"}`, 400, "delay must be a Go duration"},
		{`{"op":"*","delay":3}`, 400, "delay has the wrong type"},
		{`{"op":"*","drop":"during"}`, 400, "before or after"},
		{`{"op":"*","drop":"after","status":500}`, 400, "drop"},
		{`{"op":"*","body":"x"}`, 400, "need a status"},
		{`{"op":"*","headers":{"a b":"c"}}`, 400, "headers"},
		{`{"op":"*","headers":{"Content-Length":"1"}}`, 400, "Content-Length"},
		{`{"op":"*","colour":"red"}`, 400, `unknown field \"colour\"`},
		{`{"op":"*"} {"op":"*"}`, 400, "one JSON object"},
		{`[]`, 400, "one JSON object"},
		{``, 400, "one JSON object"},
	} {
		cloud.ClearFaults()
		got := c.send(c.request("POST", "/_sandbox/faults", test.body))
		if got.status != test.status || !strings.Contains(got.raw, test.says) {
			t.Errorf("%s: got %d %s, want %d and %q", test.body, got.status, got.raw, test.status, test.says)
		}
		if added := len(cloud.Faults()) == 1; added != (test.status == 201) {
			t.Errorf("%s: added: %t", test.body, added)
		}
	}
	_ = c.send(c.request("POST", "/_sandbox/faults", `{"op":"*","delay":"90s"}`))
	if got := c.send(c.request("GET", "/_sandbox/faults", "")); got.raw != `[{"op":"*","delay":"1m30s"}]` {
		t.Errorf("GET: got %s", got.raw)
	}
	if got := c.send(c.request("DELETE", "/_sandbox/faults", "")); got.status != 204 || len(cloud.Faults()) != 0 {
		t.Errorf("DELETE: got %d and %d faults, want 204 and none", got.status, len(cloud.Faults()))
	}
}

func TestSettingsOverHTTP(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	for body, want := range map[string]int{
		`{"token_ttl_seconds":0}`: 400, `{"token_ttl_seconds":-1}`: 400, `{"token_ttl_seconds":3601}`: 400, `{"token_ttl_seconds":"1h"}`: 400,
		`{"ttl":1}`: 400, `{"duplicate_status":418}`: 400, `{"too_large_status":413,"token_ttl_seconds":900}`: 200, `{}`: 200,
	} {
		if got := c.send(c.request("PATCH", "/_sandbox/settings", body)); got.status != want {
			t.Errorf("%s: got %d %s, want %d", body, got.status, got.raw, want)
		}
	}
	got := c.send(c.request("GET", "/_sandbox/settings", ""))
	if got.at("token_ttl_seconds") != 900.0 || got.at("too_large_status") != 413.0 || got.at("duplicate_status") != 409.0 {
		t.Errorf("GET: got %s", got.raw)
	}
	answer := c.grant(map[string][]string{"grant_type": {apiKeyGrant}, "apikey": {cloud.ReaderAPIKey()}})
	if answer.at("expires_in") != 900.0 {
		t.Errorf("expires_in: got %v, want 900", answer.at("expires_in"))
	}
}

func TestControlPaths(t *testing.T) {
	c := inProcess(t, ibmcloudtest.New(ibmcloudtest.Options{}))
	for path, want := range map[string]int{"/_sandbox": 404, "/_sandbox/": 404, "/_sandbox/other": 404, "/_sandbox/settings": 405} {
		if got := c.send(c.request("DELETE", path, "")); got.status != want {
			t.Errorf("DELETE %s: got %d, want %d", path, got.status, want)
		}
	}
}

func TestRequestLog(t *testing.T) {
	now := newClock()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Now: now.Now})
	c := inProcess(t, cloud)
	key := cloud.Rotations()[0].APIKey
	token := c.token(key)
	c.want(200, token, "GET", "/v3/targets?secret="+key, "")
	c.want(404, token, "GET", "/nowhere/"+key+"/"+token, "")
	c.want(403, token, "GET", "/api/v2/secrets/"+key, "")
	c.send(c.request("GET", "/v3/settings", "", "Authorization", "Bearer x"))

	const at = `{"at":"2026-03-01T12:00:00Z",`
	want := "[" + strings.Join([]string{
		at + `"op":"iam.token","method":"POST","path":"/identity/token","status":200,"identity":"workload"}`,
		at + `"op":"targets.list","method":"GET","path":"/v3/targets","status":200,"identity":"workload"}`,
		at + `"op":"","method":"GET","path":"/nowhere/REDACTED/REDACTED","status":404,"identity":""}`,
		at + `"op":"secrets.get","method":"GET","path":"/api/v2/secrets/REDACTED","status":403,"identity":"workload"}`,
		at + `"op":"settings.get","method":"GET","path":"/v3/settings","status":401,"identity":""}`,
	}, ",") + "]"
	if got := c.send(c.request("GET", "/_sandbox/requests", "")).raw; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c.send(c.request("DELETE", "/_sandbox/requests", ""))
	if got := c.send(c.request("GET", "/_sandbox/requests", "")).raw; got != "[]" {
		t.Errorf("emptied: got %s, want []", got)
	}
}

func TestRequestLogKeepsTheNewest(t *testing.T) {
	for limit, want := range map[int]string{3: "/2 /3 /4", 5: "/0 /1 /2 /3 /4", -1: ""} {
		cloud := ibmcloudtest.New(ibmcloudtest.Options{RequestLog: limit})
		c := inProcess(t, cloud)
		for _, path := range []string{"/0", "/1", "/2", "/3", "/4"} {
			c.send(c.request("GET", path, ""))
		}
		var paths []string
		for _, r := range cloud.Requests() {
			paths = append(paths, r.Path)
		}
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("limit %d: got %q, want %q", limit, got, want)
		}
	}
}
