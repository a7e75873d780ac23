package ibmcloudtest

import (
	"cmp"
	"slices"
	"strings"
)

var lockOrders = map[string]func(a, b lockJSON) int{
	"name":       func(a, b lockJSON) int { return cmp.Compare(a.Name, b.Name) },
	"created_at": func(a, b lockJSON) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) },
	"updated_at": func(a, b lockJSON) int { return cmp.Compare(a.UpdatedAt, b.UpdatedAt) },
}

// listLocks pages through the locks of some versions, by name if the query searches.
func (s *secret) listLocks(in *call, versions ...*version) (any, error) {
	query := in.request.URL.Query()
	locks := []lockJSON{}
	for _, v := range versions {
		for _, l := range v.locks {
			if strings.Contains(l.name, query.Get("search")) {
				locks = append(locks, s.lockJSON(v, l))
			}
		}
	}
	if err := sortBy(locks, query.Get("sort"), lockOrders); err != nil {
		return nil, err
	}
	p, locks, err := paginate(in, locks, 25)
	if err != nil {
		return nil, err
	}
	return struct {
		page
		Locks []lockJSON `json:"locks"`
	}{p, locks}, nil
}

// listAllLocks pages through the secrets that have locks.
func (c *Cloud) listAllLocks(in *call) (any, error) {
	if !in.caller.mayAnywhere(actLocksList) {
		return nil, forbidden(actLocksList)
	}
	query := in.request.URL.Query()
	groups := listOf(query.Get("groups"))
	locked := c.visibleSecrets(in, actLocksList, func(s *secret) bool {
		return s.locksTotal() > 0 && (len(groups) == 0 || slices.Contains(groups, s.groupID)) && s.hasLockLike(query.Get("search"))
	})
	p, locked, err := paginate(in, locked, 25)
	if err != nil {
		return nil, err
	}
	list := make([]locksJSON, len(locked))
	for i, s := range locked {
		list[i] = s.locksJSON(in.now)
	}
	return struct {
		page
		SecretsLocks []locksJSON `json:"secrets_locks"`
	}{p, list}, nil
}
