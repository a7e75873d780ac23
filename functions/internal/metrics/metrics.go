// Package metrics writes the results of a run in CloudWatch's embedded metric
// format: one JSON line is a log event and metrics at once, without an API call.
//
// Format: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
package metrics

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"iam-token-rotator/functions/report"
)

const (
	// maxOwnDimension is how many rotations of a list have their own metrics: each is
	// a handful of custom metrics, and those are paid for by the month.
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

// Emit writes the metrics of every result, and those of the keys for the whole run.
// Units: seconds, milliseconds, counts and days; a value that is not known is left out.
func (e Emitter) Emit(ran report.Report) error {
	own := e.Rotations[:min(len(e.Rotations), maxOwnDimension)]
	if len(own) == 1 { // the function's metrics are its own
		own = nil
	}
	var others []report.Result
	for _, result := range ran.Results {
		if !slices.Contains(own, result.Rotation) {
			others = append(others, result)
			continue
		}
		if err := e.write(result.Rotation, []report.Result{result}); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(others, maxValues) {
		if err := e.write("", chunk); err != nil {
			return err
		}
	}
	return e.writeWhole(ran)
}

// writeWhole writes the metrics of the whole function that alarms are on:
// FailingRotations is how many failed, in a run of all, if there are several;
// KeyExpiring is 1 if a key expires too soon, else 0, in runs that know of one;
// KeyRenewalFailure is 0 or, if the bootstrap key could not be renewed, 1 or, if IAM
// refuses AWS's current key or the one before it, 2.
func (e Emitter) writeWhole(ran report.Report) error {
	values := map[string]float64{}
	if len(e.Rotations) > 1 && len(ran.Results) == len(e.Rotations) {
		values["FailingRotations"] = float64(len(ran.Failures()))
	}
	for _, result := range ran.Results {
		if result.KeyDaysLeft != nil {
			values["KeyExpiring"] = max(values["KeyExpiring"], count(result.KeyExpiring))
		}
	}
	if renewal := ran.KeyRenewal; renewal != nil {
		values["KeyRenewalFailure"] = count(renewal.Outcome == report.KeyRenewalFailed)
		if renewal.ByPreviousKey || renewal.PreviousEnded {
			values["KeyRenewalFailure"] = 2
		}
	}
	if len(values) == 0 {
		return nil
	}
	keys := map[string]any{"FunctionName": e.FunctionName}
	var definitions []definition
	for _, name := range slices.Sorted(maps.Keys(values)) {
		definitions = append(definitions, definition{name, "None"})
		keys[name] = values[name]
	}
	return e.writeDocument(keys, [][]string{{"FunctionName"}}, definitions)
}

// EmitFailure counts a run that failed before any rotation began.
func (e Emitter) EmitFailure() error {
	return e.write("", []report.Result{{Outcome: report.Failed}})
}

// write writes one document about results; name is the Rotation dimension, empty
// for none.
func (e Emitter) write(name string, results []report.Result) error {
	document := map[string]any{"FunctionName": e.FunctionName}
	dimensions := [][]string{{"FunctionName"}}
	if name != "" {
		document["Rotation"] = name
		dimensions = append(dimensions, []string{"FunctionName", "Rotation"})
	}
	var definitions []definition
	for _, metric := range e.metrics() {
		var values []float64
		for _, result := range results {
			if value, known := metric.of(result); known {
				values = append(values, value)
			}
		}
		if len(values) > 0 {
			definitions = append(definitions, metric.definition)
			document[metric.Name] = scalarIfOne(values)
		}
	}
	return e.writeDocument(document, dimensions, definitions)
}

func (e Emitter) writeDocument(document map[string]any, dimensions [][]string, definitions []definition) error {
	document["_aws"] = map[string]any{
		"Timestamp":         e.Now().UnixMilli(),
		"CloudWatchMetrics": []any{map[string]any{"Namespace": e.Namespace, "Dimensions": dimensions, "Metrics": definitions}},
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

func scalarIfOne(values []float64) any {
	if len(values) == 1 {
		return values[0]
	}
	return values
}

// definition is a metric as the format declares it.
type definition struct {
	Name string
	Unit string
}

type metric struct {
	definition
	of func(report.Result) (value float64, known bool)
}

// metrics are all metrics of a result.
func (e Emitter) metrics() []metric {
	return []metric{
		{definition{"Success", "Count"}, func(r report.Result) (float64, bool) { return count(r.Outcome != report.Failed), true }},
		{definition{"Failure", "Count"}, func(r report.Result) (float64, bool) { return count(r.Outcome == report.Failed), true }},
		{definition{"SecondsRemaining", "Seconds"}, func(r report.Result) (float64, bool) { return optional(r.SecondsRemaining) }},
		{definition{"SafetyMarginSeconds", "Seconds"}, func(r report.Result) (float64, bool) { return optional(r.MarginSeconds) }},
		{definition{"TokenLifetimeSeconds", "Seconds"}, func(r report.Result) (float64, bool) {
			return r.TokenLifetime.Seconds(), r.TokenLifetime > 0
		}},
		{definition{"DurationMilliseconds", "Milliseconds"}, func(r report.Result) (float64, bool) {
			return float64(r.Duration.Milliseconds()), r.Duration > 0
		}},
		{definition{"Attempts", "Count"}, func(r report.Result) (float64, bool) { return float64(r.Attempts), r.Attempts > 0 }},
		{definition{"KeyExpiresInDays", "None"}, func(r report.Result) (float64, bool) {
			if r.KeyDaysLeft == nil {
				return 0, false
			}
			return *r.KeyDaysLeft, true
		}},
	}
}

func count(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func optional(value *int64) (float64, bool) {
	if value == nil {
		return 0, false
	}
	return float64(*value), true
}
