package ibmcloudtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	maxKeys  = 20 // of one identity, including keys that a person created
	maxLease = 90 * day
	day      = 24 * time.Hour
	month    = 30 * day // when a rule's interval is compared with a lease
)

// A rotationRule says how often Secrets Manager rotates a secret by itself.
type rotationRule struct {
	AutoRotate *bool  `json:"auto_rotate"`
	Interval   int    `json:"interval,omitempty"`
	Unit       string `json:"unit,omitempty"` // day or month
}

func (r rotationRule) isOn() bool { return r.AutoRotate != nil && *r.AutoRotate }

// after returns when a secret that was rotated at t is rotated next; zero if the rule is off.
func (r rotationRule) after(t time.Time) time.Time {
	switch {
	case !r.isOn():
		return time.Time{}
	case r.Unit == "month":
		return t.AddDate(0, r.Interval, 0)
	}
	return t.Add(time.Duration(r.Interval) * day)
}

// A minting says how an iam_credentials or service_credentials secret creates its API keys.
type minting struct {
	owner         *identity // of the newest key
	isStatic      bool      // all keys have the owner that was named with the secret; else each has a new one
	reuse         bool      // reads return the same key; else each read creates a new key and deletes the last
	groups        []string  // access groups of the owners, if not isStatic
	ttl           string    // the lease as given: a number of seconds or a duration
	lease         time.Duration
	rule          rotationRule
	next          time.Time       // when the rule rotates next; zero without a rule
	sourceService json.RawMessage // service_credentials: what the credentials are for
	keys          []*apiKey       // created and not deleted, oldest first
}

// newMinting reads the fields of an iam_credentials or service_credentials prototype. It returns nil for other types.
func (c *Cloud) newMinting(p *secretPrototype, now time.Time) (*minting, error) {
	ofService := p.Kind == kindServiceCredentials
	if !ofService && p.Kind != kindIAMCredentials {
		return nil, nil
	}
	m := &minting{
		reuse: p.ReuseAPIKey || ofService, isStatic: p.ServiceID != "" || ofService, groups: p.AccessGroups, sourceService: p.SourceService,
	}
	if err := m.change(p, now); err != nil {
		return nil, err
	}
	var source struct {
		Instance struct {
			CRN string `json:"crn"`
		} `json:"instance"`
	}
	if m.owner = c.identities["iam-"+p.ServiceID]; ofService && m.owner == nil {
		m.owner = c.newServiceID(IdentityWorkload, *p.Name, c.account)
	}
	return m, check(
		rule{ofService && (json.Unmarshal(p.SourceService, &source) != nil || source.Instance.CRN == ""), "source_service", "must have instance.crn"},
		rule{m.isStatic && m.owner == nil, "service_id", "must be a service id of this account"},
		rule{m.isStatic && len(m.groups) > 0, "access_groups", "must be absent beside service_id"},
		rule{len(m.groups) > 10, "access_groups", "must be at most 10"},
	)
}

// change sets the lease and the rule, as far as a body has them. A new lease applies to keys created afterwards.
func (m *minting) change(p *secretPrototype, now time.Time) error {
	changed := *m
	if !isNull(p.TTL) {
		var err error
		if changed.ttl, changed.lease, err = parseTTL(p); err != nil {
			return err
		}
	}
	if !isNull(p.Rotation) {
		changed.rule = rotationRule{}
		if json.Unmarshal(p.Rotation, &changed.rule) != nil || changed.rule.AutoRotate == nil {
			return badField("rotation", `must be an object with auto_rotate, interval and unit`)
		}
		changed.next = changed.rule.after(now)
	}
	if err := changed.check(); err != nil {
		return err
	}
	*m = changed
	return nil
}

func (m *minting) check() error {
	if !m.rule.isOn() {
		return nil
	}
	interval, unit := m.rule.Interval, map[string]time.Duration{"day": day, "month": month}[m.rule.Unit]
	length := unit * time.Duration(interval)
	isOdd := interval < 1 || interval > 366 || length == 0 || length > 3*month
	return check(
		rule{isOdd, "rotation", "must have a unit, day or month, and an interval of one day to 3 months"},
		rule{m.lease > 0 && length > m.lease, "rotation", "must have an interval that does not exceed the ttl"},
		rule{!m.reuse, "rotation", "must not be on where reuse_api_key is false"},
	)
}

