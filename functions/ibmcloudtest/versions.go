package ibmcloudtest

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
)

// maxVersions is how many versions keep their metadata. Only the two newest keep their value.
const maxVersions = 50

type version struct {
	made
	id             string
	autoRotated    bool            // made by the rule of its secret
	downloaded     bool            // its value has been read
	customMetadata json.RawMessage // a JSON object, or empty
	locks          []*lock         // by age
	value          *value          // nil: no longer available
	token          *storedToken    // that its value is or was, nil if none
}

// A value is what a version protects; one field is set, by the secret's type.
type value struct {
	payload string          // arbitrary
	data    json.RawMessage // kv, a JSON object
	key     *apiKey         // iam_credentials, service_credentials
}

func (s *secret) current() *version { return s.versions[len(s.versions)-1] }

// previous returns the version before the current one, or nil.
func (s *secret) previous() *version {
	if len(s.versions) < 2 {
		return nil
	}
	return s.versions[len(s.versions)-2]
}

// version returns the version that an id or an alias names, or nil.
func (s *secret) version(ref string) *version {
	for _, v := range s.versions {
		if v.id == ref || ref != "" && s.alias(v) == ref {
			return v
		}
	}
	return nil
}

// alias is "current", "previous" or "".
func (s *secret) alias(v *version) string {
	switch v {
	case s.current():
		return "current"
	case s.previous():
		return "previous"
	}
	return ""
}

// addVersion makes v the current version: the current one becomes previous, and the one before
// loses its value. The caller holds c.mu and has checked the locks.
func (c *Cloud) addVersion(s *secret, v *version, by string, now time.Time) *version {
	v.made, v.id, v.token = c.newMade(by, now), uuid.NewString(), c.tokenIn(v.value)
	s.versions = append(s.versions, v)
	if n := len(s.versions); n > 2 {
		older := s.versions[n-3]
		if older.value != nil && older.value.key != nil && !older.value.key.leaseEnds.IsZero() && c.settings.OlderKey == "ttl" {
			older.value = nil // its key works on
		}
		c.discardValue(s, older)
	}
	if len(s.versions) > maxVersions {
		s.versions = slices.Clone(s.versions[1:])
	}
	s.updatedAt = now
	return v
}

// discardValue takes a version's value away, and its key with it unless another version holds that.
func (c *Cloud) discardValue(s *secret, v *version) {
	gone := v.value
	v.value = nil
	if gone == nil || gone.key == nil {
		return
	}
	if !slices.ContainsFunc(s.versions, func(other *version) bool { return other.value != nil && other.value.key == gone.key }) {
		c.dropKey(s.minting, gone.key)
	}
}

// available reports whether the version's value can still be read.
func (s *secret) available(v *version, now time.Time) bool {
	return v.value != nil && !s.isDestroyed(now) && (v.value.key == nil || !v.value.key.ended(now))
}

// json renders a version: with its value, or as metadata with a nil one.
func (v *version) json(s *secret, now time.Time, value *value) object {
	out := object{
		"id": v.id, "secret_id": s.id, "secret_name": s.name, "secret_type": s.kind, "secret_group_id": s.groupID,
		"created_by": v.by, "created_at": timestamp(v.at), "auto_rotated": v.autoRotated, "downloaded": v.downloaded,
		"payload_available": s.available(v, now),
	}
	out.set("alias", s.alias(v))
	out.set("expiration_date", s.expires(v))
	v.addKeyID(out, s, now)
	out.set("version_custom_metadata", v.customMetadata)
	s.addValue(out, value)
	return out
}

// createVersion makes a new current version. A lock on previous forbids it, because that version
// would lose its value; a lock on current travels with its version to previous.
func (c *Cloud) createVersion(in *call) (any, error) {
	s := in.secret
	p, err := c.decodeSecret(in, s.kind, []string{"custom_metadata", "version_custom_metadata"}, kindFields[s.kind].version)
	switch {
	case err != nil:
		return nil, err
	case s.isDestroyed(in.now):
		return nil, c.destroyed()
	case s.previous().isLocked():
		return nil, published("version_locked")
	}
	v := &version{customMetadata: p.VersionCustomMetadata, value: &value{payload: deref(p.Payload), data: p.Data}}
	if s.minting == nil {
		c.addVersion(s, v, in.caller.iamID, in.now)
	} else if v, err = c.rotate(s, p, in.caller.iamID, in.now); err != nil {
		return nil, err
	}
	if len(p.CustomMetadata) > 0 {
		s.customMetadata = p.CustomMetadata
	}
	return v.json(s, in.now, v.value), nil
}

// listVersions lists the newest first.
func (c *Cloud) listVersions(in *call) (any, error) {
	list := rendered(in.secret.versions, func(v *version) object { return v.json(in.secret, in.now, nil) })
	slices.Reverse(list)
	return object{"versions": list, "total_count": len(list)}, nil
}

func (c *Cloud) getVersion(in *call) (any, error) {
	value, err := c.readValue(in.secret, in.version, in.now)
	if err != nil {
		return nil, err
	}
	return in.version.json(in.secret, in.now, value), nil
}

func (c *Cloud) getVersionMetadata(in *call) (any, error) {
	return in.version.json(in.secret, in.now, nil), nil
}

// patchVersionMetadata replaces the version's custom metadata, whole.
func (c *Cloud) patchVersionMetadata(in *call, p *secretPrototype) (any, error) {
	if err := c.check(p, in.now); err != nil {
		return nil, err
	}
	if len(p.VersionCustomMetadata) > 0 {
		in.version.customMetadata = p.VersionCustomMetadata
	}
	return c.getVersionMetadata(in)
}
