package ibmcloudtest_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestCreateAndReadASecret(t *testing.T) {
	now := newClock()
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now})
	created := c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"my-secret","payload":"s3cret",
		"description":"d","labels":["dev","us-south"],"custom_metadata":{"a":1},"version_custom_metadata":{"b":2}}`)
	id := created.at("id").(string)
	now.advance(time.Minute)
	for _, path := range []string{
		"/api/v2/secrets/" + id,
		"/api/v2/secret_groups/default/secret_types/arbitrary/secrets/my-secret",
	} {
		got := c.want(200, admin, "GET", path, "")
		for field, want := range map[string]any{
			"id": id, "name": "my-secret", "description": "d", "secret_type": "arbitrary", "secret_group_id": "default",
			"payload": "s3cret", "versions_total": 1.0, "locks_total": 0.0, "state": 1.0, "state_description": "active",
			"created_at": "2026-03-01T12:00:00.000Z", "updated_at": "2026-03-01T12:00:00.000Z", "downloaded": true,
			"retrieved_at": "2026-03-01T12:01:00.000Z",
		} {
			if got.body[field] != want {
				t.Errorf("%s: %s: got %v, want %v", path, field, got.body[field], want)
			}
		}
		crn, _ := got.at("crn").(string)
		if !strings.HasPrefix(crn, "crn:v1:bluemix:public:secrets-manager:us-south:a/"+cloud.AccountID()+":") || !strings.HasSuffix(crn, ":secret:"+id) {
			t.Errorf("%s: crn: got %q", path, crn)
		}
		if got.at("custom_metadata", "a") != 1.0 || got.at("labels", 1) != "us-south" {
			t.Errorf("%s: got %s, want its metadata and labels", path, got)
		}
	}
	metadata := c.want(200, admin, "GET", "/api/v2/secrets/"+id+"/metadata", "")
	if _, ok := metadata.body["payload"]; ok || metadata.at("name") != "my-secret" {
		t.Errorf("metadata: got %s, want no payload", metadata)
	}
}

func TestPatchMetadata(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"old","payload":"x","custom_metadata":{"a":1}}`).at("id").(string)
	c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"taken","payload":"x"}`)
	path := "/api/v2/secrets/" + id + "/metadata"
	for body, want := range map[string]int{`{"name":"taken"}`: 409, `{"name":"-"}`: 400, `{"payload":"x"}`: 400, `{"labels":["a"]}`: 400} {
		c.check(c.do(admin, "PATCH", path, body), want, body)
	}
	got := c.want(200, admin, "PATCH", path, `{"name":"new","labels":["xx"],"custom_metadata":{"b":2}}`)
	if got.at("name") != "new" || got.at("custom_metadata", "a") != nil || got.at("custom_metadata", "b") != 2.0 || got.at("labels", 0) != "xx" {
		t.Errorf("got %s, want the new name, labels and metadata, replaced whole", got)
	}
	c.want(404, admin, "GET", "/api/v2/secret_groups/default/secret_types/arbitrary/secrets/old", "")
	c.want(200, admin, "GET", "/api/v2/secret_groups/default/secret_types/arbitrary/secrets/new", "")
	plain := c.request("PATCH", path, "{}", "Authorization", "Bearer "+admin, "Content-Type", "application/json")
	c.check(c.send(plain), 415, "PATCH as application/json")
}

func TestExpiredSecretIsDestroyed(t *testing.T) {
	now := newClock()
	_, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now})
	path := "/api/v2/secrets/" + c.want(201, admin, "POST", "/api/v2/secrets",
		`{"secret_type":"arbitrary","name":"brief","payload":"x","expiration_date":"2026-03-01T12:10:00Z"}`).at("id").(string)
	now.advance(10*time.Minute - 1)
	c.want(201, admin, "POST", path+"/versions", `{"payload":"y"}`)
	if got := c.want(200, admin, "GET", path, ""); got.at("payload") != "y" || got.at("state") != 1.0 {
		t.Fatalf("before: got %s, want an active secret", got)
	}
	now.advance(1)
	got := c.want(200, admin, "GET", path, "")
	if _, ok := got.body["payload"]; ok || got.at("state") != 5.0 || got.at("state_description") != "destroyed" {
		t.Errorf("after: got %s, want state 5 and no payload", got)
	}
	if got := c.want(200, admin, "GET", path+"/versions/current/metadata", ""); got.at("payload_available") != false {
		t.Errorf("after: got %s, want payload_available false", got)
	}
	c.want(400, admin, "POST", path+"/versions", `{"payload":"z"}`)
	c.want(400, admin, "PATCH", path+"/metadata", `{"expiration_date":"2030-01-01T00:00:00Z"}`)
}

func TestDeleteSecretFreesItsName(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	body := `{"secret_type":"arbitrary","name":"again","payload":"x"}`
	path := "/api/v2/secrets/" + c.want(201, admin, "POST", "/api/v2/secrets", body).at("id").(string)
	if got := c.want(204, admin, "DELETE", path, ""); got.raw != "" {
		t.Errorf("body: got %q, want none", got)
	}
	c.want(404, admin, "GET", path, "")
	c.want(201, admin, "POST", "/api/v2/secrets", body)
}

func TestGroups(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := c.want(201, admin, "POST", "/api/v2/secret_groups", `{"name":"my-group","description":"d"}`).at("id").(string)
	c.want(409, admin, "POST", "/api/v2/secret_groups", `{"name":"my-group"}`)
	c.want(400, admin, "POST", "/api/v2/secret_groups", `{"name":"`+strings.Repeat("g", 65)+`"}`)
	c.want(409, admin, "PATCH", "/api/v2/secret_groups/"+id, `{"name":"default"}`)
	if got := c.want(200, admin, "PATCH", "/api/v2/secret_groups/"+id, `{"name":"my-group","description":"e"}`); got.at("description") != "e" {
		t.Errorf("patched: got %s, want description e", got)
	}
	list := c.want(200, admin, "GET", "/api/v2/secret_groups", "")
	if list.at("total_count") != 4.0 || list.at("secret_groups", 0, "id") != "default" || list.at("secret_groups", 3, "name") != "my-group" {
		t.Errorf("list: got %s, want default, two seeded ones and my-group", list)
	}
	secret := c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"kv","name":"inside","data":{"k":"v"},"secret_group_id":"`+id+`"}`)
	c.want(412, admin, "DELETE", "/api/v2/secret_groups/"+id, "")
	c.want(204, admin, "DELETE", "/api/v2/secrets/"+secret.at("id").(string), "")
	c.want(204, admin, "DELETE", "/api/v2/secret_groups/"+id, "")
	c.want(404, admin, "GET", "/api/v2/secret_groups/"+id, "")
	c.want(400, admin, "DELETE", "/api/v2/secret_groups/default", "")
}

