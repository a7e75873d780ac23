package simulation

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The story is only as good as its numbers: they are those of the template.
func TestTheNumbersAreTheTemplates(t *testing.T) {
	text, err := os.ReadFile("../../../infra/aws/template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Resources map[string]struct {
			Properties yaml.Node `yaml:"Properties"`
		} `yaml:"Resources"`
		Parameters map[string]struct {
			Default string `yaml:"Default"`
		} `yaml:"Parameters"`
	}
	if err := yaml.Unmarshal(text, &template); err != nil {
		t.Fatal(err)
	}
	oneIn300s := []string{"Statistic=Sum", "Period=300", "Threshold=1", "EvaluationPeriods=1", "DatapointsToAlarm=1", "ComparisonOperator=GreaterThanOrEqualToThreshold"}
	for resource, wants := range map[string][]string{
		"Function":                {"Timeout=120"},
		"AsynchronousInvocations": {"MaximumRetryAttempts=0", "MaximumEventAgeInSeconds=120"},
		"RotateSchedule":          {"ScheduleExpression=rate(50 minutes)", "MaximumEventAgeInSeconds=120"},
		"EnsureTokenSchedule":     {"MaximumEventAgeInSeconds=120"},
		"StoredLifeAlarm": {"MetricName=SecondsRemaining", "Period=120", "Stat=Minimum", "Expression=FILL(life, 0)", "ComparisonOperator=LessThanThreshold",
			"Threshold=300", "EvaluationPeriods=2", "DatapointsToAlarm=2", "TreatMissingData=breaching"},
		"FailedInvocationsAlarm": slices.Concat(oneIn300s, []string{"MetricName=Errors"}),
		"ThrottlesAlarm":         slices.Concat(oneIn300s, []string{"MetricName=Throttles"}),
	} {
		properties := template.Resources[resource].Properties
		values := scalars(&properties)
		for _, want := range wants {
			if !values[want] {
				t.Errorf("%s: the story has %s, the template has not", resource, want)
			}
		}
	}
	if got, want := template.Parameters["MinRemaining"].Default, "8m"; got != want {
		t.Errorf("MinRemaining: got %q in the template, want %q", got, want)
	}
}

// scalars are all "Name=value" of a tree, however deep.
func scalars(node *yaml.Node) map[string]bool {
	found := map[string]bool{}
	var walk func(*yaml.Node)
	walk = func(n *yaml.Node) {
		for i, child := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && child.Kind == yaml.ScalarNode {
				found[fmt.Sprintf("%s=%s", n.Content[i-1].Value, child.Value)] = true
			}
			walk(child)
		}
	}
	walk(node)
	return found
}
