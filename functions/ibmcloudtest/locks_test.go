package ibmcloudtest_test

import (
	"fmt"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

const lockedMessage = "The requested action can't be completed because the secret version is locked."

// TestLockOnCurrentStopsTheSecondRotation: the lock travels with its version to previous.
func TestLockOnCurrentStopsTheSecondRotation(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	path := "/api/v2/secrets/" + cloud.Rotations()[0].TokenSecret
	c.want(201, admin, "POST", path+"/locks_bulk", `{"locks":[{"name":"job","description":"d","attributes":{"a":1}}]}`)
	c.want(201, admin, "POST", path+"/versions", `{"payload":"1"}`)
	got := c.want(200, admin, "GET", path+"/versions/previous/locks", "")
	if got.at("total_count") != 1.0 || got.at("locks", 0, "name") != "job" || got.at("locks", 0, "secret_version_alias") != "previous" || got.at("locks", 0, "attributes", "a") != 1.0 {
		t.Errorf("locks of previous: got %s, want the one on it", got)
	}
	refused := c.want(412, admin, "POST", path+"/versions", `{"payload":"2"}`)
	if refused.at("errors", 0, "message") != lockedMessage {
		t.Errorf("message: got %v, want %q", refused.at("errors", 0, "message"), lockedMessage)
	}
	if current := cloud.MustCurrent(cloud.Rotations()[0].TokenSecret); current.Payload != "1" {
		t.Errorf("current: got %q, want the version before the refused one", current.Payload)
	}
	c.want(412, admin, "DELETE", path, "")
	c.want(200, admin, "DELETE", path+"/versions/previous/locks_bulk?name=other,job", "")
	c.want(201, admin, "POST", path+"/versions", `{"payload":"2"}`)
	c.want(204, admin, "DELETE", path, "")
}

func TestLockModes(t *testing.T) {
	for _, test := range []struct {
		mode            string
		before, after   string // the locks of the previous version
		previousHasData bool
	}{
		{"", "a b", "[a b]", true},
		{"?mode=remove_previous", "a b", "[b]", true},
		{"?mode=remove_previous_and_delete", "a b", "[b]", true},
		{"?mode=remove_previous_and_delete", "a", "[]", false},
	} {
		t.Run(test.mode, func(t *testing.T) {
			cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
			id := cloud.Rotations()[0].TokenSecret
			cloud.MustPutVersion(id, "x", nil)
			for _, name := range strings.Fields(test.before) {
				cloud.MustLock(id, "previous", name)
			}
			got := c.want(201, admin, "POST", "/api/v2/secrets/"+id+"/locks_bulk"+test.mode, `{"locks":[{"name":"a"}]}`)
			if got.at("versions", 0, "version_alias") != "current" || fmt.Sprint(got.at("versions", 0, "locks")) != "[a]" {
				t.Errorf("current: got %s, want lock a", got)
			}
			if fmt.Sprint(got.at("versions", 1, "locks")) != test.after || got.at("versions", 1, "payload_available") != test.previousHasData {
				t.Errorf("previous: got %s, want locks %s, payload %t", got, test.after, test.previousHasData)
			}
			previous := c.want(200, admin, "GET", "/api/v2/secrets/"+id+"/versions/previous", "")
			if hasData := previous.at("payload") != nil; hasData != test.previousHasData {
				t.Errorf("previous: got %s, want a payload: %t", previous, test.previousHasData)
			}
		})
	}
}

func TestLockRules(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := cloud.Rotations()[0].TokenSecret
	oldest := cloud.MustCurrent(id).ID
	cloud.MustPutVersion(id, "1", nil)
	cloud.MustPutVersion(id, "2", nil)
	path := "/api/v2/secrets/" + id
	var most strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&most, `,{"name":"lock-%d"}`, i)
	}
	for _, test := range []struct {
		path, body string
		status     int
	}{
		{"/locks_bulk", `{"locks":[]}`, 400},
		{"/locks_bulk", `{}`, 400},
		{"/locks_bulk", `{"locks":[{"name":""}]}`, 400},
		{"/locks_bulk", `{"locks":[{"name":"a","attributes":1}]}`, 400},
		{"/locks_bulk?mode=other", `{"locks":[{"name":"a"}]}`, 400},
		{"/versions/" + oldest + "/locks_bulk", `{"locks":[{"name":"a"}]}`, 400},
		{"/versions/none/locks_bulk", `{"locks":[{"name":"a"}]}`, 404},
		{"/versions/previous/locks_bulk", `{"locks":[{"name":"a"}]}`, 201},
		{"/versions/previous/locks_bulk", `{"locks":[{"name":"a","description":"again"}]}`, 201},
		{"/locks_bulk", `{"locks":[` + most.String()[1:] + `]}`, 400},
		{"/locks_bulk", `{"locks":[` + most.String()[strings.Index(most.String(), `,{"name":"lock-1"}`)+1:] + `]}`, 201},
	} {
		c.check(c.do(admin, "POST", path+test.path, test.body), test.status, fmt.Sprintf("%s %.60s", test.path, test.body))
	}
	if got := c.want(200, admin, "GET", path+"/metadata", ""); got.at("locks_total") != 1000.0 {
		t.Errorf("locks_total: got %v, want 1000", got.at("locks_total"))
	}
	cloud.MustUnlock(id)
	if got := c.want(200, admin, "GET", path+"/locks", ""); got.at("total_count") != 0.0 {
		t.Errorf("after MustUnlock: got %s, want no lock", got)
	}
}

func TestListLocks(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Rotations: 3})
	id := cloud.Rotations()[1].TokenSecret
	for _, name := range []string{"b-job", "a-job", "c-other"} {
		cloud.MustLock(id, "current", name)
	}
	got := c.want(200, admin, "GET", "/api/v2/secrets/"+id+"/locks?sort=-name&search=job&limit=1", "")
	if got.at("total_count") != 2.0 || got.at("locks", 0, "name") != "b-job" || got.at("next", "href") == nil {
		t.Errorf("got %s, want b-job of 2, and a next page", got)
	}
	c.want(400, admin, "GET", "/api/v2/secrets/"+id+"/locks?sort=colour", "")
	all := c.want(200, admin, "GET", "/api/v2/secrets_locks?search=other", "")
	if all.at("total_count") != 1.0 || all.at("secrets_locks", 0, "secret_id") != id {
		t.Errorf("secrets_locks: got %s, want the one locked secret", all)
	}
	if none := c.want(200, admin, "GET", "/api/v2/secrets_locks?groups=default", ""); none.at("total_count") != 0.0 {
		t.Errorf("secrets_locks of another group: got %s, want none", none)
	}
}
