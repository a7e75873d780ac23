package awscloud

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/smithy-go"

	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// cause is why AWS did not do what it was asked for.
type cause int

const (
	badRequest cause = iota // what no other cause covers
	redirected
	denied
	deniedWithoutCode
	deniedByPolicy
	deniedByKMS
	expired
	wrongClock
	unknownKey
	badSignature
	missing
	otherContent
	deleted
	managed
	badState
	replica
	full
	badKMSKey
	otherType
	pattern
	policies
	throttled
	trouble
	unusable
)

// refusal is an answer that is no success.
type refusal struct {
	status int
	code   string // AWS's error code; empty when it is none of those in causeOfCode, and could be anything
	cause  cause
}

// String is the status and the code: "400 AccessDeniedException".
func (r refusal) String() string { return strings.TrimSpace(fmt.Sprint(r.status, " ", r.code)) }

// refusalOf reads the SDK's error. It is false when no answer came. The answer's text
// decides about some causes and is not kept: it may repeat what was sent.
func refusalOf(err error) (r refusal, answered bool) {
	var response interface {
		error
		HTTPStatusCode() int
	}
	if !errors.As(err, &response) || response.HTTPStatusCode() == 0 {
		return refusal{}, false
	}
	var found apiError
	var api smithy.APIError
	if errors.As(err, &api) {
		found = apiError{api.ErrorCode(), api.ErrorMessage()}
	}
	return newRefusal(response.HTTPStatusCode(), found), true
}

// apiError is the code and the message of an answer.
type apiError struct{ code, message string }

func newRefusal(status int, api apiError) refusal {
	r := refusal{status: status}
	if found, known := causeOfCode(api.code, strings.ToLower(api.message)); known {
		r.code, r.cause = api.code, found
		return r
	}
	switch {
	case r.status == http.StatusTooManyRequests:
		r.cause = throttled
	case r.status == http.StatusRequestTimeout, r.status >= 500:
		r.cause = trouble
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden:
		r.cause = deniedWithoutCode
	case r.status >= 200 && r.status < 300:
		r.cause = unusable
	case r.status >= 300 && r.status < 400:
		r.cause = redirected
	}
	return r
}

// causeOfCode goes by the error codes that AWS documents for the operations used here,
// for KMS behind them and for every service, and where one code has several causes by
// the message, in small letters.
func causeOfCode(code, message string) (found cause, known bool) {
	says := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(message, part) })
	}
	switch code {
	case "ResourceNotFoundException", "ParameterNotFound":
		return missing, true
	case "ResourceExistsException":
		return otherContent, true
	case "LimitExceededException", "ParameterMaxVersionLimitExceeded":
		return full, true
	case "InvalidRequestException":
		switch {
		case says("deletion", "deleted"):
			return deleted, true
		case says("managed by", "owned by"):
			return managed, true
		}
		return badState, true
	case "InvalidAccountIdException", "InvalidArgument", "MalformedDetail", "RedactionFailure": // of EventBridge
		return badRequest, true
	case "InvalidParameterException", "ValidationException":
		if says("replica") {
			return replica, true
		}
		return badRequest, true
	case "HierarchyTypeMismatchException", "UnsupportedParameterType":
		return otherType, true
	case "ParameterPatternMismatchException", "InvalidAllowedPatternException":
		return pattern, true
	case "IncompatiblePolicyException", "InvalidPolicyAttributeException", "InvalidPolicyTypeException", "PoliciesLimitExceededException":
		return policies, true
	case "AccessDeniedException", "AccessDenied":
		switch {
		case says("kms:", "access to kms"): // an action or an ARN of KMS; no secret's name has a colon
			return deniedByKMS, true
		case says("explicit deny", "vpc endpoint policy", "service control policy", "resource control policy", "permissions boundary"):
			return deniedByPolicy, true
		}
		return denied, true
	case "InvalidIdentityToken", "UnauthorizedException", // of AWS STS and of IAM Identity Center
		"NotAuthorizedForSourceException", "NotAuthorizedForDetailTypeException": // of EventBridge
		return denied, true
	case "ExpiredTokenException", "ExpiredToken":
		return expired, true
	case "RequestExpired", "RequestTimeTooSkewed":
		return wrongClock, true
	case "SignatureDoesNotMatch", "InvalidSignatureException":
		if says("signature expired", "not yet current") {
			return wrongClock, true
		}
		return badSignature, true
	case "IncompleteSignature", "IncompleteSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException":
		return badSignature, true
	case "InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException":
		return unknownKey, true
	case "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown", "Throttling", "ThrottlingException",
		"ThrottledException", "TooManyRequestsException", "TooManyUpdates", "KMSThrottlingException":
		return throttled, true
	case "InternalException", "InternalFailure", "InternalServerError", "InternalServiceError", "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable",
		"ServiceUnavailableException", "DependencyTimeoutException", "KeyUnavailableException", "KMSInternalException":
		return trouble, true
	case "KMSAccessDeniedException":
		return deniedByKMS, true
	case "DecryptionFailure", "EncryptionFailure", "DisabledException", "InvalidKeyId", "InvalidKeyUsageException", "KMSDisabledException",
		"KMSInvalidKeyUsageException", "KMSInvalidStateException", "KMSNotFoundException", "KMSOptInRequired":
		return badKMSKey, true
	}
	return 0, false
}

