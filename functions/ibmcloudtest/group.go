package ibmcloudtest

import (
	"net/http"
	"time"
)

const (
	defaultGroup = "default" // id and name of the group of secrets that name none
	maxGroups    = 200       // an instance holds no more, the default one aside
)

// A group is a secret group: the finest scope of a policy.
type group struct {
	sequence             int
	id                   string // a UUID, or "default"
	name                 string
	description          string
	createdBy            string
	createdAt, updatedAt time.Time
}

type groupJSON struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	CreatedAt   string `json:"created_at"`
	CreatedBy   string `json:"created_by"`
	UpdatedAt   string `json:"updated_at"`
}

func (g *group) json() groupJSON {
	return groupJSON{g.id, g.name, g.description, timestamp(g.createdAt), g.createdBy, timestamp(g.updatedAt)}
}

var groupOperations = []operation{
	op(OpGroups, serviceSecretsManager, http.MethodPost, "/api/v2/secret_groups", http.StatusCreated, (*Cloud).createGroup),
	op(OpGroups, serviceSecretsManager, http.MethodGet, "/api/v2/secret_groups", http.StatusOK, (*Cloud).listGroups),
	op(OpGroups, serviceSecretsManager, http.MethodGet, "/api/v2/secret_groups/{id}", http.StatusOK, (*Cloud).getGroup),
	op(OpGroups, serviceSecretsManager, http.MethodPatch, "/api/v2/secret_groups/{id}", http.StatusOK, (*Cloud).patchGroup),
	op(OpGroups, serviceSecretsManager, http.MethodDelete, "/api/v2/secret_groups/{id}", http.StatusNoContent, (*Cloud).deleteGroup),
}

// newGroup adds a group. The caller holds c.mu.
func (c *Cloud) newGroup(by *identity, name, description string) *group {
	c.sequence++
	now := c.now()
	g := &group{sequence: c.sequence, id: newUUID(), name: name, description: description, createdBy: by.iamID, createdAt: now, updatedAt: now}
	c.groups[g.id] = g
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

// groupFor returns the group that the path names, if the caller may do a there.
func (c *Cloud) groupFor(in *call, a action) (*group, error) {
	if !in.caller.mayOnInstance(a) {
		return nil, forbidden(a)
	}
	g, ok := c.groups[in.params[0]]
	if !ok {
		return nil, notFound("secret group")
	}
	return g, nil
}
