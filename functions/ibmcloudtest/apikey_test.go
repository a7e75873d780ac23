package ibmcloudtest_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// newKeyBody asks for a key of the workload.
func newKeyBody(t *testing.T, cloud *ibmcloudtest.Cloud, more map[string]any) string {
	t.Helper()
	body := map[string]any{"name": "k", "iam_id": cloud.Rotations()[0].IAMID, "account_id": cloud.AccountID(), "store_value": false}
	for field, value := range more {
		body[field] = value
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func exchange(c client, key any) int {
	return c.grant(url.Values{"grant_type": {apiKeyGrant}, "apikey": {fmt.Sprint(key)}}).status
}

func TestAPIKeyLivesAndDies(t *testing.T) {
	clock := newClock()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Now: clock.Now})
	c := inProcess(t, cloud)
	admin := c.token(cloud.AdminAPIKey())
	expiry := clock.Now().Add(48 * time.Hour).Format("2006-01-02T15:04-0700")

	made := c.want(201, admin, "POST", "/v1/apikeys", newKeyBody(t, cloud, map[string]any{
		"description": "d", "action_when_leaked": "disable", "expires_at": expiry}))
	id, value := fmt.Sprint(made.at("id")), made.at("apikey")
	for field, want := range map[string]any{
		"name": "k", "description": "d", "action_when_leaked": "disable", "expires_at": expiry, "created_at": "2026-03-01T12:00+0000",
		"iam_id": cloud.Rotations()[0].IAMID, "account_id": cloud.AccountID(), "locked": false,
	} {
		if got := made.at(field); got != want {
			t.Errorf("%s: got %v, want %v", field, got, want)
		}
	}
	if got := exchange(c, value); got != 400 {
		t.Errorf("a key made this moment: got %d, want 400, for IAM does not know it yet", got)
	}
	clock.advance(2 * time.Second)
	if got := exchange(c, value); got != 200 {
		t.Errorf("a key made two seconds ago: got %d, want 200", got)
	}
	if got := c.want(200, admin, "GET", "/v1/apikeys/"+id, "").at("apikey"); got != "" {
		t.Error("the value can be read again without store_value")
	}

	clock.advance(48 * time.Hour)
	if got := exchange(c, value); got != 400 {
		t.Errorf("an expired key: got %d, want 400", got)
	}
	admin = c.token(cloud.AdminAPIKey())
	c.want(204, admin, "DELETE", "/v1/apikeys/"+id, "")
	c.want(404, admin, "DELETE", "/v1/apikeys/"+id, "")
}

func TestDeletedAPIKeyIsUnknown(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	c := inProcess(t, cloud)
	admin := c.token(cloud.AdminAPIKey())
	made := c.want(201, admin, "POST", "/v1/apikeys", newKeyBody(t, cloud, map[string]any{"store_value": true}))
	path := "/v1/apikeys/" + fmt.Sprint(made.at("id"))
	if got := c.want(200, admin, "GET", path, "").at("apikey"); got != made.at("apikey") {
		t.Error("store_value: the value cannot be read again")
	}
	if got := exchange(c, made.at("apikey")); got != 200 {
		t.Fatalf("the new key: got %d, want 200", got)
	}
	c.want(204, admin, "DELETE", path, "")
	if got := exchange(c, made.at("apikey")); got != 400 {
		t.Errorf("the deleted key: got %d, want 400", got)
	}
}

func TestAPIKeyIsUpdatedByTag(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	admin := c.token(cloud.AdminAPIKey())
	made := c.want(201, admin, "POST", "/v1/apikeys", newKeyBody(t, cloud, nil))
	path, tag := "/v1/apikeys/"+fmt.Sprint(made.at("id")), fmt.Sprint(made.at("entity_tag"))
	for _, test := range []struct {
		tag, body string
		want      int
	}{
		{"", `{"description":"new"}`, 400},
		{"stale", `{"description":"new"}`, 409},
		{tag, `{"name":""}`, 400},
		{tag, `{"description":"new"}`, 200},
		{tag, `{"description":"newer"}`, 409},
		{"*", `{"description":"newest"}`, 200},
	} {
		header := []string{"Authorization", "Bearer " + admin}
		if test.tag != "" {
			header = append(header, "If-Match", test.tag)
		}
		if got := c.send(c.request("PUT", path, test.body, header...)); got.status != test.want {
			t.Errorf("If-Match %q, %s: got %d %s, want %d", test.tag, test.body, got.status, got.raw, test.want)
		}
	}
	got := c.want(200, admin, "GET", path, "")
	if got.at("description") != "newest" || got.at("name") != "k" {
		t.Errorf("got %s, want the newest description and the old name", got.raw)
	}
}