// parseTTL returns the lease as given and as a duration. The shortest is a minute for iam_credentials and a
// day for service_credentials, the longest 90 days.
func parseTTL(p *secretPrototype) (string, time.Duration, error) {
	shortest := time.Minute
	if p.Kind == kindServiceCredentials {
		shortest = day
	}
	text := string(p.TTL)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	lease, err := time.ParseDuration(text)
	if seconds, isNumber := strconv.ParseInt(text, 10, 32); isNumber == nil {
		lease, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || lease < shortest || lease > maxLease {
		return "", 0, badField("ttl", fmt.Sprintf("must be seconds or a duration, %s to %s", shortest, maxLease))
	}
	return text, lease, nil
}

// mayMint returns an error if the secret cannot create a key at that time: Secrets Manager lacks the
// service-to-service authorization, or the owner was deleted or has as many keys as it can hold. A nil
// minting, of a secret that creates no keys, is no error.
func (c *Cloud) mayMint(m *minting, at time.Time) error {
	if m == nil {
		return nil
	}
	seeded := m.isStatic && m.owner.class != ""
	switch authorization := c.settings.KeyAuthorization; {
	case authorization == "none", authorization == "service_ids" && !seeded, c.settings.GroupsAuthorization == "required":
		return badRequest("Secrets Manager isn't authorized to manage API keys at IAM Identity.")
	case !m.isStatic:
		return nil
	case c.identities[m.owner.iamID] == nil:
		return badRequest("The service ID of the secret does not exist.")
	case c.countKeys(m.owner, at) >= maxKeys:
		return badRequest("The service ID has as many API keys as it can hold.")
	}
	return nil
}

// countKeys counts the keys that an identity has at a time.
func (c *Cloud) countKeys(owner *identity, at time.Time) (n int) {
	for _, k := range c.keys {
		if k.owner == owner && !k.at.After(at) && !k.ended(at) {
			n++
		}
	}
	return n
}

// mint creates the secret's next key. IAM accepts it after the propagation time; a key of iam_credentials is
// locked. The caller has called mayMint.
func (c *Cloud) mint(s *secret, at time.Time) *value {
	m := s.minting
	name := "Secrets-Manager-IAM-Secret-" + s.name
	if !m.isStatic {
		m.owner = c.newServiceID(IdentityWorkload, name, c.account)
	}
	k := c.newKey(m.owner, name, at.Add(c.keyPropagation))
	k.at, k.modifiedAt, k.locked = at, at, s.kind == kindIAMCredentials
	if m.lease > 0 {
		k.leaseEnds = at.Add(m.lease)
	}
	m.keys = append(m.keys, k)
	m.next = m.rule.after(at)
	return &value{key: k}
}

// dropKey deletes a key that the secret created, and its owner if that was created for this key.
func (c *Cloud) dropKey(m *minting, k *apiKey) {
	delete(c.keys, k.value)
	m.keys = slices.DeleteFunc(m.keys, func(other *apiKey) bool { return other == k })
	if !m.isStatic {
		c.removeIdentity(k.owner)
	}
}

// hasEnded reports whether the lease of the secret's current key is over. The secret then cannot be rotated
// or restored, and a read returns no key.
func (s *secret) hasEnded(now time.Time) bool {
	v := s.current().value
	return s.minting != nil && s.minting.reuse && v != nil && v.key.ended(now)
}

// catchUp carries out what has become due: it rotates secrets by their rules and deletes keys whose lease is
// over. The caller holds c.mu.
func (c *Cloud) catchUp(now time.Time) {
	for _, s := range c.keySecrets {
		for c.rotateIfDue(s, now) {
		}
	}
	for _, s := range c.keySecrets { // after the rotations, which count the keys of their own time
		m := s.minting
		for i := range slices.Backward(m.keys) {
			if m.keys[i].ended(now) {
				c.dropKey(m, m.keys[i])
			}
		}
	}
}

// rotateIfDue rotates the secret once if a rotation has become due, and reports whether to call it again.
// A rotation by rule that is not possible is tried again a day later. A secret without a fixed service id
// also gets a new key when the lease of the last one ends.
func (c *Cloud) rotateIfDue(s *secret, now time.Time) bool {
	m, at := s.minting, s.minting.next
	if v := s.current().value; m.reuse && v != nil && !v.key.leaseEnds.IsZero() && (at.IsZero() || !at.Before(v.key.leaseEnds)) {
		m.next, at = time.Time{}, time.Time{} // the rule ends with the lease
		if end := v.key.leaseEnds; !m.isStatic && !end.After(now) {
			at = end.Add(now.Sub(end).Truncate(m.lease)) // leases that would have ended by now are skipped
		}
	}
	if at.IsZero() || at.After(now) {
		return false
	}
	if c.settings.AutomaticRotation == "fails" || s.previous().isLocked() || c.mayMint(m, at) != nil {
		if m.next.IsZero() {
			return false // the lease of the last key is over: the next request tries again
		}
		m.next = at.Add(day)
		return true
	}
	c.addVersion(s, &version{autoRotated: true, value: c.mint(s, at)}, s.by, at)
	c.endPrevious(s, c.settings.KeyAfterAutomaticRotation)
	return true
}

// rotate adds a version on request: with a new key, or with the key of the version to restore.
func (c *Cloud) rotate(s *secret, p *secretPrototype, by string, now time.Time) (*version, error) {
	v := &version{customMetadata: p.VersionCustomMetadata}
	if !s.minting.reuse {
		return nil, badRequest("A secret whose reuse_api_key is false can't be rotated.")
	}
	if p.RestoreFrom != nil {
		from := s.version(*p.RestoreFrom)
		if from == nil || !s.available(from, now) {
			return nil, badField("restore_from_version", "must be a version whose key is available")
		}
		v.value = &value{key: from.value.key}
		return c.addVersion(s, v, by, now), nil
	}
	if err := c.mayMint(s.minting, now); err != nil {
		return nil, err
	}
	v.value = c.mint(s, now)
	c.addVersion(s, v, by, now)
	c.endPrevious(s, c.settings.KeyAfterManualRotation)
	return v, nil
}

// endPrevious deletes the key of the previous version if until, a setting, is "at_once". With "ttl" the key
// works until its lease ends.
func (c *Cloud) endPrevious(s *secret, until string) {
	if until == "at_once" {
		c.discardValue(s, s.previous())
	}
}

// readValue returns the version's value, nil if it is not available, and records the time of the read. If
// reuse_api_key is false, the read replaces the key, which a lock forbids.
func (c *Cloud) readValue(s *secret, v *version, now time.Time) (*value, error) {
	if status := c.settings.EndedKeySecret; s.hasEnded(now) && status != http.StatusOK {
		return nil, fail(status, "not_found", "The secret has reached the end of its lease.")
	}
	makesNew := s.minting != nil && !s.minting.reuse
	if !makesNew && !s.available(v, now) {
		return nil, nil
	}
	if makesNew {
		if v.isLocked() {
			return nil, published("version_locked")
		}
		if err := c.mayMint(s.minting, now); err != nil {
			return nil, err
		}
		c.discardValue(s, v)
		v.value = c.mint(s, now)
	}
	v.downloaded = true
	s.retrievedAt = now
	return v.value, nil
}

// addMinting adds the metadata that only secrets with a minting have.
func (s *secret) addMinting(out object, now time.Time) {
	m := s.minting
	if m == nil {
		return
	}
	out.set("ttl", m.ttl)
	out.set("source_service", m.sourceService)
	out.set("next_rotation_date", m.next)
	out["rotation"] = object{"auto_rotate": false} // without an interval
	if m.rule.isOn() {
		out["rotation"] = m.rule
	}
	if s.kind != kindIAMCredentials {
		return
	}
	out["service_id_is_static"], out["reuse_api_key"] = m.isStatic, m.reuse
	if len(m.groups) > 0 {
		out["access_groups"] = m.groups
	}
	s.current().addKeyID(out, s, now)
}

// addKeyID adds the id and the owner of the key of an iam_credentials version. They are not secret.
func (v *version) addKeyID(out object, s *secret, now time.Time) {
	if s.kind == kindIAMCredentials && s.available(v, now) {
		out["api_key_id"], out["service_id"] = v.value.key.id, v.value.key.owner.subject()
	}
}
