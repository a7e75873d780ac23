package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// The Must… methods let tests read and change the cloud's state without a request. They act as the
// admin, ignore policies and locks, and panic if a secret, version, key or group does not exist. A
// panic names ids, never a key or a value.

// A Version is a secret's version as it is stored.
type Version struct {
	ID               string
	CreatedAt        time.Time // UTC, in milliseconds
	CreatedBy        string    // iam id
	Payload          string    // arbitrary: the payload; iam_credentials and service_credentials: the API key
	Data             map[string]any
	PayloadAvailable bool
	Metadata         map[string]any // version_custom_metadata; nil when there is none
}

// MustVersions returns the versions of a secret, oldest first.
func (c *Cloud) MustVersions(secretID string) []Version {
	defer c.lock()()
	s := c.mustSecret(secretID)
	return rendered(s.versions, func(v *version) Version { return s.export(v, c.now()) })
}

// MustCurrent returns the current version of a secret.
func (c *Cloud) MustCurrent(secretID string) Version {
	defer c.lock()()
	s := c.mustSecret(secretID)
	return s.export(s.current(), c.now())
}

// MustPutVersion adds a version to an arbitrary secret; it becomes current. Nil metadata means none.
func (c *Cloud) MustPutVersion(secretID, payload string, metadata map[string]any) Version {
	defer c.lock()()
	s := c.mustSecret(secretID)
	must(s.kind == kindArbitrary, "secret %s is not an arbitrary secret", secretID)
	v := c.addVersion(s, &version{customMetadata: mustObject(metadata), value: &value{payload: payload}}, c.adminKey.owner.iamID, c.now())
	return s.export(v, c.now())
}

// MustSetVersionMetadata replaces the custom metadata of a version: an id, "current" or "previous".
func (c *Cloud) MustSetVersionMetadata(secretID, version string, metadata map[string]any) {
	defer c.lock()()
	c.mustVersion(secretID, version).customMetadata = mustObject(metadata)
}

// MustLock attaches a lock to a version: an id, "current" or "previous".
func (c *Cloud) MustLock(secretID, version, name string) {
	defer c.lock()()
	c.attach(c.mustVersion(secretID, version), lockPrototype{Name: name}, c.adminKey.owner, c.now())
}

// MustUnlock removes every lock of a secret.
func (c *Cloud) MustUnlock(secretID string) {
	defer c.lock()()
	for _, v := range c.mustSecret(secretID).versions {
		v.detach(nil)
	}
}

// MustAddFault is AddFault, but panics if the fault is not valid.
func (c *Cloud) MustAddFault(f Fault) {
	err := c.AddFault(f)
	must(err == nil, "%v", err)
}

// CountRequests counts the requests to an operation in the request log. An empty identity counts those of all.
func (c *Cloud) CountRequests(op, identity string) (count int) {
	for _, r := range c.Requests() {
		if r.Op == op && (identity == "" || r.Identity == identity) {
			count++
		}
	}
	return count
}

// MustDeleteSecret deletes a secret, locked or not.
func (c *Cloud) MustDeleteSecret(secretID string) {
	defer c.lock()()
	c.removeSecret(c.mustSecret(secretID))
}

func (c *Cloud) mustSecret(id string) *secret {
	c.catchUp(c.now())
	return mustFind(c.secrets, id, "secret "+id)
}

// mustFind looks up a key. Its panic says that there is "no " and what.
func mustFind[T any](all map[string]T, key, what string) T {
	found, ok := all[key]
	must(ok, "no %s", what)
	return found
}

func (c *Cloud) mustVersion(secretID, ref string) *version {
	v := c.mustSecret(secretID).version(ref)
	must(v != nil, "secret %s has no version %s", secretID, ref)
	return v
}

// mustObject encodes metadata; nil means none.
func mustObject(object map[string]any) json.RawMessage {
	if object == nil {
		return nil
	}
	return mustJSON(object)
}

// must panics with a problem unless ok.
func must(ok bool, problem string, args ...any) {
	if !ok {
		panic("ibmcloudtest: " + fmt.Sprintf(problem, args...))
	}
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	must(err == nil, "encoding JSON: %v", err)
	return raw
}

func (s *secret) export(v *version, now time.Time) Version {
	out := Version{
		ID: v.id, CreatedAt: v.at.UTC().Truncate(time.Millisecond), CreatedBy: v.by,
		PayloadAvailable: s.available(v, now), Metadata: mustMap(v.customMetadata),
	}
	if !out.PayloadAvailable {
		return out
	}
	out.Payload, out.Data = v.value.payload, mustMap(v.value.data)
	if v.value.key != nil {
		out.Payload = v.value.key.value
	}
	return out
}

func mustMap(raw json.RawMessage) map[string]any {
	var object map[string]any
	must(len(raw) == 0 || json.Unmarshal(raw, &object) == nil, "stored JSON does not decode")
	return object
}

