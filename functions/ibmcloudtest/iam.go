package ibmcloudtest

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	grantAPIKey  = "urn:ibm:params:oauth:grant-type:apikey"   // #nosec G101 -- the name of a grant
	grantCRToken = "urn:ibm:params:oauth:grant-type:cr-token" // #nosec G101 -- the name of a grant
)

var iamOperations = []operation{
	op(OpIAMToken, serviceIAM, "POST /identity/token", http.StatusOK, (*Cloud).issueToken),
	op(OpIAMKeys, serviceIAM, "GET /identity/keys", http.StatusOK, (*Cloud).listKeys),
	op("iam.openid", serviceIAM, "GET /identity/.well-known/openid-configuration", http.StatusOK, (*Cloud).openIDConfiguration),
}

// otherGrants are those of IAM that this cloud does not serve.
var otherGrants = []string{"refresh_token", "password", "client_credentials", "authorization_code",
	"urn:ibm:params:oauth:grant-type:assume", "urn:ibm:params:oauth:grant-type:passcode", "urn:ibm:params:oauth:grant-type:iam-authz",
	"urn:ibm:params:oauth:grant-type:delegated-refresh-token", "urn:ibm:params:oauth:grant-type:derive"}

// grantee is whose key or profile a token request bears, nil if unknown. It checks nothing else.
func (c *Cloud) grantee(form url.Values) *identity {
	switch form.Get("grant_type") {
	case grantAPIKey:
		return c.keyOwner(form.Get("apikey"))
	case grantCRToken:
		return c.trustedProfile(form.Get("profile_id"), form.Get("profile_name"), form.Get("profile_crn"))
	}
	return nil
}

// invalidProperty is IAM's answer to a request that lacks something.
func invalidProperty(message string) *apiError {
	return fail(http.StatusBadRequest, "BXNIM0106E", message)
}

// issueToken exchanges an API key or a compute resource token for an access token.
func (c *Cloud) issueToken(in *call) (any, error) {
	if in.mediaType() != "application/x-www-form-urlencoded" {
		return nil, fail(http.StatusUnsupportedMediaType, "BXNIM0106E", "The content type must be application/x-www-form-urlencoded.")
	}
	if in.tooLarge {
		return nil, invalidProperty("The body is too large.")
	}
	var id *identity
	var err error
	grantType := in.form.Get("grant_type")
	switch grantType {
	case grantAPIKey:
		id, err = c.grantByAPIKey(in)
	case grantCRToken:
		id, err = c.grantByProfile(in)
	case "":
		err = invalidProperty("Property missing or empty: grant_type.")
	default:
		if err = invalidProperty("Property grant_type has an unsupported value."); slices.Contains(otherGrants, grantType) {
			err = doesNotServe("the grant type " + grantType)
		}
	}
	if err != nil {
		return nil, err
	}
	tenants := in.request.Header.Get("ibm-cloud-tenant")
	if tenants != "" && !slices.Contains(strings.Fields(strings.ReplaceAll(tenants, ",", " ")), id.account) {
		return nil, invalidProperty("The API key or profile belongs to none of the accounts in ibm-cloud-tenant.")
	}
	c.mu.Lock()
	ttl := c.settings.tokenTTL
	c.mu.Unlock()
	return tokenResponse(signToken(id, grantType, in.now, ttl), in.now, ttl), nil
}

func (c *Cloud) grantByAPIKey(in *call) (*identity, error) {
	value := in.form.Get("apikey")
	if value == "" {
		return nil, invalidProperty("Property missing or empty: apikey.")
	}
	defer c.lock()()
	c.play(in.now)
	key, ok := c.keys[value]
	if !ok || key.isUnknown(in.now) {
		return nil, fail(c.settings.UnknownKey, "BXNIM0415E", "Provided API key could not be found.")
	}
	if key.disabled {
		return nil, fail(http.StatusBadRequest, "BXNIM0462E", "Provided API key is disabled.")
	}
	return key.owner, nil
}

