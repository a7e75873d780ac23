package ibmcloudtest

import (
	"cmp"
	"net/http"
	"slices"
)

type groupPrototype struct {
	Name        *string `json:"name"`
	Description *string `json:"description"`
}

// checkGroup refuses a bad or taken name and a long description; of is the group they are for, nil
// for a new one.
func (c *Cloud) checkGroup(p groupPrototype, of *group) error {
	if p.Name != nil {
		if err := checkName(*p.Name, maxGroupName); err != nil {
			return err
		}
		if taken := c.groupNamed(*p.Name); taken != nil && taken != of {
			return c.duplicate("secret group")
		}
	}
	return checkDescription(p.Description)
}

func (c *Cloud) createGroup(in *call) (any, error) {
	if !in.caller.mayOnInstance(actGroupCreate) {
		return nil, forbidden(actGroupCreate)
	}
	var p groupPrototype
	if err := in.decode(&p, mediaJSON, "name!", "description"); err != nil {
		return nil, err
	}
	if err := c.checkGroup(p, nil); err != nil {
		return nil, err
	}
	if len(c.groups) > maxGroups {
		return nil, badRequest("The instance has as many secret groups as it can hold.")
	}
	return c.newGroup(in.caller, *p.Name, deref(p.Description)).json(), nil
}

func (c *Cloud) listGroups(in *call) (any, error) {
	if !in.caller.mayOnInstance(actGroupsList) {
		return nil, forbidden(actGroupsList)
	}
	groups := make([]*group, 0, len(c.groups))
	for _, g := range c.groups {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *group) int { return cmp.Compare(a.sequence, b.sequence) })
	list := make([]groupJSON, len(groups))
	for i, g := range groups {
		list[i] = g.json()
	}
	return map[string]any{"secret_groups": list, "total_count": len(list)}, nil
}

func (c *Cloud) getGroup(in *call) (any, error) {
	g, err := c.groupFor(in, actGroupRead)
	if err != nil {
		return nil, err
	}
	return g.json(), nil
}

func (c *Cloud) patchGroup(in *call) (any, error) {
	g, err := c.groupFor(in, actGroupUpdate)
	if err != nil {
		return nil, err
	}
	var p groupPrototype
	if err := in.decode(&p, mediaMergePatch, "name", "description"); err != nil {
		return nil, err
	}
	if err := c.checkGroup(p, g); err != nil {
		return nil, err
	}
	if p.Name != nil {
		g.name = *p.Name
	}
	if p.Description != nil {
		g.description = *p.Description
	}
	g.updatedAt = in.now
	return g.json(), nil
}

// deleteGroup removes an empty group; the default one stays.
func (c *Cloud) deleteGroup(in *call) (any, error) {
	g, err := c.groupFor(in, actGroupDelete)
	if err != nil {
		return nil, err
	}
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
