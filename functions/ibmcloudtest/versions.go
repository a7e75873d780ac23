package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// maxVersions is the number of versions that a secret keeps. Only the two newest keep their value, too.
const maxVersions = 50

type version struct {
	creation
	id             string
	autoRotated    bool            // created by the rotation rule of its secret
	downloaded     bool            // its value has been read
	customMetadata json.RawMessage // a JSON object, or empty
	locks          []*lock         // oldest first
	value          *value          // nil: no longer available
	token          *storedToken    // the token in its value, kept when the value is gone; nil if none
}

// A value is the content of a version. The secret's type decides which field is set.
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

// version returns the version with this id or alias, or nil.
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

// addVersion makes v the current version. The current version becomes the previous one, and the version
// before that loses its value. The caller holds c.mu and has checked the locks.
func (c *Cloud) addVersion(s *secret, v *version, by string, now time.Time) *version {
	v.creation, v.id, v.token = c.newCreation(by, now), uuid.NewString(), c.tokenIn(v.value)
	s.versions = append(s.versions, v)
	if n := len(s.versions); n > 2 {
		older := s.versions[n-3]
		if older.value != nil && older.value.key != nil && !older.value.key.leaseEnds.IsZero() && c.settings.OlderKey == "ttl" {
			older.value = nil // so that discardValue leaves its key, which works until its lease ends
		}
		c.discardValue(s, older)
	}
	if len(s.versions) > maxVersions {
		s.versions = slices.Clone(s.versions[1:])
	}
	s.updatedAt = now
	return v
}

// discardValue removes a version's value, and deletes its key unless another version has the same key.
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

// json renders a version with a value, or with nil only its metadata.
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

