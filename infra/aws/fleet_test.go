package aws_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// ensureChoices are the choices of EnsureEveryMinutes.
var ensureChoices = []string{"5", "10", "15", "20", "30"}

// pace is a number of the mapping Ensure.
func pace(t *testing.T, tmpl object, every, name string) int {
	t.Helper()
	return at(t, tmpl, "Mappings", "Ensure", every, name).(int)
}

// definition is what the tests need of a state machine.
type definition struct {
	StartAt        string
	TimeoutSeconds int
	States         map[string]batchMap
}

type batchMap struct {
	Type, Label string
	ItemReader  struct {
		Resource     string
		ReaderConfig map[string]string
		Parameters   map[string]string
	}
	ItemBatcher struct {
		MaxItemsPerBatch int
		BatchInput       map[string]string
	}
	MaxConcurrency             int
	ToleratedFailurePercentage int
	ItemProcessor              struct {
		ProcessorConfig map[string]string
		StartAt         string
		States          map[string]batchTask
	}
	ResultPath json.RawMessage
	End        bool
}

type batchTask struct {
	Type, Resource string
	Parameters     struct {
		FunctionName string
		Payload      map[string]string
	}
	TimeoutSeconds int
	ResultSelector map[string]string
	Retry          []retrier
	End            bool
}

type retrier struct {
	ErrorEquals                                                []string
	IntervalSeconds, BackoffRate, MaxDelaySeconds, MaxAttempts int
	JitterStrategy                                             string
}

// mapOf reads the definition of a machine as CloudFormation hands it to Step
// Functions, and returns its only state with the machine's timeout.
func mapOf(t *testing.T, tmpl object, id, every string) (batchMap, int) {
	t.Helper()
	parts := at(t, properties(t, tmpl, id), "DefinitionString", "Fn::Sub").([]any)
	values := map[string]string{"AWS::Partition": "aws", "CodeBucket": "the-bucket", "NamesKey": "names.json", "FunctionArn": "the-function"}
	if parts[1].(object)["TimeoutSeconds"] != nil {
		want(t, id+" timeout", at(t, parts[1], "TimeoutSeconds"), object{"Fn::FindInMap": []any{"Ensure", object{"Ref": "EnsureEveryMinutes"}, "TimeoutSeconds"}})
		values["TimeoutSeconds"] = show(pace(t, tmpl, every, "TimeoutSeconds"))
	}
	want(t, id+" function", at(t, parts[1], "FunctionArn"), object{"Fn::GetAtt": []any{"Function", "Arn"}})
	text := regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllStringFunc(parts[0].(string), func(name string) string {
		value, known := values[strings.Trim(name, "${}")]
		if !known {
			t.Fatalf("%s: CloudFormation does not know %s", id, name)
		}
		return value
	})
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	var machine struct {
		Comment string
		definition
	}
	if err := decoder.Decode(&machine); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	want(t, id+" states", len(machine.States), 1)
	return machine.States[machine.StartAt], machine.TimeoutSeconds
}

// task is the only state of a batch's execution.
func (m batchMap) task() batchTask { return m.ItemProcessor.States[m.ItemProcessor.StartAt] }

var formatOfName = regexp.MustCompile(`^States\.Format\('([^'{}]*)\{\}', \$\$\.Execution\.Name\)$`)

// event is what the function gets for one batch of an execution of that name. A
// field whose name ends in .$ is a path into the input of the batch's execution:
// {"Items": the batch, "BatchInput": evaluated by the map itself}.
func (m batchMap) event(t *testing.T, execution string, batch []string) object {
	t.Helper()
	format := formatOfName.FindStringSubmatch(m.ItemBatcher.BatchInput["run_id.$"])
	if format == nil || len(m.ItemBatcher.BatchInput) != 1 {
		t.Fatalf("the map hands down %v, want a run_id made of the execution's name", m.ItemBatcher.BatchInput)
	}
	input := object{"Items": batch, "BatchInput": object{"run_id": format[1] + execution}}
	event := object{}
	for name, value := range m.task().Parameters.Payload {
		field, isPath := strings.CutSuffix(name, ".$")
		if !isPath {
			event[name] = value
			continue
		}
		var path []any
		for step := range strings.SplitSeq(strings.TrimPrefix(value, "$."), ".") {
			path = append(path, step)
		}
		event[field] = at(t, input, path...)
	}
	return event
}
