package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
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
	v.locks = slices.DeleteFunc(v.locks, func(l *lock) bool {
		return len(names) == 0 || slices.Contains(names, l.name)
	})
}

// hasLockLike reports whether the name of one of the secret's locks contains text.
func (s *secret) hasLockLike(text string) bool {
	for _, v := range s.versions {
		if slices.ContainsFunc(v.locks, func(l *lock) bool { return strings.Contains(l.name, text) }) {
			return true
		}
	}
	return false
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
	secretOp(OpLocks, actLocksCreate, "POST /secrets/{id}/locks_bulk", http.StatusCreated, (*Cloud).createLocks),
	secretOp(OpLocks, actLocksDelete, "DELETE /secrets/{id}/locks_bulk", http.StatusOK, (*Cloud).deleteLocks),
	secretOp(OpLocks, actLocksList, "GET /secrets/{id}/locks", http.StatusOK, (*Cloud).listLocks),
	secretOp(OpLocks, actVersionLocksCreate, "POST /secrets/{id}/versions/{version}/locks_bulk", http.StatusCreated, (*Cloud).createLocks),
	secretOp(OpLocks, actVersionLocksDelete, "DELETE /secrets/{id}/versions/{version}/locks_bulk", http.StatusOK, (*Cloud).deleteLocks),
	secretOp(OpLocks, actVersionLocksList, "GET /secrets/{id}/versions/{version}/locks", http.StatusOK, (*Cloud).listLocks),
	secretOp(OpLocks, actLocksList, "GET /secrets_locks", http.StatusOK, (*Cloud).listAllLocks),
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

// deleteLocks removes locks by name, or all.
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

// listLocks pages through the locks, by name if the query searches.
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

// listAllLocks pages through the secrets that have locks.
func (c *Cloud) listAllLocks(in *call) (any, error) {
	query := in.request.URL.Query()
	groups := listOf(query.Get("groups"))
	locked := c.visibleSecrets(in, actLocksList, func(s *secret) bool {
		return s.locksTotal() > 0 && (len(groups) == 0 || slices.Contains(groups, s.groupID)) && s.hasLockLike(query.Get("search"))
	})
	return paginate(in, "secrets_locks", locked, 25, func(s *secret) object { return s.locksJSON(in.now) })
}
