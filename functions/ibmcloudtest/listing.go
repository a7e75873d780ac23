package ibmcloudtest

import (
	"cmp"
	"slices"
	"strings"
)

// listSecrets lists the metadata of the secrets that the caller may list and that the query asks for.
func (c *Cloud) listSecrets(in *call) (any, error) {
	if !in.caller.mayAnywhere(actSecretsList) {
		return nil, forbidden(actSecretsList)
	}
	query := in.request.URL.Query()
	groups, kinds, labels := listOf(query.Get("groups")), listOf(query.Get("secret_types")), listOf(query.Get("match_all_labels"))
	search := query.Get("search")
	selected := c.visibleSecrets(in, actSecretsList, func(s *secret) bool {
		return (len(groups) == 0 || slices.Contains(groups, s.groupID)) &&
			(len(kinds) == 0 || slices.Contains(kinds, s.kind)) &&
			!slices.ContainsFunc(labels, func(label string) bool { return !slices.Contains(s.labels, label) }) &&
			s.mentions(search)
	})
	if err := sortSecrets(selected, query.Get("sort")); err != nil {
		return nil, err
	}
	p, selected, err := paginate(in, selected, 200)
	if err != nil {
		return nil, err
	}
	list := make([]secretJSON, len(selected))
	for i, s := range selected {
		list[i] = s.json(c, in.now, nil)
	}
	return struct {
		page
		Secrets []secretJSON `json:"secrets"`
	}{p, list}, nil
}

// visibleSecrets returns, in the order of creation, the wanted secrets of the groups in which the
// caller may do a.
func (c *Cloud) visibleSecrets(in *call, a action, wanted func(*secret) bool) []*secret {
	var list []*secret
	for _, s := range c.secrets {
		if in.caller.may(a, s.groupID) && wanted(s) {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *secret) int { return cmp.Compare(a.sequence, b.sequence) })
	return list
}

// mentions tells whether text occurs in the id, name, description, labels or type.
func (s *secret) mentions(text string) bool {
	for _, field := range append([]string{s.id, s.name, s.description, s.kind}, s.labels...) {
		if strings.Contains(strings.ToLower(field), strings.ToLower(text)) {
			return true
		}
	}
	return false
}

// secretOrders are the fields a list of secrets can be sorted by.
var secretOrders = map[string]func(a, b *secret) int{
	"id":              func(a, b *secret) int { return cmp.Compare(a.id, b.id) },
	"name":            func(a, b *secret) int { return cmp.Compare(a.name, b.name) },
	"secret_type":     func(a, b *secret) int { return cmp.Compare(a.kind, b.kind) },
	"created_at":      func(a, b *secret) int { return a.createdAt.Compare(b.createdAt) },
	"updated_at":      func(a, b *secret) int { return a.updatedAt.Compare(b.updatedAt) },
	"retrieved_at":    func(a, b *secret) int { return a.retrievedAt.Compare(b.retrievedAt) },
	"expiration_date": func(a, b *secret) int { return a.expiration.Compare(b.expiration) },
}

// sortSecrets sorts by a field, descending after "-"; no field leaves the order as it is.
func sortSecrets(list []*secret, by string) error {
	return sortBy(list, by, secretOrders)
}

func sortBy[T any](list []T, by string, orders map[string]func(a, b T) int) error {
	if by == "" {
		return nil
	}
	field, descending := strings.CutPrefix(by, "-")
	order, ok := orders[field]
	if !ok {
		return badField("sort", "names no field to sort by")
	}
	slices.SortStableFunc(list, func(a, b T) int {
		if descending {
			return order(b, a)
		}
		return order(a, b)
	})
	return nil
}

// listOf splits a comma-separated query parameter.
func listOf(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}
