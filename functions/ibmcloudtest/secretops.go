package ibmcloudtest

import (
	"time"
)

func (c *Cloud) createSecret(in *call) (any, error) {
	if !in.caller.mayAnywhere(actSecretCreate) {
		return nil, forbidden(actSecretCreate)
	}
	p, err := in.decodeCreate()
	if err != nil {
		return nil, err
	}
	groupID := defaultGroup
	if p.GroupID != nil {
		groupID = *p.GroupID
	}
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
	if p.ExpirationDate != nil {
		s.expiration = *p.ExpirationDate
	}
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
	c.addSecret(s, in.caller)
	c.addVersion(s, &version{customMetadata: p.VersionCustomMetadata, value: first}, in.caller)
	return s, nil
}

func (c *Cloud) getSecret(in *call) (any, error) {
	s, err := c.secretFor(in, actSecretRead)
	if err != nil {
		return nil, err
	}
	return c.secretWithValue(s, in.now)
}

// getSecretByName returns the value too, so it needs the same action as reading by id.
func (c *Cloud) getSecretByName(in *call) (any, error) {
	if !in.caller.mayAnywhere(actSecretRead) {
		return nil, forbidden(actSecretRead)
	}
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
	s, err := c.secretFor(in, actSecretDelete)
	if err != nil {
		return nil, err
	}
	if s.locksTotal() > 0 {
		return nil, locked()
	}
	c.removeSecret(s)
	return nil, nil
}

func (c *Cloud) getMetadata(in *call) (any, error) {
	s, err := c.secretFor(in, actSecretMetadataRead)
	if err != nil {
		return nil, err
	}
	return s.json(c, in.now, nil), nil
}
