package config_test

import (
	"reflect"
	"strings"
	"testing"
)

func TestMirrors(t *testing.T) {
	const (
		arn      = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-Ab12Cd"
		otherARN = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:tokens/logs-Ab12Cd"
		keyARN   = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bootstrap-Ab12Cd"
	)
	rotations := func(first, second string) map[string]string {
		return map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "", "SECRETS_MANAGER_APIKEY": "", "SECRETS_MANAGER_APIKEY_ARN": keyARN,
			"ROTATIONS": `[{"name":"a","api_key_secret":"keys/mine","token_secret":"` + tokenID + `","mirror":` + first + `},
				{"name":"b","api_key_secret":"keys/mine","token_secret":"` + otherID + `","mirror":` + second + `}]`}
	}
	cfg, err := load(with(rotations(`["`+arn+`","`+otherARN+`"]`, `[]`)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := cfg.Rotations[0].Mirror, []string{arn, otherARN}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, test := range map[string]struct{ first, second, want string }{
		"no ARN":               {`["iam-token"]`, `[]`, "rotation a mirror[0]: is not the ARN"},
		"of another service":   {`["arn:aws:s3:::bucket"]`, `[]`, "is not the ARN"},
		"a key for an ARN":     {`["` + canary + `"]`, `[]`, "is not the ARN"},
		"twice":                {`["` + arn + `","` + arn + `"]`, `[]`, `rotation a mirror[1]: is rotation "a"'s`},
		"another rotation's":   {`["` + arn + `"]`, `["` + arn + `"]`, `rotation b mirror[0]: is rotation "a"'s`},
		"the bootstrap key's":  {`["` + keyARN + `"]`, `[]`, "the bootstrap API key's"},
		"text, and not a list": {`"` + arn + `"`, `[]`, "mirror has the wrong type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(with(rotations(test.first, test.second)))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("got %v, want it to say %q", err, test.want)
			}
		})
	}
}
