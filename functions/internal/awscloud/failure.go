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

// cause is why AWS has refused a request.
type cause int

const (
	badRequest cause = iota // any that is not below
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
	labeled
	badKMSKey
	otherType
	pattern
	policies
	throttled
	trouble
	unusable
)

// causes lists, by cause, what it means for the run, and the error codes that AWS documents:
// for the operations used here, for KMS and for every service. It is an array, because a map
// would be built at every start.
var causes = [...]struct {
	kind  rotation.Kind
	retry rotation.Retry
	codes string
}{
	badRequest: {rotation.Misconfigured, rotation.Never, "InvalidParameterException ValidationException InvalidAccountIdException " +
		"InvalidArgument MalformedDetail RedactionFailure"},
	redirected: {rotation.Misconfigured, rotation.Never, ""},
	denied: {rotation.Denied, rotation.Never, "AccessDeniedException AccessDenied InvalidIdentityToken UnauthorizedException " +
		"NotAuthorizedForSourceException NotAuthorizedForDetailTypeException"},
	deniedWithoutCode: {rotation.Denied, rotation.Never, ""},
	deniedByPolicy:    {rotation.Denied, rotation.Never, ""},
	deniedByKMS:       {rotation.Denied, rotation.Never, "KMSAccessDeniedException"},
	expired:           {rotation.Denied, rotation.Once, "ExpiredTokenException ExpiredToken"},
	wrongClock:        {rotation.Denied, rotation.Once, "RequestExpired RequestTimeTooSkewed"},
	unknownKey:        {rotation.Denied, rotation.Never, "InvalidAccessKeyId InvalidClientTokenId UnrecognizedClientException"},
	badSignature: {rotation.Denied, rotation.Never, "SignatureDoesNotMatch InvalidSignatureException IncompleteSignature " +
		"IncompleteSignatureException MissingAuthenticationToken MissingAuthenticationTokenException"},
	missing:      {rotation.NotFound, rotation.Never, "ResourceNotFoundException ParameterNotFound"},
	otherContent: {rotation.Misconfigured, rotation.Never, "ResourceExistsException"},
	deleted:      {rotation.NotFound, rotation.Never, ""},
	managed:      {rotation.Misconfigured, rotation.Never, ""},
	badState:     {rotation.Misconfigured, rotation.Never, "InvalidRequestException"},
	replica:      {rotation.Misconfigured, rotation.Never, ""},
	full:         {rotation.RateLimited, rotation.Never, "LimitExceededException"},
	labeled:      {rotation.Misconfigured, rotation.Never, "ParameterMaxVersionLimitExceeded"},
	badKMSKey: {rotation.Misconfigured, rotation.Never, "DecryptionFailure EncryptionFailure DisabledException InvalidKeyId " +
		"InvalidKeyUsageException KMSDisabledException KMSInvalidKeyUsageException KMSInvalidStateException KMSNotFoundException KMSOptInRequired"},
	otherType: {rotation.Misconfigured, rotation.Never, "HierarchyTypeMismatchException UnsupportedParameterType"},
	pattern:   {rotation.Misconfigured, rotation.Never, "ParameterPatternMismatchException InvalidAllowedPatternException"},
	policies: {rotation.Misconfigured, rotation.Never, "IncompatiblePolicyException InvalidPolicyAttributeException " +
		"InvalidPolicyTypeException PoliciesLimitExceededException"},
	throttled: {rotation.RateLimited, rotation.Later, "RequestLimitExceeded RequestThrottled RequestThrottledException SlowDown " +
		"Throttling ThrottlingException ThrottledException TooManyRequestsException TooManyUpdates KMSThrottlingException"},
	trouble: {rotation.Unavailable, rotation.Later, "InternalException InternalFailure InternalServerError InternalServiceError " +
		"RequestTimeout RequestTimeoutException ServiceUnavailable ServiceUnavailableException DependencyTimeoutException KeyUnavailableException KMSInternalException"},
	unusable: {rotation.Unavailable, rotation.Later, ""},
}

