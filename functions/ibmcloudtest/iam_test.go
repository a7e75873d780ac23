package ibmcloudtest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestTokenAnswer(t *testing.T) {
	now := newClock()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Now: now.Now, TokenTTL: 15 * time.Minute})
	c := inProcess(t, cloud)
	rotation := cloud.Rotations()[0]
	got := c.grant(url.Values{"grant_type": {apiKeyGrant}, "apikey": {rotation.APIKey}, "response_type": {"cloud_iam"}}, "Transaction-Id", "mine")

	for field, want := range map[string]any{
		"refresh_token": "not_supported", "token_type": "Bearer", "scope": "ibm openid",
		"expires_in": 900.0, "expiration": float64(now.now.Unix() + 900),
	} {
		if got.body[field] != want {
			t.Errorf("%s: got %v, want %v", field, got.body[field], want)
		}
	}
	if id := got.header.Get("Transaction-Id"); id != "mine" {
		t.Errorf("Transaction-Id: got %q, want the request's", id)
	}
	if date, want := got.header.Get("Date"), "Sun, 01 Mar 2026 12:00:00 GMT"; date != want {
		t.Errorf("Date: got %q, want %q", date, want)
	}
	iamID, expires, err := cloud.Validate(got.at("access_token").(string))
	if err != nil || iamID != rotation.IAMID || !expires.Equal(now.now.Add(15*time.Minute)) {
		t.Errorf("Validate: got %s, %s, %v; want %s and 15 minutes", iamID, expires, err, rotation.IAMID)
	}
}

func TestTokenRequestChecks(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	good := url.Values{"grant_type": {apiKeyGrant}, "apikey": {cloud.BootstrapAPIKey()}}
	tests := []struct {
		name   string
		form   url.Values
		header []string
		status int
		code   any
	}{
		{"good", good, nil, 200, nil},
		{"good with charset", good, []string{"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"}, 200, nil},
		{"no grant type", url.Values{"apikey": good["apikey"]}, nil, 400, "BXNIM0106E"},
		{"other grant type", url.Values{"grant_type": {"password"}}, nil, 400, "BXNIM0106E"},
		{"no key", url.Values{"grant_type": {apiKeyGrant}}, nil, 400, "BXNIM0106E"},
		{"unknown key", url.Values{"grant_type": {apiKeyGrant}, "apikey": {"nobody's"}}, nil, 400, "BXNIM0415E"},
		{"key with newline", url.Values{"grant_type": {apiKeyGrant}, "apikey": {cloud.BootstrapAPIKey() + "\n"}}, nil, 400, "BXNIM0415E"},
		{"JSON", good, []string{"Content-Type", "application/json"}, 415, "BXNIM0106E"},
		{"its tenant", good, []string{"ibm-cloud-tenant", "other, " + cloud.AccountID()}, 200, nil},
		{"other tenant", good, []string{"ibm-cloud-tenant", "other"}, 400, "BXNIM0106E"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := c.grant(test.form, test.header...)
			if got.status != test.status || got.body["errorCode"] != test.code {
				t.Errorf("got %d %v, want %d %v", got.status, got.body["errorCode"], test.status, test.code)
			}
			id := got.header.Get("Transaction-Id")
			if id == "" || got.status != 200 && got.at("context", "requestId") != id {
				t.Errorf("Transaction-Id: got %q, want it in the error's context too: %s", id, got.raw)
			}
		})
	}
	if got := c.send(c.request(http.MethodGet, "/identity/token", "")); got.status != 405 || got.header.Get("Allow") != "POST" || got.body["errorMessage"] == nil {
		t.Errorf("GET: got %d %v %s, want 405, Allow: POST and IAM's error body", got.status, got.header["Allow"], got.raw)
	}
}

func TestTrustedProfile(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	crn := "crn:v1:bluemix:public:iam-identity::a/" + cloud.AccountID() + "::profile:" + cloud.ProfileID()
	tests := []struct {
		name          string
		crToken, by   string
		value         string
		status        int
		wantsIdentity bool
	}{
		{"by name", "any", "profile_name", "rotator-bootstrap", 200, true},
		{"by id", "any", "profile_id", cloud.ProfileID(), 200, true},
		{"by CRN", "any", "profile_crn", crn, 200, true},
		{"no cr_token", "", "profile_name", "rotator-bootstrap", 400, false},
		{"other name", "any", "profile_name", "other", 400, false},
		{"no profile", "any", "scope", "x", 400, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := c.grant(url.Values{"grant_type": {crTokenGrant}, "cr_token": {test.crToken}, test.by: {test.value}})
			if got.status != test.status {
				t.Fatalf("got %d %s, want %d", got.status, got.raw, test.status)
			}
			if !test.wantsIdentity {
				return
			}
			iamID, _, err := cloud.Validate(got.at("access_token").(string))
			if err != nil || iamID != "iam-"+cloud.ProfileID() || !strings.HasPrefix(iamID, "iam-Profile-") {
				t.Errorf("got %s, %v; want the profile's iam id", iamID, err)
			}
			c.want(200, got.at("access_token").(string), "GET", "/api/v2/secrets/"+cloud.Rotations()[0].APIKeySecret, "")
		})
	}
}
