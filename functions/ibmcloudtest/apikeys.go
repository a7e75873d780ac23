package ibmcloudtest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keyDetails are what IAM shows of an API key besides its value.
type keyDetails struct {
	name, description string
	actionWhenLeaked  string
	createdBy         string // iam id
	createdAt         time.Time
	modifiedAt        time.Time
	expiresAt         time.Time // zero for never
	valueStored       bool      // the value can be read again
	version           int       // counts changes: the entity tag
	sequence          int       // the order of listings
}

// expired reports whether IAM refuses the key for its age.
func (k *apiKey) expired(now time.Time) bool {
	return !k.expiresAt.IsZero() && !now.Before(k.expiresAt)
}

// entityTag is the version that an update must name: "1-" and 32 hexadecimal digits.
func (k *apiKey) entityTag() string {
	return fmt.Sprintf("%d-%s", k.version, strings.ReplaceAll(strings.TrimPrefix(k.id, "ApiKey-"), "-", ""))
}

// apiKeyPrototype is the body of a request that makes or changes a key. A nil field is absent.
type apiKeyPrototype struct {
	Name             *string `json:"name"`
	IAMID            *string `json:"iam_id"`
	AccountID        *string `json:"account_id"`
	Description      *string `json:"description"`
	StoreValue       bool    `json:"store_value"`
	ActionWhenLeaked *string `json:"action_when_leaked"`
	ExpiresAt        *string `json:"expires_at"`
}

// applied returns the details as the request changes them.
func (p *apiKeyPrototype) applied(to keyDetails, now time.Time) (keyDetails, error) {
	isAction := slices.Contains([]string{"none", "disable", "delete"}, deref(p.ActionWhenLeaked))
	err := check(
		rule{outside(p.Name, 1, math.MaxInt), "name", "must not be empty"},
		rule{p.ActionWhenLeaked != nil && !isAction, "action_when_leaked", "must be none, disable or delete"},
	)
	if err != nil {
		return to, err
	}
	assign(&to.name, p.Name)
	assign(&to.description, p.Description)
	assign(&to.actionWhenLeaked, p.ActionWhenLeaked)
	if p.ExpiresAt != nil {
		at, err := time.Parse(iamTimeLayout, *p.ExpiresAt)
		if err != nil || !at.After(now) {
			return to, badField("expires_at", "must be a time in the future like 2030-01-31T12:00+0000")
		}
		to.expiresAt = at
	}
	to.modifiedAt = now
	return to, nil
}

// apiKeyJSON renders the key, with its value or an empty one.
func (c *Cloud) apiKeyJSON(k *apiKey, value string) any {
	out := object{
		"id": k.id, "entity_tag": k.entityTag(), "name": k.name, "description": k.description,
		"crn":    "crn:v1:bluemix:public:iam-identity::a/" + k.owner.account + "::apikey:" + k.id,
		"locked": false, "disabled": false, "iam_id": k.owner.iamID, "account_id": k.owner.account,
		"created_at": iamTime(k.createdAt), "created_by": k.createdBy, "modified_at": iamTime(k.modifiedAt),
		"action_when_leaked": k.actionWhenLeaked, "apikey": value,
	}
	if !k.expiresAt.IsZero() {
		out["expires_at"] = iamTime(k.expiresAt)
	}
	return out
}

// The operations on API keys are IAM Identity Services', and the admin's alone, but that
// a key's owner may see its details.
var apiKeyOperations = []operation{
	op(OpAPIKeysList, serviceAPIKeys, "GET /v1/apikeys", http.StatusOK, (*Cloud).listAPIKeys),
	op(OpAPIKeysCreate, serviceAPIKeys, "POST /v1/apikeys", http.StatusCreated, (*Cloud).createAPIKey),
	op(OpAPIKeysDetails, serviceAPIKeys, "GET /v1/apikeys/details", http.StatusOK, (*Cloud).getAPIKeyDetails), // before {id}
	op(OpAPIKeysGet, serviceAPIKeys, "GET /v1/apikeys/{id}", http.StatusOK, (*Cloud).getAPIKey),
	op(OpAPIKeysUpdate, serviceAPIKeys, "PUT /v1/apikeys/{id}", http.StatusOK, (*Cloud).updateAPIKey),
	op(OpAPIKeysDelete, serviceAPIKeys, "DELETE /v1/apikeys/{id}", http.StatusNoContent, (*Cloud).deleteAPIKey),
}

