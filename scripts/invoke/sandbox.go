package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

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
