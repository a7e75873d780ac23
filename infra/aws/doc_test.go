// Package aws_test holds the CloudFormation template to what the rest of the
// project promises, and drives the whole life of a stack, through the Makefile's
// own targets, against moto (a server that stands for AWS) and the sandbox of IBM
// Cloud. Tools that are not installed make tests skip, but fail where CI=true.
package aws_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// root is the repository.
var root, _ = filepath.Abs("../..")

// needTools skips the test when a program is missing; CI must have them all.
func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed, and CI must have it", name)
			}
			t.Skipf("%s is not installed", name)
		}
	}
}

// outcome is what a program came to.
type outcome struct {
	code           int
	stdout, stderr string
}

// all is what the program printed.
func (o outcome) all() string { return o.stdout + o.stderr }

// runIn runs a program with the environment given and nothing else.
func runIn(t *testing.T, dir string, env []string, stdin, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Dir, command.Env, command.Stdin = dir, env, strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %s: %v", name, err)
	}
	return outcome{command.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// ours are the variables that mean something to the programs under test, or to a
// make that a make started.
var ours = []string{"AWS_", "SECRETS_MANAGER_", "MAKE", "MFLAGS", "IAM_", "API_KEY_SECRET", "TOKEN_SECRET", "ROTATION", "READER_", "ADMIN_",
	"STACK", "BUCKET", "BOOTSTRAP_", "PARAMS", "MODE", "FORCE", "ARCH", "DENIED_", "BUILD_DIR", "DEPLOY_DIR", "VERSION", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}

// cleanEnvironment is this process's without those.
func cleanEnvironment(add ...string) []string {
	var env []string
next:
	for _, variable := range os.Environ() {
		for _, prefix := range ours {
			if strings.HasPrefix(variable, prefix) {
				continue next
			}
		}
		env = append(env, variable)
	}
	return append(env, add...)
}
