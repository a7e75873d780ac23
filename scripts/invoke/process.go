package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// function is what can be started: COMMAND, its environment but for the API's address, and where its output goes.
type function struct {
	command []string // the first is an absolute path
	environ []string
	arn     string
	output  io.Writer
}

// newFunction finds COMMAND as a shell would. Its errors say what to do.
func newFunction(command, environ []string, output io.Writer) (*function, error) {
	path, err := exec.LookPath(command[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, cannotStart(command[0], err)
	}
	env := lambdaEnvironment(environ, path)
	return &function{
		command: append([]string{path}, command[1:]...),
		environ: env,
		arn: fmt.Sprintf("arn:aws:lambda:%s:123456789012:function:%s",
			lookup(env, "AWS_REGION"), lookup(env, "AWS_LAMBDA_FUNCTION_NAME")),
		output: output,
	}, nil
}

// start serves a Runtime API of its own to a new process of the function. The caller must close the sandbox.
func (f *function) start() (*sandbox, error) {
	api, err := serveRuntimeAPI(f.arn)
	if err != nil {
		return nil, err
	}
	env := append(f.environ[:len(f.environ):len(f.environ)], "AWS_LAMBDA_RUNTIME_API="+api.address)
	proc, err := startProcess(f.command, env, f.output)
	if err != nil {
		api.close()
		return nil, cannotStart(f.command[0], err)
	}
	return &sandbox{api: api, proc: proc, log: f.output}, nil
}

func cannotStart(name string, err error) error {
	advice := "is it the function's binary?"
	switch {
	case errors.Is(err, exec.ErrNotFound):
		advice = "a file in this directory is called ./" + name
	case errors.Is(err, fs.ErrNotExist):
		advice = "build it first"
	case errors.Is(err, fs.ErrPermission):
		advice = "it must be an executable file (chmod +x)"
	case errors.Is(err, syscall.ENOEXEC):
		advice = fmt.Sprintf("build it for this machine, %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	return fmt.Errorf("cannot start COMMAND: %w; %s", err, advice)
}

// newRequestID returns a version 4 UUID (RFC 9562, section 5.4), the form of Lambda's request ids.
func newRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// stopGrace is how long a process has between SIGTERM and SIGKILL: as long as Lambda's shutdown phase lasts for a
// function with an internal extension, the least that makes Lambda send SIGTERM at all.
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
const stopGrace = 500 * time.Millisecond

// process is one run of COMMAND, the leader of a process group of its own: ending it ends what it has started too.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{} // closed when it has exited and its output is complete
}

// startProcess starts command with exactly env, nothing on stdin, and stdout and stderr both going to output.
func startProcess(command, env []string, output io.Writer) (*process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Where output is not a file it is copied through a pipe. A grandchild that holds the pipe open must not hide that
	// COMMAND has exited.
	cmd.WaitDelay = stopGrace

	p := &process{cmd: cmd, started: time.Now(), exited: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.exited)
		cmd.Wait() // how it ended is in ProcessState
	}()
	return p, nil
}

// exit describes how the process ended, in Lambda's words. It may be called only when exited is closed.
func (p *process) exit() string {
	if p.cmd.ProcessState.Success() {
		return "Runtime exited without providing a reason"
	}
	return "Runtime exited with error: " + p.cmd.ProcessState.String()
}

// stop asks the process to end, kills it when it has not within stopGrace, and returns when it has ended.
func (p *process) stop() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopGrace):
	}
	p.kill()
}

// kill ends the whole process group, also what COMMAND left running when it exited, and waits for COMMAND.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// signal sends sig to the group. It is no error when nobody is left in it.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig)
}

// interruption is the cause of a context that a signal ended.
type interruption struct{ syscall.Signal }

func (i interruption) Error() string { return "stopped by signal: " + i.String() }

// exitStatus is what a shell would show for a process that the signal ended: 130 for SIGINT, 143 for SIGTERM.
func (i interruption) exitStatus() int { return 128 + int(i.Signal) }

