// Package aws_test holds the CloudFormation templates to what the rest of the project promises, and replays what
// the fleet's state machines send to the function. scripts/rotatorctl deploys the template.
package aws_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"iam-token-rotator/scripts/programs"
)

// object is a mapping of the template.
type object = map[string]any

// template is the stack of one function, fleet that of very many rotations.
func template(t *testing.T) object { return readTemplate(t, "template.yaml") }
func fleet(t *testing.T) object    { return readTemplate(t, "fleet.yaml") }

// readTemplate reads a template with its short tags written out (!Ref x is
// {"Ref": "x"}), nothing resolved.
func readTemplate(t *testing.T, file string) object {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	return plain(t, document.Content[0]).(object)
}

// plain turns a node into maps, lists and scalars.
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
		switch step := step.(type) {
		case string:
			fields, _ := value.(object)
			next, ok := fields[step]
			if !ok {
				t.Fatalf("the template has nothing at %v", path[:i+1])
			}
			value = next
		case int:
			list, _ := value.([]any)
			if step >= len(list) {
				t.Fatalf("the template has nothing at %v", path[:i+1])
			}
			value = list[step]
		}
	}
	return value
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

// show writes a value so that two can be compared.
func show(value any) string { return fmt.Sprintf("%v", value) }

// want compares a value of the template.
func want(t *testing.T, where string, got, want any) {
	t.Helper()
	if show(got) != show(want) {
		t.Errorf("%s: got %v, want %v", where, got, want)
	}
}

// alarmRule decides whether an alarm fires.
type alarmRule struct {
	namespace, metric, statistic string
	dimensions                   string // "Name=value,…"
	period, of, from             int    // `of` breaching datapoints of the last `from` periods
	comparison                   string
	threshold                    int
	missing                      string
}

const (
	own        = "map[Ref:MetricsNamespace]"
	byFunction = "FunctionName=map[Ref:Function]"
	byAlias    = byFunction + ",Resource=map[Fn::Sub:${Function}:live]" // the check of a new version fires nothing
	atLeast    = "GreaterThanOrEqualToThreshold"
	below      = "LessThanThreshold"
)

var alarmRules = map[string]alarmRule{
	"StoredLifeAlarm":        {own, "SecondsRemaining", "Minimum", byFunction, 120, 2, 2, below, 300, "breaching"},
	"FailedInvocationsAlarm": {"AWS/Lambda", "Errors", "Sum", byAlias, 300, 1, 1, atLeast, 1, "notBreaching"},
	"UndeliveredEventsAlarm": {"AWS/SQS", "NumberOfMessagesSent", "Sum", "QueueName=map[Fn::GetAtt:[UndeliveredEvents QueueName]]", 300, 1, 4, atLeast, 1, "notBreaching"},
	"FailedRunsAlarm":        {"AWS/SQS", "NumberOfMessagesSent", "Sum", "QueueName=map[Fn::GetAtt:[FailedRuns QueueName]]", 300, 1, 4, atLeast, 1, "notBreaching"},
	"ThrottlesAlarm":         {"AWS/Lambda", "Throttles", "Sum", byAlias, 300, 1, 1, atLeast, 1, "notBreaching"},
	"TokenLifetimeAlarm":     {own, "TokenLifetimeSeconds", "Minimum", byFunction, 300, 1, 1, below, 3000, "ignore"},
	"KeyExpiryAlarm":         {own, "KeyExpiring", "Maximum", byFunction, 3600, 1, 1, atLeast, 1, "ignore"},
	"KeyRenewalAlarm":        {own, "KeyRenewalFailure", "Minimum", byFunction, 86400, 1, 1, atLeast, 1, "ignore"},
	"EachStoredLifeAlarm":    {"", "", "", "", 120, 2, 2, below, 300, "notBreaching"},
	"MoreFailingAlarm":       {own, "FailingRotations", "Maximum", byFunction, 300, 1, 1, atLeast, 1, "notBreaching"},
}

