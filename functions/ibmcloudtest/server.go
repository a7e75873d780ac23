package ibmcloudtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// Names of operations, which a [Fault] and a [Request] have. The tables of operations have more. OpAny matches each of them.
const (
	OpIAMToken         = "iam.token"
	OpIAMKeys          = "iam.keys"
	OpAPIKeysGet       = "apikeys.get"
	OpAPIKeysDetails   = "apikeys.details" // by value
	OpServiceIDs       = "serviceids"
	OpGroups           = "groups"
	OpSecretsList      = "secrets.list"
	OpSecretsGet       = "secrets.get" // by name too
	OpSecretsMetadata  = "secrets.metadata"
	OpVersionsCreate   = "versions.create"
	OpVersionsGet      = "versions.get"
	OpVersionsMetadata = "versions.metadata"
	OpLocks            = "locks"
	OpTargetsList      = "targets.list"
	OpSettingsGet      = "settings.get"
	OpAny              = "*"
)

// An operation is one method on one path of one of the services.
type operation struct {
	name    string // several may share one
	service service
	action  action // in Secrets Manager: what the caller must be allowed, see Cloud.find
	method  string
	path    []string // segments; "{name}" matches any one segment
	success int      // status of a good answer

	// serve does the work and returns the body of a good answer, nil for none, or an *apiError.
	// Those of Secrets Manager and of the API keys run with c.mu held.
	serve func(c *Cloud, in *call) (any, error)
}

// A service decides who may call it and what its errors look like.
type service int

const (
	serviceIAM service = iota
	serviceAPIKeys
	serviceAccess // access groups and policies
	serviceSecretsManager
	serviceLogsRouting
)

var serviceNames = [...]string{"IAM", "API keys", "access groups", "Secrets Manager", "Logs Routing"}

var operations, operationNames = indexOperations(iamOperations, apiKeyOperations, groupOperations, secretOperations,
	versionOperations, lockOperations, logsRoutingOperations, accessOperations, notServedOperations())

// indexOperations sorts operations by their number of path segments, and lists the names that a [Fault] can have.
func indexOperations(lists ...[]operation) (index map[int][]*operation, names []string) {
	index = map[int][]*operation{}
	for _, op := range slices.Concat(lists...) {
		index[len(op.path)] = append(index[len(op.path)], &op)
		names = append(names, op.name)
	}
	for _, list := range index { // "/v2/groups/settings" before "/v2/groups/{id}"; what is served before what is not
		slices.SortStableFunc(list, func(a, b *operation) int { return cmp.Compare(a.parameters(), b.parameters()) })
	}
	return index, append(slices.Compact(names), OpAny)
}

// parameters counts those of the path.
func (o *operation) parameters() int { return strings.Count(strings.Join(o.path, "/"), "{") }

// op declares an operation, with its method and path as text.
func op(name string, s service, pattern string, success int, serve func(*Cloud, *call) (any, error)) operation {
	method, path, _ := strings.Cut(strings.TrimSuffix(pattern, "/"), " /")
	return operation{name: name, service: s, method: method, path: strings.Split(path, "/"), success: success, serve: serve}
}

// secretOp declares an operation of Secrets Manager, below /api/v2.
func secretOp(name string, a action, pattern string, success int, serve func(*Cloud, *call) (any, error)) operation {
	o := op(name, serviceSecretsManager, strings.Replace(pattern, " ", " /api/v2", 1), success, serve)
	o.action = a
	return o
}

// findOperation returns the operation for the request and its path parameters. Without one it returns the others that
// the path has, none for an unknown path. A "/" at the end makes no difference outside Secrets Manager.
func findOperation(r *http.Request) (found *operation, params []string, others []*operation) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	if strings.HasPrefix(path, "v") {
		path = strings.TrimSuffix(path, "/")
	}
	segments := strings.Split(path, "/")
	for _, candidate := range operations[len(segments)] {
		values, ok := matchPath(candidate.path, segments)
		switch {
		case !ok:
		case candidate.method == r.Method:
			return candidate, values, nil
		default:
			others = append(others, candidate)
		}
	}
	return nil, nil, others
}

// matchPath returns the unescaped segments that stand where the pattern has "{name}".
func matchPath(pattern, segments []string) (params []string, ok bool) {
	for i, want := range pattern {
		if !strings.HasPrefix(want, "{") {
			if want != segments[i] {
				return nil, false
			}
			continue
		}
		value, err := url.PathUnescape(segments[i])
		if err != nil || value == "" {
			return nil, false
		}
		params = append(params, value)
	}
	return params, true
}

