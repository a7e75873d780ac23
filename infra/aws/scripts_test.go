package aws_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const shfmt = "mvdan.cc/sh/v3/cmd/shfmt@v3.14.1"

func TestTemplateIsClean(t *testing.T) {
	t.Parallel()
	needTools(t, "cfn-lint")
	if got := runIn(t, root, cleanEnvironment(), "", "cfn-lint", "infra/aws/template.yaml"); got.code != 0 {
		t.Errorf("cfn-lint:\n%s", got.all())
	}
}

// shellScripts are the files in scripts that a shell runs.
func shellScripts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "scripts", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && bytes.HasPrefix(text, []byte("#!/bin/sh\n")) {
			found = append(found, file)
		}
	}
	if !slices.Contains(found, filepath.Join(root, "scripts", "stack")) {
		t.Fatalf("scripts/stack is not among the shell scripts %v", found)
	}
	return found
}

func TestScriptsAreClean(t *testing.T) {
	t.Parallel()
	scripts := shellScripts(t)
	t.Run("shellcheck", func(t *testing.T) {
		needTools(t, "shellcheck")
		// SC1091: a file that exists only when the script runs cannot be followed.
		if got := runIn(t, root, cleanEnvironment(), "", "shellcheck", append([]string{"-e", "SC1091"}, scripts...)...); got.code != 0 {
			t.Errorf("shellcheck:\n%s", got.all())
		}
	})
	t.Run("shfmt", func(t *testing.T) {
		needTools(t, "go")
		got := runIn(t, root, cleanEnvironment(), "", "go", append([]string{"run", shfmt, "-d"}, scripts...)...)
		if strings.Contains(got.stderr, "proxy") || strings.Contains(got.stderr, "dial tcp") {
			if os.Getenv("CI") == "true" {
				t.Fatalf("shfmt cannot be fetched: %s", got.stderr)
			}
			t.Skipf("shfmt cannot be fetched: %s", got.stderr)
		}
		if got.code != 0 {
			t.Errorf("go run %s -w on these:\n%s", shfmt, got.all())
		}
	})
}

// What is missing is told before anything is built or sent.
func TestMissingValues(t *testing.T) {
	t.Parallel()
	needTools(t, "aws", "jq")
	rotations := filepath.Join(t.TempDir(), "rotations.json")
	if err := os.WriteFile(rotations, []byte(`{"name":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	const arn = "BOOTSTRAP_SECRET_ARN=arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd"
	whole := []string{"STACK=s", "BUCKET=b", arn, "SECRETS_MANAGER_URL=https://x", "API_KEY_SECRET=a", "TOKEN_SECRET=t"}
	tests := []struct {
		name, command string
		env           []string
		says          string
	}{
		{"nothing", "deploy", []string{"STACK=s"}, "set BUCKET BOOTSTRAP_SECRET_ARN SECRETS_MANAGER_URL API_KEY_SECRET TOKEN_SECRET"},
		{"one of two", "deploy", slices.Delete(slices.Clone(whole), 5, 6), "set TOKEN_SECRET"},
		{"no stack", "status", nil, "set STACK"},
		{"odd stack", "deploy", append(whole[1:], "STACK=9 lives"), "set STACK"},
		{"long stack", "deploy", append(whole[1:], "STACK=a"+strings.Repeat("b", 64)), "more than 64"},
		{"partial ARN", "deploy", append(slices.Clone(whole), "BOOTSTRAP_SECRET_ARN=rotator/bootstrap"), "put-bootstrap-key prints"},
		{"unknown ARCH", "deploy", append(slices.Clone(whole), "ARCH=mips"), "use arm64 or amd64"},
		{"both sources", "deploy", append(slices.Clone(whole), "ROTATIONS_FILE="+rotations), "not both"},
		{"no such file", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE=/no/such"), "cannot be read"},
		{"no list", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+rotations), "no JSON list"},
		{"no mode", "invoke", []string{"STACK=s"}, "set MODE"},
		{"unknown command", "explode", []string{"STACK=s"}, "say what to do"},
	}
	for _, shell := range []string{"dash", "bash"} {
		for _, tt := range tests {
			t.Run(shell+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				needTools(t, shell)
				got := runIn(t, root, cleanEnvironment(append(tt.env, "AWS_ENDPOINT_URL=http://127.0.0.1:1")...), "", shell, "scripts/stack", tt.command)
				if got.code != 2 || !strings.Contains(got.stderr, tt.says) || got.stdout != "" {
					t.Errorf("got exit %d, %q, %q, want 2 and %q", got.code, got.stdout, got.stderr, tt.says)
				}
			})
		}
	}
}
