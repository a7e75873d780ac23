package awscloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// requestsOf has a request for each purpose.
var requestsOf = map[purpose]struct {
	words string // its errors begin with them
	send  func(ctx context.Context) error
}{
	keyRead: {"reading the bootstrap key from the AWS secret " + testARN + ": AWS Secrets Manager ", func(ctx context.Context) error {
		_, err := NewKeyStore(testARN, http.DefaultTransport).Key(ctx)
		return err
	}},
	keyWrite: {"storing the new bootstrap key in the AWS secret " + testARN + ": AWS Secrets Manager ", func(ctx context.Context) error {
		return NewKeyStore(testARN, http.DefaultTransport).Put(ctx, iamtoken.NewSecret(canary), versionID)
	}},
	mirrorSecret: {"mirroring the token to the AWS secret " + testARN + ": AWS Secrets Manager ", func(ctx context.Context) error {
		return NewMirrors(http.DefaultTransport).Put(ctx, testARN, versionID, iamtoken.NewSecret(canary))
	}},
	mirrorParameter: {"mirroring the token to the AWS parameter " + parameterARN + ": SSM Parameter Store ", func(ctx context.Context) error {
		return NewMirrors(http.DefaultTransport).Put(ctx, parameterARN, versionID, iamtoken.NewSecret(canary))
	}},
	eventBus: {"putting the event on the bus of EVENT_BUS_NAME: Amazon EventBridge ", func(ctx context.Context) error {
		return NewEventBus("tokens", "eu-central-1", http.DefaultTransport).Put(ctx, someEvents(11))[0]
	}},
}

// adviceBy is words of the advice by purpose. Other purposes get the advice for a rejected request.
type adviceBy map[purpose]string

