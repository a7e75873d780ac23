package aws_test

import (
	"slices"
	"strings"
	"testing"
)

// noResourceLevel are the actions for which AWS offers no resource narrower than
// "*" that Lambda could use: it makes network interfaces that do not exist yet.
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
var noResourceLevel = []string{
	"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
	"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
}

// statements finds every policy statement below value, whatever conditions it
// stands under.
func statements(value any) []object {
	var found []object
	switch value := value.(type) {
	case object:
		if value["Effect"] != nil {
			return []object{value}
		}
		for _, inner := range value {
			found = append(found, statements(inner)...)
		}
	case []any:
		for _, inner := range value {
			found = append(found, statements(inner)...)
		}
	}
	return found
}

func list(value any) []any {
	if values, ok := value.([]any); ok {
		return values
	}
	return []any{value}
}

// checkNarrow fails for an action with a star in it, and for a resource that is
// "*" where AWS has something narrower.
func checkNarrow(t *testing.T, statement object) {
	t.Helper()
	for _, field := range []string{"NotAction", "NotResource", "NotPrincipal"} {
		if statement[field] != nil {
			t.Errorf("%v uses %s: it allows what nobody has listed", statement["Sid"], field)
		}
	}
	actions := list(statement["Action"])
	for _, action := range actions {
		if name, ok := action.(string); !ok || strings.Contains(name, "*") {
			t.Errorf("%v allows %v: list the actions", statement["Sid"], action)
		}
	}
	for _, resource := range list(statement["Resource"]) {
		if resource != "*" {
			continue
		}
		for _, action := range actions {
			if !slices.Contains(noResourceLevel, action.(string)) {
				t.Errorf("%v allows %v on every resource", statement["Sid"], action)
			}
		}
	}
}

// checkAllowed compares what all policies of a template allow, one statement for
// each Sid, with the list.
func checkAllowed(t *testing.T, tmpl object, allowed map[string]string) {
	t.Helper()
	var seen []string
	for _, resourceType := range []string{"AWS::IAM::Role", "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"} {
		for id, resource := range ofType(t, tmpl, resourceType) {
			held := object{}
			for name, value := range resource["Properties"].(object) {
				if name != "AssumeRolePolicyDocument" {
					held[name] = value
				}
			}
			for _, statement := range statements(held) {
				sid, _ := statement["Sid"].(string)
				seen = append(seen, sid)
				checkNarrow(t, statement)
				want(t, id+" "+sid, show(list(statement["Action"]))+" on "+show(statement["Resource"]), allowed[sid])
			}
		}
	}
	if len(seen) != len(allowed) {
		t.Errorf("got statements %v, want %d", seen, len(allowed))
	}
}

func anys(texts []string) []any {
	values := make([]any, len(texts))
	for i, text := range texts {
		values[i] = text
	}
	return values
}
