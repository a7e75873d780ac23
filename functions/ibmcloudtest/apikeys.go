package ibmcloudtest

import (
	"cmp"
	"fmt"
	"maps"
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
	leaseEnds         time.Time // when the secret that made the key deletes it; zero for never
	locked            bool      // cannot be changed or deleted
	disabled          bool      // cannot be exchanged
	valueStored       bool      // the value can be read again
	version           int       // counts changes: the entity tag
	sequence          int       // the order of listings
}

// isUnknown reports whether IAM does not know the key: it is too new or has expired.
func (k *apiKey) isUnknown(now time.Time) bool {
	return now.Before(k.knownFrom) || k.ended(now) || !k.expiresAt.IsZero() && !now.Before(k.expiresAt)
}

func (k *apiKey) order() int { return k.sequence }

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
		at, err := parseIAMTime(*p.ExpiresAt)
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
		"locked": k.locked, "disabled": k.disabled, "iam_id": k.owner.iamID, "account_id": k.owner.account,
		"created_at": iamTime(k.createdAt), "created_by": k.createdBy, "modified_at": iamTime(k.modifiedAt),
		"action_when_leaked": k.actionWhenLeaked, "apikey": value,
	}
	if !k.expiresAt.IsZero() {
		out["expires_at"] = iamExpiry(k.expiresAt)
	}
	return out
}

// The operations on API keys and service ids are IAM Identity Services', and the admin's alone, but for what the setting
// own_keys allows a key's owner.
var apiKeyOperations = []operation{
	op("apikeys.list", serviceAPIKeys, "GET /v1/apikeys", http.StatusOK, (*Cloud).listAPIKeys),
	op("apikeys.create", serviceAPIKeys, "POST /v1/apikeys", http.StatusCreated, (*Cloud).createAPIKey),
	op(OpAPIKeysDetails, serviceAPIKeys, "GET /v1/apikeys/details", http.StatusOK, (*Cloud).getAPIKeyDetails), // before {id}
	op(OpAPIKeysGet, serviceAPIKeys, "GET /v1/apikeys/{id}", http.StatusOK, (*Cloud).getAPIKey),
	op("apikeys.update", serviceAPIKeys, "PUT /v1/apikeys/{id}", http.StatusOK, (*Cloud).updateAPIKey),
	op("apikeys.delete", serviceAPIKeys, "DELETE /v1/apikeys/{id}", http.StatusNoContent, (*Cloud).deleteAPIKey),
	op("apikeys.lock", serviceAPIKeys, "POST /v1/apikeys/{id}/lock", http.StatusNoContent, lockAPIKey(true)),
	op("apikeys.lock", serviceAPIKeys, "DELETE /v1/apikeys/{id}/lock", http.StatusNoContent, lockAPIKey(false)),
	op("apikeys.disable", serviceAPIKeys, "POST /v1/apikeys/{id}/disable", http.StatusNoContent, disableAPIKey(true)),
	op("apikeys.disable", serviceAPIKeys, "DELETE /v1/apikeys/{id}/disable", http.StatusNoContent, disableAPIKey(false)),
	op(OpServiceIDs, serviceAPIKeys, "GET /v1/serviceids/", http.StatusOK, (*Cloud).listServiceIDs),
	op(OpServiceIDs, serviceAPIKeys, "POST /v1/serviceids/", http.StatusCreated, (*Cloud).createServiceID),
	op(OpServiceIDs, serviceAPIKeys, "GET /v1/serviceids/{id}", http.StatusOK, (*Cloud).getServiceID),
	op(OpServiceIDs, serviceAPIKeys, "DELETE /v1/serviceids/{id}", http.StatusNoContent, (*Cloud).deleteServiceID),
}

