package metrics

import (
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

// definition is a metric as the format declares it.
type definition struct {
	Name string `json:"Name"`
	Unit string `json:"Unit"`
}

type metric struct {
	definition
	of func(rotation.Result) (value float64, known bool)
}

// metrics are all that a run tells.
func (e Emitter) metrics() []metric {
	return []metric{
		{definition{"Success", "Count"}, func(r rotation.Result) (float64, bool) { return count(r.Outcome != rotation.Failed), true }},
		{definition{"Failure", "Count"}, func(r rotation.Result) (float64, bool) { return count(r.Outcome == rotation.Failed), true }},
		{definition{"SecondsRemaining", "Seconds"}, func(r rotation.Result) (float64, bool) { return optional(r.SecondsRemaining) }},
		{definition{"SafetyMarginSeconds", "Seconds"}, func(r rotation.Result) (float64, bool) { return optional(r.MarginSeconds) }},
		{definition{"TokenLifetimeSeconds", "Seconds"}, func(r rotation.Result) (float64, bool) {
			return r.TokenLifetime.Seconds(), r.TokenLifetime > 0
		}},
		{definition{"DurationMilliseconds", "Milliseconds"}, func(r rotation.Result) (float64, bool) {
			return float64(r.Duration.Milliseconds()), r.Duration > 0
		}},
		{definition{"Attempts", "Count"}, func(r rotation.Result) (float64, bool) { return float64(r.Attempts), r.Attempts > 0 }},
		{definition{"BootstrapExpiresInDays", "None"}, func(rotation.Result) (float64, bool) {
			return e.BootstrapExpiresAt.Sub(e.Now()).Hours() / 24, !e.BootstrapExpiresAt.Equal(time.Time{})
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
