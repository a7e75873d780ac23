package ibmcloudtest

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// maxVersions is how many versions keep their metadata. Only the two newest keep their value.
const maxVersions = 50

// A version of a secret.
type version struct {
	id             string
	createdBy      string
	createdAt      time.Time
	autoRotated    bool            // made by the rule of its secret
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
// loses its value. The caller holds c.mu and has checked the locks.
func (c *Cloud) addVersion(s *secret, v *version, by string, now time.Time) *version {
	v.id, v.createdBy, v.createdAt = uuid.NewString(), by, now
	s.versions = append(s.versions, v)
	if n := len(s.versions); n > 2 {
		if older := s.versions[n-3]; older.value != nil && older.value.key != nil && !older.value.key.leaseEnds.IsZero() && c.settings.OlderKey == "ttl" {
			older.value = nil // its key works on
		} else {
			c.discardValue(s, older)
		}
	}
	if len(s.versions) > maxVersions {
		s.versions = append([]*version(nil), s.versions[1:]...)
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

// isLocked reports whether a version is locked; a nil one is not.
func (v *version) isLocked() bool { return v != nil && len(v.locks) > 0 }

var versionOperations = []operation{
	secretOp(OpVersionsCreate, actVersionCreate, "POST /secrets/{id}/versions", http.StatusCreated, (*Cloud).createVersion),
	secretOp(OpVersionsList, actVersionsList, "GET /secrets/{id}/versions", http.StatusOK, (*Cloud).listVersions),
	secretOp(OpVersionsGet, actVersionRead, "GET /secrets/{id}/versions/{version}", http.StatusOK, (*Cloud).getVersion),
	secretOp(OpVersionsMetadata, actVersionMetadataRead, "GET /secrets/{id}/versions/{version}/metadata", http.StatusOK, (*Cloud).getVersionMetadata),
	secretOp(OpVersionsPatch, actVersionMetadataUpdate, "PATCH /secrets/{id}/versions/{version}/metadata", http.StatusOK, (*Cloud).patchVersionMetadata),
}

// json renders a version: with its value, or as metadata with a nil one.
func (v *version) json(s *secret, now time.Time, value *value) object {
	out := object{
		"id": v.id, "secret_id": s.id, "secret_name": s.name, "secret_type": s.kind, "secret_group_id": s.groupID,
		"created_by": v.createdBy, "created_at": timestamp(v.createdAt), "auto_rotated": v.autoRotated, "downloaded": v.downloaded,
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
	p, err := in.decodeVersion(s.kind)
	if err != nil {
		return nil, err
	}
	if err := c.check(p, in.now); err != nil {
		return nil, err
	}
	if s.isDestroyed(in.now) {
		return nil, c.destroyed()
	}
	if s.previous().isLocked() {
		return nil, locked()
	}
	v := &version{customMetadata: p.VersionCustomMetadata, value: &value{payload: deref(p.Payload), data: p.Data}}
	if s.minting == nil {
		c.addVersion(s, v, in.caller.iamID, in.now)
	} else if v, err = c.rotate(s, p, in); err != nil {
		return nil, err
	}
	if len(p.CustomMetadata) > 0 {
		s.customMetadata = p.CustomMetadata
	}
	return v.json(s, in.now, v.value), nil
}

// listVersions lists the newest first.
func (c *Cloud) listVersions(in *call) (any, error) {
	s := in.secret
	list := make([]object, len(s.versions))
	for i, v := range s.versions {
		list[len(list)-1-i] = v.json(s, in.now, nil)
	}
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
func (c *Cloud) patchVersionMetadata(in *call) (any, error) {
	s, v := in.secret, in.version
	var p secretPrototype
	if err := in.decode(&p, mediaMergePatch, "version_custom_metadata"); err != nil {
		return nil, err
	}
	if err := c.check(&p, in.now); err != nil {
		return nil, err
	}
	if len(p.VersionCustomMetadata) > 0 {
		v.customMetadata = p.VersionCustomMetadata
	}
	return v.json(s, in.now, nil), nil
}