func (c *Cloud) grantByProfile(in *call) (*identity, error) {
	switch {
	case in.form.Get("cr_token") == "":
		return nil, invalidProperty("Property missing or empty: cr_token.")
	case in.form.Get("profile_id")+in.form.Get("profile_name")+in.form.Get("profile_crn") == "":
		return nil, invalidProperty("Property missing or empty: profile_id, profile_name or profile_crn.")
	case in.caller == nil:
		return nil, invalidProperty("The trusted profile could not be found.")
	}
	return in.caller, nil
}

func tokenResponse(token string, issued time.Time, ttl time.Duration) any {
	seconds := int64(ttl / time.Second)
	return object{
		"access_token": token, "token_type": "Bearer", "expires_in": seconds, "expiration": issued.Unix() + seconds,
		"refresh_token": "not_supported", "ims_user_id": 8675309, "scope": "ibm openid",
	}
}

// listKeys publishes the key that verifies tokens, as a JSON Web Key.
func (c *Cloud) listKeys(*call) (any, error) {
	public := signingKey().PublicKey
	encode := base64.RawURLEncoding.EncodeToString
	return object{"keys": []object{{
		"kty": "RSA", "alg": "RS256", "kid": signingKeyID,
		"n": encode(public.N.Bytes()), "e": encode(big.NewInt(int64(public.E)).Bytes()),
	}}}, nil
}

// openIDConfiguration names IAM's endpoints, for OpenID Connect clients that verify a token.
func (c *Cloud) openIDConfiguration(in *call) (any, error) {
	origin := strings.TrimSuffix(in.href(nil), "/.well-known/openid-configuration")
	return object{
		"issuer": issuer, "authorization_endpoint": origin + "/authorize", "token_endpoint": origin + "/token", "jwks_uri": origin + "/keys",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
	}, nil
}

const (
	signingKeyID = "20260101-0000"
	issuer       = "https://iam.cloud.ibm.com/identity"
)

// claims are those of an IAM access token that are read back; the others are written only.
type claims struct {
	IAMID     string `json:"iam_id"`
	Issuer    string `json:"iss"`
	ExpiresAt int64  `json:"exp"` // epoch seconds
}

// signToken returns a JWT for the identity, issued at the given time and valid for ttl.
func signToken(id *identity, grantType string, issued time.Time, ttl time.Duration) string {
	return sign(tokenHeader, mustJSON(object{
		"iam_id": id.iamID, "id": id.iamID, "realmid": "iam", "jti": uuid.NewString(),
		"identifier": id.subject(), "sub": id.subject(), "sub_type": id.subType(), "name": id.name,
		"authn":   object{"sub": id.subject(), "iam_id": id.iamID, "sub_type": id.subType(), "name": id.name},
		"account": object{"valid": true, "bss": id.account, "frozen": true},
		"iat":     issued.Unix(), "exp": issued.Unix() + int64(ttl/time.Second), "iss": issuer,
		"grant_type": grantType, "scope": "ibm openid", "client_id": "default", "acr": 1, "amr": []string{"pwd"},
	}))
}

// sign makes a JWT of an encoded header and a body.
func sign(header string, body []byte) string {
	signed := header + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(signingKey().sign(digest[:]))
}

var tokenHeader = base64.RawURLEncoding.EncodeToString([]byte(`{"kid":"` + signingKeyID + `","alg":"RS256"}`))

var errBadToken = errors.New("the token was not issued by this IAM")

// verifyToken checks the token's header and signature and returns its claims. It does not check
// the time.
func verifyToken(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] != tokenHeader {
		return claims{}, errBadToken
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || rsa.VerifyPKCS1v15(&signingKey().PublicKey, crypto.SHA256, digest[:], signature) != nil {
		return claims{}, errBadToken
	}
	var c claims
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &c) != nil || c.Issuer != issuer {
		return claims{}, errBadToken
	}
	return c, nil
}

// Validate returns whose token it is and when it expires. An error means that it was issued by
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

