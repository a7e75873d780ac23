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
	maxKeys  = 20 // of one identity, keys of persons included
	maxLease = 90 * day
	day      = 24 * time.Hour
	month    = 30 * day // where a rule is held against a lease
)

// A rotationRule is how often Secrets Manager makes a new version by itself.
type rotationRule struct {
	AutoRotate *bool  `json:"auto_rotate"`
	Interval   int    `json:"interval,omitempty"`
	Unit       string `json:"unit,omitempty"` // day or month
}

func (r rotationRule) isOn() bool { return r.AutoRotate != nil && *r.AutoRotate }

// after returns when a secret rotated at t rotates next; zero without a rule.
func (r rotationRule) after(t time.Time) time.Time {
	switch {
	case !r.isOn():
		return time.Time{}
	case r.Unit == "month":
		return t.AddDate(0, r.Interval, 0)
	}
	return t.Add(time.Duration(r.Interval) * day)
}

// A minting says how a secret makes its own API keys.
type minting struct {
	owner         *identity // whose keys they are
	isStatic      bool      // the owner stays: it was named when the secret was created. Else each key has an owner of its own
	reuse         bool      // reads return the same key; else each makes a new one and deletes the last
	groups        []string  // access groups, of an owner that changes
	ttl           string    // as given: a number of seconds or a duration
	lease         time.Duration
	rule          rotationRule
	next          time.Time       // when the rule rotates; zero without a rule
	sourceService json.RawMessage // service_credentials: what the credentials are for
	keys          []*apiKey       // made and not deleted, oldest first
}

// newMinting reads the fields of an iam_credentials or service_credentials prototype; for other types it returns nil.
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

// change sets the lease and the rule that a body names. A new lease counts from the next key on.
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

// parseTTL returns the lease as it was given, and its length. It is at least a minute (iam_credentials) or a day, and at
// most 90 days.
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

// mayMint refuses a further key, of a secret that makes keys: without the service-to-service authorization, for an owner that is
// no more, or one that has as many keys as it can hold at that time.
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

// mint makes the secret's next key, locked at IAM, which knows it after the propagation time. [Cloud.mayMint] comes first.
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

// dropKey makes IAM forget a key that the secret made, with its owner if that was made for it alone.
func (c *Cloud) dropKey(m *minting, k *apiKey) {
	delete(c.keys, k.value)
	m.keys = slices.DeleteFunc(m.keys, func(other *apiKey) bool { return other == k })
	if !m.isStatic {
		c.removeIdentity(k.owner)
	}
}

// hasEnded reports whether the secret's current key is past its lease. The secret can be read, rotated and restored no more.
func (s *secret) hasEnded(now time.Time) bool {
	v := s.current().value
	return s.minting != nil && s.minting.reuse && v != nil && v.key.ended(now)
}

// play carries out what time has brought: rotations by rule, and the ends of leases. The caller holds c.mu.
func (c *Cloud) play(now time.Time) {
	for _, s := range c.keySecrets {
		for c.playNext(s, now) {
		}
	}
	for _, s := range c.keySecrets { // now that no earlier rotation counts them any more
		m := s.minting
		for i := range slices.Backward(m.keys) {
			if m.keys[i].ended(now) {
				c.dropKey(m, m.keys[i])
			}
		}
	}
}

// playNext rotates the secret once if that was due by now, and reports whether it was. A rotation that is refused is tried
// again a day later. One that has no fixed service id is made anew at the end of its lease, too.
func (c *Cloud) playNext(s *secret, now time.Time) bool {
	m, at := s.minting, s.minting.next
	if v := s.current().value; m.reuse && v != nil && !v.key.leaseEnds.IsZero() && (at.IsZero() || !at.Before(v.key.leaseEnds)) {
		m.next, at = time.Time{}, time.Time{} // past its lease nothing rotates any more
		if end := v.key.leaseEnds; !m.isStatic && !end.After(now) {
			at = end.Add(now.Sub(end).Truncate(m.lease)) // leases that have ended meanwhile are left out
		}
	}
	if at.IsZero() || at.After(now) {
		return false
	}
	if c.settings.AutomaticRotation == "fails" || s.previous().isLocked() || c.mayMint(m, at) != nil {
		if m.next.IsZero() {
			return false // at the end of a lease: again at the next request
		}
		m.next = at.Add(day)
		return true
	}
	c.addVersion(s, &version{autoRotated: true, value: c.mint(s, at)}, s.by, at)
	c.endPrevious(s, c.settings.KeyAfterAutomaticRotation)
	return true
}

// rotate makes the version that a person asks for: with a new key, or with the one of the version to restore.
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

// endPrevious deletes the key of the previous version unless it lives on to the end of its lease.
func (c *Cloud) endPrevious(s *secret, until string) {
	if until == "at_once" {
		c.discardValue(s, s.previous())
	}
}

// readValue returns the version's value for a reader, and notes the reading. A reading of an
// iam_credentials secret without reuse_api_key replaces the key, which a lock forbids.
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

// addMinting adds to the secret's metadata what is special to those that make keys.
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

// addKeyID adds the id and the owner of an iam_credentials version's key, which are no secret.
func (v *version) addKeyID(out object, s *secret, now time.Time) {
	if s.kind == kindIAMCredentials && s.available(v, now) {
		out["api_key_id"], out["service_id"] = v.value.key.id, v.value.key.owner.subject()
	}
}
