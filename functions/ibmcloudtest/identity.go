package ibmcloudtest

import (
	"strings"
	"time"
)

// The identities that a [Fault] and a [Request] name.
const (
	IdentityBootstrap = "bootstrap" // reads API keys, adds token versions; also the trusted profile
	IdentityWorkload  = "workload"  // the service ids whose tokens are published; may call Logs Routing
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
	id := &identity{class: class, iamID: "iam-ServiceId-" + newUUID(), name: name, account: account, policies: policies}
	c.identities[id.iamID] = id
	return id
}

// newKey registers an API key that IAM accepts from the given time on. The caller holds c.mu.
func (c *Cloud) newKey(owner *identity, knownFrom time.Time) *apiKey {
	c.sequence++
	k := &apiKey{id: "ApiKey-" + newUUID(), value: newAPIKey(), owner: owner, knownFrom: knownFrom}
	k.keyDetails = keyDetails{name: owner.name, createdAt: knownFrom, modifiedAt: knownFrom, version: 1, sequence: c.sequence}
	c.keys[k.value] = k
	return k
}

// keyOwner returns whose key it is, or nil.
func (c *Cloud) keyOwner(key string) *identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.keys[key]; ok {
		return k.owner
	}
	return nil
}

// trustedProfile returns the profile that any of id, name and CRN names, or nil. Fields that are
// empty are not looked at; those given must agree.
func (c *Cloud) trustedProfile(id, name, crn string) *identity {
	if id == "" && name == "" && crn == "" {
		return nil
	}
	if id != "" && id != c.profile.subject() || name != "" && name != c.profile.name || crn != "" && crn != c.profileCRN() {
		return nil
	}
	return c.profile
}

func (c *Cloud) profileCRN() string {
	return "crn:v1:bluemix:public:iam-identity::a/" + c.account + "::profile:" + c.profile.subject()
}
