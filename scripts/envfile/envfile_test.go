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

func TestExplain(t *testing.T) {
	for file, want := range map[string]string{"": "", "-": "", "x.env": ". ./x.env", "build/x.env": ". build/x.env"} {
		var stdout bytes.Buffer
		if Explain(&stdout, ". %s", file); stdout.String() != want {
			t.Errorf("%q: got %q, want %q", file, stdout.String(), want)
		}
	}
}

// A file belongs to one sandbox while that runs. The next one takes over what a killed one has left.
func TestOffer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	for i, left := range []string{"", "of a killed sandbox"} {
		if i > 0 {
			if err := os.WriteFile(file, []byte(left), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var stderr bytes.Buffer
		remove, err := Offer("box", file, "A='1'\n", nil, &stderr)
		if err != nil || strings.HasPrefix(stderr.String(), "box: "+file+" existed, from a sandbox that was killed") != (left != "") {
			t.Fatalf("%q was left: got %v and %q", left, err, stderr.String())
		}
		_, err = Offer("box", file, "A='2'\n", nil, nil)
		if content, _ := os.ReadFile(file); err == nil || !strings.Contains(err.Error(), "a sandbox that still runs") || string(content) != "A='1'\n" {
			t.Errorf("the second one: got %v and the file %q, want an error and the file of the first one", err, content)
		}
		remove()
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("ended: the file still exists: %v", err)
		}
	}
}
