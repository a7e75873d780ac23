package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The tests in this file drive the built binary as AWS does, through
// scripts/invoke, against the built sandbox over HTTPS.

// built is set once programs has been called: few tests need them.
var built atomic.Bool

// programs builds bootstrap, invoke and sandbox once and returns their folder.
var programs = sync.OnceValues(func() (string, error) {
	built.Store(true)
	folder, err := os.MkdirTemp("", "rotate-e2e-")
	if err != nil {
		return "", err
	}
	for name, source := range map[string]string{"bootstrap": ".", "invoke": "../../scripts/invoke", "sandbox": "../../scripts/sandbox"} {
		build := exec.Command("go", "build", "-trimpath", "-tags", "lambda.norpc", "-o", filepath.Join(folder, name), source)
		if out, err := build.CombinedOutput(); err != nil {
			return folder, errors.New(string(out))
		}
	}
	return folder, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built.Load() {
		folder, _ := programs()
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

// stage is a running sandbox and the environment for programs that use it.
type stage struct {
	t   *testing.T
	bin string
	dir string
	env map[string]string

	workloadKey string // of the one rotation; empty when there are several
}

// newStage starts the sandbox with args; it ends with the test.
func newStage(t *testing.T, args ...string) *stage {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, bin: bin, dir: t.TempDir()}
	file := filepath.Join(s.dir, "sandbox.env")
	sandbox := exec.Command(filepath.Join(bin, "sandbox"), append([]string{"-addr", "127.0.0.1:0", "-tls-dir", s.dir, "-env", file}, args...)...)
	sandbox.Stderr = os.Stderr
	if err := sandbox.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sandbox.Process.Signal(os.Interrupt)
		_ = sandbox.Wait()
	})
	s.env = awaitEnv(t, file)
	s.env["SSL_CERT_FILE"] = filepath.Join(s.dir, "ca.pem")
	if id := s.env["API_KEY_SECRET"]; id != "" {
		s.workloadKey = s.readSecret(id, s.env["ADMIN_APIKEY"])
	}
	return s
}

// awaitEnv waits for the file that the sandbox writes, whole, once it listens.
func awaitEnv(t *testing.T, file string) map[string]string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		env := map[string]string{}
		for line := range strings.Lines(string(content)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			env[name] = strings.Trim(value, "'")
		}
		return env
	}
	t.Fatal("the sandbox did not start")
	return nil
}

// run runs a program with the stage's environment and more, and returns its exit
// code. Whatever it prints is searched for keys and tokens.
func (s *stage) run(more map[string]string, program string, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	command.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, set := range []map[string]string{s.env, more} {
		for name, value := range set {
			if !strings.HasPrefix(name, "READER") && !strings.HasPrefix(name, "ADMIN") {
				command.Env = append(command.Env, name+"="+value)
			}
		}
	}
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	err := command.Run()
	var exitError *exec.ExitError
	if err != nil && !errors.As(err, &exitError) {
		s.t.Fatal(err)
	}
	for _, secret := range s.secrets() {
		if strings.Contains(out.String()+errs.String(), secret) {
			s.t.Errorf("%s printed a key or token", program)
		}
	}
	return out.String(), errs.String(), command.ProcessState.ExitCode()
}

// secrets are pieces of the bootstrap's and the workload's keys, and what every
// token begins with.
func (s *stage) secrets() []string {
	pieces := []string{"eyJ"}
	for _, key := range []string{s.env["SECRETS_MANAGER_APIKEY"], s.workloadKey} {
		if len(key) > 36 {
			pieces = append(pieces, key[:12], key[12:24], key[24:36])
		}
	}
	return pieces
}

// invoke delivers the events of invoke's arguments to the function.
func (s *stage) invoke(more map[string]string, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	return s.run(more, "invoke", append(args, "--", filepath.Join(s.bin, "bootstrap"))...)
}

// event writes an event file.
func (s *stage) event(content string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, "event.json")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// reports are the lines of stdout.
func reports(t *testing.T, stdout string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(stdout) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("not JSON: %s", line)
		}
		all = append(all, fields)
	}
	return all
}

// firstResult is the first result of a report.
func firstResult(t *testing.T, report map[string]any) map[string]any {
	t.Helper()
	results, _ := report["results"].([]any)
	if len(results) == 0 {
		t.Fatalf("got no results: %v", report)
	}
	result, _ := results[0].(map[string]any)
	return result
}
