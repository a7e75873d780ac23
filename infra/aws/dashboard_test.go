package aws_test

import (
	"encoding/json"
	"slices"
	"strings"

	"iam-token-rotator/infra/aws/awstest"
)

// checkDashboard holds the dashboard to the metrics that the function has really
// written: a misspelt name would draw an empty line for ever.
func (a *account) checkDashboard() {
	a.t.Helper()
	var answer struct {
		Body string `xml:"GetDashboardResult>DashboardBody"`
	}
	a.query("monitoring", "Action=GetDashboard&Version=2010-08-01&DashboardName="+a.stack+"-"+awstest.Region, &answer)
	var dashboard struct {
		Widgets []struct {
			Properties struct {
				Title   string
				Metrics [][]any
			}
		}
	}
	if err := json.Unmarshal([]byte(answer.Body), &dashboard); err != nil {
		a.t.Fatalf("the dashboard is no JSON: %v\n%s", err, answer.Body)
	}
	emitted := a.emitted()
	drawn := map[string]bool{}
	for _, widget := range dashboard.Widgets {
		var before []any
		for _, metric := range widget.Properties.Metrics {
			for i, part := range metric { // "." and "..." repeat the line before
				if part == "." {
					metric[i] = before[i]
				}
			}
			before = metric
			if metric[0] != "IAMTokenRotator" {
				continue
			}
			name := show(metric[1])
			drawn[name] = true
			if !emitted[name] && name != "SafetyMarginSeconds" { // no margin at the first token
				a.t.Errorf("%q draws %s, which the function does not write: %v", widget.Properties.Title, name, emitted)
			}
			want(a.t, name, show(metric[2])+"="+show(metric[3]), "FunctionName="+a.stack)
		}
	}
	for _, name := range []string{"SecondsRemaining", "SafetyMarginSeconds", "DurationMilliseconds", "Failure"} {
		if !drawn[name] {
			a.t.Errorf("the dashboard does not draw %s", name)
		}
	}
}

// emitted are the metrics, with the dimension FunctionName alone, that the function
// has written to its log.
func (a *account) emitted() map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(a.lambda.Printed()) {
		var document struct {
			FunctionName string
			AWS          struct {
				CloudWatchMetrics []struct {
					Namespace  string
					Dimensions [][]string
					Metrics    []struct{ Name string }
				}
			} `json:"_aws"`
		}
		if json.Unmarshal([]byte(line), &document) != nil || document.FunctionName != a.stack {
			continue
		}
		for _, set := range document.AWS.CloudWatchMetrics {
			alone := slices.ContainsFunc(set.Dimensions, func(names []string) bool { return slices.Equal(names, []string{"FunctionName"}) })
			for _, metric := range set.Metrics {
				names[metric.Name] = names[metric.Name] || alone && set.Namespace == "IAMTokenRotator"
			}
		}
	}
	return names
}
