package aws_test

import (
	"regexp"
	"testing"
)

func TestCopiesAreReadByTheNamedRolesAlone(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	want(t, "condition", at(t, tmpl, "Resources", "MirrorPolicy", "Condition"), "HasMirrors")
	want(t, "condition", at(t, tmpl, "Resources", "MirrorReaders", "Condition"), "HasMirrorReaders")
	readers := properties(t, tmpl, "MirrorReaders")
	first := show(object{"Fn::Select": []any{0, object{"Fn::Split": []any{",", object{"Ref": "MirrorSecretArns"}}}}})
	want(t, "secret", show(readers["SecretId"]), first)
	found := statements(readers)
	if len(found) != 1 {
		t.Fatalf("got %d statements, want 1", len(found))
	}
	want(t, "action", show(found[0]["Action"]), "secretsmanager:GetSecretValue")
	want(t, "resource", show(found[0]["Resource"]), first)
	want(t, "principal", show(found[0]["Principal"]), show(object{"AWS": object{"Fn::Split": []any{",", object{"Ref": "MirrorReaderRoleArns"}}}}))
}

// A star in an ARN would let the function overwrite, or a role read, what nobody named. An empty
// element of any list would be heard of only when the resource is made.
func TestListParametersTakeWholeElements(t *testing.T) {
	t.Parallel()
	const (
		secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:tokens/logs-Ab12Cd"
		role   = "arn:aws:iam::123456789012:role/jobs/reader"
	)
	network := map[string]values{
		"SubnetIds":        {[]string{"", "subnet-0a1b", "subnet-0a1b,subnet-2c"}, []string{"subnet-0a1b,", ",subnet-0a1b", "subnet-0a1b,,subnet-2c", "subnet-0a1b, subnet-2c", "sg-0a1b"}},
		"SecurityGroupIds": {[]string{"", "sg-0a1b", "sg-0a1b,sg-2c"}, []string{"sg-0a1b,", ",sg-0a1b", "subnet-0a1b"}},
	}
	checkPatterns(t, fleet(t), network)
	checkPatterns(t, template(t), network)
	checkPatterns(t, template(t), map[string]values{
		"MirrorSecretArns":     {[]string{"", secret, secret + "," + secret}, []string{secret + ",", "," + secret, secret + ",," + secret, "*", secret + "*", secret + ", " + secret, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*-Ab12Cd", role}},
		"MirrorReaderRoleArns": {[]string{"", role, role + "," + role}, []string{role + ",", "," + role, "*", "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/a", role + "/*", secret}},
	})
}

// values are what a parameter takes and does not take.
type values struct{ good, bad []string }

// checkPatterns holds parameters' patterns against them.
func checkPatterns(t *testing.T, tmpl object, parameters map[string]values) {
	t.Helper()
	for name, values := range parameters {
		pattern := regexp.MustCompile(at(t, tmpl, "Parameters", name, "AllowedPattern").(string))
		for _, value := range values.good {
			if !pattern.MatchString(value) {
				t.Errorf("%s does not take %q", name, value)
			}
		}
		for _, value := range values.bad {
			if pattern.MatchString(value) {
				t.Errorf("%s takes %q", name, value)
			}
		}
	}
}
