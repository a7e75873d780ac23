package awscloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// What AWS refuses, by the codes of its SDKs and of KMS. The advice for a mirror is not about the bootstrap key.
func TestRefusals(t *testing.T) {
	const never, once, later = rotation.Never, rotation.Once, rotation.Later
	const marked = "You can't perform this operation on the secret because it was marked for deletion."
	const skewed = "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z"
	for _, tt := range []struct {
		status        int
		code, message string
		kind          rotation.Kind
		retry         rotation.Retry
		key, mirror   string // what the advice says; the same if mirror is empty
	}{
		{400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.", rotation.NotFound, never, "put-key", "the function creates none"},
		{400, "InvalidRequestException", marked, rotation.NotFound, never, "restore-secret", "take it out of mirror"},
		{400, "InvalidRequestException", "The secret is managed by another service.", rotation.Misconfigured, never, "put-key", "secret of your own in mirror"},
		{400, "InvalidRequestException", "", rotation.Misconfigured, never, "describe-secret", ""},
		{400, "InvalidParameterException", "Operation not permitted on a replica secret. Call must be made in primary secret's region.", rotation.Misconfigured, never, "primary secret", ""},
		{400, "InvalidParameterException", "", rotation.Misconfigured, never, "SECRETS_MANAGER_APIKEY_ARN", "the ARN in mirror"},
		{400, "ValidationException", "", rotation.Misconfigured, never, "SECRETS_MANAGER_APIKEY_ARN", "the ARN in mirror"},
		{400, "LimitExceededException", "", rotation.RateLimited, never, "100 versions", "younger than 24 hours"},
		{400, "ResourceExistsException", "", rotation.Misconfigured, never, "already has this version", ""},
		{400, "AccessDeniedException", "User: x is not authorized to perform: secretsmanager:X on resource: a:secret:my-kms-token", rotation.Denied, never, "secretsmanager:GetSecretValue", "MirrorSecretArns"},
		{400, "AccessDeniedException", "not authorized with an explicit deny in a service control policy", rotation.Denied, never, "a policy denies it", ""},
		{400, "AccessDeniedException", "not authorized to perform: secretsmanager:X because no VPC endpoint policy allows it", rotation.Denied, never, "VPC endpoint's", ""},
		{400, "AccessDeniedException", "Access to KMS is not allowed", rotation.Denied, never, "BootstrapKmsKeyArn", "kms:GenerateDataKey"},
		{400, "AccessDeniedException", "not authorized to perform: kms:Decrypt", rotation.Denied, never, "BootstrapKmsKeyArn", "kms:GenerateDataKey"},
		{400, "KMSAccessDeniedException", "", rotation.Denied, never, "BootstrapKmsKeyArn", "kms:GenerateDataKey"},
		{400, "DecryptionFailure", "", rotation.Misconfigured, never, "enable-key", ""},
		{400, "EncryptionFailure", "", rotation.Misconfigured, never, "cancel-key-deletion", ""},
		{400, "KMSDisabledException", "", rotation.Misconfigured, never, "KMS key", ""},
		{400, "KMSInvalidStateException", "", rotation.Misconfigured, never, "KMS key", ""},
		{400, "KMSNotFoundException", "", rotation.Misconfigured, never, "KMS key", ""},
		{400, "KMSThrottlingException", "", rotation.RateLimited, later, "too many", ""},
		{500, "KMSInternalException", "", rotation.Unavailable, later, "trouble", ""},
		{400, "ExpiredTokenException", "", rotation.Denied, never, "have expired", ""},
		{403, "ExpiredToken", "", rotation.Denied, never, "have expired", ""},
		{400, "UnrecognizedClientException", "", rotation.Denied, never, "access key", ""},
		{403, "InvalidClientTokenId", "", rotation.Denied, never, "access key", ""},
		{400, "InvalidSignatureException", skewed, rotation.Denied, once, "clock", ""},
		{403, "SignatureDoesNotMatch", "Signature not yet current: x", rotation.Denied, once, "clock", ""},
		{403, "RequestTimeTooSkewed", "", rotation.Denied, once, "clock", ""},
		{403, "SignatureDoesNotMatch", "", rotation.Denied, never, "AWS_SECRET_ACCESS_KEY", ""},
		{400, "ThrottlingException", "Rate exceeded", rotation.RateLimited, later, "too many", ""},
		{429, "", "", rotation.RateLimited, later, "too many", ""},
		{500, "InternalServiceError", "", rotation.Unavailable, later, "trouble", ""},
		{503, "", "", rotation.Unavailable, later, "trouble", ""},
		{200, "", "", rotation.Unavailable, later, "proxy", ""},
		{403, "", "", rotation.Denied, never, "a proxy in between may refuse (HTTPS_PROXY, AWS_ENDPOINT_URL), or the function's role needs", ""},
		{401, "", "", rotation.Denied, never, "no error code of AWS's", ""},
		{302, "", "", rotation.Misconfigured, never, "AWS_ENDPOINT_URL", ""},
		{400, "SomethingNew", "", rotation.Misconfigured, never, "SECRETS_MANAGER_APIKEY_ARN", "the ARN in mirror"},
		{400, canary, "", rotation.Misconfigured, never, "SECRETS_MANAGER_APIKEY_ARN", "the ARN in mirror"},
	} {
		t.Run(fmt.Sprint(tt.status, " ", tt.code, " ", tt.message), func(t *testing.T) {
			body, _ := json.Marshal(map[string]string{"__type": tt.code, "message": tt.message + " " + canary})
			if tt.code == "" {
				body = []byte("<html>" + canary + "</html>")
			}
			requests := answering(t, tt.status, string(body))
			shown := fmt.Sprint("AWS Secrets Manager answered ", tt.status)
			if tt.code != "" && tt.code != "SomethingNew" && tt.code != canary {
				shown += " " + tt.code
			}
			_, err := readKey(t)
			checkFailure(t, err, tt.kind, tt.retry, shown+": ", tt.key)
			if strings.Contains(err.Error(), "mirror") {
				t.Errorf("got %q: that is about a mirror", err)
			}
			mirrors := NewMirrors(http.DefaultTransport)
			_, err = mirrors.Describe(t.Context(), testARN)
			checkFailure(t, err, tt.kind, tt.retry, shown+": ", cmp.Or(tt.mirror, tt.key))
			err = mirrors.Put(t.Context(), testARN, versionID, iamtoken.NewSecret(canary))
			checkFailure(t, err, tt.kind, tt.retry, "mirroring the token to the AWS secret "+testARN, cmp.Or(tt.mirror, tt.key))
			if text := err.Error(); strings.Contains(text, "put-key") || strings.Contains(text, "APIKEY") {
				t.Errorf("got %q: that is about the bootstrap key", err)
			}
			if len(*requests) != 3 {
				t.Errorf("got %d requests, want 3: the SDK must not retry", len(*requests))
			}
		})
	}
}

// What DescribeSecret shows of a secret that nobody can write to is found before anything is saved.
func TestASecretThatCannotBeWritten(t *testing.T) {
	for state, want := range map[string]struct {
		kind rotation.Kind
		says string
	}{
		`"DeletedDate":1767225600`:                          {rotation.NotFound, "restore-secret"},
		`"PrimaryRegion":"us-east-1"`:                       {rotation.Misconfigured, "primary secret"},
		`"OwningService":"` + canary + `"`:                  {rotation.Misconfigured, "another AWS service"},
		`"PrimaryRegion":"eu-central-1","OwningService":""`: {},
	} {
		requests := answering(t, 200, `{"ARN":"`+testARN+`",`+state+`}`)
		mirrors := NewMirrors(http.DefaultTransport)
		_, described := mirrors.Describe(t.Context(), testARN)
		put := mirrors.Put(t.Context(), testARN, versionID, iamtoken.NewSecret(canary))
		if want.says == "" {
			if described != nil || put != nil {
				t.Errorf("%s: got %v and %v, want no error", state, described, put)
			}
			continue
		}
		checkFailure(t, described, want.kind, rotation.Never, want.says)
		checkFailure(t, put, want.kind, rotation.Never, want.says)
		for _, request := range *requests {
			wantOperation(t, request, "DescribeSecret")
		}
	}
}

func TestSecretsThatHoldNoKey(t *testing.T) {
	for _, tt := range []struct{ name, body, advice string }{
		{"empty secret", secretValue("SecretString", ""), "empty"},
		{"white space alone", secretValue("SecretString", " \n"), "empty"},
		{"JSON", secretValue("SecretString", `{"apikey":"`+canary+`"}`), "bare key"},
		{"two lines", secretValue("SecretString", canary+"\n"+canary), "bare key"},
		{"in quotes", secretValue("SecretString", "'"+canary+"'"), "is in quotes"},
		{"a byte-order mark", secretValue("SecretString", "\ufeff"+canary), "begins with a byte-order mark"},
		{"binary", secretValue("SecretBinary", "Y2FuYXJ5"), "binary"},
	} {
		answering(t, 200, tt.body)
		key, err := readKey(t)
		if !key.IsZero() {
			t.Errorf("%s: got a key, want none", tt.name)
		}
		checkFailure(t, err, rotation.Misconfigured, rotation.Never, tt.advice)
	}
	answering(t, 200, `{"SecretString":"`+canary) // cut off
	_, err := readKey(t)
	checkFailure(t, err, rotation.Unavailable, rotation.Later, "cannot be used")
}

// checkFailure also holds every error to the rule that no foreign text enters it.
func checkFailure(t *testing.T, err error, kind rotation.Kind, retry rotation.Retry, parts ...string) {
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
	for _, part := range parts {
		if !strings.Contains(failure.Message, part) {
			t.Errorf("got %q, want it to say %q", failure.Message, part)
		}
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
			_, err := readKey(t)
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
		_, err := NewKeyStore(testARN, http.DefaultTransport).Key(ctx)
		checkFailure(t, err, rotation.Timeout, rotation.Later, "in time")
	})
}

// The SDK learns AWS's time from an answer, so that a next attempt with a wrong clock succeeds.
func TestTheNextAttemptIsSignedForAWSsTime(t *testing.T) {
	var signed []time.Time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, _ := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		signed = append(signed, at)
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.Header().Set("X-Amzn-Errortype", "RequestTimeTooSkewed")
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	awsEnvironment(t, server.URL)
	read := NewKeyStore(testARN, http.DefaultTransport).Key
	for range 2 {
		_, err := read(t.Context())
		checkFailure(t, err, rotation.Denied, rotation.Once, "clock")
	}
	if apart := signed[1].Sub(signed[0]); apart < 59*time.Minute {
		t.Errorf("the second request is signed %v after the first, want an hour: AWS's time", apart)
	}
}