// findKey sets the key that the path names, if the caller may manage keys. Details are for the key's owner, too.
func (c *Cloud) findKey(in *call) error {
	if in.operation.name == OpAPIKeysDetails {
		in.key = c.keys[in.request.Header.Get("IAM-ApiKey")]
		if in.key != nil && in.key.owner == in.caller {
			return nil
		}
	}
	for _, key := range c.keys {
		if len(in.params) > 0 && key.id == in.params[0] {
			in.key = key
		}
	}
	switch {
	case in.caller.class != IdentityAdmin:
		e := fail(http.StatusForbidden, "forbidden", "You are not authorized to use this API.")
		e.details = "The action iam-identity." + strings.Replace(in.operation.name, "keys.", "key.", 1) + " is missing."
		return e
	case in.key == nil && (len(in.params) > 0 || in.operation.name == OpAPIKeysDetails):
		return notFound("API key")
	}
	return nil
}

// createAPIKey answers with the key's value, for the only time unless store_value asks for more.
func (c *Cloud) createAPIKey(in *call) (any, error) {
	var p apiKeyPrototype
	if err := in.decode(&p, mediaJSON, "name!", "iam_id!", "account_id", "description", "store_value", "action_when_leaked", "expires_at"); err != nil {
		return nil, err
	}
	owner, ok := c.identities[*p.IAMID]
	switch {
	case !ok || owner.subType() != "ServiceId":
		return nil, notFound("service ID")
	case p.AccountID != nil && *p.AccountID != owner.account:
		return nil, badField("account_id", "is not the account of the iam_id")
	}
	details, err := p.applied(keyDetails{version: 1}, in.now)
	if err != nil {
		return nil, err
	}
	key := c.newKey(owner, in.now.Add(c.keyPropagation))
	details.sequence, details.createdAt, details.createdBy = key.sequence, in.now, in.caller.iamID
	details.valueStored = p.StoreValue
	key.keyDetails = details
	return c.apiKeyJSON(key, key.value), nil
}

func (c *Cloud) getAPIKey(in *call) (any, error) {
	if in.key.valueStored {
		return c.apiKeyJSON(in.key, in.key.value), nil
	}
	return c.apiKeyJSON(in.key, ""), nil
}

// updateAPIKey changes what the body names, if If-Match is the key's entity_tag or "*".
func (c *Cloud) updateAPIKey(in *call) (any, error) {
	key := in.key
	var p apiKeyPrototype
	if err := in.decode(&p, mediaJSON, "name", "description", "action_when_leaked", "expires_at"); err != nil {
		return nil, err
	}
	switch match := in.request.Header.Get("If-Match"); match {
	case "":
		return nil, badField("If-Match", "is required")
	case "*", key.entityTag():
	default:
		return nil, fail(http.StatusConflict, "conflict", "The API key was changed by someone else.")
	}
	details, err := p.applied(key.keyDetails, in.now)
	if err != nil {
		return nil, err
	}
	details.version++
	key.keyDetails = details
	return c.apiKeyJSON(key, ""), nil
}

// deleteAPIKey leaves the tokens that the key was exchanged for as they are.
func (c *Cloud) deleteAPIKey(in *call) (any, error) {
	delete(c.keys, in.key.value)
	return nil, nil
}

// iamTime is a time as IAM Identity Services write it, to the minute.
func iamTime(t time.Time) string { return t.UTC().Format(iamTimeLayout) }

const iamTimeLayout = "2006-01-02T15:04-0700"

// listAPIKeys lists the keys of one iam id, in pages. Their values are not among it.
func (c *Cloud) listAPIKeys(in *call) (any, error) {
	query := in.request.URL.Query()
	iamID := cmp.Or(query.Get("iam_id"), in.caller.iamID)
	if account := query.Get("account_id"); account != "" && account != c.account {
		return nil, badField("account_id", "is not the account of the iam_id")
	}
	limit, err := queryNumber(query, "pagesize", 20, 1, 100)
	if err != nil {
		return nil, err
	}
	offset, err := pageOffset(query.Get("pagetoken"))
	if err != nil {
		return nil, err
	}
	var keys []*apiKey
	for _, key := range c.keys {
		if key.owner.iamID == iamID {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b *apiKey) int { return cmp.Compare(a.sequence, b.sequence) })

	list := []any{}
	for _, key := range keys[min(offset, len(keys)):min(offset+limit, len(keys))] {
		list = append(list, c.apiKeyJSON(key, ""))
	}
	answer := object{"offset": offset, "limit": limit, "apikeys": list}
	if offset+limit < len(keys) {
		query.Set("pagetoken", pageToken(offset+limit))
		answer["next"] = in.href(query)
	}
	return answer, nil
}

