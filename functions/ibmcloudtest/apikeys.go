package ibmcloudtest

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// An apiKey belongs to an identity. A deleted key is no longer in Cloud.keys.
type apiKey struct {
	creation
	id, value         string // "ApiKey-<uuid>", and 44 characters of [A-Za-z0-9_-] like IBM's
	owner             *identity
	name, description string
	actionWhenLeaked  string
	modifiedAt        time.Time
	knownFrom         time.Time // when IAM begins to accept it
	expiresAt         time.Time // zero for never
	leaseEnds         time.Time // when the secret that created the key deletes it; zero for never
	locked            bool      // cannot be changed or deleted
	disabled          bool      // cannot be exchanged for a token
	valueStored       bool      // the value can be read again
	version           int       // counts changes, for the entity tag
}

// isUnknown reports whether IAM does not know the key: it is too new or has expired.
func (k *apiKey) isUnknown(now time.Time) bool {
	return now.Before(k.knownFrom) || k.ended(now) || !k.expiresAt.IsZero() && !now.Before(k.expiresAt)
}

// ended reports whether the key was created by a secret and its lease is over. Such a key is deleted.
func (k *apiKey) ended(now time.Time) bool { return !k.leaseEnds.IsZero() && !now.Before(k.leaseEnds) }

// entityTag identifies a version of a key, for example "1-" and 32 hexadecimal digits. An update must name it.
func entityTag(version int, id string) string {
	_, digits, _ := strings.Cut(id, "-")
	return fmt.Sprintf("%d-%s", version, strings.ReplaceAll(digits, "-", ""))
}

// json renders the key, with its value or an empty one.
func (k *apiKey) json(value string) object {
	out := object{
		"id": k.id, "entity_tag": entityTag(k.version, k.id), "name": k.name, "description": k.description,
		"crn": identityCRN(k.owner.account, "apikey", k.id), "locked": k.locked, "disabled": k.disabled, "iam_id": k.owner.iamID,
		"account_id": k.owner.account, "created_at": iamTime(k.at), "created_by": k.by, "modified_at": iamTime(k.modifiedAt),
		"action_when_leaked": k.actionWhenLeaked, "apikey": value,
	}
	if !k.expiresAt.IsZero() {
		out["expires_at"] = strings.Replace(k.expiresAt.UTC().Format(iamSecond), ":00+", "+", 1) // without seconds if they are 0
	}
	return out
}

const iamMinute, iamSecond = "2006-01-02T15:04-0700", "2006-01-02T15:04:05-0700"

// iamTime is a time as IAM Identity Services write it, to the minute.
func iamTime(t time.Time) string { return t.UTC().Format(iamMinute) }

func parseIAMTime(text string) (t time.Time, err error) {
	for _, layout := range []string{iamMinute, iamSecond, time.RFC3339} {
		if t, err = time.Parse(layout, text); err == nil {
			break
		}
	}
	return t, err
}

// apiKeyPrototype is the body of a request that creates or changes a key or a service id. A nil field is absent.
type apiKeyPrototype struct {
	Name             *string `json:"name"`
	IAMID            *string `json:"iam_id"`
	AccountID        *string `json:"account_id"`
	Description      *string `json:"description"`
	StoreValue       bool    `json:"store_value"`
	ActionWhenLeaked *string `json:"action_when_leaked"`
	ExpiresAt        *string `json:"expires_at"`
}

func (p *apiKeyPrototype) check(_ *Cloud, in *call) error {
	isAction := slices.Contains([]string{"none", "disable", "delete"}, deref(p.ActionWhenLeaked))
	expires, err := parseIAMTime(deref(p.ExpiresAt))
	return check(
		rule{p.Name != nil && *p.Name == "", "name", "must not be empty"},
		rule{p.ActionWhenLeaked != nil && !isAction, "action_when_leaked", "must be none, disable or delete"},
		rule{p.ExpiresAt != nil && (err != nil || !expires.After(in.now)), "expires_at", "must be a time in the future like 2030-01-31T12:00+0000"},
	)
}

// apply sets the properties of the key that a checked prototype has.
func (p *apiKeyPrototype) apply(k *apiKey, now time.Time) {
	assign(&k.name, p.Name)
	assign(&k.description, p.Description)
	assign(&k.actionWhenLeaked, p.ActionWhenLeaked)
	if p.ExpiresAt != nil {
		k.expiresAt, _ = parseIAMTime(*p.ExpiresAt)
	}
	k.modifiedAt = now
}

// authorizeKey is authorize for API keys and service ids. The admin may do every operation, the owner of a
// key what the setting own_keys allows.
func (c *Cloud) authorizeKey(in *call) error {
	ownerID, ofIDs, isDetails := "", in.operation.name == OpServiceIDs, in.operation.name == OpAPIKeysDetails
	isNamed := len(in.params) > 0 || isDetails
	for _, key := range c.keys {
		if isDetails && key.value == in.request.Header.Get("IAM-ApiKey") || !isDetails && isNamed && key.id == in.params[0] {
			in.key, ownerID = key, key.owner.iamID
		}
	}
	if ofIDs && isNamed {
		in.serviceID = c.identities["iam-"+in.params[0]]
	}
	if in.operation.name == "apikeys.list" {
		ownerID = cmp.Or(in.query.Get("iam_id"), in.caller.iamID)
	}
	ownerMay := c.settings.OwnKeys == "policy" || c.settings.OwnKeys == "details" && isDetails
	switch {
	case in.caller.class != IdentityAdmin && !(ownerMay && ownerID == in.caller.iamID):
		e := fail(http.StatusForbidden, "forbidden", "You are not authorized to use this API.")
		e.details = "The action iam-identity." + strings.Replace(in.operation.name, "keys.", "key.", 1) + " is missing."
		return e
	case ofIDs && isNamed && in.serviceID == nil:
		return notFound("service ID")
	case !ofIDs && isNamed && in.key == nil:
		return notFound("API key")
	}
	return nil
}

