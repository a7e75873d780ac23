package main

import (
	"regexp"
	"testing"
)

func TestLambdaEnvironment(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, variable string
		caller         []string
		want           string // a regular expression
	}{
		{"name", "AWS_LAMBDA_FUNCTION_NAME", nil, `^local$`},
		{"caller's name", "AWS_LAMBDA_FUNCTION_NAME", []string{"AWS_LAMBDA_FUNCTION_NAME=mine"}, `^mine$`},
		{"version", "AWS_LAMBDA_FUNCTION_VERSION", nil, `^\$LATEST$`},
		{"memory", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", nil, `^128$`},
		{"caller's memory", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", []string{"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512"}, `^512$`},
		{"log group", "AWS_LAMBDA_LOG_GROUP_NAME", nil, `^/aws/lambda/local$`},
		{"log group of the caller's name", "AWS_LAMBDA_LOG_GROUP_NAME", []string{"AWS_LAMBDA_FUNCTION_NAME=mine"}, `^/aws/lambda/mine$`},
		{"log stream", "AWS_LAMBDA_LOG_STREAM_NAME", nil, `^\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}$`},
		{"region", "AWS_REGION", nil, `^us-east-1$`},
		{"empty region", "AWS_REGION", []string{"AWS_REGION="}, `^us-east-1$`},
		{"caller's region", "AWS_REGION", []string{"AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-2"}, `^eu-west-1$`},
		{"caller's default region", "AWS_REGION", []string{"AWS_DEFAULT_REGION=eu-west-2"}, `^eu-west-2$`},
		{"task root", "LAMBDA_TASK_ROOT", nil, `^/build/rotate$`},
		{"handler", "_HANDLER", nil, `^bootstrap$`},
		{"anything else", "PATH", []string{"PATH=/bin"}, `^/bin$`},
		{"set twice: the last", "PATH", []string{"PATH=/sbin", "PATH=/bin"}, `^/bin$`},
		{"never ours to set", "AWS_LAMBDA_RUNTIME_API", nil, `^$`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := lookup(lambdaEnvironment(tt.caller, "/build/rotate/bootstrap"), tt.variable)
			if !regexp.MustCompile(tt.want).MatchString(got) {
				t.Errorf("got %s=%q, want a match of %s", tt.variable, got, tt.want)
			}
		})
	}
}
