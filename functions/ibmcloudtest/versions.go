package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// maxVersions is how many versions keep their metadata. Only the two newest keep their value.
const maxVersions = 50

type version struct {
	id             string
	createdBy      string
	createdAt      time.Time
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

// addVersion makes v the current version: the current one becomes previous, and the one before
// loses its value. The caller holds c.mu and has checked the locks.
func (c *Cloud) addVersion(s *secret, v *version, by string, now time.Time) *version {
	v.id, v.createdBy, v.createdAt, v.token = uuid.NewString(), by, now, c.tokenIn(v.value)
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
	secretOp(OpVersionsCreate, "secret-version.create", "POST /secrets/{id}/versions", http.StatusCreated, (*Cloud).createVersion),
	secretOp("versions.list", "secret-versions.list", "GET /secrets/{id}/versions", http.StatusOK, (*Cloud).listVersions),
	secretOp(OpVersionsGet, "secret-version.read", "GET /secrets/{id}/versions/{version}", http.StatusOK, (*Cloud).getVersion),
	secretOp(OpVersionsMetadata, "secret-version-metadata.read", "GET /secrets/{id}/versions/{version}/metadata", http.StatusOK, (*Cloud).getVersionMetadata),
	secretOp("versions.patch", "secret-version-metadata.update", "PATCH /secrets/{id}/versions/{version}/metadata", http.StatusOK, (*Cloud).patchVersionMetadata),
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
	p, err := in.decodeSecret(s.kind, mediaJSON, commonVersionFields, kindFields[s.kind].version)
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

// Modes of making locks. Both remove locks of the same names from the previous version; the second
// also deletes that version's value if no lock is left on it.
const (
	modeRemovePrevious          = "remove_previous"
	modeRemovePreviousAndDelete = "remove_previous_and_delete"
)

const maxLocks = 1000

// A lock keeps a version's value from being lost: to deletion, or to the version after next.
type lock struct {
	name                 string // unique per version
	description          string
	attributes           json.RawMessage
	createdBy            string
	createdAt, updatedAt time.Time
}

type lockPrototype struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Attributes  json.RawMessage `json:"attributes"`
}

func (p *lockPrototype) check() error {
	return check(
		rule{p.Name == "" || len(p.Name) > maxGroupName, "locks.name", "must have 1 to 64 characters"},
		rule{!isObjectOrNull(p.Attributes), "locks.attributes", "must be a JSON object"},
		rule{outside(&p.Description, 0, maxDescription), "description", fmt.Sprintf("must have at most %d characters", maxDescription)},
	)
}

// attach adds a lock, or replaces the one of the same name.
func (v *version) attach(l *lock) {
	for i, old := range v.locks {
		if old.name == l.name {
			l.createdAt = old.createdAt
			v.locks[i] = l
			return
		}
	}
	v.locks = append(v.locks, l)
}

// detach removes the locks of the given names, all of them if none is given.
func (v *version) detach(names []string) {
	v.locks = slices.DeleteFunc(v.locks, func(l *lock) bool { return listed(names, l.name) })
}

// hasLockLike reports whether the name of one of the secret's locks contains text.
func (s *secret) hasLockLike(text string) bool {
	return slices.ContainsFunc(s.versions, func(v *version) bool {
		return slices.ContainsFunc(v.locks, func(l *lock) bool { return strings.Contains(l.name, text) })
	})
}

func (s *secret) lockJSON(v *version, l *lock) object {
	out := object{
		"name": l.name, "created_by": l.createdBy, "created_at": timestamp(l.createdAt), "updated_at": timestamp(l.updatedAt),
		"secret_id": s.id, "secret_group_id": s.groupID, "secret_version_id": v.id, "secret_version_alias": s.alias(v),
	}
	out.set("description", l.description)
	out.set("attributes", l.attributes)
	return out
}

// locksJSON is a secret with the names of the locks on its current and its previous version, the only ones that can have
// some.
func (s *secret) locksJSON(now time.Time) object {
	var versions []object
	for _, v := range []*version{s.current(), s.previous()} {
		if v == nil {
			continue
		}
		names := make([]string, len(v.locks))
		for i, l := range v.locks {
			names[i] = l.name
		}
		versions = append(versions, object{"version_id": v.id, "version_alias": s.alias(v), "locks": names, "payload_available": s.available(v, now)})
	}
	return object{"secret_id": s.id, "secret_name": s.name, "secret_type": s.kind, "secret_group_id": s.groupID, "versions": versions}
}

var lockOperations = []operation{
	secretOp(OpLocks, "secret-locks.create", "POST /secrets/{id}/locks_bulk", http.StatusCreated, (*Cloud).createLocks),
	secretOp(OpLocks, "secret-locks.delete", "DELETE /secrets/{id}/locks_bulk", http.StatusOK, (*Cloud).deleteLocks),
	secretOp(OpLocks, "secrets-locks.list", "GET /secrets/{id}/locks", http.StatusOK, (*Cloud).listLocks),
	secretOp(OpLocks, "secret-version-locks.create", "POST /secrets/{id}/versions/{version}/locks_bulk", http.StatusCreated, (*Cloud).createLocks),
	secretOp(OpLocks, "secret-version-locks.delete", "DELETE /secrets/{id}/versions/{version}/locks_bulk", http.StatusOK, (*Cloud).deleteLocks),
	secretOp(OpLocks, "secret-version-locks.list", "GET /secrets/{id}/versions/{version}/locks", http.StatusOK, (*Cloud).listLocks),
	secretOp(OpLocks, "secrets-locks.list", "GET /secrets_locks", http.StatusOK, (*Cloud).listAllLocks),
}

// createLocks attaches the locks of the body to the version that the path names, or the current one, replacing those of
// the same name.
func (c *Cloud) createLocks(in *call) (any, error) {
	s, v := in.secret, cmp.Or(in.version, in.secret.current())
	var body struct {
		Locks []lockPrototype `json:"locks"`
	}
	if err := in.decode(&body, mediaJSON, "locks!"); err != nil {
		return nil, err
	}
	for _, p := range body.Locks {
		if err := p.check(); err != nil {
			return nil, err
		}
	}
	mode := in.request.URL.Query().Get("mode")
	switch {
	case mode != "" && mode != modeRemovePrevious && mode != modeRemovePreviousAndDelete:
		return nil, badField("mode", "must be remove_previous or remove_previous_and_delete")
	case len(body.Locks) == 0:
		return nil, badField("locks", "must not be empty")
	case s.alias(v) == "":
		return nil, badRequest("Only the current and the previous version can be locked.")
	case s.locksTotal()+len(body.Locks) > maxLocks:
		return nil, badRequest("The secret has as many locks as it can hold.")
	}
	names := make([]string, len(body.Locks))
	for i, p := range body.Locks {
		names[i] = p.Name
		v.attach(&lock{p.Name, p.Description, p.Attributes, in.caller.iamID, in.now, in.now})
	}
	if previous := s.previous(); mode != "" && previous != nil && previous != v {
		previous.detach(names)
		if mode == modeRemovePreviousAndDelete && !previous.isLocked() {
			c.discardValue(s, previous)
		}
	}
	return s.locksJSON(in.now), nil
}

// versions are the version that the path names, or all of the secret.
func (in *call) versions() []*version {
	if in.version != nil {
		return []*version{in.version}
	}
	return in.secret.versions
}

func (c *Cloud) deleteLocks(in *call) (any, error) {
	for _, v := range in.versions() {
		v.detach(listOf(in.request.URL.Query().Get("name")))
	}
	return in.secret.locksJSON(in.now), nil
}

// lockOrders are the fields a list of locks can be sorted by. Times are compared as they are written.
var lockOrders = map[string]func(a, b object) int{
	"name":       func(a, b object) int { return cmp.Compare(a["name"].(string), b["name"].(string)) },
	"created_at": func(a, b object) int { return cmp.Compare(a["created_at"].(string), b["created_at"].(string)) },
	"updated_at": func(a, b object) int { return cmp.Compare(a["updated_at"].(string), b["updated_at"].(string)) },
}

func (c *Cloud) listLocks(in *call) (any, error) {
	query := in.request.URL.Query()
	locks := []object{}
	for _, v := range in.versions() {
		for _, l := range v.locks {
			if strings.Contains(l.name, query.Get("search")) {
				locks = append(locks, in.secret.lockJSON(v, l))
			}
		}
	}
	if err := sortBy(locks, query.Get("sort"), lockOrders); err != nil {
		return nil, err
	}
	return paginate(in, "locks", locks, 25, func(l object) object { return l })
}

func (c *Cloud) listAllLocks(in *call) (any, error) {
	query := in.request.URL.Query()
	groups := listOf(query.Get("groups"))
	locked := c.visibleSecrets(in, "secrets-locks.list", func(s *secret) bool {
		return listed(groups, s.groupID) && s.hasLockLike(query.Get("search"))
	})
	return paginate(in, "secrets_locks", locked, 25, func(s *secret) object { return s.locksJSON(in.now) })
}