// untilSignal returns a context that SIGINT, SIGTERM or SIGHUP cancels with an interruption as its cause, so that the
// child, which sits in a process group of its own and does not get the terminal's signals, can be killed first. Call
// stop to release it.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case sig := <-signals:
			cancel(interruption{sig.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	// A reader that closes our stdout ("invoke … | head -1") must end us by a write error, not by the death that would
	// leave the child behind. Ignoring the signal would be inherited by the child; catching it is not.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

// sandbox is one process of the function with the Runtime API that this process alone is told of, so that nothing a
// predecessor still says can reach it. It takes one invocation at a time: invoke, then settle. When its process is gone
// it is of no more use. The nil sandbox is gone, and may be closed.
type sandbox struct {
	api  *runtimeAPI
	proc *process
	log  io.Writer

	ready    *poll     // the process is waiting for an event on this poll; nil before the first, and while it works
	deadline time.Time // of the latest invocation
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
// timeout for the invocation (Lambda allows 10 s to start, then starts again within the invocation's timeout: one bound
// does for both here). When time runs out it is killed. The error can only be that ctx has ended; then too the process
// has been killed.
func (s *sandbox) invoke(ctx context.Context, id string, event []byte, timeout time.Duration) (outcome, error) {
	var out outcome
	if s.ready == nil {
		initError, err := s.wait(ctx, s.api.polls, time.Now().Add(timeout))
		if initError != nil {
			s.proc.stop() // Lambda starts afresh after an init error
			return outcome{answer: *initError}, nil
		}
		if err != nil {
			return s.lost(id, timeout, outcome{}, err)
		}
		out.init = s.ready.at.Sub(s.proc.started)
	}
	handedOut := time.Now()
	s.deadline = handedOut.Add(timeout)
	s.api.handOut(s.ready, invocation{id: id, event: event, deadline: s.deadline})
	s.ready = nil
	posted, err := s.wait(ctx, nil, s.deadline)
	if err != nil {
		out.duration = time.Since(handedOut)
		return s.lost(id, timeout, out, err)
	}
	out.answer = *posted
	out.duration = posted.at.Sub(handedOut)
	return out, nil
}

// settle waits until the process has polled again or has exited, as after a panic: only then is an invocation over. A
// process that does neither before the deadline is killed; the answer it gave still stands. The error is as invoke's.
func (s *sandbox) settle(ctx context.Context) error {
	if s.gone() {
		return nil
	}
	_, err := s.wait(ctx, s.api.polls, s.deadline)
	if errors.Is(err, errTimedOut) {
		fmt.Fprintln(s.log, "invoke: the function answered but did not poll again before its deadline: killed")
	}
	if errors.Is(err, errExited) || errors.Is(err, errTimedOut) {
		return nil
	}
	return err
}

// wait returns when the process polls (on polls; nil to leave it waiting), posts an answer, exits (errExited), has had
// its time (errTimedOut), or ctx ends (its cause). After an error the process is dead.
func (s *sandbox) wait(ctx context.Context, polls <-chan poll, until time.Time) (*answer, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, until, errTimedOut)
	defer cancel()
	err := errExited
	select {
	case p := <-polls:
		s.ready = &p
		return nil, nil
	case a := <-s.api.answers:
		return &a, nil
	case <-s.proc.exited:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.proc.kill()
	select {
	case a := <-s.api.answers: // posted just before
		return &a, nil
	default:
		return nil, err
	}
}

// lost completes the outcome of an invocation whose process ended without an answer.
func (s *sandbox) lost(id string, timeout time.Duration, out outcome, err error) (outcome, error) {
	switch {
	case errors.Is(err, errExited):
		out.answer = failure("Runtime.ExitError", "RequestId: %s Error: %s", id, s.proc.exit())
	case errors.Is(err, errTimedOut) && s.deadline.IsZero():
		out.answer = failure("Sandbox.Timedout", "%s Task timed out after %.2f seconds without asking for an event: "+
			"does COMMAND speak the Lambda Runtime API?", id, timeout.Seconds())
	case errors.Is(err, errTimedOut):
		out.answer = failure("Sandbox.Timedout", "%s Task timed out after %.2f seconds", id, timeout.Seconds())
	default:
		return outcome{}, err
	}
	return out, nil
}

// gone reports whether the process has exited.
func (s *sandbox) gone() bool {
	if s == nil {
		return true
	}
	select {
	case <-s.proc.exited:
		return true
	default:
		return false
	}
}

// close ends the process, and what it may have left running, then its API.
func (s *sandbox) close() {
	if s == nil {
		return
	}
	s.proc.stop()
	s.api.close()
}
