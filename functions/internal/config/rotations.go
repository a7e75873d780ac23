package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// rotations reads the one source of rotations that is configured, and checks that
// no secret has two purposes.
func (v variables) rotations(found *problems, readFile func(name string) ([]byte, error)) []rotation.Rotation {
	set := v.namesOfSet("API_KEY_SECRET", "TOKEN_SECRET", "ROTATIONS", "ROTATIONS_FILE")
	const choice = "API_KEY_SECRET and TOKEN_SECRET, or ROTATIONS, or ROTATIONS_FILE"
	var rotations []rotation.Rotation
	switch {
	case len(set) == 0:
		found.add("rotations", "are required: set %s", choice)
	case len(set) == 1 && v.RotationList != "":
		rotations = v.many(found, "ROTATIONS", []byte(v.RotationList))
	case len(set) == 1 && v.RotationsFile != "":
		content, err := readFile(v.RotationsFile)
		if err != nil {
			found.add("ROTATIONS_FILE", "the file cannot be read: %v", withoutName(err))
			break
		}
		rotations = v.many(found, "ROTATIONS_FILE", content)
	case v.RotationList == "" && v.RotationsFile == "":
		rotations = []rotation.Rotation{v.single(found)}
	default:
		found.add("rotations", "%s are set: set exactly one of the three, %s", strings.Join(set, " and "), choice)
	}
	checkKeySecrets(found, rotations)
	v.checkMirrors(found, rotations)
	return rotations
}

// withoutName returns why a file could not be read, without its name, which may be a key.
func withoutName(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// single returns the rotation that API_KEY_SECRET and TOKEN_SECRET describe.
func (v variables) single(found *problems) rotation.Rotation {
	e := entry{Name: "default", APIKeySecret: v.APIKeySecret, TokenSecret: v.TokenSecret}
	e.Expect.Account, e.Expect.IAMID = v.ExpectAccount, v.ExpectIAMID
	return v.rotation(found, func(field string) string { return strings.ToUpper(strings.ReplaceAll(field, ".", "_")) }, e)
}

// maxName is less than the length of an API key, because logs repeat a name.
const maxName = 40

// many returns the rotations of a list.
func (v variables) many(found *problems, source string, list []byte) []rotation.Rotation {
	const own = "goes only with API_KEY_SECRET and TOKEN_SECRET: with %s, unset it, and give each entry its own expect"
	if v.ExpectAccount != "" {
		found.add("EXPECT_ACCOUNT", own, source)
	}
	if v.ExpectIAMID != "" {
		found.add("EXPECT_IAM_ID", own, source)
	}
	names, targets := map[string]bool{}, map[string]string{}
	var rotations []rotation.Rotation
	for i, e := range decodeList(found, source, list) {
		where := fmt.Sprintf("%s[%d]", source, i)
		if e == nil {
			continue
		}
		switch {
		case len(e.Name) > maxName || strings.TrimLeft(e.Name, "._-") != e.Name || !madeOf(e.Name, "._-"):
			found.add(where, "name: use 1 to %d letters, digits and . _ -", maxName)
		case names[e.Name]:
			found.add(where, "name %q is used twice", e.Name)
		default:
			where = fmt.Sprintf("%s %q", source, e.Name)
		}
		names[e.Name] = true
		rotation := v.rotation(found, func(field string) string { return where + " " + field }, *e)
		if other, taken := targets[rotation.Token.ID]; taken && rotation.Token.ID != "" {
			found.add(where, "token_secret is that of %q too: each token needs its own secret", other)
		}
		targets[rotation.Token.ID] = e.Name
		rotations = append(rotations, rotation)
	}
	return rotations
}

// rotation returns the rotation of an entry. nameOf says how a problem names a field.
func (v variables) rotation(found *problems, nameOf func(field string) string, e entry) rotation.Rotation {
	format := v.TokenFormat
	if e.Format != "" {
		if err := format.UnmarshalText([]byte(e.Format)); err != nil {
			found.add(nameOf("format"), "%v", err)
		}
	}
	r := rotation.Rotation{
		Name:   e.Name,
		APIKey: v.keyRef(found, nameOf("api_key_secret"), e.APIKeySecret, e.APIKeyField, keyTypes),
		Token:  rotation.TokenRef{ID: v.tokenID(found, nameOf("token_secret"), e.TokenSecret), Field: e.TokenField, Format: format},
		Expect: rotation.Expect{Account: e.Expect.Account, IAMID: e.Expect.IAMID},
		Mirror: e.Mirror,
	}
	iamID, account := iamtoken.Identity(r.Expect.IAMID, r.Expect.Account)
	if account != r.Expect.Account {
		found.add(nameOf("expect.account"), "is not an account id, which has 32 hexadecimal digits")
	}
	if iamID != r.Expect.IAMID {
		found.add(nameOf("expect.iam_id"), "is not an IAM id: a service id's begins with iam-ServiceId-; any other is in the version's metadata")
	}
	return r
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

const entryFields = "name, api_key_secret, api_key_field, token_secret, token_field, format, expect{account, iam_id} and mirror"

// decodeList decodes the list. An unknown field is a problem, because it is probably a misspelt
// one. An entry that cannot be decoded is nil.
func decodeList(found *problems, source string, text []byte) []*entry {
	var list []json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&list); err != nil {
		found.add(source, "is not a JSON list of rotations: %s", explainJSON(err, "it must be a list of objects"))
		return nil
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		found.add(source, "something follows the list")
	}
	if len(list) == 0 {
		found.add(source, "the list is empty: name at least one rotation")
	}
	entries := make([]*entry, len(list))
	for i, text := range list {
		if name := repeatedField(text); name != "" {
			found.add(fmt.Sprintf("%s[%d]", source, i), "the field %s is there twice: remove one", quote(name))
			continue
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&entries[i]); err != nil || entries[i] == nil {
			entries[i] = nil
			found.add(fmt.Sprintf("%s[%d]", source, i), "%s", explainJSON(err, "must be an object with "+entryFields))
		}
	}
	return entries
}

// repeatedField returns a field that an object, or an object inside it, has twice, also in
// another case: encoding/json would silently use the last one.
func repeatedField(object json.RawMessage) string {
	seen := map[string]bool{}
	for name, value := range Fields(object) {
		if seen[strings.ToLower(name)] {
			return name
		}
		seen[strings.ToLower(name)] = true
		if within := repeatedField(value); within != "" {
			return within
		}
	}
	return ""
}

// explainJSON says what is wrong for whoever wrote the list, without Go's types. form is what a
// value should have been.
func explainJSON(err error, form string) string {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	case errors.As(err, &syntax):
		return fmt.Sprintf("a syntax error at character %d", syntax.Offset)
	case err == nil, errors.As(err, &wrongType) && wrongType.Field == "":
		return form
	case errors.As(err, &wrongType):
		return fmt.Sprintf("the field %s has the wrong type", wrongType.Field)
	default:
		field, _ := strings.CutPrefix(err.Error(), "json: unknown field ")
		return "unknown field " + quote(strings.Trim(field, `"`)) + ": an entry may have " + entryFields
	}
}

