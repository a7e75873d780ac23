package ibmcloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// targetStatuses calls Logs Routing n times and returns the statuses, 0 for no answer.
func targetStatuses(c client, token string, n int) []int {
	statuses := make([]int, n)
	for i := range statuses {
		response, err := c.http.Do(c.request("GET", "/v3/targets", "", "Authorization", "Bearer "+token))
		if err != nil {
			continue
		}
		statuses[i] = response.StatusCode
		response.Body.Close()
	}
	return statuses
}

func TestFaultCounts(t *testing.T) {
	const op = ibmcloudtest.OpTargetsList
	for _, test := range []struct {
		name   string
		faults []ibmcloudtest.Fault
		want   []int
	}{
		{"until cleared", []ibmcloudtest.Fault{{Op: op, Status: 503}}, []int{503, 503, 503, 503}},
		{"twice", []ibmcloudtest.Fault{{Op: op, Times: 2, Status: 503}}, []int{503, 503, 200, 200}},
		{"skip two", []ibmcloudtest.Fault{{Op: op, Skip: 2, Times: 1, Status: 503}}, []int{200, 200, 503, 200}},
		{"any operation", []ibmcloudtest.Fault{{Op: "*", Times: 1, Status: 500}}, []int{500, 200, 200, 200}},
		{"another operation", []ibmcloudtest.Fault{{Op: "settings.get", Status: 500}}, []int{200, 200, 200, 200}},
		{"the oldest wins", []ibmcloudtest.Fault{{Op: "*", Times: 2, Status: 500}, {Op: op, Times: 1, Status: 429}}, []int{500, 500, 429, 200}},
		{"a skipping one leaves it to the next", []ibmcloudtest.Fault{{Op: op, Skip: 2, Times: 1, Status: 500}, {Op: op, Times: 1, Status: 429}}, []int{429, 200, 500, 200}},
		{"its identity", []ibmcloudtest.Fault{{Op: op, Identity: "workload", Times: 1, Status: 500}}, []int{500, 200, 200, 200}},
		{"another identity", []ibmcloudtest.Fault{{Op: op, Identity: "reader", Times: 1, Status: 500}}, []int{200, 200, 200, 200}},
		{"dropped", []ibmcloudtest.Fault{{Op: op, Drop: "before", Times: 1}}, []int{0, 200, 200, 200}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud, c := newCloud(t, ibmcloudtest.Options{})
			token := c.token(cloud.Rotations()[0].APIKey)
			for _, f := range test.faults {
				cloud.MustAddFault(f)
			}
			if got := targetStatuses(c, token, 4); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestUsedUpFaultsAreGone(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	token := c.token(cloud.Rotations()[0].APIKey)
	cloud.MustAddFault(ibmcloudtest.Fault{Op: "*", Times: 1, Status: 500})
	cloud.MustAddFault(ibmcloudtest.Fault{Op: "*", Skip: 1, Times: 3, Status: 502})
	targetStatuses(c, token, 3)
	if got := cloud.Faults(); len(got) != 1 || got[0].Status != 502 || got[0].Skip != 0 || got[0].Times != 2 {
		t.Errorf("got %+v, want the second with 2 times left", got)
	}
	cloud.ClearFaults()
	if got := cloud.Faults(); len(got) != 0 {
		t.Errorf("after ClearFaults: got %+v", got)
	}
}

// TestFaultsByKeyOwner: at IAM the identity is whose key or profile the request bears.
func TestFaultsByKeyOwner(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	cloud.MustAddFault(ibmcloudtest.Fault{Op: "iam.token", Identity: "bootstrap", Status: 503})
	for name, test := range map[string]struct {
		form url.Values
		want int
	}{
		"bootstrap": {url.Values{"grant_type": {apiKeyGrant}, "apikey": {cloud.BootstrapAPIKey()}}, 503},
		"profile":   {url.Values{"grant_type": {crTokenGrant}, "cr_token": {"x"}, "profile_name": {ibmcloudtest.ProfileName}}, 503},
		"workload":  {url.Values{"grant_type": {apiKeyGrant}, "apikey": {cloud.Rotations()[0].APIKey}}, 200},
		"unknown":   {url.Values{"grant_type": {apiKeyGrant}, "apikey": {"x"}}, 400},
	} {
		c.check(c.grant(test.form), test.want, name)
	}
}

func TestFaultAnswers(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	token := c.token(cloud.Rotations()[0].APIKey)
	for _, test := range []struct {
		fault       ibmcloudtest.Fault
		status      int
		body        string
		contentType string
		header      string // X-Test
	}{
		{ibmcloudtest.Fault{Status: 502, Body: "<html>", ContentType: "text/html"}, 502, "<html>", "text/html", ""},
		{ibmcloudtest.Fault{Status: 200, Body: "{}"}, 200, "{}", "application/json", ""},
		{ibmcloudtest.Fault{Status: 200, Headers: map[string]string{"x-test": "1"}}, 200, "", "", "1"},
		{ibmcloudtest.Fault{Headers: map[string]string{"x-test": "2"}}, 200, "targets", "application/json", "2"},
	} {
		test.fault.Op, test.fault.Times = "targets.list", 1
		cloud.MustAddFault(test.fault)
		got := c.do(token, "GET", "/v3/targets", "")
		isReal := test.body == "targets" && got.at("targets", 0, "target_type") == "cloud_logs"
		if got.status != test.status || got.raw != test.body && !isReal ||
			got.header.Get("Content-Type") != test.contentType || got.header.Get("X-Test") != test.header || got.header.Get("Date") == "" {
			t.Errorf("%+v: got %d %q %v", test.fault, got.status, got, got.header)
		}
	}
}

// goTypes are what encoding/json calls things by.
var goTypes = regexp.MustCompile(`Fault|Settings|Undocumented|Go (struct|value)|json:|int64|\.[a-z_]+ (must|has)`)

func TestFaultsOverHTTP(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
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
		{`{"op":"*","identity":7}`, 400, "identity must be a string; the fields are op (a string), identity (a string), skip (a whole number)"},
		{`{"op":"*","skip":-1}`, 400, "skip must be 0 or more"},
		{`{"op":"*","times":-1}`, 400, "times must be"},
		{`{"op":"*","times":"2"}`, 400, "times must be a whole number;"},
		{`{"op":"*","status":99}`, 400, "200 to 599"},
		{`{"op":"*","status":600}`, 400, "200 to 599"},
		{`{"op":"*","delay":"-1s"}`, 400, "delay must be a Go duration"},
		{`{"op":"*","delay":"soon"}`, 400, "delay must be a Go duration"},
		{`{"op":"*","delay":3}`, 400, "delay must be a string;"},
		{`{"op":"*","drop":"during"}`, 400, "before or after"},
		{`{"op":"*","drop":"after","status":500}`, 400, "drop"},
		{`{"op":"*","body":"x"}`, 400, "need a status"},
		{`{"op":"iam.token","case":"address_not_allowed"}`, 201, ""},
		{`{"op":"versions.create","case":"version_locked","times":1,"delay":"1s","headers":{"X-Test":"1"}}`, 201, ""},
		{`{"op":"*","case":"server_error"}`, 201, ""},
		{`{"op":"*","case":"invalid_token"}`, 400, "case must be one that fits the op *: context_restriction, network_rule,"},
		{`{"op":"iam.keys","case":"key_unknown"}`, 400, "case must be one that fits the op iam.keys: context_restriction, network_rule,"},
		{`{"op":"iam.token","case":"version_locked"}`, 400, "case must be one that fits the op iam.token: key_unknown, key_unknown_401, key_repeated,"},
		{`{"op":"secrets.list","case":"version_locked"}`, 400, "case must be one that fits the op secrets.list: invalid_token, denied,"},
		{`{"op":"iam.token","case":"Key_Unknown"}`, 400, "case must be one"},
		{`{"op":"iam.token","case":7}`, 400, "case must be a string;"},
		{`{"op":"iam.token","case":"key_unknown","status":400}`, 400, "case stands in place of status"},
		{`{"op":"iam.token","case":"key_unknown","body":"x"}`, 400, "case stands in place of status"},
		{`{"op":"iam.token","case":"key_unknown","content_type":"x"}`, 400, "case stands in place of status"},
		{`{"op":"iam.token","case":"key_unknown","drop":"after"}`, 400, "it allows no status and no case"},
		{`{"op":"*","times":1.5}`, 400, "times must be a whole number;"},
		{`{"op":"*","skip":99999999999999999999}`, 400, "skip must be a whole number;"},
		{`{"op":["*"]}`, 400, "op must be a string;"},
		{`{"op":"*","body":{"a":1}}`, 400, "body must be a string;"},
		{`{"op":"*","headers":{"a":1}}`, 400, "headers must be an object of strings;"},
		{`{"op":"*","headers":["a"]}`, 400, "headers must be an object of strings;"},
		{`{"op":"*","headers":{"a b":"c"}}`, 400, "headers"},
		{`{"op":"*","headers":{"Content-Length":"1"}}`, 400, "Content-Length"},
		{`{"op":"*","colour":"red"}`, 400, `unknown field \"colour\"`},
		{`{"op":"*","Times":1}`, 400, `unknown field \"Times\"`},
		{`{"op":"*"} {"op":"*"}`, 400, "one JSON object"},
		{`[]`, 400, "one JSON object"},
		{``, 400, "one JSON object"},
	} {
		cloud.ClearFaults()
		got := c.send(c.request("POST", "/_sandbox/faults", test.body))
		if got.status != test.status || !strings.Contains(got.raw, test.says) {
			t.Errorf("%s: got %d %s, want %d and %q", test.body, got.status, got, test.status, test.says)
		}
		if goTypes.MatchString(got.raw) {
			t.Errorf("%s: got %s, which shows how this is written in Go", test.body, got)
		}
		if added := len(cloud.Faults()) == 1; added != (test.status == 201) {
			t.Errorf("%s: added: %t", test.body, added)
		}
	}
	_ = c.send(c.request("POST", "/_sandbox/faults", `{"op":"*","delay":"90s"}`))
	if got := c.send(c.request("GET", "/_sandbox/faults", "")); got.raw != `[{"op":"*","delay":"1m30s"}]` {
		t.Errorf("GET: got %s", got)
	}
	if got := c.send(c.request("DELETE", "/_sandbox/faults", "")); got.status != 204 || len(cloud.Faults()) != 0 {
		t.Errorf("DELETE: got %d and %d faults, want 204 and none", got.status, len(cloud.Faults()))
	}
}

func TestSettingsOverHTTP(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	for body, want := range map[string]int{
		`{"token_ttl_seconds":0}`: 400, `{"token_ttl_seconds":-1}`: 400, `{"token_ttl_seconds":3601}`: 400, `{"token_ttl_seconds":"1h"}`: 400, `{"destroyed_status":"410"}`: 400,
		`{"ttl":1}`: 400, `{"duplicate_status":418}`: 400, `{"too_large_status":413,"token_ttl_seconds":900}`: 200, `{}`: 200,
	} {
		if got := c.send(c.request("PATCH", "/_sandbox/settings", body)); got.status != want || goTypes.MatchString(got.raw) {
			t.Errorf("%s: got %d %s, want %d", body, got.status, got, want)
		}
	}
	for _, path := range []string{"/_sandbox", "/_sandbox/fault"} {
		if got := c.send(c.request("PUT", path, "")); got.status != 404 || !strings.Contains(got.raw, "/_sandbox/faults, /_sandbox/requests, /_sandbox/settings, /_sandbox/state.") {
			t.Errorf("%s: got %d and %s, want 404 and what there is", path, got.status, got)
		}
	}
	got := c.send(c.request("GET", "/_sandbox/settings", ""))
	if got.at("token_ttl_seconds") != 900.0 || got.at("too_large_status") != 413.0 || got.at("duplicate_status") != 409.0 {
		t.Errorf("GET: got %s", got)
	}
	answer := c.grant(map[string][]string{"grant_type": {apiKeyGrant}, "apikey": {cloud.ReaderAPIKey()}})
	if answer.at("expires_in") != 900.0 {
		t.Errorf("expires_in: got %v, want 900", answer.at("expires_in"))
	}
}

func TestRequestLog(t *testing.T) {
	now := newClock()
	cloud, c := newCloud(t, ibmcloudtest.Options{Now: now.Now})
	key := cloud.Rotations()[0].APIKey
	token := c.token(key)
	c.want(200, token, "GET", "/v3/targets?secret="+key, "")
	c.want(404, token, "GET", "/nowhere/"+key+"/"+token, "")
	c.want(403, token, "GET", "/api/v2/secrets/"+key, "")
	c.send(c.request("GET", "/v3/settings", "", "Authorization", "Bearer x"))
	c.send(c.request(key, "/x", ""))
	c.send(c.request("X", "/"+strings.Repeat("é", 400_000), ""))

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
	if got := c.send(c.request("GET", "/_sandbox/requests", "")); got.raw != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	c.send(c.request("DELETE", "/_sandbox/requests", ""))
	if got := c.send(c.request("GET", "/_sandbox/requests", "")).raw; got != "[]" {
		t.Errorf("emptied: got %s, want []", got)
	}
}

func TestRequestLogKeepsTheNewest(t *testing.T) {
	for limit, want := range map[int]string{3: "/2 /3 /4", 5: "/0 /1 /2 /3 /4", -1: ""} {
		cloud, c := newCloud(t, ibmcloudtest.Options{RequestLog: limit})
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

// TestDropsAndDelays: dropped before, nothing is done; after, the work is done and its answer lost.
func TestDropsAndDelays(t *testing.T) {
	const late = 30 * time.Second
	for _, test := range []struct {
		fault        ibmcloudtest.Fault
		patience     time.Duration
		wantElapsed  time.Duration
		wantErr      error
		wantVersions int
		wantLogged   int // the status
	}{
		{ibmcloudtest.Fault{Drop: "before"}, time.Hour, 0, syscall.ECONNRESET, 1, 0},
		{ibmcloudtest.Fault{Drop: "after"}, time.Hour, 0, syscall.ECONNRESET, 2, 0},
		{ibmcloudtest.Fault{Delay: late}, time.Hour, late, nil, 2, 201},
		{ibmcloudtest.Fault{Delay: late}, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 1, 0},
		{ibmcloudtest.Fault{Delay: late, Status: 503}, time.Hour, late, nil, 1, 503},
		{ibmcloudtest.Fault{Delay: late, Drop: "before"}, time.Hour, late, syscall.ECONNRESET, 1, 0},
		{ibmcloudtest.Fault{Delay: late, Drop: "after"}, time.Hour, late, syscall.ECONNRESET, 2, 0},
		{ibmcloudtest.Fault{Delay: late, Drop: "after"}, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 2, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			cloud, c := newCloud(t, ibmcloudtest.Options{})
			token := c.token(cloud.BootstrapAPIKey())
			id := cloud.Rotations()[0].TokenSecret
			test.fault.Op = "versions.create"
			cloud.MustAddFault(test.fault)
			ctx, cancel := context.WithTimeout(t.Context(), test.patience)
			defer cancel()
			began := time.Now()
			response, err := c.http.Do(c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"x"}`, "Authorization", "Bearer "+token).WithContext(ctx))
			if err == nil {
				response.Body.Close()
			}
			if elapsed := time.Since(began); elapsed != test.wantElapsed || !errors.Is(err, test.wantErr) {
				t.Errorf("%+v: got %s, %v; want %s, %v", test.fault, elapsed, err, test.wantElapsed, test.wantErr)
			}
			if got := len(cloud.MustVersions(id)); got != test.wantVersions {
				t.Errorf("%+v: got %d versions, want %d", test.fault, got, test.wantVersions)
			}
			requests := cloud.Requests()
			if last := requests[len(requests)-1]; last.Status != test.wantLogged || last.Op != "versions.create" || last.Identity != "bootstrap" {
				t.Errorf("%+v: logged %+v, want status %d", test.fault, last, test.wantLogged)
			}
		})
	}
}

// Each case answers with its status, and in the shape of its service's errors.
func TestCases(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	key := cloud.BootstrapAPIKey()
	token, tried := c.token(key), map[string]bool{}
	secret := "/api/v2/secrets/" + cloud.Rotations()[0].TokenSecret
	for op, request := range map[string][3]string{
		"iam.token":       {"POST", "/identity/token", "apikey=" + key},
		"apikeys.get":     {"GET", "/v1/apikeys/x"},
		"apikeys.update":  {"PUT", "/v1/apikeys/x"},
		"secrets.create":  {"POST", "/api/v2/secrets"},
		"versions.create": {"POST", secret + "/versions"},
		"targets.list":    {"GET", "/v3/targets"},
	} {
		seen := map[string]bool{}
		for _, of := range ibmcloudtest.CasesOf(op) {
			cloud.MustAddFault(ibmcloudtest.Fault{Op: op, Times: 1, Case: of.Name})
			got := c.do(token, request[0], request[1], request[2])
			code, says := got.at("errors", 0, "code"), got.at("errors", 0, "message")
			if op == "iam.token" {
				code, says = got.at("errorCode"), got.at("errorMessage")
			}
			isPage := got.header.Get("Content-Type") == "text/html" && strings.HasPrefix(got.raw, "<html>")
			message := strings.ReplaceAll(of.Message, "{apikey}", key)
			if got.status != of.Status || isPage != (of.Code == "") || of.Code != "" && (code != of.Code || says != message) {
				t.Errorf("%s %s: got status %d, want %d, %q", op, of.Name, got.status, of.Status, of.Message)
			}
			if (got.header.Get("Retry-After") != "") != (of.Status == 429) {
				t.Errorf("%s %s: Retry-After: got %q", op, of.Name, got.header.Get("Retry-After"))
			}
			if seen[of.Name] {
				t.Errorf("%s has two cases %s", op, of.Name)
			}
			seen[of.Name], tried[of.Name] = true, true
			switch {
			case isPage:
			case op == "iam.token":
				if id := got.header.Get("Transaction-Id"); id == "" || got.at("context", "requestId") != id || (got.at("errorDetails") != nil) != (of.Details != "") {
					t.Errorf("%s: the body lacks context.requestId or errorDetails", of.Name)
				}
			case strings.HasPrefix(op, "apikeys."):
				if got.at("status_code") != strconv.Itoa(of.Status) || got.at("errors", 0, "message_code") == nil || got.at("trace") == nil {
					t.Errorf("%s: got %s, want IBM's ExceptionResponse", of.Name, got)
				}
			case got.at("status_code") != float64(of.Status) || got.at("trace") == nil:
				t.Errorf("%s %s: got %s, want status_code and trace", op, of.Name, got)
			}
		}
	}
	for _, of := range ibmcloudtest.Cases() {
		if !tried[of.Name] {
			t.Errorf("the case %s was not tried", of.Name)
		}
	}
}

// The page lists the cases from the one list.
func TestThePageListsTheCases(t *testing.T) {
	page, err := os.ReadFile("../../scripts/sandbox/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "| case | of | answer |\n|---|---|---|\n")
	got, _, _ := strings.Cut(rest, "\n\n")
	var rows []string
	for _, each := range ibmcloudtest.Cases() {
		row := fmt.Sprintf("%d, an HTML page", each.Status)
		if each.Code != "" {
			row = fmt.Sprintf("%d %s: %s", each.Status, each.Code, strings.ReplaceAll(each.Message, "{apikey}", "*the key*"))
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", each.Name, each.Of, row))
	}
	if want := strings.Join(rows, "\n"); got != want {
		t.Errorf("the page has\n%s\nwant\n%s", got, want)
	}
}