// createAPIKey answers with the key's value. Without store_value the value cannot be read again.
func (c *Cloud) createAPIKey(in *call, p *apiKeyPrototype) (any, error) {
	owner, ok := c.identities[*p.IAMID]
	switch {
	case !ok || owner.subType() != "ServiceId":
		return nil, notFound("service ID")
	case p.AccountID != nil && *p.AccountID != owner.account:
		return nil, badField("account_id", "is not the account of the iam_id")
	case c.countKeys(owner, in.now) >= maxKeys:
		return nil, conflict("The identity has as many API keys as it can hold.")
	}
	key := c.newKey(owner, *p.Name, in.now.Add(c.keyPropagation))
	key.at, key.by, key.valueStored = in.now, in.caller.iamID, p.StoreValue
	p.apply(key, in.now)
	return key.json(key.value), nil
}

func (c *Cloud) getAPIKey(in *call) any {
	if in.key.valueStored {
		return in.key.json(in.key.value)
	}
	return in.key.json("")
}

// listAPIKeys lists the keys of one iam id, in pages and without their values.
func (c *Cloud) listAPIKeys(in *call) (any, error) {
	if account := in.query.Get("account_id"); account != "" && account != c.account {
		return nil, badField("account_id", "is not the account of the iam_id")
	}
	iamID := cmp.Or(in.query.Get("iam_id"), in.caller.iamID)
	keys := inOrder(c.keys, func(k *apiKey) bool { return k.owner.iamID == iamID })
	return in.identityPage("apikeys", rendered(keys, func(k *apiKey) object { return k.json("") }))
}

// updateAPIKey changes the properties in the body, if If-Match is the key's entity_tag or "*".
func (c *Cloud) updateAPIKey(in *call, p *apiKeyPrototype) (any, error) {
	key, match := in.key, in.request.Header.Get("If-Match")
	switch {
	case key.locked:
		return nil, lockedKey()
	case match == "":
		return nil, badField("If-Match", "is required")
	case match != "*" && match != entityTag(key.version, key.id):
		return nil, conflict("The API key was changed by someone else.")
	}
	p.apply(key, in.now)
	key.version++
	return key.json(""), nil
}

// deleteAPIKey deletes the key. Tokens that it was exchanged for stay valid.
func (c *Cloud) deleteAPIKey(in *call) (any, error) {
	if in.key.locked {
		return nil, lockedKey()
	}
	delete(c.keys, in.key.value)
	return nil, nil
}

func conflict(message string) *apiError { return fail(http.StatusConflict, "conflict", message) }

func lockedKey() *apiError { return conflict("The API key is locked: it can't be changed or deleted.") }

func (c *Cloud) lockAPIKey(in *call) (any, error) {
	in.key.locked = in.request.Method == http.MethodPost
	return nil, nil
}

// disableAPIKey disables the key, or enables it again. Tokens that it was exchanged for stay valid.
func (c *Cloud) disableAPIKey(in *call) (any, error) {
	if in.key.locked {
		return nil, lockedKey()
	}
	in.key.disabled = in.request.Method == http.MethodPost
	return nil, nil
}

func (id *identity) json() object {
	return object{
		"id": id.subject(), "iam_id": id.iamID, "entity_tag": entityTag(1, id.subject()), "crn": id.crn("serviceid"), "locked": false,
		"created_at": iamTime(id.createdAt), "modified_at": iamTime(id.createdAt), "account_id": id.account, "name": id.name,
	}
}

// listServiceIDs lists the service ids of the account, in pages, and only those of the query's name if it has one.
func (c *Cloud) listServiceIDs(in *call) (any, error) {
	name := in.query.Get("name")
	ids := slices.DeleteFunc(slices.Collect(maps.Values(c.identities)), func(id *identity) bool {
		return id.subType() != "ServiceId" || id.account != c.account || name != "" && name != id.name
	})
	slices.SortFunc(ids, func(a, b *identity) int { return cmp.Compare(a.iamID, b.iamID) })
	return in.identityPage("serviceids", rendered(ids, (*identity).json))
}

// createServiceID creates a service id without any policy.
func (c *Cloud) createServiceID(in *call, p *apiKeyPrototype) (any, error) {
	if *p.AccountID != c.account {
		return nil, badField("account_id", "is not an account of the caller")
	}
	return c.newServiceID("", *p.Name, c.account).json(), nil
}

// deleteServiceID deletes a service id and its keys, locked or not. Its tokens are no longer valid.
func (c *Cloud) deleteServiceID(in *call) (any, error) {
	c.removeIdentity(in.serviceID)
	return nil, nil
}

func (c *Cloud) removeIdentity(id *identity) {
	delete(c.identities, id.iamID)
	maps.DeleteFunc(c.keys, func(_ string, k *apiKey) bool { return k.owner == id })
}
