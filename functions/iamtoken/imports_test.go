package iamtoken_test

import (
	"os/exec"
	"strings"
	"testing"
)

// A job that reads the token must not get the rotator or an SDK into its binary.
func TestNothingButTheStandardLibraryIsImported(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(out)), "iam-token-rotator/functions/iamtoken"; got != want {
		t.Errorf("got imports %q, want %q alone", got, want)
	}
}
