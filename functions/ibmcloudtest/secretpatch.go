package ibmcloudtest

// patchMetadata replaces each property that the body names, whole.
func (c *Cloud) patchMetadata(in *call) (any, error) {
	s, err := c.secretFor(in, actSecretMetadataUpdate)
	if err != nil {
		return nil, err
	}
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
	if p.Name != nil {
		if taken := c.names[secretName{s.kind, *p.Name}]; taken != nil && taken != s {
			return nil, c.duplicate("secret")
		}
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
	if p.Description != nil {
		s.description = *p.Description
	}
	if p.Labels != nil {
		s.labels = p.Labels
	}
	if len(p.CustomMetadata) > 0 {
		s.customMetadata = p.CustomMetadata
	}
	if p.ExpirationDate != nil {
		s.expiration = *p.ExpirationDate
	}
}
