package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The secret types that are served. IBM has more.
const (
	kindArbitrary          = "arbitrary"
	kindKV                 = "kv"
	kindIAMCredentials     = "iam_credentials"
	kindServiceCredentials = "service_credentials"
)

// A secretName is unique over the whole instance, whatever the group.
type secretName struct{ kind, name string }

// A secret is guarded by Cloud.mu.
type secret struct {
	sequence             int
	id                   string
	name                 string
	description          string
	kind                 string
	groupID              string
	labels               []string        // replaced, never changed in place
	customMetadata       json.RawMessage // a JSON object, or empty
	createdBy            string
	createdAt, updatedAt time.Time
	retrievedAt          time.Time  // zero: its value has not been read
	expiration           time.Time  // zero: none; arbitrary secrets only
	versions             []*version // oldest first; the last is current, the one before previous
	minting              *minting   // of iam_credentials and service_credentials
}

// addSecret registers s, which has a kind, a name and a group, with its first version. The caller holds c.mu.
func (c *Cloud) addSecret(s *secret, first *version, by *identity) *secret {
	c.sequence++
	now := c.now()
	s.sequence, s.id, s.createdBy, s.createdAt, s.updatedAt = c.sequence, newUUID(), by.iamID, now, now
	c.secrets[s.id] = s
	c.names[secretName{s.kind, s.name}] = s
	c.addVersion(s, first, by)
	return s
}

// removeSecret deletes s and the keys it has minted.
func (c *Cloud) removeSecret(s *secret) {
	for _, v := range s.versions {
		c.discardValue(v)
	}
	delete(c.secrets, s.id)
	delete(c.names, secretName{s.kind, s.name})
}

// isDestroyed reports whether an arbitrary secret has reached its expiration date. Its value is gone
// for good then, and no new version can bring it back.
func (s *secret) isDestroyed(now time.Time) bool {
	return !s.expiration.IsZero() && !now.Before(s.expiration)
}

func (s *secret) current() *version { return s.versions[len(s.versions)-1] }

// previous returns the version before the current one, or nil.
func (s *secret) previous() *version {
	if len(s.versions) < 2 {
		return nil
	}
	return s.versions[len(s.versions)-2]
}

