package ibmcloudtest

import (
	"encoding/json"
	"fmt"
	"time"
)

// The Must… methods look at the cloud's state, or change it, without a request: for the arrangement
// and the checks of tests. They act as the admin, ignore policies and locks, and panic when what
// they are given does not exist. A panic names ids, never a key or a value.

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
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mustSecret(secretID)
	versions := make([]Version, len(s.versions))
	for i, v := range s.versions {
		versions[i] = s.export(v, c.now())
	}
	return versions
}

// MustCurrent returns the current version of a secret.
func (c *Cloud) MustCurrent(secretID string) Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mustSecret(secretID)
	return s.export(s.current(), c.now())
}

// MustPutVersion makes a new current version of an arbitrary secret. A nil metadata sets none.
func (c *Cloud) MustPutVersion(secretID, payload string, metadata map[string]any) Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mustSecret(secretID)
	if s.kind != kindArbitrary {
		panic("ibmcloudtest: secret " + secretID + " is not an arbitrary secret")
	}
	v := c.addVersion(s, &version{customMetadata: mustObject(metadata), value: &value{payload: payload}}, c.adminKey.owner)
	return s.export(v, c.now())
}

// MustSetVersionMetadata replaces the custom metadata of a version: an id, "current" or "previous".
func (c *Cloud) MustSetVersionMetadata(secretID, version string, metadata map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mustVersion(secretID, version).customMetadata = mustObject(metadata)
}

// MustLock attaches a lock to a version: an id, "current" or "previous".
func (c *Cloud) MustLock(secretID, version, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.mustVersion(secretID, version).attach(&lock{name: name, createdBy: c.adminKey.owner.iamID, createdAt: now, updatedAt: now})
}

// MustUnlock removes every lock of a secret.
func (c *Cloud) MustUnlock(secretID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range c.mustSecret(secretID).versions {
		v.detach(nil)
	}
}

// MustDeleteSecret deletes a secret, locked or not.
func (c *Cloud) MustDeleteSecret(secretID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeSecret(c.mustSecret(secretID))
}

func (c *Cloud) mustSecret(id string) *secret {
	s, ok := c.secrets[id]
	if !ok {
		panic("ibmcloudtest: no secret " + id)
	}
	return s
}

func (c *Cloud) mustVersion(secretID, ref string) *version {
	v := c.mustSecret(secretID).version(ref)
	if v == nil {
		panic(fmt.Sprintf("ibmcloudtest: secret %s has no version %s", secretID, ref))
	}
	return v
}

// mustObject encodes metadata; nil means none.
func mustObject(object map[string]any) json.RawMessage {
	if object == nil {
		return nil
	}
	raw, err := json.Marshal(object)
	if err != nil {
		panic("ibmcloudtest: metadata or data is not JSON: " + err.Error())
	}
	return raw
}

func (s *secret) export(v *version, now time.Time) Version {
	out := Version{
		ID: v.id, CreatedAt: v.createdAt.UTC().Truncate(time.Millisecond), CreatedBy: v.createdBy,
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
	if isNull(raw) {
		return nil
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		panic("ibmcloudtest: stored JSON does not decode: " + err.Error())
	}
	return object
}
