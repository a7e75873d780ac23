package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"iam-token-rotator/scripts/envfile"
)

// sandbox is the running sandbox with what it told of itself.
type sandbox struct {
	process *exec.Cmd
	folder  string // holds the environment file, which has keys
	env     map[string]string
}

func startSandbox(ctx context.Context, bin string) (*sandbox, error) {
	folder, err := os.MkdirTemp("", "iam-token-rotator-")
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	file := filepath.Join(folder, "sandbox.env")
	s := &sandbox{process: exec.CommandContext(ctx, filepath.Join(bin, "sandbox"), "-addr", "127.0.0.1:0", "-env", file), folder: folder}
	s.process.Cancel = func() error { return s.process.Process.Signal(syscall.SIGTERM) }
	s.process.WaitDelay = 5 * time.Second
	var complaint bytes.Buffer
	s.process.Stderr = &complaint
	if err := s.process.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the sandbox (run make build-local): %w", err), os.RemoveAll(folder))
	}
	if s.env, err = envfile.Await(ctx, file, 10*time.Second); err != nil {
		s.stop()
		return nil, fmt.Errorf("%w: %s", err, complaint.String())
	}
	return s, nil
}

func (s *sandbox) stop() {
	_ = s.process.Process.Signal(syscall.SIGTERM)
	_ = s.process.Wait()
	_ = os.RemoveAll(s.folder)
}

// functionVariables are what the function is told; the reader's and the admin's
// keys are not among them.
var functionVariables = []string{"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY", "API_KEY_SECRET", "TOKEN_SECRET"}

// invoke delivers the event file to the function and returns its report.
func (s *sandbox) invoke(ctx context.Context, bin, event string) (report, error) {
	command := exec.CommandContext(ctx, filepath.Join(bin, "invoke"), "-event", event, "-timeout", "30s", "--", filepath.Join(bin, "bootstrap"))
	command.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, name := range functionVariables {
		command.Env = append(command.Env, name+"="+s.env[name])
	}
	var logs bytes.Buffer
	command.Stderr = &logs
	answer, err := command.Output()
	if err != nil {
		return report{}, fmt.Errorf("invoking the function: %w\n%s%s", err, answer, logs.String())
	}
	narrateLog(logs.Bytes())
	var r report
	if err := json.Unmarshal(answer, &r); err != nil {
		return report{}, fmt.Errorf("reading the function's answer: %w", err)
	}
	return r, nil
}

// narrateLog prints the function's own line about the rotation.
func narrateLog(logs []byte) {
	lines := bufio.NewScanner(bytes.NewReader(logs))
	for lines.Scan() {
		if bytes.Contains(lines.Bytes(), []byte(`"msg":"rotation"`)) {
			fmt.Printf("   Its log line: %s\n", lines.Text())
		}
	}
}

// report is what is shown of the function's response.
type report struct {
	Results []result `json:"results"`
}

type result struct {
	Outcome     string `json:"outcome"`
	VersionID   string `json:"version_id"`
	ExpiresAt   string `json:"expires_at"`
	Fingerprint string `json:"fingerprint"`
}

func (r report) only() (result, error) {
	if len(r.Results) != 1 {
		return result{}, fmt.Errorf("the report has %d results, want 1", len(r.Results))
	}
	return r.Results[0], nil
}
