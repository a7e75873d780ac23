package config

import (
	"regexp"
	"slices"
	"strings"

	"iam-token-rotator/functions/internal/rotation"
)

var (
	idShape   = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	pathShape = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]+$`) // IBM's rule for names, but for the length
	keyTypes  = []string{"arbitrary", "kv", "service_credentials", "iam_credentials"}
)

// keyRef reads a secret's id, group/name (arbitrary) or group/type/name. A fault
// does not repeat the value: somebody will put the key itself there.
func keyRef(faults *faults, name, value, field string) rotation.KeyRef {
	if idShape.MatchString(value) {
		return rotation.KeyRef{ID: strings.ToLower(value), Field: field}
	}
	parts := strings.Split(value, "/")
	if len(parts) == 2 {
		parts = []string{parts[0], "arbitrary", parts[1]}
	}
	if len(parts) != 3 || !pathShape.MatchString(parts[0]) || !pathShape.MatchString(parts[2]) {
		faults.add(name, "names no secret: use its id, group/name or group/type/name")
		return rotation.KeyRef{}
	}
	if !slices.Contains(keyTypes, parts[1]) {
		faults.add(name, "names a type that holds no API key: use %s", strings.Join(keyTypes, ", "))
		return rotation.KeyRef{}
	}
	return rotation.KeyRef{Group: parts[0], Type: parts[1], Name: parts[2], Field: field}
}

// tokenID reads a secret's id.
func tokenID(faults *faults, name, value string) string {
	if !idShape.MatchString(value) {
		faults.add(name, "is no secret id: the token secret is named by its id alone, since reading by name would need the right to read values")
		return ""
	}
	return strings.ToLower(value)
}
