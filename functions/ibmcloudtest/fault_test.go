package ibmcloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestFaultCounts(t *testing.T) {
	type f = ibmcloudtest.Fault
	const op = ibmcloudtest.OpTargetsList
	for name, test := range map[string]struct {
		faults []f
		want   string // statuses of four requests, 0 for no answer
		left   int    // faults
	}{
		"until cleared":                        {[]f{{Op: op, Status: 503}}, "[503 503 503 503]", 1},
		"twice":                                {[]f{{Op: op, Times: 2, Status: 503}}, "[503 503 200 200]", 0},
		"skip two":                             {[]f{{Op: op, Skip: 2, Times: 1, Status: 503}}, "[200 200 503 200]", 0},
		"any operation":                        {[]f{{Op: "*", Times: 1, Status: 500}}, "[500 200 200 200]", 0},
		"another operation":                    {[]f{{Op: "settings.get", Status: 500}}, "[200 200 200 200]", 1},
		"the oldest wins":                      {[]f{{Op: "*", Times: 2, Status: 500}, {Op: op, Times: 1, Status: 429}}, "[500 500 429 200]", 0},
		"a skipping one leaves it to the next": {[]f{{Op: op, Skip: 2, Times: 1, Status: 500}, {Op: op, Times: 1, Status: 429}}, "[429 200 500 200]", 0},
		"its identity":                         {[]f{{Op: op, Identity: "workload", Times: 1, Status: 500}}, "[500 200 200 200]", 0},
		"another identity":                     {[]f{{Op: op, Identity: "reader", Times: 1, Status: 500}}, "[200 200 200 200]", 1},
		"dropped":                              {[]f{{Op: op, Drop: "before", Times: 1}}, "[0 200 200 200]", 0},
		"what is left":                         {[]f{{Op: "*", Skip: 1, Times: 9, Status: 500}}, "[200 500 500 500]", 1},
	} {
		c := newClient(t, ibmcloudtest.Options{})
		token := c.token(c.cloud.Rotations()[0].APIKey)
		for _, fault := range test.faults {
			c.cloud.MustAddFault(fault)
		}
		var statuses []int
		for range 4 {
			statuses = append(statuses, c.do(token, "GET", "/v3/targets", "").status)
		}
		left := c.cloud.Faults()
		if fmt.Sprint(statuses) != test.want || len(left) != test.left || name == "what is left" && (left[0].Skip != 0 || left[0].Times != 6) {
			t.Errorf("%s: got %v, left %+v; want %s", name, statuses, left, test.want)
		}
	}
}

// At IAM the identity is the owner of the key, or the profile, in the request.
func TestFaultsByKeyOwner(t *testing.T) {
	newStory(newClient(t, ibmcloudtest.Options{})).play(`
		nobody POST /_sandbox/faults {"op":"iam.token","identity":"bootstrap","status":503} => 201
		exchange $BOOTSTRAP_KEY => 503
		nobody POST /identity/token $FORM grant_type=urn:ibm:params:oauth:grant-type:cr-token&cr_token=x&profile_name=rotator-bootstrap => 503
		exchange $READER_KEY => 200
		exchange $WORKLOAD_KEY => 200
		exchange nobodys => 400`)
}

func TestFaultAnswers(t *testing.T) {
	c := newClient(t, ibmcloudtest.Options{})
	token := c.token(c.cloud.Rotations()[0].APIKey)
	for _, test := range []struct {
		fault             ibmcloudtest.Fault
		status            int
		body, contentType string
		header            string // X-Test
	}{
		{ibmcloudtest.Fault{Status: 502, Body: "<html>", ContentType: "text/html"}, 502, "<html>", "text/html", ""},
		{ibmcloudtest.Fault{Status: 200, Body: "{}"}, 200, "{}", "application/json", ""},
		{ibmcloudtest.Fault{Status: 200, Headers: map[string]string{"x-test": "1"}}, 200, "", "", "1"},
		{ibmcloudtest.Fault{Headers: map[string]string{"x-test": "2"}}, 200, "targets", "application/json", "2"},
	} {
		test.fault.Op, test.fault.Times = "targets.list", 1
		c.cloud.MustAddFault(test.fault)
		got := c.do(token, "GET", "/v3/targets", "")
		isReal := test.body == "targets" && got.at("targets", 0, "target_type") == "cloud_logs"
		if got.status != test.status || got.raw != test.body && !isReal ||
			got.header.Get("Content-Type") != test.contentType || got.header.Get("X-Test") != test.header || got.header.Get("Date") == "" {
			t.Errorf("%+v: got %d %q %v", test.fault, got.status, got, got.header)
		}
	}
}

