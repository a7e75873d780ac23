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
	"path"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// A sandbox is one process of the function, the leader of its own process group, with a Runtime API of its own: a late
// request of an earlier process cannot reach it. It takes one invocation at a time: invoke, then settle.
type sandbox struct {
	cmd      *exec.Cmd
	server   *http.Server
	arn      string
	log      io.Writer // gets both outputs
	started  time.Time
	exited   chan struct{} // closed when it has exited and its output is complete
	idle     bool          // it has polled and waits for an event
	id       string        // of its invocation
	timeout  time.Duration
	deadline time.Time    // of its start or its invocation
	current  atomic.Value // the id that it may answer: initializing before the first poll, empty for none

	polls, answers chan answer // a poll is an answer without a line, or an error in initialising
	events         chan func(http.ResponseWriter)
}

const initializing = "init"

// answer is the end of an invocation, successful or not. It encodes to a line of -report, with times in milliseconds.
type answer struct {
	Invocation int       `json:"invocation"`       // from 1
	Init       float64   `json:"init_ms,omitzero"` // from the start of the process to its first poll; absent in later invocations
	Duration   float64   `json:"duration_ms"`      // from handing out the event to the answer or the end of the process; 0 without an event
	Failed     bool      `json:"failed"`
	line       []byte    // JSON without a line break: the response, or {"errorMessage", "errorType", …}
	at         time.Time // when it was complete
}

// failure is a failed answer with an error of Lambda, not of the function.
func failure(errorType, format string, args ...any) answer {
	line, _ := json.Marshal(map[string]string{"errorMessage": fmt.Sprintf(format, args...), "errorType": errorType}) // strings always marshal
	return answer{line: line, Failed: true, at: time.Now()}
}

