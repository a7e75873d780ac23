package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// patience is how long a program may take; none needs a tenth of it.
const patience = 60 * time.Second

// Streams that are more than what a program prints.
const (
	processArguments   = "a process's arguments" // as /proc shows them
	programArguments   = "a program's arguments" // as the program notes them
	networkEnvironment = "the environment of curl or aws"
)

// stream is something that came out of a program.
type stream struct {
	name    string
	content []byte
}

// attempt tries a path and returns what was found in everything that came out, as lines for a person, and which operations
// the program made, so that the next faults meet it there.
func attempt(ctx context.Context, p path, t tools) (hits []string, made []operation, err error) {
	s, err := newStage(p.http1)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	if err := os.WriteFile(filepath.Join(s.out(), "cr-token"), []byte(s.cr), 0o600); err != nil {
		return nil, nil, err
	}
	if err := p.prepare(s); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.name(), err)
	}
	streams, err := run(ctx, p, s, t)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.name(), err)
	}
	allowed := map[string]bool{}
	everything := s.search(allowed)
	if p.subject.prints != nil {
		for _, secret := range p.subject.prints(s) {
			allowed[secret] = true
		}
	}
	butPrinted := s.search(allowed)
	for _, out := range streams {
		if p.subject.given && (out.name == processArguments || out.name == programArguments) {
			continue
		}
		search := everything
		if out.name == "stdout" {
			search = butPrinted
		}
		if out.name == networkEnvironment {
			search = s.search(map[string]bool{s.aws.secretKey: true, s.aws.sessionToken: true, s.proxy: true}) // they need these
		}
		for _, hit := range search.in(out.content) {
			hits = append(hits, fmt.Sprintf("%s: %s is in %s (%s)", p.name(), hit.canary, out.name, hit.form))
		}
	}
	return hits, operations(s.cloud.Requests()), nil
}

// run starts the program and returns all that came out of it.
func run(ctx context.Context, p path, s *stage, t tools) ([]stream, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	line := p.commandLine(s, t)
	program := exec.CommandContext(ctx, line[0], line[1:]...)
	program.Env, program.Dir = p.environment(s, t), s.home()
	program.Stdin = strings.NewReader(p.input(s))
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	program.Cancel = func() error { return syscall.Kill(-program.Process.Pid, syscall.SIGKILL) }
	program.WaitDelay = time.Second
	var waiting <-chan struct{}
	if p.signal != 0 {
		waiting = s.door.hold()
	}
	if err := program.Start(); err != nil {
		return nil, err
	}
	watch := watchArguments(program.Process.Pid)
	if waiting != nil {
		select {
		case <-waiting:
			signalAll(program.Process.Pid, p.signal)
		case <-ctx.Done():
		}
	}
	err := program.Wait()
	s.door.release()
	arguments := watch.end()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, err
	}
	streams := []stream{{"stdout", stdout.Bytes()}, {"stderr", stderr.Bytes()}, {processArguments, arguments}}
	if exit != nil && exit.Sys().(syscall.WaitStatus).CoreDump() {
		streams = append(streams, stream{"a core dump", []byte(s.cloud.BootstrapAPIKey())})
	}
	return append(streams, leftFiles(s)...), nil
}

// leftFiles are the files that the program has made, and what is noted of the programs that it called.
func leftFiles(s *stage) []stream {
	var streams []stream
	names := map[string]string{"arguments": programArguments, "environment": networkEnvironment}
	for _, folder := range []string{s.home(), s.log()} {
		_ = filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil // a file that is gone is no leak
			}
			content, err := os.ReadFile(file)
			if err != nil {
				return nil
			}
			name, known := names[entry.Name()]
			if !known || folder != s.log() {
				name = "the file " + entry.Name()
			}
			streams = append(streams, stream{name, append(content, []byte("\n"+file)...)})
			return nil
		})
	}
	return streams
}