// messages tells causes apart that have the same codes: if AWS's message, in lower case,
// contains one of the texts, general becomes specific.
var messages = []struct {
	general  cause
	texts    []string
	specific cause
}{
	{badState, []string{"deletion", "deleted"}, deleted},
	{badState, []string{"managed by", "owned by"}, managed},
	{badRequest, []string{"replica"}, replica},
	{denied, []string{"kms:", "access to kms"}, deniedByKMS}, // an action or an ARN of KMS; no secret's name has a colon
	{denied, []string{"explicit deny", "vpc endpoint policy", "service control policy", "resource control policy", "permissions boundary"}, deniedByPolicy},
	{badSignature, []string{"signature expired", "not yet current"}, wrongClock},
}

// refusal is an answer that is not a success.
type refusal struct {
	status int
	code   string // AWS's error code; "" unless it is in causes, since it could be any text
	cause  cause
}

// String is the status and the code: "400 AccessDeniedException".
func (r refusal) String() string { return strings.TrimSpace(fmt.Sprint(r.status, " ", r.code)) }

// refusalOf reads an SDK error; answered is false if no answer came. The answer's text may
// repeat what was sent, so it is used only to find the cause.
func refusalOf(err error) (r refusal, answered bool) {
	var response interface {
		error
		HTTPStatusCode() int
	}
	if !errors.As(err, &response) || response.HTTPStatusCode() == 0 {
		return refusal{}, false
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		return newRefusal(response.HTTPStatusCode(), api.ErrorCode(), api.ErrorMessage()), true
	}
	return newRefusal(response.HTTPStatusCode(), "", ""), true
}

func newRefusal(status int, code, message string) refusal {
	message = strings.ToLower(message)
	for known := range causes {
		if !slices.Contains(strings.Fields(causes[known].codes), code) {
			continue
		}
		for _, m := range messages {
			if m.general == cause(known) && slices.ContainsFunc(m.texts, func(text string) bool { return strings.Contains(message, text) }) {
				return refusal{status, code, m.specific}
			}
		}
		return refusal{status, code, cause(known)}
	}
	r := refusal{status: status}
	switch {
	case status == http.StatusTooManyRequests:
		r.cause = throttled
	case status == http.StatusRequestTimeout, status >= 500:
		r.cause = trouble
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		r.cause = deniedWithoutCode
	case status >= 200 && status < 300:
		r.cause = unusable
	case status >= 300 && status < 400:
		r.cause = redirected
	}
	return r
}

// purpose is what a request is for: a bit, so that a row of explanations may be for several.
type purpose int

const (
	keyRead         purpose = 1 << iota // reads the secret with the bootstrap key
	keyWrite                            // writes it
	mirrorSecret                        // a secret that mirrors the token
	mirrorParameter                     // a parameter that mirrors the token
	eventBus
	keySecret = keyRead | keyWrite
	anySecret = keySecret | mirrorSecret
	anyMirror = mirrorSecret | mirrorParameter
	anything  = anySecret | mirrorParameter | eventBus
)

