package simulation

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// alarms are those of infra/aws/template.yaml that do not depend on SQS, whose metrics may come 15 minutes late, evaluated as
// CloudWatch does it: at every full minute, over the periods that end there, with what has arrived by then.
type alarms struct {
	mu       sync.Mutex
	metrics  map[string]series
	fired    map[string][]span
	failures atomic.Int64 // the metric Failure, summed up
	leaked   atomic.Bool  // a line held a token
}

const (
	storedLifeAlarm        = "stored-life"
	failedInvocationsAlarm = "failed-invocations"
	throttlesAlarm         = "throttles"

	logDelay    = 10 * time.Second // until a line of the log is a metric
	lambdaDelay = time.Minute      // until Lambda's own metrics are there
)

// Write implements io.Writer for the lines of the embedded metric format.
func (a *alarms) Write(line []byte) (int, error) {
	failures, _ := value(line, "Failure")
	a.failures.Add(int64(failures))
	if bytes.Contains(line, []byte("eyJ")) {
		a.leaked.Store(true)
	}
	if seconds, known := value(line, "SecondsRemaining"); known {
		stamp, _ := value(line, "Timestamp")
		a.note("SecondsRemaining", time.UnixMilli(int64(stamp)), logDelay, seconds)
	}
	return len(line), nil
}

// note adds a value to a metric.
func (a *alarms) note(metric string, stamp time.Time, delay time.Duration, value float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.metrics[metric] = append(a.metrics[metric], point{stamp, time.Now().Add(delay), value})
}

// evaluate is CloudWatch's work of every minute.
func (a *alarms) evaluate(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, values := range a.metrics {
		a.metrics[name] = values.since(at.Add(-15 * time.Minute))
	}
	// FILL(minimum, 0) < 300 over 2 of 2 periods of 120 s.
	low := func(end time.Time) bool {
		values := a.metrics["SecondsRemaining"].period(at, end, 120*time.Second)
		return len(values) == 0 || slices.Min(values) < 300
	}
	a.set(storedLifeAlarm, at, low(at) && low(at.Add(-120*time.Second)))
	// Sum ≥ 1 over one period of 300 s.
	for name, metric := range map[string]string{failedInvocationsAlarm: "Errors", throttlesAlarm: "Throttles"} {
		a.set(name, at, len(a.metrics[metric].period(at, at, 300*time.Second)) > 0)
	}
}

// set begins or ends an alarm.
func (a *alarms) set(name string, at time.Time, fires bool) {
	spans := a.fired[name]
	last := len(spans) - 1
	firing := last >= 0 && spans[last].to.IsZero()
	if fires && !firing {
		a.fired[name] = append(spans, span{from: at})
	} else if !fires && firing {
		spans[last].to = at
	}
}

// firingSince is when the first of the alarms that fire at a moment began to.
func (a *alarms) firingSince(at time.Time) (from time.Time, fired bool) {
	for _, spans := range a.fired {
		for _, s := range spans {
			if !s.from.After(at) && (s.to.IsZero() || at.Before(s.to)) && (!fired || s.from.Before(from)) {
				from, fired = s.from, true
			}
		}
	}
	return from, fired
}

// series are the points of a metric in the last minutes.
type series []point

type point struct {
	stamp, arrives time.Time
	value          float64
}

func (s series) since(t time.Time) series {
	for len(s) > 0 && s[0].arrives.Before(t) {
		s = s[1:]
	}
	return s
}

// period are the values of the period that ends at end and have arrived by now.
func (s series) period(now, end time.Time, length time.Duration) (values []float64) {
	for _, p := range s {
		if !p.arrives.After(now) && !p.stamp.Before(end.Add(-length)) && p.stamp.Before(end) {
			values = append(values, p.value)
		}
	}
	return values
}

// value finds a number in a line. A year has half a million lines, so this does not decode them; a name stands before a colon
// only where its value follows.
func value(line []byte, name string) (float64, bool) {
	_, after, found := bytes.Cut(line, []byte(`"`+name+`":`))
	if !found {
		return 0, false
	}
	end := bytes.IndexAny(after, ",}")
	number, err := strconv.ParseFloat(string(after[:end]), 64)
	return number, err == nil
}

// The simulated deployment has the template's numbers, and mustRemain is what README.md promises.
func TestTheNumbersAreTheTemplates(t *testing.T) {
	for promise, remain := range map[string][]time.Duration{
		"R is never below 8:50 with 60-minute tokens":                {530 * time.Second, standard.mustRemain(time.Hour, false)},
		"nor below 5:50 with 15-minute tokens or after one lost run": {350 * time.Second, standard.mustRemain(shortLifetime, false), standard.mustRemain(time.Hour, true)},
		"after one with 15-minute tokens 4:50":                       {290 * time.Second, standard.mustRemain(shortLifetime, true)},
	} {
		if len(slices.Compact(remain)) > 1 || !strings.Contains(read(t, "README.md"), promise) {
			t.Errorf("the page does not say %q, or the story has %v", promise, remain)
		}
	}
	template := read(t, "../../../infra/aws/template.yaml")
	oneIn300s := []string{"Statistic=Sum", "Period=300", "Threshold=1", "EvaluationPeriods=1", "ComparisonOperator=GreaterThanOrEqualToThreshold"}
	for resource, wants := range map[string][]string{
		"Function":                {"Timeout=120"},
		"MinRemaining":            {"Default=8m"},
		"AsynchronousInvocations": {"MaximumRetryAttempts=0", "MaximumEventAgeInSeconds=120"},
		"RotateSchedule":          {"ScheduleExpression=rate(50 minutes)", "MaximumEventAgeInSeconds=120"},
		"EnsureTokenSchedule":     {"MaximumEventAgeInSeconds=120"},
		"StoredLifeAlarm": {"MetricName=SecondsRemaining", "Period=120", "Stat=Minimum", "Expression=FILL(life, 0)", "ComparisonOperator=LessThanThreshold",
			"Threshold=300", "EvaluationPeriods=2", "TreatMissingData=breaching"},
		"FailedInvocationsAlarm": slices.Concat(oneIn300s, []string{"MetricName=Errors"}),
		"ThrottlesAlarm":         slices.Concat(oneIn300s, []string{"MetricName=Throttles"}),
	} {
		block := regexp.MustCompile(`(?m)^  ` + resource + `:\n(    .*\n|\n)+`).FindString(template)
		for _, want := range wants {
			if name, value, _ := strings.Cut(want, "="); !regexp.MustCompile(`\b` + name + `: '?` + regexp.QuoteMeta(value) + `(\W|$)`).MatchString(block) {
				t.Errorf("%s: the story has %s, the template has not", resource, want)
			}
		}
	}
}
