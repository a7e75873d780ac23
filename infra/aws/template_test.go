// Package aws_test compares the CloudFormation templates with what the project's pages and code rely on. The tests of
// scripts/rotatorctl deploy them.
package aws_test

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"iam-token-rotator/scripts/programs"
)

// object is a mapping in a template.
type object = map[string]any

// template is the stack of one function, fleet that of very many rotations. Short tags are written out (!Ref x is
// {"Ref": "x"}), but nothing is resolved.
func template(t *testing.T) object { return parsed(t, textOf(t, "template.yaml")) }
func fleet(t *testing.T) object    { return parsed(t, textOf(t, "fleet.yaml")) }

func textOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// parsed parses YAML or JSON. In the tables of the tests, arn:@SERVICE: begins an ARN of this account and region.
func parsed(t *testing.T, text string) object {
	t.Helper()
	text = regexp.MustCompile(`arn:@(\w+):`).ReplaceAllString(text, "arn:$${AWS::Partition}:$1:$${AWS::Region}:$${AWS::AccountId}:")
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	return plain(t, document.Content[0]).(object)
}

// plain converts a node into maps, lists and scalars.
func plain(t *testing.T, node *yaml.Node) any {
	t.Helper()
	var value any
	switch node.Kind {
	case yaml.MappingNode:
		fields := object{}
		for i := 0; i < len(node.Content); i += 2 {
			fields[node.Content[i].Value] = plain(t, node.Content[i+1])
		}
		value = fields
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range node.Content {
			list = append(list, plain(t, item))
		}
		value = list
	case yaml.ScalarNode:
		value = node.Value
		if !strings.HasPrefix(node.Tag, "!") || strings.HasPrefix(node.Tag, "!!") {
			if err := node.Decode(&value); err != nil {
				t.Fatal(err)
			}
		}
	default:
		t.Fatalf("line %d: CloudFormation does not know YAML aliases", node.Line)
	}
	if function, found := strings.CutPrefix(node.Tag, "!"); found && !strings.HasPrefix(node.Tag, "!!") {
		return intrinsic(function, value)
	}
	return value
}

func intrinsic(function string, value any) any {
	if function == "Ref" || function == "Condition" {
		return object{function: value}
	}
	if text, ok := value.(string); ok && function == "GetAtt" {
		name, attribute, _ := strings.Cut(text, ".")
		value = []any{name, attribute}
	}
	return object{"Fn::" + function: value}
}

// at follows a path of keys and indices; a missing step fails the test.
func at(t *testing.T, value any, path ...any) any {
	t.Helper()
	for i, step := range path {
		next, ok := below(value, step)
		if !ok {
			t.Fatalf("the template has nothing at %v", path[:i+1])
		}
		value = next
	}
	return value
}

func below(value, step any) (next any, ok bool) {
	switch value := value.(type) {
	case object:
		next, ok = value[fmt.Sprint(step)]
	case []any:
		if i, err := strconv.Atoi(fmt.Sprint(step)); err == nil && i < len(value) {
			return value[i], true
		}
	}
	return next, ok
}

// checkFacts compares a document with tables in YAML of paths and values; the value ~ means that there is nothing. A path in a
// template begins with a section, or with a resource and then continues in its properties.
func checkFacts(t *testing.T, document object, tables ...string) {
	t.Helper()
	for _, table := range tables {
		for path, value := range parsed(t, table) {
			steps := strings.Split(path, ".")
			if document["Resources"] != nil && document[steps[0]] == nil {
				kind := []string{"Properties"}
				if steps[1] == "Condition" || steps[1] == "DependsOn" {
					kind = nil
				}
				steps = slices.Concat([]string{"Resources", steps[0]}, kind, steps[1:])
			}
			var got any = document
			for _, step := range steps {
				got, _ = below(got, step)
			}
			want(t, path, got, value)
		}
	}
}

// ofType returns the resources of a type by their logical ids.
func ofType(t *testing.T, tmpl object, resourceType string) map[string]object {
	t.Helper()
	found := map[string]object{}
	for id, resource := range at(t, tmpl, "Resources").(object) {
		if at(t, resource, "Type") == resourceType {
			found[id] = resource.(object)
		}
	}
	return found
}