// explanations has the advice for a cause: the first row with the cause and the purpose.
var explanations = []struct {
	cause    cause
	purposes purpose
	advice   string
}{
	{denied, keyRead, "the function's role needs secretsmanager:GetSecretValue on it; new permissions take minutes"},
	{denied, keyWrite, putKeyPermission},
	{denied, mirrorSecret, "the function's role needs secretsmanager:DescribeSecret and PutSecretValue on it: name it in " +
		"MirrorSecretArns; new permissions take minutes"},
	{denied, mirrorParameter, "the function's role needs ssm:PutParameter on it, and ssm:DescribeParameters: name it in " +
		"MirrorParameterArns; new permissions take minutes"},
	{denied, eventBus, busPermission},
	{deniedByPolicy, anything, "a policy denies it, or one that must allow it does not: the role's own, its boundary, the secret's, the " +
		"organization's or the VPC endpoint's"},
	{deniedByKMS, keyRead, "the role may not use the secret's KMS key: name the key in BootstrapKmsKeyArn; new permissions take minutes" + foreignKMSKey},
	{deniedByKMS, keyWrite, putKeyPermission},
	{deniedByKMS, mirrorSecret, "the role may not use the secret's KMS key: let it call kms:GenerateDataKey and kms:Decrypt with that key" + foreignKMSKey},
	{deniedByKMS, mirrorParameter, "the role may not use the parameter's KMS key: let it call kms:Encrypt with that key, " +
		"or kms:GenerateDataKey if the parameter is an advanced one: name the key in MirrorKmsKeyArn"},
	{deniedByKMS, eventBus, busPermission},

	// About the signature. Another attempt helps if the SDK obtains new credentials, or has learned AWS's time.
	{expired, anything, "the AWS credentials have expired: log in again (aws sso login), or export new ones"},
	{wrongClock, anything, "this machine's clock is more than 5 minutes off AWS's, or the request was held up on its way: correct the clock (NTP)"},
	{unknownKey, anything, "AWS does not know the access key: it is deleted or inactive, its AWS_SESSION_TOKEN is missing, or it is of " +
		"another partition"},
	{badSignature, anything, "the request's signature is wrong: is AWS_SECRET_ACCESS_KEY the one of AWS_ACCESS_KEY_ID, and does a proxy " +
		"change requests?"},

	{missing, keySecret, "there is no such secret, or it has no value yet: store the key with rotatorctl put-key and check " +
		"SECRETS_MANAGER_APIKEY_ARN"},
	{missing, mirrorSecret, "there is no such secret: create it (the function creates none), and give its whole ARN in mirror"},
	{missing, mirrorParameter, "there is no such parameter in the function's account and the ARN's region: " +
		"create it as a SecureString (the function creates none), and give its ARN in mirror"},
	{missing, eventBus, "there is no such bus in that account and region: create it, or correct EVENT_BUS_NAME"},
	{deleted, keySecret, "the secret is scheduled for deletion: restore it with aws secretsmanager restore-secret"},
	{deleted, mirrorSecret, "the secret is scheduled for deletion: restore it with aws secretsmanager restore-secret, or take it out of mirror"},
	{managed, keySecret, "another AWS service manages the secret, and it alone may change it: store the key in a secret of your own with " +
		"rotatorctl put-key"},
	{managed, mirrorSecret, "another AWS service manages the secret, and it alone may change it: name a secret of your own in mirror"},
	{badState, anySecret, "the secret's state does not allow it: aws secretsmanager describe-secret shows " +
		"whether it is scheduled for deletion (restore-secret), managed by another service or being rotated"},
	{replica, keySecret, "the secret is a replica, which only AWS writes: name the primary secret, by the ARN of its own region, " +
		"in SECRETS_MANAGER_APIKEY_ARN; AWS replicates each version"},
	{replica, mirrorSecret, "the secret is a replica, which only AWS writes: name the primary secret, by the ARN of its own region, " +
		"in mirror; AWS replicates each version"},
	{otherContent, keySecret, "the secret already has this version, with another content, which stays"},
	{otherContent, mirrorSecret, "the secret already has this version, with another content, which stays: the next rotation saves a new version"},
	{full, keySecret, fullSecret},
	{full, mirrorSecret, fullSecret + ", or name a new secret in mirror"},
	{labeled, mirrorParameter, "the parameter has 100 versions, and AWS does not remove the oldest, because it has a label: " +
		"remove the label (aws ssm unlabel-parameter-version)"},
	{badKMSKey, anySecret, "AWS cannot use the secret's KMS key: aws kms describe-key shows whether it is disabled (enable-key), " +
		"pending deletion (cancel-key-deletion) or gone (give the secret another: aws secretsmanager update-secret --kms-key-id)"},
	{badKMSKey, mirrorParameter, "AWS cannot use the parameter's KMS key: aws kms describe-key shows whether it is disabled (enable-key), " +
		"pending deletion (cancel-key-deletion) or gone (give the parameter another: aws ssm put-parameter --overwrite --key-id)"},
	{otherType, mirrorParameter, "it is not a SecureString: the token would be there in the clear. " +
		"Delete the parameter, and create it with --type SecureString"},
	{pattern, mirrorParameter, "its AllowedPattern does not match a token: remove it from the parameter"},
	{policies, mirrorParameter, "its policies do not allow it: aws ssm describe-parameters shows them"},

	{throttled, anything, "too many requests; nothing to do unless it persists"},
	{trouble, anything, "the service is having trouble; nothing to do unless it persists"},
	{unusable, anything, "the response cannot be used: does AWS_ENDPOINT_URL name the service itself, or a proxy's page?"},
	{redirected, anything, "it redirects elsewhere, which is not followed: correct AWS_ENDPOINT_URL"},
	{badRequest, keySecret, "the request is rejected: check SECRETS_MANAGER_APIKEY_ARN and AWS_ENDPOINT_URL"},
	{badRequest, anyMirror, "the request is rejected: check the ARN in mirror and AWS_ENDPOINT_URL"},
	{badRequest, eventBus, "the request is rejected: check EVENT_BUS_NAME and AWS_ENDPOINT_URL"},
}

