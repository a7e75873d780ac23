package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runsAsSandbox makes the test binary be the sandbox.
const runsAsSandbox = "TEST_RUNS_AS_SANDBOX"

func TestMain(m *testing.M) {
	if os.Getenv(runsAsSandbox) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestSIGTERM ends a sandbox that is holding an answer back for an hour.
func TestSIGTERM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	process := exec.CommandContext(t.Context(), os.Args[0], "-addr", "127.0.0.1:0", "-env", file)
	process.Env = append(os.Environ(), runsAsSandbox+"=1")
	stderr, err := process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 128)
	n, _ := stderr.Read(line)
	if !strings.HasPrefix(string(line[:n]), "sandbox: serving IBM Cloud on http://127.0.0.1:") {
		t.Fatalf("got %q, want the address", line[:n])
	}
	env := readEnvFile(t, file)
	faults := env["IAM_URL"] + "/_sandbox/faults"
	response, err := http.Post(faults, "application/json", strings.NewReader(`{"op":"iam.keys","times":1,"delay":"1h"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if response, err := http.Get(env["IAM_URL"] + "/identity/keys"); err == nil {
			response.Body.Close()
			t.Errorf("delayed request: got %d, want no answer", response.StatusCode)
		}
	}()
	for get(t, faults) != "[]" { // until the fault is taken: the request has arrived
	}
	began := time.Now()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("got %v, want exit code 0", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to end", took)
	}
	<-answered
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
