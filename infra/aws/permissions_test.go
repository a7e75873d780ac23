package aws_test

import "testing"

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
	checkAllowed(t, tmpl, allowed)
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