const (
	putKeyPermission = "let the function's role call secretsmanager:PutSecretValue on it, and kms:GenerateDataKey with a KMS key of your " +
		"own (BootstrapKeySecret allows both)"
	busPermission = "let the function's role call events:PutEvents on the bus: name it in EventBusName; a bus of another account needs " +
		"a policy of its own; new permissions take minutes"
	foreignKMSKey = ". From another account it must be a key of your own, not aws/secretsmanager"
	fullSecret    = "the secret has 100 versions, and AWS removes none that is younger than 24 hours: it takes new ones " +
		"when the oldest is a day old. Find what else writes to it (CloudTrail: PutSecretValue)"
)

// resource is a secret, a parameter or an event bus of AWS, as errors name it.
type resource struct {
	arn     string // "" for a bus: errors do not repeat its name, which could be a secret
	purpose purpose
	source  *credentialSource
}

// names returns the names of the service and of the variable for its endpoint, and what the
// request does.
func (s *resource) names() (service, endpoint, doing string) {
	service, endpoint = "AWS Secrets Manager", "AWS_ENDPOINT_URL_SECRETS_MANAGER"
	switch s.purpose {
	case keyWrite:
		doing = "storing the new bootstrap key in the AWS secret " + s.arn
	case mirrorSecret:
		doing = "mirroring the token to the AWS secret " + s.arn
	case mirrorParameter:
		return "SSM Parameter Store", "AWS_ENDPOINT_URL_SSM", "mirroring the token to the AWS parameter " + s.arn
	case eventBus:
		return "Amazon EventBridge", "AWS_ENDPOINT_URL_EVENTBRIDGE", "putting the event on the bus of EVENT_BUS_NAME"
	default:
		doing = "reading the bootstrap key from the AWS secret " + s.arn
	}
	return service, endpoint, doing
}

// failure returns the error for an SDK error. It leaves out the SDK's text, which may repeat
// what a service, or a proxy in its place, answered.
func (s *resource) failure(err error) *rotation.Error {
	refused, answered := refusalOf(err)
	if answered {
		return s.refusalError(refused)
	}
	service, _, doing := s.names()
	variable := "the ARN's region and AWS_ENDPOINT_URL"
	if s.purpose == eventBus {
		variable = "the bus's region and AWS_ENDPOINT_URL"
	}
	return network.Peer{Host: service, Variable: variable,
		IfUnreachable: "a function in a VPC reaches it through a NAT gateway or an interface endpoint"}.NoAnswer(doing, err)
}

// refusalError is the error for an answer that is not a success.
func (s *resource) refusalError(refused refusal) *rotation.Error {
	failure := s.causeError(refused.cause)
	if refused.cause == expired && !s.source.forget() {
		failure.Retry = rotation.Never
	}
	service, _, doing := s.names()
	failure.Message = doing + ": " + service + " answered " + refused.String() + ": " + failure.Advice
	return failure
}

// causeError is the error for a cause, without status and code.
func (s *resource) causeError(c cause) *rotation.Error {
	prefix := ""
	if c == deniedWithoutCode {
		c, prefix = denied, "the answer has no error code of AWS's: a proxy in between may refuse (HTTPS_PROXY, AWS_ENDPOINT_URL), or "
	}
	for _, row := range explanations {
		if row.cause == c && row.purposes&s.purpose != 0 {
			return s.newError(causes[c].kind, causes[c].retry, prefix+row.advice)
		}
	}
	return s.causeError(badRequest) // a cause that this purpose cannot have
}

func (s *resource) misconfigured(advice string) *rotation.Error {
	return s.newError(rotation.Misconfigured, rotation.Never, advice)
}

// newError returns an error without a step, which the caller sets.
func (s *resource) newError(kind rotation.Kind, retry rotation.Retry, advice string) *rotation.Error {
	_, _, doing := s.names()
	return &rotation.Error{Kind: kind, Retry: retry, Message: doing + ": " + advice, Advice: advice}
}
