// Package aws_test holds the CloudFormation template to what the rest of the
// project promises, and drives the whole life of a stack, through the Makefile's
// own targets, against moto (a server that stands for AWS) and the sandbox of IBM
// Cloud. Tools that are not installed make tests skip, but fail where CI=true.
package aws_test

import (
	"path/filepath"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// root is the repository.
var root, _ = filepath.Abs("../..")

// runIn runs a program with the environment given and nothing else.
func runIn(t *testing.T, dir string, env []string, stdin, name string, args ...string) programs.Result {
	t.Helper()
	return programs.Run(t, programs.Command{Dir: dir, Env: env, Stdin: stdin, Name: name, Args: args})
}