func TestListSecrets(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	for _, body := range []string{
		`{"secret_type":"arbitrary","name":"beta","payload":"x","labels":["dev","us"],"description":"second"}`,
		`{"secret_type":"kv","name":"alpha","data":{"k":"v"},"labels":["dev"]}`,
		`{"secret_type":"arbitrary","name":"gamma","payload":"x"}`,
	} {
		c.want(201, admin, "POST", "/api/v2/secrets", body)
	}
	for _, test := range []struct {
		query string
		want  []any
	}{
		{"", []any{"api-key-default", "iam-token-default", "beta", "alpha", "gamma"}},
		{"groups=default", []any{"beta", "alpha", "gamma"}},
		{"groups=default&sort=name", []any{"alpha", "beta", "gamma"}},
		{"groups=default&sort=-name", []any{"gamma", "beta", "alpha"}},
		{"groups=none", nil},
		{"search=SECOND", []any{"beta"}},
		{"search=us", []any{"beta"}},
		{"secret_types=kv", []any{"alpha"}},
		{"secret_types=kv,arbitrary&groups=default", []any{"beta", "alpha", "gamma"}},
		{"match_all_labels=dev", []any{"beta", "alpha"}},
		{"match_all_labels=dev,us", []any{"beta"}},
		{"groups=default&offset=1", []any{"alpha", "gamma"}},
		{"groups=default&limit=1&offset=1", []any{"alpha"}},
		{"groups=default&offset=7", nil},
	} {
		got := c.want(200, admin, "GET", "/api/v2/secrets?"+test.query, "")
		var names []any
		for i := 0; got.at("secrets", i) != nil; i++ {
			names = append(names, got.at("secrets", i, "name"))
		}
		if fmt.Sprint(names) != fmt.Sprint(test.want) {
			t.Errorf("%s: got %v, want %v", test.query, names, test.want)
		}
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "offset=-1", "sort=colour"} {
		c.check(c.do(admin, "GET", "/api/v2/secrets?"+query, ""), 400, query)
	}
	if got := c.want(200, admin, "GET", "/api/v2/secrets", ""); got.at("limit") != 200.0 || got.at("offset") != 0.0 {
		t.Errorf("page: got limit %v, offset %v; want 200 and 0", got.at("limit"), got.at("offset"))
	}
}

