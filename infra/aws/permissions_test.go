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

func TestPoliciesAreNarrow(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	// What each role may do, and on what, and nothing else.
	allowed := map[string]string{
		"ReadTheBootstrapKey":          "[secretsmanager:GetSecretValue] on map[Ref:BootstrapSecretArn]",
		"WriteItsLog":                  "[logs:CreateLogStream logs:PutLogEvents] on map[Fn::Sub:arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:${LogGroup}:*]",
		"CopyTheToken":                 "[secretsmanager:PutSecretValue secretsmanager:DescribeSecret] on map[Fn::Split:[, map[Ref:MirrorSecretArns]]]",
		"TellOfFailedRuns":             "[sqs:SendMessage] on map[Fn::GetAtt:[FailedRuns Arn]]",
		"DecryptTheBootstrapKey":       "[kms:Decrypt] on map[Ref:BootstrapKmsKeyArn]",
		"LambdaMakesNetworkInterfaces": show(anys(noResourceLevel)) + " on *",
		"ItsCodeDoesNot":               show(anys(noResourceLevel)) + " on *",
		"Invoke":                       "[lambda:InvokeFunction] on map[Fn::GetAtt:[Function Arn]]",
		"TellOfUndeliveredEvents":      "[sqs:SendMessage] on map[Fn::GetAtt:[UndeliveredEvents Arn]]",
	}
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

func TestDecryptionIsForThatSecretThroughSecretsManager(t *testing.T) {
	t.Parallel()
	policies := at(t, properties(t, template(t), "FunctionRole"), "Policies", "Fn::If")
	want(t, "condition", at(t, policies, 0), "HasKmsKey")
	want(t, "otherwise", at(t, policies, 2), object{"Ref": "AWS::NoValue"})
	want(t, "condition", at(t, policies, 1, 0, "PolicyDocument", "Statement", 0, "Condition"), object{"StringEquals": object{
		"kms:ViaService": object{"Fn::Sub": []any{"secretsmanager.${Region}.${AWS::URLSuffix}",
			object{"Region": object{"Fn::Select": []any{3, object{"Fn::Split": []any{":", object{"Ref": "BootstrapSecretArn"}}}}}}}},
		"kms:EncryptionContext:SecretARN": object{"Ref": "BootstrapSecretArn"},
	}})
}

// The network permissions exist in a VPC only, and the function's own code is
// denied them.
func TestNetworkPermissions(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	policy := at(t, tmpl, "Resources", "NetworkInterfacesPolicy")
	want(t, "condition", at(t, policy, "Condition"), "InVpc")
	want(t, "attached", at(t, properties(t, tmpl, "FunctionRole"), "ManagedPolicyArns"),
		object{"Fn::If": []any{"InVpc",
			object{"Fn::If": []any{"HasMirrors", []any{object{"Ref": "NetworkInterfacesPolicy"}, object{"Ref": "MirrorPolicy"}}, []any{object{"Ref": "NetworkInterfacesPolicy"}}}},
			object{"Fn::If": []any{"HasMirrors", []any{object{"Ref": "MirrorPolicy"}}, object{"Ref": "AWS::NoValue"}}}}})
	denial := at(t, policy, "Properties", "PolicyDocument", "Statement", 1)
	want(t, "effect", at(t, denial, "Effect"), "Deny")
	want(t, "whom", at(t, denial, "Condition"), object{"ArnEquals": object{
		"lambda:SourceFunctionArn": object{"Fn::Sub": "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${AWS::StackName}"}}})
	for _, statement := range statements(at(t, tmpl, "Resources")) {
		if statement["Effect"] == "Allow" && statement["Sid"] != "LambdaMakesNetworkInterfaces" && show(statement["Resource"]) == "*" {
			t.Errorf("%v is allowed on everything", statement["Sid"])
		}
	}
}
