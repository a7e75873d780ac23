package ibmcloudtest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The secret types that are served.
const (
	kindArbitrary          = "arbitrary"
	kindKV                 = "kv"
	kindIAMCredentials     = "iam_credentials"
	kindServiceCredentials = "service_credentials"
)

// otherKinds are IBM's other secret types.
var otherKinds = []string{"username_password", "imported_cert", "public_cert", "private_cert", "custom_credentials"}

// kindFields lists, by type, the fields that a request to create a secret, to create a version or to patch the
// metadata may have, in addition to those of every type. "!" marks required ones. The source is IBM's SDK: its
// prototypes.
var kindFields = map[string]struct{ create, version, patch string }{
	kindArbitrary:          {"payload! expiration_date", "payload!", "expiration_date"}, // a version cannot change the date
	kindKV:                 {"data!", "data!", ""},
	kindIAMCredentials:     {"ttl! access_groups service_id account_id reuse_api_key rotation", "restore_from_version", "ttl rotation"},
	kindServiceCredentials: {"source_service! ttl rotation", "", "ttl rotation"},
}

// A secretPrototype is the body of a request that creates a secret or a version, or patches metadata: the
// union of the fields of all types. Pointers and raw values distinguish absent from empty.
type secretPrototype struct {
	Kind                  string          `json:"secret_type"`
	Name                  *string         `json:"name"`
	Description           *string         `json:"description"`
	GroupID               *string         `json:"secret_group_id"`
	Labels                []string        `json:"labels"`
	CustomMetadata        json.RawMessage `json:"custom_metadata"`
	VersionCustomMetadata json.RawMessage `json:"version_custom_metadata"`
	ExpirationDate        *time.Time      `json:"expiration_date"`
	Payload               *string         `json:"payload"`
	Data                  json.RawMessage `json:"data"`
	TTL                   json.RawMessage `json:"ttl"`
	ReuseAPIKey           bool            `json:"reuse_api_key"`
	ServiceID             string          `json:"service_id"`
	AccountID             string          `json:"account_id"`
	AccessGroups          []string        `json:"access_groups"`
	Rotation              json.RawMessage `json:"rotation"`
	RestoreFrom           *string         `json:"restore_from_version"`
	SourceService         json.RawMessage `json:"source_service"`
}

// decodeSecret reads and checks a body for a secret of the given type. It may have the fields common to all
// types and the type's own, in the notation of [call.decode].
func (c *Cloud) decodeSecret(in *call, kind, common, own string) (*secretPrototype, error) {
	p := &secretPrototype{Kind: kind}
	if err := in.decode(p, common+" "+own); err != nil {
		return nil, err
	}
	return p, p.check(c, in)
}

// nameForm is the API reference's pattern for a secret's name.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_]*(?:_*-*\.*[A-Za-z0-9]*)*[A-Za-z0-9]+$`)

// checkTexts applies the rules for a name of at most longest characters and for a description; nil is absent.
func checkTexts(name, description *string, longest int) error {
	return check(
		length("name", name, 2, longest),
		rule{name != nil && !nameForm.MatchString(*name), "name", "must match " + nameForm.String()},
		length("description", description, 0, 1024),
	)
}

// check applies the rules for names, texts, labels, metadata, dates and values. The caller holds c.mu.
func (p *secretPrototype) check(c *Cloud, in *call) error {
	if err := checkTexts(p.Name, p.Description, 256); err != nil {
		return err
	}
	items, isObject := members(p.Data)
	rules := []rule{
		{len(p.Labels) > 30, "labels", "must be at most 30"},
		{!isObjectOrNull(p.CustomMetadata), "custom_metadata", "must be a JSON object"},
		{!isObjectOrNull(p.VersionCustomMetadata), "version_custom_metadata", "must be a JSON object"},
		{p.ExpirationDate != nil && !p.ExpirationDate.After(in.now), "expiration_date", "must be in the future"},
		{p.Payload != nil && *p.Payload == "", "payload", "must not be empty"},
		{!isNull(p.Data) && (!isObject || items == 0), "data", "must be a JSON object with at least one item"},
	}
	for _, label := range p.Labels {
		rules = append(rules, length("labels", &label, 2, 64))
	}
	if err := check(rules...); err != nil {
		return err
	}
	for field, isTooLarge := range map[string]bool{
		"custom_metadata": len(p.CustomMetadata) > 10<<10, "version_custom_metadata": len(p.VersionCustomMetadata) > 10<<10,
		"payload": utf8.RuneCountInString(deref(p.Payload)) > 1_000_000, "data": len(p.Data) > 512<<10,
	} {
		if isTooLarge {
			return c.tooLarge(field)
		}
	}
	return nil
}