// properties returns a resource's properties.
func properties(t *testing.T, tmpl object, id string) object {
	t.Helper()
	return at(t, tmpl, "Resources", id, "Properties").(object)
}

// show formats a value so that two can be compared.
func show(value any) string { return fmt.Sprintf("%v", value) }

// want compares a value of the template.
func want(t *testing.T, where string, got, want any) {
	t.Helper()
	if show(got) != show(want) {
		t.Errorf("%s: got %v, want %v", where, got, want)
	}
}

// alarmRule is everything that decides when an alarm fires.
type alarmRule struct {
	namespace, metric, statistic string
	dimensions                   string // "Name=value,…"
	period, of, from             int    // it fires when `of` of the last `from` periods breach
	comparison                   string
	threshold                    int
	missing                      string
}

const (
	own        = "IAMTokenRotator"
	byFunction = "FunctionName=tokens"
	byAlias    = byFunction + ",Resource=tokens:live" // so that the check of a new version fires no alarm
	atLeast    = "GreaterThanOrEqualToThreshold"
	lessThan   = "LessThanThreshold"
)

var alarmRules = map[string]alarmRule{
	"StoredLifeAlarm":        {own, "SecondsRemaining", "Minimum", byFunction, 120, 2, 2, lessThan, 300, "breaching"},
	"FailedInvocationsAlarm": {"AWS/Lambda", "Errors", "Sum", byAlias, 300, 1, 1, atLeast, 1, "notBreaching"},
	"UndeliveredEventsAlarm": {"AWS/SQS", "NumberOfMessagesSent", "Sum", "QueueName=<UndeliveredEvents.QueueName>", 300, 1, 4, atLeast, 1, "notBreaching"},
	"FailedRunsAlarm":        {"AWS/SQS", "NumberOfMessagesSent", "Sum", "QueueName=<FailedRuns.QueueName>", 300, 1, 4, atLeast, 1, "notBreaching"},
	"ThrottlesAlarm":         {"AWS/Lambda", "Throttles", "Sum", byAlias, 300, 1, 1, atLeast, 1, "notBreaching"},
	"TokenLifetimeAlarm":     {own, "TokenLifetimeSeconds", "Minimum", byFunction, 300, 1, 1, lessThan, 3000, "ignore"},
	"KeyExpiryAlarm":         {own, "KeyExpiring", "Maximum", byFunction, 3600, 1, 1, atLeast, 1, "ignore"},
	"KeyRenewalAlarm":        {own, "KeyRenewalFailure", "Minimum", byFunction, 86400, 1, 1, atLeast, 1, "ignore"},
	"EachStoredLifeAlarm":    {"", "", "", "", 120, 2, 2, lessThan, 300, "notBreaching"},
	"MoreFailingAlarm":       {own, "FailingRotations", "Maximum", byFunction, 300, 1, 1, atLeast, 1, "notBreaching"},
}

// ruleOf returns the rule of a resolved alarm on a metric, on metric math or on a query.
func ruleOf(t *testing.T, alarm object) alarmRule {
	t.Helper()
	rule := alarmRule{from: alarm["EvaluationPeriods"].(int), comparison: show(alarm["ComparisonOperator"]),
		threshold: alarm["Threshold"].(int), missing: show(alarm["TreatMissingData"])}
	rule.of = rule.from // all of them
	if of, given := alarm["DatapointsToAlarm"].(int); given {
		rule.of = of
	}
	statistic, measured := alarm, alarm
	if metrics, ok := alarm["Metrics"].([]any); ok {
		if len(metrics) == 1 { // a query
			rule.period = at(t, metrics, 0, "Period").(int)
			return rule
		}
		stat := at(t, metrics, 0, "MetricStat")
		measured = at(t, stat, "Metric").(object)
		statistic = object{"Statistic": at(t, stat, "Stat"), "Period": at(t, stat, "Period")}
	}
	var dimensions []string
	for _, dimension := range at(t, measured, "Dimensions").([]any) {
		dimensions = append(dimensions, show(at(t, dimension, "Name"))+"="+show(at(t, dimension, "Value")))
	}
	rule.namespace, rule.metric, rule.dimensions = show(measured["Namespace"]), show(measured["MetricName"]), strings.Join(dimensions, ",")
	rule.statistic, rule.period = show(statistic["Statistic"]), statistic["Period"].(int)
	return rule
}

