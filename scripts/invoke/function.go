package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
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
