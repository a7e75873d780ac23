package ibmcloudtest

import (
	"encoding/json"
	"slices"
	"time"
	"unicode/utf8"
)

// A secretPrototype is the body that creates a secret, a version or a change of metadata: the union
// of the fields of all types. Pointers and raw values tell absent from empty.
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
	SourceService         json.RawMessage `json:"source_service"`
}

// kindFields lists what each type's bodies may hold; "!" marks what they must. The sources are the
// SDK's prototypes.
var kindFields = map[string]struct{ create, version, patch []string }{
	kindArbitrary: {
		create:  []string{"payload!", "expiration_date"},
		version: []string{"payload!"}, // no expiration_date: a version cannot move it
		patch:   []string{"expiration_date"},
	},
	kindKV: {
		create:  []string{"data!"},
		version: []string{"data!"},
	},
	kindIAMCredentials: {
		create: []string{"ttl!", "access_groups", "service_id", "account_id", "reuse_api_key", "rotation"},
		patch:  []string{"ttl", "rotation"},
	},
	kindServiceCredentials: {
		create: []string{"source_service!", "ttl", "rotation"},
		patch:  []string{"ttl", "rotation"},
	},
}

var (
	commonCreateFields = []string{"secret_type!", "name!", "description", "secret_group_id", "labels",
		"custom_metadata", "version_custom_metadata"}
	commonVersionFields = []string{"custom_metadata", "version_custom_metadata"}
	commonPatchFields   = []string{"name", "description", "labels", "custom_metadata"}
)

// decodeCreate reads the body of a new secret.
func (in *call) decodeCreate() (*secretPrototype, error) {
	var kind struct {
		Kind string `json:"secret_type"`
	}
	_ = json.Unmarshal(in.body, &kind) // decode reports what is wrong
	fields, ok := kindFields[kind.Kind]
	if kind.Kind != "" && !ok {
		return nil, badField("secret_type", "must be arbitrary, kv, iam_credentials or service_credentials here")
	}
	var p secretPrototype
	return &p, in.decode(&p, mediaJSON, slices.Concat(commonCreateFields, fields.create)...)
}

// decodeVersion reads the body of a new version of a secret of the given type.
func (in *call) decodeVersion(kind string) (*secretPrototype, error) {
	p := secretPrototype{}
	err := in.decode(&p, mediaJSON, slices.Concat(commonVersionFields, kindFields[kind].version)...)
	p.Kind = kind
	return &p, err
}

// decodePatch reads a change of a secret's metadata.
func (in *call) decodePatch(kind string) (*secretPrototype, error) {
	p := secretPrototype{}
	err := in.decode(&p, mediaMergePatch, slices.Concat(commonPatchFields, kindFields[kind].patch)...)
	p.Kind = kind
	return &p, err
}

// check applies the rules for names, texts, labels, metadata and dates. The caller holds c.mu.
func (c *Cloud) check(p *secretPrototype, now time.Time) error {
	if p.Name != nil {
		if err := checkName(*p.Name, maxSecretName); err != nil {
			return err
		}
	}
	for _, err := range []error{
		checkDescription(p.Description),
		checkLabels(p.Labels),
		c.checkMetadata("custom_metadata", p.CustomMetadata),
		c.checkMetadata("version_custom_metadata", p.VersionCustomMetadata),
		checkExpiration(p.ExpirationDate, now),
		c.checkValue(p),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkValue applies the rules for a payload and for key-value data.
func (c *Cloud) checkValue(p *secretPrototype) error {
	items, isObject := members(p.Data)
	switch {
	case p.Payload != nil && *p.Payload == "":
		return badField("payload", "must not be empty")
	case p.Payload != nil && utf8.RuneCountInString(*p.Payload) > maxPayload:
		return c.tooLarge("payload")
	case isNull(p.Data):
		return nil
	case !isObject || items == 0:
		return badField("data", "must be a JSON object with at least one item")
	case len(p.Data) > maxDataBytes:
		return c.tooLarge("data")
	}
	return nil
}