// resource is a secret, a parameter or an event bus of AWS, as errors name it.
type resource struct {
	arn     string // "" for a bus, whose name is not repeated: it may be something else
	source  *credentialSource
	mirror  bool // it holds a token, not the bootstrap key
	written bool // the bootstrap key is put into it, not read
	bus     bool
}

func (s *resource) isParameter() bool { return rotation.IsParameter(s.arn) }

func (s *resource) service() string {
	switch {
	case s.bus:
		return "Amazon EventBridge"
	case s.isParameter():
		return "SSM Parameter Store"
	}
	return "AWS Secrets Manager"
}

// failure turns an SDK error into one of our own. The SDK's text is not passed
// on: it may repeat what a service, or something in its place, answered.
func (s *resource) failure(err error) *rotation.Error {
	refused, answered := refusalOf(err)
	if !answered {
		variable := "the ARN's region and AWS_ENDPOINT_URL"
		if s.bus {
			variable = "the bus's region and AWS_ENDPOINT_URL"
		}
		return network.Peer{Host: s.service(), Variable: variable,
			NoWay: "a function in a VPC reaches it through a NAT gateway or an interface endpoint"}.NoAnswer(s.doing(), err)
	}
	return s.refusedBy(refused)
}

func (s *resource) refusedBy(refused refusal) *rotation.Error {
	kind, retry, advice := s.explain(refused.cause)
	if refused.cause == expired && !s.source.forget() {
		retry = rotation.Never
	}
	failure := s.because(kind, retry, advice)
	failure.Message = s.doing() + ": " + s.service() + " answered " + refused.String() + ": " + advice
	return failure
}

// explain says what a cause means for the run, and what to do about it.
func (s *resource) explain(c cause) (rotation.Kind, rotation.Retry, string) {
	if kind, advice := explainParameter(c); kind != "" && s.isParameter() {
		return kind, rotation.Never, advice
	}
	if kind, advice := explainBus(c); kind != "" && s.bus {
		return kind, rotation.Never, advice
	}
	switch c {
	case denied, deniedWithoutCode, deniedByPolicy, deniedByKMS:
		return rotation.Denied, rotation.Never, s.permission(c)
	case expired, wrongClock, unknownKey, badSignature:
		return explainCredentials(c)
	case missing:
		return rotation.NotFound, rotation.Never, "there is no such secret" +
			s.either(", or it has no value yet: store the key with rotatorctl put-key and check SECRETS_MANAGER_APIKEY_ARN",
				": create it (the function creates none), and give its whole ARN in mirror")
	case deleted:
		return rotation.NotFound, rotation.Never, "the secret is scheduled for deletion: restore it with aws secretsmanager restore-secret" +
			s.either("", ", or take it out of mirror")
	case managed:
		return rotation.Misconfigured, rotation.Never, "another AWS service manages the secret, and it alone may change it: " +
			s.either("store the key in a secret of your own with rotatorctl put-key", "name a secret of your own in mirror")
	case badState:
		return rotation.Misconfigured, rotation.Never, "the secret's state does not allow it: aws secretsmanager describe-secret shows " +
			"whether it is scheduled for deletion (restore-secret), managed by another service or being rotated"
	case replica:
		return rotation.Misconfigured, rotation.Never, "the secret is a replica, which only AWS writes: name the primary secret, by the ARN of its " +
			"own region, in " + s.either("SECRETS_MANAGER_APIKEY_ARN", "mirror") + "; AWS replicates each version"
	case otherContent:
		return rotation.Misconfigured, rotation.Never, "the secret already has this version, with another content, which stays" +
			s.either("", ": the next rotation saves a new version")
	case full:
		return rotation.RateLimited, rotation.Never, "the secret has 100 versions, and AWS removes none that is younger than 24 hours: it takes new ones " +
			"when the oldest is a day old. Find what else writes to it (CloudTrail: PutSecretValue)" + s.either("", ", or name a new secret in mirror")
	case badKMSKey:
		return rotation.Misconfigured, rotation.Never, "AWS cannot use the secret's KMS key: aws kms describe-key shows whether it is disabled (enable-key), " +
			"pending deletion (cancel-key-deletion) or gone (give the secret another: aws secretsmanager update-secret --kms-key-id)"
	case throttled:
		return rotation.RateLimited, rotation.Later, "too many requests; nothing to do unless it persists"
	case trouble:
		return rotation.Unavailable, rotation.Later, "the service is having trouble; nothing to do unless it persists"
	case unusable:
		return rotation.Unavailable, rotation.Later, "the response cannot be used: does AWS_ENDPOINT_URL name the service itself, or a proxy's page?"
	case redirected:
		return rotation.Misconfigured, rotation.Never, "it redirects elsewhere, which is not followed: correct AWS_ENDPOINT_URL"
	default:
		return rotation.Misconfigured, rotation.Never, "the request is rejected: check " +
			s.either("SECRETS_MANAGER_APIKEY_ARN", "the ARN in mirror") + " and AWS_ENDPOINT_URL"
	}
}

