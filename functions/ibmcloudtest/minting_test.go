package ibmcloudtest_test

import (
	"net/url"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// exchange exchanges a key and returns the answer's status.
func (c client) exchange(key any) int {
	c.t.Helper()
	text, _ := key.(string)
	return c.grant(url.Values{"grant_type": {apiKeyGrant}, "apikey": {text}}).status
}

func TestIAMCredentialsWithReuse(t *testing.T) {
	now := newClock()
	_, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now})
	path := "/api/v2/secrets/" + c.want(201, admin, "POST", "/api/v2/secrets",
		`{"secret_type":"iam_credentials","name":"minted","ttl":"24h","reuse_api_key":true}`).at("id").(string)
	key := c.want(200, admin, "GET", path, "").at("api_key")
	if status := c.exchange(key); status != 400 {
		t.Errorf("at once: got %d, want 400: IAM takes 2 s to know a new key", status)
	}
	now.advance(2 * time.Second)
	if status := c.exchange(key); status != 200 {
		t.Errorf("after 2 s: got %d, want 200", status)
	}
	if again := c.want(200, admin, "GET", path, "").at("api_key"); again != key {
		t.Error("second read: got another key, want the same")
	}
	c.want(201, admin, "POST", path+"/versions", "{}")
	c.want(201, admin, "POST", path+"/versions", "{}")
	if status := c.exchange(key); status != 400 {
		t.Errorf("two versions later: got %d, want 400: the key is deleted", status)
	}
}

func TestIAMCredentialsWithoutReuse(t *testing.T) {
	now := newClock()
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{Now: now.Now, KeyPropagation: -1})
	owner := cloud.Rotations()[0].IAMID
	id := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: owner})
	path := "/api/v2/secrets/" + id
	first := c.want(200, admin, "GET", path, "")
	if first.at("reuse_api_key") != false || first.at("service_id") != owner[len("iam-"):] {
		t.Errorf("got %s, want reuse_api_key false and the owner's service id", first.raw)
	}
	if status := c.exchange(first.at("api_key")); status != 200 {
		t.Errorf("first key: got %d, want 200", status)
	}
	c.want(200, admin, "GET", path+"/metadata", "")
	if status := c.exchange(first.at("api_key")); status != 200 {
		t.Errorf("after reading metadata: got %d, want 200", status)
	}
	second := c.want(200, admin, "GET", path+"/versions/current", "")
	if status := c.exchange(first.at("api_key")); status != 400 {
		t.Errorf("after the next read: got %d, want 400: it killed the key before", status)
	}
	if status := c.exchange(second.at("api_key")); status != 200 {
		t.Errorf("second key: got %d, want 200", status)
	}
	cloud.MustLock(id, "current", "job")
	c.want(412, admin, "GET", path, "")
}

func TestServiceCredentials(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{KeyPropagation: -1})
	created := c.want(201, admin, "POST", "/api/v2/secrets",
		`{"secret_type":"service_credentials","name":"creds","source_service":{"instance":{"crn":"crn:v1:x"}}}`)
	path := "/api/v2/secrets/" + created.at("id").(string)
	got := c.want(200, admin, "GET", path, "")
	if status := c.exchange(got.at("credentials", "apikey")); status != 200 || got.at("source_service", "instance", "crn") != "crn:v1:x" {
		t.Errorf("got %d %s, want a working key and the source", status, got.raw)
	}
	c.want(204, admin, "DELETE", path, "")
	if status := c.exchange(got.at("credentials", "apikey")); status != 400 {
		t.Errorf("after deletion: got %d, want 400: the key goes with its secret", status)
	}
}

func TestMintingRules(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	for body, want := range map[string]int{
		`{"secret_type":"iam_credentials","name":"m1","reuse_api_key":true}`:                                          400,
		`{"secret_type":"iam_credentials","name":"m2","reuse_api_key":true,"ttl":"59s"}`:                              400,
		`{"secret_type":"iam_credentials","name":"m3","reuse_api_key":true,"ttl":"2161h"}`:                            400,
		`{"secret_type":"iam_credentials","name":"m4","reuse_api_key":true,"ttl":3600}`:                               201,
		`{"secret_type":"iam_credentials","name":"m5","ttl":"60"}`:                                                    201,
		`{"secret_type":"iam_credentials","name":"m6","ttl":"1h","service_id":"ServiceId-none"}`:                      400,
		`{"secret_type":"service_credentials","name":"m7"}`:                                                           400,
		`{"secret_type":"service_credentials","name":"m8","source_service":{}}`:                                       400,
		`{"secret_type":"service_credentials","name":"m9","ttl":"1h","source_service":{"instance":{"crn":"crn:v1"}}}`: 400,
	} {
		if got := c.do(admin, "POST", "/api/v2/secrets", body); got.status != want {
			t.Errorf("%s: got %d %s, want %d", body, got.status, got.raw, want)
		}
	}
}

func TestCreatedSecretsServeTheirIdentities(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
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