// ruleOf reads an alarm of the template, on a metric, on metric math or on a query.
func ruleOf(t *testing.T, alarm object) alarmRule {
	t.Helper()
	statistic, measured := alarm, alarm
	from := alarm["EvaluationPeriods"].(int)
	of, given := alarm["DatapointsToAlarm"].(int)
	if !given { // all of them
		of = from
	}
	if metrics := list(alarm["Metrics"]); alarm["Metrics"] != nil && len(metrics) == 1 { // a query
		return alarmRule{period: at(t, metrics[0], "Period").(int), of: of, from: from,
			comparison: show(alarm["ComparisonOperator"]), threshold: alarm["Threshold"].(int), missing: show(alarm["TreatMissingData"])}
	}
	if alarm["Metrics"] != nil {
		statistic = at(t, alarm, "Metrics", 0, "MetricStat").(object)
		measured = at(t, statistic, "Metric").(object)
		statistic = object{"Statistic": statistic["Stat"], "Period": statistic["Period"]}
	}
	var dimensions []string
	for _, dimension := range at(t, measured, "Dimensions").([]any) {
		dimensions = append(dimensions, show(at(t, dimension, "Name"))+"="+show(at(t, dimension, "Value")))
	}
	return alarmRule{
		namespace: show(measured["Namespace"]), metric: show(measured["MetricName"]), statistic: show(statistic["Statistic"]),
		dimensions: strings.Join(dimensions, ","),
		period:     statistic["Period"].(int), of: of, from: from,
		comparison: show(alarm["ComparisonOperator"]), threshold: alarm["Threshold"].(int), missing: show(alarm["TreatMissingData"]),
	}
}

func TestAlarms(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	alarms := ofType(t, tmpl, "AWS::CloudWatch::Alarm")
	if len(alarms) != len(alarmRules) {
		t.Errorf("got %d alarms, want %d", len(alarms), len(alarmRules))
	}
	topic := []any{object{"Fn::If": []any{"MakesTopic", object{"Ref": "AlarmTopic"}, object{"Ref": "AlarmTopicArn"}}}}
	for id, rule := range alarmRules {
		alarm := properties(t, tmpl, id)
		if got := ruleOf(t, alarm); got != rule {
			t.Errorf("%s:\n got %+v\nwant %+v", id, got, rule)
		}
		want(t, id+" actions", alarm["AlarmActions"], topic)
	}
	checkKeyAlarms(t, tmpl, alarms)
}

// checkKeyAlarms: a renewal that fails once is nobody's matter; all of a day's, and one
// that found the key in use refused, are.
func checkKeyAlarms(t *testing.T, tmpl object, alarms map[string]object) {
	t.Helper()
	want(t, "the renewal alarm's condition", at(t, alarms["KeyRenewalAlarm"], "Condition"), "RenewsKey")
	want(t, "the expiry alarm's condition", alarms["KeyExpiryAlarm"]["Condition"], nil)
	metrics := at(t, properties(t, tmpl, "KeyRenewalAlarm"), "Metrics").([]any)
	want(t, "the renewal alarm's metrics", len(metrics), 4)
	for i, statistic := range []string{"least Minimum", "most Maximum", "renewals SampleCount"} {
		stat := at(t, metrics, i, "MetricStat")
		want(t, "a metric of the renewal alarm", show(at(t, metrics, i, "Id"))+" "+show(at(t, stat, "Stat")), statistic)
		want(t, "what it is of", at(t, stat, "Metric"), at(t, metrics, 0, "MetricStat", "Metric"))
		want(t, "its period", at(t, stat, "Period"), 86400)
		want(t, "whether it is the result", at(t, metrics, i, "ReturnData"), false)
	}
	want(t, "the renewal alarm is on", at(t, metrics, 3, "Expression"), "IF((least >= 1 AND renewals >= 20) OR most >= 2, 1, 0)")
}

// One rotation of a list that is broken for good must not hide the next: each has its own state, and more failures are news.
func TestAlarmsOfAList(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	want(t, "a list", at(t, tmpl, "Conditions", "HasList"), object{"Fn::Not": []any{object{"Fn::Equals": []any{object{"Ref": "RotationsFile"}, ""}}}})
	for id, expression := range map[string]any{
		"EachStoredLifeAlarm": object{"Fn::Sub": `SELECT MIN(SecondsRemaining) FROM SCHEMA("${MetricsNamespace}", FunctionName, Rotation) WHERE FunctionName = '${Function}' GROUP BY Rotation ORDER BY MIN() ASC`},
		"MoreFailingAlarm":    "DIFF(failing)",
	} {
		want(t, id+" is made", at(t, tmpl, "Resources", id, "Condition"), "HasList")
		metrics := at(t, properties(t, tmpl, id), "Metrics").([]any)
		want(t, id+" is on", at(t, metrics, len(metrics)-1, "Expression"), expression)
		for i := range metrics {
			want(t, id+" returns the last", at(t, metrics, i, "ReturnData"), i == len(metrics)-1)
		}
	}
	each, all := properties(t, tmpl, "EachStoredLifeAlarm"), properties(t, tmpl, "StoredLifeAlarm")
	want(t, "the threshold of each is that of all", each["Threshold"], all["Threshold"])
	want(t, "the end of each is told", each["OKActions"], all["OKActions"])
}