func TestAPIKeysAreListedInPages(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	admin := c.token(cloud.AdminAPIKey())
	for range 6 { // with the seeded key seven
		c.want(201, admin, "POST", "/v1/apikeys", newKeyBody(t, cloud, nil))
	}
	page := "/v1/apikeys?pagesize=3&account_id=" + cloud.AccountID() + "&iam_id=" + cloud.Rotations()[0].IAMID
	seen, sizes := map[any]bool{}, []int{}
	for page != "" {
		got := c.want(200, admin, "GET", page, "")
		keys, _ := got.at("apikeys").([]any)
		sizes = append(sizes, len(keys))
		for i := range keys {
			seen[got.at("apikeys", i, "id")] = true
			if got.at("apikeys", i, "apikey") != "" {
				t.Error("a listing holds a key's value")
			}
		}
		next, _ := got.at("next").(string)
		page = strings.TrimPrefix(next, "https://cloud.test")
	}
	if len(seen) != 7 || fmt.Sprint(sizes) != "[3 3 1]" {
		t.Errorf("got %d keys in pages of %v, want 7 in [3 3 1]", len(seen), sizes)
	}
}

func TestAPIKeyRequestsThatAreRefused(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	admin := c.token(cloud.AdminAPIKey())
	for _, test := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "", `{"iam_id":"x"}`, 400},
		{"POST", "", `{"name":"k"}`, 400},
		{"POST", "", `{"name":"k","iam_id":"iam-ServiceId-none"}`, 404},
		{"POST", "", newKeyBody(t, cloud, map[string]any{"account_id": "other"}), 400},
		{"POST", "", newKeyBody(t, cloud, map[string]any{"name": ""}), 400},
		{"POST", "", newKeyBody(t, cloud, map[string]any{"action_when_leaked": "shout"}), 400},
		{"POST", "", newKeyBody(t, cloud, map[string]any{"expires_at": "2020-01-01T00:00+0000"}), 400},
		{"POST", "", newKeyBody(t, cloud, map[string]any{"expires_at": "tomorrow"}), 400},
		{"POST", "", newKeyBody(t, cloud, map[string]any{"other": 1}), 400},
		{"GET", "?account_id=other", "", 400},
		{"GET", "?pagesize=101", "", 400},
		{"GET", "?pagetoken=none", "", 400},
		{"GET", "/ApiKey-none", "", 404},
		{"PUT", "/ApiKey-none", "{}", 404},
	} {
		if got := c.do(admin, test.method, "/v1/apikeys"+test.path, test.body); got.status != test.want || got.at("errors", 0, "message") == nil {
			t.Errorf("%s %s %s: got %d %s, want %d", test.method, test.path, test.body, got.status, got.raw, test.want)
		}
	}
}

func TestOnlyTheAdminManagesAPIKeys(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	for _, request := range [][2]string{
		{"GET", "/v1/apikeys"}, {"POST", "/v1/apikeys"}, {"GET", "/v1/apikeys/x"}, {"PUT", "/v1/apikeys/x"}, {"DELETE", "/v1/apikeys/x"},
	} {
		for name, key := range map[string]string{
			"bootstrap": cloud.BootstrapAPIKey(), "reader": cloud.ReaderAPIKey(), "workload": cloud.Rotations()[0].APIKey,
		} {
			if got := c.do(c.token(key), request[0], request[1], ""); got.status != 403 {
				t.Errorf("%s %s as %s: got %d, want 403", request[0], request[1], name, got.status)
			}
		}
		if got := c.send(c.request(request[0], request[1], "")); got.status != 401 {
			t.Errorf("%s %s without a token: got %d, want 401", request[0], request[1], got.status)
		}
	}
}

func TestAPIKeyOperationsHaveTheirNames(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	admin := c.token(cloud.AdminAPIKey())
	for name, request := range map[string][2]string{
		"apikeys.list": {"GET", "/v1/apikeys"}, "apikeys.create": {"POST", "/v1/apikeys"}, "apikeys.get": {"GET", "/v1/apikeys/x"},
		"apikeys.update": {"PUT", "/v1/apikeys/x"}, "apikeys.delete": {"DELETE", "/v1/apikeys/x"},
	} {
		if err := cloud.AddFault(ibmcloudtest.Fault{Op: name, Identity: "admin", Times: 1, Status: 418}); err != nil {
			t.Fatal(err)
		}
		if got := c.do(admin, request[0], request[1], ""); got.status != 418 {
			t.Errorf("%s %s: got %d, want the fault of %s", request[0], request[1], got.status, name)
		}
	}
}
