package ibmcloudtest_test

import (
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-token-rotator/functions/ibmcloudtest"
)

// A token has the claims of IAM's tokens, and its signature is that of the published key.
func TestTokenClaims(t *testing.T) {
	s := newStory(newClient(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}))
	rotation, now := s.cloud.Rotations()[0], time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	got := s.exchange(rotation.APIKey, "Transaction-Id", "mine")
	if got.header.Get("Transaction-Id") != "mine" || got.header.Get("Date") != "Sun, 01 Mar 2026 12:00:00 GMT" {
		t.Errorf("got Transaction-Id %q, Date %q", got.header.Get("Transaction-Id"), got.header.Get("Date"))
	}
	token, _ := got.at("access_token").(string)
	keys := s.want(200, "", "GET", "/identity/keys", "")
	n, _ := base64.RawURLEncoding.DecodeString(keys.at("keys", 0, "n").(string))
	e, _ := base64.RawURLEncoding.DecodeString(keys.at("keys", 0, "e").(string))
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	parsed, err := parser.Parse(token, func(*jwt.Token) (any, error) { return public, nil })
	if err != nil || parsed.Header["kid"] != keys.at("keys", 0, "kid") || public.N.BitLen() != 2048 {
		t.Fatalf("got %v, header %v; want the signature and the id of the published key, of 2,048 bits", err, parsed.Header)
	}
	claims := answer{body: map[string]any(parsed.Claims.(jwt.MapClaims))}
	sub := strings.TrimPrefix(rotation.IAMID, "iam-")
	if !regexp.MustCompile(`^ServiceId-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(sub) || len(s.cloud.AccountID()) != 32 {
		t.Errorf("got %q of the account %s, want ServiceId-<uuid> and 32 digits", sub, s.cloud.AccountID())
	}
	want := map[string]any{
		"iam_id": rotation.IAMID, "id": rotation.IAMID, "realmid": "iam", "identifier": sub, "sub": sub, "aud": nil,
		"name": "workload-default", "sub_type": "ServiceId", "iss": "https://iam.cloud.ibm.com/identity",
		"grant_type": apiKeyGrant, "scope": "ibm openid", "client_id": "default", "acr": 1.0,
		"iat": float64(now.Unix()), "exp": float64(now.Unix() + 900),
		"account": map[string]any{"bss": s.cloud.AccountID()}, "authn": map[string]any{"iam_id": rotation.IAMID},
	}
	if !s.fits(want, claims.body) {
		t.Errorf("got %v, want %v", claims.body, want)
	}
	iamID, expires, err := s.cloud.Validate(token)
	if err != nil || iamID != rotation.IAMID || !expires.Equal(now.Add(15*time.Minute)) {
		t.Errorf("Validate: got %s, %s, %v; want %s and 15 minutes", iamID, expires, err, rotation.IAMID)
	}
}

func TestTokensAreRefused(t *testing.T) {
	c, other := newClient(t, ibmcloudtest.Options{}), newClient(t, ibmcloudtest.Options{})
	key := c.cloud.ReaderAPIKey()
	path := "/api/v2/secrets/" + c.cloud.Rotations()[0].TokenSecret
	good := c.token(key)
	parts := strings.Split(good, ".")
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	for name, test := range map[string]struct {
		token  string
		status int
	}{
		"good":             {good, 200},
		"none":             {"", 401},
		"with Bearer":      {"Bearer " + good, 401},
		"no JWT":           {"opaque", 401},
		"unsigned":         {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", 401},
		"signature cut":    {good[:len(good)-4], 401},
		"claims of others": {parts[0] + "." + strings.Split(c.token(c.cloud.AdminAPIKey()), ".")[1] + "." + parts[2], 401},
		"another cloud's":  {other.token(other.cloud.ReaderAPIKey()), 401},
		"another header":   {c.cloud.MustSign(`{"alg":"RS256"}`, string(claims)), 401},
		"no claims":        {c.cloud.MustSign("", `[]`), 401},
		"expired":          {c.cloud.MustMintToken(key, -time.Second), 401},
		"ends now":         {c.cloud.MustMintToken(key, 0), 401},
		"one second left":  {c.cloud.MustMintToken(key, time.Second), 200},
	} {
		if got := c.do(test.token, "GET", path, ""); got.status != test.status {
			t.Errorf("%s: got %d, want %d", name, got.status, test.status)
		}
	}
	c.cloud.Advance(time.Hour)
	c.want(401, good, "GET", path, "")
	if id, expires, err := c.cloud.Validate(good); err == nil || id != c.cloud.ReaderIAMID() || expires.IsZero() {
		t.Errorf("Validate of an expired token: got %s, %s, %v; want whose it is, too", id, expires, err)
	}
}
