package ibmcloudtest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"
	"unicode/utf8"
)

const (
	mediaJSON       = "application/json"
	mediaMergePatch = "application/merge-patch+json"
)

// Limits of Secrets Manager, in characters unless they say bytes.
const (
	minName        = 2
	maxSecretName  = 256
	maxGroupName   = 64
	maxDescription = 1024
	maxLabels      = 30
	minLabel       = 2
	maxLabel       = 64
	maxPayload     = 1_000_000
	maxDataBytes   = 512 << 10
	maxMetaBytes   = 10 << 10
)

// nameForm is the API reference's pattern for a secret's name.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_]*(?:_*-*\.*[A-Za-z0-9]*)*[A-Za-z0-9]+$`)

func checkName(name string, longest int) error {
	if n := utf8.RuneCountInString(name); n < minName || n > longest {
		return badField("name", fmt.Sprintf("must have %d to %d characters", minName, longest))
	}
	if !nameForm.MatchString(name) {
		return badField("name", "must match "+nameForm.String())
	}
	return nil
}

func checkDescription(text *string) error {
	if text != nil && utf8.RuneCountInString(*text) > maxDescription {
		return badField("description", fmt.Sprintf("must have at most %d characters", maxDescription))
	}
	return nil
}

func checkLabels(labels []string) error {
	if len(labels) > maxLabels {
		return badField("labels", fmt.Sprintf("must be at most %d", maxLabels))
	}
	for _, label := range labels {
		if n := utf8.RuneCountInString(label); n < minLabel || n > maxLabel {
			return badField("labels", fmt.Sprintf("must have %d to %d characters each", minLabel, maxLabel))
		}
	}
	return nil
}

// checkMetadata takes custom metadata: a JSON object of bounded size, or nothing.
func (c *Cloud) checkMetadata(field string, metadata json.RawMessage) error {
	if isNull(metadata) {
		return nil
	}
	if _, ok := members(metadata); !ok {
		return badField(field, "must be a JSON object")
	}
	if len(metadata) > maxMetaBytes {
		return c.tooLarge(field)
	}
	return nil
}

// checkExpiration takes an expiration date in the future, or none.
func checkExpiration(date *time.Time, now time.Time) error {
	if date != nil && !date.After(now) {
		return badField("expiration_date", "must be in the future")
	}
	return nil
}

// tooLarge and duplicate answer with the status that the settings choose. The caller holds c.mu.
func (c *Cloud) tooLarge(field string) *apiError {
	e := badField(field, "is too large")
	e.status = c.settings.TooLarge
	return e
}

func (c *Cloud) duplicate(what string) *apiError {
	return fail(c.settings.Duplicate, "already_exists", "A "+what+" with the same name already exists.")
}

// destroyed answers a change to a secret past its expiration date.
func (c *Cloud) destroyed() *apiError {
	return fail(c.settings.Destroyed, "destroyed", "The requested action can't be completed because the secret is destroyed.")
}

// isNull tells whether a JSON value is absent or null.
func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// members counts the members of a JSON object; ok is false for any other value.
func members(raw json.RawMessage) (n int, ok bool) {
	var object map[string]json.RawMessage
	err := json.Unmarshal(raw, &object)
	return len(object), err == nil && object != nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
