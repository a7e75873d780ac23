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
)

const (
	testARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator/bootstrap-Ab12Cd"
	// canary stands for a key: it must not turn up in any error.
	canary = "canary-key-0123456789"
)

// awsEnvironment points the SDK at endpoint with credentials of no worth.
func awsEnvironment(t *testing.T, endpoint string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_SESSION_TOKEN": "",
		"AWS_PROFILE": "", "AWS_CA_BUNDLE": "", "AWS_REGION": "us-west-2", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_SECRETS_MANAGER": endpoint,
	} {
		t.Setenv(name, value)
	}
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
	request := (*requests)[0]
	if got, want := request.Header.Get("X-Amz-Target"), "secretsmanager.GetSecretValue"; got != want {
		t.Errorf("got target %q, want %q", got, want)
	}
	if got, want := request.Header.Get("Authorization"), "/eu-central-1/secretsmanager/"; !strings.Contains(got, want) {
		t.Errorf("signed as %q, want the ARN's region (%s), not the machine's", got, want)
	}
	var asked map[string]any
	if err := json.NewDecoder(request.Body).Decode(&asked); err != nil || len(asked) != 1 || asked["SecretId"] != testARN {
		t.Errorf("asked for %v (%v), want SecretId %s alone", asked, err, testARN)
	}
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
