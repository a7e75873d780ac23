package main

import (
	"syscall"

	"iam-token-rotator/functions/ibmcloudtest"
)

// path is one way through a program that is tried.
type path struct {
	subject subject
	how     string // what is special about it
	env     func(*stage) map[string]string
	args    func(*stage) []string
	stdin   func(*stage) string
	faults  []ibmcloudtest.Fault
	awsOp   string // the call to AWS Secrets Manager that aws answers
	aws     *ibmcloudtest.Fault
	http1   bool
	before  []string // a command that runs the program: sh -x, say
	signal  syscall.Signal
}

func (p path) name() string { return p.subject.name + ": " + p.how }

// environment is that of the program and nothing else of ours.
func (p path) environment(s *stage, t tools) []string {
	set := map[string]string{
		"PATH": t.noting + ":/usr/local/bin:/usr/bin:/bin", "HOME": s.home(), "TMPDIR": s.home(),
		"SSL_CERT_FILE": s.authority(), "CANARY_LOG": s.log(),
	}
	for _, more := range []func(*stage) map[string]string{p.subject.env, p.env} {
		if more == nil {
			continue
		}
		for name, value := range more(s) {
			set[name] = value
		}
	}
	var environ []string
	for name, value := range set {
		environ = append(environ, name+"="+value)
	}
	return environ
}

func (p path) commandLine(s *stage, t tools) []string {
	line := append(append([]string(nil), p.before...), p.subject.command(t)...)
	if p.args != nil {
		line = append(line, p.args(s)...)
	}
	return line
}

func (p path) input(s *stage) string {
	switch {
	case p.stdin != nil:
		return p.stdin(s)
	case p.subject.stdin != nil:
		return p.subject.stdin(s)
	default:
		return ""
	}
}

// prepare puts the faults of the path in place.
func (p path) prepare(s *stage) error {
	for _, fault := range p.faults {
		if err := s.cloud.AddFault(fault); err != nil {
			return err
		}
	}
	s.door.failAWS(p.awsOp, p.aws)
	return nil
}