// TestPagesLinkToEachOther walks by the links alone.
func TestPagesLinkToEachOther(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{Rotations: 5}) // ten secrets
	for _, test := range []struct{ limit, pages, lastOffset int }{{4, 3, 8}, {5, 2, 5}, {10, 1, 0}, {1, 10, 9}} {
		next, pages, items := fmt.Sprintf("/api/v2/secrets?limit=%d&sort=name&search=rotation", test.limit), 0, 0
		for next != "" {
			got := c.want(200, admin, "GET", next, "")
			pages++
			for i := 0; got.at("secrets", i) != nil; i++ {
				items++
			}
			wantLast := fmt.Sprintf("/api/v2/secrets?limit=%d&offset=%d&search=rotation&sort=name", test.limit, test.lastOffset)
			if last := linkPath(t, got.at("last", "href")); last != wantLast {
				t.Errorf("last: got %s, want %s", last, wantLast)
			}
			if hasPrevious := got.at("previous") != nil; hasPrevious != (pages > 1) {
				t.Errorf("page %d: previous: got %t", pages, hasPrevious)
			}
			next = linkPath(t, got.at("next", "href"))
		}
		if pages != test.pages || items != 10 {
			t.Errorf("limit %d: got %d items on %d pages, want 10 on %d", test.limit, items, pages, test.pages)
		}
	}
}

// linkPath is an absolute link's path and query, "" for no link.
func linkPath(t *testing.T, href any) string {
	t.Helper()
	if href == nil {
		return ""
	}
	u, err := url.Parse(href.(string))
	if err != nil || u.Scheme != "https" || u.Host != "cloud.test" {
		t.Fatalf("link: got %v, want one on https://cloud.test", href)
	}
	return u.RequestURI()
}

