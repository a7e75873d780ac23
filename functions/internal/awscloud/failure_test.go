package awscloud

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

func TestFailures(t *testing.T) {
	awsError := func(code, message string) string {
		body, _ := json.Marshal(map[string]string{"__type": code, "message": message + " " + canary})
		return string(body)
	}
	tests := []struct {
		name   string
		status int
		body   string
		kind   rotation.Kind
		retry  rotation.Retry
		advice string
	}{
		{"missing secret", 400, awsError("ResourceNotFoundException", "Secrets Manager can't find the specified secret."), rotation.NotFound, rotation.Never, "put-key"},
		{"secret about to be deleted", 400, awsError("InvalidRequestException", "marked for deletion"), rotation.NotFound, rotation.Never, "restore-secret"},
		{"not allowed", 400, awsError("AccessDeniedException", "User: x is not authorized"), rotation.Denied, rotation.Never, "secretsmanager:GetSecretValue"},
		{"not allowed to use the KMS key", 400, awsError("AccessDeniedException", "Access to KMS is not allowed"), rotation.Denied, rotation.Never, "BootstrapKmsKeyArn"},
		{"KMS key disabled", 400, awsError("DecryptionFailure", "can't decrypt"), rotation.Misconfigured, rotation.Never, "KMS key"},
		{"KMS key disabled, by KMS", 400, awsError("KMSDisabledException", ""), rotation.Misconfigured, rotation.Never, "KMS key"},
		{"expired credentials", 400, awsError("ExpiredTokenException", ""), rotation.Denied, rotation.Never, "credentials"},
		{"unknown credentials", 400, awsError("UnrecognizedClientException", ""), rotation.Denied, rotation.Never, "credentials"},
		{"throttled", 400, awsError("ThrottlingException", "Rate exceeded"), rotation.RateLimited, rotation.Later, "too many"},
		{"throttled by status", 429, "slow down " + canary, rotation.RateLimited, rotation.Later, "too many"},
		{"service trouble", 500, awsError("InternalServiceError", ""), rotation.Unavailable, rotation.Later, "trouble"},
		{"load balancer's page", 503, "<html>" + canary + "</html>", rotation.Unavailable, rotation.Later, "trouble"},
		{"proxy's login page", 200, "<html>" + canary + "</html>", rotation.Unavailable, rotation.Later, "proxy"},
		{"truncated answer", 200, `{"SecretString":"` + canary, rotation.Unavailable, rotation.Later, "cannot be used"},
		{"foreign 403", 403, canary, rotation.Denied, rotation.Never, "the function's role needs"},
		{"redirect", 302, "", rotation.Misconfigured, rotation.Never, "AWS_ENDPOINT_URL"},
		{"unknown code", 400, awsError("ValidationException", ""), rotation.Misconfigured, rotation.Never, "SECRETS_MANAGER_APIKEY_ARN"},
		{"empty secret", 200, secretValue("SecretString", ""), rotation.Misconfigured, rotation.Never, "empty"},
		{"white space alone", 200, secretValue("SecretString", " \n"), rotation.Misconfigured, rotation.Never, "empty"},
		{"JSON", 200, secretValue("SecretString", `{"apikey":"`+canary+`"}`), rotation.Misconfigured, rotation.Never, "bare key"},
		{"two lines", 200, secretValue("SecretString", canary+"\n"+canary), rotation.Misconfigured, rotation.Never, "bare key"},
		{"binary", 200, secretValue("SecretBinary", "Y2FuYXJ5"), rotation.Misconfigured, rotation.Never, "binary"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			endpoint, requests := answering(t, tt.status, awsJSON, tt.body)
			awsEnvironment(t, endpoint)
			key, err := BootstrapKey(testARN, http.DefaultTransport)(t.Context())
			if !key.IsZero() {
				t.Error("got a key, want none")
			}
			checkFailure(t, err, tt.kind, tt.retry, tt.advice)
			if len(*requests) != 1 {
				t.Errorf("got %d requests, want 1: the SDK must not retry", len(*requests))
			}
		})
	}
}

// checkFailure also holds every error to the rule that no foreign text enters it.
func checkFailure(t *testing.T, err error, kind rotation.Kind, retry rotation.Retry, advice string) {
	t.Helper()
	var failure *rotation.Error
	if !errors.As(err, &failure) {
		t.Fatalf("got error %v of type %T, want *rotation.Error", err, err)
	}
	if strings.Contains(failure.Error(), canary) {
		t.Fatal("the error repeats what the service answered")
	}
	if failure.Kind != kind || failure.Retry != retry {
		t.Errorf("got kind %s, retry %d, want %s, %d", failure.Kind, failure.Retry, kind, retry)
	}
	if !strings.Contains(failure.Message, advice) {
		t.Errorf("got %q, want it to say %q", failure.Message, advice)
	}
}

func TestNoAnswer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(untrusted.Close)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // it would print the handshake that is to fail
	tests := []struct {
		name, endpoint string
		kind           rotation.Kind
		retry          rotation.Retry
		advice         string
	}{
		{"connection refused", closed, rotation.Unavailable, rotation.Later, "refuses connections"},
		{"name does not resolve", "https://secretsmanager.invalid", rotation.Unavailable, rotation.Later, "does not resolve"},
		{"untrusted certificate", untrusted.URL, rotation.Misconfigured, rotation.Never, "SSL_CERT_FILE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			awsEnvironment(t, tt.endpoint)
			_, err := BootstrapKey(testARN, http.DefaultTransport)(t.Context())
			checkFailure(t, err, tt.kind, tt.retry, tt.advice)
		})
	}
	t.Run("the attempt's time is up", func(t *testing.T) {
		release := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		t.Cleanup(server.Close)
		t.Cleanup(func() { close(release) })
		awsEnvironment(t, server.URL)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := BootstrapKey(testARN, http.DefaultTransport)(ctx)
		checkFailure(t, err, rotation.Timeout, rotation.Later, "in time")
	})
}
