// Command demo shows one rotation from end to end: it starts the sandbox, delivers the scheduled event to the real built
// function as AWS Lambda would, then acts as a downstream job that reads the token and calls Logs Routing.
//
// It expects the programs iam-token-rotator, invoke and sandbox in one folder, and ends everything it starts.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/report"
	"iam-token-rotator/scripts/envfile"
)

func main() {
	bin := flag.String("bin", "build/local", "folder with the built programs iam-token-rotator, invoke and sandbox")
	event := flag.String("event", "functions/rotate/event.json", "the event to deliver")
	flag.Usage = func() {
		_, _ = fmt.Fprintln(flag.CommandLine.Output(), "Shows one rotation in the sandbox from end to end (make run).")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "demo: unexpected argument (-h lists the options)")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := show(ctx, os.Stdout, *bin, *event); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// show goes through the story and prints it.
func show(ctx context.Context, out io.Writer, bin, event string) error {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	say("1. Starting the sandbox of IBM Cloud: IAM, Secrets Manager and Logs Routing on one port.")
	env, stop, err := startSandbox(ctx, bin)
	if err != nil {
		return err
	}
	defer stop()
	say("   It listens on %s. The token secret holds \"no token yet\".", env["SECRETS_MANAGER_URL"])

	say("2. Delivering the scheduled event to the built function, as AWS Lambda would.")
	result, logged, err := invoke(ctx, bin, event, env)
	if err != nil {
		return err
	}
	say("   Its log line: %s", logged)
	say("   The function answered: %s, version %s, expires %s.", result.Outcome, result.VersionID, result.ExpiresAt.Format(time.RFC3339))

	say("3. Acting as a downstream job, which holds no API key of the workload:")
	reader := iamtoken.Reader{Store: &iamtoken.SecretsManager{
		URL: env["SECRETS_MANAGER_URL"], IAMURL: env["IAM_URL"], SecretID: env["TOKEN_SECRET"], APIKey: iamtoken.NewSecret(env["READER_APIKEY"]),
	}}
	token, err := reader.Token(ctx)
	if err != nil {
		return fmt.Errorf("reading the token secret: %w", err)
	}
	if token.Fingerprint() != result.Fingerprint {
		return fmt.Errorf("the secret holds the token %s, but the report says %s", token.Fingerprint(), result.Fingerprint)
	}
	say("   it read the token secret with its reader identity: fingerprint %s, the report's", result.Fingerprint)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, env["LOGS_ROUTING_URL"]+"/v3/targets", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: reader.Transport(nil)}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("calling Logs Routing: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("calling Logs Routing: %s", response.Status)
	}
	say("   and called Logs Routing, GET /v3/targets, with it: %s.", response.Status)
	return nil
}

// startSandbox returns the variables that lead to a running sandbox, which stop ends.
func startSandbox(ctx context.Context, bin string) (env map[string]string, stop func(), err error) {
	folder, err := os.MkdirTemp("", "iam-token-rotator-") // for the environment file, which has keys
	if err != nil {
		return nil, nil, fmt.Errorf("making a folder: %w", err)
	}
	file := filepath.Join(folder, "sandbox.env")
	process := exec.CommandContext(ctx, filepath.Join(bin, "sandbox"), "-addr", "127.0.0.1:0", "-env", file)
	process.Cancel = func() error { return process.Process.Signal(syscall.SIGTERM) }
	process.WaitDelay = 5 * time.Second
	var complaint bytes.Buffer
	process.Stderr = &complaint
	if err := process.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("starting the sandbox (run make build-local): %w", err), os.RemoveAll(folder))
	}
	stop = func() {
		_ = process.Process.Signal(syscall.SIGTERM)
		_ = process.Wait()
		_ = os.RemoveAll(folder)
	}
	if env, err = envfile.Await(ctx, file, 10*time.Second); err != nil {
		stop()
		return nil, nil, fmt.Errorf("%w: %s", err, complaint.String())
	}
	return env, stop, nil
}

// invoke delivers the event file to the function, which gets neither the reader's nor the admin's key. It returns the
// report's one result and the function's log line about the rotation.
func invoke(ctx context.Context, bin, event string, env map[string]string) (report.Result, string, error) {
	command := exec.CommandContext(ctx, filepath.Join(bin, "invoke"), "-event", event, "-timeout", "30s", "--", filepath.Join(bin, "iam-token-rotator"))
	command.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY", "API_KEY_SECRET", "TOKEN_SECRET"} {
		command.Env = append(command.Env, name+"="+env[name])
	}
	var logs bytes.Buffer
	command.Stderr = &logs
	answer, err := command.Output()
	if err != nil {
		return report.Result{}, "", fmt.Errorf("invoking the function: %w\n%s%s", err, answer, logs.String())
	}
	var got report.Report
	if err := json.Unmarshal(answer, &got); err != nil || len(got.Results) != 1 || got.Results[0].ExpiresAt == nil {
		return report.Result{}, "", fmt.Errorf("reading the function's answer: it should have one result: %s", answer)
	}
	var logged string
	for line := range strings.Lines(logs.String()) {
		if strings.Contains(line, `"msg":"rotation"`) {
			logged = strings.TrimSpace(line)
		}
	}
	return got.Results[0], logged, nil
}
