package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// defaultName is the rotation's that API_KEY_SECRET and TOKEN_SECRET describe.
const defaultName = "default"

// entry is one element of ROTATIONS.
type entry struct {
	Name         string          `json:"name"`
	APIKeySecret string          `json:"api_key_secret"`
	APIKeyField  string          `json:"api_key_field"`
	TokenSecret  string          `json:"token_secret"`
	TokenField   string          `json:"token_field"`
	Format       iamtoken.Format `json:"format"`
	Expect       struct {
		Account string `json:"account"`
		IAMID   string `json:"iam_id"`
	} `json:"expect"`
	Mirror []string `json:"mirror"`
}

// rotations reads the one source of rotations that is configured.
func (v variables) rotations(faults *faults, readFile ReadFile) []rotation.Rotation {
	pair := v.APIKeySecret != "" || v.TokenSecret != ""
	var set int
	for _, isSet := range []bool{pair, v.Rotations != "", v.RotationsFile != ""} {
		if isSet {
			set++
		}
	}
	if set != 1 {
		faults.add("rotations", "set API_KEY_SECRET and TOKEN_SECRET, or ROTATIONS, or ROTATIONS_FILE: exactly one of the three (%d are set)", set)
		return nil
	}
	var source string
	var entries []entry
	switch {
	case pair:
		return v.single(faults)
	case v.Rotations != "":
		source = "ROTATIONS"
		entries = decodeEntries(faults, source, []byte(v.Rotations))
	default:
		source = "ROTATIONS_FILE"
		content, err := readFile(v.RotationsFile)
		if err != nil {
			faults.add(source, "%v", err)
			return nil
		}
		entries = decodeEntries(faults, source, content)
	}
	return v.many(faults, source, entries)
}

func (v variables) single(faults *faults) []rotation.Rotation {
	return []rotation.Rotation{{
		Name:   defaultName,
		APIKey: keyRef(faults, "API_KEY_SECRET", v.APIKeySecret, ""),
		Token:  rotation.TokenRef{ID: tokenID(faults, "TOKEN_SECRET", v.TokenSecret), Format: v.TokenFormat},
	}}
}

// decodeEntries reads the list strictly: an unknown field is a misspelt one.
func decodeEntries(faults *faults, source string, text []byte) []entry {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var entries []entry
	err := decoder.Decode(&entries)
	if err == nil && decoder.More() {
		err = errors.New("something follows the list")
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		faults.add(source, "the JSON ends too early")
	case err != nil:
		faults.add(source, "is no JSON list of rotations: %v", err)
	case len(entries) == 0:
		faults.add(source, "the list is empty: name at least one rotation")
	}
	return entries
}

var nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (v variables) many(faults *faults, source string, entries []entry) []rotation.Rotation {
	names, targets := map[string]bool{}, map[string]string{}
	rotations := make([]rotation.Rotation, 0, len(entries))
	for i, e := range entries {
		where := fmt.Sprintf("%s[%d]", source, i)
		switch {
		case len(e.Name) > 64 || !nameShape.MatchString(e.Name):
			faults.add(where, "name %q: use 1 to 64 letters, digits and . _ -", e.Name)
		case names[e.Name]:
			faults.add(where, "name %q is used twice", e.Name)
		default:
			where = fmt.Sprintf("%s %q", source, e.Name)
		}
		names[e.Name] = true
		rotation := v.rotation(faults, where, e)
		if other, taken := targets[rotation.Token.ID]; taken && rotation.Token.ID != "" {
			faults.add(where, "token_secret is that of %q too: each token needs a secret of its own", other)
		}
		targets[rotation.Token.ID] = e.Name
		rotations = append(rotations, rotation)
	}
	return rotations
}

func (v variables) rotation(faults *faults, where string, e entry) rotation.Rotation {
	format := e.Format
	if format == "" {
		format = v.TokenFormat
	}
	if len(e.Mirror) > 0 {
		faults.add(where, "mirror: copies in AWS Secrets Manager are not built yet: leave it out")
	}
	if e.Expect.Account != "" && !accountShape.MatchString(e.Expect.Account) {
		faults.add(where, "expect.account %q is no account id: it has 32 hexadecimal digits", e.Expect.Account)
	}
	return rotation.Rotation{
		Name:   e.Name,
		APIKey: keyRef(faults, where+" api_key_secret", e.APIKeySecret, e.APIKeyField),
		Token:  rotation.TokenRef{ID: tokenID(faults, where+" token_secret", e.TokenSecret), Field: e.TokenField, Format: format},
		Expect: rotation.Expect{Account: e.Expect.Account, IAMID: e.Expect.IAMID},
	}
}

var (
	idShape      = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	pathShape    = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	accountShape = regexp.MustCompile(`^[0-9a-f]{32}$`)
	keyTypes     = []string{"arbitrary", "kv", "service_credentials", "iam_credentials"}
)

// keyRef reads a secret's id, group/name (arbitrary) or group/type/name. A fault
// does not repeat the value: somebody will put the key itself there.
func keyRef(faults *faults, name, value, field string) rotation.KeyRef {
	if idShape.MatchString(value) {
		return rotation.KeyRef{ID: value, Field: field}
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
	return value
}