// createVersion adds a version, which becomes current. A lock on the previous version forbids it, because
// that version would lose its value. A lock on the current version stays on it when it becomes previous.
func (c *Cloud) createVersion(in *call) (any, error) {
	s := in.secret
	p, err := c.decodeSecret(in, s.kind, "custom_metadata version_custom_metadata", kindFields[s.kind].version)
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

// listVersions lists the versions, the newest first.
func (c *Cloud) listVersions(in *call) any {
	list := rendered(in.secret.versions, func(v *version) object { return v.json(in.secret, in.now, nil) })
	slices.Reverse(list)
	return object{"versions": list, "total_count": len(list)}
}

func (c *Cloud) getVersion(in *call) (any, error) {
	value, err := c.readValue(in.secret, in.version, in.now)
	if err != nil {
		return nil, err
	}
	return in.version.json(in.secret, in.now, value), nil
}

func (c *Cloud) versionMetadata(in *call) any { return in.version.json(in.secret, in.now, nil) }

// patchVersionMetadata replaces the version's custom metadata; it does not merge them.
func (c *Cloud) patchVersionMetadata(in *call, p *secretPrototype) (any, error) {
	if len(p.VersionCustomMetadata) > 0 {
		in.version.customMetadata = p.VersionCustomMetadata
	}
	return c.versionMetadata(in), nil
}

// Modes of creating locks. Both remove locks of the same names from the previous version. The second
// also deletes that version's value if it has no other lock.
const (
	modeRemovePrevious          = "remove_previous"
	modeRemovePreviousAndDelete = "remove_previous_and_delete"
)

const maxLocks = 1000 // of a secret

// A lock prevents that a version loses its value, by the deletion of its secret or by the version after next.
type lock struct {
	creation
	lockPrototype
	updatedAt time.Time
}

type lockPrototype struct {
	Name        string          `json:"name"` // unique per version
	Description string          `json:"description"`
	Attributes  json.RawMessage `json:"attributes"`
}

type locksPrototype struct {
	Locks []lockPrototype `json:"locks"`
}

func (p *locksPrototype) check(*Cloud, *call) error {
	rules := []rule{{len(p.Locks) == 0, "locks", "must not be empty"}}
	for _, l := range p.Locks {
		rules = append(rules, length("locks.name", &l.Name, 1, 64), length("locks.description", &l.Description, 0, 1024),
			rule{!isObjectOrNull(l.Attributes), "locks.attributes", "must be a JSON object"})
	}
	return check(rules...)
}

// isLocked reports whether a version is locked; a nil one is not.
func (v *version) isLocked() bool { return v != nil && len(v.locks) > 0 }

// attach adds a lock, or replaces the one of the same name.
func (c *Cloud) attach(v *version, p lockPrototype, by *identity, now time.Time) {
	l := &lock{c.newCreation(by.iamID, now), p, now}
	i := slices.IndexFunc(v.locks, func(old *lock) bool { return old.Name == p.Name })
	if i < 0 {
		v.locks = append(v.locks, l)
		return
	}
	l.at, v.locks[i] = v.locks[i].at, l
}

// detach removes the locks of the given names, all of them if none is given.
func (v *version) detach(names []string) {
	v.locks = slices.DeleteFunc(v.locks, func(l *lock) bool { return listed(names, l.Name) })
}

func (s *secret) locksTotal() (total int) {
	for _, v := range s.versions {
		total += len(v.locks)
	}
	return total
}

// locksJSON renders a secret with the names of the locks on its current and previous versions. Other
// versions cannot have locks.
func (s *secret) locksJSON(now time.Time) object {
	newest := slices.Clone(s.versions[max(0, len(s.versions)-2):])
	slices.Reverse(newest)
	versions := rendered(newest, func(v *version) object {
		names := make([]string, len(v.locks))
		for i, l := range v.locks {
			names[i] = l.Name
		}
		return object{"version_id": v.id, "version_alias": s.alias(v), "locks": names, "payload_available": s.available(v, now)}
	})
	return object{"secret_id": s.id, "secret_name": s.name, "secret_type": s.kind, "secret_group_id": s.groupID, "versions": versions}
}

// createLocks attaches the locks of the body to the version that the path names, or to the current one. A lock
// of the same name is replaced.
func (c *Cloud) createLocks(in *call, p *locksPrototype) (any, error) {
	s, v, mode := in.secret, cmp.Or(in.version, in.secret.current()), in.query.Get("mode")
	switch {
	case !slices.Contains([]string{"", modeRemovePrevious, modeRemovePreviousAndDelete}, mode):
		return nil, badField("mode", "must be remove_previous or remove_previous_and_delete")
	case s.alias(v) == "":
		return nil, badRequest("Only the current and the previous version can be locked.")
	case s.locksTotal()+len(p.Locks) > maxLocks:
		return nil, badRequest("The secret has as many locks as it can hold.")
	}
	previous := s.previous()
	for _, l := range p.Locks {
		c.attach(v, l, in.caller, in.now)
		if mode != "" && previous != nil && previous != v {
			previous.detach([]string{l.Name})
		}
	}
	if mode == modeRemovePreviousAndDelete && previous != nil && previous != v && !previous.isLocked() {
		c.discardValue(s, previous)
	}
	return s.locksJSON(in.now), nil
}

// versions returns the version that the path names, or all versions of the secret.
func (in *call) versions() []*version {
	if in.version != nil {
		return []*version{in.version}
	}
	return in.secret.versions
}

func (c *Cloud) deleteLocks(in *call) (any, error) {
	for _, v := range in.versions() {
		v.detach(listOf(in.query.Get("name")))
	}
	return in.secret.locksJSON(in.now), nil
}

func (c *Cloud) listLocks(in *call) (any, error) {
	s, locks := in.secret, []object{}
	for _, v := range in.versions() {
		for _, l := range v.locks {
			if !strings.Contains(l.Name, in.query.Get("search")) {
				continue
			}
			out := object{
				"name": l.Name, "created_by": l.by, "created_at": timestamp(l.at), "updated_at": timestamp(l.updatedAt),
				"secret_id": s.id, "secret_group_id": s.groupID, "secret_version_id": v.id, "secret_version_alias": s.alias(v),
			}
			out.set("description", l.Description)
			out.set("attributes", l.Attributes)
			locks = append(locks, out)
		}
	}
	if err := in.sorted(locks, "name", "created_at", "updated_at"); err != nil {
		return nil, err
	}
	return in.paginate("locks", locks, 25)
}

func (c *Cloud) listAllLocks(in *call) (any, error) {
	groups := listOf(in.query.Get("groups"))
	isWanted := func(l *lock) bool { return strings.Contains(l.Name, in.query.Get("search")) }
	locked := c.visibleSecrets(in, func(s *secret) bool {
		return listed(groups, s.groupID) && slices.ContainsFunc(s.versions, func(v *version) bool { return slices.ContainsFunc(v.locks, isWanted) })
	})
	return in.paginate("secrets_locks", rendered(locked, func(s *secret) object { return s.locksJSON(in.now) }), 25)
}