const pageTokenPrefix = "offset:"

// pageToken names a page. IBM's are opaque.
func pageToken(offset int) string {
	return base64.URLEncoding.EncodeToString([]byte(pageTokenPrefix + strconv.Itoa(offset)))
}

func pageOffset(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	text, errToken := base64.URLEncoding.DecodeString(token)
	offset, err := strconv.Atoi(strings.TrimPrefix(string(text), pageTokenPrefix))
	if errToken != nil || err != nil || offset < 0 {
		return 0, badField("pagetoken", "is none of this service")
	}
	return offset, nil
}

// getAPIKeyDetails shows the key in the header IAM-ApiKey, without its value: to the admin and to
// the key's owner. Whether IBM lets every service id see its own key is open; users may see theirs.
func (c *Cloud) getAPIKeyDetails(in *call) (any, error) {
	return c.apiKeyJSON(in.key, ""), nil
}

// A minting says how a secret makes its own API keys.
type minting struct {
	owner         *identity       // whose keys they are
	isStatic      bool            // the owner was named when the secret was created
	reuse         bool            // reads return the same key; else each makes a new one and deletes the last
	ttl           string          // as given: a number of seconds or a duration; the lease's end is not played out
	sourceService json.RawMessage // service_credentials: what the credentials are for
}

// mint returns a value with a new key of the secret's service id, which IAM knows after the
// propagation time.
func (c *Cloud) mint(m *minting, now time.Time) *value {
	return &value{key: c.newKey(m.owner, now.Add(c.keyPropagation))}
}

// readValue returns the version's value for a reader, and notes the reading. A reading of an
// iam_credentials secret without reuse_api_key replaces the key, which a lock forbids.
func (c *Cloud) readValue(s *secret, v *version, now time.Time) (*value, error) {
	if !s.available(v, now) {
		return nil, nil
	}
	if s.minting != nil && !s.minting.reuse {
		if v.isLocked() {
			return nil, locked()
		}
		c.discardValue(v)
		if !s.minting.isStatic {
			s.minting.owner = c.newServiceID(IdentityWorkload, s.name, c.account)
		}
		v.value = c.mint(s.minting, now)
	}
	v.downloaded = true
	s.retrievedAt = now
	return v.value, nil
}

// newMinting reads the fields of an iam_credentials or service_credentials prototype. It does not
// make the service id yet.
func (c *Cloud) newMinting(p *secretPrototype) (*minting, error) {
	ttl, err := parseTTL(p)
	if err != nil {
		return nil, err
	}
	m := &minting{ttl: ttl, reuse: p.ReuseAPIKey || p.Kind == kindServiceCredentials}
	if p.Kind == kindServiceCredentials {
		m.sourceService = p.SourceService
		return m, checkSourceService(p.SourceService)
	}
	if p.ServiceID != "" {
		m.isStatic = true
		if m.owner = c.identities["iam-"+p.ServiceID]; m.owner == nil {
			return nil, badField("service_id", "must be a service id of this account")
		}
	}
	return m, nil
}

// checkSourceService asks for the CRN of the instance that the credentials are for.
func checkSourceService(raw json.RawMessage) error {
	var source struct {
		Instance struct {
			CRN string `json:"crn"`
		} `json:"instance"`
	}
	if json.Unmarshal(raw, &source) != nil || source.Instance.CRN == "" {
		return badField("source_service", "must have instance.crn")
	}
	return nil
}

// parseTTL returns the lease as it was given. It is at least a minute (iam_credentials) or a day,
// and at most 90 days.
func parseTTL(p *secretPrototype) (string, error) {
	if isNull(p.TTL) {
		return "", nil
	}
	shortest, longest := time.Minute, 90*24*time.Hour
	if p.Kind == kindServiceCredentials {
		shortest = 24 * time.Hour
	}
	text := string(p.TTL)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	lease, err := time.ParseDuration(text)
	if seconds, isNumber := strconv.ParseInt(text, 10, 32); isNumber == nil {
		lease, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || lease < shortest || lease > longest {
		return "", badField("ttl", fmt.Sprintf("must be seconds or a duration, %s to %s", shortest, longest))
	}
	return text, nil
}
