package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// commandCase is a command line, and what it must come to.
type commandCase struct {
	name    string
	args    []string
	environ []string
	exit    int
	stdout  []string // what it must say there
	stderr  string
}

func (c commandCase) check(t *testing.T) {
	var stdout, stderr bytes.Buffer
	exit := command(c.args, c.environ, nil, &stdout, &stderr)
	if exit != c.exit || !strings.Contains(stderr.String(), c.stderr) {
		t.Errorf("got exit %d\nstdout %s\nstderr %s\nwant exit %d, %q", exit, &stdout, &stderr, c.exit, c.stderr)
	}
	for _, words := range c.stdout {
		if !strings.Contains(stdout.String(), words) {
			t.Errorf("got %s\nwant %q in it", &stdout, words)
		}
	}
	if exit == 2 && c.stdout == nil && stdout.Len() > 0 {
		t.Errorf("a usage error wrote to stdout: %s", &stdout)
	}
}

func TestCommand(t *testing.T) {
	cloud, origin := newCloud(t)
	good := environ(cloud, origin)
	for _, test := range []commandCase{
		{"rotate", nil, good, 0, []string{"default: rotated; the stored token expires "}, `"msg":"rotation"`},
		{"ensure", []string{"-mode", "ensure"}, good, 0, []string{"default: fresh"}, ""},
		{"check", []string{"-mode=check", "-rotation", "default"}, good, 0, []string{"default: checked"}, ""},
		{"JSON", []string{"-mode", "check", "-json"}, good, 0, []string{`"mode":"check","invoked_by":"schedule","results":[{"rotation":"default"`}, ""},
		{"by double dash", []string{"--mode", "check"}, good, 0, []string{"default: checked"}, ""},
		{"again", []string{"-run-id", "by-hand-1"}, good, 0, []string{"default: rotated"}, ""},
		{"same id", []string{"-run-id", "by-hand-1"}, good, 0, []string{"default: already_done"}, ""},
		{"failure", nil, environ(cloud, origin, noSuchSecret), 1, []string{"default: failed\n  look: not_found: "}, ""},
		{"help", []string{"-h"}, nil, 0, []string{"Examples:"}, ""},
		{"unknown flag", []string{"-rotate"}, good, 2, nil, "see " + program + " -h"},
		{"unknown mode", []string{"-mode", "dance"}, good, 2, nil, "use rotate, ensure or check"},
		{"unknown rotation", []string{"-rotation", "other"}, good, 2, nil, `no rotation is called "other"`},
		{"bad run id", []string{"-run-id", "short"}, good, 2, nil, "8 to 256"},
		{"no time", []string{"-timeout", "0s"}, good, 2, nil, "leaves no time"},
		{"stray argument", []string{"rotate"}, good, 2, nil, `unexpected argument "rotate"`},
		{"no configuration", nil, nil, 2, nil, "SECRETS_MANAGER_URL: is required"},
		{"no unit", []string{"-timeout", "5"}, nil, 2, nil, `invalid value "5" for flag -timeout: say 5s for seconds`},
		{"no unit for doctor", []string{"doctor", "-timeout=120"}, nil, 2, nil, "say 120s for seconds"},
		{"no duration", []string{"-timeout", "soon"}, nil, 2, nil, "use a duration such as 90s or 2m"},
		{"backwards", []string{"-timeout", "-5s"}, nil, 2, nil, "leaves no time: use 120s, say"},
		{"unprintable", []string{"-x\x1b[2J"}, nil, 2, nil, `-x\x1b[2J`},
		{"version", []string{"--version"}, nil, 0, []string{program + " " + version + "\n"}, ""},
	} {
		t.Run(test.name, test.check)
	}
}

// noSuchSecret is a setting that names a token secret which does not exist.
const noSuchSecret = "TOKEN_SECRET=00000000-0000-4000-8000-000000000000"

// A deployment asks with it whether a list will do, so it must say what the function
// would say, and be as quick: it asks nobody.
func TestConfigCommand(t *testing.T) {
	cloud, origin := newCloud(t)
	good := environ(cloud, origin)
	cloud.ClearRequests()
	for _, test := range []commandCase{
		{"valid", nil, good, 0, []string{"valid: 1 rotation\n"}, ""},
		{"faulty", nil, environ(cloud, origin, "IAM_URL=http://iam.cloud.ibm.com", "TOKEN_SECRET=x"), 2, nil,
			program + ": IAM_URL: must begin with https://"},
		{"the second fault, too", nil, environ(cloud, origin, "IAM_URL=http://iam.cloud.ibm.com", "TOKEN_SECRET=x"), 2, nil,
			"\n" + program + ": TOKEN_SECRET: is no secret id"},
		{"help", []string{"-h"}, nil, 0, []string{"Usage: " + program + " config"}, ""},
		{"stray argument", []string{"now"}, good, 2, nil, `unexpected argument "now"`},
	} {
		test.args = append([]string{"config"}, test.args...)
		t.Run(test.name, test.check)
	}
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	environ := environ(cloud, "https://"+listener.Addr().String())
	for range 20 {
		if exit := command([]string{"config"}, environ, nil, io.Discard, io.Discard); exit != exitDone {
			t.Errorf("got exit %d", exit)
		}
	}
	_ = listener.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := listener.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got a connection (%v), want none", err)
	}
}

func TestProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shown bytes.Buffer
		log, end := showProgress(&shown, 10*time.Second)
		log.Info("rotation", "result", "in the report")
		log.Debug("attempt failed, trying again", "rotation", "a", "attempt", 1, "error", errors.New("why\x1b[2J"))
		time.Sleep(2500 * time.Millisecond)
		log.Debug("attempt failed, trying again", "attempt", 2)
		end()
		const clear = "\r\x1b[K"
		want := "attempt failed, trying again; rotation a; attempt 1; error why\\x1b[2J\nworking, 9s left" + clear + "working, 8s left" +
			clear + "attempt failed, trying again; attempt 2\nworking, 8s left" + clear
		if shown.String() != want {
			t.Errorf("got %q\nwant %q", &shown, want)
		}
	})
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	null, nullErr := os.Open(os.DevNull)
	zero, zeroErr := os.Open("/dev/zero")
	if err := errors.Join(nullErr, zeroErr); err != nil {
		t.Fatal(err)
	}
	for _, other := range []any{file, null, zero, &bytes.Buffer{}, nil} {
		if isTerminal(other) {
			t.Errorf("%v counts as a terminal", other)
		}
	}
}

func TestWhoStartsTheCommandAtATerminalIsAPerson(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	cloud, origin := newCloud(t)
	for want, stdin := range map[string]io.Reader{"person": terminal, "schedule": strings.NewReader("")} {
		var stdout bytes.Buffer
		command([]string{"-mode", "check", "-json"}, environ(cloud, origin), stdin, &stdout, io.Discard)
		if !strings.Contains(stdout.String(), `"invoked_by":"`+want+`"`) {
			t.Errorf("got %s, want %s", &stdout, want)
		}
	}
}

func TestStoppedCommandSaysSo(t *testing.T) {
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("interrupt signal received"))
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, test := range []struct {
		ctx  context.Context
		good bool
		want string
	}{
		{stopped, false, program + ": stopped before it was done: interrupt signal received\n"},
		{stopped, true, ""},
		{late, false, ""},
	} {
		var stderr bytes.Buffer
		if (commandLine{}).interrupted(test.ctx, &stderr, test.good); stderr.String() != test.want {
			t.Errorf("%v, good %v: got %q, want %q", test.ctx.Err(), test.good, &stderr, test.want)
		}
	}
}
