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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// A sandbox is one process of the function, the leader of its own process group, with the Runtime API that it alone
// knows, so that nothing a predecessor still says can reach it. It takes one invocation at a time: invoke, then settle.
type sandbox struct {
	cmd      *exec.Cmd
	arn      string
	log      io.Writer // gets both outputs
	started  time.Time
	exited   chan struct{} // closed when it has exited and its output is complete
	server   *http.Server
	calls    chan *call // each then waits for its reply
	poll     *call      // waits for an event; nil if none does
	deadline time.Time  // of what the process does now
}

// call is a request to the Runtime API.
type call struct {
	kind, id  string // next, init, response or error; the request id of the last two
	body      []byte
	over      int64 // bytes beyond the largest body
	errorType string
	at        time.Time // when it was complete
	reply     chan reply
}

type reply func(http.ResponseWriter)

func replyWith(status int, body []byte) reply {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}
}

func refusal(status int, errorType, message string) reply {
	return replyWith(status, failure(errorType, "%s", message).line)
}

// answer is the end of an invocation, successful or not.
type answer struct {
	line     []byte // JSON without a line break: the response, or {"errorMessage", "errorType", …}
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
func start(command, environ []string, log io.Writer) (*sandbox, error) {
	cmd := exec.Command(command[0], command[1:]...)
	path, err := filepath.Abs(cmd.Path)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sandbox{cmd: cmd, log: log, exited: make(chan struct{}), calls: make(chan *call, 16)}
	mux := http.NewServeMux()
	for path, kind := range map[string]string{"GET /invocation/next": "next", "POST /init/error": "init",
		"POST /invocation/{id}/response": "response", "POST /invocation/{id}/error": "error"} {
		mux.HandleFunc(strings.Replace(path, " ", " /2018-06-01/runtime", 1), func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, kind) })
	}
	s.server = &http.Server{Addr: listener.Addr().String(), Handler: mux}
	env, arn := lambdaEnvironment(environ, path)
	cmd.Path, cmd.Env, s.arn = path, append(env, "AWS_LAMBDA_RUNTIME_API="+s.server.Addr), arn
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = stopGrace // a grandchild that holds the output open must not hide that COMMAND has exited
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

var errExited, errTimedOut = errors.New("the process exited"), errors.New("the time is up")

// invoke hands the event to the process and returns its answer. The process has timeout for its first poll and then
// timeout for the invocation; past it, it is killed. The error can only be that ctx has ended; then too it is killed.
func (s *sandbox) invoke(ctx context.Context, event []byte, timeout time.Duration) (a answer, err error) {
	id, init := uuid.NewString(), time.Duration(0)
	if s.poll == nil {
		s.deadline = time.Now().Add(timeout)
		c, err := s.await(ctx, func(c *call) bool { return c.kind == "next" || c.kind == "init" })
		if err != nil {
			return s.lost(err, id, timeout, " without asking for an event: does COMMAND speak the Lambda Runtime API?")
		}
		if c.kind == "init" {
			a := c.accept()
			s.stop() // Lambda starts again after an init error
			return a, nil
		}
		init = c.at.Sub(s.started)
	}
	handedOut := time.Now()
	s.deadline = handedOut.Add(timeout)
	deadline := strconv.FormatInt(s.deadline.UnixMilli(), 10)
	s.poll.reply <- func(w http.ResponseWriter) {
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", id)
		w.Header().Set("Lambda-Runtime-Deadline-Ms", deadline)
		w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", s.arn)
		replyWith(http.StatusOK, event)(w)
	}
	s.poll = nil
	if c, lost := s.await(ctx, func(c *call) bool { return c.id == id }); lost != nil {
		a, err = s.lost(lost, id, timeout, "")
	} else {
		a = c.accept()
	}
	a.init, a.duration = init, a.at.Sub(handedOut)
	return a, err
}

