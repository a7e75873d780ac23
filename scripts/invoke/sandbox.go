package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// function is what can be started.
type function struct {
	command []string // the first is an absolute path
	env     []string // but for the API's address
	arn     string
	log     io.Writer // gets both outputs
}

// A sandbox is one process of the function, the leader of a process group of its own, with the Runtime API that it alone
// knows, so that nothing a predecessor still says can reach it. It takes one invocation at a time: invoke, then
// settle. Statuses and errors are those of https://github.com/aws/aws-lambda-runtime-interface-emulator.
type sandbox struct {
	function
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{} // closed when it has exited and its output is complete
	server  *http.Server
	host    string      // host:port of the API
	polls   chan poll   // each GET …/next, for as long as nobody takes it and its client waits
	answers chan answer // one for each invocation handed out, or one init error

	ready    chan<- invocation // the process waits here for an event; nil before its first poll, and while it works
	deadline time.Time         // of the latest invocation
	pending  atomic.Value      // request id handed out and not yet answered; initialising, or idle
}

// Values of pending that no path holds: an empty segment matches none, and the other is random.
var initialising, idle = "", newRequestID()

type poll struct {
	at    time.Time
	event chan<- invocation // takes one without blocking
}

type invocation struct {
	id       string
	event    []byte
	deadline time.Time
}

// start starts a process. The caller must stop the sandbox.
func (f function) start() (*sandbox, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sandbox{function: f, exited: make(chan struct{}), host: listener.Addr().String(), polls: make(chan poll), answers: make(chan answer, 1)}
	s.pending.Store(initialising)
	s.server = &http.Server{Handler: s.handler()}
	s.cmd = exec.Command(f.command[0], f.command[1:]...)
	s.cmd.Env = append(f.env[:len(f.env):len(f.env)], "AWS_LAMBDA_RUNTIME_API="+s.host)
	s.cmd.Stdout, s.cmd.Stderr = f.log, f.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.WaitDelay = stopGrace // a grandchild that holds the output open must not hide that COMMAND has exited
	s.started = time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	go func() { _ = s.server.Serve(listener) }()
	go func() {
		defer close(s.exited)
		_ = s.cmd.Wait() // how it ended is in ProcessState
	}()
	return s, nil
}

// gone reports whether the process has exited. The nil sandbox is gone.
func (s *sandbox) gone() bool {
	if s == nil {
		return true
	}
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// stopGrace is how long a process has between SIGTERM and SIGKILL, as in Lambda's shutdown phase with an internal
// extension. https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
const stopGrace = 500 * time.Millisecond

// stop asks the process to end, and kills it, and what it left running, when it has not within stopGrace.
func (s *sandbox) stop() {
	if s == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(stopGrace):
	}
	s.kill()
	_ = s.server.Close()
}

func (s *sandbox) kill() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.exited
}

// outcome is what became of one invocation.
type outcome struct {
	answer
	init     time.Duration // process start to first poll; 0 when the process had polled before, or never did
	duration time.Duration // event handed out to answer received, or to the loss of the process; 0 when not handed out
}

var (
	errExited   = errors.New("the process exited")
	errTimedOut = errors.New("the time is up")
)

// invoke hands the event to the process and returns its answer. The process has timeout for its first poll and then
// timeout for the invocation; past it, it is killed. The error can only be that ctx has ended; then too it is killed.
func (s *sandbox) invoke(ctx context.Context, event []byte, timeout time.Duration) (out outcome, err error) {
	id := newRequestID()
	if s.ready == nil {
		first, posted, err := s.wait(ctx, s.polls, time.Now().Add(timeout))
		if posted != nil {
			s.stop() // Lambda starts afresh after an init error
			return outcome{answer: *posted}, nil
		}
		if err != nil {
			return s.lost(id, timeout, out, err)
		}
		out.init = first.Sub(s.started)
	}
	handedOut := time.Now()
	s.deadline = handedOut.Add(timeout)
	s.pending.Store(id)
	s.ready <- invocation{id, event, s.deadline}
	s.ready = nil
	_, posted, err := s.wait(ctx, nil, s.deadline)
	if err != nil {
		out.duration = time.Since(handedOut)
		return s.lost(id, timeout, out, err)
	}
	out.answer, out.duration = *posted, posted.at.Sub(handedOut)
	return out, nil
}

// settle waits until the process has polled again or has exited, as after a panic: only then is an invocation over. A
// process that does neither before the deadline is killed; the answer it gave still stands. The error is as invoke's.
func (s *sandbox) settle(ctx context.Context) error {
	if s.gone() {
		return nil
	}
	_, _, err := s.wait(ctx, s.polls, s.deadline)
	if errors.Is(err, errTimedOut) {
		_, _ = fmt.Fprintln(s.log, "invoke: the function answered but did not poll again before its deadline: killed")
	}
	if errors.Is(err, errExited) || errors.Is(err, errTimedOut) {
		return nil
	}
	return err
}