// version returns the version that an id or an alias names, or nil.
func (s *secret) version(ref string) *version {
	switch ref {
	case "current":
		return s.current()
	case "previous":
		return s.previous()
	}
	for _, v := range s.versions {
		if v.id == ref {
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

func (s *secret) locksTotal() int {
	total := 0
	for _, v := range s.versions {
		total += len(v.locks)
	}
	return total
}

var secretOperations = []operation{
	secretOp(OpSecretsCreate, actSecretCreate, "POST /secrets", http.StatusCreated, (*Cloud).createSecret),
	secretOp(OpSecretsList, actSecretsList, "GET /secrets", http.StatusOK, (*Cloud).listSecrets),
	secretOp(OpSecretsGet, actSecretRead, "GET /secrets/{id}", http.StatusOK, (*Cloud).getSecret),
	secretOp(OpSecretsGet, actSecretRead, "GET /secret_groups/{group}/secret_types/{type}/secrets/{name}", http.StatusOK, (*Cloud).getSecretByName),
	secretOp(OpSecretsDelete, actSecretDelete, "DELETE /secrets/{id}", http.StatusNoContent, (*Cloud).deleteSecret),
	secretOp(OpSecretsMetadata, actSecretMetadataRead, "GET /secrets/{id}/metadata", http.StatusOK, (*Cloud).getMetadata),
	secretOp(OpSecretsPatch, actSecretMetadataUpdate, "PATCH /secrets/{id}/metadata", http.StatusOK, (*Cloud).patchMetadata),
}

func (c *Cloud) createSecret(in *call) (any, error) {
	p, err := in.decodeCreate()
	if err != nil {
		return nil, err
	}
	groupID := defaultGroup
	assign(&groupID, p.GroupID)
	if _, ok := c.groups[groupID]; !ok {
		return nil, notFound("secret group")
	}
	if !in.caller.may(actSecretCreate, groupID) {
		return nil, forbidden(actSecretCreate)
	}
	if err := c.check(p, in.now); err != nil {
		return nil, err
	}
	if c.names[secretName{p.Kind, *p.Name}] != nil {
		return nil, c.duplicate("secret")
	}
	s, err := c.newSecret(p, groupID, in)
	if err != nil {
		return nil, err
	}
	return s.json(c, in.now, s.current().value), nil
}

// newSecret makes the secret and its first version of a checked prototype.
func (c *Cloud) newSecret(p *secretPrototype, groupID string, in *call) (*secret, error) {
	s := &secret{
		kind: p.Kind, name: *p.Name, description: deref(p.Description), groupID: groupID,
		labels: p.Labels, customMetadata: p.CustomMetadata,
	}
	assign(&s.expiration, p.ExpirationDate)
	first := &value{payload: deref(p.Payload), data: p.Data}
	if p.Kind == kindIAMCredentials || p.Kind == kindServiceCredentials {
		m, err := c.newMinting(p)
		if err != nil {
			return nil, err
		}
		if m.owner == nil {
			m.owner = c.newServiceID(IdentityWorkload, *p.Name, c.account)
		}
		s.minting = m
		first = c.mint(m, in.now)
	}
	return c.addSecret(s, &version{customMetadata: p.VersionCustomMetadata, value: first}, in.caller), nil
}

func (c *Cloud) getSecret(in *call) (any, error) {
	return c.secretWithValue(in.secret, in.now)
}

// getSecretByName returns the value too, so it needs the same action as reading by id.
func (c *Cloud) getSecretByName(in *call) (any, error) {
	g := c.groupNamed(in.params[0])
	if g == nil {
		return nil, notFound("secret group")
	}
	if !in.caller.may(actSecretRead, g.id) {
		return nil, forbidden(actSecretRead)
	}
	s, ok := c.names[secretName{in.params[1], in.params[2]}]
	if !ok || s.groupID != g.id {
		return nil, notFound("secret")
	}
	return c.secretWithValue(s, in.now)
}

func (c *Cloud) secretWithValue(s *secret, now time.Time) (any, error) {
	v, err := c.readValue(s, s.current(), now)
	if err != nil {
		return nil, err
	}
	return s.json(c, now, v), nil
}

// deleteSecret refuses a secret that has locks.
func (c *Cloud) deleteSecret(in *call) (any, error) {
	if in.secret.locksTotal() > 0 {
		return nil, locked()
	}
	c.removeSecret(in.secret)
	return nil, nil
}

func (c *Cloud) getMetadata(in *call) (any, error) {
	return in.secret.json(c, in.now, nil), nil
}

// States of NIST SP 800-57 that a secret can be in here.
const (
	stateActive    = 1
	stateDestroyed = 5
)

// An object is the body of an answer.
type object map[string]any

// set adds a member unless its value is zero.
func (o object) set(name string, value any) {
	switch v := value.(type) {
	case string:
		if v == "" {
			return
		}
	case json.RawMessage:
		if len(v) == 0 {
			return
		}
	case time.Time:
		if v.IsZero() {
			return
		}
		value = timestamp(v)
	}
	o[name] = value
}

// json renders the secret: with a value as a secret, without as its metadata.
func (s *secret) json(c *Cloud, now time.Time, v *value) object {
	out := object{
		"id": s.id, "name": s.name, "description": s.description, "secret_type": s.kind, "secret_group_id": s.groupID,
		"crn":        c.instanceCRN("secrets-manager") + ":secret:" + s.id,
		"created_by": s.createdBy, "created_at": timestamp(s.createdAt), "updated_at": timestamp(s.updatedAt),
		"labels": append([]string{}, s.labels...), "downloaded": s.current().downloaded,
		"locks_total": s.locksTotal(), "versions_total": len(s.versions), "state": stateActive, "state_description": "active",
	}
	if s.isDestroyed(now) {
		out["state"], out["state_description"] = stateDestroyed, "destroyed"
	}
	out.set("custom_metadata", s.customMetadata)
	out.set("retrieved_at", s.retrievedAt)
	out.set("expiration_date", s.expiration)
	if m := s.minting; m != nil {
		out.set("ttl", m.ttl)
		out.set("source_service", m.sourceService)
		if s.kind == kindIAMCredentials {
			out["service_id_is_static"], out["reuse_api_key"] = m.isStatic, m.reuse
		}
	}
	s.addValue(out, v)
	return out
}

// addValue adds what a secret or version protects, by its type. A nil value is none.
func (s *secret) addValue(out object, v *value) {
	switch {
	case v == nil:
	case s.kind == kindArbitrary:
		out["payload"] = v.payload
	case s.kind == kindKV:
		out.set("data", v.data)
	case s.kind == kindIAMCredentials:
		out["api_key"], out["api_key_id"], out["service_id"] = v.key.value, v.key.id, v.key.owner.subject()
	default:
		out["credentials"] = object{
			"apikey":                 v.key.value,
			"iam_apikey_description": "Auto-generated for the secret " + s.name,
			"iam_apikey_id":          v.key.id,
			"iam_apikey_name":        s.name,
			"iam_role_crn":           "crn:v1:bluemix:public:iam::::serviceRole:Writer",
			"iam_serviceid_crn":      "crn:v1:bluemix:public:iam-identity::a/" + v.key.owner.account + "::serviceid:" + v.key.owner.subject(),
		}
	}
}

// patchMetadata replaces each property that the body names, whole.
func (c *Cloud) patchMetadata(in *call) (any, error) {
	s := in.secret
	p, err := in.decodePatch(s.kind)
	if err != nil {
		return nil, err
	}
	if s.isDestroyed(in.now) {
		return nil, c.destroyed()
	}
	if err := c.check(p, in.now); err != nil {
		return nil, err
	}
	if taken := c.names[secretName{s.kind, deref(p.Name)}]; taken != nil && taken != s {
		return nil, c.duplicate("secret")
	}
	ttl, err := parseTTL(p)
	if err != nil {
		return nil, err
	}
	if ttl != "" {
		s.minting.ttl = ttl
	}
	c.applyPatch(s, p)
	s.updatedAt = in.now
	return s.json(c, in.now, nil), nil
}

func (c *Cloud) applyPatch(s *secret, p *secretPrototype) {
	if p.Name != nil {
		delete(c.names, secretName{s.kind, s.name})
		s.name = *p.Name
		c.names[secretName{s.kind, s.name}] = s
	}
	assign(&s.description, p.Description)
	assign(&s.expiration, p.ExpirationDate)
	if p.Labels != nil {
		s.labels = p.Labels
	}
	if len(p.CustomMetadata) > 0 {
		s.customMetadata = p.CustomMetadata
	}
}

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

func (g *group) json() object {
	return object{"id": g.id, "name": g.name, "description": g.description,
		"created_at": timestamp(g.createdAt), "created_by": g.createdBy, "updated_at": timestamp(g.updatedAt)}
}

var groupOperations = []operation{
	secretOp(OpGroups, actGroupCreate, "POST /secret_groups", http.StatusCreated, (*Cloud).createGroup),
	secretOp(OpGroups, actGroupsList, "GET /secret_groups", http.StatusOK, (*Cloud).listGroups),
	secretOp(OpGroups, actGroupRead, "GET /secret_groups/{id}", http.StatusOK, (*Cloud).getGroup),
	secretOp(OpGroups, actGroupUpdate, "PATCH /secret_groups/{id}", http.StatusOK, (*Cloud).patchGroup),
	secretOp(OpGroups, actGroupDelete, "DELETE /secret_groups/{id}", http.StatusNoContent, (*Cloud).deleteGroup),
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

type groupPrototype struct {
	Name        *string `json:"name"`
	Description *string `json:"description"`
}

// checkGroup refuses a bad or taken name and a long description; of is the group they are for, nil
// for a new one.
func (c *Cloud) checkGroup(p groupPrototype, of *group) error {
	if err := checkTexts(p.Name, p.Description, maxGroupName); err != nil || p.Name == nil {
		return err
	}
	if taken := c.groupNamed(*p.Name); taken != nil && taken != of {
		return c.duplicate("secret group")
	}
	return nil
}

func (c *Cloud) createGroup(in *call) (any, error) {
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
	groups := make([]*group, 0, len(c.groups))
	for _, g := range c.groups {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *group) int { return cmp.Compare(a.sequence, b.sequence) })
	list := make([]object, len(groups))
	for i, g := range groups {
		list[i] = g.json()
	}
	return object{"secret_groups": list, "total_count": len(list)}, nil
}

func (c *Cloud) getGroup(in *call) (any, error) {
	return in.group.json(), nil
}

func (c *Cloud) patchGroup(in *call) (any, error) {
	g := in.group
	var p groupPrototype
	if err := in.decode(&p, mediaMergePatch, "name", "description"); err != nil {
		return nil, err
	}
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

// listSecrets lists the metadata of the secrets that the caller may list and that the query asks for.
func (c *Cloud) listSecrets(in *call) (any, error) {
	query := in.request.URL.Query()
	groups, kinds, labels := listOf(query.Get("groups")), listOf(query.Get("secret_types")), listOf(query.Get("match_all_labels"))
	search := query.Get("search")
	selected := c.visibleSecrets(in, actSecretsList, func(s *secret) bool {
		return (len(groups) == 0 || slices.Contains(groups, s.groupID)) &&
			(len(kinds) == 0 || slices.Contains(kinds, s.kind)) &&
			!slices.ContainsFunc(labels, func(label string) bool { return !slices.Contains(s.labels, label) }) &&
			s.mentions(search)
	})
	if err := sortBy(selected, query.Get("sort"), secretOrders); err != nil {
		return nil, err
	}
	return paginate(in, "secrets", selected, 200, func(s *secret) object { return s.json(c, in.now, nil) })
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

// mentions reports whether text occurs in the id, name, description, labels or type.
func (s *secret) mentions(text string) bool {
	return slices.ContainsFunc(append([]string{s.id, s.name, s.description, s.kind}, s.labels...), func(field string) bool {
		return strings.Contains(strings.ToLower(field), strings.ToLower(text))
	})
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

// sortBy sorts by a field, descending after "-"; no field leaves the order as it is.
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

// maxLimit is the most items that one page holds.
const maxLimit = 1000

// paginate returns the page, with its links, of the items that the query's offset and limit choose.
func paginate[T any](in *call, name string, items []T, defaultLimit int, render func(T) object) (any, error) {
	query := in.request.URL.Query()
	limit, err := queryNumber(query, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return nil, err
	}
	offset, err := queryNumber(query, "offset", 0, 0, 1<<31-1)
	if err != nil {
		return nil, err
	}
	at := func(offset int) object {
		query.Set("limit", strconv.Itoa(limit))
		query.Set("offset", strconv.Itoa(offset))
		return object{"href": in.href(query)}
	}
	total := len(items)
	list := []object{}
	for _, item := range items[min(offset, total):min(offset+limit, total)] {
		list = append(list, render(item))
	}
	page := object{name: list, "total_count": total, "limit": limit, "offset": offset, "first": at(0), "last": at(max(total-1, 0) / limit * limit)}
	if offset+limit < total {
		page["next"] = at(offset + limit)
	}
	if offset > 0 {
		page["previous"] = at(max(offset-limit, 0))
	}
	return page, nil
}

// queryNumber reads a whole number of the query, within bounds.
func queryNumber(query url.Values, name string, absent, least, most int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, badField(name, fmt.Sprintf("must be a number from %d to %d", least, most))
	}
	return n, nil
}

const (
	mediaJSON       = "application/json"
	mediaMergePatch = "application/merge-patch+json"
)

// Limits of Secrets Manager, in characters unless they say bytes.
const (
	minName        = 2
	maxSecretName  = 256
	maxGroupName   = 64
	maxDescription = 1024
	maxLabels      = 30
	minLabel       = 2
	maxLabel       = 64
	maxPayload     = 1_000_000
	maxDataBytes   = 512 << 10
	maxMetaBytes   = 10 << 10
)

// nameForm is the API reference's pattern for a secret's name.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_]*(?:_*-*\.*[A-Za-z0-9]*)*[A-Za-z0-9]+$`)

// A rule refuses a property of a request if it is broken.
type rule struct {
	broken bool
	field  string
	must   string
}

// check refuses the first property that breaks a rule.
func check(rules ...rule) error {
	for _, r := range rules {
		if r.broken {
			return badField(r.field, r.must)
		}
	}
	return nil
}

// outside reports whether a text, unless it is absent, has fewer or more characters than it may.
func outside(text *string, least, most int) bool {
	if text == nil {
		return false
	}
	n := utf8.RuneCountInString(*text)
	return n < least || n > most
}

// checkTexts applies the rules for a name, with so many characters at most, and a description; each may be absent.
func checkTexts(name, description *string, longest int) error {
	return check(
		rule{outside(name, minName, longest), "name", fmt.Sprintf("must have %d to %d characters", minName, longest)},
		rule{name != nil && !nameForm.MatchString(*name), "name", "must match " + nameForm.String()},
		rule{outside(description, 0, maxDescription), "description", fmt.Sprintf("must have at most %d characters", maxDescription)},
	)
}

// check applies the rules for names, texts, labels, metadata, dates and values. The caller holds c.mu.
func (c *Cloud) check(p *secretPrototype, now time.Time) error {
	if err := checkTexts(p.Name, p.Description, maxSecretName); err != nil {
		return err
	}
	badLabel := func(label string) bool { return outside(&label, minLabel, maxLabel) }
	items, isObject := members(p.Data)
	err := check(
		rule{len(p.Labels) > maxLabels, "labels", fmt.Sprintf("must be at most %d", maxLabels)},
		rule{slices.ContainsFunc(p.Labels, badLabel), "labels", fmt.Sprintf("must have %d to %d characters each", minLabel, maxLabel)},
		rule{!isObjectOrNull(p.CustomMetadata), "custom_metadata", "must be a JSON object"},
		rule{!isObjectOrNull(p.VersionCustomMetadata), "version_custom_metadata", "must be a JSON object"},
		rule{p.ExpirationDate != nil && !p.ExpirationDate.After(now), "expiration_date", "must be in the future"},
		rule{p.Payload != nil && *p.Payload == "", "payload", "must not be empty"},
		rule{!isNull(p.Data) && (!isObject || items == 0), "data", "must be a JSON object with at least one item"},
	)
	switch {
	case err != nil:
		return err
	case len(p.CustomMetadata) > maxMetaBytes:
		return c.tooLarge("custom_metadata")
	case len(p.VersionCustomMetadata) > maxMetaBytes:
		return c.tooLarge("version_custom_metadata")
	case outside(p.Payload, 0, maxPayload):
		return c.tooLarge("payload")
	case len(p.Data) > maxDataBytes:
		return c.tooLarge("data")
	}
	return nil
}

// tooLarge and duplicate answer with the status that the settings choose. The caller holds c.mu.
func (c *Cloud) tooLarge(field string) *apiError {
	e := badField(field, "is too large")
	e.status = c.settings.TooLarge
	return e
}

func (c *Cloud) duplicate(what string) *apiError {
	return fail(c.settings.Duplicate, "already_exists", "A "+what+" with the same name already exists.")
}

// destroyed answers a change to a secret past its expiration date.
func (c *Cloud) destroyed() *apiError {
	return fail(c.settings.Destroyed, "destroyed", "The requested action can't be completed because the secret is destroyed.")
}

// isNull reports whether a JSON value is absent or null.
func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func isObjectOrNull(raw json.RawMessage) bool {
	_, isObject := members(raw)
	return isObject || isNull(raw)
}

// members counts the members of a JSON object; ok is false for any other value.
func members(raw json.RawMessage) (n int, ok bool) {
	var object map[string]json.RawMessage
	err := json.Unmarshal(raw, &object)
	return len(object), err == nil && object != nil
}

// deref is a property of a request, "" if it is absent.
func deref(s *string) (text string) {
	assign(&text, s)
	return text
}

// assign sets a field to a property of a request, unless that is absent.
func assign[T any](field, property *T) {
	if property != nil {
		*field = *property
	}
}
