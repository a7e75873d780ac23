package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"fmt"
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

const maxLocks = 1000 // of a secret

// A lock keeps a version's value from being lost: to deletion, or to the version after next.
type lock struct {
	made
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

func (p *locksPrototype) check() error {
	for _, l := range p.Locks {
		err := check(
			rule{l.Name == "" || len(l.Name) > maxGroupName, "locks.name", "must have 1 to 64 characters"},
			rule{!isObjectOrNull(l.Attributes), "locks.attributes", "must be a JSON object"},
			rule{outside(&l.Description, 0, maxDescription), "description", fmt.Sprintf("must have at most %d characters", maxDescription)},
		)
		if err != nil {
			return err
		}
	}
	return check(rule{len(p.Locks) == 0, "locks", "must not be empty"})
}

// isLocked reports whether a version is locked; a nil one is not.
func (v *version) isLocked() bool { return v != nil && len(v.locks) > 0 }

// attach adds a lock, or replaces the one of the same name.
func (c *Cloud) attach(v *version, p lockPrototype, by *identity, now time.Time) {
	l := &lock{c.newMade(by.iamID, now), p, now}
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

// locksJSON is a secret with the names of the locks on its current and its previous version, the only ones that can have
// some.
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

// createLocks attaches the locks of the body to the version that the path names, or the current one, replacing those of
// the same name.
func (c *Cloud) createLocks(in *call, p *locksPrototype) (any, error) {
	s, v, mode := in.secret, cmp.Or(in.version, in.secret.current()), in.query.Get("mode")
	switch err := p.check(); {
	case err != nil:
		return nil, err
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

// versions are the version that the path names, or all of the secret.
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
