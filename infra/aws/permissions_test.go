package aws_test

import "testing"

// Each statement of a policy in a template, by its resource and Sid, and no other. When and For are the
// resource's condition, and what it is attached to. cdk-nag finds stars, and queues and topics that accept plain HTTP.
func TestPermissions(t *testing.T) {
	t.Parallel()
	for file, own := range map[string]string{"template.yaml": stackPermissions, "fleet.yaml": fleetPermissions} {
		tmpl := parsed(t, textOf(t, file))
		wanted := parsed(t, sharedPermissions+own)
		for id, resource := range at(t, tmpl, "Resources").(object) {
			for _, statement := range statements(resource) {
				name := id + ".trust"
				if statement["Sid"] != nil {
					name = id + "." + show(statement["Sid"])
				}
				delete(statement, "Sid")
				for field, value := range map[string]any{"When": resource.(object)["Condition"], "For": attachedTo(resource)} {
					if value != nil {
						statement[field] = value
					}
				}
				want(t, file+": "+name, statement, wanted[name])
				delete(wanted, name)
			}
		}
		for name := range wanted {
			t.Errorf("%s: %s does not exist, or not exactly once", file, name)
		}
	}
}

// attachedTo are the roles, queues, topics or the secret of a policy.
func attachedTo(resource any) any {
	for _, field := range []string{"Roles", "Queues", "Topics", "SecretId"} {
		if value, ok := resource.(object)["Properties"].(object)[field]; ok {
			return value
		}
	}
	return nil
}

