package ibmcloudtest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// keyDetails are what IAM tells of an API key besides its value.
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

// expired tells whether IAM refuses the key for its age.
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
	if p.Name != nil {
		if *p.Name == "" {
			return to, badField("name", "must not be empty")
		}
		to.name = *p.Name
	}
	if p.Description != nil {
		to.description = *p.Description
	}
	if p.ActionWhenLeaked != nil {
		if !slices.Contains([]string{"none", "disable", "delete"}, *p.ActionWhenLeaked) {
			return to, badField("action_when_leaked", "must be none, disable or delete")
		}
		to.actionWhenLeaked = *p.ActionWhenLeaked
	}
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
	out := map[string]any{
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

// BootstrapIAMID is the service id of the bootstrap identity: "iam-ServiceId-<uuid>".
func (c *Cloud) BootstrapIAMID() string { return c.bootstrapKey.owner.iamID }

// ReaderIAMID is the service id of the reader: "iam-ServiceId-<uuid>".
func (c *Cloud) ReaderIAMID() string { return c.readerKey.owner.iamID }

// KeyGroupID is the id of the secret group that holds the API keys.
func (c *Cloud) KeyGroupID() string { return c.keyGroup.id }

// TokenGroupID is the id of the secret group that holds the tokens.
func (c *Cloud) TokenGroupID() string { return c.tokenGroup.id }
