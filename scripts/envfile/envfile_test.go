package envfile

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAShellAndAwaitReadWhatWasWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sandbox.env")
	var variables [][2]string
	for i, text := range []string{"plain", "it's", "''", "$HOME `x` \"y\" \\", "-_", "a=b", ""} {
		variables = append(variables, [2]string{"NAME" + strings.Repeat("_", i), text})
	}
	go func() { _ = Write(file, Lines(variables), nil) }()
	got, err := Await(t.Context(), file, time.Minute)
	if err != nil || len(got) != len(variables) {
		t.Fatalf("got %d variables, %v; want %d", len(got), err, len(variables))
	}
	for _, v := range variables {
		read, err := exec.CommandContext(t.Context(), "sh", "-c", ". "+file+"; printf %s \"$"+v[0]+"\"").Output()
		if err != nil || string(read) != v[1] || got[v[0]] != v[1] {
			t.Errorf("got %q, and in a shell %q (%v), want %q", got[v[0]], read, err, v[1])
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
	}
	if got, err := Await(t.Context(), filepath.Join(t.TempDir(), "none.env"), time.Millisecond); err == nil || !strings.Contains(err.Error(), "none.env") {
		t.Errorf("got %v, %v; want an error that names the file", got, err)
	}
}

func TestWrite(t *testing.T) {
	const lines = "A='1'\n"
	folder := t.TempDir()
	for name, make := range map[string]func(string) error{
		"a folder in its place": func(file string) error { return os.Mkdir(file, 0o700) },
		"a device in its place": func(file string) error { return os.Symlink(os.DevNull, file) },
		"no folder/env":         func(string) error { return nil },
	} {
		file := filepath.Join(folder, name)
		if err := make(file); err != nil {
			t.Fatal(err)
		}
		if err := Write(file, lines, nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(folder, ".*-*")); len(left) > 0 {
		t.Errorf("left behind: got %v, want nothing", left)
	}
	var stdout bytes.Buffer
	if err := Write("-", lines, &stdout); err != nil || stdout.String() != lines {
		t.Errorf("-: got %q, %v; want the lines", stdout.String(), err)
	}
	if err := Write("", lines, nil); err != nil {
		t.Errorf("no file: got %v", err)
	}
}

// Two sandboxes may be given one file, which then describes the later one for as long as that runs.
func TestOffer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	var stderr bytes.Buffer
	offer := func(lines string) func() {
		remove, err := Offer("box", file, lines, nil, &stderr)
		if err != nil {
			t.Fatal(err)
		}
		return remove
	}
	first := offer("A='1'\n")
	if stderr.Len() > 0 {
		t.Errorf("the first one: got %q, want nothing", stderr.String())
	}
	second := offer("A='2'\n")
	if !strings.HasPrefix(stderr.String(), "box: "+file+" existed, from another sandbox") {
		t.Errorf("the second one: got %q, want whose file it takes over", stderr.String())
	}
	first()
	if content, _ := os.ReadFile(file); string(content) != "A='2'\n" {
		t.Errorf("the first one ended: got %q, want the file of the second one", content)
	}
	second()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("both ended: the file still exists: %v", err)
	}
}
