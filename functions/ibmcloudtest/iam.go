package ibmcloudtest

import (
	"cmp"
	"crypto"
	"crypto/rand"
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

// otherGrants are the grant types of IAM that this cloud does not serve.
var otherGrants = []string{"refresh_token", "password", "client_credentials", "authorization_code",
	"urn:ibm:params:oauth:grant-type:assume", "urn:ibm:params:oauth:grant-type:passcode", "urn:ibm:params:oauth:grant-type:iam-authz",
	"urn:ibm:params:oauth:grant-type:delegated-refresh-token", "urn:ibm:params:oauth:grant-type:derive"}

// grantee returns the identity whose key or profile a token request contains, nil if unknown. It checks
// nothing else.
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

// invalidProperty is IAM's answer to a request with a missing or invalid property.
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
	ttl, seconds := c.settings.tokenTTL(), c.settings.TokenTTL
	c.mu.Unlock()
	return object{
		"access_token": signToken(in.caller, grantType, in.now, ttl), "token_type": "Bearer",
		"expires_in": seconds, "expiration": in.now.Unix() + seconds, "refresh_token": "not_supported", "ims_user_id": 8675309, "scope": "ibm openid",
	}, nil
}

// checkGrant rejects a request without a key or profile, or with one for which IAM issues no token now.
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

