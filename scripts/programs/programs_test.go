package programs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// recorder is a testing.TB that records the first Fatal or Skip and continues.
type recorder struct {
	testing.TB
	ended string
}

func (r *recorder) Helper()           {}
func (r *recorder) Fatal(args ...any) { r.end("failed: ", args) }
func (r *recorder) Skip(args ...any)  { r.end("skipped: ", args) }
func (r *recorder) end(how string, args []any) {
	if r.ended == "" {
		r.ended = how + args[0].(string)
	}
}

// A missing program skips a test, except in continuous integration.
func TestNeed(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("PATH", folder)
	if err := os.WriteFile(filepath.Join(folder, "there"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		ci, program, want string
	}{
		{"", "there", ""},
		{"true", "there", ""},
		{"", "missing", "skipped: missing is not installed"},
		{"true", "missing", "failed: missing is not installed, and CI must have it"},
	} {
		t.Setenv("CI", test.ci)
		r := &recorder{TB: t}
		Need(r, test.program)
		if r.ended != test.want {
			t.Errorf("%s with CI=%q: got %q, want %q", test.program, test.ci, r.ended, test.want)
		}
	}
}

func TestRunGivesTheEnvironmentAlone(t *testing.T) {
	t.Setenv("LEAKED", "1")
	sh := Path(t, "sh")
	got := Run(t, Command{Name: sh, Args: []string{"-c", `read -r line; echo "$line$LEAKED$A"; echo why >&2; exit 3`}, Stdin: "in\n", Env: Environ(map[string]string{"A": "1"}, map[string]string{"A": "2"})})
	got.Worked = 0
	if want := (Result{Exit: 3, Stdout: "in2\n", Stderr: "why\n"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := Run(t, Command{Name: sh, Args: []string{"-c", `echo "$LEAKED"`}}); got.All() != "\n" {
		t.Errorf("no environment: got %q, want nothing of this process's", got.All())
	}
}

func TestCleanEnviron(t *testing.T) {
	t.Setenv("AWS_PROFILE", "mine")
	t.Setenv("MAKEFLAGS", "-j")
	t.Setenv("KEPT", "1")
	got := CleanEnviron("AWS_REGION=here")
	if strings.Contains(strings.Join(got, "\n"), "mine") || slices.Contains(got, "MAKEFLAGS=-j") || !slices.Contains(got, "KEPT=1") || !slices.Contains(got, "AWS_REGION=here") {
		t.Error("got an environment that is not clean, or not this process's")
	}
}