// tooLarge, duplicate and destroyed are errors with the status that the settings choose. The caller holds c.mu.
func (c *Cloud) tooLarge(field string) *apiError {
	e := badField(field, "is too large")
	e.status = c.settings.TooLarge
	return e
}

func (c *Cloud) duplicate(what string) *apiError {
	return fail(c.settings.Duplicate, "already_exists", "A "+what+" with the same name already exists.")
}

// destroyed is the error for a change of a secret that isDestroyed.
func (c *Cloud) destroyed() *apiError {
	return fail(c.settings.Destroyed, "destroyed", "The requested action can't be completed because the secret is destroyed.")
}

// A secretName is unique over the whole instance, whatever the group.
type secretName struct{ kind, name string }

// A secret is guarded by Cloud.mu.
type secret struct {
	creation
	id             string
	name           string
	description    string
	kind           string
	groupID        string
	labels         []string        // replaced, never changed in place
	customMetadata json.RawMessage // a JSON object, or empty
	updatedAt      time.Time
	retrievedAt    time.Time  // of the last read of its value; zero for never
	expiration     time.Time  // of arbitrary secrets; zero for none
	versions       []*version // oldest first; the last is current, the one before it previous
	minting        *minting   // of iam_credentials and service_credentials
}

// addSecret creates a secret with its first version from a checked prototype. A secret that creates API keys
// needs a minting. The caller holds c.mu.
func (c *Cloud) addSecret(p *secretPrototype, groupID string, m *minting, by *identity, now time.Time) *secret {
	s := &secret{creation: c.newCreation(by.iamID, now), id: uuid.NewString(), kind: p.Kind, groupID: groupID, minting: m}
	c.secrets[s.id] = s
	c.applyPatch(s, p)
	first := &value{payload: deref(p.Payload), data: p.Data}
	if m != nil {
		c.keySecrets = append(c.keySecrets, s)
		first = c.mint(s, now)
	}
	c.addVersion(s, &version{customMetadata: p.VersionCustomMetadata, value: first}, by.iamID, now)
	return s
}

// applyPatch replaces each property that the prototype has; it merges no objects or lists.
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

// removeSecret deletes s and the API keys that it created.
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

// isDestroyed reports whether an arbitrary secret has reached its expiration date, or the key of another
// secret the end of its lease. The value is then gone for good, and no version can be added.
func (s *secret) isDestroyed(now time.Time) bool {
	return !s.expiration.IsZero() && !now.Before(s.expiration) || s.hasEnded(now)
}

// expires is the time at which a version's value becomes unavailable; zero for never.
func (s *secret) expires(v *version) time.Time {
	if v.value != nil && v.value.key != nil {
		return v.value.key.leaseEnds
	}
	return s.expiration
}

func (c *Cloud) createSecret(in *call) (any, error) {
	var kind struct {
		Kind string `json:"secret_type"`
	}
	_ = json.Unmarshal(in.body, &kind) // decode reports what is wrong
	fields, ok := kindFields[kind.Kind]
	switch {
	case slices.Contains(otherKinds, kind.Kind):
		return nil, doesNotServe("secrets of the type " + kind.Kind)
	case kind.Kind != "" && !ok:
		return nil, badField("secret_type", "must be arbitrary, kv, iam_credentials or service_credentials here")
	}
	p, err := c.decodeSecret(in, kind.Kind,
		"secret_type! name! description secret_group_id labels custom_metadata version_custom_metadata", fields.create)
	if err != nil {
		return nil, err
	}
	groupID := defaultGroup
	assign(&groupID, p.GroupID)
	switch {
	case c.groups[groupID] == nil:
		return nil, notFound("secret group")
	case !in.caller.may("secret.create", groupID):
		return nil, forbidden("secret.create")
	case c.names[secretName{p.Kind, *p.Name}] != nil:
		return nil, c.duplicate("secret")
	}
	m, err := c.newMinting(p, in.now)
	if err == nil {
		err = c.mayMint(m, in.now)
	}
	if err != nil {
		return nil, err
	}
	s := c.addSecret(p, groupID, m, in.caller, in.now)
	return s.json(c, in.now, s.current().value), nil
}

