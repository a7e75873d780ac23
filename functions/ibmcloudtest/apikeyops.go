package ibmcloudtest

import (
	"net/http"
	"time"
)

// The operations on API keys are IAM Identity Services', and the admin's alone, but that
// a key's owner may see its details.
var apiKeyOperations = []operation{
	op(OpAPIKeysList, serviceAPIKeys, http.MethodGet, "/v1/apikeys", http.StatusOK, (*Cloud).listAPIKeys),
	op(OpAPIKeysCreate, serviceAPIKeys, http.MethodPost, "/v1/apikeys", http.StatusCreated, (*Cloud).createAPIKey),
	op(OpAPIKeysDetails, serviceAPIKeys, http.MethodGet, "/v1/apikeys/details", http.StatusOK, (*Cloud).getAPIKeyDetails), // before {id}
	op(OpAPIKeysGet, serviceAPIKeys, http.MethodGet, "/v1/apikeys/{id}", http.StatusOK, (*Cloud).getAPIKey),
	op(OpAPIKeysUpdate, serviceAPIKeys, http.MethodPut, "/v1/apikeys/{id}", http.StatusOK, (*Cloud).updateAPIKey),
	op(OpAPIKeysDelete, serviceAPIKeys, http.MethodDelete, "/v1/apikeys/{id}", http.StatusNoContent, (*Cloud).deleteAPIKey),
}

// mayManageKeys refuses everyone but the admin.
func (in *call) mayManageKeys() error {
	if in.caller.class != IdentityAdmin {
		return fail(http.StatusForbidden, "insufficient_permissions", "You are not authorized to manage the API keys of this identity.")
	}
	return nil
}

// apiKeyFor returns the key that the path names, for a caller who may manage keys.
func (c *Cloud) apiKeyFor(in *call) (*apiKey, error) {
	if err := in.mayManageKeys(); err != nil {
		return nil, err
	}
	for _, key := range c.keys {
		if key.id == in.params[0] {
			return key, nil
		}
	}
	return nil, notFound("API key")
}

// createAPIKey answers with the key's value, for the only time unless store_value asks for more.
func (c *Cloud) createAPIKey(in *call) (any, error) {
	if err := in.mayManageKeys(); err != nil {
		return nil, err
	}
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
	key, err := c.apiKeyFor(in)
	if err != nil {
		return nil, err
	}
	if key.valueStored {
		return c.apiKeyJSON(key, key.value), nil
	}
	return c.apiKeyJSON(key, ""), nil
}

// updateAPIKey changes what the body names, if If-Match is the key's entity_tag or "*".
func (c *Cloud) updateAPIKey(in *call) (any, error) {
	key, err := c.apiKeyFor(in)
	if err != nil {
		return nil, err
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
	key, err := c.apiKeyFor(in)
	if err != nil {
		return nil, err
	}
	delete(c.keys, key.value)
	return nil, nil
}

// iamTime is a time as IAM Identity Services write it, to the minute.
func iamTime(t time.Time) string { return t.UTC().Format(iamTimeLayout) }

const iamTimeLayout = "2006-01-02T15:04-0700"