// goTypes matches names of Go types, and the messages of encoding/json, which have them.
var goTypes = regexp.MustCompile(`Fault|Settings|Undocumented|Go (struct|value)|json:|int64|\.[a-z_]+ (must|has)`)

func TestFaultsOverHTTP(t *testing.T) {
	c := newClient(t, ibmcloudtest.Options{})
	for body, says := range map[string]string{ // part of the error, "" for none
		`{"op":"*","headers":{"X-Test":"1"}}`: "",
		`{"op":"iam.token","identity":"bootstrap","skip":1,"times":2,"status":429,"headers":{"Retry-After":"1"},"content_type":"text/html","body":"x","delay":"1.5s"}`: "",
		`{"op":"versions.create","drop":"after","delay":"0s"}`:            "",
		`{"op":"iam.token","times":1,"skip":1,"delay":"0s","headers":{}}`: "give case, status, drop, delay or headers",
		`{"status":500}`:                                  "op must be one of iam.token, iam.keys,",
		`{"op":"versions"}`:                               "versions.create",
		`{"op":"*","identity":"root"}`:                    "bootstrap, workload, reader, admin",
		`{"op":"*","identity":7}`:                         "identity must be a string; the fields are op (a string), identity (a string), skip (a whole number)",
		`{"op":"*","skip":-1}`:                            "skip must be 0 or more",
		`{"op":"*","times":-1}`:                           "times must be",
		`{"op":"*","times":"2"}`:                          "times must be a whole number;",
		`{"op":"*","status":99}`:                          "200 to 599",
		`{"op":"*","delay":"-1s"}`:                        "delay must be a Go duration",
		`{"op":"*","delay":"soon"}`:                       "delay must be a Go duration",
		`{"op":"*","drop":"during"}`:                      "before or after",
		`{"op":"*","drop":"after","status":500}`:          "drop leaves the request unanswered",
		`{"op":"*","body":"x"}`:                           "need a status",
		`{"op":"*","status":500,"content_type":"a\nb"}`:   "content_type must be one line",
		`{"op":"iam.token","case":"address_not_allowed"}`: "",
		`{"op":"versions.create","case":"version_locked","times":1,"delay":"1s","headers":{"X-Test":"1"}}`: "",
		`{"op":"*","case":"server_error"}`:                       "",
		`{"op":"*","case":"invalid_token"}`:                      "case must be one that fits the op *: context_restriction, network_rule,",
		`{"op":"iam.keys","case":"key_unknown"}`:                 "case must be one that fits the op iam.keys: context_restriction, network_rule,",
		`{"op":"iam.token","case":"version_locked"}`:             "case must be one that fits the op iam.token: key_unknown, key_unknown_401, key_repeated,",
		`{"op":"secrets.list","case":"version_locked"}`:          "case must be one that fits the op secrets.list: invalid_token, denied,",
		`{"op":"not_served","case":"denied"}`:                    "case must be one that fits the op not_served: context_restriction, network_rule,",
		`{"op":"iam.token","case":"Key_Unknown"}`:                "case must be one",
		`{"op":"iam.token","case":"key_unknown","status":400}`:   "case stands in place of status",
		`{"op":"iam.token","case":"key_unknown","drop":"after"}`: "it allows no status and no case",
		`{"op":"*","headers":{"a":1}}`:                           "headers must be an object of strings;",
		`{"op":"*","headers":{"a b":"c"}}`:                       "headers must be a map",
		`{"op":"*","headers":{"a":"b\nc"}}`:                      "headers must be a map",
		`{"op":"*","headers":{"Content-Length":"1"}}`:            "Content-Length",
		`{"op":"*","colour":"red"}`:                              `unknown field \"colour\"`,
		`{"op":"*","Times":1}`:                                   `unknown field \"Times\"`,
		`{"op":"*"} {"op":"*"}`:                                  "one JSON object",
		`[]`:                                                     "one JSON object",
		``:                                                       "one JSON object",
	} {
		c.cloud.ClearFaults()
		got, want := c.do("", "POST", "/_sandbox/faults", body), 201
		if says != "" {
			want = 400
		}
		if got.status != want || !strings.Contains(got.raw, says) || goTypes.MatchString(got.raw) || len(c.cloud.Faults()) == 1 != (want == 201) {
			t.Errorf("%s: got %d %s and %d faults, want %d and %q", body, got.status, got, len(c.cloud.Faults()), want, says)
		}
	}
	c.cloud.ClearFaults()
	c.do("", "POST", "/_sandbox/faults", `{"op":"*","delay":"90s"}`)
	if got := c.do("", "GET", "/_sandbox/faults", ""); got.raw != `[{"op":"*","delay":"1m30s"}]` {
		t.Errorf("GET: got %s", got)
	}
	if got := c.do("", "DELETE", "/_sandbox/faults", ""); got.status != 204 || len(c.cloud.Faults()) != 0 {
		t.Errorf("DELETE: got %d and %d faults, want 204 and none", got.status, len(c.cloud.Faults()))
	}
}

