// Command demo shows one rotation from end to end: it starts the sandbox,
// delivers the scheduled event to the real built function as AWS Lambda would,
// then acts as a downstream job that reads the token and calls Logs Routing.
//
// It expects the programs bootstrap, invoke and sandbox in one folder, and ends
// everything it starts.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/scripts/envfile"
)

func main() {
	bin := flag.String("bin", "build/local", "folder with the built programs iam-token-rotator, invoke and sandbox")
	event := flag.String("event", "functions/rotate/event.json", "the event to deliver")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "demo: it takes flags alone (-h lists them)")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := tell(ctx, os.Stdout, *bin, *event); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// tell runs the story and narrates it to out.
func tell(ctx context.Context, out io.Writer, bin, event string) error {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	say("1. Starting the sandbox of IBM Cloud: IAM, Secrets Manager and Logs Routing on one port.")
	sandbox, err := startSandbox(ctx, bin)
	if err != nil {
		return err
	}
	defer sandbox.stop()
	say("   It listens on %s. The token secret holds \"no token yet\".", sandbox.env["SECRETS_MANAGER_URL"])

	say("2. Delivering the scheduled event to the built function, as AWS Lambda would.")
	report, err := sandbox.invoke(ctx, bin, event)
	if err != nil {
		return err
	}
	result, err := report.only()
	if err != nil {
		return err
	}
	say("   The function answered: %s, version %s, expires %s.", result.Outcome, result.VersionID, result.ExpiresAt)

	say("3. Acting as a downstream job, which holds no API key of the workload:")
	job := job{ctx: ctx, env: sandbox.env}
	token, err := job.readToken()
	if err != nil {
		return err
	}
	if fingerprint(token) != result.Fingerprint {
		return fmt.Errorf("the secret holds the token %s, but the report says %s", fingerprint(token), result.Fingerprint)
	}
	say("   it read the token secret with its reader identity: fingerprint %s, the report's", fingerprint(token))
	status, err := job.callLogsRouting(token)
	if err != nil {
		return err
	}
	say("   and called Logs Routing, GET /v3/targets, with it: %s.", status)
	return nil
}

// job is a downstream job: it knows a reader's key and the token secret's id.
type job struct {
	ctx context.Context
	env map[string]string
}

// readToken reads the published token as any reader would: the reader's own
// token first, then the secret.
func (j job) readToken() (string, error) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {j.env["READER_APIKEY"]}}
	request, err := http.NewRequestWithContext(j.ctx, http.MethodPost, j.env["IAM_URL"]+"/identity/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	var reader struct {
		AccessToken string `json:"access_token"`
	}
	if _, err := do(request, &reader); err != nil {
		return "", fmt.Errorf("authenticating the reader: %w", err)
	}
	var secret struct {
		Payload string `json:"payload"`
	}
	if _, err := j.get(j.env["SECRETS_MANAGER_URL"]+"/api/v2/secrets/"+j.env["TOKEN_SECRET"], reader.AccessToken, &secret); err != nil {
		return "", fmt.Errorf("reading the token secret: %w", err)
	}
	return secret.Payload, nil
}

// callLogsRouting lists the targets and returns the status line.
func (j job) callLogsRouting(token string) (string, error) {
	var targets any
	status, err := j.get(j.env["LOGS_ROUTING_URL"]+"/v3/targets", token, &targets)
	if err != nil {
		return "", fmt.Errorf("calling Logs Routing: %w", err)
	}
	return status, nil
}

func (j job) get(url, token string, into any) (string, error) {
	request, err := http.NewRequestWithContext(j.ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	return do(request, into)
}

// do sends the request and decodes a 200. It never repeats the body of another
// answer.
func do(request *http.Request, into any) (status string, err error) {
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s", request.URL.Path, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(into); err != nil {
		return "", fmt.Errorf("reading the answer of %s: %w", request.URL.Path, err)
	}
	return response.Status, nil
}

// fingerprint is the first 16 hex digits of the token's SHA-256.
func fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}

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
	command := exec.CommandContext(ctx, filepath.Join(bin, "invoke"), "-event", event, "-timeout", "30s", "--", filepath.Join(bin, "iam-token-rotator"))
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
