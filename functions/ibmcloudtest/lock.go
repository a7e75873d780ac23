package ibmcloudtest

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Modes of making locks. Both remove locks of the same names from the previous version; the second
// also deletes that version's value if no lock is left on it.
const (
	modeRemovePrevious          = "remove_previous"
	modeRemovePreviousAndDelete = "remove_previous_and_delete"
)

// maxLocks is how many locks the versions of a secret can have together.
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
	switch {
	case p.Name == "" || len(p.Name) > maxGroupName:
		return badField("locks.name", "must have 1 to 64 characters")
	case !isNull(p.Attributes):
		if _, ok := members(p.Attributes); !ok {
			return badField("locks.attributes", "must be a JSON object")
		}
	}
	return checkDescription(&p.Description)
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
	v.locks = slices.DeleteFunc(v.locks, func(l *lock) bool {
		return len(names) == 0 || slices.Contains(names, l.name)
	})
}

// hasLockLike tells whether the name of one of the secret's locks contains text.
func (s *secret) hasLockLike(text string) bool {
	for _, v := range s.versions {
		if slices.ContainsFunc(v.locks, func(l *lock) bool { return strings.Contains(l.name, text) }) {
			return true
		}
	}
	return false
}

type lockJSON struct {
	Name               string          `json:"name"`
	Description        string          `json:"description,omitempty"`
	Attributes         json.RawMessage `json:"attributes,omitempty"`
	CreatedBy          string          `json:"created_by"`
	CreatedAt          string          `json:"created_at"`
	UpdatedAt          string          `json:"updated_at"`
	SecretID           string          `json:"secret_id"`
	SecretGroupID      string          `json:"secret_group_id"`
	SecretVersionID    string          `json:"secret_version_id"`
	SecretVersionAlias string          `json:"secret_version_alias"`
}

func (s *secret) lockJSON(v *version, l *lock) lockJSON {
	return lockJSON{
		Name: l.name, Description: l.description, Attributes: l.attributes,
		CreatedBy: l.createdBy, CreatedAt: timestamp(l.createdAt), UpdatedAt: timestamp(l.updatedAt),
		SecretID: s.id, SecretGroupID: s.groupID, SecretVersionID: v.id, SecretVersionAlias: s.alias(v),
	}
}

// locksJSON is a secret with the names of the locks on its versions.
type locksJSON struct {
	SecretID      string             `json:"secret_id"`
	SecretName    string             `json:"secret_name"`
	SecretType    string             `json:"secret_type"`
	SecretGroupID string             `json:"secret_group_id"`
	Versions      []versionLocksJSON `json:"versions"`
}

type versionLocksJSON struct {
	VersionID        string   `json:"version_id"`
	VersionAlias     string   `json:"version_alias"`
	Locks            []string `json:"locks"`
	PayloadAvailable bool     `json:"payload_available"`
}

// locksJSON shows the current and the previous version, the only ones that can have locks.
func (s *secret) locksJSON(now time.Time) locksJSON {
	out := locksJSON{SecretID: s.id, SecretName: s.name, SecretType: s.kind, SecretGroupID: s.groupID}
	for _, v := range []*version{s.current(), s.previous()} {
		if v == nil {
			continue
		}
		names := make([]string, len(v.locks))
		for i, l := range v.locks {
			names[i] = l.name
		}
		out.Versions = append(out.Versions, versionLocksJSON{v.id, s.alias(v), names, s.available(v, now)})
	}
	return out
}
