package ibmcloudtest_test

import (
	"encoding/json"
	"fmt"
	"maps"
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
	maps.Copy(body, more)
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestAPIKeyFromCreationToDeletion(t *testing.T) {
	clock := newClock()
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Now: clock.Now})
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
	c.wantExchange(400, value, "a key made this moment: for IAM does not know it yet")
	clock.advance(2 * time.Second)
	c.wantExchange(200, value, "a key made two seconds ago")
	if got := c.want(200, admin, "GET", "/v1/apikeys/"+id, "").at("apikey"); got != "" {
		t.Error("the value can be read again without store_value")
	}

	clock.advance(48 * time.Hour)
	c.wantExchange(400, value, "an expired key")
	admin = c.token(cloud.AdminAPIKey())
	c.want(204, admin, "DELETE", "/v1/apikeys/"+id, "")
	c.want(404, admin, "DELETE", "/v1/apikeys/"+id, "")

	made = c.want(201, admin, "POST", "/v1/apikeys", newKeyBody(t, cloud, map[string]any{"store_value": true}))
	clock.advance(2 * time.Second)
	path := "/v1/apikeys/" + fmt.Sprint(made.at("id"))
	if c.want(200, admin, "GET", path, "").at("apikey") != made.at("apikey") {
		t.Error("store_value: the value cannot be read again")
	}
	c.want(204, admin, "DELETE", path, "")
	c.wantExchange(400, made.at("apikey"), "a deleted key")
}

// An expiry has the form in which it was given, to the minute or the second; of RFC 3339 the form is IBM's.
func TestAPIKeyExpiresAtASecond(t *testing.T) {
	now := newClock()
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now, KeyPropagation: -1})
	for given, want := range map[string]any{
		"2026-03-01T13:00+0000": "2026-03-01T13:00+0000", "2026-03-01T13:00:09+0000": "2026-03-01T13:00:09+0000",
		"2026-03-01T13:00:09Z": "2026-03-01T13:00:09+0000", "2026-03-01T15:00:09+02:00": "2026-03-01T13:00:09+0000",
	} {
		made := c.want(201, admin, "POST", "/v1/apikeys", newKeyBody(t, cloud, map[string]any{"expires_at": given}))
		if made.at("expires_at") != want || made.at("disabled") != false {
			t.Errorf("%s: got %v, want %v", given, made.at("expires_at"), want)
		}
	}
	key := c.want(201, admin, "POST", "/v1/apikeys", newKeyBody(t, cloud, map[string]any{"expires_at": "2026-03-01T12:00:09+0000"})).at("apikey")
	now.advance(8 * time.Second)
	c.wantExchange(200, key, "a second before")
	now.advance(time.Second)
	c.wantExchange(400, key, "at the second")
}

func TestAPIKeyIsUpdatedByTag(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
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
		c.check(c.send(c.request("PUT", path, test.body, header...)), test.want, fmt.Sprintf("If-Match %q, %s", test.tag, test.body))
	}
	got := c.want(200, admin, "GET", path, "")
	if etag := got.header.Get("ETag"); etag == "" || got.at("entity_tag") != etag {
		t.Errorf("ETag: got %q, want the entity_tag", etag)
	}
	if got.at("description") != "newest" || got.at("name") != "k" {
		t.Errorf("got %s, want the newest description and the old name", got)
	}
}

func TestAPIKeysAreListedInPages(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
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
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
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
			t.Errorf("%s %s %s: got %d %s, want %d", test.method, test.path, test.body, got.status, got, test.want)
		}
	}
}

func TestAKeysDetailsAreForItsOwnerAndTheAdmin(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	key := cloud.Rotations()[0].APIKey
	for name, test := range map[string]struct {
		asker, key string
		want       int
	}{
		"its owner":          {key, key, 200},
		"the admin":          {cloud.AdminAPIKey(), key, 200},
		"somebody else":      {cloud.ReaderAPIKey(), key, 403},
		"no key":             {cloud.ReaderAPIKey(), "", 403},
		"no key, as admin":   {cloud.AdminAPIKey(), "", 404},
		"unknown, as admin":  {cloud.AdminAPIKey(), "unknown", 404},
		"unknown, as reader": {cloud.ReaderAPIKey(), "unknown", 403},
	} {
		got := c.send(c.request("GET", "/v1/apikeys/details", "", "Authorization", "Bearer "+c.token(test.asker), "IAM-ApiKey", test.key))
		if got.status != test.want {
			t.Errorf("%s: got %d, want %d", name, got.status, test.want)
		}
		if strings.Contains(got.raw, key) || test.want == 200 && !strings.Contains(got.raw, cloud.Rotations()[0].IAMID) {
			t.Errorf("%s: the answer is not the key's details without its value", name)
		}
	}
}

// wantExchange exchanges a key and checks the answer's status.
func (c client) wantExchange(status int, key any, when string) {
	c.t.Helper()
	text, _ := key.(string)
	c.check(c.grant(url.Values{"grant_type": {apiKeyGrant}, "apikey": {text}}), status, when)
}

func TestCreatedSecretsServeTheirIdentities(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	bootstrap := c.token(cloud.BootstrapAPIKey())
	for kind, field := range map[string][]any{
		"iam_credentials":     {"api_key"},
		"service_credentials": {"credentials", "apikey"},
	} {
		id := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: kind, ReuseAPIKey: true, Group: cloud.KeyGroupName()})
		key := c.want(200, bootstrap, "GET", "/api/v2/secrets/"+id, "").at(field...)
		if key != cloud.MustCurrent(id).Payload {
			t.Errorf("%s: got another key than MustCurrent", kind)
		}
		c.want(200, c.token(key.(string)), "GET", "/v3/settings", "")
	}
	kv := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: cloud.TokenGroupName(), Data: map[string]any{"iam_token": "x"}, Metadata: map[string]any{"m": "n"}})
	if got := cloud.MustCurrent(kv); got.Data["iam_token"] != "x" || got.Metadata["m"] != "n" {
		t.Errorf("kv: got %+v", got)
	}
	c.want(200, c.token(cloud.ReaderAPIKey()), "GET", "/api/v2/secrets/"+kv, "")
}