// The error of each code of AWS's SDKs and of KMS. No advice is about another purpose.
func TestRefusals(t *testing.T) {
	const never, once, later = rotation.Never, rotation.Once, rotation.Later
	const marked = "You can't perform this operation on the secret because it was marked for deletion."
	const skewed = "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z"
	permission := adviceBy{keyRead: "secretsmanager:GetSecretValue", keyWrite: "let the function's role call secretsmanager:PutSecretValue",
		mirrorSecret: "name it in MirrorSecretArns", mirrorParameter: "name it in MirrorParameterArns", eventBus: "name it in EventBusName"}
	kms := maps.Clone(permission)
	maps.Copy(kms, adviceBy{keyRead: "BootstrapKmsKeyArn", mirrorSecret: "kms:GenerateDataKey", mirrorParameter: "kms:Encrypt"})
	unusableKey := adviceBy{anySecret: "update-secret --kms-key-id", mirrorParameter: "put-parameter --overwrite --key-id"}
	rejected := adviceBy{keySecret: "check SECRETS_MANAGER_APIKEY_ARN", anyMirror: "the ARN in mirror", eventBus: "check EVENT_BUS_NAME"}
	for _, tt := range []struct {
		status         int
		codes, message string // codes divided by spaces
		kind           rotation.Kind
		retry          rotation.Retry
		says           adviceBy
	}{
		{400, "ResourceNotFoundException", "", rotation.NotFound, never, adviceBy{keySecret: "put-key", mirrorSecret: "the function creates none", mirrorParameter: "the function creates none", eventBus: "there is no such bus"}},
		{400, "com.amazonaws.events#ResourceNotFoundException ParameterNotFound", "", rotation.NotFound, never, adviceBy{anything: "there is no such "}},
		{400, "InvalidRequestException", marked, rotation.NotFound, never, adviceBy{keySecret: "restore-secret", mirrorSecret: "take it out of mirror"}},
		{400, "InvalidRequestException", "The secret is managed by another service.", rotation.Misconfigured, never, adviceBy{keySecret: "put-key", mirrorSecret: "secret of your own in mirror"}},
		{400, "InvalidRequestException", "", rotation.Misconfigured, never, adviceBy{anySecret: "describe-secret"}},
		{400, "InvalidParameterException", "Operation not permitted on a replica secret. Call must be made in primary secret's region.", rotation.Misconfigured, never, adviceBy{anySecret: "the secret is a replica"}},
		{400, "InvalidParameterException ValidationException SomethingNew " + canary, "", rotation.Misconfigured, never, rejected},
		{400, "LimitExceededException", "", rotation.RateLimited, never, adviceBy{keySecret: "100 versions", mirrorSecret: "younger than 24 hours"}},
		{400, "ParameterMaxVersionLimitExceeded", "", rotation.Misconfigured, never, adviceBy{mirrorParameter: "unlabel-parameter-version"}},
		{400, "ResourceExistsException", "", rotation.Misconfigured, never, adviceBy{keySecret: "already has this version", mirrorSecret: "saves a new version"}},
		{400, "HierarchyTypeMismatchException UnsupportedParameterType", "", rotation.Misconfigured, never, adviceBy{mirrorParameter: "--type SecureString"}},
		{400, "ParameterPatternMismatchException", "", rotation.Misconfigured, never, adviceBy{mirrorParameter: "AllowedPattern"}},
		{400, "PoliciesLimitExceededException", "", rotation.Misconfigured, never, adviceBy{mirrorParameter: "policies"}},
		{400, "AccessDeniedException", "User: x is not authorized to perform: secretsmanager:X on resource: a:secret:my-kms-token", rotation.Denied, never, permission},
		{400, "AccessDeniedException", "not authorized with an explicit deny in a service control policy", rotation.Denied, never, adviceBy{anything: "a policy denies it"}},
		{400, "AccessDeniedException", "not authorized to perform: secretsmanager:X because no VPC endpoint policy allows it", rotation.Denied, never, adviceBy{anything: "VPC endpoint's"}},
		{400, "AccessDeniedException", "Access to KMS is not allowed", rotation.Denied, never, kms},
		{400, "AccessDeniedException", "not authorized to perform: kms:Decrypt", rotation.Denied, never, kms},
		{400, "KMSAccessDeniedException", "", rotation.Denied, never, kms},
		{400, "DecryptionFailure EncryptionFailure KMSDisabledException KMSInvalidStateException KMSNotFoundException InvalidKeyId", "", rotation.Misconfigured, never, unusableKey},
		{400, "ExpiredTokenException ExpiredToken", "", rotation.Denied, never, adviceBy{anything: "have expired"}},
		{403, "UnrecognizedClientException InvalidClientTokenId", "", rotation.Denied, never, adviceBy{anything: "access key"}},
		{400, "InvalidSignatureException", skewed, rotation.Denied, once, adviceBy{anything: "clock"}},
		{403, "SignatureDoesNotMatch", "Signature not yet current: x", rotation.Denied, once, adviceBy{anything: "clock"}},
		{403, "RequestTimeTooSkewed", "", rotation.Denied, once, adviceBy{anything: "clock"}},
		{403, "SignatureDoesNotMatch", "", rotation.Denied, never, adviceBy{anything: "AWS_SECRET_ACCESS_KEY"}},
		{400, "ThrottlingException TooManyUpdates KMSThrottlingException", "Rate exceeded", rotation.RateLimited, later, adviceBy{anything: "too many"}},
		{429, "", "", rotation.RateLimited, later, adviceBy{anything: "too many"}},
		{500, "InternalServiceError KMSInternalException", "", rotation.Unavailable, later, adviceBy{anything: "trouble"}},
		{503, "", "", rotation.Unavailable, later, adviceBy{anything: "trouble"}},
		{200, "", "", rotation.Unavailable, later, adviceBy{anything: "cannot be used: does AWS_ENDPOINT_URL name the service itself, or a proxy"}},
		{403, "", "", rotation.Denied, never, permission},
		{401, "", "", rotation.Denied, never, adviceBy{anything: "the answer has no error code of AWS's: a proxy in between may refuse (HTTPS_PROXY, AWS_ENDPOINT_URL), or "}},
		{302, "", "", rotation.Misconfigured, never, adviceBy{anything: "AWS_ENDPOINT_URL"}},
	} {
		for _, code := range strings.Split(tt.codes, " ") {
			body, _ := json.Marshal(map[string]string{"__type": code, "message": tt.message + " " + canary})
			if code == "" {
				body = []byte("<html>" + canary + "</html>")
			}
			requests := answering(t, tt.status, string(body))
			shown := fmt.Sprint("answered ", tt.status)
			if code != "" && code != "SomethingNew" && code != canary {
				shown += " " + code[strings.Index(code, "#")+1:]
			}
			for purpose, request := range requestsOf {
				kind, retry, says := rotation.Misconfigured, never, "the request is rejected: check "
				for some, words := range tt.says {
					if some&purpose != 0 {
						kind, retry, says = tt.kind, tt.retry, words
					}
				}
				err := request.send(t.Context())
				checkFailure(t, err, kind, retry, request.words+shown+": ", says)
				checkPurpose(t, purpose, err)
			}
			if len(*requests) != len(requestsOf) {
				t.Errorf("%s: got %d requests, want one of each: the SDK must not retry", shown, len(*requests))
			}
		}
	}
}