// A SecretSpec describes a secret for [Cloud.MustCreateSecret].
type SecretSpec struct {
	Type        string         // arbitrary (if empty), kv, iam_credentials or service_credentials
	Name        string         // if empty, a random one
	Group       string         // a group's name: KeyGroupName (if empty), TokenGroupName or "default"
	Payload     string         // arbitrary
	Data        map[string]any // kv
	IAMID       string         // iam_credentials, service_credentials: owner of the keys; if empty, a new service id
	ReuseAPIKey bool           // iam_credentials: if false, each read creates a new key
	TTL         string         // iam_credentials, service_credentials: the lease; if empty, 24h
	RotateDays  int            // iam_credentials, service_credentials: days between rotations by rule; if 0, no rule
	Metadata    map[string]any // of the first version
	Expires     time.Time      // arbitrary: its expiration date; if zero, none
}

// MustCreateSecret creates a secret and returns its id. IAM knows its first key at once, but not the keys
// that later reads or versions create, see Options.KeyPropagation.
func (c *Cloud) MustCreateSecret(spec SecretSpec) string {
	defer c.lock()()
	spec.Type = cmp.Or(spec.Type, kindArbitrary)
	spec.Name = cmp.Or(spec.Name, spec.Type+"-"+uuid.NewString())
	spec.Group = cmp.Or(spec.Group, c.keyGroup.name)
	g, now := c.groupNamed(spec.Group), c.now()
	_, isServed := kindFields[spec.Type]
	must(isServed, "no secret type %s", spec.Type)
	must(g != nil, "no secret group %s", spec.Group)
	must(c.names[secretName{spec.Type, spec.Name}] == nil, "the name %s is taken", spec.Name)
	p := &secretPrototype{
		Kind: spec.Type, Name: &spec.Name, Payload: &spec.Payload, Data: mustObject(spec.Data), ExpirationDate: &spec.Expires,
		VersionCustomMetadata: mustObject(spec.Metadata), ReuseAPIKey: spec.ReuseAPIKey, TTL: mustJSON(cmp.Or(spec.TTL, "24h")),
		SourceService: mustJSON(object{"instance": object{"crn": c.instanceCRN("logs") + "::"}}), ServiceID: strings.TrimPrefix(spec.IAMID, "iam-"),
	}
	if spec.RotateDays > 0 {
		p.Rotation = mustJSON(object{"auto_rotate": true, "interval": spec.RotateDays, "unit": "day"})
	}
	m, err := c.newMinting(p, now)
	must(err == nil, "%v", err)
	s := c.addSecret(p, g.id, m, c.adminKey.owner, now)
	if m != nil {
		s.current().value.key.knownFrom = now
	}
	return s.id
}

// MustRotateSecret rotates an iam_credentials or service_credentials secret, as a request would, and returns
// the new version.
func (c *Cloud) MustRotateSecret(secretID string) Version {
	defer c.lock()()
	s := c.mustSecret(secretID)
	must(s.minting != nil, "secret %s makes no keys", secretID)
	v, err := c.rotate(s, &secretPrototype{}, c.adminKey.owner.iamID, c.now())
	must(err == nil, "%v", err)
	return s.export(v, c.now())
}

// MustCreateServiceID creates a service id without any permission and returns its iam id. An empty
// account means the cloud's own.
func (c *Cloud) MustCreateServiceID(name, account string) string {
	defer c.lock()()
	return c.newServiceID("", name, cmp.Or(account, c.account)).iamID
}

// MustCopyServiceID creates a service id with the name and policies of another and returns its iam id. That is
// what terraform apply does after the other was removed from Terraform's state.
func (c *Cloud) MustCopyServiceID(iamID string) string {
	defer c.lock()()
	of := c.mustIdentity(iamID)
	return c.newServiceID(of.class, of.name, of.account, of.policies...).iamID
}

// MustCreateAPIKey creates a further API key of a service id and returns it.
func (c *Cloud) MustCreateAPIKey(iamID string) string {
	defer c.lock()()
	owner := c.mustIdentity(iamID)
	return c.newKey(owner, owner.name, c.now()).value
}

// MustDeleteAPIKey deletes an API key. Tokens issued for it stay valid, as at IBM.
func (c *Cloud) MustDeleteAPIKey(key string) {
	defer c.lock()()
	delete(c.keys, mustFind(c.keys, key, "such API key").value)
}

// MustMintToken returns a token of the key's service id that expires ttl from now. Its lifetime is the one
// that is set now, or ttl if that is longer. So with one-hour tokens a ttl of five minutes gives a token that
// is 55 minutes old, and a negative ttl an expired one.
func (c *Cloud) MustMintToken(key string, ttl time.Duration) string {
	defer c.lock()()
	k, lifetime := mustFind(c.keys, key, "such API key"), max(c.settings.tokenTTL(), ttl)
	return signToken(k.owner, grantAPIKey, c.now().Add(ttl-lifetime), lifetime)
}

// MustSign returns a JWT with these claims, signed with IAM's key. Header and claims are JSON, used
// unchanged; an empty header means IAM's own.
func (c *Cloud) MustSign(header, claims string) string {
	encoded := tokenHeader
	if header != "" {
		encoded = encode64([]byte(header))
	}
	return sign(encoded, []byte(claims))
}

func (c *Cloud) mustIdentity(iamID string) *identity {
	return mustFind(c.identities, iamID, "service id "+iamID)
}
