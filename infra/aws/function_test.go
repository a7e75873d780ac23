package aws_test

import (
	"os"
	"testing"
)

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
	want(t, "alias", asynchronous["Qualifier"], "$LATEST")
	if size := fileSize(t, "template.yaml"); size > 51200 {
		t.Errorf("the template has %d bytes: without a bucket CloudFormation takes 51200", size)
	}
}

func fileSize(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
