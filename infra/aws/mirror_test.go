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

// A star in an ARN would let the function overwrite, or a role read, what nobody named.
func TestMirrorParametersTakeWholeARNs(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	const (
		secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:tokens/logs-Ab12Cd"
		role   = "arn:aws:iam::123456789012:role/jobs/reader"
	)
	for name, values := range map[string]struct{ good, bad []string }{
		"MirrorSecretArns":     {[]string{"", secret, secret + "," + secret}, []string{"*", secret + "*", secret + ", " + secret, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*-Ab12Cd", role}},
		"MirrorReaderRoleArns": {[]string{"", role, role + "," + role}, []string{"*", "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/a", role + "/*", secret}},
	} {
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
