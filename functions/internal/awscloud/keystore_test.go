package awscloud

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

func TestTheKeyBeforeAndANewKey(t *testing.T) {
	requests := answering(t, 200, strings.Replace(secretValue("SecretString", canary), "{", `{"VersionId":"the-version",`, 1))
	store := NewKeyStore(testARN, http.DefaultTransport)
	if key, id, err := store.Current(t.Context()); err != nil || key.Reveal() != canary || id != "the-version" {
		t.Errorf("got version %q, %v", id, err)
	}
	if key, err := store.PreviousKey(t.Context()); err != nil || key.Reveal() != canary {
		t.Errorf("got %v, want a key", err)
	}
	if err := store.Put(t.Context(), iamtoken.NewSecret("a-new-key"), "its-version"); err != nil {
		t.Error(err)
	}
	if len(*requests) != 3 {
		t.Fatalf("got %d requests, want 3", len(*requests))
	}
	if asked := wantOperation(t, (*requests)[1], "GetSecretValue"); asked["SecretId"] != testARN || asked["VersionStage"] != "AWSPREVIOUS" {
		t.Error("the key before was not asked for by AWSPREVIOUS")
	}
	if asked := wantOperation(t, (*requests)[2], "PutSecretValue"); len(asked) != 3 || asked["SecretId"] != testARN || asked["ClientRequestToken"] != "its-version" || asked["SecretString"] != "a-new-key" {
		t.Errorf("put %d fields, want the secret, the version's id and the key", len(asked))
	}
}

func TestARefusedNewKey(t *testing.T) {
	for code, says := range map[string]string{
		"":                          "denied: storing the new bootstrap key in the AWS secret " + testARN + ": AWS Secrets Manager answered 403: the answer has no error code of AWS's: a proxy in between may refuse (HTTPS_PROXY, AWS_ENDPOINT_URL), or let the function's role call secretsmanager:PutSecretValue",
		"AccessDeniedException":     "denied: storing the new bootstrap key in the AWS secret " + testARN + ": AWS Secrets Manager answered 400 AccessDeniedException: let the function's role call secretsmanager:PutSecretValue",
		"ExpiredTokenException":     "denied: storing the new bootstrap key in the AWS secret " + testARN + ": AWS Secrets Manager answered 400 ExpiredTokenException: the AWS credentials have expired",
		"ResourceNotFoundException": "not_found: storing the new bootstrap key",
	} {
		answering(t, map[bool]int{true: 403, false: 400}[code == ""], `{"__type":"`+code+`","message":"`+canary+`"}`)
		err := NewKeyStore(testARN, http.DefaultTransport).Put(t.Context(), iamtoken.NewSecret(canary), "its-version")
		var failure *rotation.Error
		if !errors.As(err, &failure) || !strings.HasPrefix(string(failure.Kind)+": "+failure.Message, says) || strings.Contains(failure.Message, canary) {
			t.Errorf("%s: got %v", code, err)
		}
	}
}
