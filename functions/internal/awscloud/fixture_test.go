package awscloud

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/scripts/awstest"
)

const (
	testARN      = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator/bootstrap-Ab12Cd"
	parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/tokens/logs"
	versionID    = "7cf9d6e1-2919-432f-9883-d5040bfcd326"
	otherVersion = "11111111-2919-432f-9883-d5040bfcd326"
	awsJSON      = "application/x-amz-json-1.1"
	// canary is used as a key: no error may contain it.
	canary = "canary-key-0123456789"
)

// awsEnvironment points the SDK at endpoint, in another region than the secrets'.
func awsEnvironment(t *testing.T, endpoint string) {
	t.Helper()
	awstest.Setenv(t, "")
	t.Setenv("AWS_REGION", "us-west-2")
	for _, service := range []string{"SECRETS_MANAGER", "SSM", "EVENTBRIDGE"} {
		t.Setenv("AWS_ENDPOINT_URL_"+service, endpoint)
	}
}

// serving starts a server that answers with what handle returns; status 0 is a 404.
func serving(t *testing.T, handle func(r *http.Request) (status int, body string)) (origin string) {
	t.Helper()
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		status, body := handle(r)
		w.Header().Set("Content-Type", awsJSON)
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		w.WriteHeader(cmp.Or(status, http.StatusNotFound))
		_, _ = io.WriteString(w, body)
	})
}

func server(t *testing.T, handle http.HandlerFunc) (origin string) {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server.URL
}

// request is what AWS was asked for.
type request struct {
	operation string
	signed    string // Authorization
	header    http.Header
	fields    map[string]any
}

// emulating answers every operation with what answer returns, and records the requests.
func emulating(t *testing.T, answer func(operation string) (status int, body string)) *[]request {
	t.Helper()
	requests := new([]request)
	awsEnvironment(t, serving(t, func(r *http.Request) (int, string) {
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		asked := request{operation, r.Header.Get("Authorization"), r.Header, nil}
		_ = json.NewDecoder(r.Body).Decode(&asked.fields)
		*requests = append(*requests, asked)
		return answer(operation)
	}))
	return requests
}

// answering gives one answer to every request.
func answering(t *testing.T, status int, body string) *[]request {
	t.Helper()
	return emulating(t, func(string) (int, string) { return status, body })
}

// wantRequests compares what was asked with operations and their fields, as JSON.
func wantRequests(t *testing.T, got []request, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d requests, want %d", len(got), len(want))
	}
	for i, asked := range got {
		operation, fields, _ := strings.Cut(want[i], " ")
		shown, _ := json.Marshal(asked.fields)
		if asked.operation != operation || fields != "" && string(shown) != fields { // no field is a secret here
			t.Errorf("got %s %s, want %s", asked.operation, shown, want[i])
		}
		if !strings.Contains(asked.signed, "/eu-central-1/") {
			t.Errorf("%s is signed as %q, want the ARN's region, not the machine's", operation, asked.signed)
		}
	}
}

func secretValue(field, value string) string {
	body, _ := json.Marshal(map[string]string{"ARN": testARN, "Name": "rotator/bootstrap", field: value})
	return string(body)
}

// readKey reads the bootstrap key from the secret testARN.
func readKey(t *testing.T) (iamtoken.Secret, error) {
	t.Helper()
	return NewKeyStore(testARN, http.DefaultTransport).Key(t.Context())
}

// checkFailure also checks that the error repeats no text of an answer.
func checkFailure(t *testing.T, err error, kind rotation.Kind, retry rotation.Retry, parts ...string) {
	t.Helper()
	failure, ok := errors.AsType[*rotation.Error](err)
	if !ok {
		t.Fatalf("got error %v of type %T, want *rotation.Error", err, err)
	}
	if strings.Contains(failure.Error(), canary) {
		t.Fatal("the error repeats what the service answered")
	}
	if failure.Kind != kind || failure.Retry != retry || !strings.HasSuffix(failure.Message, failure.Advice) {
		t.Errorf("got kind %s, retry %d, want %s, %d: %s", failure.Kind, failure.Retry, kind, retry, failure.Message)
	}
	for _, part := range parts {
		if !strings.Contains(failure.Message, part) {
			t.Errorf("got %q, want it to say %q", failure.Message, part)
		}
	}
}