// checkKey rejects a key that IAM does not know yet, does not know any more, or has disabled.
func (c *Cloud) checkKey(in *call) error {
	defer c.lock()()
	c.catchUp(in.now)
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

// listKeys publishes the key that verifies tokens, as a JSON Web Key Set.
func (c *Cloud) listKeys(*call) any {
	public := signingKey().PublicKey
	return object{"keys": []object{{
		"kty": "RSA", "alg": "RS256", "kid": signingKeyID, "n": encode64(public.N.Bytes()), "e": encode64(big.NewInt(int64(public.E)).Bytes()),
	}}}
}

// openIDConfiguration names IAM's endpoints, for OpenID Connect clients that verify a token.
func (c *Cloud) openIDConfiguration(in *call) any {
	origin := strings.TrimSuffix(in.href(nil), "/.well-known/openid-configuration")
	return object{
		"issuer": issuer, "authorization_endpoint": origin + "/authorize", "token_endpoint": origin + "/token", "jwks_uri": origin + "/keys",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	}
}

// Validate returns whose token it is and when it expires. It returns an error if another IAM issued the
// token, or if it has expired; an expired token's other results are set.
func (c *Cloud) Validate(token string) (iamID string, expires time.Time, err error) {
	id, exp, err := c.bearer(token)
	if id == nil {
		return "", time.Time{}, err
	}
	return id.iamID, exp, err
}

// bearer is Validate, but returns the identity.
func (c *Cloud) bearer(token string) (*identity, time.Time, error) {
	defer c.lock()()
	verified, err := c.verify(token)
	id := c.identities[verified.IAMID]
	if err != nil || id == nil {
		return nil, time.Time{}, errBadToken // without an id: another cloud of this process issued it
	}
	expires := time.Unix(verified.ExpiresAt, 0)
	if !c.now().Before(expires) {
		return id, expires, fmt.Errorf("the token expired at %s", expires.UTC().Format(time.RFC3339))
	}
	return id, expires, nil
}

// Classes of identities, as a [Fault] and a [Request] name them.
const (
	IdentityBootstrap = "bootstrap" // reads API keys, adds token versions; the trusted profile is one, too
	IdentityWorkload  = "workload"  // the service ids whose tokens are saved; may call Logs Routing
	IdentityReader    = "reader"    // reads the secrets of the token group
	IdentityAdmin     = "admin"     // Manager on the Secrets Manager instance
)

var identityNames = []string{IdentityBootstrap, IdentityWorkload, IdentityReader, IdentityAdmin}

// ProfileName names the trusted profile that accepts any compute resource token and holds the
// bootstrap identity's permissions.
const ProfileName = "rotator-bootstrap"

// An identity is a service id or a trusted profile. It never changes.
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
	k := &apiKey{creation: c.newCreation("", knownFrom), id: "ApiKey-" + uuid.NewString(), value: encode64(secret), owner: owner,
		name: name, knownFrom: knownFrom, modifiedAt: knownFrom, version: 1}
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

// trustedProfile returns the profile with this id, name and CRN, or nil. At least one must be given; empty
// ones are not compared.
func (c *Cloud) trustedProfile(id, name, crn string) *identity {
	own := c.profile.crn("profile")
	if id+name+crn == "" || id != "" && id != c.profile.subject() || name != "" && name != c.profile.name || crn != "" && crn != own {
		return nil
	}
	return c.profile
}

// crn is the CRN of the identity; kind is, for example, "serviceid".
func (id *identity) crn(kind string) string { return identityCRN(id.account, kind, id.subject()) }

func identityCRN(account, kind, id string) string {
	return "crn:v1:bluemix:public:iam-identity::a/" + account + "::" + kind + ":" + id
}

const (
	signingKeyID = "20260101-0000"
	issuer       = "https://iam.cloud.ibm.com/identity"
)

var encode64 = base64.RawURLEncoding.EncodeToString

// keyPair is an RSA key with eight primes. Compared with two primes, generating it takes a tenth of the
// time, and signing a fifth. Its signatures are verified like any other. It is weaker, but protects nothing.
type keyPair struct {
	rsa.PublicKey
	factors []factor
}

// factor is one of the primes. Modulo the prime, raising to the private exponent is the same as raising to
// power; coefficient combines the results by the Chinese remainder theorem.
type factor struct{ prime, power, coefficient *big.Int }

// signingKey is IAM's, one for all clouds of the process.
var signingKey = sync.OnceValue(func() *keyPair {
	const bits, primes = 2048, 8
	key := &keyPair{rsa.PublicKey{N: big.NewInt(1), E: 65537}, make([]factor, primes)}
	for i := range key.factors {
		key.factors[i] = newFactor(bits/primes, key.E)
		key.N.Mul(key.N, key.factors[i].prime)
	}
	for i, f := range key.factors {
		others := new(big.Int).Div(key.N, f.prime)
		key.factors[i].coefficient = others.Mul(others, new(big.Int).ModInverse(others, f.prime))
	}
	return key
})

// newFactor returns a factor without its coefficient. Its prime allows the public exponent, and is so close
// to 2^bits that the product of all primes has the full length.
func newFactor(bits uint, exponent int) factor {
	most, one := new(big.Int).Lsh(big.NewInt(1), bits), big.NewInt(1)
	for {
		below, err := rand.Int(rand.Reader, new(big.Int).Rsh(most, 6))
		must(err == nil, "generating IAM's signing key: %v", err)
		prime := below.Sub(most, below)
		power := new(big.Int).ModInverse(big.NewInt(int64(exponent)), new(big.Int).Sub(prime, one))
		if power != nil && prime.ProbablyPrime(10) {
			return factor{prime: prime, power: power}
		}
	}
}

// sign is RSASSA-PKCS1-v1_5 of a SHA-256 digest.
func (k *keyPair) sign(digest []byte) []byte {
	const algorithm = "\x00\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20" // RFC 8017, 9.2
	padded := slices.Repeat([]byte{0xff}, k.Size())
	copy(padded, "\x00\x01")
	copy(padded[k.Size()-len(algorithm)-len(digest):], algorithm+string(digest))
	message, signature := new(big.Int).SetBytes(padded), new(big.Int)
	for _, f := range k.factors {
		residue := new(big.Int).Exp(new(big.Int).Mod(message, f.prime), f.power, f.prime)
		signature.Add(signature, residue.Mul(residue, f.coefficient))
	}
	return signature.Mod(signature, k.N).FillBytes(make([]byte, k.Size()))
}

// claims are the claims that are read from an IAM access token; signToken writes others, too.
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

// sign makes a JWT from an encoded header and a body.
func sign(header string, body []byte) string {
	signed := header + "." + encode64(body)
	digest := sha256.Sum256([]byte(signed))
	return signed + "." + encode64(signingKey().sign(digest[:]))
}

var tokenHeader = encode64([]byte(`{"kid":"` + signingKeyID + `","alg":"RS256"}`))

var errBadToken = errors.New("the token was not issued by this IAM")

// verifyToken checks the token's header and signature and returns its claims. It does not check the time.
func verifyToken(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[0] != tokenHeader {
		return claims{}, errBadToken
	}
	signature, errSignature := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	body, errBody := base64.RawURLEncoding.DecodeString(parts[1])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	err = cmp.Or(errSignature, errBody, rsa.VerifyPKCS1v15(&signingKey().PublicKey, crypto.SHA256, digest[:], signature))
	if err != nil || json.Unmarshal(body, &c) != nil || c.Issuer != issuer {
		return claims{}, errBadToken
	}
	return c, nil
}

// maxVerified limits Cloud.verified; a full map is cleared.
const maxVerified = 20_000

// verify is verifyToken with a cache, because a program uses its token for many requests. The caller holds c.mu.
func (c *Cloud) verify(token string) (claims, error) {
	if known, ok := c.verified[token]; ok {
		return known, nil
	}
	verified, err := verifyToken(token)
	if len(c.verified) >= maxVerified {
		clear(c.verified)
	}
	if err == nil {
		c.verified[token] = verified
	}
	return verified, err
}
