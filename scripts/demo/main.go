// Command demo shows one rotation from end to end. It starts the sandbox, delivers the scheduled event to the built
// function as AWS Lambda would, and then acts as a downstream job that reads the token and calls Logs Routing.
//
// The programs iam-token-rotator and invoke must be in one folder. Demo ends everything that it starts.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/report"
	"iam-token-rotator/scripts/serving"
)

func main() { serving.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	bin := flags.String("bin", "build/local", "`folder` with the built programs iam-token-rotator and invoke")
	event := flags.String("event", "functions/rotate/event.json", "`file` with the event to deliver")
	err := serving.Parse(flags, args, "Shows one rotation in the sandbox from end to end (make run).\n", "", stdout, func() error { return nil })
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err = show(ctx, stdout, *bin, *event)
	}
	return serving.End(stderr, "demo", err)
}

// show carries out the steps and prints them.
func show(ctx context.Context, out io.Writer, bin, event string) error {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }

	say("1. Starting the sandbox of IBM Cloud: IAM, Secrets Manager and Logs Routing on one port.")
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	server := httptest.NewServer(cloud)
	defer server.Close()
	rotation := cloud.Rotations()[0]
	say("   It listens on %s. The token secret holds \"no token yet\".", server.URL)

	say("2. Delivering the scheduled event to the built function, as AWS Lambda would.")
	result, logged, err := invoke(ctx, bin, event, []string{"SECRETS_MANAGER_URL=" + server.URL, "IAM_URL=" + server.URL,
		"SECRETS_MANAGER_APIKEY=" + cloud.BootstrapAPIKey(), "API_KEY_SECRET=" + rotation.APIKeySecret, "TOKEN_SECRET=" + rotation.TokenSecret})
	if err != nil {
		return err
	}
	say("   Its log line: %s", logged)
	say("   The function answered: %s, version %s, expires %s.", result.Outcome, result.VersionID, result.ExpiresAt.Format(time.RFC3339))

	say("3. Acting as a downstream job, which holds no API key of the workload:")
	reader := iamtoken.Reader{Store: &iamtoken.SecretsManager{
		URL: server.URL, IAMURL: server.URL, SecretID: rotation.TokenSecret, APIKey: iamtoken.NewSecret(cloud.ReaderAPIKey()),
	}}
	token, err := reader.Token(ctx)
	if err != nil {
		return fmt.Errorf("reading the token secret: %w", err)
	}
	if token.Fingerprint() != result.Fingerprint {
		return fmt.Errorf("the secret holds the token %s, but the report says %s", token.Fingerprint(), result.Fingerprint)
	}
	say("   it read the token secret with its reader identity: fingerprint %s, the report's", result.Fingerprint)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v3/targets", nil)
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

// invoke delivers the event in a file to the function, whose environment has neither the reader's nor the admin's
// key. It returns the report's only result and the function's log line about the rotation.
func invoke(ctx context.Context, bin, event string, env []string) (report.Result, string, error) {
	command := exec.CommandContext(ctx, filepath.Join(bin, "invoke"), "-event", event, "-timeout", "30s", "--", filepath.Join(bin, "iam-token-rotator"))
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // it ends the function, too
	command.Env = append(env, "PATH="+os.Getenv("PATH"))
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
