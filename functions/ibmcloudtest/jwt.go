package ibmcloudtest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	signingKeyID = "20260101-0000"
	issuer       = "https://iam.cloud.ibm.com/identity"
)

// signingKey is IAM's key pair, one for all clouds of the process: making one takes a while.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic("ibmcloudtest: making IAM's signing key: " + err.Error())
	}
	return key
})

// claims are those of an IAM access token that are read back; the others are written only.
type claims struct {
	IAMID     string `json:"iam_id"`
	Issuer    string `json:"iss"`
	ExpiresAt int64  `json:"exp"` // epoch seconds
}

// signToken returns a JWT for the identity, issued at the given time and valid for ttl.
func signToken(id *identity, grantType string, issued time.Time, ttl time.Duration) string {
	body, err := json.Marshal(map[string]any{
		"iam_id":     id.iamID,
		"id":         id.iamID,
		"realmid":    "iam",
		"jti":        newUUID(),
		"identifier": id.subject(),
		"sub":        id.subject(),
		"name":       id.name,
		"sub_type":   id.subType(),
		"authn":      map[string]string{"sub": id.subject(), "iam_id": id.iamID, "sub_type": id.subType(), "name": id.name},
		"account":    map[string]any{"valid": true, "bss": id.account, "frozen": true},
		"iat":        issued.Unix(),
		"exp":        issued.Unix() + int64(ttl/time.Second),
		"iss":        issuer,
		"grant_type": grantType,
		"scope":      "ibm openid",
		"client_id":  "default",
		"acr":        1,
		"amr":        []string{"pwd"},
	})
	if err != nil {
		panic("ibmcloudtest: encoding claims: " + err.Error())
	}
	signed := tokenHeader + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, signingKey(), crypto.SHA256, digest[:])
	if err != nil {
		panic("ibmcloudtest: signing a token: " + err.Error())
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

var tokenHeader = base64.RawURLEncoding.EncodeToString([]byte(`{"kid":"` + signingKeyID + `","alg":"RS256"}`))

var errBadToken = errors.New("the token was not issued by this IAM")

// verifyToken checks the token's header and signature and returns its claims. It does not look at
// the time.
func verifyToken(token string) (claims, error) {
	signed, signature, found := cutLast(token, ".")
	header, body, ok := strings.Cut(signed, ".")
	if !found || !ok || header != tokenHeader {
		return claims{}, errBadToken
	}
	sig, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if err != nil {
		return claims{}, errBadToken
	}
	digest := sha256.Sum256([]byte(signed))
	if err := rsa.VerifyPKCS1v15(&signingKey().PublicKey, crypto.SHA256, digest[:], sig); err != nil {
		return claims{}, errBadToken
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return claims{}, errBadToken
	}
	var c claims
	if err := json.Unmarshal(raw, &c); err != nil || c.Issuer != issuer {
		return claims{}, errBadToken
	}
	return c, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Validate tells whose token it is and when it expires. An error means that it was issued by
// another IAM, or that it has expired; in the latter case the other results are set.
func (c *Cloud) Validate(token string) (iamID string, expires time.Time, err error) {
	id, exp, err := c.bearer(token)
	if id == nil {
		return "", time.Time{}, err
	}
	return id.iamID, exp, err
}

// bearer returns the identity behind a token and its expiry. For an expired token both are set
// beside the error.
func (c *Cloud) bearer(token string) (*identity, time.Time, error) {
	verified, err := c.verified.verify(token)
	if err != nil {
		return nil, time.Time{}, err
	}
	c.mu.Lock()
	id := c.identities[verified.IAMID]
	c.mu.Unlock()
	if id == nil {
		return nil, time.Time{}, errBadToken // another cloud of this process issued it
	}
	expires := time.Unix(verified.ExpiresAt, 0)
	if !c.now().Before(expires) {
		return id, expires, fmt.Errorf("the token expired at %s", expires.UTC().Format(time.RFC3339))
	}
	return id, expires, nil
}