// Transport returns a RoundTripper that answers in the caller's goroutine, whatever host the
// request names: no socket, no goroutine. A delay ends early with the request's context. A dropped
// connection is an error as a reset one gives it: a *net.OpError around ECONNRESET.
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

type reply struct {
	status int
	header http.Header
	body   []byte
}

// jsonReply encodes v; a nil v makes an empty body.
func jsonReply(status int, v any) reply {
	if v == nil {
		return reply{status: status, header: http.Header{}}
	}
	return reply{status, http.Header{"Content-Type": {"application/json"}}, mustJSON(v)}
}

// ServeHTTP answers a request to any of the services or to the control interface, the latter only if
// [IsLocal]. A fault that drops the connection closes it (HTTP/1) or resets the stream (HTTP/2).
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var out reply
	var err error
	if ofControl(r.URL.Path) && !IsLocal(r, c.host) {
		out = c.dated(jsonReply(http.StatusForbidden, commonError(fail(http.StatusForbidden, "forbidden",
			"The sandbox is controlled from its own origin alone, as 127.0.0.1, ::1, localhost or the host that it listens on."))))
	} else {
		out, err = c.answer(r)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection, or resets the stream, without an answer
	}
	header := w.Header()
	maps.Copy(header, out.header)
	header.Set("Content-Length", strconv.Itoa(len(out.body)))
	if out.status == http.StatusNoContent {
		header.Del("Content-Length")
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // the caller may be gone
}

// errDropped means that the connection is to be closed without an answer.
var errDropped = errors.New("connection dropped")

// answer carries a request through faults, checks and work. It returns errDropped for a dropped
// connection and the context's error when the caller gave up during a delay.
func (c *Cloud) answer(r *http.Request) (reply, error) {
	at := c.now()
	if ofControl(r.URL.Path) {
		return c.dated(c.control(r)), nil
	}
	found, params, others := findOperation(r)
	if found == nil {
		out := c.noOperation(r, others)
		c.requests.add(Request{At: at, Method: c.redactPath(r.Method), Path: c.redactPath(r.URL.Path), Status: out.status})
		return c.dated(out), nil
	}
	in, err := c.newCall(r, found, params)
	if err != nil {
		return reply{}, err
	}
	entry := Request{At: at, Op: found.name, Method: r.Method, Path: c.redactPath(r.URL.Path), Identity: in.class()}
	out, err := c.answerWithFaults(in)
	entry.Status = out.status
	c.requests.add(entry)
	return out, err
}

