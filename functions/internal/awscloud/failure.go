package awscloud

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"iam-token-rotator/functions/internal/rotation"
)

// verdict is what a failure means for the run and for a person.
type verdict struct {
	kind   rotation.Kind
	retry  rotation.Retry
	advice string
}

var (
	denied = verdict{rotation.Denied, rotation.Never,
		"this identity may not read it: the function's role needs secretsmanager:GetSecretValue on it; new permissions take minutes"}
	deniedByKMS = verdict{rotation.Denied, rotation.Never,
		"this identity may not use the secret's KMS key: name the key in BootstrapKmsKeyArn, so that the role may decrypt with it; new permissions take minutes"}
	badCredentials = verdict{rotation.Denied, rotation.Never,
		"AWS does not take the credentials: have they expired, and is this machine's clock right?"}
	missing = verdict{rotation.NotFound, rotation.Never,
		"there is no such secret, or it has no value yet: store the key with scripts/put-bootstrap-key and check SECRETS_MANAGER_APIKEY_ARN"}
	deleted = verdict{rotation.NotFound, rotation.Never,
		"the secret cannot be read in its present state: if it is scheduled for deletion, bring it back with aws secretsmanager restore-secret"}
	undecipherable = verdict{rotation.Misconfigured, rotation.Never,
		"AWS cannot decrypt the secret: is its KMS key enabled and not scheduled for deletion?"}
	throttled = verdict{rotation.RateLimited, rotation.Later, "AWS Secrets Manager is asked too often"}
	trouble   = verdict{rotation.Unavailable, rotation.Later, "AWS Secrets Manager is having trouble; nothing to do unless it goes on"}
	unusable  = verdict{rotation.Unavailable, rotation.Later, "the answer cannot be used: does AWS_ENDPOINT_URL name the service itself, or a proxy's page?"}
	refused   = verdict{rotation.Misconfigured, rotation.Never, "AWS Secrets Manager does not take the request: check SECRETS_MANAGER_APIKEY_ARN and AWS_ENDPOINT_URL"}
)

// byCode are the error codes that AWS documents for GetSecretValue and for every
// service; anything else goes by its HTTP status.
var byCode = map[string]verdict{
	"ResourceNotFoundException":           missing,
	"InvalidRequestException":             deleted,
	"DecryptionFailure":                   undecipherable,
	"EncryptionFailure":                   undecipherable,
	"AccessDeniedException":               denied,
	"AccessDenied":                        denied,
	"ExpiredTokenException":               badCredentials,
	"ExpiredToken":                        badCredentials,
	"IncompleteSignature":                 badCredentials,
	"InvalidClientTokenId":                badCredentials,
	"InvalidSignatureException":           badCredentials,
	"MissingAuthenticationToken":          badCredentials,
	"MissingAuthenticationTokenException": badCredentials,
	"SignatureDoesNotMatch":               badCredentials,
	"UnrecognizedClientException":         badCredentials,
	"LimitExceededException":              throttled,
	"RequestLimitExceeded":                throttled,
	"Throttling":                          throttled,
	"ThrottlingException":                 throttled,
	"ThrottledException":                  throttled,
	"TooManyRequestsException":            throttled,
	"InternalServiceError":                trouble,
	"InternalFailure":                     trouble,
	"ServiceUnavailable":                  trouble,
	"ServiceUnavailableException":         trouble,
	"RequestTimeout":                      trouble,
}

// failure turns an SDK error into one of our own. The SDK's text is not passed
// on: it may repeat what a service, or something in its place, answered.
func (s *source) failure(err error) *rotation.Error {
	var response *awshttp.ResponseError
	answered := errors.As(err, &response) && response.HTTPStatusCode() != 0
	if !answered {
		return s.unanswered(err)
	}
	v := judge(err, response.HTTPStatusCode())
	if s.advise != nil {
		v = s.advise(v)
	}
	return s.because(v.kind, v.retry, v.advice)
}

func judge(err error, status int) verdict {
	var api smithy.APIError
	if errors.As(err, &api) {
		v, known := byCode[api.ErrorCode()]
		switch {
		case v == denied && strings.Contains(api.ErrorMessage(), "KMS"):
			return deniedByKMS
		case known:
			return v
		case strings.HasPrefix(api.ErrorCode(), "KMS"):
			return undecipherable
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
		return refused
	}
}

// unanswered is the error for a call to which no answer came.
func (s *source) unanswered(err error) *rotation.Error {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return s.because(rotation.Unavailable, rotation.Later, "AWS's host name does not resolve: check the ARN's region, AWS_ENDPOINT_URL and the network's DNS")
	case errors.As(err, &cert):
		return s.misconfigured("the TLS certificate of AWS Secrets Manager is not trusted: check AWS_ENDPOINT_URL, or name the CA in SSL_CERT_FILE")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &timeout) && timeout.Timeout():
		return s.because(rotation.Timeout, rotation.Later, "AWS Secrets Manager did not answer in time: "+
			"a function in a VPC reaches it through a NAT gateway or an interface endpoint")
	default:
		return s.because(rotation.Unavailable, rotation.Later, "the connection to AWS Secrets Manager failed or was closed before an answer came")
	}
}

func (s *source) misconfigured(advice string) *rotation.Error {
	return s.because(rotation.Misconfigured, rotation.Never, advice)
}

// because gives the failure its kind. The step is set by whoever asked.
func (s *source) because(kind rotation.Kind, retry rotation.Retry, advice string) *rotation.Error {
	return &rotation.Error{Kind: kind, Retry: retry, Message: s.doing + " the AWS secret " + s.arn + ": " + advice, Advice: advice}
}