// start starts a process. The caller must stop the sandbox.
func start(command, environ []string, log io.Writer) (*sandbox, error) {
	cmd := exec.Command(command[0], command[1:]...)
	executable, err := filepath.Abs(cmd.Path)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sandbox{cmd: cmd, log: log, exited: make(chan struct{}),
		polls: make(chan answer, 16), answers: make(chan answer, 1), events: make(chan func(http.ResponseWriter), 1)}
	s.current.Store(initializing)
	s.server = &http.Server{Addr: listener.Addr().String(), Handler: s.runtimeAPI()}
	cmd.Path, cmd.Stdout, cmd.Stderr = executable, log, log
	cmd.Env, s.arn = lambdaEnvironment(environ, executable)
	cmd.Env = append(cmd.Env, "AWS_LAMBDA_RUNTIME_API="+s.server.Addr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = stopGrace // otherwise Wait would wait for children of COMMAND that hold its output open
	s.started = time.Now()
	if err := cmd.Start(); err != nil {
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

// stop sends SIGTERM to the process, waits for stopGrace at most, and then kills the process and its children.
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

// invoke hands the event to the process and returns its answer. The process has timeout for its first poll, and timeout
// again for the invocation; then it is killed. It is also killed if ctx ends, which is the only cause of an error.
func (s *sandbox) invoke(ctx context.Context, event []byte, timeout time.Duration) (a answer, err error) {
	var init time.Duration
	s.id, s.timeout, s.deadline = uuid.NewString(), timeout, time.Now().Add(timeout)
	if !s.idle {
		poll, err := s.wait(ctx, s.polls)
		if err != nil || poll.Failed {
			s.stop() // after an error in initialising Lambda, too, starts a new process
			return poll, err
		}
		init = poll.at.Sub(s.started)
	}
	handedOut := time.Now()
	s.idle, s.deadline = false, handedOut.Add(timeout)
	s.current.Store(s.id)
	id, deadline := s.id, strconv.FormatInt(s.deadline.UnixMilli(), 10)
	s.events <- func(w http.ResponseWriter) {
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", id)
		w.Header().Set("Lambda-Runtime-Deadline-Ms", deadline)
		w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", s.arn)
		reply(w, http.StatusOK, event)
	}
	a, err = s.wait(ctx, s.answers)
	a.Init, a.Duration = milliseconds(init), milliseconds(a.at.Sub(handedOut))
	return a, err
}

// milliseconds converts a duration, rounded to microseconds.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond).Microseconds()) / 1000
}

// settle waits until the process polls again or exits, for example after a panic: only then is the invocation over. A
// process that does neither before the deadline is killed, but its answer counts. The error is as invoke's.
func (s *sandbox) settle(ctx context.Context) error {
	if s.gone() {
		return nil
	}
	poll, err := s.wait(ctx, s.polls)
	s.idle = err == nil && !poll.Failed
	if poll.Failed && !time.Now().Before(s.deadline) {
		_, _ = fmt.Fprintln(s.log, "invoke: the function answered but did not poll again before its deadline: killed")
	}
	return err
}

// wait waits for a poll or an answer. If the process exits, or exceeds the deadline, it returns a failure with Lambda's
// own message. In these cases, and if ctx ends, which is an error, the process has been killed.
func (s *sandbox) wait(ctx context.Context, of chan answer) (answer, error) {
	expired := time.NewTimer(time.Until(s.deadline))
	defer expired.Stop()
	timedOut := false
	select {
	case a := <-of:
		return a, nil
	case <-s.exited:
	case <-expired.C:
		timedOut = true
	case <-ctx.Done():
	}
	s.kill() // and its children
	select {
	case a := <-of: // it came just before
		return a, nil
	default:
	}
	switch state := s.cmd.ProcessState; {
	case ctx.Err() != nil:
		return answer{}, context.Cause(ctx)
	case timedOut && s.current.Load() == initializing:
		return failure("Sandbox.Timedout", "%s Task timed out after %.2f seconds without asking for an event: does COMMAND use the Lambda Runtime API?",
			s.id, s.timeout.Seconds()), nil
	case timedOut:
		return failure("Sandbox.Timedout", "%s Task timed out after %.2f seconds", s.id, s.timeout.Seconds()), nil
	case state.Success():
		return failure("Runtime.ExitError", "RequestId: %s Error: Runtime exited without providing a reason", s.id), nil
	default:
		return failure("Runtime.ExitError", "RequestId: %s Error: Runtime exited with error: %s", s.id, state), nil
	}
}

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func reject(w http.ResponseWriter, status int, errorType, format string, args ...any) {
	reply(w, status, failure(errorType, format, args...).line)
}

// runtimeAPI serves only the function, which uses one Host and sends no Origin. A web page that guesses the port has
// another Host or an Origin.
func (s *sandbox) runtimeAPI() http.Handler {
	mux := http.NewServeMux()
	const root = "/2018-06-01/runtime"
	mux.HandleFunc("GET "+root+"/invocation/next", s.serveNext)
	mux.HandleFunc("POST "+root+"/init/error", s.serveAnswer)
	mux.HandleFunc("POST "+root+"/invocation/{id}/response", s.serveAnswer)
	mux.HandleFunc("POST "+root+"/invocation/{id}/error", s.serveAnswer)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != s.server.Addr || r.Header["Origin"] != nil {
			reject(w, http.StatusForbidden, "AccessDenied", "The request does not come from the function")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *sandbox) serveNext(w http.ResponseWriter, r *http.Request) {
	s.current.CompareAndSwap(initializing, "")
	s.polls <- answer{at: time.Now()}
	select {
	case event := <-s.events:
		event(w)
	case <-r.Context().Done():
	}
}

// maxPayload is the size limit of a synchronous invocation's response, in bytes, from Lambda's own error message.
const maxPayload = 6*1024*1024 + 100

// serveAnswer accepts the first answer to the current invocation, or an error in initialising, and rejects all others.
func (s *sandbox) serveAnswer(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // even if it is too large: the function reads the status only when it has sent all
	id, isError, to := r.PathValue("id"), path.Base(r.URL.Path) == "error", s.answers
	switch id {
	case "": // an error in initialising has no id in its path
		id, to = initializing, s.polls
	case initializing: // somebody used it as an id in the path
		id = "unknown"
	}
	switch {
	case err != nil:
		reject(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
	case s.current.CompareAndSwap(id, ""):
		if !isError && len(body) > maxPayload {
			to <- failure("Function.ResponseSizeTooLarge", "Response payload size (%d bytes) exceeded maximum allowed payload size (%d bytes).",
				len(body), maxPayload)
			reject(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "Exceeded maximum allowed payload size (%d bytes).", maxPayload)
			return
		}
		to <- newAnswer(body, isError, r.Header.Get("Lambda-Runtime-Function-Error-Type"))
		reply(w, http.StatusAccepted, []byte(`{"status":"OK"}`))
	case id == initializing:
		reject(w, http.StatusForbidden, "InvalidStateTransition", "The runtime's initialisation is over")
	default:
		reject(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
	}
}

// newAnswer renders the function's response or error on one line.
func newAnswer(body []byte, isError bool, errorType string) answer {
	var object map[string]json.RawMessage
	if isError && (json.Unmarshal(body, &object) != nil || object == nil) {
		return failure(cmp.Or(errorType, "Runtime.Unknown"), "%s", body)
	}
	line := new(bytes.Buffer)
	switch {
	case len(body) == 0:
		line.WriteString("null")
	case json.Compact(line, body) != nil: // not JSON: as a string
		quoted, _ := json.Marshal(string(body))
		line = bytes.NewBuffer(quoted)
	}
	return answer{line: line.Bytes(), Failed: isError, at: time.Now()}
}
