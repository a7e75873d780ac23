package aws_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

const shfmt = "mvdan.cc/sh/v3/cmd/shfmt@v3.14.1"

func TestTemplateIsClean(t *testing.T) {
	t.Parallel()
	programs.Need(t, "cfn-lint")
	if got := runIn(t, root, programs.CleanEnviron(), "", "cfn-lint", "infra/aws/template.yaml"); got.Exit != 0 {
		t.Errorf("cfn-lint:\n%s", got.All())
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
		programs.Need(t, "shellcheck")
		// SC1091: a file that exists only when the script runs cannot be followed.
		if got := runIn(t, root, programs.CleanEnviron(), "", "shellcheck", append([]string{"-e", "SC1091"}, scripts...)...); got.Exit != 0 {
			t.Errorf("shellcheck:\n%s", got.All())
		}
	})
	t.Run("shfmt", func(t *testing.T) {
		programs.Need(t, "go")
		got := runIn(t, root, programs.CleanEnviron(), "", "go", append([]string{"run", shfmt, "-d"}, scripts...)...)
		if strings.Contains(got.Stderr, "proxy") || strings.Contains(got.Stderr, "dial tcp") {
			programs.Missing(t, "shfmt cannot be fetched: "+got.Stderr)
		}
		if got.Exit != 0 {
			t.Errorf("go run %s -w on these:\n%s", shfmt, got.All())
		}
	})
}

// What is missing is told before anything is built or sent.
func TestMissingValues(t *testing.T) {
	t.Parallel()
	programs.Need(t, "aws", "jq")
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
				programs.Need(t, shell)
				got := runIn(t, root, programs.CleanEnviron(append(tt.env, "AWS_ENDPOINT_URL=http://127.0.0.1:1")...), "", shell, "scripts/stack", tt.command)
				if got.Exit != 2 || !strings.Contains(got.Stderr, tt.says) || got.Stdout != "" {
					t.Errorf("got exit %d, %q, %q, want 2 and %q", got.Exit, got.Stdout, got.Stderr, tt.says)
				}
			})
		}
	}
}
