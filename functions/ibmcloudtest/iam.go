package ibmcloudtest

import (
	"encoding/base64"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	grantAPIKey  = "urn:ibm:params:oauth:grant-type:apikey"   // #nosec G101 -- the name of a grant
	grantCRToken = "urn:ibm:params:oauth:grant-type:cr-token" // #nosec G101 -- the name of a grant
)

var iamOperations = []operation{
	op(OpIAMToken, serviceIAM, http.MethodPost, "/identity/token", http.StatusOK, (*Cloud).issueToken),
	op(OpIAMKeys, serviceIAM, http.MethodGet, "/identity/keys", http.StatusOK, (*Cloud).listKeys),
}

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
		err = invalidProperty("Property grant_type has an unsupported value.")
	}
	if err != nil {
		return nil, err
	}
	if tenants := in.request.Header.Get("ibm-cloud-tenant"); tenants != "" && !listed(tenants, id.account) {
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
	c.mu.Lock()
	defer c.mu.Unlock()
	key, ok := c.keys[value]
	if !ok || in.now.Before(key.knownFrom) || key.expired(in.now) {
		return nil, fail(c.settings.UnknownKey, "BXNIM0415E", "Provided API key could not be found.")
	}
	return key.owner, nil
}

func (c *Cloud) grantByProfile(in *call) (*identity, error) {
	id, name, crn := in.form.Get("profile_id"), in.form.Get("profile_name"), in.form.Get("profile_crn")
	switch {
	case in.form.Get("cr_token") == "":
		return nil, invalidProperty("Property missing or empty: cr_token.")
	case id == "" && name == "" && crn == "":
		return nil, invalidProperty("Property missing or empty: profile_id, profile_name or profile_crn.")
	}
	profile := c.trustedProfile(id, name, crn)
	if profile == nil {
		return nil, invalidProperty("The trusted profile could not be found.")
	}
	return profile, nil
}

// listed tells whether a comma-separated list names the account.
func listed(list, account string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(item string) bool {
		return strings.TrimSpace(item) == account
	})
}

func tokenResponse(token string, issued time.Time, ttl time.Duration) any {
	seconds := int64(ttl / time.Second)
	return map[string]any{
		"access_token":  token,
		"refresh_token": "not_supported",
		"ims_user_id":   8675309,
		"token_type":    "Bearer",
		"expires_in":    seconds,
		"expiration":    issued.Unix() + seconds,
		"scope":         "ibm openid",
	}
}

// listKeys publishes the key that verifies tokens, as a JSON Web Key.
func (c *Cloud) listKeys(*call) (any, error) {
	public := signingKey().PublicKey
	encode := base64.RawURLEncoding.EncodeToString
	return map[string]any{"keys": []any{map[string]string{
		"kty": "RSA",
		"n":   encode(public.N.Bytes()),
		"e":   encode(big.NewInt(int64(public.E)).Bytes()),
		"alg": "RS256",
		"kid": signingKeyID,
	}}}, nil
}
