package ibmcloudtest

import (
	"encoding/json"
	"time"
)

// States of NIST SP 800-57 that a secret can be in here.
const (
	stateActive    = 1
	stateDestroyed = 5
)

// secretJSON is a secret or its metadata, of any type; they differ in the value only.
type secretJSON struct {
	ID               string          `json:"id"`
	Name             string          `json:"name"`
	Description      string          `json:"description"`
	SecretType       string          `json:"secret_type"`
	SecretGroupID    string          `json:"secret_group_id"`
	CRN              string          `json:"crn"`
	CreatedBy        string          `json:"created_by"`
	CreatedAt        string          `json:"created_at"`
	UpdatedAt        string          `json:"updated_at"`
	RetrievedAt      string          `json:"retrieved_at,omitempty"`
	ExpirationDate   string          `json:"expiration_date,omitempty"`
	Labels           []string        `json:"labels"`
	CustomMetadata   json.RawMessage `json:"custom_metadata,omitempty"`
	Downloaded       bool            `json:"downloaded"`
	LocksTotal       int             `json:"locks_total"`
	VersionsTotal    int             `json:"versions_total"`
	State            int             `json:"state"`
	StateDescription string          `json:"state_description"`
	*mintingJSON
	valueJSON
}

// mintingJSON holds the further fields of iam_credentials and service_credentials.
type mintingJSON struct {
	TTL               string          `json:"ttl,omitempty"`
	ServiceIDIsStatic *bool           `json:"service_id_is_static,omitempty"`
	ReuseAPIKey       *bool           `json:"reuse_api_key,omitempty"`
	SourceService     json.RawMessage `json:"source_service,omitempty"`
}

// valueJSON holds what a secret or version protects: one of payload, data, api_key and credentials.
type valueJSON struct {
	Payload     *string         `json:"payload,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
	APIKey      string          `json:"api_key,omitempty"`
	APIKeyID    string          `json:"api_key_id,omitempty"`
	ServiceID   string          `json:"service_id,omitempty"`
	Credentials any             `json:"credentials,omitempty"`
}

// json renders the secret: with a value as a secret, without as its metadata.
func (s *secret) json(c *Cloud, now time.Time, v *value) secretJSON {
	out := secretJSON{
		ID: s.id, Name: s.name, Description: s.description, SecretType: s.kind, SecretGroupID: s.groupID,
		CRN:       "crn:v1:bluemix:public:secrets-manager:us-south:a/" + c.account + ":" + c.instance + ":secret:" + s.id,
		CreatedBy: s.createdBy, CreatedAt: timestamp(s.createdAt), UpdatedAt: timestamp(s.updatedAt),
		Labels: append([]string{}, s.labels...), CustomMetadata: s.customMetadata,
		Downloaded: s.current().downloaded, LocksTotal: s.locksTotal(), VersionsTotal: len(s.versions),
		State: stateActive, StateDescription: "active",
		mintingJSON: s.mintingJSON(), valueJSON: s.valueJSON(v),
	}
	if !s.retrievedAt.IsZero() {
		out.RetrievedAt = timestamp(s.retrievedAt)
	}
	if !s.expiration.IsZero() {
		out.ExpirationDate = timestamp(s.expiration)
	}
	if s.isDestroyed(now) {
		out.State, out.StateDescription = stateDestroyed, "destroyed"
	}
	return out
}

func (s *secret) mintingJSON() *mintingJSON {
	switch s.kind {
	case kindIAMCredentials:
		m := *s.minting
		return &mintingJSON{TTL: m.ttl, ServiceIDIsStatic: &m.isStatic, ReuseAPIKey: &m.reuse}
	case kindServiceCredentials:
		return &mintingJSON{TTL: s.minting.ttl, SourceService: s.minting.sourceService}
	}
	return nil
}

func (s *secret) valueJSON(v *value) valueJSON {
	switch {
	case v == nil:
		return valueJSON{}
	case s.kind == kindArbitrary:
		return valueJSON{Payload: &v.payload}
	case s.kind == kindKV:
		return valueJSON{Data: v.data}
	case s.kind == kindIAMCredentials:
		return valueJSON{APIKey: v.key.value, APIKeyID: v.key.id, ServiceID: v.key.owner.subject()}
	}
	return valueJSON{Credentials: map[string]string{
		"apikey":                 v.key.value,
		"iam_apikey_description": "Auto-generated for the secret " + s.name,
		"iam_apikey_id":          v.key.id,
		"iam_apikey_name":        s.name,
		"iam_role_crn":           "crn:v1:bluemix:public:iam::::serviceRole:Writer",
		"iam_serviceid_crn":      "crn:v1:bluemix:public:iam-identity::a/" + v.key.owner.account + "::serviceid:" + v.key.owner.subject(),
	}}
}