func TestCreateSecretRules(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	arbitrary := func(name, rest string) string {
		return `{"secret_type":"arbitrary","name":"` + name + `","payload":"x"` + rest + `}`
	}
	long := strings.Repeat("a", 257)
	tests := []struct {
		name, body string
		status     int
	}{
		{"shortest name", arbitrary("ab", ""), 201},
		{"longest name", arbitrary(long[:256], ""), 201},
		{"dots and dashes", arbitrary("a-.b_c.d", ""), 201},
		{"one letter", arbitrary("a", ""), 400},
		{"name too long", arbitrary(long, ""), 400},
		{"leading dash", arbitrary("-ab", ""), 400},
		{"trailing dash", arbitrary("ab-", ""), 400},
		{"space", arbitrary("a b", ""), 400},
		{"name taken", arbitrary("ab", ""), 409},
		{"name taken in another type", `{"secret_type":"kv","name":"ab","data":{"k":"v"}}`, 201},
		{"no name", `{"secret_type":"arbitrary","payload":"x"}`, 400},
		{"no type", `{"name":"abc","payload":"x"}`, 400},
		{"unknown type", `{"secret_type":"poem","name":"abc"}`, 400},
		{"a type that is not served", `{"secret_type":"username_password","name":"abc","username":"u"}`, 501},
		{"no payload", `{"secret_type":"arbitrary","name":"abc"}`, 400},
		{"null payload", `{"secret_type":"arbitrary","name":"abc","payload":null}`, 400},
		{"empty payload", `{"secret_type":"arbitrary","name":"abc","payload":""}`, 400},
		{"payload a number", `{"secret_type":"arbitrary","name":"abc","payload":1}`, 400},
		{"largest payload", `{"secret_type":"arbitrary","name":"abc","payload":"` + strings.Repeat("é", 1_000_000) + `"}`, 201},
		{"payload too large", `{"secret_type":"arbitrary","name":"abcd","payload":"` + strings.Repeat("x", 1_000_001) + `"}`, 400},
		{"body too large", `{"secret_type":"arbitrary","name":"abcd","payload":"` + strings.Repeat("x", 9<<20) + `"}`, 400},
		{"longest description", arbitrary("abd", `,"description":"`+strings.Repeat("d", 1024)+`"`), 201},
		{"description too long", arbitrary("abe", `,"description":"`+strings.Repeat("d", 1025)+`"`), 400},
		{"label too short", arbitrary("abe", `,"labels":["a"]`), 400},
		{"label too long", arbitrary("abe", `,"labels":["`+long[:65]+`"]`), 400},
		{"31 labels", arbitrary("abe", `,"labels":[`+strings.Repeat(`"ab",`, 30)+`"ab"]`), 400},
		{"30 labels", arbitrary("abf", `,"labels":[`+strings.Repeat(`"ab",`, 29)+`"ab"]`), 201},
		{"metadata not an object", arbitrary("abe", `,"custom_metadata":[1]`), 400},
		{"metadata too large", arbitrary("abe", `,"version_custom_metadata":{"a":"`+strings.Repeat("x", 10<<10)+`"}`), 400},
		{"unknown property", arbitrary("abe", `,"colour":"red"`), 400},
		{"unknown group", arbitrary("abe", `,"secret_group_id":"none"`), 404},
		{"expired already", arbitrary("abe", `,"expiration_date":"2001-01-01T00:00:00Z"`), 400},
		{"kv without items", `{"secret_type":"kv","name":"abe","data":{}}`, 400},
		{"kv not an object", `{"secret_type":"kv","name":"abe","data":"x"}`, 400},
		{"kv too large", `{"secret_type":"kv","name":"abe","data":{"k":"` + strings.Repeat("x", 512<<10) + `"}}`, 400},
		{"kv with payload", `{"secret_type":"kv","name":"abe","data":{"k":"v"},"payload":"x"}`, 400},
		{"no object", `[]`, 400},
		{"no JSON", `{`, 400},
	}
	for _, test := range tests {
		c.check(c.do(admin, "POST", "/api/v2/secrets", test.body), test.status, test.name)
	}
	form := c.request("POST", "/api/v2/secrets", arbitrary("abg", ""), "Authorization", "Bearer "+admin, "Content-Type", "text/plain")
	c.check(c.send(form), http.StatusUnsupportedMediaType, "text/plain")
}

func TestUndocumentedStatusesCanBeSwitched(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Undocumented: ibmcloudtest.Undocumented{Duplicate: 400, TooLarge: 413, UnknownKey: 401, Destroyed: 410}})
	id := c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"aa","payload":"x"}`).at("id").(string)
	c.want(400, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"aa","payload":"x"}`)
	c.want(413, admin, "POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"`+strings.Repeat("x", 1_000_001)+`"}`)
	c.check(c.grant(map[string][]string{"grant_type": {apiKeyGrant}, "apikey": {"x"}}), 401, "unknown key")
	gone := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "x", Expires: time.Now().Add(-time.Second)})
	c.want(410, admin, "POST", "/api/v2/secrets/"+gone+"/versions", `{"payload":"x"}`)
}
