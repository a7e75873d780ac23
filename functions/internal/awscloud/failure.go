package awscloud

import (
	"errors"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// cause is why AWS Secrets Manager did not do what it was asked for.
type cause int

const (
	badRequest cause = iota // what no other cause covers
	denied
	deniedByKMS
	badCredentials
	missing
	deleted
	badKMSKey
	throttled
	trouble
	unusable
)

// failure turns an SDK error into one of our own. The SDK's text is not passed
// on: it may repeat what a service, or something in its place, answered.
func (s *secret) failure(err error) *rotation.Error {
	var response *awshttp.ResponseError
	if !errors.As(err, &response) || response.HTTPStatusCode() == 0 {
		return network.Peer{Host: "AWS Secrets Manager", Variable: "the ARN's region and AWS_ENDPOINT_URL",
			NoWay: "a function in a VPC reaches it through a NAT gateway or an interface endpoint"}.NoAnswer(s.doing(), err)
	}
	return s.because(s.explain(causeOf(err, response.HTTPStatusCode())))
}

// causeOf goes by the error codes that AWS documents for these operations and for
// every service, and for any other by the HTTP status.
func causeOf(err error, status int) cause {
	var api smithy.APIError
	if errors.As(err, &api) {
		if found, known := causeOfCode(api.ErrorCode(), api.ErrorMessage()); known {
			return found
		}
	}
	switch {
	case status == http.StatusTooManyRequests:
		return throttled
	case status == http.StatusRequestTimeout, status >= 500:
		return trouble
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return denied
	case status >= 200 && status < 300:
		return unusable
	default:
		return badRequest
	}
}

func causeOfCode(code, message string) (found cause, known bool) {
	switch code {
	case "ResourceNotFoundException":
		return missing, true
	case "InvalidRequestException":
		return deleted, true
	case "AccessDeniedException", "AccessDenied":
		if strings.Contains(message, "KMS") {
			return deniedByKMS, true
		}
		return denied, true
	case "ExpiredTokenException", "ExpiredToken", "IncompleteSignature", "InvalidClientTokenId", "InvalidSignatureException",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "SignatureDoesNotMatch", "UnrecognizedClientException":
		return badCredentials, true
	case "LimitExceededException", "RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException":
		return throttled, true
	case "InternalServiceError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout":
		return trouble, true
	case "DecryptionFailure", "EncryptionFailure":
		return badKMSKey, true
	default:
		return badKMSKey, strings.HasPrefix(code, "KMS")
	}
}

// explain says what a cause means for the run, and what to do about it.
func (s *secret) explain(c cause) (rotation.Kind, rotation.Retry, string) {
	either := func(key, mirror string) string {
		if s.mirror {
			return mirror
		}
		return key
	}
	switch c {
	case denied:
		return rotation.Denied, rotation.Never, "the function's role needs " +
			either("secretsmanager:GetSecretValue on it", "secretsmanager:DescribeSecret and PutSecretValue on it: name it in MirrorSecretArns") +
			"; new permissions take minutes"
	case deniedByKMS:
		return rotation.Denied, rotation.Never, "the function's role may not use the secret's KMS key: " +
			either("name the key in BootstrapKmsKeyArn; new permissions take minutes", "let it call kms:GenerateDataKey and kms:Decrypt with that key")
	case badCredentials:
		return rotation.Denied, rotation.Never, "AWS rejects the credentials: have they expired, and is this machine's clock right?"
	case missing:
		return rotation.NotFound, rotation.Never, "there is no such secret" +
			either(", or it has no value yet: store the key with rotatorctl put-key and check SECRETS_MANAGER_APIKEY_ARN",
				": create it (the function creates none), and give its whole ARN in mirror")
	case deleted:
		return rotation.NotFound, rotation.Never,
			"the secret cannot be used in its present state: if it is scheduled for deletion, restore it with aws secretsmanager restore-secret"
	case badKMSKey:
		return rotation.Misconfigured, rotation.Never, "AWS cannot use the secret's KMS key: is it enabled and not scheduled for deletion?"
	case throttled:
		return rotation.RateLimited, rotation.Later, "AWS Secrets Manager gets too many requests; nothing to do unless it persists"
	case trouble:
		return rotation.Unavailable, rotation.Later, "AWS Secrets Manager is having trouble; nothing to do unless it persists"
	case unusable:
		return rotation.Unavailable, rotation.Later, "the response cannot be used: does AWS_ENDPOINT_URL name the service itself, or a proxy's page?"
	default:
		return rotation.Misconfigured, rotation.Never, "AWS Secrets Manager rejects the request: check " +
			either("SECRETS_MANAGER_APIKEY_ARN", "the ARN in mirror") + " and AWS_ENDPOINT_URL"
	}
}

func (s *secret) misconfigured(advice string) *rotation.Error {
	return s.because(rotation.Misconfigured, rotation.Never, advice)
}

// because gives the failure its kind. The step is set by whoever asked.
func (s *secret) because(kind rotation.Kind, retry rotation.Retry, advice string) *rotation.Error {
	return &rotation.Error{Kind: kind, Retry: retry, Message: s.doing() + ": " + advice, Advice: advice}
}

func (s *secret) doing() string {
	if s.mirror {
		return "mirroring the token to the AWS secret " + s.arn
	}
	return "reading the bootstrap key from the AWS secret " + s.arn
}