// settle waits until the process has polled again or has exited, as after a panic: only then is an invocation over. A
// process that does neither before the deadline is killed; the answer it gave still stands. The error is as invoke's.
func (s *sandbox) settle(ctx context.Context) error {
	if s.gone() || s.poll != nil {
		return nil
	}
	_, err := s.await(ctx, func(c *call) bool { return c.kind == "next" })
	if errors.Is(err, errTimedOut) {
		_, _ = fmt.Fprintln(s.log, "invoke: the function answered but did not poll again before its deadline: killed")
	}
	if errors.Is(err, errExited) || errors.Is(err, errTimedOut) {
		return nil
	}
	return err
}

// await returns the first call that is wanted. A poll is kept, and any other call refused: it is about an invocation that
// timed out or was answered already. The error is that the process has exited (errExited), has had its time
// (errTimedOut), or that ctx has ended (its cause); the process is then dead.
func (s *sandbox) await(ctx context.Context, wanted func(*call) bool) (*call, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, s.deadline, errTimedOut)
	defer cancel()
	for {
		var c *call
		var ended error
		select {
		case c = <-s.calls:
		case <-s.exited:
			ended = errExited
		case <-ctx.Done():
			ended = context.Cause(ctx)
		}
		if ended != nil {
			s.kill() // and what it left running
			select {
			case c = <-s.calls: // made just before
			default:
				return nil, ended
			}
		}
		if c.kind == "next" {
			s.poll = c
		}
		switch {
		case wanted(c):
			return c, nil
		case c.kind == "init":
			c.reply <- refusal(http.StatusForbidden, "InvalidStateTransition", "The runtime's initialisation is over")
		case c.kind != "next":
			c.reply <- refusal(http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		}
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

// maxPayload is the largest response of a synchronous invocation, in bytes, as Lambda's own message has it.
const maxPayload = 6*1024*1024 + 100

// serve passes a request on as a call, and replies to it. The function knows one Host and sends no Origin: a web page that
// guesses the port gives itself away by either.
func (s *sandbox) serve(w http.ResponseWriter, r *http.Request, kind string) {
	c := &call{kind: kind, id: r.PathValue("id"), errorType: r.Header.Get("Lambda-Runtime-Function-Error-Type"), reply: make(chan reply, 1)}
	var failed error
	c.body, failed = io.ReadAll(io.LimitReader(r.Body, maxPayload))
	over, err := io.Copy(io.Discard, r.Body) // the function sends all of it before it looks at the status
	c.over, c.at = over, time.Now()
	switch {
	case r.Host != s.server.Addr || r.Header["Origin"] != nil:
		refusal(http.StatusForbidden, "AccessDenied", "The request does not come from the function")(w)
		return
	case failed != nil || err != nil:
		refusal(http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")(w)
		return
	}
	s.calls <- c // also when its process has gone meanwhile: it may be its answer
	select {
	case answer := <-c.reply:
		answer(w)
	case <-r.Context().Done():
	}
}

// accept replies to a call that ends an invocation, and returns its answer.
func (c *call) accept() answer {
	if c.kind == "response" && c.over > 0 {
		c.reply <- refusal(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", maxPayload))
		return failure("Function.ResponseSizeTooLarge", "Response payload size (%d bytes) exceeded maximum allowed payload size (%d bytes).", maxPayload+c.over, maxPayload)
	}
	c.reply <- replyWith(http.StatusAccepted, []byte(`{"status":"OK"}`))
	var object map[string]json.RawMessage
	if c.kind != "response" && (json.Unmarshal(c.body, &object) != nil || object == nil) {
		return failure(cmp.Or(c.errorType, "Runtime.Unknown"), "%s", c.body)
	}
	line := new(bytes.Buffer)
	switch {
	case len(c.body) == 0:
		line.WriteString("null")
	case json.Compact(line, c.body) != nil: // not JSON: as a string
		quoted, _ := json.Marshal(string(c.body))
		line = bytes.NewBuffer(quoted)
	}
	return answer{line: line.Bytes(), failed: c.kind != "response", at: c.at}
}
