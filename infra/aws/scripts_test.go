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
