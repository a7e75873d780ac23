package main

import (
	"cmp"
	"path/filepath"
	"strings"
	"time"
)

// lambdaEnvironment returns the caller's environment with the variables that Lambda sets for a custom runtime, but for
// AWS_LAMBDA_RUNTIME_API, which each process gets anew. What the caller has set stays. executable is the absolute path
// of the function's binary; its directory stands for /var/task.
//
// The list is https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html ("Defined runtime environment
// variables").
func lambdaEnvironment(caller []string, executable string) []string {
	name := cmp.Or(lookup(caller, "AWS_LAMBDA_FUNCTION_NAME"), "local")
	stream := time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + strings.ReplaceAll(newRequestID(), "-", "")
	env := caller[:len(caller):len(caller)]
	for _, variable := range [][2]string{
		{"AWS_LAMBDA_FUNCTION_NAME", name},
		{"AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"},
		{"AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"},
		{"AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/" + name},
		{"AWS_LAMBDA_LOG_STREAM_NAME", stream},
		{"AWS_REGION", cmp.Or(lookup(caller, "AWS_DEFAULT_REGION"), "us-east-1")},
		{"LAMBDA_TASK_ROOT", filepath.Dir(executable)},
		{"_HANDLER", filepath.Base(executable)},
	} {
		if lookup(caller, variable[0]) == "" {
			env = append(env, variable[0]+"="+variable[1])
		}
	}
	return env
}

// lookup returns the last value of name in env ("NAME=value" lines), as a process started with env would see it, or "".
func lookup(env []string, name string) string {
	var value string
	for _, line := range env {
		if key, v, ok := strings.Cut(line, "="); ok && key == name {
			value = v
		}
	}
	return value
}
