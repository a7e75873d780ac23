package iamtokentest

import (
	"os/exec"
	"path/filepath"
	"testing"

	"iam-token-rotator/scripts/programs"
)

func TestShellcheckFindsNothing(t *testing.T) {
	programs.Need(t, "shellcheck")
	jobs, err := filepath.Glob("../examples/*-job")
	if err != nil {
		t.Fatal(err)
	}
	scripts := []string{"../iam-token", "../examples/run"}
	for _, job := range jobs {
		if filepath.Base(job) != "go-job" { // a folder
			scripts = append(scripts, job)
		}
	}
	if out, err := exec.Command("shellcheck", scripts...).CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}