// noOperation answers a request that is none of the operations: 404, or 405 when the path has others.
func (c *Cloud) noOperation(r *http.Request, others []*operation) reply {
	e, as := notFound("requested path"), &operation{service: serviceSecretsManager}
	for prefix, service := range map[string]service{"/identity/": serviceIAM, "/v1/apikeys/": serviceAPIKeys, "/v1/serviceids/": serviceAPIKeys} {
		if strings.HasPrefix(r.URL.Path, prefix) {
			as.service = service
		}
	}
	var allow []string
	for _, other := range others {
		as, e = other, fail(http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed on this path.")
		allow = append(allow, other.method)
	}
	out := c.errorReply(&call{request: r, operation: as, transaction: uuid.NewString()}, e)
	if len(allow) > 0 {
		slices.Sort(allow)
		out.header.Set("Allow", strings.Join(slices.Compact(allow), ", "))
	}
	return out
}

func (c *Cloud) perform(in *call) reply {
	in.now = c.now()
	body, err := c.checkedServe(in)
	out := jsonReply(in.operation.success, body)
	if err != nil {
		out = c.errorReply(in, err)
	}
	if in.operation.service == serviceIAM {
		out.header.Set("Transaction-Id", in.transaction)
	}
	if body, ok := body.(object); ok && err == nil && body["entity_tag"] != nil {
		out.header.Set("ETag", body["entity_tag"].(string))
	}
	return c.dated(out)
}

// checkedServe lets the operation serve a request that, beyond IAM, bears a good token of somebody who may do that.
func (c *Cloud) checkedServe(in *call) (any, error) {
	o := in.operation
	switch {
	case o.serve == nil:
		return nil, doesNotServe(o.method + " /" + strings.Join(o.path, "/"))
	case in.unreadable != nil:
		return nil, in.unreadable
	case o.service == serviceIAM:
		return o.serve(c, in)
	}
	if in.refused != nil {
		return nil, fail(http.StatusUnauthorized, "unauthorized", "Authentication failed: "+in.refused.Error()+".")
	}
	if o.service == serviceLogsRouting {
		if in.caller.class != IdentityWorkload {
			return nil, fail(http.StatusForbidden, "forbidden", "The caller lacks the permission to view Logs Routing.")
		}
		return o.serve(c, in)
	}
	defer c.lock()()
	c.play(in.now)
	if in.tooLarge {
		return nil, c.tooLarge("body")
	}
	find := c.find
	switch {
	case o.service == serviceAPIKeys:
		find = c.findKey
	case o.service == serviceAccess && in.caller.class != IdentityAdmin:
		return nil, fail(http.StatusForbidden, "forbidden", "You are not authorized to use this API.")
	case o.service == serviceAccess:
		return o.serve(c, in)
	}
	if err := find(in); err != nil {
		return nil, err
	}
	return o.serve(c, in)
}

// find sets what the path names, if the caller may do the operation's action there: groups on the whole instance, secrets
// in their group. What is missing is reported only to a caller who may do it somewhere. The caller holds c.mu.
func (c *Cloud) find(in *call) error {
	a, ofGroups := in.operation.action, in.operation.name == OpGroups
	switch {
	case ofGroups && !in.caller.may(a, wholeInstance), !ofGroups && !in.caller.mayAnywhere(a):
		return forbidden(a)
	case len(in.params) == 0 || len(in.params) == 3: // a collection, or a secret by its name
		return nil
	case ofGroups:
		if in.group = c.groups[in.params[0]]; in.group == nil {
			return notFound("secret group")
		}
		return nil
	}
	if in.secret = c.secrets[in.params[0]]; in.secret == nil {
		return notFound("secret")
	}
	if !in.caller.may(a, in.secret.groupID) {
		return forbidden(a)
	}
	if len(in.params) == 2 {
		if in.version = in.secret.version(in.params[1]); in.version == nil {
			return notFound("secret version")
		}
	}
	return nil
}

// dated sets the Date header by the cloud's clock.
func (c *Cloud) dated(out reply) reply {
	out.header.Set("Date", c.now().UTC().Format(http.TimeFormat))
	return out
}

// wait lets d pass, or less when the caller gives up.
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
	details string // more, if there is more to say
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
	switch in.operation.service {
	case serviceIAM:
		body := object{"errorCode": e.code, "errorMessage": e.message, "context": c.errorContext(in.request, in.transaction)}
		body.set("errorDetails", e.details)
		return jsonReply(e.status, body)
	case serviceAPIKeys:
		return jsonReply(e.status, c.exception(in.request, in.transaction, e))
	}
	return jsonReply(e.status, commonError(e))
}

// exception is the error body of the rest of IAM Identity Services, ExceptionResponse in the SDK. Which message codes
// there are is open; each answer must have one.
func (c *Cloud) exception(r *http.Request, transaction string, e *apiError) any {
	problem := object{"code": e.code, "message_code": "BXNIM0000E", "message": e.message}
	problem.set("details", cmp.Or(e.details, e.target))
	about := c.errorContext(r, transaction)
	return object{"status_code": strconv.Itoa(e.status), "errors": []object{problem}, "trace": transaction, "context": object{
		"transaction_id": transaction, "operation": r.Method, "user_agent": about["userAgent"], "url": about["url"], "host": about["host"],
		"instance_id": about["instanceId"], "thread_id": about["threadId"], "cluster_name": about["clusterName"],
		"start_time": about["startTime"], "end_time": about["endTime"], "elapsed_time": about["elapsedTime"],
	}}
}

// commonError is the error body of Secrets Manager, Logs Routing and IBM's API handbook.
func commonError(e *apiError) any {
	problem := object{"code": e.code, "message": e.message}
	if e.target != "" {
		problem["target"] = object{"type": "field", "name": e.target}
	}
	return object{"errors": []object{problem}, "status_code": e.status, "trace": uuid.NewString()}
}

// errorContext is what IAM says about the request: nothing of it but its user agent and Transaction-Id.
func (c *Cloud) errorContext(r *http.Request, transaction string) object {
	const stamp = "02.01.2006 15:04:05:000 MST"
	now := c.now().UTC()
	ip, _, _ := net.SplitHostPort(r.RemoteAddr) // none in process
	return object{
		"requestId": transaction, "requestType": "incoming.Identity_Token", "userAgent": r.UserAgent(),
		"clientIp": cmp.Or(ip, "127.0.0.1"), "url": "https://" + host(r) + c.redactPath(r.URL.Path), "instanceId": "iamid-1", "threadId": "1",
		"host": "iamid-1", "startTime": now.Format(stamp), "endTime": now.Format(stamp), "elapsedTime": "0",
		"locale": "en_US", "clusterName": "iam-id-sandbox",
	}
}

// timestamp is a time as Secrets Manager writes it, in milliseconds.
func timestamp(t time.Time) string {
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
