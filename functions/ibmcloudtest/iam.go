package ibmcloudtest

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	grantAPIKey  = "urn:ibm:params:oauth:grant-type:apikey"   // #nosec G101 -- the name of a grant
	grantCRToken = "urn:ibm:params:oauth:grant-type:cr-token" // #nosec G101 -- the name of a grant
)

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

const codeInvalid = "BXNIM0106E"

// invalidProperty is IAM's answer to a request that lacks something.
func invalidProperty(message string) *apiError {
	return fail(http.StatusBadRequest, codeInvalid, message)
}

// issueToken exchanges an API key or a compute resource token for an access token.
func (c *Cloud) issueToken(in *call) (any, error) {
	if in.wantMedia(mediaForm) != nil {
		return nil, fail(http.StatusUnsupportedMediaType, codeInvalid, "The content type must be "+mediaForm+".")
	}
	grantType := in.form.Get("grant_type")
	switch err := c.checkGrant(in, grantType); {
	case err != nil:
		return nil, err
	case slices.Contains(otherGrants, grantType):
		return nil, doesNotServe("the grant type " + grantType)
	}
	tenants := in.request.Header.Get("ibm-cloud-tenant")
	if tenants != "" && !slices.Contains(strings.Fields(strings.ReplaceAll(tenants, ",", " ")), in.caller.account) {
		return nil, invalidProperty("The API key or profile belongs to none of the accounts in ibm-cloud-tenant.")
	}
	c.mu.Lock()
	ttl := c.settings.tokenTTL
	c.mu.Unlock()
	seconds := int64(ttl / time.Second)
	return object{
		"access_token": signToken(in.caller, grantType, in.now, ttl), "token_type": "Bearer", "expires_in": seconds, "expiration": in.now.Unix() + seconds,
		"refresh_token": "not_supported", "ims_user_id": 8675309, "scope": "ibm openid",
	}, nil
}

// checkGrant refuses a request that bears no key or profile, or none that gives a token now.
func (c *Cloud) checkGrant(in *call, grantType string) error {
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return in.form.Get(name) != "" })
	}
	switch {
	case grantType == "":
		return invalidProperty("Property missing or empty: grant_type.")
	case grantType == grantAPIKey && !has("apikey"):
		return invalidProperty("Property missing or empty: apikey.")
	case grantType == grantAPIKey:
		return c.checkKey(in)
	case grantType == grantCRToken && !has("cr_token"):
		return invalidProperty("Property missing or empty: cr_token.")
	case grantType == grantCRToken && !has("profile_id", "profile_name", "profile_crn"):
		return invalidProperty("Property missing or empty: profile_id, profile_name or profile_crn.")
	case grantType == grantCRToken && in.caller == nil:
		return invalidProperty("The trusted profile could not be found.")
	case grantType != grantCRToken && !slices.Contains(otherGrants, grantType):
		return invalidProperty("Property grant_type has an unsupported value.")
	}
	return nil
}

// checkKey refuses a key that IAM does not know, not yet or not any more, or that is disabled.
func (c *Cloud) checkKey(in *call) error {
	defer c.lock()()
	c.play(in.now)
	key, ok := c.keys[in.form.Get("apikey")]
	if !ok || key.isUnknown(in.now) {
		e := published("key_unknown")
		e.status = c.settings.UnknownKey
		return e
	}
	if key.disabled {
		return published("key_disabled")
	}
	return nil
}

// listKeys publishes the key that verifies tokens, as a JSON Web Key.
func (c *Cloud) listKeys(*call) (any, error) {
	public := signingKey().PublicKey
	return object{"keys": []object{{
		"kty": "RSA", "alg": "RS256", "kid": signingKeyID, "n": encode64(public.N.Bytes()), "e": encode64(big.NewInt(int64(public.E)).Bytes()),
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

// newServiceID registers a service id. The caller holds c.mu.
func (c *Cloud) newServiceID(class, name, account string, policies ...policy) *identity {
	id := &identity{class: class, iamID: "iam-ServiceId-" + uuid.NewString(), name: name, account: account, policies: policies, createdAt: c.now()}
	c.identities[id.iamID] = id
	return id
}

// newKey registers an API key that IAM accepts from the given time on. The caller holds c.mu.
func (c *Cloud) newKey(owner *identity, name string, knownFrom time.Time) *apiKey {
	secret := make([]byte, 33)
	rand.Read(secret)
	k := &apiKey{made: c.newMade("", knownFrom), id: "ApiKey-" + uuid.NewString(), value: encode64(secret), owner: owner, name: name,
		knownFrom: knownFrom, modifiedAt: knownFrom, version: 1}
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
	own := c.profile.crn("profile")
	if id+name+crn == "" || id != "" && id != c.profile.subject() || name != "" && name != c.profile.name || crn != "" && crn != own {
		return nil
	}
	return c.profile
}

// crn is that of the identity, as a thing of a kind.
func (id *identity) crn(kind string) string { return identityCRN(id.account, kind, id.subject()) }

func identityCRN(account, kind, id string) string {
	return "crn:v1:bluemix:public:iam-identity::a/" + account + "::" + kind + ":" + id
}
