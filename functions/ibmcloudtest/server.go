package ibmcloudtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxBody bounds a request's body, in bytes: an arbitrary secret of 1,000,000 characters fits however
// it is escaped.
const maxBody = 8 << 20

// A call is one request to an operation.
type call struct {
	request     *http.Request
	operation   *operation
	params      []string // path parameters, in order
	transaction string   // the request's Transaction-Id, or a new one
	body        []byte
	tooLarge    bool       // the body went past maxBody
	form        url.Values // of IAM's token endpoint
	caller      *identity  // whose key or token the request bears, nil if unknown
	refused     error      // why the bearer token is not accepted
	now         time.Time  // when the operation is carried out

	// What the path names; nil if it names none.
	secret  *secret
	version *version
	group   *group
	key     *apiKey // of the operations on API keys
}

// newCall reads the request's body and finds out whose it is.
func (c *Cloud) newCall(r *http.Request, found *operation, params []string) (*call, error) {
	in := &call{request: r, operation: found, params: params, transaction: r.Header.Get("Transaction-Id")}
	if in.transaction == "" {
		in.transaction = newUUID()
	}
	if r.Body != nil {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			return nil, err
		}
		in.tooLarge = len(body) > maxBody
		in.body = body[:min(len(body), maxBody)]
	}
	if found.service == serviceIAM {
		in.form, _ = url.ParseQuery(string(in.body))
		in.caller = c.grantee(in.form)
		return in, nil
	}
	in.caller, in.refused = c.bearerOf(r)
	return in, nil
}

// bearerOf returns whose token the request bears and why that token is refused, if it is.
func (c *Cloud) bearerOf(r *http.Request) (*identity, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, errNoToken
	}
	id, _, err := c.bearer(token)
	return id, err
}

// class is the name under which faults and the request log know the caller, "" if unknown.
func (in *call) class() string {
	if in.caller == nil {
		return ""
	}
	return in.caller.class
}

// mediaType is the request's content type without parameters, in lower case.
func (in *call) mediaType() string {
	mediaType, _, _ := mime.ParseMediaType(in.request.Header.Get("Content-Type"))
	return mediaType
}