// The page's sum is that of its rows, whose counts are the template's and the function's; without the dashboard one
// rotation costs 4.50 at most.
func TestCostTable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## What it costs a month\n")
	source, err := os.ReadFile("../../functions/internal/metrics/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	alarms := 0
	for _, alarm := range ofType(t, template(t), "AWS::CloudWatch::Alarm") {
		if alarm["Condition"] == nil {
			alarms++
		}
	}
	metrics := strings.Count(string(source), ", func(r report.Result) *float64 {") + 1 // KeyExpiring
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
		price, err := strconv.ParseFloat(row[2], 64)
		if err != nil {
			t.Fatal(err)
		}
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

// Silence must count as a lifetime of zero, both within the data and without any.
func TestStoredLifeCountsSilenceAsZero(t *testing.T) {
	t.Parallel()
	metrics := at(t, properties(t, template(t), "StoredLifeAlarm"), "Metrics").([]any)
	want(t, "metrics", len(metrics), 2)
	want(t, "the metric is", show(at(t, metrics, 0, "Id"))+" "+show(at(t, metrics, 0, "ReturnData")), "life false")
	want(t, "the alarm is on", show(at(t, metrics, 1, "Expression"))+" "+show(at(t, metrics, 1, "ReturnData")), "FILL(life, 0) true")
}

// firesAfter returns after how many seconds the stored-life alarm fires when the metric
// at second s is remaining(s), -1 for none, and every period begins
// `phase` seconds off. It returns -1 if it stays quiet until the end.
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

// The stored-life alarm must fire before a reader meets an expired token, and
// must be quiet as long as nothing is wrong.
func TestStoredLifeAlarmFiresInTime(t *testing.T) {
	t.Parallel()
	rule := ruleOf(t, properties(t, template(t), "StoredLifeAlarm"))
	const minRemaining, hour = 480, 3600
	earliest, latest := hour, 0
	for phase := range rule.period {
		// The last metric, at second 0, is just long enough for ensure to keep
		// the token; then the schedules stop.
		dead := func(second int) int {
			if second == 0 {
				return minRemaining
			}
			return -1
		}
		fired := rule.firesAfter(dead, phase, hour)
		earliest, latest = min(earliest, fired), max(latest, fired)
		// Every run fails at IAM: each minute the metric is less. The
		// failed-invocations alarm fires before; this one follows at the latest
		// when the token ends.
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

// checkQuiet runs through three hours without a fault, of long tokens and short ones,
// each way with one metric lost or late.
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

func TestPoliciesAreNarrow(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	// What each role may do, and on what, and nothing else.
	allowed := map[string]string{
		"ReadTheBootstrapKey":          "[secretsmanager:GetSecretValue] on map[Ref:BootstrapSecretArn]",
		"StoreTheRenewedKey":           "[secretsmanager:PutSecretValue] on map[Ref:BootstrapSecretArn]",
		"WriteItsLog":                  "[logs:CreateLogStream logs:PutLogEvents] on map[Fn::Sub:arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:${LogGroup}:*]",
		"EncryptTheMirror":             "[kms:GenerateDataKey kms:Decrypt] on map[Ref:MirrorKmsKeyArn]",
		"EncryptMessages":              "[kms:GenerateDataKey kms:Decrypt] on map[Ref:KmsKeyArn]",
		"Trace":                        "[xray:PutTraceSegments xray:PutTelemetryRecords] on *",
		"MirrorTheToken":               "[secretsmanager:PutSecretValue secretsmanager:DescribeSecret] on map[Fn::Split:[, map[Ref:MirrorSecretArns]]]",
		"EncryptTheParameter":          "[kms:Encrypt kms:GenerateDataKey] on map[Ref:MirrorKmsKeyArn]",
		"MirrorTheTokenToParameters":   "[ssm:PutParameter] on map[Fn::Split:[, map[Ref:MirrorParameterArns]]]",
		"SeeWhichVersionAParameterHas": "[ssm:DescribeParameters] on *",
		"ReportFailedRuns":             "[sqs:SendMessage] on map[Fn::GetAtt:[FailedRuns Arn]]",
		"UseTheBootstrapSecretsKey":    "[kms:Decrypt map[Fn::If:[RenewsKey kms:GenerateDataKey map[Ref:AWS::NoValue]]]] on map[Ref:BootstrapKmsKeyArn]",
		"PutItsEvents":                 "[events:PutEvents] on " + ofTheBus,
		"LambdaMakesNetworkInterfaces": show(anys(noResourceLevel)) + " on *",
		"ItsCodeDoesNot":               "[ec2:*] on *",
		"Invoke":                       "[lambda:InvokeFunction] on map[Fn::Sub:${Function.Arn}:live]",
		"ReportUndeliveredEvents":      "[sqs:SendMessage] on map[Fn::GetAtt:[UndeliveredEvents Arn]]",
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

// Without BootstrapKeySecret the function cannot write the secret that it starts from;
// with it, that secret alone, and encrypt with its key for nothing else.
func TestOnlyARenewalWritesTheBootstrapKey(t *testing.T) {
	t.Parallel()
	for name, tmpl := range map[string]object{"template.yaml": template(t), "fleet.yaml": fleet(t)} {
		for id, policy := range ofType(t, tmpl, "AWS::IAM::ManagedPolicy") {
			switch id {
			case "RenewalPolicy":
				want(t, name+" condition of "+id, policy["Condition"], "RenewsKey")
			case "EncryptionPolicy": // template.yaml has it in one with the decryption
				want(t, name+" condition of "+id, policy["Condition"], "RenewsEncryptedKey")
				want(t, name+" condition", at(t, tmpl, "Conditions", "RenewsEncryptedKey"), object{"Fn::And": []any{object{"Condition": "RenewsKey"}, object{"Condition": "HasKmsKey"}}})
				decrypt := at(t, properties(t, tmpl, "FunctionRole"), "Policies", "Fn::If", 1, 0, "PolicyDocument", "Statement", 0, "Condition")
				want(t, name+" encryption", at(t, policy, "Properties", "PolicyDocument", "Statement", 0, "Condition"), decrypt)
			default:
				continue
			}
			want(t, name+" statements of "+id, len(at(t, policy, "Properties", "PolicyDocument", "Statement").([]any)), 1)
		}
		want(t, name+" condition", at(t, tmpl, "Conditions", "RenewsKey"), object{"Fn::Not": []any{object{"Fn::Equals": []any{object{"Ref": "BootstrapKeySecret"}, ""}}}})
	}
}

// The network permissions exist in a VPC only, and the function's own code is
// denied them.
func TestNetworkPermissions(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	policy := at(t, tmpl, "Resources", "NetworkInterfacesPolicy")
	want(t, "condition", at(t, policy, "Condition"), "InVpc")
	want(t, "attached", at(t, properties(t, tmpl, "FunctionRole"), "ManagedPolicyArns"),
		object{"Fn::If": []any{"InVpc", []any{object{"Ref": "NetworkInterfacesPolicy"}}, object{"Ref": "AWS::NoValue"}}})
	denial := at(t, policy, "Properties", "PolicyDocument", "Statement", 1)
	want(t, "effect", at(t, denial, "Effect"), "Deny")
	const function = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${AWS::StackName}"
	want(t, "whom", at(t, denial, "Condition"), object{"ArnLike": object{"lambda:SourceFunctionArn": object{"Fn::Sub": function + "*"}}})
	for _, statement := range statements(at(t, tmpl, "Resources")) {
		if statement["Effect"] == "Allow" && statement["Sid"] != "LambdaMakesNetworkInterfaces" && statement["Sid"] != "Trace" && show(statement["Action"]) != describeParameters && show(statement["Resource"]) == "*" {
			t.Errorf("%v is allowed on everything", statement["Sid"])
		}
	}
}

// noResourceLevel are the actions for which AWS offers no resource narrower than
// "*" that Lambda could use: it makes network interfaces that do not exist yet.
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
// Those of X-Ray have none: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsx-ray.html
var noResourceLevel = []string{
	"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
	"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
}

// delivery are those by which Step Functions has its log delivered, which have none either.
// https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
var delivery = []string{"logs:CreateLogDelivery", "logs:DeleteLogDelivery", "logs:DescribeLogGroups", "logs:DescribeResourcePolicies",
	"logs:GetLogDelivery", "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:UpdateLogDelivery"}

// describeParameters has no narrower resource either, and shows no value.
// https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-paramstore-access.html
const describeParameters = "ssm:DescribeParameters"

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
		if strings.Contains(show(action), "*") && statement["Effect"] == "Allow" {
			t.Errorf("%v allows %v: list the actions", statement["Sid"], action)
		}
	}
	for _, resource := range list(statement["Resource"]) {
		if resource != "*" || statement["Effect"] == "Deny" {
			continue
		}
		for _, action := range actions {
			if name := show(action); !slices.Contains(noResourceLevel, name) && !slices.Contains(delivery, name) && name != describeParameters && !strings.HasPrefix(name, "xray:Put") {
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

func TestSchedules(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	tests := []struct {
		id, mode   string
		expression any
		retries    int
	}{
		{"RotateSchedule", "rotate", "rate(50 minutes)", 5},
		{"EnsureTokenSchedule", "ensure", object{"Fn::If": []any{"EnsuresEveryMinute", "rate(1 minute)", "rate(2 minutes)"}}, 1},
	}
	for _, tt := range tests {
		schedule := properties(t, tmpl, tt.id)
		target := at(t, schedule, "Target").(object)
		want(t, tt.id+" expression", schedule["ScheduleExpression"], tt.expression)
		want(t, tt.id+" window", at(t, schedule, "FlexibleTimeWindow", "Mode"), "OFF")
		want(t, tt.id+" group", schedule["GroupName"], object{"Ref": "ScheduleGroup"})
		want(t, tt.id+" target", target["Arn"], object{"Ref": "Alias"})
		want(t, tt.id+" role", target["RoleArn"], object{"Fn::GetAtt": []any{"ScheduleRole", "Arn"}})
		want(t, tt.id+" age", at(t, target, "RetryPolicy", "MaximumEventAgeInSeconds"), 120)
		want(t, tt.id+" retries", at(t, target, "RetryPolicy", "MaximumRetryAttempts"), tt.retries)
		want(t, tt.id+" dead letters", at(t, target, "DeadLetterConfig", "Arn"), object{"Fn::GetAtt": []any{"UndeliveredEvents", "Arn"}})

		var input map[string]string
		if err := json.Unmarshal([]byte(target["Input"].(string)), &input); err != nil {
			t.Fatalf("%s: its input is no JSON object of texts: %v", tt.id, err)
		}
		want(t, tt.id+" input", input, map[string]string{"mode": tt.mode, "run_id": tt.mode + "-<aws.scheduler.scheduled-time>"})
	}
	if schedules := ofType(t, tmpl, "AWS::Scheduler::Schedule"); len(schedules) != len(tests) {
		t.Errorf("got %d schedules, want %d", len(schedules), len(tests))
	}
	want(t, "rotate's condition", at(t, tmpl, "Resources", "RotateSchedule", "Condition"), "Rotates")
	want(t, "ensure's condition", at(t, tmpl, "Resources", "EnsureTokenSchedule").(object)["Condition"], nil)
	want(t, "condition", at(t, tmpl, "Conditions", "Rotates"), object{"Fn::Equals": []any{object{"Ref": "Schedules"}, "both"}})
	want(t, "choices of schedules", show(at(t, tmpl, "Parameters", "Schedules", "Default"))+show(at(t, tmpl, "Parameters", "Schedules", "AllowedValues")), "both[both ensure]")
	ensure := at(t, tmpl, "Parameters", "EnsureEveryMinutes")
	want(t, "ensure default", at(t, ensure, "Default"), "1")
	want(t, "ensure choices", at(t, ensure, "AllowedValues"), "[1 2]")
	want(t, "condition", at(t, tmpl, "Conditions", "EnsuresEveryMinute"), object{"Fn::Equals": []any{object{"Ref": "EnsureEveryMinutes"}, "1"}})
}

// The interval of the schedule stands in three places, which must agree.
func TestIntervalIsTheSchedules(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	expression := at(t, properties(t, tmpl, "RotateSchedule"), "ScheduleExpression").(string)
	number, _, _ := strings.Cut(strings.TrimPrefix(expression, "rate("), " ")
	scheduled, err := time.ParseDuration(number + "m")
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	interval, err := time.ParseDuration(at(t, properties(t, tmpl, "Function"), "Environment", "Variables", "ROTATION_INTERVAL").(string))
	if err != nil || interval != scheduled {
		t.Errorf("ROTATION_INTERVAL is %v (%v), but the schedule's %v", interval, err, scheduled)
	}
	if threshold := at(t, properties(t, tmpl, "TokenLifetimeAlarm"), "Threshold").(int); time.Duration(threshold)*time.Second != scheduled {
		t.Errorf("the token-lifetime alarm fires below %d s, but the schedule's %v", threshold, scheduled)
	}
}

func TestScheduleRoleIsForThisGroupAlone(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	group := properties(t, tmpl, "ScheduleGroup")
	want(t, "group name", group["Name"], object{"Ref": "AWS::StackName"})
	trust := at(t, properties(t, tmpl, "ScheduleRole"), "AssumeRolePolicyDocument", "Statement")
	want(t, "statements", len(trust.([]any)), 1)
	want(t, "principal", at(t, trust, 0, "Principal"), object{"Service": "scheduler.amazonaws.com"})
	want(t, "condition", at(t, trust, 0, "Condition"), object{"StringEquals": object{
		"aws:SourceAccount": object{"Ref": "AWS::AccountId"},
		"aws:SourceArn":     object{"Fn::Sub": "arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule-group/${AWS::StackName}"},
	}})
}

func TestCopiesAreReadByTheNamedRolesAlone(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	want(t, "condition", at(t, tmpl, "Resources", "MirrorPolicy", "Condition"), "HasMirrors")
	want(t, "condition", at(t, tmpl, "Resources", "ParameterPolicy", "Condition"), "HasMirrorParameters")
	want(t, "condition", at(t, tmpl, "Conditions", "HasMirrorParameters"), object{"Fn::Not": []any{object{"Fn::Equals": []any{object{"Ref": "MirrorParameterArns"}, ""}}}})
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

// Keys of the account's own: used for these things alone, through the service that holds them.
func TestGuardedAccounts(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	own := func(yes, no any) object { return object{"Fn::If": []any{"HasOwnKey", yes, no}} }
	key, none := object{"Ref": "KmsKeyArn"}, object{"Ref": "AWS::NoValue"}
	for path, value := range map[string]any{
		"LogGroup.KmsKeyId": own(key, none), "AlarmTopic.KmsMasterKeyId": own(key, none),
		"FailedRuns.KmsMasterKeyId": own(key, none), "FailedRuns.SqsManagedSseEnabled": own(false, true),
		"UndeliveredEvents.KmsMasterKeyId": own(key, none), "UndeliveredEvents.SqsManagedSseEnabled": own(false, true),
		"Function.TracingConfig":        object{"Mode": object{"Ref": "TracingMode"}},
		"Function.CodeSigningConfigArn": object{"Fn::If": []any{"SignsCode", object{"Ref": "CodeSigningConfigArn"}, none}},
	} {
		id, name, _ := strings.Cut(path, ".")
		want(t, path, properties(t, tmpl, id)[name], value)
	}
	for id, through := range map[string]object{
		"MirrorKeyPolicy": {
			"StringLike":   object{"kms:ViaService": object{"Fn::Sub": "secretsmanager.*.${AWS::URLSuffix}"}},
			"StringEquals": object{"kms:EncryptionContext:SecretARN": object{"Fn::Split": []any{",", object{"Ref": "MirrorSecretArns"}}}},
		},
		"ParameterKeyPolicy": {
			"StringLike":   object{"kms:ViaService": object{"Fn::Sub": "ssm.*.${AWS::URLSuffix}"}},
			"StringEquals": object{"kms:EncryptionContext:PARAMETER_ARN": object{"Fn::Split": []any{",", object{"Ref": "MirrorParameterArns"}}}},
		},
		"QueueKeyPolicy": {"StringEquals": object{
			"kms:ViaService": object{"Fn::Sub": "sqs.${AWS::Region}.${AWS::URLSuffix}"},
			"kms:EncryptionContext:aws:sqs:arn": []any{
				object{"Fn::GetAtt": []any{"FailedRuns", "Arn"}}, object{"Fn::GetAtt": []any{"UndeliveredEvents", "Arn"}}},
		}},
	} {
		want(t, id+" condition", at(t, properties(t, tmpl, id), "PolicyDocument", "Statement", 0, "Condition"), through)
	}
	for id, condition := range map[string]string{"MirrorKeyPolicy": "HasMirrorKey", "ParameterKeyPolicy": "HasParameterKey", "QueueKeyPolicy": "HasOwnKey", "TracingPolicy": "Traces"} {
		want(t, id, at(t, tmpl, "Resources", id, "Condition"), condition)
	}
}

// ofTheBus is the ARN of the bus, which is given by its name or its ARN.
const ofTheBus = "map[Fn::If:[HasBusArn map[Ref:EventBusName] map[Fn::Sub:arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/${EventBusName}]]]"

// The function may put its own events on the one bus, by whichever name that is given.
func TestEventsGoToOneBus(t *testing.T) {
	t.Parallel()
	for name, tmpl := range map[string]object{"template.yaml": template(t), "fleet.yaml": fleet(t)} {
		bus := object{"Ref": "EventBusName"}
		want(t, name+" variable", at(t, properties(t, tmpl, "Function"), "Environment", "Variables", "EVENT_BUS_NAME"), bus)
		want(t, name+" condition", at(t, tmpl, "Resources", "EventPolicy", "Condition"), "HasBus")
		want(t, name+" a bus", at(t, tmpl, "Conditions", "HasBus"), object{"Fn::Not": []any{object{"Fn::Equals": []any{bus, ""}}}})
		want(t, name+" an ARN", show(at(t, tmpl, "Conditions", "HasBusArn")), show(object{"Fn::Equals": []any{object{"Fn::Select": []any{0, object{"Fn::Split": []any{":", bus}}}}, "arn"}}))
		found := statements(properties(t, tmpl, "EventPolicy"))
		want(t, name+" statements", len(found), 1)
		want(t, name+" source", found[0]["Condition"], object{"StringEquals": object{"events:source": "iam-token-rotator"}})
		pattern := regexp.MustCompile(at(t, tmpl, "Parameters", "EventBusName", "AllowedPattern").(string))
		for value, fits := range map[string]bool{"": true, "default": true, "arn:aws-cn:events:cn-north-1:123456789012:event-bus/tokens": true,
			"arn:aws:sqs:us-east-1:123456789012:tokens": false, "a/b": false, strings.Repeat("x", 41): false} {
			want(t, name+" takes "+value, pattern.MatchString(value), fits)
		}
	}
}

// Plain HTTP is denied to everybody. The topic's policy takes the place of SNS's own, so it must let the alarms in.
func TestQueuesAndTopicTakeTLSAlone(t *testing.T) {
	t.Parallel()
	for name, tmpl := range map[string]object{"template.yaml": template(t), "fleet.yaml": fleet(t)} {
		denied := map[string]bool{}
		for _, resourceType := range []string{"AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"} {
			for id, policy := range ofType(t, tmpl, resourceType) {
				held := policy["Properties"].(object)
				for _, subject := range append(list(held["Queues"]), list(held["Topics"])...) {
					denied[show(subject)] = true
				}
				tls := at(t, held, "PolicyDocument", "Statement", 0)
				want(t, name+" "+id, show(at(t, tls, "Effect"))+show(at(t, tls, "Principal"))+show(at(t, tls, "Condition")), "Deny*map[Bool:map[aws:SecureTransport:false]]")
			}
		}
		for _, resourceType := range []string{"AWS::SQS::Queue", "AWS::SNS::Topic"} {
			for id := range ofType(t, tmpl, resourceType) {
				want(t, name+" has a policy for "+id, denied[show(object{"Ref": id})], true)
			}
		}
		alarms := at(t, properties(t, tmpl, "AlarmTopicPolicy"), "PolicyDocument", "Statement", 1)
		want(t, name+" who publishes", at(t, alarms, "Principal"), object{"Service": "cloudwatch.amazonaws.com"})
		want(t, name+" whose alarms", at(t, alarms, "Condition"), object{
			"StringEquals": object{"aws:SourceAccount": object{"Ref": "AWS::AccountId"}},
			"ArnLike":      object{"aws:SourceArn": object{"Fn::Sub": "arn:${AWS::Partition}:cloudwatch:${AWS::Region}:${AWS::AccountId}:alarm:${AWS::StackName}-*"}}})
	}
}

// A star in an ARN would let the function overwrite, or a role read, what nobody named. An empty
// element of any list would be heard of only when the resource is made.
func TestListParametersTakeWholeElements(t *testing.T) {
	t.Parallel()
	const (
		secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:tokens/logs-Ab12Cd"
		role   = "arn:aws:iam::123456789012:role/jobs/reader"
		ssm    = "arn:aws:ssm:eu-central-1:123456789012:parameter/"
	)
	network := map[string]values{
		"SubnetIds":        {[]string{"", "subnet-0a1b", "subnet-0a1b,subnet-2c"}, []string{"subnet-0a1b,", ",subnet-0a1b", "subnet-0a1b,,subnet-2c", "subnet-0a1b, subnet-2c", "sg-0a1b"}},
		"SecurityGroupIds": {[]string{"", "sg-0a1b", "sg-0a1b,sg-2c"}, []string{"sg-0a1b,", ",sg-0a1b", "subnet-0a1b"}},
	}
	checkPatterns(t, template(t), network)
	checkPatterns(t, template(t), map[string]values{
		"BootstrapSecretArn": {[]string{secret}, []string{"", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*-Ab12Cd", secret[:len(secret)-1] + "?"}},
		"BootstrapKmsKeyArn": {[]string{"", "arn:aws:kms:eu-central-1:123456789012:key/mrk-0a"}, []string{"arn:aws:kms:eu-central-1:123456789012:key/*", "arn:aws:kms:*:123456789012:key/0a"}},
	})
	checkPatterns(t, template(t), map[string]values{
		"KmsKeyArn":            {[]string{"", "arn:aws:kms:eu-central-1:123456789012:key/mrk-0a"}, []string{"arn:aws:kms:eu-central-1:123456789012:key/*", "alias/a", "arn:aws:kms:eu-central-1:123456789012:alias/a"}},
		"MirrorKmsKeyArn":      {[]string{"", "arn:aws:kms:eu-central-1:123456789012:key/0a"}, []string{"*", "arn:aws:kms:*:123456789012:key/0a", "alias/aws/secretsmanager"}},
		"CodeSigningConfigArn": {[]string{"", "arn:aws:lambda:eu-central-1:123456789012:code-signing-config:csc-0123456789abcdef0"}, []string{"csc-0123456789abcdef0", "arn:aws:lambda:eu-central-1:123456789012:code-signing-config:*"}},
	})
	checkPatterns(t, template(t), map[string]values{
		"MirrorSecretArns":     {[]string{"", secret, secret + "," + secret}, []string{secret + ",", "," + secret, secret + ",," + secret, "*", secret + "*", secret + ", " + secret, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:*-Ab12Cd", role}},
		"MirrorParameterArns":  {[]string{"", ssm + "a_B.1-c", ssm + "tokens/logs," + ssm + "x"}, []string{ssm, ssm + "a/", ssm + "/a", ssm + "*", ssm + "a,", "," + ssm + "a", ssm + "a, " + ssm + "b", ssm + "a:3", "arn:aws:ssm:*:123456789012:parameter/a", secret}},
		"MirrorReaderRoleArns": {[]string{"", role, role + "," + role}, []string{role + ",", "," + role, "*", "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/a", role + "/*", secret}},
	})
}

// What one template rejects, a key in a parameter's place or plain http, the other rejects too.
func TestBothTemplatesRejectTheSame(t *testing.T) {
	t.Parallel()
	one := at(t, template(t), "Parameters").(object)
	for name, parameter := range at(t, fleet(t), "Parameters").(object) {
		if one[name] != nil && name != "ReservedConcurrency" && name != "SecretsManagerMaxRps" { // the fleet's have few choices
			want(t, name+" takes", parameter.(object)["AllowedPattern"], one[name].(object)["AllowedPattern"])
		}
	}
}

// values are what a parameter accepts and rejects.
type values struct{ good, bad []string }

// checkPatterns holds parameters' patterns against them.
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
				t.Errorf("%s takes %q", name, value)
			}
		}
	}
}

func TestFunction(t *testing.T) {
	t.Parallel()
	tmpl := template(t)
	function := properties(t, tmpl, "Function")
	for name, value := range (object{
		"Runtime": "provided.al2023", "Handler": "bootstrap", "MemorySize": 128, "Timeout": 120,
		"Architectures": []any{object{"Ref": "Architecture"}},
		"LoggingConfig": object{"LogGroup": object{"Ref": "LogGroup"}},
	}) {
		want(t, name, function[name], value)
	}
	want(t, "Architecture", at(t, tmpl, "Parameters", "Architecture", "Default"), "arm64")

	asynchronous := properties(t, tmpl, "AsynchronousInvocations")
	want(t, "asynchronous retries", asynchronous["MaximumRetryAttempts"], 0)
	want(t, "asynchronous age", asynchronous["MaximumEventAgeInSeconds"], 120)
	want(t, "asynchronous failures go to", at(t, asynchronous, "DestinationConfig", "OnFailure", "Destination"), object{"Fn::GetAtt": []any{"FailedRuns", "Arn"}})
	alias := properties(t, tmpl, "Alias")
	want(t, "alias", alias["Name"], "live")
	want(t, "its version", alias["FunctionVersion"], object{"Ref": "AliasVersion"})
	want(t, "the version without rotatorctl", at(t, tmpl, "Parameters", "AliasVersion", "Default"), "$LATEST")
	want(t, "asynchronous invocations are of", asynchronous["Qualifier"], "live")
	want(t, "after", at(t, tmpl, "Resources", "AsynchronousInvocations", "DependsOn"), "Alias")
	checkPatterns(t, tmpl, map[string]values{"AliasVersion": {[]string{"$LATEST", "1", "1234567890"}, []string{"", "0", "01", "live", "$latest", "1a"}}})
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
