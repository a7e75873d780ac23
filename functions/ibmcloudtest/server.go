package ibmcloudtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Transport returns a RoundTripper that answers in the caller's goroutine, whatever host the
// request names, without a socket. A delay ends early with the request's context. A dropped
// connection returns the error of a connection reset: a *net.OpError around ECONNRESET.
func (c *Cloud) Transport() http.RoundTripper { return transport{c} }

type transport struct{ cloud *Cloud }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	out, err := t.cloud.answer(r)
	if errors.Is(err, errDropped) {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", out.status, http.StatusText(out.status)), StatusCode: out.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: out.header,
		Body: io.NopCloser(bytes.NewReader(out.body)), ContentLength: int64(len(out.body)), Request: r,
	}, nil
}

// ServeHTTP answers a request to any of the services, or to the control interface if [IsLocal] allows
// it. A fault that drops the connection closes it (HTTP/1) or resets the stream (HTTP/2).
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var out reply
	var err error
	if ofControl(r.URL.Path) && !IsLocal(r, c.host) {
		out = c.errorReply(&call{request: r, operation: &operation{}}, fail(http.StatusForbidden, "forbidden",
			"The control interface answers only its own origin, and the Hosts 127.0.0.1, ::1, localhost and that of -addr."))
	} else {
		out, err = c.answer(r)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection, or resets the stream, without an answer
	}
	maps.Copy(w.Header(), out.header)
	if out.status != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(out.body)))
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // the caller may be gone
}

// errDropped means that the connection is to be closed without an answer.
var errDropped = errors.New("connection dropped")

// answer finds the request's operation, applies the faults and serves it. It returns errDropped for a
// dropped connection, and the context's error when the caller gave up during a delay.
func (c *Cloud) answer(r *http.Request) (reply, error) {
	entry := Request{At: c.now(), Method: c.shownPath(r.Method), Path: c.shownPath(r.URL.Path)}
	found, params, methods := findOperation(r)
	if found == nil {
		out := c.noOperation(r, methods)
		if entry.Status = out.status; !ofControl(r.URL.Path) {
			c.logRequest(entry)
		}
		return out, nil
	}
	in, err := c.newCall(r, found, params)
	if err != nil {
		return reply{}, err
	}
	if found.service == serviceControl {
		return c.perform(in), nil
	}
	out, err := c.answerWithFaults(in)
	entry.Op, entry.Identity, entry.Status = found.name, in.class(), out.status
	c.logRequest(entry)
	return out, err
}

// noOperation answers a request that matches no operation: 405 if the path has other methods, else 404.
func (c *Cloud) noOperation(r *http.Request, methods []string) reply {
	as, e := serviceSecretsManager, notFound("requested path")
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/identity/"):
		as = serviceIAM
	case strings.HasPrefix(path, "/v1/apikeys"), strings.HasPrefix(path, "/v1/serviceids"):
		as = serviceAPIKeys
	case ofControl(path):
		e.message = controlPaths()
	}
	if len(methods) > 0 {
		e = fail(http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed on this path.")
	}
	out := c.errorReply(&call{request: r, operation: &operation{service: as}, transaction: uuid.NewString()}, e)
	if len(methods) > 0 {
		out.header.Set("Allow", strings.Join(methods, ", "))
	}
	return out
}

// perform serves a call and renders the result: the body as JSON, or the error.
func (c *Cloud) perform(in *call) reply {
	in.now = c.now()
	body, err := c.serve(in)
	if err != nil {
		return c.errorReply(in, err)
	}
	status := http.StatusOK
	if in.request.Method == http.MethodPost && in.operation.service >= serviceAPIKeys {
		status = http.StatusCreated
	}
	switch answer := body.(type) {
	case reply:
		return answer
	case nil:
		return c.reply(in, http.StatusNoContent, "", nil)
	case object:
		out := c.jsonReply(in, status, answer)
		if tag, ok := answer["entity_tag"].(string); ok {
			out.header.Set("ETag", tag)
		}
		return out
	}
	return c.jsonReply(in, status, body)
}

// serve calls the operation's handler. Except at IAM and the control interface, the caller needs a valid
// token and the permission for the operation.
func (c *Cloud) serve(in *call) (any, error) {
	o := in.operation
	switch {
	case o.serve == nil:
		return nil, doesNotServe(c.shownPath(in.request.Method) + " " + c.shownPath(in.request.URL.Path))
	case in.bodyError != nil:
		return nil, in.bodyError
	case o.service == serviceControl, o.service == serviceIAM:
		return o.serve(c, in)
	case in.tokenError != nil:
		return nil, fail(http.StatusUnauthorized, "unauthorized", "Authentication failed: "+in.tokenError.Error()+".")
	case o.service == serviceLogsRouting && in.caller.class != IdentityWorkload:
		return nil, fail(http.StatusForbidden, "forbidden", "The caller lacks the permission to view Logs Routing.")
	case o.service == serviceLogsRouting:
		return o.serve(c, in)
	}
	defer c.lock()()
	c.catchUp(in.now)
	if err := c.authorize(in); err != nil {
		return nil, err
	}
	return o.serve(c, in)
}

