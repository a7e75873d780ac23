package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// function is what can be started.
type function struct {
	command []string // the first is an absolute path
	env     []string // but for the API's address
	arn     string
	log     io.Writer // gets both outputs
}

// A sandbox is one process of the function, the leader of its own process group, with the Runtime API that it alone
// knows, so that nothing a predecessor still says can reach it. It takes one invocation at a time: invoke, then
// settle. Statuses and errors are those of https://github.com/aws/aws-lambda-runtime-interface-emulator.
type sandbox struct {
	function
	cmd      *exec.Cmd
	started  time.Time
	exited   chan struct{} // closed when it has exited and its output is complete
	server   *http.Server
	host     string          // host:port of the API
	polls    chan time.Time  // each GET …/next, for as long as nobody takes it and its client waits
	events   chan invocation // for the poll that was taken
	answers  chan answer     // one for each invocation handed out, or one init error
	waiting  bool            // a poll was taken and has no event yet
	deadline time.Time       // of what the process does now
	pending  atomic.Value    // request id handed out and not yet answered; initialising, or idle
}

// Values of pending that no path holds: an empty segment matches none, and the other is random.
var initialising, idle = "", uuid.NewString()

type invocation struct {
	id       string
	event    []byte
	deadline time.Time
}

// answer is the end of an invocation, successful or not.
type answer struct {
	line     []byte // JSON without a line break: the response, or {"errorMessage", "errorType", …}; nil if there is none yet
	failed   bool
	at       time.Time     // when it was complete
	init     time.Duration // process start to first poll; 0 when the process had polled before, or never did
	duration time.Duration // event handed out to answer received, or to the loss of the process; 0 when not handed out
}

// failure is an answer in place of one that the function did not give.
func failure(errorType, format string, args ...any) answer {
	line, _ := json.Marshal(struct { // two strings always marshal
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}{fmt.Sprintf(format, args...), errorType})
	return answer{line: line, failed: true, at: time.Now()}
}

// start starts a process. The caller must stop the sandbox.
func (f function) start() (*sandbox, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sandbox{function: f, exited: make(chan struct{}), host: listener.Addr().String(),
		polls: make(chan time.Time), events: make(chan invocation, 1), answers: make(chan answer, 1)}
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

var (
	errExited   = errors.New("the process exited")
	errTimedOut = errors.New("the time is up")
)

// invoke hands the event to the process and returns its answer. The process has timeout for its first poll and then
// timeout for the invocation; past it, it is killed. The error can only be that ctx has ended; then too it is killed.
func (s *sandbox) invoke(ctx context.Context, event []byte, timeout time.Duration) (a answer, err error) {
	id, init := uuid.NewString(), time.Duration(0)
	if !s.waiting {
		s.deadline = time.Now().Add(timeout)
		first, err := s.wait(ctx, s.polls)
		if err != nil {
			return s.lost(err, id, timeout, " without asking for an event: does COMMAND speak the Lambda Runtime API?")
		}
		if first.line != nil {
			s.stop() // Lambda starts again after an init error
			return first, nil
		}
		init = first.at.Sub(s.started)
	}
	handedOut := time.Now()
	s.deadline, s.waiting = handedOut.Add(timeout), false
	s.pending.Store(id)
	s.events <- invocation{id, event, s.deadline} // has room
	if a, err = s.wait(ctx, nil); err != nil {
		a, err = s.lost(err, id, timeout, "")
	}
	a.init, a.duration = init, a.at.Sub(handedOut)
	return a, err
}

// settle waits until the process has polled again or has exited, as after a panic: only then is an invocation over. A
// process that does neither before the deadline is killed; the answer it gave still stands. The error is as invoke's.
func (s *sandbox) settle(ctx context.Context) error {
	if s.gone() {
		return nil
	}
	_, err := s.wait(ctx, s.polls)
	if errors.Is(err, errTimedOut) {
		_, _ = fmt.Fprintln(s.log, "invoke: the function answered but did not poll again before its deadline: killed")
	}
	if errors.Is(err, errExited) || errors.Is(err, errTimedOut) {
		return nil
	}
	return err
}

// wait returns the answer that the process posts, or one without a line when it polls (on polls; nil to leave it
// waiting). The error is that it has exited (errExited), has had its time (errTimedOut), or that ctx has ended (its
// cause); the process is then dead.
func (s *sandbox) wait(ctx context.Context, polls <-chan time.Time) (a answer, err error) {
	ctx, cancel := context.WithDeadlineCause(ctx, s.deadline, errTimedOut)
	defer cancel()
	select {
	case at := <-polls:
		s.waiting = true
		return answer{at: at}, nil
	case a = <-s.answers:
		return a, nil
	case <-s.exited:
		err = errExited
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.kill()
	select {
	case a = <-s.answers: // posted just before
		return a, nil
	default:
		return a, err
	}
}

// lost is the answer to an invocation whose process ended without one, in Lambda's words.
func (s *sandbox) lost(err error, id string, timeout time.Duration, when string) (answer, error) {
	switch {
	case errors.Is(err, errTimedOut):
		return failure("Sandbox.Timedout", "%s Task timed out after %.2f seconds%s", id, timeout.Seconds(), when), nil
	case !errors.Is(err, errExited):
		return answer{}, err
	case s.cmd.ProcessState.Success():
		return failure("Runtime.ExitError", "RequestId: %s Error: Runtime exited without providing a reason", id), nil
	}
	return failure("Runtime.ExitError", "RequestId: %s Error: Runtime exited with error: %s", id, s.cmd.ProcessState), nil
}

// handler serves the Runtime API. The function knows one Host and sends no Origin: a web page that guesses the port gives
// itself away by either.
func (s *sandbox) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", s.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", s.take)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", s.take)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", s.take)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != s.host || r.Header["Origin"] != nil {
			refuse(w, http.StatusForbidden, "AccessDenied", "The request does not come from the function")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// next serves …/next: it answers when there is an event, however long that takes.
func (s *sandbox) next(w http.ResponseWriter, r *http.Request) {
	s.pending.CompareAndSwap(initialising, idle)
	select {
	case s.polls <- time.Now():
	case <-r.Context().Done():
		return
	}
	select {
	case in := <-s.events:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", in.id)
		w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(in.deadline.UnixMilli(), 10))
		w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", s.arn)
		reply(w, http.StatusOK, in.event)
	case <-r.Context().Done():
	}
}

