package ibmcloudtest_test

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

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
		t.Run(name, func(t *testing.T) {
			if got := c.do(test.token, "GET", path, ""); got.status != test.status {
				t.Errorf("got %d %s, want %d", got.status, got.raw, test.status)
			}
		})
	}
	now.advance(time.Hour)
	c.want(401, good, "GET", path, "")
}

func TestTokenOutlivesItsKey(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	key := cloud.Rotations()[0].APIKey
	token := c.token(key)
	cloud.MustDeleteAPIKey(key)
	c.want(200, token, "GET", "/v3/targets", "")
	if got := c.grant(url.Values{"grant_type": {apiKeyGrant}, "apikey": {key}}); got.body["errorCode"] != "BXNIM0415E" {
		t.Errorf("deleted key: got %d %s, want BXNIM0415E", got.status, got.raw)
	}
}

func TestAccountOfAServiceID(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	id := cloud.MustCreateServiceID("stranger", strings.Repeat("0", 32))
	token := c.token(cloud.MustCreateAPIKey(id))
	if got := (answer{body: verifiedClaims(t, c, token)}).at("account", "bss"); got != strings.Repeat("0", 32) {
		t.Errorf("account: got %v, want the one given", got)
	}
	c.want(403, token, "GET", "/v3/targets", "")
}
