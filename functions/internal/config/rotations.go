package config

import (
	"fmt"
	"regexp"

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
