package ibmcloudtest_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestTokenClaims(t *testing.T) {
	now := newClock()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Now: now.Now})
	c := inProcess(t, cloud)
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
	part := strings.Split(token, ".")
	if len(part) != 3 {
		t.Fatalf("token: got %d parts, want 3", len(part))
	}
	signature, _ := decode(part[2])
	digest := sha256.Sum256([]byte(part[0] + "." + part[1]))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
		t.Fatalf("signature: %v", err)
	}
	var header, claims map[string]any
	for i, into := range []*map[string]any{&header, &claims} {
		raw, _ := decode(part[i])
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}
	if header["alg"] != "RS256" || header["kid"] != keys.at("keys", 0, "kid") {
		t.Errorf("header: got %v, want RS256 and the published kid", header)
	}
	return claims
}