// Types of secrets that can hold an API key, and a token.
var (
	keyTypes   = []string{"arbitrary", "kv", "service_credentials", "iam_credentials"}
	tokenTypes = keyTypes[:2]
)

// keyRef parses the id, group/name (arbitrary) or group/type/name of a secret of one of the
// types. A problem does not repeat the value, which may be the key itself.
func (v variables) keyRef(found *problems, name, value, field string, types []string) rotation.KeyRef {
	id, ok := v.secretID(found, name, value, types, "it names the secret that holds the API key, by its id, group/name or group/type/name")
	parts := strings.Split(value, "/")
	if len(parts) == 2 {
		parts = []string{parts[0], "arbitrary", parts[1]}
	}
	switch {
	case !ok:
	case id != "":
		return rotation.KeyRef{ID: id, Field: field}
	case len(parts) != 3 || !isSecretName(parts[0]) || !isSecretName(parts[2]):
		found.add(name, "names no secret: use its id, group/name or group/type/name, where group and name have at least 2 characters: letters, digits and _ . -, and do not begin with . or -")
	case !slices.Contains(types, parts[1]):
		found.add(name, "names a secret of another type: use %s", strings.Join(types, ", "))
	default:
		return rotation.KeyRef{Group: parts[0], Type: parts[1], Name: parts[2], Field: field}
	}
	return rotation.KeyRef{}
}

func (v variables) tokenID(found *problems, name, value string) string {
	id, ok := v.secretID(found, name, value, tokenTypes, "it is the id of the secret that the token is saved in")
	if ok && id == "" {
		found.add(name, "is no secret id, such as e2dd1896-8c39-4160-b230-92430f439ba9: name the token secret by its id only, because reading by name needs permission to read values")
	}
	return id
}

// secretID returns the id in value: a bare id, or one in a form of other tools, such as a CRN
// or type/id. It returns "" if value has no such form. If ok is false, a problem was found.
func (v variables) secretID(found *problems, name, value string, types []string, meaning string) (id string, ok bool) {
	id, instance, err := iamtoken.ParseSecretID(value)
	kind, _, typed := strings.Cut(strings.TrimSpace(value), "/")
	host, _, _ := strings.Cut(strings.TrimPrefix(v.SecretsManagerURL, "https://"), ".")
	switch {
	case value == "":
		found.add(name, "is not set: %s", meaning)
	case strings.HasPrefix(value, "crn:") && err != nil:
		found.add(name, "is not the CRN of one secret, which ends in :secret: and the secret's id: use only the id")
	case err != nil:
		return "", true
	case typed && instance == "" && !slices.Contains(types, kind):
		found.add(name, "names a secret of type %s: use %s", kind, strings.Join(types, ", "))
	case instance != "" && iamtoken.IsSecretID(host) && !strings.EqualFold(instance, host):
		found.add(name, "names a secret of another instance than SECRETS_MANAGER_URL: correct one of them")
	default:
		return strings.ToLower(id), true
	}
	return "", false
}

