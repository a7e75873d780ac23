package simulation

import (
	"bytes"
	"sync"
	"time"
)

// alarms are those of infra/aws/template.yaml that do not depend on SQS, whose
// metrics may come 15 minutes late, evaluated as CloudWatch does it: at every
// full minute, over the periods that end there, with what has arrived by then.
type alarms struct {
	mu        sync.Mutex
	now       func() time.Time
	life      series // SecondsRemaining
	errors    series // AWS/Lambda Errors
	throttles series // AWS/Lambda Throttles
	failures  int    // the metric Failure, summed up
	leaked    bool   // a line held a token
	ringing   map[string][]span
}

const (
	storedLifeAlarm        = "stored-life"
	failedInvocationsAlarm = "failed-invocations"
	throttlesAlarm         = "throttles"

	logDelay    = 10 * time.Second // until a line of the log is a metric
	lambdaDelay = time.Minute      // until Lambda's own metrics are there
)

// span is a stretch of time.
type span struct{ from, to time.Time }

// Write implements io.Writer for the lines of the embedded metric format.
func (a *alarms) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	failures, _ := value(line, "Failure")
	a.failures += int(failures)
	if bytes.Contains(line, []byte("eyJ")) {
		a.leaked = true
	}
	if seconds, known := value(line, "SecondsRemaining"); known {
		stamp, _ := value(line, "Timestamp")
		a.life = append(a.life, point{time.UnixMilli(int64(stamp)), a.now().Add(logDelay), seconds})
	}
	return len(line), nil
}

// failed counts an invocation that failed; Lambda stamps it with its beginning.
func (a *alarms) failed(began time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errors = append(a.errors, point{began, a.now().Add(lambdaDelay), 1})
}

func (a *alarms) throttled(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.throttles = append(a.throttles, point{at, at.Add(lambdaDelay), 1})
}

// evaluate is CloudWatch's work of every minute.
func (a *alarms) evaluate(at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.life, a.errors, a.throttles = a.life.since(at.Add(-15*time.Minute)), a.errors.since(at.Add(-15*time.Minute)), a.throttles.since(at.Add(-15*time.Minute))
	// FILL(minimum, 0) < 300 over 2 of 2 periods of 120 s.
	a.set(storedLifeAlarm, at, a.life.lowest(at, at, 120*time.Second) < 300 && a.life.lowest(at, at.Add(-120*time.Second), 120*time.Second) < 300)
	// Sum ≥ 1 over one period of 300 s.
	a.set(failedInvocationsAlarm, at, a.errors.count(at, at, 300*time.Second) >= 1)
	a.set(throttlesAlarm, at, a.throttles.count(at, at, 300*time.Second) >= 1)
}

// set begins or ends a ringing.
func (a *alarms) set(name string, at time.Time, rings bool) {
	spans := a.ringing[name]
	last := len(spans) - 1
	rang := last >= 0 && spans[last].to.IsZero()
	switch {
	case rings && !rang:
		a.ringing[name] = append(spans, span{from: at})
	case !rings && rang:
		spans[last].to = at
	}
}

// heardSince is when the first of the alarms that rang at a moment began to.
func (a *alarms) heardSince(at time.Time) (from time.Time, heard bool) {
	for _, rings := range a.ringing {
		for _, s := range rings {
			if !s.from.After(at) && (s.to.IsZero() || at.Before(s.to)) && (!heard || s.from.Before(from)) {
				from, heard = s.from, true
			}
		}
	}
	return from, heard
}

func (a *alarms) failureCount() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failures
}
