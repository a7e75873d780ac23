package ibmcloud

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// operation is what a request is for, and the advice when it fails.
type operation struct {
	doing    string   // "reading the API key"
	limit    int      // of the answer in bytes; 0 means network.SmallAnswer
	types    []string // of secrets that are accepted; nil means any
	host     string   // filled in by the client
	instance bool     // filled in by the client: the host is a Secrets Manager instance

	// Of a request to IAM that exchanges a credential.
	credential string // "the API key in the key secret"
	setting    string // the variables that may be wrong besides; may be empty

	// The advice by status. IAM's answers need the first only.
	rejected string // 401, and IAM's 400
	denied   string // 403
	notFound string // 404, 410
	locked   string // 412
}

// failure returns the error for an answer that is not a success. The HTTP status decides
// kind and retry, because IBM documents few of the codes in its answers. One of IAM's
// documented codes decides the text.
func (o operation) failure(got *answer, now time.Time) *rotation.Error {
	if got.status == 0 {
		peer := network.Peer{Host: o.host, Variable: "IAM_URL", Instance: o.instance}
		if o.instance {
			peer.Variable = "SECRETS_MANAGER_URL"
		}
		return peer.NoAnswer(o.doing, got.sendErr)
	}
	failure := &rotation.Error{}
	failure.Kind, failure.Retry, failure.Advice = o.byStatus(got.status)
	failure.Advice = cmp.Or(failure.Advice, "is the URL the service's own?")
	if failure.Retry == rotation.Later {
		failure.RetryAfter = got.retryAfter(now)
	}
	cause := ""
	if o.credential != "" && got.status >= 400 {
		found, help := iamtoken.Refusal(got.code(), o.credential, o.setting)
		cause, failure.Advice = found, cmp.Or(help, failure.Advice)
	}
	failure.Message = o.message(got, cause, failure.Advice)
	return failure
}

// byStatus returns what the status decides, and the advice for an answer without a known
// code, which may be empty.
func (o operation) byStatus(status int) (rotation.Kind, rotation.Retry, string) {
	switch {
	case status == http.StatusTooManyRequests && o.instance:
		return rotation.RateLimited, rotation.Later, "the instance is asked too often; if this persists, lower SECRETS_MANAGER_MAX_RPS, which all who use it share"
	case status == http.StatusTooManyRequests:
		return rotation.RateLimited, rotation.Later, "IAM is asked too often; nothing to do unless it persists"
	case status == http.StatusRequestTimeout, status >= 500:
		return rotation.Unavailable, rotation.Later, "the service is having trouble; nothing to do unless it persists"
	case status == http.StatusUnauthorized, status == http.StatusBadRequest && o.credential != "":
		return rotation.Denied, rotation.Once, o.rejected
	case status == http.StatusForbidden && o.instance:
		return rotation.Denied, rotation.Never, o.denied + "; or a context-based restriction keeps this network out"
	case status == http.StatusForbidden:
		return rotation.Denied, rotation.Never, "a network rule refuses this address: is there a context-based restriction in the account, or a proxy or firewall in between?"
	case status == http.StatusNotFound, status == http.StatusGone:
		return rotation.NotFound, rotation.Never, o.notFound
	case status == http.StatusPreconditionFailed:
		return rotation.Locked, rotation.Never, o.locked
	case status >= 300 && status < 400:
		return rotation.Misconfigured, rotation.Never, "the host redirects elsewhere, which is not followed: correct the URL"
	default:
		return rotation.Misconfigured, rotation.Never, "the service rejects the request: check the URL and the secret"
	}
}

// unusable is the error for a success whose body cannot be used.
func (o operation) unusable(got *answer) *rotation.Error {
	const advice = "is this URL the service itself, or a proxy's page?"
	return &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Advice: advice,
		Message: o.message(got, "the answer cannot be used", advice)}
}

// wrongType is the error for a secret of a type that is not accepted.
func (o operation) wrongType(kind string) error {
	named := strconv.QuoteToASCII(kind)
	if len(kind) > 32 { // longer than every type's name; an API key is longer still
		named = fmt.Sprintf("(%d characters, not repeated here)", len(kind))
	}
	last := len(o.types) - 1
	return misconfigured(o.doing+": the secret is of type "+named, "name one of type "+strings.Join(o.types[:last], ", ")+" or "+o.types[last])
}

// message says what was done, what was answered, why and what to do, in this order.
func (o operation) message(got *answer, cause, advice string) string {
	answered := strings.TrimSpace(fmt.Sprintf("%s answered %d %s", o.host, got.status, got.code()))
	return strings.Join(slices.DeleteFunc([]string{o.doing, answered, cause, advice}, func(part string) bool { return part == "" }), ": ")
}

// codes matches IBM's error codes. Any other text could repeat a secret. It is compiled on first use, not at init.
var codes = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(BXNIM[0-9]{4}E|secrets-manager\.Error[0-9]{5})$`)
})

// code returns IBM's error code, or "" when the body has none.
func (a *answer) code() string {
	var body struct {
		ErrorCode string `json:"errorCode"`
		Errors    []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(a.body, &body) != nil {
		return ""
	}
	if body.ErrorCode == "" && len(body.Errors) > 0 {
		body.ErrorCode = body.Errors[0].Code
	}
	if !codes().MatchString(body.ErrorCode) {
		return ""
	}
	return body.ErrorCode
}

// misconfigured is the error for what only a person can correct.
func misconfigured(found, advice string) *rotation.Error {
	return &rotation.Error{Kind: rotation.Misconfigured, Message: found + ": " + advice, Advice: advice}
}

// unavailable is the error for an answer that cannot be used.
func unavailable(message string) *rotation.Error {
	return &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Message: message}
}
