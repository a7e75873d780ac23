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

var odd = []string{"plain", "it's", "''", "$HOME `x` \"y\" \\", "-_", "a=b", ""}

func TestAShellReadsTheLines(t *testing.T) {
	for _, text := range odd {
		lines := Lines([][2]string{{"NAME", text}})
		got, err := exec.CommandContext(t.Context(), "sh", "-c", lines+"printf %s \"$NAME\"").Output()
		if err != nil || string(got) != text {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
}

func TestAwaitReadsWhatWasWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sandbox.env")
	var variables [][2]string
	for i, text := range odd {
		variables = append(variables, [2]string{"NAME" + strings.Repeat("_", i), text})
	}
	go func() { _ = Write(file, Lines(variables), nil) }()
	got, err := Await(t.Context(), file, time.Minute)
	if err != nil || len(got) != len(odd) {
		t.Fatalf("got %d variables, %v; want %d", len(got), err, len(odd))
	}
	for _, v := range variables {
		if got[v[0]] != v[1] {
			t.Errorf("got %q, want %q", got[v[0]], v[1])
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestAwaitGivesUp(t *testing.T) {
	if got, err := Await(t.Context(), filepath.Join(t.TempDir(), "none.env"), time.Millisecond); err == nil || !strings.Contains(err.Error(), "none.env") {
		t.Errorf("got %v, %v; want an error that names the file", got, err)
	}
}

func TestWrite(t *testing.T) {
	var stdout bytes.Buffer
	if err := Write("-", "A='1'\n", &stdout); err != nil || stdout.String() != "A='1'\n" {
		t.Errorf("-: got %q, %v; want the lines", stdout.String(), err)
	}
	if err := Write("", "A='1'\n", nil); err != nil {
		t.Errorf("no file: got %v", err)
	}
	folder := t.TempDir()
	if err := Write(filepath.Join(folder, "missing", "env"), "A='1'\n", nil); err == nil {
		t.Error("no folder: got no error")
	}
	if err := os.Mkdir(filepath.Join(folder, "env"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(folder, "env"), "A='1'\n", nil); err == nil {
		t.Error("a folder in its place: got no error")
	}
	if err := os.Symlink(os.DevNull, filepath.Join(folder, "device")); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(folder, "device"), "A='1'\n", nil); err == nil {
		t.Error("a device in its place: got no error")
	}
	if left, _ := filepath.Glob(filepath.Join(folder, ".*-*")); len(left) > 0 {
		t.Errorf("left behind: got %v, want nothing", left)
	}
}

// Two sandboxes may be given one file, which then describes the later one for as long as that runs.
func TestOffer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	offer := func(lines, says string) func() {
		t.Helper()
		var stderr bytes.Buffer
		remove, err := Offer("box", file, lines, nil, &stderr)
		if err != nil || !strings.HasPrefix(stderr.String(), says) || (says == "") != (stderr.Len() == 0) {
			t.Errorf("got %v and %q, want %q", err, stderr.String(), says)
		}
		return remove
	}
	first := offer("A='1'\n", "")
	second := offer("A='2'\n", "box: "+file+" existed, from another sandbox")
	first()
	if content, _ := os.ReadFile(file); string(content) != "A='2'\n" {
		t.Errorf("the first one ended: got %q, want the file of the second one", content)
	}
	second()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("both ended: the file still exists: %v", err)
	}
}