// With DropBefore no version is created; with DropAfter it is, though its answer is lost.
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
		{ibmcloudtest.Fault{Delay: late, Drop: "after"}, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 2, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, ibmcloudtest.Options{})
			token, id := c.token(c.cloud.BootstrapAPIKey()), c.cloud.Rotations()[0].TokenSecret
			test.fault.Op = "versions.create"
			c.cloud.MustAddFault(test.fault)
			ctx, cancel := context.WithTimeout(t.Context(), test.patience)
			defer cancel()
			began := time.Now()
			r := c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"x"}`, "Authorization", "Bearer "+token)
			response, err := c.http.Do(r.WithContext(ctx))
			if err == nil {
				response.Body.Close()
			}
			if elapsed := time.Since(began); elapsed != test.wantElapsed || !errors.Is(err, test.wantErr) {
				t.Errorf("%+v: got %s, %v; want %s, %v", test.fault, elapsed, err, test.wantElapsed, test.wantErr)
			}
			requests, versions := c.cloud.Requests(), len(c.cloud.MustVersions(id))
			last := requests[len(requests)-1]
			if versions != test.wantVersions || last.Status != test.wantLogged || last.Op != "versions.create" || last.Identity != "bootstrap" {
				t.Errorf("%+v: got %d versions and the log %+v, want %d and %d", test.fault, versions, last, test.wantVersions, test.wantLogged)
			}
		})
	}
}

// Each case has its status, and the JSON of its service's errors.
func TestCases(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{}))
	key, tried := s.cloud.BootstrapAPIKey(), map[string]bool{}
	token := s.token(key)
	for op, request := range map[string]string{
		"iam.token":       "POST /identity/token apikey=" + key,
		"apikeys.get":     "GET /v1/apikeys/x",
		"apikeys.update":  "PUT /v1/apikeys/x",
		"secrets.create":  "POST /api/v2/secrets",
		"versions.create": "POST /api/v2/secrets/x/versions",
		"targets.list":    "GET /v3/targets",
	} {
		method, path, _ := strings.Cut(request, " ")
		path, body, _ := strings.Cut(path, " ")
		for _, of := range ibmcloudtest.CasesOf(op) {
			s.cloud.MustAddFault(ibmcloudtest.Fault{Op: op, Times: 1, Case: of.Name})
			got := s.do(token, method, path, body)
			message := strings.ReplaceAll(of.Message, "{apikey}", key)
			problem := map[string]any{"code": of.Code, "message": message}
			want := map[string]any{"errors": []any{problem}, "trace": "*", "status_code": float64(of.Status)}
			switch {
			case op == "iam.token":
				want = map[string]any{"errorCode": of.Code, "errorMessage": message, "context": map[string]any{"requestId": got.header.Get("Transaction-Id")}}
				if of.Details != "" {
					want["errorDetails"] = "*"
				}
			case strings.HasPrefix(op, "apikeys."):
				want["status_code"], problem["message_code"] = fmt.Sprint(of.Status), "*"
				want["context"] = map[string]any{"transaction_id": "*"}
			}
			isPage := got.header.Get("Content-Type") == "text/html" && strings.HasPrefix(got.raw, "<html>")
			if got.status != of.Status || isPage != (of.Code == "") || !isPage && !s.fits(want, got.body) || (got.header.Get("Retry-After") != "") != (of.Status == 429) {
				t.Errorf("%s %s: got %d %s, want %d %s", op, of.Name, got.status, got, of.Status, of.Code)
			}
			if tried[op+of.Name] {
				t.Errorf("%s has two cases %s", op, of.Name)
			}
			tried[op+of.Name], tried[of.Name] = true, true
		}
	}
	for _, of := range ibmcloudtest.Cases() {
		if !tried[of.Name] {
			t.Errorf("the case %s was not tried", of.Name)
		}
	}
}

// The table of cases in the page is the list in the code.
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
