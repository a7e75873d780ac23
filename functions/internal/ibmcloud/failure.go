package ibmcloud

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// operation is the purpose of a call, and the advice when it fails.
type operation struct {
	doing    string // "reading the API key"
	limit    int    // of the answer in bytes; 0 means network.SmallAnswer
	host     string
	instance bool   // the host is a Secrets Manager instance, which may be private-only
	rejected string // advice on 401, and on IAM's 400
	denied   string // advice on 403
	notFound string // advice on 404; empty for IAM, which has nothing to miss
	locked   string // advice on 412; empty for IAM, which has no locks
}

// failure turns an answer that is no success into an error, by HTTP status: the
// codes in error bodies are not all documented.
func (o operation) failure(got *wireResponse, now time.Time) *rotation.Error {
	if got.status == 0 {
		return o.unanswered(got.err)
	}
	switch status := got.status; {
	case status == http.StatusTooManyRequests:
		return o.later(rotation.RateLimited, got, now, o.busy())
	case status == http.StatusRequestTimeout, status >= 500:
		return o.later(rotation.Unavailable, got, now, "the service is having trouble; nothing to do unless it persists")
	case status == http.StatusUnauthorized:
		return o.because(rotation.Denied, rotation.Once, got, o.rejected)
	case status == http.StatusForbidden:
		return o.because(rotation.Denied, rotation.Never, got, o.denied)
	case status == http.StatusNotFound:
		return o.because(rotation.NotFound, rotation.Never, got, o.notFound)
	case status == http.StatusPreconditionFailed:
		return o.because(rotation.Locked, rotation.Never, got, o.locked)
	case status >= 300 && status < 400:
		return o.because(rotation.Misconfigured, rotation.Never, got, "the host redirects elsewhere, which is not followed: correct the URL")
	default:
		return o.because(rotation.Misconfigured, rotation.Never, got, "the service rejects the request: check the URL and the secret")
	}
}

// unanswered is the error for a call to which no answer came.
func (o operation) unanswered(err error) *rotation.Error {
	peer := network.Peer{Host: o.host, Variable: "IAM_URL"}
	if o.instance {
		peer.Variable, peer.Instance = "SECRETS_MANAGER_URL", true
	}
	return peer.NoAnswer(o.doing, err)
}

// busy is the advice on 429.
func (o operation) busy() string {
	if o.instance {
		return "the instance is asked too often; if this persists, lower SECRETS_MANAGER_MAX_RPS, which all who use it share"
	}
	return "IAM is asked too often; nothing to do unless it persists"
}

// unusable is the error for a success whose body cannot be used.
func (o operation) unusable(got *wireResponse) *rotation.Error {
	return o.because(rotation.Unavailable, rotation.Later, got, "the answer cannot be used: is this URL the service itself, or a proxy's page?")
}

func (o operation) later(kind rotation.Kind, got *wireResponse, now time.Time, advice string) *rotation.Error {
	failure := o.because(kind, rotation.Later, got, advice)
	failure.RetryAfter = got.retryAfter(now)
	return failure
}

func (o operation) because(kind rotation.Kind, retry rotation.Retry, got *wireResponse, advice string) *rotation.Error {
	if advice == "" {
		advice = "is the URL the service's own?"
	}
	message := fmt.Sprintf("%s: %s answered %d", o.doing, o.host, got.status)
	if code := got.code(); code != "" {
		message += " " + code
	}
	return &rotation.Error{Kind: kind, Retry: retry, Message: message + ": " + advice, Advice: advice}
}

// isCode reports whether text looks like an IBM error code: BXNIM0415E,
// secrets-manager.Error07012. Anything else could repeat a secret.
func isCode(text string) bool {
	const digits, letters = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if number, ok := strings.CutPrefix(text, "secrets-manager.Error"); ok {
		return len(number) == 5 && strings.Trim(number, digits) == ""
	}
	return len(text) == len("BXNIM0415E") && strings.HasPrefix(text, "BXN") &&
		strings.Trim(text[3:5]+text[9:], letters) == "" && strings.Trim(text[5:9], digits) == ""
}

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
	if len(body.Errors) > 0 {
		code = body.Errors[0].Code
	}
	if !isCode(code) {
		return ""
	}
	return code
}