// checkPurpose finds advice that is about another purpose.
func checkPurpose(t *testing.T, about purpose, err error) {
	t.Helper()
	text := strings.ReplaceAll(err.Error(), "the secret's, the organization's", "") // of a policy that denies
	for words, some := range map[string]purpose{"mirror": anyMirror, "put-key": keySecret, "APIKEY": keySecret, "the secret": anySecret,
		"secretsmanager": anySecret, "parameter": mirrorParameter, "EVENT_BUS": eventBus} {
		if about&some == 0 && strings.Contains(text, words) {
			t.Errorf("got %q: %q is about something else", err, words)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(untrusted.Close)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // it would print the handshake that fails
	released := make(chan struct{})
	silent := server(t, func(http.ResponseWriter, *http.Request) { <-released })
	t.Cleanup(func() { close(released) })
	endless := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", awsJSON)
		for chunk := []byte(`{"SecretString":"` + strings.Repeat("x", 1<<20)); r.Context().Err() == nil; {
			_, _ = w.Write(chunk)
		}
	})
	for name, tt := range map[string]struct {
		endpoint string
		set      [2]string
		kind     rotation.Kind
		retry    rotation.Retry
		says     string
	}{
		"nothing listens":               {"http://127.0.0.1:1", [2]string{}, rotation.Unavailable, rotation.Later, "refuses connections"},
		"name does not resolve":         {"https://aws.invalid", [2]string{}, rotation.Unavailable, rotation.Later, "does not resolve"},
		"untrusted certificate":         {untrusted.URL, [2]string{}, rotation.Misconfigured, rotation.Never, "SSL_CERT_FILE"},
		"it does not answer":            {silent, [2]string{}, rotation.Timeout, rotation.Later, "did not answer in time: a function in a VPC"},
		"the endpoint for all services": {"", [2]string{"AWS_ENDPOINT_URL", silent}, rotation.Timeout, rotation.Later, "did not answer in time"},
		"an endless answer":             {endless, [2]string{}, rotation.Unavailable, rotation.Later, "larger response"},
		"an answer that is cut off":     {serving(t, func(*http.Request) (int, string) { return 200, `{"SecretString":"` + canary }), [2]string{}, rotation.Unavailable, rotation.Later, "cannot be used"},
		"in the clear":                  {"http://example.com", [2]string{}, rotation.Misconfigured, rotation.Never, " must begin with https"},
		"not a URL":                     {"https://{host}", [2]string{}, rotation.Misconfigured, rotation.Never, "AWS_ENDPOINT_URL_"},
		"a key with a newline":          {"http://127.0.0.1:1", [2]string{"AWS_SECRET_ACCESS_KEY", "a\nb"}, rotation.Misconfigured, rotation.Never, "AWS_SECRET_ACCESS_KEY"},
	} {
		t.Run(name, func(t *testing.T) {
			awsEnvironment(t, tt.endpoint)
			if tt.set[0] != "" {
				t.Setenv(tt.set[0], tt.set[1])
			}
			limit := time.Minute
			if tt.kind == rotation.Timeout {
				limit = 20 * time.Millisecond
			}
			for purpose, request := range requestsOf {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				err := request.send(ctx)
				cancel()
				checkFailure(t, err, tt.kind, tt.retry, tt.says)
				if purpose == eventBus && !strings.HasPrefix(err.(*rotation.Error).Message, "putting the event on the bus") {
					t.Errorf("got %q", err)
				}
			}
		})
	}
}

// The SDK learns AWS's time from an answer, so that with a wrong clock the next attempt succeeds.
func TestTheNextAttemptIsSignedForAWSsTime(t *testing.T) {
	var signed []time.Time
	awsEnvironment(t, server(t, func(w http.ResponseWriter, r *http.Request) {
		at, _ := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		signed = append(signed, at)
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.Header().Set("X-Amzn-Errortype", "RequestTimeTooSkewed")
		w.WriteHeader(http.StatusForbidden)
	}))
	read := NewKeyStore(testARN, http.DefaultTransport).Key
	for range 2 {
		_, err := read(t.Context())
		checkFailure(t, err, rotation.Denied, rotation.Once, "clock")
	}
	if apart := signed[1].Sub(signed[0]); apart < 59*time.Minute {
		t.Errorf("the second request is signed %v after the first, want an hour: AWS's time", apart)
	}
}