// wait returns when the process polls (on polls; nil to leave it waiting), posts an answer, exits (errExited), has had
// its time (errTimedOut), or ctx ends (its cause). After an error the process is dead.
func (s *sandbox) wait(ctx context.Context, polls <-chan poll, until time.Time) (polled time.Time, posted *answer, err error) {
	ctx, cancel := context.WithDeadlineCause(ctx, until, errTimedOut)
	defer cancel()
	err = errExited
	select {
	case p := <-polls:
		s.ready = p.event
		return p.at, nil, nil
	case a := <-s.answers:
		return polled, &a, nil
	case <-s.exited:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.kill()
	select {
	case a := <-s.answers: // posted just before
		return polled, &a, nil
	default:
		return polled, nil, err
	}
}

// lost completes the outcome of an invocation whose process ended without an answer, in Lambda's words.
func (s *sandbox) lost(id string, timeout time.Duration, out outcome, err error) (outcome, error) {
	switch {
	case errors.Is(err, errExited) && s.cmd.ProcessState.Success():
		out.answer = failure("Runtime.ExitError", "RequestId: %s Error: Runtime exited without providing a reason", id)
	case errors.Is(err, errExited):
		out.answer = failure("Runtime.ExitError", "RequestId: %s Error: Runtime exited with error: %s", id, s.cmd.ProcessState)
	case errors.Is(err, errTimedOut) && s.deadline.IsZero():
		out.answer = failure("Sandbox.Timedout", "%s Task timed out after %.2f seconds without asking for an event: does COMMAND speak the Lambda Runtime API?", id, timeout.Seconds())
	case errors.Is(err, errTimedOut):
		out.answer = failure("Sandbox.Timedout", "%s Task timed out after %.2f seconds", id, timeout.Seconds())
	default:
		return outcome{}, err
	}
	return out, nil
}

// handler serves the Runtime API. The function knows one Host and sends no Origin: a web page that guesses the port gives
// itself away by either.
func (s *sandbox) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", s.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", func(w http.ResponseWriter, r *http.Request) { s.take(w, r, false) })
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", func(w http.ResponseWriter, r *http.Request) { s.take(w, r, true) })
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", func(w http.ResponseWriter, r *http.Request) { s.take(w, r, true) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != s.host || r.Header["Origin"] != nil {
			reply(w, http.StatusForbidden, failure("AccessDenied", "The request does not come from the function").line)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// next serves …/next: it answers when there is an event, however long that takes.
func (s *sandbox) next(w http.ResponseWriter, r *http.Request) {
	s.pending.CompareAndSwap(initialising, idle)
	event := make(chan invocation, 1)
	select {
	case s.polls <- poll{time.Now(), event}:
	case <-r.Context().Done():
		return
	}
	select {
	case in := <-event:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", in.id)
		w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(in.deadline.UnixMilli(), 10))
		w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", s.arn)
		reply(w, http.StatusOK, in.event)
	case <-r.Context().Done():
	}
}

// take serves …/response, …/error and init/error, which has no id: it accepts one answer to the pending invocation, or one
// init error before the first poll. Another id is that of an invocation that timed out or was answered already.
func (s *sandbox) take(w http.ResponseWriter, r *http.Request, isError bool) {
	a, tooLarge, err := readAnswer(r, isError)
	if err != nil {
		reply(w, http.StatusBadRequest, failure("TruncatedHTTPRequest", "HTTP request detected as truncated").line)
		return
	}
	if id := r.PathValue("id"); !s.pending.CompareAndSwap(id, idle) {
		if id == initialising {
			reply(w, http.StatusForbidden, failure("InvalidStateTransition", "The runtime's initialisation is over").line)
			return
		}
		reply(w, http.StatusBadRequest, failure("InvalidRequestID", "Invalid request ID").line)
		return
	}
	s.answers <- a // has room: this is the only one
	if tooLarge {
		reply(w, http.StatusRequestEntityTooLarge, failure("RequestEntityTooLarge", "Exceeded maximum allowed payload size (%d bytes).", maxPayload).line)
		return
	}
	reply(w, http.StatusAccepted, []byte(`{"status":"OK"}`))
}

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// maxPayload is the largest response of a synchronous invocation, in bytes, as Lambda's own message has it.
const maxPayload = 6*1024*1024 + 100

// answer is the end of an invocation, successful or not.
type answer struct {
	line   []byte // JSON without a line break: the response, or {"errorMessage", "errorType", …}
	failed bool
	at     time.Time // when it was complete
}

// failure is an answer in place of one that the function did not give.
func failure(errorType, format string, args ...any) answer {
	line, _ := json.Marshal(struct { // two strings always marshal
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}{fmt.Sprintf(format, args...), errorType})
	return answer{line, true, time.Now()}
}

// readAnswer reads a response or an error to its end, since the function sends all of it before it looks at the status.
// An error's JSON object is passed on as it is, stack trace and all. It fails on a request that was cut short.
func readAnswer(r *http.Request, isError bool) (a answer, tooLarge bool, err error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxPayload))
	if err != nil {
		return answer{}, false, err
	}
	rest, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return answer{}, false, err
	}
	var object map[string]json.RawMessage
	if isError && (json.Unmarshal(body, &object) != nil || object == nil) {
		return failure(cmp.Or(r.Header.Get("Lambda-Runtime-Function-Error-Type"), "Runtime.Unknown"), "%s", body), false, nil
	}
	if !isError && rest > 0 {
		return failure("Function.ResponseSizeTooLarge", "Response payload size (%d bytes) exceeded maximum allowed payload size (%d bytes).", maxPayload+rest, maxPayload), true, nil
	}
	line := new(bytes.Buffer)
	if len(body) == 0 {
		line.WriteString("null")
	} else if json.Compact(line, body) != nil {
		quoted, _ := json.Marshal(string(body)) // a string always marshals
		line = bytes.NewBuffer(quoted)
	}
	return answer{line.Bytes(), isError, time.Now()}, false, nil
}

// newRequestID returns a version 4 UUID, the form of Lambda's request ids.
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