// decode reads the body, one JSON object of the given media type, into v. Only the listed fields
// may occur, and those marked with "!" must.
func (in *call) decode(v any, mediaType string, fields ...string) error {
	if in.mediaType() != mediaType {
		return fail(http.StatusUnsupportedMediaType, "unsupported_media_type", "The content type must be "+mediaType+".")
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(in.body, &object); err != nil || object == nil {
		return badRequest("The body must be a JSON object.")
	}
	known := map[string]bool{}
	for _, field := range fields {
		name, required := strings.CutSuffix(field, "!")
		known[name] = true
		if required && isNull(object[name]) {
			return badField(name, "is required")
		}
	}
	for name := range object {
		if !known[name] {
			return badField(name, "is not a property of this request")
		}
	}
	if err := json.Unmarshal(in.body, v); err != nil {
		return badRequest("The body has a property of the wrong type.")
	}
	return nil
}

// href is an absolute URL of the request's path with another query.
func (in *call) href(query url.Values) string {
	r := in.request
	u := url.URL{Scheme: "http", Host: host(r), Path: r.URL.Path, RawQuery: query.Encode()}
	if r.TLS != nil || r.URL.Scheme == "https" {
		u.Scheme = "https"
	}
	return u.String()
}

// host is the host that the request names, on a client's request as on a server's.
func host(r *http.Request) string {
	if r.Host != "" {
		return r.Host
	}
	return r.URL.Host
}

// The operations that a [Fault] and a [Request] name. OpAny matches each of them.
const (
	OpIAMToken         = "iam.token"
	OpIAMKeys          = "iam.keys"
	OpAPIKeysList      = "apikeys.list"
	OpAPIKeysCreate    = "apikeys.create"
	OpAPIKeysGet       = "apikeys.get"
	OpAPIKeysDetails   = "apikeys.details" // by value
	OpAPIKeysUpdate    = "apikeys.update"
	OpAPIKeysDelete    = "apikeys.delete"
	OpGroups           = "groups"
	OpSecretsList      = "secrets.list"
	OpSecretsCreate    = "secrets.create"
	OpSecretsGet       = "secrets.get" // by name too
	OpSecretsDelete    = "secrets.delete"
	OpSecretsMetadata  = "secrets.metadata"
	OpSecretsPatch     = "secrets.patch"
	OpVersionsCreate   = "versions.create"
	OpVersionsList     = "versions.list"
	OpVersionsGet      = "versions.get"
	OpVersionsMetadata = "versions.metadata"
	OpVersionsPatch    = "versions.patch"
	OpLocks            = "locks"
	OpTargetsList      = "targets.list"
	OpSettingsGet      = "settings.get"
	OpTenantsList      = "tenants.list"
	OpAny              = "*"
)

var operationNames = []string{
	OpIAMToken, OpIAMKeys, OpAPIKeysList, OpAPIKeysCreate, OpAPIKeysGet, OpAPIKeysDetails, OpAPIKeysUpdate, OpAPIKeysDelete, OpGroups, OpSecretsList, OpSecretsCreate, OpSecretsGet, OpSecretsDelete,
	OpSecretsMetadata, OpSecretsPatch, OpVersionsCreate, OpVersionsList, OpVersionsGet, OpVersionsMetadata,
	OpVersionsPatch, OpLocks, OpTargetsList, OpSettingsGet, OpTenantsList, OpAny,
}

// An operation is one method on one path of one of the services.
type operation struct {
	name    string // one of operationNames
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
	serviceSecretsManager
	serviceLogsRouting
)

var operations = indexOperations(iamOperations, apiKeyOperations, groupOperations, secretOperations, versionOperations,
	lockOperations, logsRoutingOperations)

// indexOperations sorts operations by their number of path segments.
func indexOperations(lists ...[]operation) map[int][]*operation {
	index := map[int][]*operation{}
	for _, list := range lists {
		for _, op := range list {
			index[len(op.path)] = append(index[len(op.path)], &op)
		}
	}
	return index
}

// op declares an operation, with its method and path as text.
func op(name string, s service, pattern string, success int, serve func(*Cloud, *call) (any, error)) operation {
	method, path, _ := strings.Cut(pattern, " /")
	return operation{name: name, service: s, method: method, path: strings.Split(path, "/"), success: success, serve: serve}
}

// secretOp declares an operation of Secrets Manager, below /api/v2.
func secretOp(name string, a action, pattern string, success int, serve func(*Cloud, *call) (any, error)) operation {
	o := op(name, serviceSecretsManager, strings.Replace(pattern, " ", " /api/v2", 1), success, serve)
	o.action = a
	return o
}

// findOperation returns the operation for the request and its path parameters. Without one it
// returns the methods that the path allows, none for an unknown path.
func findOperation(r *http.Request) (found *operation, params []string, allow []string) {
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	for _, candidate := range operations[len(segments)] {
		values, ok := matchPath(candidate.path, segments)
		switch {
		case !ok:
		case candidate.method == r.Method:
			return candidate, values, nil
		default:
			allow = append(allow, candidate.method)
		}
	}
	return nil, nil, allow
}

// matchPath returns the unescaped segments that stand where the pattern has "{name}".
func matchPath(pattern, segments []string) (params []string, ok bool) {
	for i, want := range pattern {
		if want[0] != '{' {
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

// A reply is an answer on its way out.
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
	found, params, allow := findOperation(r)
	if found == nil {
		out := c.noOperation(r, allow)
		c.requests.add(Request{At: at, Method: r.Method, Path: c.redactPath(r.URL.Path), Status: out.status})
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

// noOperation answers a request that is none of the operations: 404, or 405 when the path knows
// other methods.
func (c *Cloud) noOperation(r *http.Request, allow []string) reply {
	e := notFound("requested path")
	if len(allow) > 0 {
		e = fail(http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed on this path.")
	}
	body := commonError(e)
	if strings.HasPrefix(r.URL.Path, "/identity/") {
		body = c.iamError(r, newUUID(), e)
	}
	out := jsonReply(e.status, body)
	if len(allow) > 0 {
		out.header.Set("Allow", strings.Join(allow, ", "))
	}
	return out
}

// perform does the operation's work.
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
	return c.dated(out)
}

// checkedServe lets the operation serve a request that, beyond IAM, bears a good token of somebody who may do that.
func (c *Cloud) checkedServe(in *call) (any, error) {
	o := in.operation
	if o.service == serviceIAM {
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
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.tooLarge {
		return nil, c.tooLarge("body")
	}
	find := c.find
	if o.service == serviceAPIKeys {
		find = c.findKey
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
	if d == 0 {
		return r.Context().Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

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
	problem := object{"code": e.code, "message": e.message}
	if e.target != "" {
		problem["target"] = object{"type": "field", "name": e.target}
	}
	return object{"errors": []object{problem}, "status_code": e.status, "trace": newUUID()}
}

// iamError is IAM's error body. It repeats nothing of the request but its user agent and Transaction-Id.
func (c *Cloud) iamError(r *http.Request, transaction string, e *apiError) any {
	const stamp = "02.01.2006 15:04:05:000 MST"
	now := c.now().UTC()
	return object{
		"errorCode": e.code, "errorMessage": e.message,
		"context": object{
			"requestId": transaction, "requestType": "incoming.Identity_Token", "userAgent": r.UserAgent(),
			"clientIp": clientIP(r), "url": "https://" + host(r) + r.URL.Path, "instanceId": "iamid-1", "threadId": "1",
			"host": "iamid-1", "startTime": now.Format(stamp), "endTime": now.Format(stamp), "elapsedTime": "0",
			"locale": "en_US", "clusterName": "iam-id-sandbox",
		},
	}
}

func clientIP(r *http.Request) string {
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil { // in process
		return "127.0.0.1"
	}
	return ip
}

// timestamp is a time as Secrets Manager writes it, in milliseconds.
func timestamp(t time.Time) string {
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// A Request is one line of the request log. It holds no secret: no header, query or body, and in
// the path no API key or token.
type Request struct {
	At       time.Time `json:"at"`       // when it arrived
	Op       string    `json:"op"`       // one of the Op constants, "" for a path or method without one
	Method   string    `json:"method"`   //
	Path     string    `json:"path"`     //
	Status   int       `json:"status"`   // 0 when it was never answered
	Identity string    `json:"identity"` // whose key or token it bore, "" if unknown
}

// requestLog keeps the newest requests, in the order in which they ended.
type requestLog struct {
	mu      sync.Mutex
	limit   int       // most requests to keep, 0 for none
	entries []Request // up to twice as many: the oldest go together
}

func (l *requestLog) add(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries = append(l.entries, r); len(l.entries) > 2*l.limit {
		l.entries = append([]Request(nil), l.newest()...)
	}
}

func (l *requestLog) newest() []Request { return l.entries[max(0, len(l.entries)-l.limit):] }

// Requests returns the requests to the three services in the order in which they ended; those to
// the control interface are not among them.
func (c *Cloud) Requests() []Request {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	return append([]Request{}, c.requests.newest()...)
}

// ClearRequests empties the request log.
func (c *Cloud) ClearRequests() {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	c.requests.entries = nil
}

// redactPath replaces path segments that are an API key or look like a token: a caller that mixes
// up its arguments must not write them into the log.
func (c *Cloud) redactPath(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, "eyJ") || len(segment) == 44 && c.keyOwner(segment) != nil {
			segments[i] = "REDACTED"
		}
	}
	return strings.Join(segments, "/")
}

// A SlowProxy forwards TCP connections to a server as if it were a round trip away: connecting costs
// one, and every byte half of one in each direction. It counts the connections.
type SlowProxy struct {
	listener    net.Listener
	target      string
	roundTrip   time.Duration
	connections atomic.Int64
	open        sync.WaitGroup
}

// NewSlowProxy listens on a free port of the loopback interface, before the server at target.
func NewSlowProxy(target string, roundTrip time.Duration) (*SlowProxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &SlowProxy{listener: listener, target: target, roundTrip: roundTrip}
	p.open.Go(p.serve)
	return p, nil
}

// Addr is where the proxy listens, host:port.
func (p *SlowProxy) Addr() string { return p.listener.Addr().String() }

// Connections is how many connections were made so far.
func (p *SlowProxy) Connections() int { return int(p.connections.Load()) }

// Close stops listening. Connections end with their clients.
func (p *SlowProxy) Close() error { return p.listener.Close() }

func (p *SlowProxy) serve() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.connections.Add(1)
			p.open.Go(func() { p.forward(client) })
		}
	}
}

// forward carries one connection. The client's kernel connects at once; what it sends before the
// connection would be there waits for it.
func (p *SlowProxy) forward(client net.Conn) {
	connected := time.Now().Add(p.roundTrip)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { carry(server, client, connected, p.roundTrip/2) })
	both.Go(func() { carry(client, server, connected, p.roundTrip/2) })
	both.Wait()
}

// A segment is what was read at once, with when it arrives.
type segment struct {
	bytes []byte
	due   time.Time
}

// carry copies from one connection to another, each byte late, and closes both at the end.
func carry(to, from net.Conn, connected time.Time, late time.Duration) {
	flight := make(chan segment, 1024)
	go func() {
		defer close(flight)
		for {
			buffer := make([]byte, 16<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				flight <- segment{buffer[:n], time.Now().Add(max(0, time.Until(connected)) + late)}
			}
			if err != nil {
				return
			}
		}
	}()
	for s := range flight {
		time.Sleep(time.Until(s.due))
		if _, err := to.Write(s.bytes); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range flight { // lets the reader end
	}
}
