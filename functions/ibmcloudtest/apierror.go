package ibmcloudtest

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

// An apiError is an answer other than success.
type apiError struct {
	status  int
	code    string
	message string
	target  string // the property at fault, if one is
}

func (e *apiError) Error() string { return e.message }

var errNoToken = errors.New("the request carries no bearer token")

func fail(status int, code, message string) *apiError {
	return &apiError{status: status, code: code, message: message}
}

func badRequest(message string) *apiError {
	return fail(http.StatusBadRequest, "bad_request", message)
}

// badField refuses a property of the request: "name is required".
func badField(name, rule string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "bad_request", message: name + " " + rule + ".", target: name}
}

func notFound(what string) *apiError {
	return fail(http.StatusNotFound, "not_found", "The "+what+" was not found.")
}

func forbidden(a action) *apiError {
	return fail(http.StatusForbidden, "forbidden", "The caller lacks the action secrets-manager."+string(a)+".")
}

// locked is Secrets Manager's answer to a change that a lock forbids.
func locked() *apiError {
	return fail(http.StatusPreconditionFailed, "secrets-manager.Error07012",
		"The requested action can't be completed because the secret version is locked.")
}

// errorReply renders err as the operation's service does.
func (c *Cloud) errorReply(in *call, err error) reply {
	var e *apiError
	if !errors.As(err, &e) {
		e = fail(http.StatusInternalServerError, "internal_error", err.Error())
	}
	if in.operation.service == serviceIAM {
		return jsonReply(e.status, c.iamError(in.request, in.transaction, e))
	}
	return jsonReply(e.status, commonError(e))
}

// commonError is the error body of Secrets Manager, Logs Routing and IBM's API handbook.
func commonError(e *apiError) any {
	problem := map[string]any{"code": e.code, "message": e.message}
	if e.target != "" {
		problem["target"] = map[string]string{"type": "field", "name": e.target}
	}
	return map[string]any{"errors": []any{problem}, "status_code": e.status, "trace": newUUID()}
}

// iamError is IAM's error body. It repeats nothing of the request but its user agent and Transaction-Id.
func (c *Cloud) iamError(r *http.Request, transaction string, e *apiError) any {
	const stamp = "02.01.2006 15:04:05:000 MST"
	now := c.now().UTC()
	return map[string]any{
		"errorCode":    e.code,
		"errorMessage": e.message,
		"context": map[string]string{
			"requestId":   transaction,
			"requestType": "incoming.Identity_Token",
			"userAgent":   r.UserAgent(),
			"clientIp":    clientIP(r),
			"url":         "https://" + host(r) + r.URL.Path,
			"instanceId":  "iamid-1",
			"threadId":    "1",
			"host":        "iamid-1",
			"startTime":   now.Format(stamp),
			"endTime":     now.Format(stamp),
			"elapsedTime": "0",
			"locale":      "en_US",
			"clusterName": "iam-id-sandbox",
		},
	}
}

func clientIP(r *http.Request) string {
	ip, _, found := cutLast(r.RemoteAddr, ":")
	if !found {
		return "127.0.0.1"
	}
	return strings.Trim(ip, "[]")
}

// timestamp is a time as Secrets Manager writes it, in milliseconds.
func timestamp(t time.Time) string {
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
