package readertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A copy of the folder, with its tests, needs neither this module nor any other one.
func TestTheReaderStandsAlone(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "iamtoken")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join("..", "..", "iamtoken"))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) < 10 {
		t.Fatalf("got %d files (%v)", len(files), err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), `"iam-token-rotator`) {
			t.Errorf("%s imports this module", filepath.Base(file))
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "go.mod"), []byte("module example.com/job/iamtoken\n\ngo 1.26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{{"vet", "."}, {"test", "-count=1", "."}} {
		command := exec.CommandContext(t.Context(), "go", arguments...)
		command.Dir, command.Env = folder, append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GOPROXY=off")
		if printed, err := command.CombinedOutput(); err != nil {
			t.Errorf("go %s: %v\n%s", arguments[0], err, printed)
		}
	}
}
