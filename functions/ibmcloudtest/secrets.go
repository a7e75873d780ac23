package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
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
	s.sequence, s.id, s.createdBy, s.createdAt, s.updatedAt = c.sequence, uuid.NewString(), by.iamID, now, now
	c.secrets[s.id] = s
	c.names[secretName{s.kind, s.name}] = s
	if s.minting != nil {
		c.keySecrets = append(c.keySecrets, s)
	}
	c.addVersion(s, first, by.iamID, now)
	return s
}

// removeSecret deletes s and the keys it has made.
func (c *Cloud) removeSecret(s *secret) {
	if s.minting != nil {
		for _, k := range slices.Clone(s.minting.keys) {
			c.dropKey(s.minting, k)
		}
		c.keySecrets = slices.DeleteFunc(c.keySecrets, func(other *secret) bool { return other == s })
	}
	delete(c.secrets, s.id)
	delete(c.names, secretName{s.kind, s.name})
}

// isDestroyed reports whether an arbitrary secret has reached its expiration date, or one that makes keys the end of its
// lease. Its value is gone for good then, and no new version can bring it back.
func (s *secret) isDestroyed(now time.Time) bool {
	return !s.expiration.IsZero() && !now.Before(s.expiration) || s.hasEnded(now)
}

// expires is when a version's value is gone; zero for never.
func (s *secret) expires(v *version) time.Time {
	if v.value != nil && v.value.key != nil {
		return v.value.key.leaseEnds
	}
	return s.expiration
}

func (s *secret) order() int { return s.sequence }

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
	secretOp("secrets.create", "secret.create", "POST /secrets", http.StatusCreated, (*Cloud).createSecret),
	secretOp(OpSecretsList, "secrets.list", "GET /secrets", http.StatusOK, (*Cloud).listSecrets),
	secretOp(OpSecretsGet, "secret.read", "GET /secrets/{id}", http.StatusOK, (*Cloud).getSecret),
	secretOp(OpSecretsGet, "secret.read", "GET /secret_groups/{group}/secret_types/{type}/secrets/{name}", http.StatusOK, (*Cloud).getSecretByName),
	secretOp("secrets.delete", "secret.delete", "DELETE /secrets/{id}", http.StatusNoContent, (*Cloud).deleteSecret),
	secretOp(OpSecretsMetadata, "secret-metadata.read", "GET /secrets/{id}/metadata", http.StatusOK, (*Cloud).getMetadata),
	secretOp("secrets.patch", "secret-metadata.update", "PATCH /secrets/{id}/metadata", http.StatusOK, (*Cloud).patchMetadata),
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
	if !in.caller.may("secret.create", groupID) {
		return nil, forbidden("secret.create")
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
		m, err := c.newMinting(p, in.now)
		if err != nil {
			return nil, err
		}
		if err := c.mayMint(m, in.now); err != nil {
			return nil, err
		}
		s.minting = m
		first = c.mint(s, in.now)
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
	if !in.caller.may("secret.read", g.id) {
		return nil, forbidden("secret.read")
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
	out.set("expiration_date", s.expires(s.current()))
	s.addMinting(out, now)
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
	p, err := in.decodeSecret(s.kind, mediaMergePatch, commonPatchFields, kindFields[s.kind].patch)
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
	if s.minting != nil {
		if err := s.minting.change(p, in.now); err != nil {
			return nil, err
		}
		if !isNull(p.Rotation) && c.settings.RuleChange == "rotates" && s.minting.rule.isOn() {
			s.minting.next = in.now
			c.play(in.now)
		}
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

// listSecrets lists the metadata of the secrets that the caller may list and that the query asks for.
func (c *Cloud) listSecrets(in *call) (any, error) {
	query := in.request.URL.Query()
	groups, kinds, labels := listOf(query.Get("groups")), listOf(query.Get("secret_types")), listOf(query.Get("match_all_labels"))
	search := query.Get("search")
	selected := c.visibleSecrets(in, "secrets.list", func(s *secret) bool {
		return listed(groups, s.groupID) && listed(kinds, s.kind) &&
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
	return inOrder(c.secrets, func(s *secret) bool { return in.caller.may(a, s.groupID) && wanted(s) })
}

// mentions reports whether text occurs in the id, name, description, labels or type.
func (s *secret) mentions(text string) bool {
	return slices.ContainsFunc(append([]string{s.id, s.name, s.description, s.kind}, s.labels...), func(field string) bool {
		return strings.Contains(strings.ToLower(field), strings.ToLower(text))
	})
}

var secretOrders = map[string]func(a, b *secret) int{
	"id":              func(a, b *secret) int { return cmp.Compare(a.id, b.id) },
	"name":            func(a, b *secret) int { return cmp.Compare(a.name, b.name) },
	"secret_type":     func(a, b *secret) int { return cmp.Compare(a.kind, b.kind) },
	"created_at":      func(a, b *secret) int { return a.createdAt.Compare(b.createdAt) },
	"updated_at":      func(a, b *secret) int { return a.updatedAt.Compare(b.updatedAt) },
	"retrieved_at":    func(a, b *secret) int { return a.retrievedAt.Compare(b.retrievedAt) },
	"expiration_date": func(a, b *secret) int { return a.expiration.Compare(b.expiration) },
}