// explainParameter has what is different for a parameter; no kind where nothing is.
func explainParameter(c cause) (rotation.Kind, string) {
	switch c {
	case missing:
		return rotation.NotFound, "there is no such parameter in the function's account and the ARN's region: create it as a SecureString (the function creates none), and give its ARN in mirror"
	case full:
		return rotation.Misconfigured, "the parameter has 100 versions, and AWS does not remove the oldest, because it has a label: take the label off it (aws ssm unlabel-parameter-version)"
	case otherType:
		return rotation.Misconfigured, "it is not a SecureString: the token would be there in the clear. Delete the parameter, and create it with --type SecureString"
	case pattern:
		return rotation.Misconfigured, "its AllowedPattern does not admit a token: take that off the parameter"
	case policies:
		return rotation.Misconfigured, "its policies do not allow it: aws ssm describe-parameters shows them"
	case badKMSKey:
		return rotation.Misconfigured, "AWS cannot use the parameter's KMS key: aws kms describe-key shows whether it is disabled (enable-key), " +
			"pending deletion (cancel-key-deletion) or gone (give the parameter another: aws ssm put-parameter --overwrite --key-id)"
	}
	return "", ""
}

// permission is the advice for a request that is not allowed.
func (s *resource) permission(c cause) string {
	switch {
	case c == deniedWithoutCode:
		return "the answer has no error code of AWS's: a proxy in between may refuse (HTTPS_PROXY, AWS_ENDPOINT_URL), or " + s.permission(denied)
	case c == deniedByPolicy:
		return "a policy denies it, or one that must allow it does not: the role's own, its boundary, the secret's, the organization's or the VPC endpoint's"
	case s.bus:
		return "let the function's role call events:PutEvents on the bus: name it in EventBusName; a bus of another account needs a policy of its own; new permissions take minutes"
	case s.written:
		return "let the function's role call secretsmanager:PutSecretValue on it, and kms:GenerateDataKey with a KMS key of your own (BootstrapKeySecret allows both)"
	case c == deniedByKMS && s.isParameter():
		return "the role may not use the parameter's KMS key: let it call kms:Encrypt with that key, or kms:GenerateDataKey if the parameter is an advanced one: name the key in MirrorKmsKeyArn"
	case c == deniedByKMS:
		return "the role may not use the secret's KMS key: " +
			s.either("name the key in BootstrapKmsKeyArn; new permissions take minutes", "let it call kms:GenerateDataKey and kms:Decrypt with that key") +
			". From another account it must be a key of your own, not aws/secretsmanager"
	case s.isParameter():
		return "the function's role needs ssm:PutParameter on it, and ssm:DescribeParameters: name it in MirrorParameterArns; new permissions take minutes"
	default:
		return "the function's role needs " +
			s.either("secretsmanager:GetSecretValue on it", "secretsmanager:DescribeSecret and PutSecretValue on it: name it in MirrorSecretArns") +
			"; new permissions take minutes"
	}
}

// explainCredentials says what is wrong with what signed the request. A next attempt
// helps where the SDK obtains new credentials, or has learned AWS's time.
func explainCredentials(c cause) (rotation.Kind, rotation.Retry, string) {
	switch c {
	case expired:
		return rotation.Denied, rotation.Once, "the AWS credentials have expired: log in again (aws sso login), or export new ones"
	case wrongClock:
		return rotation.Denied, rotation.Once, "this machine's clock is more than 5 minutes off AWS's, or the request was held up on its way: correct the clock (NTP)"
	case unknownKey:
		return rotation.Denied, rotation.Never, "AWS does not know the access key: it is deleted or inactive, its AWS_SESSION_TOKEN is missing, or it is of another partition"
	default:
		return rotation.Denied, rotation.Never, "the request's signature is wrong: is AWS_SECRET_ACCESS_KEY the one of AWS_ACCESS_KEY_ID, and does a proxy change requests?"
	}
}

// either returns the text for the bootstrap key's secret, or for a mirror.
func (s *resource) either(key, mirror string) string {
	if s.mirror {
		return mirror
	}
	return key
}

func (s *resource) misconfigured(advice string) *rotation.Error {
	return s.because(rotation.Misconfigured, rotation.Never, advice)
}

// because gives the failure its kind. The step is set by whoever asked.
func (s *resource) because(kind rotation.Kind, retry rotation.Retry, advice string) *rotation.Error {
	return &rotation.Error{Kind: kind, Retry: retry, Message: s.doing() + ": " + advice, Advice: advice}
}

func (s *resource) doing() string {
	switch {
	case s.bus:
		return "putting it on the bus of EVENT_BUS_NAME"
	case s.isParameter():
		return "mirroring the token to the AWS parameter " + s.arn
	case s.mirror:
		return "mirroring the token to the AWS secret " + s.arn
	case s.written:
		return "storing the new bootstrap key in the AWS secret " + s.arn
	default:
		return "reading the bootstrap key from the AWS secret " + s.arn
	}
}