// A reply is the answer to a request.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// reply makes an answer with the date of the cloud's clock. An answer of IAM also has the Transaction-Id.
func (c *Cloud) reply(in *call, status int, contentType string, body []byte) reply {
	header := http.Header{"Date": {c.now().UTC().Format(http.TimeFormat)}}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	if in.operation.service == serviceIAM {
		header.Set("Transaction-Id", in.transaction)
	}
	return reply{status, header, body}
}

func (c *Cloud) jsonReply(in *call, status int, v any) reply {
	return c.reply(in, status, mediaJSON, mustJSON(v))
}

// wait waits for d, or until the caller gives up, and returns the context's error in the latter case.
func wait(r *http.Request, d time.Duration) error {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
	return r.Context().Err()
}

// An apiError is an answer other than success.
type apiError struct {
	status  int
	code    string
	message string
	details string // further explanation, often empty
	target  string // the property that is wrong, empty if none is
}

func (e *apiError) Error() string { return e.message }

func fail(status int, code, message string) *apiError {
	return &apiError{status: status, code: code, message: message}
}

func badRequest(message string) *apiError { return fail(http.StatusBadRequest, "bad_request", message) }

// badField is the error for one property of the request, for example "name is required".
func badField(name, rule string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "bad_request", message: name + " " + rule + ".", target: name}
}

func notFound(what string) *apiError {
	return fail(http.StatusNotFound, "not_found", "The "+what+" was not found.")
}

func forbidden(a action) *apiError {
	return fail(http.StatusForbidden, "forbidden", "The caller lacks the action secrets-manager."+string(a)+".")
}

// doesNotServe is the error for what IBM offers but this cloud does not.
func doesNotServe(what string) *apiError {
	return fail(http.StatusNotImplemented, "not_implemented", "The sandbox does not serve "+what+".")
}

// errorReply renders err in the JSON of the operation's service. The schema of IAM Identity Services (API
// keys and service ids) requires a message_code but IBM publishes no values, so it is always the same. All
// other services but IAM use the errors of IBM's API handbook.
func (c *Cloud) errorReply(in *call, err error) reply {
	var e *apiError
	if !errors.As(err, &e) {
		e = badRequest(err.Error())
	}
	problem := object{"code": e.code, "message": e.message}
	body := object{"errors": []object{problem}, "status_code": e.status, "trace": cmp.Or(in.transaction, uuid.NewString())}
	switch in.operation.service {
	case serviceIAM:
		body = object{"errorCode": e.code, "errorMessage": e.message, "context": c.errorContext(in)}
		body.set("errorDetails", e.details)
	case serviceAPIKeys:
		problem["message_code"], body["status_code"] = "BXNIM0000E", strconv.Itoa(e.status)
		problem.set("details", cmp.Or(e.details, e.target))
		about := c.errorContext(in)
		body["context"] = object{
			"transaction_id": in.transaction, "operation": in.request.Method, "user_agent": about["userAgent"], "url": about["url"],
			"host": about["host"], "instance_id": about["instanceId"], "thread_id": about["threadId"], "cluster_name": about["clusterName"],
			"start_time": about["startTime"], "end_time": about["endTime"], "elapsed_time": about["elapsedTime"],
		}
	default:
		if e.target != "" {
			problem["target"] = object{"type": "field", "name": e.target}
		}
	}
	return c.jsonReply(in, e.status, body)
}

// errorContext describes the request in an error of IAM. Of the request's headers it repeats only the user
// agent and the Transaction-Id.
func (c *Cloud) errorContext(in *call) object {
	r, now := in.request, c.now().UTC().Format("02.01.2006 15:04:05:000 MST")
	ip, _, _ := net.SplitHostPort(r.RemoteAddr) // none in process
	return object{
		"requestId": in.transaction, "requestType": "incoming.Identity_Token", "userAgent": r.UserAgent(), "clientIp": cmp.Or(ip, "127.0.0.1"),
		"url": "https://" + host(r) + c.shownPath(r.URL.Path), "instanceId": "iamid-1", "threadId": "1", "host": "iamid-1",
		"startTime": now, "endTime": now, "elapsedTime": "0", "locale": "en_US", "clusterName": "iam-id-sandbox",
	}
}

// timestamp is a time as Secrets Manager writes it, in milliseconds.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// An object is the body of an answer, or a part of it.
type object map[string]any

// set adds a member unless its value is zero.
func (o object) set(name string, value any) {
	switch v := value.(type) {
	case string:
		if v == "" {
			return
		}
	case json.RawMessage:
		if len(v) == 0 {
			return
		}
	case time.Time:
		if v.IsZero() {
			return
		}
		value = timestamp(v)
	}
	o[name] = value
}
