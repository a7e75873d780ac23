package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// fill writes a secret for %s and the server's address for SERVER.
func fill(shape, secret, server string) string {
	return strings.ReplaceAll(fmt.Sprintf(shape, secret), "SERVER", server)
}

// writeOrPanic writes a file of the stage, which is a new folder of ours.
func writeOrPanic(file, text string) {
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// wrongArguments give a secret on the command line. It is everybody's to read there, but a program that repeats it writes
// it into a log as well; so here the arguments of the program itself are not searched.
func wrongArguments() []path {
	var all []path
	for _, sub := range []subject{command, iamToken, putBootstrapKey, setUpSecrets} {
		for _, shape := range []string{"%s", "-%s", "--apikey=%s", "-mode=%s", "-timeout=%s", "-rotation=%s", "-run-id=%s!", "-json=%s", "--format=%s", "--name=%s"} {
			all = append(all, path{subject: given(sub), how: "with the argument " + shape, args: func(s *stage) []string {
				return []string{fmt.Sprintf(shape, s.cloud.BootstrapAPIKey())}
			}})
		}
		for _, option := range []string{"--format", "--min-ttl", "--wait", "--expires-in", "--terraform", "-mode", "-rotation", "-timeout"} {
			all = append(all, path{subject: given(sub), how: "with a key for " + option, args: func(s *stage) []string {
				return []string{option, s.cloud.BootstrapAPIKey()}
			}})
		}
	}
	return all
}

// given marks a program that is given a secret as an argument.
func given(sub subject) subject {
	sub.given = true
	return sub
}

// events are invocations that bear a key where none belongs.
func events() []path {
	var all []path
	for how, shape := range inOrder(eventShapes) {
		sub := lambda
		sub.command = func(t tools) []string {
			return []string{t.built("invoke"), "-timeout", "1s", "-event", "-", "--", t.built("bootstrap")}
		}
		all = append(all, path{subject: sub, how: "event: " + how, stdin: func(s *stage) string { return fmt.Sprintf(shape, s.cloud.BootstrapAPIKey()) }})
	}
	return all
}

// inputs are what put-bootstrap-key may be given, and what the aws program may say to it.
func inputs() []path {
	var all []path
	for how, shape := range inOrder(inputShapes) {
		all = append(all, path{subject: putBootstrapKey, how: "given " + how, stdin: func(s *stage) string { return fmt.Sprintf(shape, s.cloud.BootstrapAPIKey()) }})
	}
	for _, does := range []string{"found", "denied", "repeat"} {
		env := func(*stage) map[string]string { return map[string]string{"CANARY_AWS": does} }
		all = append(all, setting(putBootstrapKey, "aws: "+does, env), setting(setUpSecrets, "aws: "+does, env))
	}
	return all
}

// kills end the programs in the middle of an operation.
func kills() []path {
	limit := []string{"sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh"} // so that a core would be dumped
	var all []path
	for _, sub := range []subject{command, lambda, command.named("on AWS", functionOnAWS), iamToken, setUpSecrets} {
		for _, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGKILL} {
			if sub.name == setUpSecrets.name && (signal == syscall.SIGKILL || signal == syscall.SIGSEGV) {
				continue // no shell can clear up after these; the folder is private (0700)
			}
			for _, level := range []string{"none", "single", "all", "system", "crash"} {
				if level != "crash" && scripted(sub) {
					continue // GOTRACEBACK means nothing to a shell
				}
				all = append(all, path{subject: sub, how: fmt.Sprintf("killed by %s with GOTRACEBACK=%s", signal, level), before: limit, signal: signal,
					env: func(*stage) map[string]string { return map[string]string{"GOTRACEBACK": level} }})
			}
		}
	}
	return all
}
