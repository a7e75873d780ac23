package ibmcloudtest

import (
	"encoding/json"
	"net/http"
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

var versionOperations = []operation{
	op(OpVersionsCreate, serviceSecretsManager, http.MethodPost, "/api/v2/secrets/{id}/versions", http.StatusCreated, (*Cloud).createVersion),
	op(OpVersionsList, serviceSecretsManager, http.MethodGet, "/api/v2/secrets/{id}/versions", http.StatusOK, (*Cloud).listVersions),
	op(OpVersionsGet, serviceSecretsManager, http.MethodGet, "/api/v2/secrets/{id}/versions/{version}", http.StatusOK, (*Cloud).getVersion),
	op(OpVersionsMetadata, serviceSecretsManager, http.MethodGet,
		"/api/v2/secrets/{id}/versions/{version}/metadata", http.StatusOK, (*Cloud).getVersionMetadata),
	op(OpVersionsPatch, serviceSecretsManager, http.MethodPatch,
		"/api/v2/secrets/{id}/versions/{version}/metadata", http.StatusOK, (*Cloud).patchVersionMetadata),
}

// versionJSON is a version or its metadata, of any type of secret.
type versionJSON struct {
	ID                    string          `json:"id"`
	SecretID              string          `json:"secret_id"`
	SecretName            string          `json:"secret_name"`
	SecretType            string          `json:"secret_type"`
	SecretGroupID         string          `json:"secret_group_id"`
	CreatedBy             string          `json:"created_by"`
	CreatedAt             string          `json:"created_at"`
	Alias                 string          `json:"alias,omitempty"`
	AutoRotated           bool            `json:"auto_rotated"`
	Downloaded            bool            `json:"downloaded"`
	PayloadAvailable      bool            `json:"payload_available"`
	ExpirationDate        string          `json:"expiration_date,omitempty"`
	VersionCustomMetadata json.RawMessage `json:"version_custom_metadata,omitempty"`
	valueJSON
}

// versionJSON renders a version: with its value, or as metadata with a nil one.
func (s *secret) versionJSON(v *version, now time.Time, value *value) versionJSON {
	out := versionJSON{
		ID: v.id, SecretID: s.id, SecretName: s.name, SecretType: s.kind, SecretGroupID: s.groupID,
		CreatedBy: v.createdBy, CreatedAt: timestamp(v.createdAt), Alias: s.alias(v), Downloaded: v.downloaded,
		PayloadAvailable: s.available(v, now), VersionCustomMetadata: v.customMetadata,
		valueJSON: s.valueJSON(value),
	}
	if !s.expiration.IsZero() {
		out.ExpirationDate = timestamp(s.expiration)
	}
	return out
}

// versionFor returns the secret and the version that the path names, if the caller may do a.
func (c *Cloud) versionFor(in *call, a action) (*secret, *version, error) {
	s, err := c.secretFor(in, a)
	if err != nil {
		return nil, nil, err
	}
	v := s.version(in.params[1])
	if v == nil {
		return nil, nil, notFound("secret version")
	}
	return s, v, nil
}

// createVersion makes a new current version. A lock on previous forbids it, since that version
// would lose its value; a lock on current travels with its version to previous.
func (c *Cloud) createVersion(in *call) (any, error) {
	s, err := c.secretFor(in, actVersionCreate)
	if err != nil {
		return nil, err
	}
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
	next := &value{payload: deref(p.Payload), data: p.Data}
	if s.minting != nil {
		next = c.mint(s.minting, in.now)
	}
	if len(p.CustomMetadata) > 0 {
		s.customMetadata = p.CustomMetadata
	}
	v := c.addVersion(s, &version{customMetadata: p.VersionCustomMetadata, value: next}, in.caller)
	return s.versionJSON(v, in.now, v.value), nil
}

// listVersions lists the newest first.
func (c *Cloud) listVersions(in *call) (any, error) {
	s, err := c.secretFor(in, actVersionsList)
	if err != nil {
		return nil, err
	}
	list := make([]versionJSON, len(s.versions))
	for i, v := range s.versions {
		list[len(list)-1-i] = s.versionJSON(v, in.now, nil)
	}
	return map[string]any{"versions": list, "total_count": len(list)}, nil
}

func (c *Cloud) getVersion(in *call) (any, error) {
	s, v, err := c.versionFor(in, actVersionRead)
	if err != nil {
		return nil, err
	}
	value, err := c.readValue(s, v, in.now)
	if err != nil {
		return nil, err
	}
	return s.versionJSON(v, in.now, value), nil
}

func (c *Cloud) getVersionMetadata(in *call) (any, error) {
	s, v, err := c.versionFor(in, actVersionMetadataRead)
	if err != nil {
		return nil, err
	}
	return s.versionJSON(v, in.now, nil), nil
}

// patchVersionMetadata replaces the version's custom metadata, whole.
func (c *Cloud) patchVersionMetadata(in *call) (any, error) {
	s, v, err := c.versionFor(in, actVersionMetadataUpdate)
	if err != nil {
		return nil, err
	}
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
	return s.versionJSON(v, in.now, nil), nil
}
