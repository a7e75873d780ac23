package ibmcloudtest_test

import (
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// newAdmin returns a cloud, a client and an admin's token.
func newAdmin(t *testing.T, o ibmcloudtest.Options) (*ibmcloudtest.Cloud, client, string) {
	t.Helper()
	cloud := ibmcloudtest.New(o)
	c := inProcess(t, cloud)
	return cloud, c, c.token(cloud.AdminAPIKey())
}

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
			t.Errorf("%s: got %s, want its metadata and labels", path, got.raw)
		}
	}
	metadata := c.want(200, admin, "GET", "/api/v2/secrets/"+id+"/metadata", "")
	if _, ok := metadata.body["payload"]; ok || metadata.at("name") != "my-secret" {
		t.Errorf("metadata: got %s, want no payload", metadata.raw)
	}
}

func TestSeededTokenSecret(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	got := c.want(200, admin, "GET", "/api/v2/secrets/"+cloud.Rotations()[0].TokenSecret+"/versions/current", "")
	if _, ok := got.body["version_custom_metadata"]; ok || got.at("payload") != "no token yet" || got.at("alias") != "current" {
		t.Errorf("got %s, want \"no token yet\" without metadata", got.raw)
	}
}

func TestPatchMetadata(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"old","payload":"x","custom_metadata":{"a":1}}`).at("id").(string)
	c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"taken","payload":"x"}`)
	path := "/api/v2/secrets/" + id + "/metadata"
	for body, want := range map[string]int{`{"name":"taken"}`: 409, `{"name":"-"}`: 400, `{"payload":"x"}`: 400, `{"labels":["a"]}`: 400} {
		if got := c.do(admin, "PATCH", path, body); got.status != want {
			t.Errorf("%s: got %d %s, want %d", body, got.status, got.raw, want)
		}
	}
	got := c.want(200, admin, "PATCH", path, `{"name":"new","labels":["xx"],"custom_metadata":{"b":2}}`)
	if got.at("name") != "new" || got.at("custom_metadata", "a") != nil || got.at("custom_metadata", "b") != 2.0 || got.at("labels", 0) != "xx" {
		t.Errorf("got %s, want the new name, labels and metadata, replaced whole", got.raw)
	}
	c.want(404, admin, "GET", "/api/v2/secret_groups/default/secret_types/arbitrary/secrets/old", "")
	c.want(200, admin, "GET", "/api/v2/secret_groups/default/secret_types/arbitrary/secrets/new", "")
	plain := c.request("PATCH", path, "{}", "Authorization", "Bearer "+admin, "Content-Type", "application/json")
	if got := c.send(plain); got.status != 415 {
		t.Errorf("PATCH as application/json: got %d, want 415", got.status)
	}
}

func TestExpiredSecretIsDestroyed(t *testing.T) {
	now := newClock()
	_, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now})
	path := "/api/v2/secrets/" + c.want(201, admin, "POST", "/api/v2/secrets",
		`{"secret_type":"arbitrary","name":"brief","payload":"x","expiration_date":"2026-03-01T12:10:00Z"}`).at("id").(string)
	now.advance(10*time.Minute - 1)
	c.want(201, admin, "POST", path+"/versions", `{"payload":"y"}`)
	if got := c.want(200, admin, "GET", path, ""); got.at("payload") != "y" || got.at("state") != 1.0 {
		t.Fatalf("before: got %s, want an active secret", got.raw)
	}
	now.advance(1)
	got := c.want(200, admin, "GET", path, "")
	if _, ok := got.body["payload"]; ok || got.at("state") != 5.0 || got.at("state_description") != "destroyed" {
		t.Errorf("after: got %s, want state 5 and no payload", got.raw)
	}
	if got := c.want(200, admin, "GET", path+"/versions/current/metadata", ""); got.at("payload_available") != false {
		t.Errorf("after: got %s, want payload_available false", got.raw)
	}
	c.want(400, admin, "POST", path+"/versions", `{"payload":"z"}`)
	c.want(400, admin, "PATCH", path+"/metadata", `{"expiration_date":"2030-01-01T00:00:00Z"}`)
}

func TestDeleteSecretFreesItsName(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	body := `{"secret_type":"arbitrary","name":"again","payload":"x"}`
	path := "/api/v2/secrets/" + c.want(201, admin, "POST", "/api/v2/secrets", body).at("id").(string)
	if got := c.want(204, admin, "DELETE", path, ""); got.raw != "" {
		t.Errorf("body: got %q, want none", got.raw)
	}
	c.want(404, admin, "GET", path, "")
	c.want(201, admin, "POST", "/api/v2/secrets", body)
}
