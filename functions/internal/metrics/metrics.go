// Package metrics writes the results of a run in CloudWatch's embedded metric
// format: one JSON line is a log event and metrics at once, without an API call.
//
// Format: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
package metrics

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"iam-token-rotator/functions/report"
)

const (
	// maxOwnDimension is how many rotations of a configuration have their own metrics: AWS
	// charges for each custom metric every month.
	maxOwnDimension = 20
	// maxValues is how many values of one metric a document may hold.
	maxValues = 100
)

// Emitter writes metrics with the dimension FunctionName, and with FunctionName
// and Rotation for the first 20 rotations of a configuration that has several.
type Emitter struct {
	Writer       io.Writer
	Namespace    string
	FunctionName string
	Rotations    []string // names, in the configuration's order
	Now          func() time.Time
}

// Emit writes the metrics of every result, and those of the whole function. A value that is
// not known is left out.
func (e Emitter) Emit(ran report.Report) error {
	own := e.Rotations[:min(len(e.Rotations), maxOwnDimension)]
	if len(own) == 1 { // its metrics are the function's
		own = nil
	}
	var others []report.Result
	for _, result := range ran.Results {
		if !slices.Contains(own, result.Rotation) {
			others = append(others, result)
		} else if err := e.write(result.Rotation, valuesOf(result)); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(others, maxValues) {
		if err := e.write("", valuesOf(chunk...)); err != nil {
			return err
		}
	}
	return e.write("", e.whole(ran))
}

// EmitFailure counts a run that failed before any rotation began.
func (e Emitter) EmitFailure() error {
	return e.write("", valuesOf(report.Result{Outcome: report.Failed}))
}

// metric is a metric with its values in a run.
type metric struct {
	Name, Unit string
	values     []float64
}

// perResult are the metrics of each result. A value that is not known is nil.
var perResult = []struct {
	name, unit string
	of         func(r report.Result) *float64
}{
	{"Success", "Count", func(r report.Result) *float64 { return count(r.Outcome != report.Failed) }},
	{"Failure", "Count", func(r report.Result) *float64 { return count(r.Outcome == report.Failed) }},
	{"SecondsRemaining", "Seconds", func(r report.Result) *float64 { return seconds(r.SecondsRemaining) }},
	{"SafetyMarginSeconds", "Seconds", func(r report.Result) *float64 { return seconds(r.MarginSeconds) }},
	{"TokenLifetimeSeconds", "Seconds", func(r report.Result) *float64 { return positive(r.TokenLifetime.Seconds()) }},
	{"DurationMilliseconds", "Milliseconds", func(r report.Result) *float64 { return positive(float64(r.Duration.Milliseconds())) }},
	{"Attempts", "Count", func(r report.Result) *float64 { return positive(float64(r.Attempts)) }},
	{"KeyExpiresInDays", "None", func(r report.Result) *float64 { return r.KeyDaysLeft }},
}

func valuesOf(results ...report.Result) (metrics []metric) {
	for _, m := range perResult {
		var values []float64
		for _, result := range results {
			if value := m.of(result); value != nil {
				values = append(values, *value)
			}
		}
		metrics = append(metrics, metric{m.name, m.unit, values})
	}
	return metrics
}

// whole returns the metrics of the whole function:
//   - FailingRotations is how many rotations failed, if there are several and all of them ran;
//   - KeyExpiring is 1 if a key expires too soon, else 0, if an expiry is known;
//   - KeyRenewalFailure is 2 if IAM refuses the bootstrap key that is current in AWS, or the one
//     before it, else 1 if the renewal failed, else 0, if the run renewed the key or tried to.
func (e Emitter) whole(ran report.Report) []metric {
	var failing, expiring, renewal []float64
	if len(e.Rotations) > 1 && len(ran.Results) == len(e.Rotations) {
		failing = []float64{float64(len(ran.Failures()))}
	}
	for _, result := range ran.Results {
		if result.KeyDaysLeft != nil && (expiring == nil || result.KeyExpiring) {
			expiring = []float64{*count(result.KeyExpiring)}
		}
	}
	if r := ran.KeyRenewal; r != nil && (r.ByPreviousKey || r.PreviousEnded) {
		renewal = []float64{2}
	} else if r != nil {
		renewal = []float64{*count(r.Outcome == report.KeyRenewalFailed)}
	}
	return []metric{{"FailingRotations", "None", failing}, {"KeyExpiring", "None", expiring}, {"KeyRenewalFailure", "None", renewal}}
}

// write writes one document with the metrics that have values, if any has. rotation is the
// value of the Rotation dimension; empty for none.
func (e Emitter) write(rotation string, metrics []metric) error {
	document, dimensions := map[string]any{"FunctionName": e.FunctionName}, [][]string{{"FunctionName"}}
	if rotation != "" {
		document["Rotation"] = rotation
		dimensions = append(dimensions, []string{"FunctionName", "Rotation"})
	}
	metrics = slices.DeleteFunc(metrics, func(m metric) bool { return len(m.values) == 0 })
	if len(metrics) == 0 {
		return nil
	}
	for _, m := range metrics {
		document[m.Name] = m.values
		if len(m.values) == 1 {
			document[m.Name] = m.values[0]
		}
	}
	document["_aws"] = map[string]any{
		"Timestamp":         e.Now().UnixMilli(),
		"CloudWatchMetrics": []any{map[string]any{"Namespace": e.Namespace, "Dimensions": dimensions, "Metrics": metrics}},
	}
	line, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("encoding metrics: %w", err)
	}
	if _, err := e.Writer.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("writing metrics: %w", err)
	}
	return nil
}

func count(yes bool) *float64 {
	if yes {
		return new(1.0)
	}
	return new(0.0)
}

func positive(value float64) *float64 {
	if value <= 0 {
		return nil
	}
	return &value
}

func seconds(value *int64) *float64 {
	if value == nil {
		return nil
	}
	return new(float64(*value))
}
