package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/report"
	"iam-token-rotator/scripts/awstest"
)

const bootstrapARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator/bootstrap-Ab12Cd"

// awsSecret emulates AWS Secrets Manager with one secret, the bootstrap key's. Every ARN names it.
type awsSecret struct {
	denial string // the message with which every request is denied; "" for none

	mu       sync.Mutex
	ids      []string
	keys     []string
	requests []string
}

// newAWSSecret puts key into the secret, and points the AWS SDK at it.
func newAWSSecret(t *testing.T, key string) *awsSecret {
	t.Helper()
	secret := &awsSecret{ids: []string{"fixed"}, keys: []string{key}}
	server := httptest.NewServer(secret)
	t.Cleanup(server.Close)
	awstest.Setenv(t, server.URL)
	t.Setenv("AWS_REGION", "us-west-2") // not the secret's
	return secret
}

func (a *awsSecret) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var asked struct{ SecretID, ClientRequestToken, SecretString, VersionStage string }
	_ = json.NewDecoder(r.Body).Decode(&asked)
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	a.requests = append(a.requests, operation+asked.VersionStage)
	at := len(a.keys) - 1
	if asked.VersionStage == "AWSPREVIOUS" {
		at--
	}
	answer := map[string]string{"ARN": asked.SecretID, "Name": "rotator/bootstrap"}
	switch {
	case a.denial != "":
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]string{"__type": "AccessDeniedException", "message": a.denial}
	case operation == "PutSecretValue":
		a.ids, a.keys = append(a.ids, asked.ClientRequestToken), append(a.keys, asked.SecretString)
		answer["VersionId"] = asked.ClientRequestToken
	case at < 0:
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]string{"__type": "ResourceNotFoundException"}
	default:
		answer["VersionId"], answer["SecretString"] = a.ids[at], a.keys[at]
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(answer)
}

// A function that starts with a fixed key is led to the managed one, follows IBM's
// rotations, and outlives one that ends the key in use.
func TestTheBootstrapKeyRenewsItself(t *testing.T) {
	const propagation = 300 * time.Millisecond
	cloud := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: propagation})
	ibm := httptest.NewServer(cloud)
	t.Cleanup(ibm.Close)
	managed := cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: cloud.BootstrapIAMID(), ReuseAPIKey: true, TTL: "1080h", RotateDays: 15})
	aws := newAWSSecret(t, cloud.BootstrapAPIKey())
	env := append(environ(cloud, ibm.URL), "SECRETS_MANAGER_APIKEY=", "SECRETS_MANAGER_APIKEY_ARN="+bootstrapARN, "BOOTSTRAP_KEY_SECRET="+managed)
	var log strings.Builder
	f := newFunction("the-function", env, &log)
	stored := func() string { return aws.keys[len(aws.keys)-1] }
	run := func(event string, outcome report.RenewalOutcome, requests string) report.KeyRenewal {
		t.Helper()
		aws.requests = nil
		response, err := invoke(t, f, event)
		if err != nil {
			t.Fatal(err)
		}
		ran, err := report.Parse(response)
		if err != nil || ran.KeyRenewal == nil || ran.KeyRenewal.Outcome != outcome || strings.Join(aws.requests, " ") != requests {
			t.Fatalf("got %s after %v, want the renewal %s after %s", response, aws.requests, outcome, requests)
		}
		for _, key := range aws.keys {
			if strings.Contains(string(response)+log.String(), key) {
				t.Fatal("a key is in the response or the log")
			}
		}
		return *ran.KeyRenewal
	}
	got := run(`{}`, report.KeyRenewed, "GetSecretValue GetSecretValue PutSecretValue GetSecretValueAWSPREVIOUS")
	if stored() != cloud.MustCurrent(managed).Payload || got.ExpiresAt == nil || time.Until(*got.ExpiresAt) < 44*24*time.Hour || got.NextRotationAt == nil {
		t.Errorf("got %+v, want the managed key stored, with its dates", got)
	}
	run(`{}`, report.KeyCurrent, "GetSecretValue GetSecretValueAWSPREVIOUS")
	run(`{}`, report.KeyCurrent, "GetSecretValueAWSPREVIOUS") // a warm run reads no more from AWS
	if response, err := invoke(t, f, `{"mode":"ensure"}`); err != nil || strings.Contains(string(response), "key_renewal") {
		t.Errorf("got %s, %v; want an ensure run without a renewal", response, err)
	}

	cloud.MustRotateSecret(managed)
	if got := run(`{}`, report.KeyRenewalFailed, "GetSecretValue"); !strings.Contains(got.Error.Message, "does not accept the new bootstrap key yet") {
		t.Errorf("got %v, want that IAM does not know the key yet", got.Error)
	}
	time.Sleep(propagation) // until IAM knows it
	run(`{}`, report.KeyRenewed, "GetSecretValue PutSecretValue GetSecretValueAWSPREVIOUS")

	// IBM makes another key and ends the one in use; the process has lost its token, too.
	ended := stored()
	cloud.MustRotateSecret(managed)
	cloud.MustDeleteAPIKey(ended)
	time.Sleep(propagation)
	f = newFunction("the-function", env, &log)
	got = run(`{}`, report.KeyRenewed, "GetSecretValue GetSecretValue GetSecretValueAWSPREVIOUS GetSecretValue PutSecretValue GetSecretValueAWSPREVIOUS")
	if stored() != cloud.MustCurrent(managed).Payload || !got.ByPreviousKey || len(got.Warnings) == 0 {
		t.Errorf("got %+v, want the key renewed by the previous one", got)
	}
	// AWSPREVIOUS is the key that has ended. Each run says so, also of a process that did not see it end.
	f = newFunction("the-function", env, &log)
	for _, requests := range []string{"GetSecretValue GetSecretValueAWSPREVIOUS", "GetSecretValueAWSPREVIOUS"} {
		if got := run(`{}`, report.KeyCurrent, requests); len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "AWSPREVIOUS") {
			t.Errorf("got the warnings %q, want one of the key before", got.Warnings)
		}
	}
	if _, err := invoke(t, newFunction("the-function", append(env, "SECRETS_MANAGER_APIKEY=x", "SECRETS_MANAGER_APIKEY_ARN="), io.Discard), `{}`); err == nil ||
		!strings.Contains(err.Error(), "misconfigured: BOOTSTRAP_KEY_SECRET") {
		t.Errorf("got %v, want misconfigured", err)
	}
}
