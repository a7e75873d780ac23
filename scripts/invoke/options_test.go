package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUsageErrors(t *testing.T) {
	dir := t.TempDir()
	mustWrite := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	notJSON := mustWrite("event.json", `{"mode":`, 0o600)
	data := mustWrite("data", "x", 0o600)
	otherMachine := mustWrite("bootstrap", "\x7fELF and nothing more", 0o700)
	missing := filepath.Join(dir, "missing")
	// Not before: a process forked elsewhere while the file is open for writing would make it "text file busy".
	t.Parallel()

	tests := []struct {
		name   string
		args   []string
		stderr string // a part of it
	}{
		{"no COMMAND", nil, "no COMMAND: name the function's binary after --"},
		{"no COMMAND after --", []string{"-n", "2", "--"}, "no COMMAND"},
		{"unknown flag", []string{"-event-file", "x", "--", "true"}, "-event-file"},
		{"no invocation", []string{"-n", "0", "--", "true"}, "-n is 0"},
		{"no time", []string{"-timeout", "0s", "--", "true"}, "-timeout is 0s"},
		{"time without a unit", []string{"-timeout", "30", "--", "true"}, "-timeout"},
		{"event not there", []string{"-event", missing, "--", "true"}, "reading the event: open " + missing},
		{"event not JSON", []string{"-event", notJSON, "--", "true"}, "(-event " + notJSON + ") is not JSON"},
		{"empty event", []string{"-event", "-", "--", "true"}, "(-event -) is not JSON"},
		{"report in no directory", with("look", "-report", missing+"/r"), "creating the report: open " + missing + "/r"},
		{"COMMAND not there", []string{"--", missing}, "build it first"},
		{"COMMAND not on the path", []string{"--", "no-such-command"}, "is called ./no-such-command"},
		{"COMMAND not executable", []string{"--", data}, "chmod +x"},
		{"COMMAND a directory", []string{"--", dir}, "is it the function's binary?"},
		{"COMMAND for another machine", []string{"--", otherMachine}, "build it for this machine"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := runInvoke(t, "", tt.args...)
			if got.code != exitUsage {
				t.Errorf("got exit status %d, want %d", got.code, exitUsage)
			}
			if got.stdout != "" {
				t.Errorf("got the stdout %q, want none", got.stdout)
			}
			if !strings.HasPrefix(got.stderr, "invoke: ") || !strings.Contains(got.stderr, tt.stderr) {
				t.Errorf("got the stderr %q, want it to contain %q", got.stderr, tt.stderr)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	got := runInvoke(t, "", "-h")
	if got.code != exitOK || got.stderr != "" {
		t.Errorf("got exit status %d and stderr %q, want 0 and none", got.code, got.stderr)
	}
	for _, flag := range []string{"-event", "-n", "-timeout", "-report", "Examples:"} {
		if !strings.Contains(got.stdout, flag) {
			t.Errorf("got a usage without %s:\n%s", flag, got.stdout)
		}
	}
}