// findKey sets the key or service id that the request names, if the caller may manage it.
func (c *Cloud) findKey(in *call) error {
	owner, ofIDs, isDetails := "", in.operation.name == OpServiceIDs, in.operation.name == OpAPIKeysDetails
	for _, key := range c.keys {
		if isDetails && key.value == in.request.Header.Get("IAM-ApiKey") || !isDetails && len(in.params) > 0 && key.id == in.params[0] {
			in.key, owner = key, key.owner.iamID
		}
	}
	if ofIDs && len(in.params) > 0 {
		in.serviceID = c.identities["iam-"+in.params[0]]
	}
	if in.operation.name == "apikeys.list" {
		owner = cmp.Or(in.request.URL.Query().Get("iam_id"), in.caller.iamID)
	}
	own := c.settings.OwnKeys == "policy" || c.settings.OwnKeys == "details" && isDetails
	named := len(in.params) > 0 || isDetails
	switch {
	case in.caller.class != IdentityAdmin && !(own && owner == in.caller.iamID):
		e := fail(http.StatusForbidden, "forbidden", "You are not authorized to use this API.")
		e.details = "The action iam-identity." + strings.Replace(in.operation.name, "keys.", "key.", 1) + " is missing."
		return e
	case ofIDs && named && in.serviceID == nil:
		return notFound("service ID")
	case !ofIDs && named && in.key == nil:
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
	if c.countKeys(owner, in.now) >= maxKeys {
		return nil, fail(http.StatusConflict, "conflict", "The identity has as many API keys as it can hold.")
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
	if key.locked {
		return nil, lockedKey()
	}
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
	if in.key.locked {
		return nil, lockedKey()
	}
	delete(c.keys, in.key.value)
	return nil, nil
}

func lockedKey() *apiError {
	return fail(http.StatusConflict, "conflict", "The API key is locked: it can't be changed or deleted.")
}

func lockAPIKey(locked bool) func(*Cloud, *call) (any, error) {
	return func(_ *Cloud, in *call) (any, error) {
		in.key.locked = locked
		return nil, nil
	}
}

// disableAPIKey leaves the tokens that the key was exchanged for as they are.
func disableAPIKey(disabled bool) func(*Cloud, *call) (any, error) {
	return func(_ *Cloud, in *call) (any, error) {
		if in.key.locked {
			return nil, lockedKey()
		}
		in.key.disabled = disabled
		return nil, nil
	}
}

func serviceIDJSON(id *identity) any {
	return object{
		"id": id.subject(), "iam_id": id.iamID, "entity_tag": "1-" + strings.ReplaceAll(id.subject()[len("ServiceId-"):], "-", ""),
		"crn": "crn:v1:bluemix:public:iam-identity::a/" + id.account + "::serviceid:" + id.subject(), "locked": false,
		"created_at": iamTime(id.createdAt), "modified_at": iamTime(id.createdAt), "account_id": id.account, "name": id.name,
	}
}

// listServiceIDs lists those of the account, of one name if the query has one, in pages.
func (c *Cloud) listServiceIDs(in *call) (any, error) {
	name := in.request.URL.Query().Get("name")
	ids := slices.DeleteFunc(slices.Collect(maps.Values(c.identities)), func(id *identity) bool {
		return id.subType() != "ServiceId" || id.account != c.account || name != "" && name != id.name
	})
	slices.SortFunc(ids, func(a, b *identity) int { return cmp.Compare(a.iamID, b.iamID) })
	return identityPage(in, "serviceids", ids, serviceIDJSON)
}

func (c *Cloud) getServiceID(in *call) (any, error) { return serviceIDJSON(in.serviceID), nil }

// createServiceID makes one that may do nothing.
func (c *Cloud) createServiceID(in *call) (any, error) {
	var p apiKeyPrototype
	if err := in.decode(&p, mediaJSON, "name!", "account_id!", "description"); err != nil {
		return nil, err
	}
	err := check(rule{*p.AccountID != c.account, "account_id", "is not an account of the caller"}, rule{*p.Name == "", "name", "must not be empty"})
	if err != nil {
		return nil, err
	}
	return serviceIDJSON(c.newServiceID("", *p.Name, c.account)), nil
}

// deleteServiceID ends the keys, locked or not, and the tokens of a service id at once.
func (c *Cloud) deleteServiceID(in *call) (any, error) {
	c.removeIdentity(in.serviceID)
	return nil, nil
}

func (c *Cloud) removeIdentity(id *identity) {
	delete(c.identities, id.iamID)
	maps.DeleteFunc(c.keys, func(_ string, k *apiKey) bool { return k.owner == id })
}

const iamTimeLayout = "2006-01-02T15:04-0700"

// iamTime is a time as IAM Identity Services write it, to the minute; an expiry that was given with seconds keeps them.
func iamTime(t time.Time) string { return t.UTC().Format(iamTimeLayout) }

func iamExpiry(t time.Time) string {
	if t.Second() != 0 {
		return t.UTC().Format("2006-01-02T15:04:05-0700")
	}
	return iamTime(t)
}

func parseIAMTime(text string) (t time.Time, err error) {
	for _, layout := range []string{iamTimeLayout, "2006-01-02T15:04:05-0700", time.RFC3339} {
		if t, err = time.Parse(layout, text); err == nil {
			break
		}
	}
	return t, err
}

// listAPIKeys lists the keys of one iam id, in pages. Their values are not among it.
func (c *Cloud) listAPIKeys(in *call) (any, error) {
	query := in.request.URL.Query()
	iamID := cmp.Or(query.Get("iam_id"), in.caller.iamID)
	if account := query.Get("account_id"); account != "" && account != c.account {
		return nil, badField("account_id", "is not the account of the iam_id")
	}
	keys := inOrder(c.keys, func(k *apiKey) bool { return k.owner.iamID == iamID })
	return identityPage(in, "apikeys", keys, func(k *apiKey) any { return c.apiKeyJSON(k, "") })
}

// identityPage is the page of IAM Identity Services that the query chooses. Its page tokens are numbers; IBM's are opaque.
func identityPage[T any](in *call, name string, items []T, render func(T) any) (any, error) {
	query := in.request.URL.Query()
	limit, err := queryNumber(query, "pagesize", 20, 1, 100)
	if err != nil {
		return nil, err
	}
	offset, err := queryNumber(query, "pagetoken", 0, 0, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, item := range items[min(offset, len(items)):min(offset+limit, len(items))] {
		list = append(list, render(item))
	}
	answer := object{"offset": offset, "limit": limit, name: list}
	if offset+limit < len(items) {
		query.Set("pagetoken", strconv.Itoa(offset+limit))
		answer["next"] = in.href(query)
	}
	return answer, nil
}

// getAPIKeyDetails shows the key in the header IAM-ApiKey, without its value.
func (c *Cloud) getAPIKeyDetails(in *call) (any, error) {
	return c.apiKeyJSON(in.key, ""), nil
}
