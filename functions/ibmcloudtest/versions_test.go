package ibmcloudtest_test

import (
	"fmt"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestNewVersionMovesTheAliases(t *testing.T) {
	now := newClock()
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now})
	id := cloud.Rotations()[0].TokenSecret
	path := "/api/v2/secrets/" + id + "/versions"
	c.check(c.do(admin, "GET", path+"/previous", ""), 404, "previous of one version")
	if seeded := c.want(200, admin, "GET", path+"/current", ""); seeded.at("payload") != "no token yet" || seeded.at("version_custom_metadata") != nil {
		t.Errorf("got %s, want \"no token yet\" without metadata", seeded)
	}
	var ids []string
	for i := range 3 {
		now.advance(time.Minute)
		got := c.want(201, admin, "POST", path, fmt.Sprintf(`{"payload":"token %d","version_custom_metadata":{"n":%d}}`, i, i))
		if got.at("alias") != "current" || got.at("payload_available") != true || got.at("secret_id") != id || got.at("version_custom_metadata", "n") != float64(i) {
			t.Errorf("created: got %s, want the current version of %s", got, id)
		}
		ids = append(ids, got.at("id").(string))
	}
	for _, test := range []struct {
		ref, id     string
		alias       any
		payload     any
		isAvailable bool
	}{
		{"current", ids[2], "current", "token 2", true},
		{"previous", ids[1], "previous", "token 1", true},
		{ids[2], ids[2], "current", "token 2", true},
		{ids[0], ids[0], nil, nil, false},
	} {
		got := c.want(200, admin, "GET", path+"/"+test.ref, "")
		if got.at("id") != test.id || got.at("alias") != test.alias || got.at("payload") != test.payload || got.at("payload_available") != test.isAvailable {
			t.Errorf("%s: got %s, want version %s, alias %v, payload %v", test.ref, got, test.id, test.alias, test.payload)
		}
		got = c.want(200, admin, "GET", path+"/"+test.ref+"/metadata", "")
		if _, ok := got.body["payload"]; ok || got.at("id") != test.id {
			t.Errorf("%s metadata: got %s, want version %s without payload", test.ref, got, test.id)
		}
	}
	list := c.want(200, admin, "GET", path, "")
	if list.at("total_count") != 4.0 || list.at("versions", 0, "id") != ids[2] || list.at("versions", 1, "alias") != "previous" || list.at("versions", 0, "payload") != nil {
		t.Errorf("list: got %s, want 4 versions, the newest first, without payload", list)
	}
	c.want(404, admin, "GET", path+"/none", "")
}

func TestFiftyVersionsAreKept(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := cloud.Rotations()[0].TokenSecret
	for i := range 60 {
		cloud.MustPutVersion(id, fmt.Sprint(i), nil)
	}
	versions := cloud.MustVersions(id)
	if len(versions) != 50 || versions[49].Payload != "59" || versions[48].Payload != "58" || versions[47].PayloadAvailable {
		t.Errorf("got %d versions, the newest %+v; want 50, two with payload", len(versions), versions[len(versions)-1])
	}
	if got := c.want(200, admin, "GET", "/api/v2/secrets/"+id+"/metadata", ""); got.at("versions_total") != 50.0 {
		t.Errorf("versions_total: got %v, want 50", got.at("versions_total"))
	}
}

func TestVersionRules(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	arbitrary := cloud.Rotations()[0].TokenSecret
	kv := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"k": "v"}})
	for _, test := range []struct {
		id, body string
		status   int
	}{
		{arbitrary, `{"payload":"x"}`, 201},
		{arbitrary, `{"payload":""}`, 400},
		{arbitrary, `{}`, 400},
		{arbitrary, `{"data":{"k":"v"}}`, 400},
		{arbitrary, `{"payload":"x","expiration_date":"2030-01-01T00:00:00Z"}`, 400},
		{arbitrary, `{"payload":"x","version_custom_metadata":7}`, 400},
		{kv, `{"data":{"k":"w"}}`, 201},
		{kv, `{"data":{}}`, 400},
		{kv, `{"payload":"x"}`, 400},
	} {
		c.check(c.do(admin, "POST", "/api/v2/secrets/"+test.id+"/versions", test.body), test.status, test.body)
	}
	if got := c.want(200, admin, "GET", "/api/v2/secrets/"+kv, ""); got.at("data", "k") != "w" {
		t.Errorf("kv: got %s, want data.k = w", got)
	}
	if n := len(cloud.MustVersions(arbitrary)); n != 2 {
		t.Errorf("versions: got %d, want 2: refused requests make none", n)
	}
}

func TestVersionMetadataIsReplacedWhole(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := cloud.Rotations()[0].TokenSecret
	cloud.MustPutVersion(id, "x", map[string]any{"expiration": 1772366400, "run_id": "r"})
	path := "/api/v2/secrets/" + id + "/versions/current/metadata"
	if got := c.want(200, admin, "GET", path, ""); got.at("version_custom_metadata", "expiration") != 1772366400.0 {
		t.Errorf("got %s, want the expiration", got)
	}
	c.want(400, admin, "PATCH", path, `{"version_custom_metadata":"text"}`)
	c.want(200, admin, "PATCH", path, `{"version_custom_metadata":{"by":"hand"}}`)
	if got := cloud.MustCurrent(id).Metadata; len(got) != 1 || got["by"] != "hand" {
		t.Errorf("got %v, want only by:hand", got)
	}
}
