package main

import (
	"io"
	"os/exec"
	"syscall"
	"time"
)

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
