package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"iam-token-rotator/infra/aws/awstest"
)

// fakeAWS answers every request of AWS Secrets Manager alike.
func fakeAWS(t *testing.T, status int, answer map[string]any) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if target := r.Header.Get("X-Amz-Target"); target != "secretsmanager.GetSecretValue" && target != "secretsmanager.DescribeSecret" {
			t.Errorf("doctor asked AWS for %s", target)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	awstest.Setenv(t, "")
	t.Setenv("AWS_REGION", "us-west-2") // not the secret's
	t.Setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", server.URL)
}

func TestDoctorAndTheSecretsInAWS(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:k-Ab12Cd"
	cloud, origin := newCloud(t)
	one := cloud.Rotations()[0]
	list := `ROTATIONS=[{"name":"a","api_key_secret":"` + one.APIKeySecret + `","token_secret":"` + one.TokenSecret + `","mirror":["` + arn + `x"]}]`
	environ := environ(cloud, origin, "SECRETS_MANAGER_APIKEY=", "SECRETS_MANAGER_APIKEY_ARN="+arn, "API_KEY_SECRET=", "TOKEN_SECRET=", list)
	examine := func() (int, string) {
		var stdout, stderr bytes.Buffer
		exit := command([]string{"doctor"}, environ, &stdout, &stderr)
		if strings.Contains(stdout.String(), cloud.BootstrapAPIKey()) {
			t.Error("the key shows")
		}
		return exit, stdout.String() + stderr.String()
	}

	fakeAWS(t, 200, map[string]any{"ARN": arn, "SecretString": cloud.BootstrapAPIKey()})
	exit, printed := examine()
	for _, words := range []string{"✓ bootstrap-key         the secret that SECRETS_MANAGER_APIKEY_ARN names", "✓ bootstrap-identity", "✓ mirror", "waits for the first token"} {
		if exit != 0 || !strings.Contains(printed, words) {
			t.Errorf("got exit %d, %s\nwant %q", exit, printed, words)
		}
	}

	fakeAWS(t, 400, map[string]any{"__type": "AccessDeniedException", "message": "no " + cloud.BootstrapAPIKey()})
	exit, printed = examine()
	for _, words := range []string{"✗ bootstrap-key         denied: reading the bootstrap key from the AWS secret " + arn, "secretsmanager:GetSecretValue",
		"– bootstrap-identity    not tried: bootstrap-key failed", "✗ mirror                denied: ", "secretsmanager:DescribeSecret"} {
		if exit != 1 || !strings.Contains(printed, words) {
			t.Errorf("got exit %d, %s\nwant %q", exit, printed, words)
		}
	}
}