func TestAlarms(t *testing.T) {
	t.Parallel()
	checkAlarms(t, inStack(t), alarmRules)
}

// checkAlarms checks that the stack has these alarms and no others, and that each notifies the topic.
func checkAlarms(t *testing.T, m made, rules map[string]alarmRule) {
	t.Helper()
	alarms := ofType(t, m.tmpl, "AWS::CloudWatch::Alarm")
	want(t, "alarms", len(alarms), len(rules))
	topic := []any{object{"Fn::If": []any{"MakesTopic", object{"Ref": "AlarmTopic"}, object{"Ref": "AlarmTopicArn"}}}}
	for id, rule := range rules {
		alarm := properties(t, m.tmpl, id)
		if got := ruleOf(t, m.of(alarm).(object)); got != rule {
			t.Errorf("%s:\n got %+v\nwant %+v", id, got, rule)
		}
		want(t, id+" actions", alarm["AlarmActions"], topic)
		if alarm["OKActions"] != nil || id == "StoredLifeAlarm" || id == "EachStoredLifeAlarm" { // whose end is as important
			want(t, id+" notifies at its end", alarm["OKActions"], topic)
		}
	}
}

// The sum on the page is that of its rows, whose counts are those of the template and the function. Without the dashboard one
// rotation costs 4.50 at most.
func TestCostTable(t *testing.T) {
	t.Parallel()
	_, table, _ := strings.Cut(textOf(t, "README.md"), "\n## What it costs a month\n")
	alarms := 0
	for _, alarm := range ofType(t, template(t), "AWS::CloudWatch::Alarm") {
		if alarm["Condition"] == nil {
			alarms++
		}
	}
	metrics := strings.Count(textOf(t, "../../functions/internal/metrics/metrics.go"), ", func(r report.Result) *float64 {") + 1 // KeyExpiring
	for _, row := range []string{
		fmt.Sprintf("function, and KeyExpiring | %d | 0.30 each | %.2f |", metrics, float64(metrics)*0.30),
		fmt.Sprintf("| alarms on one metric each | %d | 0.10 each | %.2f |", alarms, float64(alarms)*0.10),
	} {
		if !strings.Contains(table, row) {
			t.Errorf("README.md has no row with %s", row)
		}
	}
	sum, dashboard, printed := 0.0, 0.0, 0.0
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|.*\| (?:\*\*)?([0-9.]+)(?:\*\*)? \|$`).FindAllStringSubmatch(table, -1) {
		price, _ := strconv.ParseFloat(row[2], 64)
		if row[1] == "**sum**" {
			printed = price
			break
		}
		if sum += price; row[1] == "dashboard" {
			dashboard = price
		}
	}
	if math.Abs(sum-printed) > 0.001 || dashboard != 3 || sum-dashboard > 4.50 || sum-dashboard < 1 {
		t.Errorf("the rows' sum is %.2f, %.2f of it for the dashboard; the page says %.2f, and 4.50 without the dashboard is the most", sum, dashboard, printed)
	}
}

// firesAfter returns the second in which the stored-life alarm fires, or -1 if it does not before the end. The metric is
// remaining(second), -1 for no datapoint. The first period has begun `phase` seconds into it.
func (a alarmRule) firesAfter(remaining func(second int) int, phase, end int) int {
	breaching := 0
	for start := phase - a.period; start+a.period <= end; start += a.period {
		lowest := -1
		for second := max(start, 0); second < start+a.period; second++ {
			if value := remaining(second); value >= 0 && (lowest < 0 || value < lowest) {
				lowest = value
			}
		}
		if max(lowest, 0) >= a.threshold { // FILL(…, 0)
			breaching = 0
			continue
		}
		if breaching++; breaching == a.of {
			return start + a.period
		}
	}
	return -1
}

// The stored-life alarm must fire before a reader gets an expired token, and must not fire without a fault.
func TestStoredLifeAlarmFiresInTime(t *testing.T) {
	t.Parallel()
	rule := ruleOf(t, inStack(t).of(properties(t, template(t), "StoredLifeAlarm")).(object))
	const minRemaining, hour = 480, 3600
	earliest, latest := hour, 0
	for phase := range rule.period {
		// The schedules stop after the metric at second 0, which is just enough for ensure to keep the token.
		dead := func(second int) int {
			if second == 0 {
				return minRemaining
			}
			return -1
		}
		fired := rule.firesAfter(dead, phase, hour)
		earliest, latest = min(earliest, fired), max(latest, fired)
		// Every run fails at IAM, so the metric shrinks each minute. failed-invocations fires first; this alarm follows, at
		// the latest when the token expires.
		outage := func(second int) int {
			if second%60 != 0 {
				return -1
			}
			return max(minRemaining-second, 0)
		}
		if fired := rule.firesAfter(outage, phase, hour); fired < 0 || fired > minRemaining {
			t.Errorf("phase %d: the alarm of an outage fires after %d s, but readers fail after %d", phase, fired, minRemaining)
		}
		checkQuiet(t, rule, phase)
	}
	if earliest < 240 || latest > 360 || latest >= minRemaining {
		t.Errorf("the alarm of a stopped schedule fires after %d to %d s, want 240 to 360, and less than the token's %d", earliest, latest, minRemaining)
	}
}

// checkQuiet checks that the alarm does not fire in three hours without a fault, with long and short tokens, if one metric is
// lost or late.
func checkQuiet(t *testing.T, rule alarmRule, phase int) {
	t.Helper()
	for _, lifetime := range []int{3600, 900} {
		for _, every := range []int{60, 120} { // the choices of EnsureEveryMinutes
			normal := func(second int) int {
				if second%every != 0 || second == 40*60 {
					return -1
				}
				// Replaced as soon as ensure finds less than MIN_REMAINING.
				return lifetime - second%(lifetime-480+every)
			}
			if fired := rule.firesAfter(normal, phase, 3*3600); fired >= 0 {
				t.Errorf("phase %d, tokens of %d s, ensure every %d s: the alarm fires after %d s without a fault", phase, lifetime, every, fired)
			}
		}
	}
}

// TestFacts compares single values on which code or pages of this repository rely.
func TestFacts(t *testing.T) {
	t.Parallel()
	checkFacts(t, template(t), sharedFacts, stackFacts)
	want(t, "schedules", len(ofType(t, template(t), "AWS::Scheduler::Schedule")), 2)
}

// sharedFacts hold for both templates. One renewal that fails fires no alarm. All of a day's do, and so does one in which IAM
// rejected a key.
const sharedFacts = `
Conditions.HasBus: !Not [!Equals [!Ref EventBusName, '']]
Conditions.HasBusArn: !Equals [!Select [0, !Split [':', !Ref EventBusName]], arn]
Conditions.HasKmsKey: !Not [!Equals [!Ref BootstrapKmsKeyArn, '']]
Conditions.InVpc: !Not [!Equals [!Ref SubnetIds, '']]
Conditions.MakesTopic: !Equals [!Ref AlarmTopicArn, '']
Conditions.RenewsKey: !Not [!Equals [!Ref BootstrapKeySecret, '']]
Parameters.Architecture.Default: arm64
Parameters.AliasVersion.Default: $LATEST # without rotatorctl
FunctionRole.ManagedPolicyArns: !If [InVpc, [!Ref NetworkInterfacesPolicy], !Ref AWS::NoValue]
FunctionRole.Policies.Fn::If.0: HasKmsKey
FunctionRole.Policies.Fn::If.2: !Ref AWS::NoValue
Function.Architectures: [!Ref Architecture]
Function.Environment.Variables.EVENT_BUS_NAME: !Ref EventBusName
Function.Environment.Variables.ROTATION_INTERVAL: 50m # as in the schedule, and in seconds at TokenLifetimeAlarm
Function.Handler: bootstrap
Function.LoggingConfig: {LogGroup: !Ref LogGroup}
Function.MemorySize: 128
Function.Runtime: provided.al2023
Alias.FunctionVersion: !Ref AliasVersion
Alias.Name: live
ScheduleGroup.Name: !Ref AWS::StackName # which the trust of ScheduleRole names
RotateSchedule.FlexibleTimeWindow.Mode: 'OFF'
RotateSchedule.GroupName: !Ref ScheduleGroup
RotateSchedule.ScheduleExpression: rate(50 minutes)
KeyExpiryAlarm.Condition: ~
KeyRenewalAlarm.Condition: RenewsKey
KeyRenewalAlarm.Metrics.0: {Id: least, ReturnData: false, MetricStat: {Period: 86400, Stat: Minimum, Metric: {Namespace: !Ref MetricsNamespace,
  MetricName: KeyRenewalFailure, Dimensions: [{Name: FunctionName, Value: !Ref Function}]}}}
KeyRenewalAlarm.Metrics.1: {Id: most, ReturnData: false, MetricStat: {Period: 86400, Stat: Maximum, Metric: {Namespace: !Ref MetricsNamespace,
  MetricName: KeyRenewalFailure, Dimensions: [{Name: FunctionName, Value: !Ref Function}]}}}
KeyRenewalAlarm.Metrics.2: {Id: renewals, ReturnData: false, MetricStat: {Period: 86400, Stat: SampleCount, Metric: {Namespace: !Ref MetricsNamespace,
  MetricName: KeyRenewalFailure, Dimensions: [{Name: FunctionName, Value: !Ref Function}]}}}
KeyRenewalAlarm.Metrics.3.Expression: IF((least >= 1 AND renewals >= 20) OR most >= 2, 1, 0)
KeyRenewalAlarm.Metrics.3.ReturnData: true
KeyRenewalAlarm.Metrics.4: ~
`

// stackFacts: no data counts as a lifetime of zero, between datapoints (FILL) and without any. One rotation of a list that is
// broken for good must not hide the next one: each has its own state, and an alarm fires if more fail than before.
const stackFacts = `
Conditions.EnsuresEveryMinute: !Equals [!Ref EnsureEveryMinutes, '1']
Conditions.HasList: !Not [!Equals [!Ref RotationsFile, '']]
Conditions.HasMirrorKey: !Not [!Equals [!Ref MirrorKmsKeyArn, '']]
Conditions.HasMirrorParameters: !Not [!Equals [!Ref MirrorParameterArns, '']]
Conditions.HasMirrorReaders: !And [!Condition HasMirrors, !Not [!Equals [!Ref MirrorReaderRoleArns, '']]]
Conditions.HasMirrors: !Not [!Equals [!Ref MirrorSecretArns, '']]
Conditions.HasOwnKey: !Not [!Equals [!Ref KmsKeyArn, '']]
Conditions.HasParameterKey: !And [!Condition HasMirrorKey, !Condition HasMirrorParameters]
Conditions.Rotates: !Equals [!Ref Schedules, both]
Conditions.Traces: !Equals [!Ref TracingMode, Active]
Parameters.EnsureEveryMinutes.AllowedValues: ['1', '2']
Parameters.EnsureEveryMinutes.Default: '1'
Parameters.Schedules.AllowedValues: [both, ensure]
Parameters.Schedules.Default: both
Function.CodeSigningConfigArn: !If [SignsCode, !Ref CodeSigningConfigArn, !Ref AWS::NoValue]
Function.Timeout: 120
Function.TracingConfig: {Mode: !Ref TracingMode}
AsynchronousInvocations.DependsOn: Alias
AsynchronousInvocations.DestinationConfig.OnFailure.Destination: !GetAtt FailedRuns.Arn
AsynchronousInvocations.MaximumEventAgeInSeconds: 120
AsynchronousInvocations.MaximumRetryAttempts: 0
AsynchronousInvocations.Qualifier: live
RotateSchedule.Condition: Rotates
RotateSchedule.Target: {Arn: !Ref Alias, RoleArn: !GetAtt ScheduleRole.Arn, DeadLetterConfig: {Arn: !GetAtt UndeliveredEvents.Arn},
  Input: '{"mode":"rotate","run_id":"rotate-<aws.scheduler.scheduled-time>"}',
  RetryPolicy: {MaximumEventAgeInSeconds: 120, MaximumRetryAttempts: 5}}
EnsureTokenSchedule.Condition: ~
EnsureTokenSchedule.FlexibleTimeWindow.Mode: 'OFF'
EnsureTokenSchedule.GroupName: !Ref ScheduleGroup
EnsureTokenSchedule.ScheduleExpression: !If [EnsuresEveryMinute, rate(1 minute), rate(2 minutes)]
EnsureTokenSchedule.Target: {Arn: !Ref Alias, RoleArn: !GetAtt ScheduleRole.Arn, DeadLetterConfig: {Arn: !GetAtt UndeliveredEvents.Arn},
  Input: '{"mode":"ensure","run_id":"ensure-<aws.scheduler.scheduled-time>"}',
  RetryPolicy: {MaximumEventAgeInSeconds: 120, MaximumRetryAttempts: 1}}
AlarmTopic.KmsMasterKeyId: !If [HasOwnKey, !Ref KmsKeyArn, !Ref AWS::NoValue]
FailedRuns.KmsMasterKeyId: !If [HasOwnKey, !Ref KmsKeyArn, !Ref AWS::NoValue]
FailedRuns.SqsManagedSseEnabled: !If [HasOwnKey, false, true]
LogGroup.KmsKeyId: !If [HasOwnKey, !Ref KmsKeyArn, !Ref AWS::NoValue]
UndeliveredEvents.KmsMasterKeyId: !If [HasOwnKey, !Ref KmsKeyArn, !Ref AWS::NoValue]
UndeliveredEvents.SqsManagedSseEnabled: !If [HasOwnKey, false, true]
StoredLifeAlarm.Metrics.0.Id: life
StoredLifeAlarm.Metrics.0.ReturnData: false
StoredLifeAlarm.Metrics.1.Expression: FILL(life, 0)
StoredLifeAlarm.Metrics.1.ReturnData: true
StoredLifeAlarm.Metrics.2: ~
EachStoredLifeAlarm.Condition: HasList
EachStoredLifeAlarm.Metrics.0.Expression: !Sub SELECT MIN(SecondsRemaining) FROM SCHEMA("${MetricsNamespace}", FunctionName, Rotation)
  WHERE FunctionName = '${Function}' GROUP BY Rotation ORDER BY MIN() ASC
EachStoredLifeAlarm.Metrics.0.ReturnData: true
EachStoredLifeAlarm.Metrics.1: ~
MoreFailingAlarm.Condition: HasList
MoreFailingAlarm.Metrics.0.ReturnData: false
MoreFailingAlarm.Metrics.1.Expression: DIFF(failing)
MoreFailingAlarm.Metrics.1.ReturnData: true
MoreFailingAlarm.Metrics.2: ~
`

// A star in an ARN would let the function overwrite, or a role read, secrets that nobody named. An empty element of a list
// would cause an error only when the resource is created.
func TestListParametersTakeWholeElements(t *testing.T) {
	t.Parallel()
	const (
		secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:tokens/logs-Ab12Cd"
		role   = "arn:aws:iam::123456789012:role/jobs/reader"
		ssm    = "arn:aws:ssm:eu-central-1:123456789012:parameter/"
	)
	checkPatterns(t, template(t), map[string]values{
		"AliasVersion": {[]string{"$LATEST", "1", "1234567890"}, []string{"", "0", "01", "live", "$latest", "1a"}},
		"EventBusName": {[]string{"", "default", "arn:aws-cn:events:cn-north-1:123456789012:event-bus/tokens"},
			[]string{"arn:aws:sqs:us-east-1:123456789012:tokens", "a/b", strings.Repeat("x", 41)}},
		"SubnetIds":            {[]string{"", "subnet-0a1b", "subnet-0a1b,subnet-2c"}, []string{"subnet-0a1b,", ",subnet-0a1b", "subnet-0a1b,,subnet-2c", "subnet-0a1b, subnet-2c", "sg-0a1b"}},
		"SecurityGroupIds":     {[]string{"", "sg-0a1b", "sg-0a1b,sg-2c"}, []string{"sg-0a1b,", ",sg-0a1b", "subnet-0a1b"}},
		"BootstrapSecretArn":   {[]string{secret}, []string{"", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*-Ab12Cd", secret[:len(secret)-1] + "?"}},
		"BootstrapKmsKeyArn":   {[]string{"", "arn:aws:kms:eu-central-1:123456789012:key/mrk-0a"}, []string{"arn:aws:kms:eu-central-1:123456789012:key/*", "arn:aws:kms:*:123456789012:key/0a"}},
		"KmsKeyArn":            {[]string{"", "arn:aws:kms:eu-central-1:123456789012:key/mrk-0a"}, []string{"arn:aws:kms:eu-central-1:123456789012:key/*", "alias/a", "arn:aws:kms:eu-central-1:123456789012:alias/a"}},
		"MirrorKmsKeyArn":      {[]string{"", "arn:aws:kms:eu-central-1:123456789012:key/0a"}, []string{"*", "arn:aws:kms:*:123456789012:key/0a", "alias/aws/secretsmanager"}},
		"CodeSigningConfigArn": {[]string{"", "arn:aws:lambda:eu-central-1:123456789012:code-signing-config:csc-0123456789abcdef0"}, []string{"csc-0123456789abcdef0", "arn:aws:lambda:eu-central-1:123456789012:code-signing-config:*"}},
		"MirrorSecretArns":     {[]string{"", secret, secret + "," + secret}, []string{secret + ",", "," + secret, secret + ",," + secret, "*", secret + "*", secret + ", " + secret, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*-Ab12Cd", role}},
		"MirrorParameterArns":  {[]string{"", ssm + "a_B.1-c", ssm + "tokens/logs," + ssm + "x"}, []string{ssm, ssm + "a/", ssm + "/a", ssm + "*", ssm + "a,", "," + ssm + "a", ssm + "a, " + ssm + "b", ssm + "a:3", "arn:aws:ssm:*:123456789012:parameter/a", secret}},
		"MirrorReaderRoleArns": {[]string{"", role, role + "," + role}, []string{role + ",", "," + role, "*", "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/a", role + "/*", secret}},
	})
}

// Both templates reject the same values, for example an API key in a parameter, or plain http.
func TestBothTemplatesRejectTheSame(t *testing.T) {
	t.Parallel()
	one := at(t, template(t), "Parameters").(object)
	for name, parameter := range at(t, fleet(t), "Parameters").(object) {
		if one[name] != nil && name != "ReservedConcurrency" && name != "SecretsManagerMaxRps" { // the fleet's have few choices
			want(t, name+" accepts", parameter.(object)["AllowedPattern"], one[name].(object)["AllowedPattern"])
		}
	}
}

// values are what a parameter accepts and rejects.
type values struct{ good, bad []string }

// checkPatterns checks that the patterns of parameters accept the good values and reject the bad ones.
func checkPatterns(t *testing.T, tmpl object, parameters map[string]values) {
	t.Helper()
	for name, values := range parameters {
		pattern := regexp.MustCompile(at(t, tmpl, "Parameters", name, "AllowedPattern").(string))
		for _, value := range values.good {
			if !pattern.MatchString(value) {
				t.Errorf("%s rejects %q", name, value)
			}
		}
		for _, value := range values.bad {
			if pattern.MatchString(value) {
				t.Errorf("%s accepts %q", name, value)
			}
		}
	}
}

func TestTemplatesAreClean(t *testing.T) {
	t.Parallel()
	programs.Need(t, "cfn-lint")
	files := []string{"template.yaml", "fleet.yaml", "../../scripts/examples/platforms/ecs.yaml", "../../scripts/examples/platforms/ecs-restart.yaml"}
	if got := programs.Run(t, programs.Command{Env: programs.CleanEnviron(), Name: "cfn-lint", Args: files}); got.Exit != 0 {
		t.Errorf("cfn-lint:\n%s", got.All())
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Size() > 51200 {
			t.Errorf("%s: %v, or it has more than the 51200 bytes that CloudFormation takes without a bucket", file, err)
		}
	}
}