// maxPayload is the largest response of a synchronous invocation, in bytes, as Lambda's own message has it.
const maxPayload = 6*1024*1024 + 100

// take serves …/response, …/error and init/error, which has no id: it accepts one answer to the pending invocation, or one
// init error before the first poll. Another id is that of an invocation that timed out or was answered already.
func (s *sandbox) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxPayload))
	rest, failed := io.Copy(io.Discard, r.Body) // the function sends all of it before it looks at the status
	if err != nil || failed != nil {
		refuse(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
		return
	}
	if id := r.PathValue("id"); !s.pending.CompareAndSwap(id, idle) {
		if id == initialising {
			refuse(w, http.StatusForbidden, "InvalidStateTransition", "The runtime's initialisation is over")
			return
		}
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	var object map[string]json.RawMessage
	switch isError := strings.HasSuffix(r.URL.Path, "/error"); { // answers has room: this is the only one
	case isError && (json.Unmarshal(body, &object) != nil || object == nil):
		s.answers <- failure(cmp.Or(r.Header.Get("Lambda-Runtime-Function-Error-Type"), "Runtime.Unknown"), "%s", body)
	case !isError && rest > 0:
		s.answers <- failure("Function.ResponseSizeTooLarge", "Response payload size (%d bytes) exceeded maximum allowed payload size (%d bytes).", maxPayload+rest, maxPayload)
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", maxPayload))
		return
	default:
		s.answers <- answer{line: oneLine(body), failed: isError, at: time.Now()}
	}
	reply(w, http.StatusAccepted, []byte(`{"status":"OK"}`))
}

// oneLine is a response as one line of JSON: as a string, if it is not JSON.
func oneLine(body []byte) []byte {
	if len(body) == 0 {
		return []byte("null")
	}
	line := new(bytes.Buffer)
	if json.Compact(line, body) != nil {
		quoted, _ := json.Marshal(string(body)) // a string always marshals
		return quoted
	}
	return line.Bytes()
}

func refuse(w http.ResponseWriter, status int, errorType, message string) {
	reply(w, status, failure(errorType, "%s", message).line)
}

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
