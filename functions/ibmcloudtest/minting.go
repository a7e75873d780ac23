package ibmcloudtest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// A minting tells how a secret makes API keys of its own.
type minting struct {
	owner         *identity       // whose keys they are
	isStatic      bool            // the owner was named when the secret was created
	reuse         bool            // reads return the same key; else each makes a new one and deletes the last
	ttl           string          // as given: a number of seconds or a duration; the lease's end is not played out
	sourceService json.RawMessage // service_credentials: what the credentials are for
}

// mint returns a value with a new key of the secret's service id, which IAM knows after the
// propagation time.
func (c *Cloud) mint(m *minting, now time.Time) *value {
	return &value{key: c.newKey(m.owner, now.Add(c.keyPropagation))}
}

// readValue returns the version's value for a reader, and notes the reading. A reading of an
// iam_credentials secret without reuse_api_key replaces the key, which a lock forbids.
func (c *Cloud) readValue(s *secret, v *version, now time.Time) (*value, error) {
	if !s.available(v, now) {
		return nil, nil
	}
	if s.minting != nil && !s.minting.reuse {
		if v.isLocked() {
			return nil, locked()
		}
		c.discardValue(v)
		if !s.minting.isStatic {
			s.minting.owner = c.newServiceID(IdentityWorkload, s.name, c.account)
		}
		v.value = c.mint(s.minting, now)
	}
	v.downloaded = true
	s.retrievedAt = now
	return v.value, nil
}

// newMinting reads the fields of an iam_credentials or service_credentials prototype. It does not
// make the service id yet.
func (c *Cloud) newMinting(p *secretPrototype) (*minting, error) {
	ttl, err := parseTTL(p)
	if err != nil {
		return nil, err
	}
	m := &minting{ttl: ttl, reuse: p.ReuseAPIKey || p.Kind == kindServiceCredentials}
	if p.Kind == kindServiceCredentials {
		m.sourceService = p.SourceService
		return m, checkSourceService(p.SourceService)
	}
	if p.ServiceID != "" {
		m.isStatic = true
		if m.owner = c.identities["iam-"+p.ServiceID]; m.owner == nil {
			return nil, badField("service_id", "must be a service id of this account")
		}
	}
	return m, nil
}

// checkSourceService asks for the CRN of the instance that the credentials are for.
func checkSourceService(raw json.RawMessage) error {
	var source struct {
		Instance struct {
			CRN string `json:"crn"`
		} `json:"instance"`
	}
	if json.Unmarshal(raw, &source) != nil || source.Instance.CRN == "" {
		return badField("source_service", "must have instance.crn")
	}
	return nil
}

// parseTTL returns the lease as it was given. It is at least a minute (iam_credentials) or a day,
// and at most 90 days.
func parseTTL(p *secretPrototype) (string, error) {
	if isNull(p.TTL) {
		return "", nil
	}
	shortest, longest := time.Minute, 90*24*time.Hour
	if p.Kind == kindServiceCredentials {
		shortest = 24 * time.Hour
	}
	text := string(p.TTL)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	lease, err := time.ParseDuration(text)
	if seconds, isNumber := strconv.ParseInt(text, 10, 32); isNumber == nil {
		lease, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil || lease < shortest || lease > longest {
		return "", badField("ttl", fmt.Sprintf("must be seconds or a duration, %s to %s", shortest, longest))
	}
	return text, nil
}
