package ibmcloudtest

import (
	"encoding/json"
	"net/http"
	"time"
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

// addSecret registers s, which has a kind, a name and a group but no version yet. The caller holds c.mu.
func (c *Cloud) addSecret(s *secret, by *identity) *secret {
	c.sequence++
	now := c.now()
	s.sequence, s.id, s.createdBy, s.createdAt, s.updatedAt = c.sequence, newUUID(), by.iamID, now, now
	c.secrets[s.id] = s
	c.names[secretName{s.kind, s.name}] = s
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

// isDestroyed tells whether an arbitrary secret has reached its expiration date. Its value is gone
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

// secretFor returns the secret whose id is the path's first parameter, if the caller may do a in
// its group. A missing secret is reported only to a caller who may do a somewhere.
func (c *Cloud) secretFor(in *call, a action) (*secret, error) {
	s, ok := c.secrets[in.params[0]]
	switch {
	case ok && in.caller.may(a, s.groupID):
		return s, nil
	case ok || !in.caller.mayAnywhere(a):
		return nil, forbidden(a)
	}
	return nil, notFound("secret")
}

var secretOperations = []operation{
	op(OpSecretsCreate, serviceSecretsManager, http.MethodPost, "/api/v2/secrets", http.StatusCreated, (*Cloud).createSecret),
	op(OpSecretsList, serviceSecretsManager, http.MethodGet, "/api/v2/secrets", http.StatusOK, (*Cloud).listSecrets),
	op(OpSecretsGet, serviceSecretsManager, http.MethodGet, "/api/v2/secrets/{id}", http.StatusOK, (*Cloud).getSecret),
	op(OpSecretsGet, serviceSecretsManager, http.MethodGet,
		"/api/v2/secret_groups/{group}/secret_types/{type}/secrets/{name}", http.StatusOK, (*Cloud).getSecretByName),
	op(OpSecretsDelete, serviceSecretsManager, http.MethodDelete, "/api/v2/secrets/{id}", http.StatusNoContent, (*Cloud).deleteSecret),
	op(OpSecretsMetadata, serviceSecretsManager, http.MethodGet, "/api/v2/secrets/{id}/metadata", http.StatusOK, (*Cloud).getMetadata),
	op(OpSecretsPatch, serviceSecretsManager, http.MethodPatch, "/api/v2/secrets/{id}/metadata", http.StatusOK, (*Cloud).patchMetadata),
}
