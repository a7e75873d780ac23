// Package programs is for tests that run programs: it finds installed programs, builds those of this
// repository, and runs both.
package programs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Missing skips the test because something is not installed; what says what. With CI=true it fails the test.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what + ", and CI must have it")
	}
	t.Skip(what)
}

// Need calls Missing for the first program that is not installed.
func Need(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		Path(t, name)
	}
}

// Path returns the path of a program. It calls Missing if the program is not installed.
func Path(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name+" is not installed")
	}
	return path
}

// Build builds programs of this module into a folder; sources has the folder of the source by the name of the
// program. It builds in build/tests, which the tests of all packages share, so that the go command links a
// program again only when it has changed, and makes symbolic links to there.
func Build(folder string, sources map[string]string) error {
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("finding the module: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(module)))
	shared := filepath.Join(root, "build", "tests")
	if err := os.MkdirAll(shared, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(shared, "lock"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // until lock is closed
		return fmt.Errorf("waiting for other builds: %w", err)
	}
	arguments := []string{"build", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", shared + "/"}
	err = os.MkdirAll(folder, 0o700)
	for name, source := range sources {
		arguments = append(arguments, "iam-token-rotator/"+source)
		err = errors.Join(err, os.Symlink(filepath.Join(shared, filepath.Base(source)), filepath.Join(folder, name)))
	}
	build := exec.Command("go", arguments...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if printed, failure := build.CombinedOutput(); failure != nil {
		err = errors.Join(err, fmt.Errorf("building the programs: %w: %s", failure, printed))
	}
	if err != nil {
		return err
	}
	return openSources(root)
}

// openSources opens the module's sources. The go command caches a test's result until a file changes that the
// test itself opened; the sources of a program that the test built would not count.
func openSources(root string) error {
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "build" || entry.Name() == ".git"):
			return filepath.SkipDir
		case !strings.HasSuffix(name, ".go") && entry.Name() != "iam-token" && entry.Name() != "go.mod":
			return nil
		}
		file, err := os.Open(name)
		if err == nil {
			err = file.Close()
		}
		return err
	})
}

// patience is how long a program may take: some wait for CloudFormation.
const patience = 5 * time.Minute

// A Command is a program to run, with the environment given and nothing else.
type Command struct {
	Dir   string // the working folder; if empty, the test's
	Env   []string
	Stdin string
	Name  string
	Args  []string
}

// A Result is how a program ended and what it printed.
type Result struct {
	Exit           int
	Stdout, Stderr string
	Worked         time.Duration // processor time, including that of its child processes
}

// All is everything that the program printed.
func (r Result) All() string { return r.Stdout + r.Stderr }

// Run runs a program to its end. If it cannot be started, the test fails.
func Run(t testing.TB, c Command) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, c.Name, c.Args...)
	command.Dir, command.Env, command.Stdin = c.Dir, c.Env, strings.NewReader(c.Stdin)
	if c.Env == nil {
		command.Env = []string{}
	}
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("running %s: %v", c.Name, err)
	}
	state := command.ProcessState
	return Result{state.ExitCode(), stdout.String(), stderr.String(), state.UserTime() + state.SystemTime()}
}

// unclean are the prefixes of variables that would change what a test's programs do: those of a make that runs the
// tests, those of the aws CLI, and proxies.
var unclean = []string{"MAKE", "MFLAGS", "ARCH", "VERSION", "AWS_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"}

// CleanEnviron is this process's environment without the variables of unclean, and with add.
func CleanEnviron(add ...string) []string {
	isUnclean := func(variable string) bool {
		return slices.ContainsFunc(unclean, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	}
	return append(slices.DeleteFunc(os.Environ(), isUnclean), add...)
}

// credentials are the prefixes of variables that hold keys and tokens, or say which to use.
var credentials = []string{"AWS_", "CR_TOKEN", "IAM_", "IBMCLOUD_", "IC_", "READER_", "SECRETS_MANAGER_", "TOKEN_SECRET"}

// WithoutCredentials is this process's environment without those variables: programs of others must not have them.
func WithoutCredentials() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return slices.ContainsFunc(credentials, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
}

// Environ renders sets of variables as NAME=value. If a name is in several sets, the last one counts.
func Environ(sets ...map[string]string) []string {
	env := []string{}
	for _, set := range sets {
		for name, value := range set {
			env = append(env, name+"="+value)
		}
	}
	return env
}
