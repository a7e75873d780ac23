package ibmcloudtest

import (
	"encoding/json"
	"time"
)

// maxVersions is how many versions keep their metadata. Only the two newest keep their value.
const maxVersions = 50

// A version of a secret.
type version struct {
	id             string
	createdBy      string
	createdAt      time.Time
	downloaded     bool            // its value has been read
	customMetadata json.RawMessage // a JSON object, or empty
	locks          []*lock         // by age
	value          *value          // nil: no longer available
}

// A value is what a version protects; one field is set, by the secret's type.
type value struct {
	payload string          // arbitrary
	data    json.RawMessage // kv, a JSON object
	key     *apiKey         // iam_credentials, service_credentials
}

// addVersion makes v the current version: the current one becomes previous, and the one before
// loses its value. The caller holds c.mu and has looked for locks.
func (c *Cloud) addVersion(s *secret, v *version, by *identity) *version {
	now := c.now()
	v.id, v.createdBy, v.createdAt = newUUID(), by.iamID, now
	s.versions = append(s.versions, v)
	if n := len(s.versions); n > 2 {
		c.discardValue(s.versions[n-3])
	}
	if len(s.versions) > maxVersions {
		s.versions = append([]*version(nil), s.versions[1:]...)
	}
	s.updatedAt = now
	return v
}

// discardValue takes a version's value away, and its key with it.
func (c *Cloud) discardValue(v *version) {
	if v.value != nil && v.value.key != nil {
		delete(c.keys, v.value.key.value)
	}
	v.value = nil
}

// available tells whether the version's value can still be read.
func (s *secret) available(v *version, now time.Time) bool {
	return v.value != nil && !s.isDestroyed(now)
}

// isLocked tells whether a version is locked; a nil one is not.
func (v *version) isLocked() bool { return v != nil && len(v.locks) > 0 }
