package aws_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"testing"
	"time"

	"iam-token-rotator/scripts/programs"
)

// A logLine is a line of a log, so many seconds old.
type logLine struct {
	age  int
	text string
}

func (l logLine) at() time.Time { return time.Now().Add(-time.Duration(l.age) * time.Second) }

// report is the report of one rotation, whose token has five minutes left; of a failure, the step tells.
func report(age int, mode, rotation, outcome, step string) logLine {
	result := object{"rotation": rotation, "outcome": outcome, "attempts": 1, "warnings": []string{}, "expires_at": time.Now().Add(299 * time.Second).UTC().Format(time.RFC3339)}
	if step != "" {
		result["error"] = object{"step": step, "kind": "denied", "message": "no"}
	}
	return said(age, object{"msg": "report", "report": object{"mode": mode, "results": []object{result}}})
}

func notBegun(age int, why string) logLine {
	return said(age, object{"msg": "the run could not begin", "error": why})
}

// said is a line of the function's.
func said(age int, fields object) logLine {
	l := logLine{age: age}
	fields["time"] = l.at().UTC().Format(time.RFC3339Nano)
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	l.text = string(text)
	return l
}

// statusOf is what status says of a stack with such a log.
func statusOf(t *testing.T, stack string, lines ...logLine) programs.Result {
	t.Helper()
	moto := needMoto(t)
	stream := object{"logGroupName": "/aws/lambda/" + stack, "logStreamName": "s"}
	moto.MustCall(t, "logs", "Logs_20140328.CreateLogGroup", object{"logGroupName": "/aws/lambda/" + stack})
	moto.MustCall(t, "logs", "Logs_20140328.CreateLogStream", stream)
	var events []object
	slices.SortStableFunc(lines, func(a, b logLine) int { return b.age - a.age }) // as moto wants them
	for _, l := range lines {
		events = append(events, object{"timestamp": l.at().UnixMilli(), "message": l.text + "\n"})
	}
	if stream["logEvents"] = events; events != nil {
		moto.MustCall(t, "logs", "Logs_20140328.PutLogEvents", stream)
	}
	got := runIn(t, root, awsEnvironment(moto, "STACK="+stack), "", "scripts/stack", "status")
	for shape, mask := range map[string]string{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`: "T", `\d+m\d+s`: "while"} {
		got.Stdout = regexp.MustCompile(shape).ReplaceAllString(got.Stdout, mask)
		got.Stderr = regexp.MustCompile(shape).ReplaceAllString(got.Stderr, mask)
	}
	return got
}
