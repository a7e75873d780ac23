package ibmcloudtest_test

import (
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestTokenAnswer(t *testing.T) {
	now := newClock()
	cloud, c := newCloud(t, ibmcloudtest.Options{Now: now.Now, TokenTTL: 15 * time.Minute})
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
	cloud, c := newCloud(t, ibmcloudtest.Options{})
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
		{"other grant type", url.Values{"grant_type": {"other"}}, nil, 400, "BXNIM0106E"},
		{"a grant of IBM's that is not served", url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:assume"}}, nil, 501, "not_implemented"},
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
				t.Errorf("Transaction-Id: got %q, want it in the error's context too: %s", id, got)
			}
		})
	}
	if got := c.send(c.request(http.MethodGet, "/identity/token", "")); got.status != 405 || got.header.Get("Allow") != "POST" || got.body["errorMessage"] == nil {
		t.Errorf("GET: got %d %v %s, want 405, Allow: POST and IAM's error body", got.status, got.header["Allow"], got)
	}
}

func TestTrustedProfile(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	crn := "crn:v1:bluemix:public:iam-identity::a/" + cloud.AccountID() + "::profile:" + cloud.ProfileID()
	tests := []struct {
		name, crToken, by, value string
		status                   int
	}{
		{"by name", "any", "profile_name", "rotator-bootstrap", 200},
		{"by id", "any", "profile_id", cloud.ProfileID(), 200},
		{"by CRN", "any", "profile_crn", crn, 200},
		{"no cr_token", "", "profile_name", "rotator-bootstrap", 400},
		{"other name", "any", "profile_name", "other", 400},
		{"no profile", "any", "scope", "x", 400},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := c.grant(url.Values{"grant_type": {crTokenGrant}, "cr_token": {test.crToken}, test.by: {test.value}})
			if got.status != test.status {
				t.Fatalf("got %d %s, want %d", got.status, got, test.status)
			}
			if test.status != 200 {
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

func TestTokenClaims(t *testing.T) {
	now := newClock()
	cloud, c := newCloud(t, ibmcloudtest.Options{Now: now.Now})
	rotation := cloud.Rotations()[0]
	got := verifiedClaims(t, c, c.token(rotation.APIKey))

	sub := strings.TrimPrefix(rotation.IAMID, "iam-")
	if !regexp.MustCompile(`^ServiceId-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(sub) {
		t.Errorf("sub: got %q, want ServiceId-<uuid>", sub)
	}
	want := map[string]any{
		"iam_id": rotation.IAMID, "id": rotation.IAMID, "realmid": "iam", "identifier": sub, "sub": sub,
		"name": "workload-default", "sub_type": "ServiceId", "iss": "https://iam.cloud.ibm.com/identity",
		"grant_type": apiKeyGrant, "scope": "ibm openid", "client_id": "default", "acr": 1.0,
		"iat": float64(now.now.Unix()), "exp": float64(now.now.Unix() + 3600),
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("claim %s: got %v, want %v", name, got[name], value)
		}
	}
	claims := answer{body: got}
	if bss := claims.at("account", "bss"); bss != cloud.AccountID() || len(cloud.AccountID()) != 32 {
		t.Errorf("claim account.bss: got %v, want the account of 32 digits", bss)
	}
	if id := claims.at("authn", "iam_id"); id != rotation.IAMID {
		t.Errorf("claim authn.iam_id: got %v, want %s", id, rotation.IAMID)
	}
	if _, ok := got["aud"]; ok {
		t.Error("claim aud: got one, want none")
	}
}

// verifiedClaims checks a token's signature with what /identity/keys publishes.
func verifiedClaims(t *testing.T, c client, token string) map[string]any {
	t.Helper()
	keys := c.send(c.request(http.MethodGet, "/identity/keys", ""))
	decode := base64.RawURLEncoding.DecodeString
	n, _ := decode(keys.at("keys", 0, "n").(string))
	e, _ := decode(keys.at("keys", 0, "e").(string))
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	parsed, err := parser.Parse(token, func(*jwt.Token) (any, error) { return public, nil })
	if err != nil || parsed.Header["kid"] != keys.at("keys", 0, "kid") {
		t.Fatalf("got %v, header %v; want the published key's signature and kid", err, parsed.Header)
	}
	return parsed.Claims.(jwt.MapClaims)
}

func TestTokensAreRefused(t *testing.T) {
	now := newClock()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Now: now.Now})
	other := ibmcloudtest.New(ibmcloudtest.Options{Now: now.Now})
	c := inProcess(t, cloud)
	key := cloud.ReaderAPIKey()
	path := "/api/v2/secrets/" + cloud.Rotations()[0].TokenSecret
	good := c.token(key)
	parts := strings.Split(good, ".")
	forged := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."

	for name, test := range map[string]struct {
		token  string
		status int
	}{
		"good":             {good, 200},
		"none":             {"", 401},
		"with Bearer":      {"Bearer " + good, 401},
		"no JWT":           {"opaque", 401},
		"unsigned":         {forged, 401},
		"signature cut":    {good[:len(good)-4], 401},
		"claims of others": {parts[0] + "." + strings.Split(c.token(cloud.AdminAPIKey()), ".")[1] + "." + parts[2], 401},
		"another cloud's":  {inProcess(t, other).token(other.ReaderAPIKey()), 401},
		"expired":          {cloud.MustMintToken(key, -time.Second), 401},
		"ends now":         {cloud.MustMintToken(key, 0), 401},
		"one second left":  {cloud.MustMintToken(key, time.Second), 200},
	} {
		c.check(c.do(test.token, "GET", path, ""), test.status, name)
	}
	now.advance(time.Hour)
	c.want(401, good, "GET", path, "")
}

func TestTokenStaysValidWithoutItsKey(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	key := cloud.Rotations()[0].APIKey
	token := c.token(key)
	cloud.MustDeleteAPIKey(key)
	c.want(200, token, "GET", "/v3/targets", "")
	if got := c.grant(url.Values{"grant_type": {apiKeyGrant}, "apikey": {key}}); got.body["errorCode"] != "BXNIM0415E" {
		t.Errorf("deleted key: got %d %s, want BXNIM0415E", got.status, got)
	}
}

func TestAccountOfAServiceID(t *testing.T) {
	cloud, c := newCloud(t, ibmcloudtest.Options{})
	id := cloud.MustCreateServiceID("stranger", strings.Repeat("0", 32))
	token := c.token(cloud.MustCreateAPIKey(id))
	if got := (answer{body: verifiedClaims(t, c, token)}).at("account", "bss"); got != strings.Repeat("0", 32) {
		t.Errorf("account: got %v, want the one given", got)
	}
	c.want(403, token, "GET", "/v3/targets", "")
}
