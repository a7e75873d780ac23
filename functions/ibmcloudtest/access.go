package ibmcloudtest

import (
	"maps"
	"slices"
)

// An action is what a Secrets Manager policy allows, without the prefix "secrets-manager.".
type action string

const (
	actSecretRead            action = "secret.read"
	actSecretCreate          action = "secret.create"
	actSecretDelete          action = "secret.delete"
	actSecretsList           action = "secrets.list"
	actSecretMetadataRead    action = "secret-metadata.read"
	actSecretMetadataUpdate  action = "secret-metadata.update"
	actVersionRead           action = "secret-version.read"
	actVersionCreate         action = "secret-version.create"
	actVersionsList          action = "secret-versions.list"
	actVersionMetadataRead   action = "secret-version-metadata.read"
	actVersionMetadataUpdate action = "secret-version-metadata.update" // IBM documents no action: asked of writers
	actLocksList             action = "secrets-locks.list"
	actLocksCreate           action = "secret-locks.create"
	actLocksDelete           action = "secret-locks.delete"
	actVersionLocksList      action = "secret-version-locks.list"
	actVersionLocksCreate    action = "secret-version-locks.create"
	actVersionLocksDelete    action = "secret-version-locks.delete"
	actGroupCreate           action = "secret-group.create"
	actGroupRead             action = "secret-group.read"
	actGroupUpdate           action = "secret-group.update"
	actGroupDelete           action = "secret-group.delete"
	actGroupsList            action = "secret-groups.list"
)

// A role is a set of actions.
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
	roleReader = newRole(nil, actSecretMetadataRead, actSecretsList, actVersionsList,
		actVersionMetadataRead, actVersionLocksList, actLocksList)
	roleSecretsReader = newRole(roleReader, actSecretRead, actVersionRead)
	roleWriter        = newRole(roleSecretsReader, actVersionCreate, actSecretCreate, actSecretMetadataUpdate,
		actVersionMetadataUpdate, actLocksCreate, actVersionLocksCreate)
	roleManager = newRole(roleWriter, actSecretDelete, actLocksDelete, actVersionLocksDelete,
		actGroupCreate, actGroupRead, actGroupUpdate, actGroupDelete, actGroupsList)

	roleKeyReader      = newRole(nil, actSecretRead)
	roleTokenPublisher = newRole(nil, actVersionCreate, actVersionMetadataRead, actSecretMetadataRead, actVersionLocksList)
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

// mayAnywhere reports whether the identity may do a in some group.
func (id *identity) mayAnywhere(a action) bool {
	return slices.ContainsFunc(id.policies, func(p policy) bool { return p.role[a] })
}
