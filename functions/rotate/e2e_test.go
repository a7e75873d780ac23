package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
)

// The tests in this file drive the built binary as AWS does, through
// scripts/invoke, against the built sandbox over HTTPS.

// built is set once builtPrograms has been called: few tests need them.
var built atomic.Bool

// builtPrograms builds bootstrap, invoke and sandbox once and returns their folder.
var builtPrograms = sync.OnceValues(func() (string, error) {
	built.Store(true)
	folder, err := os.MkdirTemp("", "rotate-e2e-")
	if err != nil {
		return "", err
	}
	return folder, programs.Build(folder, map[string]string{
		"bootstrap": "functions/rotate", "invoke": "scripts/invoke", "sandbox": "scripts/sandbox",
	})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built.Load() {
		folder, _ := builtPrograms()
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
	bin, err := builtPrograms()
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
	if s.env, err = envfile.Await(t.Context(), file, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	s.env["SSL_CERT_FILE"] = filepath.Join(s.dir, "ca.pem")
	if id := s.env["API_KEY_SECRET"]; id != "" {
		s.workloadKey = s.readSecret(id, s.env["ADMIN_APIKEY"])
	}
	return s
}

// run runs a program with the stage's environment and more, and returns its exit
// code. Whatever it prints is searched for keys and tokens.
func (s *stage) run(more map[string]string, program string, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, set := range []map[string]string{s.env, more} {
		for name, value := range set {
			if !strings.HasPrefix(name, "READER") && !strings.HasPrefix(name, "ADMIN") {
				env = append(env, name+"="+value)
			}
		}
	}
	got := programs.Run(s.t, programs.Command{Env: env, Name: filepath.Join(s.bin, program), Args: args})
	for _, secret := range s.secrets() {
		if strings.Contains(got.All(), secret) {
			s.t.Errorf("%s printed a key or token", program)
		}
	}
	return got.Stdout, got.Stderr, got.Exit
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
