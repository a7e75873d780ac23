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
			faults.add(source, "the file cannot be read: %v", reason(err))
			return nil
		}
		entries = decodeEntries(faults, source, content)
	}
	return v.many(faults, source, entries)
}

// keepApart refuses a token secret that is some rotation's key secret: the token
// would be published over the key.
func keepApart(faults *faults, rotations []rotation.Rotation) []rotation.Rotation {
	keys := map[string]bool{}
	for _, r := range rotations {
		keys[r.APIKey.ID] = r.APIKey.ID != ""
	}
	for _, r := range rotations {
		if keys[r.Token.ID] {
			faults.add("rotation "+r.Name, "its token secret is a key secret: the token would replace the API key; name another secret")
		}
	}
	return rotations
}

func (v variables) single(faults *faults) []rotation.Rotation {
	return keepApart(faults, []rotation.Rotation{{
		Name:   defaultName,
		APIKey: keyRef(faults, "API_KEY_SECRET", v.APIKeySecret, ""),
		Token:  rotation.TokenRef{ID: tokenID(faults, "TOKEN_SECRET", v.TokenSecret), Format: v.TokenFormat},
	}})
}

// maxName is less than the length of an API key: a name is repeated in logs.
const maxName = 40

var nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (v variables) many(faults *faults, source string, entries []entry) []rotation.Rotation {
	names, targets := map[string]bool{}, map[string]string{}
	rotations := make([]rotation.Rotation, 0, len(entries))
	for i, e := range entries {
		where := fmt.Sprintf("%s[%d]", source, i)
		switch {
		case len(e.Name) > maxName || !nameShape.MatchString(e.Name):
			faults.add(where, "name: use 1 to %d letters, digits and . _ -", maxName)
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
	v.checkMirrors(faults, rotations)
	return keepApart(faults, rotations)
}

func (v variables) rotation(faults *faults, where string, e entry) rotation.Rotation {
	format := v.TokenFormat
	if e.Format != "" {
		if err := format.UnmarshalText([]byte(e.Format)); err != nil {
			faults.add(where+" format", "%v", err)
		}
	}
	iamID, account := iamtoken.Identity(e.Expect.IAMID, e.Expect.Account)
	if account != e.Expect.Account {
		faults.add(where, "expect.account is no account id: that has 32 hexadecimal digits")
	}
	if iamID != e.Expect.IAMID {
		faults.add(where, "expect.iam_id is no IAM id: a service id's begins with iam-ServiceId-; any other stands in the version's metadata")
	}
	return rotation.Rotation{
		Name:   e.Name,
		APIKey: keyRef(faults, where+" api_key_secret", e.APIKeySecret, e.APIKeyField),
		Token:  rotation.TokenRef{ID: tokenID(faults, where+" token_secret", e.TokenSecret), Field: e.TokenField, Format: format},
		Expect: rotation.Expect{Account: e.Expect.Account, IAMID: e.Expect.IAMID},
		Mirror: e.Mirror,
	}
}

// entry is one element of ROTATIONS.
type entry struct {
	Name         string `json:"name"`
	APIKeySecret string `json:"api_key_secret"`
	APIKeyField  string `json:"api_key_field"`
	TokenSecret  string `json:"token_secret"`
	TokenField   string `json:"token_field"`
	Format       string `json:"format"`
	Expect       struct {
		Account string `json:"account"`
		IAMID   string `json:"iam_id"`
	} `json:"expect"`
	Mirror []string `json:"mirror"`
}

// decodeEntries reads the list strictly: an unknown field is a misspelt one.
func decodeEntries(faults *faults, source string, text []byte) []entry {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var entries []entry
	if err := decoder.Decode(&entries); err != nil {
		faults.add(source, "is no JSON list of rotations: %s", jsonFault(err))
		return nil
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		faults.add(source, "something follows the list")
	}
	if len(entries) == 0 {
		faults.add(source, "the list is empty: name at least one rotation")
	}
	return entries
}

// jsonFault says what is wrong in the words of a person who wrote the list.
func jsonFault(err error) string {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	case errors.As(err, &syntax):
		return fmt.Sprintf("a syntax error at character %d", syntax.Offset)
	case errors.As(err, &wrongType) && wrongType.Field == "":
		return "it must be a list of objects"
	case errors.As(err, &wrongType):
		return fmt.Sprintf("the field %s has the wrong type", wrongType.Field)
	default:
		field, _ := strings.CutPrefix(err.Error(), "json: unknown field ")
		return "unknown field " + short(strings.Trim(field, `"`))
	}
}

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

// checkMirrors sees to it that every mirror is the ARN of an AWS secret that
// nothing else is kept in. No fault repeats a value that is none.
func (v variables) checkMirrors(faults *faults, rotations []rotation.Rotation) {
	taken := map[string]string{}
	if v.APIKeyARN != "" {
		taken[v.APIKeyARN] = "the bootstrap API key's, SECRETS_MANAGER_APIKEY_ARN"
	}
	for _, r := range rotations {
		for i, arn := range r.Mirror {
			where := fmt.Sprintf("rotation %s mirror[%d]", r.Name, i)
			owner, isTaken := taken[arn]
			switch {
			case !secretARNShape.MatchString(arn):
				faults.add(where, "is not the ARN of an AWS Secrets Manager secret")
			case isTaken:
				faults.add(where, "is %s: each copy needs a secret of its own", owner)
			}
			taken[arn] = fmt.Sprintf("rotation %q's", r.Name)
		}
	}
}
