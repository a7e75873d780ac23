package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A job that cannot be run is skipped, with what to install, and fails where CI=true.
func TestSkippedJobsSayWhatToInstall(t *testing.T) {
	scripts, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // without build/local/go-job
	if err := os.Symlink(scripts, "scripts"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("PATH", "/nonexistent")
	for ci, want := range map[string]string{"": "Shell: skipped; to run it, install curl: apt-get install curl\n", "true": "Shell needs curl, and CI must have it: apt-get install curl"} {
		t.Setenv("CI", ci)
		var printed bytes.Buffer
		if err := run(t.Context(), &printed); err == nil || !strings.Contains(printed.String()+err.Error(), want) {
			t.Errorf("CI=%s: got %v and %q, want %q and an error", ci, err, printed.String(), want)
		}
		if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
			t.Errorf("got %d folders left behind (%v), want none", len(left), err)
		}
	}
}

// What a program prints reaches Write, which has the token replaced after the first call.
func TestFirstCallIsNoticed(t *testing.T) {
	calls := 0
	out := &output{answered: func() { calls++ }}
	command := exec.Command("/bin/sh", "-c", "echo answered 200; sleep 0.1; echo answered 200")
	command.Stdout = out
	if err := command.Run(); err != nil || calls != 1 {
		t.Errorf("got %d calls (%v), want 1", calls, err)
	}
}

// A job that prints a key, or ends as if all were well, fails.
func TestBadJobsFail(t *testing.T) {
	s := newStage()
	defer s.server.Close()
	for script, want := range map[string]string{
		"exit 3":                               "with a valid token it ended with status 3",
		"echo answered 200; echo answered 200": "with an expired token it ended with status 0",
		"echo answered 200; [ $CALLS = 2 ] || exit 3; echo answered 200":                                                        "while the secret cannot be read it ended with status 3",
		"[ $CALLS = 2 ] || { echo bad; [ -z \"$AWS_ENDPOINT_URL\" ] || exit 2; exit 3; }; echo answered 200; echo answered 200": "without READER_APIKEY it ended with status 2",
		"echo answered 200; echo answered 200; echo \"$READER_APIKEY\"":                                                         "with a valid token it printed a token or the key",
	} {
		err := s.try(t.Context(), job{command: []string{"/bin/sh", "-c", script}}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", script, err, want)
		}
	}
}
