package ibmcloudtest

import "net/http"

var lockOperations = []operation{
	op(OpLocks, serviceSecretsManager, http.MethodPost, "/api/v2/secrets/{id}/locks_bulk", http.StatusCreated, (*Cloud).lockSecret),
	op(OpLocks, serviceSecretsManager, http.MethodDelete, "/api/v2/secrets/{id}/locks_bulk", http.StatusOK, (*Cloud).unlockSecret),
	op(OpLocks, serviceSecretsManager, http.MethodGet, "/api/v2/secrets/{id}/locks", http.StatusOK, (*Cloud).listSecretLocks),
	op(OpLocks, serviceSecretsManager, http.MethodPost,
		"/api/v2/secrets/{id}/versions/{version}/locks_bulk", http.StatusCreated, (*Cloud).lockVersion),
	op(OpLocks, serviceSecretsManager, http.MethodDelete,
		"/api/v2/secrets/{id}/versions/{version}/locks_bulk", http.StatusOK, (*Cloud).unlockVersion),
	op(OpLocks, serviceSecretsManager, http.MethodGet,
		"/api/v2/secrets/{id}/versions/{version}/locks", http.StatusOK, (*Cloud).listVersionLocks),
	op(OpLocks, serviceSecretsManager, http.MethodGet, "/api/v2/secrets_locks", http.StatusOK, (*Cloud).listAllLocks),
}

// lockSecret locks the current version.
func (c *Cloud) lockSecret(in *call) (any, error) {
	s, err := c.secretFor(in, actLocksCreate)
	if err != nil {
		return nil, err
	}
	return c.createLocks(in, s, s.current())
}

func (c *Cloud) lockVersion(in *call) (any, error) {
	s, v, err := c.versionFor(in, actVersionLocksCreate)
	if err != nil {
		return nil, err
	}
	return c.createLocks(in, s, v)
}

// createLocks attaches the locks of the body to v, replacing those of the same name.
func (c *Cloud) createLocks(in *call, s *secret, v *version) (any, error) {
	var body struct {
		Locks []lockPrototype `json:"locks"`
	}
	if err := in.decode(&body, mediaJSON, "locks!"); err != nil {
		return nil, err
	}
	for _, p := range body.Locks {
		if err := p.check(); err != nil {
			return nil, err
		}
	}
	mode := in.request.URL.Query().Get("mode")
	switch {
	case mode != "" && mode != modeRemovePrevious && mode != modeRemovePreviousAndDelete:
		return nil, badField("mode", "must be remove_previous or remove_previous_and_delete")
	case len(body.Locks) == 0:
		return nil, badField("locks", "must not be empty")
	case s.alias(v) == "":
		return nil, badRequest("Only the current and the previous version can be locked.")
	case s.locksTotal()+len(body.Locks) > maxLocks:
		return nil, badRequest("The secret has as many locks as it can hold.")
	}
	names := make([]string, len(body.Locks))
	for i, p := range body.Locks {
		names[i] = p.Name
		v.attach(&lock{p.Name, p.Description, p.Attributes, in.caller.iamID, in.now, in.now})
	}
	if previous := s.previous(); mode != "" && previous != nil && previous != v {
		previous.detach(names)
		if mode == modeRemovePreviousAndDelete && !previous.isLocked() {
			c.discardValue(previous)
		}
	}
	return s.locksJSON(in.now), nil
}

// unlockSecret removes locks by name, or all, from every version.
func (c *Cloud) unlockSecret(in *call) (any, error) {
	s, err := c.secretFor(in, actLocksDelete)
	if err != nil {
		return nil, err
	}
	for _, v := range s.versions {
		v.detach(listOf(in.request.URL.Query().Get("name")))
	}
	return s.locksJSON(in.now), nil
}

func (c *Cloud) unlockVersion(in *call) (any, error) {
	s, v, err := c.versionFor(in, actVersionLocksDelete)
	if err != nil {
		return nil, err
	}
	v.detach(listOf(in.request.URL.Query().Get("name")))
	return s.locksJSON(in.now), nil
}

func (c *Cloud) listSecretLocks(in *call) (any, error) {
	s, err := c.secretFor(in, actLocksList)
	if err != nil {
		return nil, err
	}
	return s.listLocks(in, s.versions...)
}

func (c *Cloud) listVersionLocks(in *call) (any, error) {
	s, v, err := c.versionFor(in, actVersionLocksList)
	if err != nil {
		return nil, err
	}
	return s.listLocks(in, v)
}
