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
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// operation is the purpose of a call, and the advice when it fails.
type operation struct {
	doing    string // "reading the API key"
	limit    int    // of the answer in bytes; 0 means network.SmallAnswer
	host     string
	instance bool     // the host is a Secrets Manager instance, which may be private-only
	types    []string // of secrets that can have what is read; nil: any

	// Of a request to IAM.
	credential string // what is exchanged: "the API key in the key secret"; empty if nothing is
	setting    string // what else may be wrong; may be empty

	// Of a request to Secrets Manager, and rejected of both: the advice on
	rejected string // 401, and IAM's 400
	denied   string // 403
	notFound string // 404, 410
	locked   string // 412
}

// failure turns an answer that is no success into an error. Kind and retry go by the
// HTTP status: IBM documents few of the codes in its answers. The text goes by the code,
// if it is one of IAM's that is known here.
func (o operation) failure(got *wireResponse, now time.Time) *rotation.Error {
	if got.status == 0 {
		return o.unanswered(got.err)
	}
	code := got.code()
	cause, advice := o.refusal(code)
	failure := &rotation.Error{}
	failure.Kind, failure.Retry, failure.Advice = o.byStatus(got.status)
	if advice == "" || got.status < 400 {
		cause, advice = "", cmp.Or(failure.Advice, "is the URL the service's own?")
	}
	failure.Advice = advice
	if failure.Retry == rotation.Later {
		failure.RetryAfter = got.retryAfter(now)
	}
	failure.Message = o.message(got.status, code, cause, advice)
	return failure
}

// byStatus is what an answer's status decides, and the advice if its code says no more.
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

// refusal is what a code of IAM's says of a credential; empty if that is not known.
func (o operation) refusal(code string) (cause, advice string) {
	if o.credential == "" {
		return "", ""
	}
	return iamtoken.Refusal(code, o.credential, o.setting)
}

// unanswered is the error for a call to which no answer came.
func (o operation) unanswered(err error) *rotation.Error {
	peer := network.Peer{Host: o.host, Variable: "IAM_URL"}
	if o.instance {
		peer.Variable, peer.Instance = "SECRETS_MANAGER_URL", true
	}
	return peer.NoAnswer(o.doing, err)
}

// unusable is the error for a success whose body cannot be used.
func (o operation) unusable(got *wireResponse) *rotation.Error {
	const advice = "is this URL the service itself, or a proxy's page?"
	return &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Advice: advice,
		Message: o.message(got.status, got.code(), "the answer cannot be used", advice)}
}

// unsuitable is the error for a secret of a type that cannot have what is read, nil if it is of
// another: of one that IBM's SDK does not know, too, which it cannot decode.
func (o operation) unsuitable(got *wireResponse) error {
	var body struct {
		Type string `json:"secret_type"`
	}
	if o.types == nil || json.Unmarshal(got.body, &body) != nil || body.Type == "" || slices.Contains(o.types, body.Type) {
		return nil
	}
	kind := strconv.QuoteToASCII(body.Type)
	if len(body.Type) > maxType {
		kind = fmt.Sprintf("(%d characters, not repeated here)", len(body.Type))
	}
	last := len(o.types) - 1
	return misconfigured(o.doing+": the secret is of type "+kind, "name one of type "+strings.Join(o.types[:last], ", ")+" or "+o.types[last])
}

// maxType is longer than every type's name, and shorter than an API key.
const maxType = 32

// message is what was done, what was answered, why and what to do, in this order.
func (o operation) message(status int, code, cause, advice string) string {
	answer := strings.TrimSpace(fmt.Sprintf("%s answered %d %s", o.host, status, code))
	return strings.Join(slices.DeleteFunc([]string{o.doing, answer, cause, advice}, func(part string) bool { return part == "" }), ": ")
}

// codes are the forms of IBM's. Anything else could repeat a secret.
var codes = regexp.MustCompile(`^(BXNIM[0-9]{4}E|secrets-manager\.Error[0-9]{5})$`)

// code is IBM's error code, empty when the body has none.
func (a *wireResponse) code() string {
	var body struct {
		ErrorCode string `json:"errorCode"`
		Errors    []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(a.body, &body) != nil {
		return ""
	}
	code := body.ErrorCode
	if code == "" && len(body.Errors) > 0 {
		code = body.Errors[0].Code
	}
	if !codes.MatchString(code) {
		return ""
	}
	return code
}
