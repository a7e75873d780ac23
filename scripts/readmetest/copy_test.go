package readmetest

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// scratch is a folder for what all tests share; it lasts as long as they do.
var scratch string

func TestMain(m *testing.M) {
	// Most tests here wait for programs; one for each processor would leave these idle.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	var err error
	if scratch, err = os.MkdirTemp("", "rotator-readme-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// freePort changes the Makefile of a copy so that the sandboxes take a free port: those of the pages
// may be in use.
var freePort = strings.NewReplacer(
	"build/local/sandbox -env", "build/local/sandbox -addr 127.0.0.1:0 -env",
	"build/local/awssandbox -env", "build/local/awssandbox -addr 127.0.0.1:0 -env",
)

// original is the copy that all others are made of, its programs built.
var original = sync.OnceValues(func() (string, error) {
	folder := filepath.Join(scratch, "original")
	if err := copySources(folder); err != nil {
		return folder, err
	}
	command := exec.Command("make", "build-local")
	command.Dir, command.Env = folder, append(os.Environ(), "MAKEFLAGS=", "MFLAGS=")
	if printed, err := command.CombinedOutput(); err != nil {
		return folder, fmt.Errorf("make build-local: %w: %s", err, printed)
	}
	return folder, nil
})

// programsFolder is where the built programs of this repository are.
func programsFolder(t *testing.T) string {
	t.Helper()
	folder, err := original()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, "build", "local")
}

// copySources copies the repository's files.
func copySources(folder string) error {
	return eachFile(func(path string) error {
		from, to := filepath.Join(root, path), filepath.Join(folder, path)
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test's, which has gone meanwhile
		}
		if err != nil {
			return err
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if path == "Makefile" {
			changed := freePort.Replace(string(content))
			if strings.Count(changed, "127.0.0.1:0 -env") != len(ready) {
				return fmt.Errorf("the Makefile starts the sandboxes in another way than freePort knows")
			}
			content = []byte(changed)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.WriteFile(to, content, info.Mode().Perm())
	})
}

// makeCopy is a copy of the repository with its programs built, so that make finds them up to date.
func makeCopy(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "iam-token-rotator")
	if err := copySources(folder); err != nil {
		t.Fatal(err)
	}
	bin := programsFolder(t)
	built, err := filepath.Glob(filepath.Join(bin, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range built {
		link(t, program, filepath.Join(folder, "build", "local"))
	}
	for _, other := range []string{"deploy", "rotate"} { // the same binary, where ARCH is that of this machine
		link(t, filepath.Join(bin, "bootstrap"), filepath.Join(folder, "build", other))
	}
	return folder
}

func link(t *testing.T, file, folder string) {
	t.Helper()
	err := os.MkdirAll(folder, 0o700)
	if err == nil {
		err = os.Link(file, filepath.Join(folder, filepath.Base(file)))
	}
	if err != nil {
		t.Fatal(err)
	}
}
