package ibmcloudtest

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// An action is what a Secrets Manager policy allows, without the prefix "secrets-manager.".
type action string

type role map[action]bool

func newRole(base role, actions ...action) role {
	r := role{}
	maps.Copy(r, base)
	for _, a := range actions {
		r[a] = true
	}
	return r
}

// IBM's service roles, each holding what the one before holds, and the two custom roles of the
// bootstrap identity.
var (
	roleReader = newRole(nil, "secret-metadata.read", "secrets.list", "secret-versions.list",
		"secret-version-metadata.read", "secret-version-locks.list", "secrets-locks.list")
	roleSecretsReader = newRole(roleReader, "secret.read", "secret-version.read")
	roleWriter        = newRole(roleSecretsReader, "secret-version.create", "secret.create", "secret-metadata.update",
		"secret-version-metadata.update", "secret-locks.create", "secret-version-locks.create")
	roleManager = newRole(roleWriter, "secret.delete", "secret-locks.delete", "secret-version-locks.delete",
		"secret-group.create", "secret-group.read", "secret-group.update", "secret-group.delete", "secret-groups.list")

	roleKeyReader      = newRole(nil, "secret.read")
	roleTokenPublisher = newRole(nil, "secret-version.create", "secret-version-metadata.read", "secret-metadata.read", "secret-version-locks.list")
)

// wholeInstance is the scope of a policy that names no secret group.
const wholeInstance = ""

// A policy grants a role on one secret group (its id), the finest scope that IBM documents, or on
// the whole instance.
type policy struct {
	group string
	role  role
}

// may reports whether the identity may do a in the secret group, or on the whole instance.
func (id *identity) may(a action, group string) bool {
	return slices.ContainsFunc(id.policies, func(p policy) bool { return (p.group == wholeInstance || p.group == group) && p.role[a] })
}

func (id *identity) mayAnywhere(a action) bool {
	return slices.ContainsFunc(id.policies, func(p policy) bool { return p.role[a] })
}

// find sets what the path names, if the caller may do the operation there: what the admin alone may, but in Secrets Manager,
// where groups need the action on the whole instance, and secrets in their group. What is missing there is reported only to a
// caller who may do it somewhere. The caller holds c.mu.
func (c *Cloud) find(in *call) error {
	a, ofGroups := in.operation.action, in.operation.name == OpGroups
	switch {
	case in.operation.service == serviceAPIKeys:
		return c.findKey(in)
	case in.operation.service == serviceAccess && in.caller.class != IdentityAdmin:
		return fail(http.StatusForbidden, "forbidden", "You are not authorized to use this API.")
	case in.operation.service == serviceAccess:
		return nil
	case ofGroups && !in.caller.may(a, wholeInstance), !ofGroups && !in.caller.mayAnywhere(a):
		return forbidden(a)
	case len(in.params) == 0 || len(in.params) == 3: // a collection, or a secret by its name
		return nil
	case ofGroups:
		if in.group = c.groups[in.params[0]]; in.group == nil {
			return notFound("secret group")
		}
		return nil
	}
	if in.secret = c.secrets[in.params[0]]; in.secret == nil {
		return notFound("secret")
	}
	if !in.caller.may(a, in.secret.groupID) {
		return forbidden(a)
	}
	if len(in.params) == 2 {
		if in.version = in.secret.version(in.params[1]); in.version == nil {
			return notFound("secret version")
		}
	}
	return nil
}

const (
	defaultGroup = "default" // id and name of the group of secrets that name none
	maxGroups    = 200       // an instance holds no more, the default one aside
)

// A group is a secret group: the finest scope of a policy.
type group struct {
	made
	id          string // a UUID, or "default"
	name        string
	description string
	updatedAt   time.Time
}

func (g *group) json() object {
	return object{"id": g.id, "name": g.name, "description": g.description,
		"created_at": timestamp(g.at), "created_by": g.by, "updated_at": timestamp(g.updatedAt)}
}

// newGroup adds a group. The caller holds c.mu.
func (c *Cloud) newGroup(by *identity, id, name, description string) *group {
	now := c.now()
	g := &group{c.newMade(by.iamID, now), id, name, description, now}
	c.groups[id] = g
	return g
}

// groupNamed returns the group of that name, or nil.
func (c *Cloud) groupNamed(name string) *group {
	for _, g := range c.groups {
		if g.name == name {
			return g
		}
	}
	return nil
}

type groupPrototype struct {
	Name        *string `json:"name"`
	Description *string `json:"description"`
}

// checkGroup refuses a bad or taken name and a long description; of is the group they are for, nil
// for a new one.
func (c *Cloud) checkGroup(p *groupPrototype, of *group) error {
	if err := checkTexts(p.Name, p.Description, maxGroupName); err != nil {
		return err
	}
	if taken := c.groupNamed(deref(p.Name)); taken != nil && taken != of {
		return c.duplicate("secret group")
	}
	return nil
}

func (c *Cloud) createGroup(in *call, p *groupPrototype) (any, error) {
	if err := c.checkGroup(p, nil); err != nil {
		return nil, err
	}
	if len(c.groups) > maxGroups {
		return nil, badRequest("The instance has as many secret groups as it can hold.")
	}
	return c.newGroup(in.caller, uuid.NewString(), *p.Name, deref(p.Description)).json(), nil
}

func (c *Cloud) listGroups(*call) (any, error) {
	list := rendered(inOrder(c.groups, func(*group) bool { return true }), (*group).json)
	return object{"secret_groups": list, "total_count": len(list)}, nil
}

func (c *Cloud) getGroup(in *call) (any, error) { return in.group.json(), nil }

func (c *Cloud) patchGroup(in *call, p *groupPrototype) (any, error) {
	g := in.group
	if err := c.checkGroup(p, g); err != nil {
		return nil, err
	}
	assign(&g.name, p.Name)
	assign(&g.description, p.Description)
	g.updatedAt = in.now
	return g.json(), nil
}

// deleteGroup removes an empty group; the default one stays.
func (c *Cloud) deleteGroup(in *call) (any, error) {
	g := in.group
	if g.id == defaultGroup {
		return nil, badRequest("The default secret group can't be deleted.")
	}
	for _, s := range c.secrets {
		if s.groupID == g.id {
			return nil, fail(http.StatusPreconditionFailed, "precondition_failed", "The secret group is not empty.")
		}
	}
	delete(c.groups, g.id)
	return nil, nil
}
