package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
)

// session is one run of this program.
type session struct {
	code           int
	stdout, stderr string
}

// lines returns the lines of stdout, each of which must be JSON.
func (s session) lines(t *testing.T) []string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(s.stdout, "\n"), "\n")
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("got the stdout line %q, want JSON", line)
		}
	}
	return lines
}

// output is a buffer that the program and its child may write to at once.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func runInvoke(t *testing.T, stdin string, args ...string) session {
	t.Helper()
	var stdout, stderr output
	code := run(context.Background(), args, os.Environ(), strings.NewReader(stdin), &stdout, &stderr)
	return session{code, stdout.buf.String(), stderr.buf.String()}
}

// with completes flags to a command line that runs the named function of functions.
func with(function string, flags ...string) []string {
	return append(flags, append([]string{"--", os.Args[0], "function"}, strings.Fields(function)...)...)
}
