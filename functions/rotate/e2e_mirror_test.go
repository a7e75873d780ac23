package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var motoListens = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// startMoto starts moto_server, which stands for AWS, and returns the environment
// that leads the function there.
func startMoto(t *testing.T) map[string]string {
	t.Helper()
	path, err := exec.LookPath("moto_server")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("moto_server is not installed: pip install 'moto[server]'")
	} else if err != nil {
		t.Skip("moto_server is not installed")
	}
	command := exec.Command(path, "-H", "127.0.0.1", "-p", "0")
	command.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if found := motoListens.FindStringSubmatch(lines.Text()); found != nil {
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			return map[string]string{
				"AWS_ENDPOINT_URL": found[1], "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
				"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
			}
		}
	}
	t.Fatal("moto_server did not start")
	return nil
}

// callAWS calls an operation of AWS Secrets Manager.
func callAWS(t *testing.T, endpoint, operation string, in map[string]any) map[string]any {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Amz-Target", "secretsmanager."+operation)
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/secretsmanager/aws4_request, SignedHeaders=host, Signature=x")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var out map[string]any
	if err := json.NewDecoder(response.Body).Decode(&out); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s (%v)", operation, response.Status, err)
	}
	return out
}

// The function's copy in AWS bears the version's id; without it the invocation
// fails, but not the token at IBM.
func TestTheFunctionCopiesTheTokenToAWS(t *testing.T) {
	s := newStage(t)
	more := startMoto(t)
	endpoint := more["AWS_ENDPOINT_URL"]
	arn, _ := callAWS(t, endpoint, "CreateSecret", map[string]any{"Name": "iam-token", "ClientRequestToken": "11111111-2919-432f-9883-d5040bfcd326"})["ARN"].(string)
	mirrorTo := func(arn string) map[string]string {
		more["API_KEY_SECRET"], more["TOKEN_SECRET"] = "", ""
		more["ROTATIONS"] = fmt.Sprintf(`[{"name":"logs","api_key_secret":%q,"token_secret":%q,"mirror":[%q]}]`, s.env["API_KEY_SECRET"], s.env["TOKEN_SECRET"], arn)
		return more
	}
	stdout, stderr, exit := s.invoke(mirrorTo(arn))
	if exit != 0 {
		t.Fatalf("got exit %d: %s%s", exit, stdout, stderr)
	}
	result := firstResult(t, reports(t, stdout)[0])
	value := callAWS(t, endpoint, "GetSecretValue", map[string]any{"SecretId": arn})
	if value["VersionId"] != result["version_id"] || !strings.HasPrefix(value["SecretString"].(string), "eyJ") {
		t.Errorf("got the copy %v, want version %v", value["VersionId"], result["version_id"])
	}
	if stdout, _, exit := s.invoke(mirrorTo(arn), "-event", s.event(`{"mode":"ensure"}`)); exit != 0 || !strings.Contains(stdout, `"fresh"`) {
		t.Errorf("ensure: got exit %d and %s, want fresh", exit, stdout)
	}
	stdout, stderr, exit = s.invoke(mirrorTo(strings.Replace(arn, "iam-token", "no-such-token", 1)))
	if exit != 1 || !strings.Contains(stdout, "mirror: not_found") {
		t.Errorf("no such secret: got exit %d and %s, want a failure of the step mirror", exit, stdout)
	}
	if !strings.Contains(stderr, `"Failure":1`) {
		t.Error("the metrics do not tell of the failure")
	}
}