func (c *Cloud) getSecret(in *call) (any, error) {
	v, err := c.readValue(in.secret, in.secret.current(), in.now)
	if err != nil {
		return nil, err
	}
	return in.secret.json(c, in.now, v), nil
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
	in.secret = c.names[secretName{in.params[1], in.params[2]}]
	if in.secret == nil || in.secret.groupID != g.id {
		return nil, notFound("secret")
	}
	return c.getSecret(in)
}

// deleteSecret deletes a secret unless it has locks.
func (c *Cloud) deleteSecret(in *call) (any, error) {
	if in.secret.locksTotal() > 0 {
		return nil, published("version_locked")
	}
	c.removeSecret(in.secret)
	return nil, nil
}

func (c *Cloud) secretMetadata(in *call) any { return in.secret.json(c, in.now, nil) }

// patchMetadata replaces each property that the body has.
func (c *Cloud) patchMetadata(in *call) (any, error) {
	s := in.secret
	p, err := c.decodeSecret(in, s.kind, "name description labels custom_metadata", kindFields[s.kind].patch)
	if err != nil {
		return nil, err
	}
	if s.isDestroyed(in.now) {
		return nil, c.destroyed()
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
			c.catchUp(in.now)
		}
	}
	c.applyPatch(s, p)
	s.updatedAt = in.now
	return c.secretMetadata(in), nil
}

// listSecrets lists the metadata of the secrets that the caller may list and that match the query.
func (c *Cloud) listSecrets(in *call) (any, error) {
	groups, kinds, labels := listOf(in.query.Get("groups")), listOf(in.query.Get("secret_types")), listOf(in.query.Get("match_all_labels"))
	search := strings.ToLower(in.query.Get("search"))
	selected := c.visibleSecrets(in, func(s *secret) bool {
		texts := strings.Join(append([]string{s.id, s.name, s.description, s.kind}, s.labels...), "\n")
		return listed(groups, s.groupID) && listed(kinds, s.kind) && strings.Contains(strings.ToLower(texts), search) &&
			!slices.ContainsFunc(labels, func(label string) bool { return !slices.Contains(s.labels, label) })
	})
	list := rendered(selected, func(s *secret) object { return s.json(c, in.now, nil) })
	if err := in.sorted(list, "id", "name", "secret_type", "created_at", "updated_at", "retrieved_at", "expiration_date"); err != nil {
		return nil, err
	}
	return in.paginate("secrets", list, 200)
}

// visibleSecrets returns, in the order of creation, the wanted secrets of those groups in which the caller
// may do the operation.
func (c *Cloud) visibleSecrets(in *call, wanted func(*secret) bool) []*secret {
	return inOrder(c.secrets, func(s *secret) bool { return in.caller.may(in.operation.action, s.groupID) && wanted(s) })
}

// States of NIST SP 800-57 that a secret can be in here.
const (
	stateActive    = 1
	stateDestroyed = 5
)

// json renders the secret with a value, or with nil only its metadata.
func (s *secret) json(c *Cloud, now time.Time, v *value) object {
	out := object{
		"id": s.id, "name": s.name, "description": s.description, "secret_type": s.kind, "secret_group_id": s.groupID,
		"crn":        c.instanceCRN("secrets-manager") + ":secret:" + s.id,
		"created_by": s.by, "created_at": timestamp(s.at), "updated_at": timestamp(s.updatedAt),
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

// addValue adds the value of a secret or version, in the fields of its type; nil adds none.
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
			"apikey": v.key.value, "iam_apikey_description": "Auto-generated for the secret " + s.name, "iam_apikey_id": v.key.id,
			"iam_apikey_name": s.name, "iam_role_crn": "crn:v1:bluemix:public:iam::::serviceRole:Writer",
			"iam_serviceid_crn": v.key.owner.crn("serviceid"),
		}
	}
}