// statements finds every policy statement in value, also inside Fn::If.
func statements(value any) (found []object) {
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

const sharedPermissions = `
FunctionRole.trust: {Effect: Allow, Principal: {Service: lambda.amazonaws.com}, Action: sts:AssumeRole}
FunctionPolicy.ReadTheBootstrapKey: {For: [!Ref FunctionRole], Effect: Allow, Action: secretsmanager:GetSecretValue,
  Resource: !Ref BootstrapSecretArn}
FunctionPolicy.WriteItsLog: {For: [!Ref FunctionRole], Effect: Allow, Action: [logs:CreateLogStream, logs:PutLogEvents],
  Resource: !Sub 'arn:@logs:log-group:${LogGroup}:*'}
RenewalPolicy.StoreTheRenewedKey: {When: RenewsKey, For: [!Ref FunctionRole], Effect: Allow,
  Action: secretsmanager:PutSecretValue, Resource: !Ref BootstrapSecretArn}
EventPolicy.PutItsEvents: {When: HasBus, For: [!Ref FunctionRole], Effect: Allow, Action: events:PutEvents,
  Resource: !If [HasBusArn, !Ref EventBusName, !Sub 'arn:@events:event-bus/${EventBusName}'],
  Condition: {StringEquals: {'events:source': iam-token-rotator}}}
NetworkInterfacesPolicy.LambdaMakesNetworkInterfaces: {When: InVpc, Effect: Allow,
  Action: [ec2:AssignPrivateIpAddresses, ec2:CreateNetworkInterface, ec2:DeleteNetworkInterface, ec2:DescribeNetworkInterfaces,
    ec2:DescribeSubnets, ec2:UnassignPrivateIpAddresses], Resource: '*'}
UndeliveredEventsPolicy.TlsOnly: {For: [!Ref UndeliveredEvents], Effect: Deny, Principal: '*', Action: sqs:*,
  Resource: !GetAtt UndeliveredEvents.Arn, Condition: {Bool: {'aws:SecureTransport': false}}}
ScheduleRole.trust: {Effect: Allow, Principal: {Service: scheduler.amazonaws.com}, Action: sts:AssumeRole,
  Condition: {StringEquals: {'aws:SourceAccount': !Ref AWS::AccountId,
    'aws:SourceArn': !Sub 'arn:@scheduler:schedule-group/${AWS::StackName}'}}}
SchedulePolicy.ReportUndeliveredEvents: {For: [!Ref ScheduleRole], Effect: Allow, Action: sqs:SendMessage,
  Resource: !GetAtt UndeliveredEvents.Arn}
AlarmTopicPolicy.TlsOnly: {When: MakesTopic, For: [!Ref AlarmTopic], Effect: Deny, Principal: '*', Action: sns:Publish,
  Resource: !Ref AlarmTopic, Condition: {Bool: {'aws:SecureTransport': false}}}
AlarmTopicPolicy.AlarmsPublish: {When: MakesTopic, For: [!Ref AlarmTopic], Effect: Allow,
  Principal: {Service: cloudwatch.amazonaws.com}, Action: sns:Publish, Resource: !Ref AlarmTopic,
  Condition: {StringEquals: {'aws:SourceAccount': !Ref AWS::AccountId}, ArnLike:
    {'aws:SourceArn': !Sub 'arn:@cloudwatch:alarm:${AWS::StackName}-*'}}}
`

const stackPermissions = `
FailedRunsPolicy.TlsOnly: {For: [!Ref FailedRuns], Effect: Deny, Principal: '*', Action: sqs:*,
  Resource: !GetAtt FailedRuns.Arn, Condition: {Bool: {'aws:SecureTransport': false}}}
FunctionRole.UseTheBootstrapSecretsKey: {Effect: Allow,
  Action: [kms:Decrypt, !If [RenewsKey, kms:GenerateDataKey, !Ref AWS::NoValue]], Resource: !Ref BootstrapKmsKeyArn,
  Condition: {StringEquals: {'kms:ViaService': !Sub ['secretsmanager.${Region}.${AWS::URLSuffix}', {Region: !Select [3,
    !Split [':', !Ref BootstrapSecretArn]]}], 'kms:EncryptionContext:SecretARN': !Ref BootstrapSecretArn}}}
FunctionPolicy.ReportFailedRuns: {For: [!Ref FunctionRole], Effect: Allow, Action: sqs:SendMessage,
  Resource: !GetAtt FailedRuns.Arn}
MirrorPolicy.MirrorTheToken: {When: HasMirrors, For: [!Ref FunctionRole], Effect: Allow,
  Action: [secretsmanager:PutSecretValue, secretsmanager:DescribeSecret], Resource: !Split [',', !Ref MirrorSecretArns]}
ParameterPolicy.MirrorTheTokenToParameters: {When: HasMirrorParameters, For: [!Ref FunctionRole], Effect: Allow,
  Action: ssm:PutParameter, Resource: !Split [',', !Ref MirrorParameterArns]}
ParameterPolicy.SeeWhichVersionAParameterHas: {When: HasMirrorParameters, For: [!Ref FunctionRole], Effect: Allow,
  Action: ssm:DescribeParameters, Resource: '*'}
MirrorKeyPolicy.EncryptTheMirror: {When: HasMirrorKey, For: [!Ref FunctionRole], Effect: Allow,
  Action: [kms:GenerateDataKey, kms:Decrypt], Resource: !Ref MirrorKmsKeyArn,
  Condition: {StringLike: {'kms:ViaService': !Sub 'secretsmanager.*.${AWS::URLSuffix}'}, StringEquals:
    {'kms:EncryptionContext:SecretARN': !Split [',', !Ref MirrorSecretArns]}}}
ParameterKeyPolicy.EncryptTheParameter: {When: HasParameterKey, For: [!Ref FunctionRole], Effect: Allow,
  Action: [kms:Encrypt, kms:GenerateDataKey], Resource: !Ref MirrorKmsKeyArn,
  Condition: {StringLike: {'kms:ViaService': !Sub 'ssm.*.${AWS::URLSuffix}'}, StringEquals:
    {'kms:EncryptionContext:PARAMETER_ARN': !Split [',', !Ref MirrorParameterArns]}}}
QueueKeyPolicy.EncryptMessages: {When: HasOwnKey, For: [!Ref FunctionRole, !Ref ScheduleRole], Effect: Allow,
  Action: [kms:GenerateDataKey, kms:Decrypt], Resource: !Ref KmsKeyArn,
  Condition: {StringEquals: {'kms:ViaService': !Sub 'sqs.${AWS::Region}.${AWS::URLSuffix}',
    'kms:EncryptionContext:aws:sqs:arn': [!GetAtt FailedRuns.Arn, !GetAtt UndeliveredEvents.Arn]}}}
TracingPolicy.Trace: {When: Traces, For: [!Ref FunctionRole], Effect: Allow,
  Action: [xray:PutTraceSegments, xray:PutTelemetryRecords], Resource: '*'}
MirrorReaders.ReadTheMirror: {When: HasMirrorReaders, For: !Select [0, !Split [',', !Ref MirrorSecretArns]], Effect: Allow,
  Principal: {AWS: !Split [',', !Ref MirrorReaderRoleArns]}, Action: secretsmanager:GetSecretValue,
  Resource: !Select [0, !Split [',', !Ref MirrorSecretArns]]}
NetworkInterfacesPolicy.ItsCodeDoesNot: {When: InVpc, Effect: Deny, Action: ec2:*, Resource: '*',
  Condition: {ArnLike: {'lambda:SourceFunctionArn': !Sub 'arn:@lambda:function:${AWS::StackName}*'}}}
SchedulePolicy.Invoke: {For: [!Ref ScheduleRole], Effect: Allow, Action: lambda:InvokeFunction,
  Resource: !Sub '${Function.Arn}:live'}
`

const fleetPermissions = `
FunctionRole.DecryptTheBootstrapKey: {Effect: Allow, Action: kms:Decrypt, Resource: !Ref BootstrapKmsKeyArn,
  Condition: {StringEquals: {'kms:ViaService': !Sub ['secretsmanager.${Region}.${AWS::URLSuffix}', {Region: !Select [3,
    !Split [':', !Ref BootstrapSecretArn]]}], 'kms:EncryptionContext:SecretARN': !Ref BootstrapSecretArn}}}
EncryptionPolicy.EncryptTheRenewedKey: {When: RenewsEncryptedKey, For: [!Ref FunctionRole], Effect: Allow,
  Action: kms:GenerateDataKey, Resource: !Ref BootstrapKmsKeyArn,
  Condition: {StringEquals: {'kms:ViaService': !Sub ['secretsmanager.${Region}.${AWS::URLSuffix}', {Region: !Select [3,
    !Split [':', !Ref BootstrapSecretArn]]}], 'kms:EncryptionContext:SecretARN': !Ref BootstrapSecretArn}}}
NetworkInterfacesPolicy.ItsCodeDoesNot: {When: InVpc, Effect: Deny,
  Action: [ec2:AssignPrivateIpAddresses, ec2:CreateNetworkInterface, ec2:DeleteNetworkInterface, ec2:DescribeNetworkInterfaces,
    ec2:DescribeSubnets, ec2:UnassignPrivateIpAddresses], Resource: '*',
  Condition: {ArnLike: {'lambda:SourceFunctionArn': [!Sub 'arn:@lambda:function:${AWS::StackName}',
    !Sub 'arn:@lambda:function:${AWS::StackName}:*']}}}
MachineRole.trust: {Effect: Allow, Principal: {Service: states.amazonaws.com}, Action: sts:AssumeRole,
  Condition: {StringEquals: {'aws:SourceAccount': !Ref AWS::AccountId,
    'aws:SourceArn': [!Sub 'arn:@states:stateMachine:${AWS::StackName}-rotate',
    !Sub 'arn:@states:stateMachine:${AWS::StackName}-rotate/Batches', !Sub 'arn:@states:stateMachine:${AWS::StackName}-ensure',
    !Sub 'arn:@states:stateMachine:${AWS::StackName}-ensure/Batches']}}}
MachinePolicy.ReadTheNames: {For: [!Ref MachineRole], Effect: Allow, Action: s3:GetObject,
  Resource: !Sub 'arn:${AWS::Partition}:s3:::${CodeBucket}/${NamesKey}'}
MachinePolicy.StartBatchesAndListPasses: {For: [!Ref MachineRole], Effect: Allow,
  Action: [states:StartExecution, states:ListExecutions],
  Resource: [!Sub 'arn:@states:stateMachine:${AWS::StackName}-rotate', !Sub 'arn:@states:stateMachine:${AWS::StackName}-ensure']}
MachinePolicy.FollowBatches: {For: [!Ref MachineRole], Effect: Allow,
  Action: [states:DescribeExecution, states:StopExecution, states:RedriveExecution],
  Resource: [!Sub 'arn:@states:execution:${AWS::StackName}-rotate:*',
    !Sub 'arn:@states:execution:${AWS::StackName}-rotate/Batches:*', !Sub 'arn:@states:execution:${AWS::StackName}-ensure:*',
    !Sub 'arn:@states:execution:${AWS::StackName}-ensure/Batches:*']}
MachinePolicy.InvokeTheFunction: {For: [!Ref MachineRole], Effect: Allow, Action: lambda:InvokeFunction,
  Resource: !Sub '${Function.Arn}:live'}
MachinePolicy.DeliverTheLog: {For: [!Ref MachineRole], Effect: Allow,
  Action: [logs:CreateLogDelivery, logs:DeleteLogDelivery, logs:DescribeLogGroups, logs:DescribeResourcePolicies,
    logs:GetLogDelivery, logs:ListLogDeliveries, logs:PutResourcePolicy, logs:UpdateLogDelivery], Resource: '*'}
SchedulePolicy.StartTheMaps: {For: [!Ref ScheduleRole], Effect: Allow, Action: states:StartExecution,
  Resource: [!Ref RotateMachine, !Ref EnsureMachine]}
`