// The identities that a [Fault] and a [Request] name.
const (
	IdentityBootstrap = "bootstrap" // reads API keys, adds token versions; also the trusted profile
	IdentityWorkload  = "workload"  // the service ids whose tokens are saved; may call Logs Routing
	IdentityReader    = "reader"    // reads the secrets of the token group
	IdentityAdmin     = "admin"     // Manager on the Secrets Manager instance
)

var identityNames = []string{IdentityBootstrap, IdentityWorkload, IdentityReader, IdentityAdmin}

// ProfileName names the trusted profile that accepts any compute resource token and holds the
// bootstrap identity's permissions.
const ProfileName = "rotator-bootstrap"

// An identity is a service id or a trusted profile. It does not change once made.
type identity struct {
	class    string // one of identityNames, or "" for a service id without any role here
	iamID    string // "iam-ServiceId-<uuid>" or "iam-Profile-<uuid>"
	name     string
	account  string
	policies []policy

	createdAt time.Time
}

// subject is the iam id without its realm: "ServiceId-<uuid>" or "Profile-<uuid>".
func (id *identity) subject() string { return strings.TrimPrefix(id.iamID, "iam-") }

// subType is the kind of subject: "ServiceId" or "Profile".
func (id *identity) subType() string {
	kind, _, _ := strings.Cut(id.subject(), "-")
	return kind
}

// An apiKey belongs to an identity. A deleted key is no longer in Cloud.keys.
type apiKey struct {
	id        string // "ApiKey-<uuid>"
	value     string
	owner     *identity
	knownFrom time.Time // when IAM begins to accept it
	keyDetails
}

// newServiceID registers a service id. The caller holds c.mu.
func (c *Cloud) newServiceID(class, name, account string, policies ...policy) *identity {
	id := &identity{class: class, iamID: "iam-ServiceId-" + uuid.NewString(), name: name, account: account, policies: policies, createdAt: c.now()}
	c.identities[id.iamID] = id
	return id
}

// newKey registers an API key that IAM accepts from the given time on. The caller holds c.mu.
func (c *Cloud) newKey(owner *identity, knownFrom time.Time) *apiKey {
	c.sequence++
	k := &apiKey{id: "ApiKey-" + uuid.NewString(), value: newAPIKey(), owner: owner, knownFrom: knownFrom}
	k.keyDetails = keyDetails{name: owner.name, createdAt: knownFrom, modifiedAt: knownFrom, version: 1, sequence: c.sequence}
	c.keys[k.value] = k
	return k
}

// keyOwner returns whose key it is, or nil.
func (c *Cloud) keyOwner(key string) *identity {
	defer c.lock()()
	if k, ok := c.keys[key]; ok {
		return k.owner
	}
	return nil
}

// trustedProfile returns the profile that any of id, name and CRN names, or nil. Fields that are
// empty are not compared; those given must agree.
func (c *Cloud) trustedProfile(id, name, crn string) *identity {
	own := "crn:v1:bluemix:public:iam-identity::a/" + c.account + "::profile:" + c.profile.subject()
	if id+name+crn == "" || id != "" && id != c.profile.subject() || name != "" && name != c.profile.name || crn != "" && crn != own {
		return nil
	}
	return c.profile
}

// tokenCacheSize bounds the cache; beyond it the cache is cleared.
const tokenCacheSize = 20_000

// tokenCache remembers the claims of tokens whose signature was good: checking an RSA signature on
// every request would be most of a long simulation's time.
type tokenCache struct {
	mu     sync.Mutex
	claims map[string]claims
}

// verify is verifyToken, remembered.
func (t *tokenCache) verify(token string) (claims, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known, ok := t.claims[token]; ok {
		return known, nil
	}
	verified, err := verifyToken(token)
	if err != nil {
		return claims{}, err
	}
	if t.claims == nil || len(t.claims) >= tokenCacheSize {
		t.claims = make(map[string]claims)
	}
	t.claims[token] = verified
	return verified, nil
}