// isSecretName checks IBM's rule for the names of secrets and groups, without their greatest
// length.
func isSecretName(name string) bool {
	return len(name) >= 2 && madeOf(name, "_.-") && madeOf(name[:1], "_")
}

// checkKeySecrets rejects a token secret that is some rotation's key secret: the
// token would replace the key.
func checkKeySecrets(found *problems, rotations []rotation.Rotation) {
	keys := map[string]bool{}
	for _, r := range rotations {
		keys[r.APIKey.ID] = r.APIKey.ID != ""
	}
	for _, r := range rotations {
		if keys[r.Token.ID] {
			found.add("rotation "+r.Name, "its token secret is a key secret: the token would replace the API key; name another secret")
		}
	}
}

// checkMirrors checks that every mirror is the whole ARN of an AWS secret or parameter that has
// no other purpose. A problem does not repeat a value that is not an ARN.
func (v variables) checkMirrors(found *problems, rotations []rotation.Rotation) {
	taken := map[string]string{}
	for _, r := range rotations {
		for i, arn := range r.Mirror {
			where := fmt.Sprintf("rotation %s mirror[%d]", r.Name, i)
			owner, isTaken := taken[arn]
			switch {
			case rotation.IsParameter(arn) && !isParameterARN(arn):
				found.add(where, "is not the ARN of a parameter: give it as AWS shows it, without a version or a label, arn:aws:ssm:REGION:ACCOUNT:parameter/NAME")
			case !rotation.IsParameter(arn) && !isSecretARN(arn):
				found.add(where, "is not the ARN of a secret of AWS Secrets Manager or of a parameter of SSM Parameter Store")
			case !rotation.IsParameter(arn) && secretSuffix(arn) == "":
				found.add(where, "is not a whole ARN: give it with the hyphen and six characters at its end, as AWS shows it")
			case sameSecret(arn, v.APIKeyARN):
				found.add(where, "is the bootstrap API key's, SECRETS_MANAGER_APIKEY_ARN: the token would replace the key; each mirror needs its own secret")
			case isTaken:
				found.add(where, "is rotation %q's: each mirror needs its own secret", owner)
			}
			taken[arn] = r.Name
		}
	}
}

// isSecretARN reports whether value is the ARN of an AWS Secrets Manager secret, with or
// without the suffix that AWS appends to the name.
func isSecretARN(value string) bool {
	name, ok := strings.CutPrefix(resourceOf(value, "secretsmanager"), "secret:")
	return ok && madeOf(name, "/_+=.@-")
}

// isParameterARN reports whether value is the ARN of a parameter of SSM Parameter Store. AWS's
// limit of 1,011 characters is for the whole ARN.
func isParameterARN(value string) bool {
	name, ok := strings.CutPrefix(resourceOf(value, "ssm"), "parameter/")
	return ok && len(value) <= 1011 && madeOf(name, "/_.-") && !strings.HasPrefix(name, "/") && !strings.HasSuffix(name, "/") && !strings.Contains(name, "//")
}

// resourceOf returns the last part of an ARN, or "" if value is not an ARN of the service.
func resourceOf(value, service string) string {
	parts := strings.SplitN(value, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || !strings.HasPrefix(parts[1], "aws") || !madeOf(parts[1], "-") || parts[2] != service ||
		!madeOf(parts[3], "-") || len(parts[4]) != 12 || strings.Trim(parts[4], "0123456789") != "" {
		return ""
	}
	return parts[5]
}

// secretSuffix returns the hyphen and the six characters at the end of a whole ARN, or "". A
// name may end like that too.
func secretSuffix(arn string) string {
	i := len(arn) - len("-Ab12Cd")
	if i < 0 || arn[i] != '-' || !madeOf(arn[i+1:], "") {
		return ""
	}
	return arn[i:]
}

// sameSecret reports whether a and b may be one secret: AWS accepts an ARN without
// its suffix, and a replica has its primary's name and suffix in another region.
func sameSecret(a, b string) bool {
	nameOf := func(arn string) string {
		parts := strings.SplitN(arn, ":", 7)
		return strings.Join(append(parts[:min(3, len(parts))], parts[min(4, len(parts)):]...), ":")
	}
	a, b = nameOf(a), nameOf(b)
	return a == b || strings.TrimSuffix(a, secretSuffix(a)) == b || strings.TrimSuffix(b, secretSuffix(b)) == a
}
