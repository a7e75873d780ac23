package awscloud

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/infra/aws/awstest"
)

const (
	testARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator/bootstrap-Ab12Cd"
	// canary stands for a key: it must not turn up in any error.
	canary = "canary-key-0123456789"
)

// awsEnvironment points the SDK at endpoint, in another region than the secrets'.
func awsEnvironment(t *testing.T, endpoint string) {
	t.Helper()
	awstest.Setenv(t, "")
	t.Setenv("AWS_REGION", "us-west-2")
	t.Setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint)
}

// answering serves one answer to every request and counts them.
func answering(t *testing.T, status int, contentType, body string) (endpoint string, requests *[]*http.Request) {
	t.Helper()
	requests = new([]*http.Request)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(asked)))
		*requests = append(*requests, r)
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL, requests
}

const awsJSON = "application/x-amz-json-1.1"

func secretValue(field, value string) string {
	body, _ := json.Marshal(map[string]string{"ARN": testARN, "Name": "rotator/bootstrap", field: value})
	return string(body)
}

func TestKeyIsReadFromItsRegionAndTrimmed(t *testing.T) {
	endpoint, requests := answering(t, 200, awsJSON, secretValue("SecretString", " "+canary+"\r\n"))
	awsEnvironment(t, endpoint)
	read := BootstrapKey(testARN, http.DefaultTransport)
	for range 2 { // every call reads afresh: the key may have been replaced
		key, err := read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if key.Reveal() != canary {
			t.Errorf("got a key of %d characters, want the stored one, trimmed", len(key.Reveal()))
		}
	}
	if len(*requests) != 2 {
		t.Fatalf("got %d requests, want 2", len(*requests))
	}
	if asked := wantOperation(t, (*requests)[0], "GetSecretValue"); len(asked) != 1 || asked["SecretId"] != testARN {
		t.Errorf("asked for %v, want SecretId %s alone", asked, testARN)
	}
}

// wantOperation checks what a request calls, and where, and returns what it asks for.
func wantOperation(t *testing.T, request *http.Request, operation string) (asked map[string]any) {
	t.Helper()
	if got, want := request.Header.Get("X-Amz-Target"), "secretsmanager."+operation; got != want {
		t.Errorf("got target %q, want %q", got, want)
	}
	if got, want := request.Header.Get("Authorization"), "/eu-central-1/secretsmanager/"; !strings.Contains(got, want) {
		t.Errorf("signed as %q, want the ARN's region (%s), not the machine's", got, want)
	}
	if err := json.NewDecoder(request.Body).Decode(&asked); err != nil {
		t.Fatal(err)
	}
	return asked
}

func TestUnusableSettings(t *testing.T) {
	tests := []struct {
		name, arn string
		set       map[string]string
		advice    string
	}{
		{"no ARN", "rotator/bootstrap", nil, "SECRETS_MANAGER_APIKEY_ARN"},
		{"not logged in", testARN, map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "export-credentials"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			endpoint, requests := answering(t, 200, awsJSON, secretValue("SecretString", canary))
			awsEnvironment(t, endpoint)
			for name, value := range tt.set {
				t.Setenv(name, value)
			}
			_, err := BootstrapKey(tt.arn, http.DefaultTransport)(t.Context())
			var failure *rotation.Error
			if !errors.As(err, &failure) || failure.Kind != rotation.Misconfigured || !strings.Contains(failure.Message, tt.advice) {
				t.Errorf("got %v, want misconfigured with %q", err, tt.advice)
			}
			if len(*requests) != 0 {
				t.Errorf("got %d requests, want none", len(*requests))
			}
		})
	}
}
