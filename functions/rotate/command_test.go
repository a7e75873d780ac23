package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// noSuchSecret is a setting that names a token secret which does not exist.
const noSuchSecret = "TOKEN_SECRET=00000000-0000-4000-8000-000000000000"

// The doctor writes nothing, and config asks nobody: a deployment asks with it whether a list
// will do, so it must say what the function would say, and be quick.
func TestCommand(t *testing.T) {
	cloud, origin := newCloud(t)
	good, missing := environ(cloud, origin), environ(cloud, origin, noSuchSecret)
	faulty := environ(cloud, origin, "IAM_URL=http://iam.cloud.ibm.com", "TOKEN_SECRET=x")
	person := environ(cloud, origin, "SECRETS_MANAGER_APIKEY=", "IAM_TOKEN=Bearer "+cloud.MustMintToken(cloud.AdminAPIKey(), time.Hour))
	file := filepath.Join(t.TempDir(), "cr-token")
	if err := os.WriteFile(file, []byte("compute-resource-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	profile := environ(cloud, origin, "SECRETS_MANAGER_APIKEY=", "IAM_PROFILE_NAME=rotator-bootstrap", "CR_TOKEN_FILENAME="+file)
	for _, test := range []struct {
		args    string
		environ []string
		exit    int
		stdout  []string // what it must say there
		stderr  []string
	}{
		{"doctor", good, 0, []string{"✓ configuration         valid: 1 rotation,", "rotation default\n✓ key-secret", "! stored-token", "→ save one", "nothing failed, 1 warning\n"}, nil},
		{"doctor -json", good, 0, []string{`{"checks":[{"check":"configuration","status":"ok",`, `],"ok":true}`}, nil},
		{"doctor -json", []string{"LOG_LEVEL=loud"}, 2, []string{`"status":"failed","detail":"SECRETS_MANAGER_URL: is required`, `],"ok":false}`}, nil},
		{"doctor -rotation default", good, 0, []string{"rotation default\n"}, nil},
		{"doctor", missing, 1, []string{"✗ token-secret", "→ there is no such secret: check TOKEN_SECRET", "– token-locks           not tried: token-secret failed\n                        nor stored-token, save\n", "1 check failed"}, nil},
		{"doctor", environ(cloud, origin, "SECRETS_MANAGER_APIKEY=unknown"), 1,
			[]string{"✗ bootstrap-identity", "– key-secret            not tried: bootstrap-identity failed\n                        nor key-identity, key-expiry, "}, nil},
		{"doctor", person, 0, []string{"! bootstrap-identity    IAM_TOKEN is of "}, nil},
		{"doctor", faulty, 2, []string{"✗ configuration         IAM_URL: must begin with https://", "✗ configuration         TOKEN_SECRET: is no secret id", "– everything else", "2 checks failed"}, nil},
		{"doctor -h", nil, 0, []string{"Usage: " + program + " doctor"}, nil},
		{"doctor -force", good, 2, nil, []string{"see " + typed + " doctor -h"}},
		{"doctor -rotation other", good, 2, nil, []string{`no rotation is called "other"`}},
		{"doctor -timeout=120", nil, 2, nil, []string{"say 120s for seconds"}},
		{"doctor now", good, 2, nil, []string{`unexpected argument "now"`}},

		{"config", good, 0, []string{"valid: 1 rotation\n"}, nil},
		{"config", faulty, 2, nil, []string{program + ": IAM_URL: must begin with https://", "\n" + program + ": TOKEN_SECRET: is no secret id"}},
		{"config -h", nil, 0, []string{"Usage: " + program + " config"}, nil},
		{"config -json", good, 2, nil, []string{"see " + typed + " config -h"}},

		{"", good, 0, []string{"default: rotated; the stored token expires "}, []string{`"msg":"rotation"`}},
		{"-mode ensure", good, 0, []string{"default: fresh"}, nil},
		{"--mode=check -rotation default", good, 0, []string{"default: checked"}, nil},
		{"-mode check -json", good, 0, []string{`"mode":"check","invoked_by":"schedule","results":[{"rotation":"default"`}, nil},
		{"-run-id by-hand-1", good, 0, []string{"default: rotated"}, nil},
		{"-run-id by-hand-1", good, 0, []string{"default: already_done"}, nil},
		{"", profile, 0, []string{"default: rotated"}, nil},
		{"", person, 0, []string{"default: rotated"}, nil},
		{"", missing, 1, []string{"default: failed\n  look: not_found: "}, nil},
		{"-h", nil, 0, []string{"Examples:"}, nil},
		{"--version", nil, 0, []string{program + " " + version + "\n"}, nil},
		{"-rotate", good, 2, nil, []string{"see " + typed + " -h"}},
		{"-mode dance", good, 2, nil, []string{"use rotate, ensure or check"}},
		{"-rotation other", good, 2, nil, []string{`no rotation is called "other"`}},
		{"-run-id short", good, 2, nil, []string{"8 to 256"}},
		{"rotate", good, 2, nil, []string{`unexpected argument "rotate"`}},
		{"", nil, 2, nil, []string{"SECRETS_MANAGER_URL: is required"}},
		{"-timeout 5", nil, 2, nil, []string{`invalid value "5" for flag -timeout: say 5s for seconds`}},
		{"-timeout soon", nil, 2, nil, []string{"use a duration such as 90s or 2m"}},
		{"-timeout -5s", nil, 2, nil, []string{"leaves no time: use 120s, say"}},
		{"-timeout 0s", good, 2, nil, []string{"leaves no time"}},
		{"-x\x1b[2J", nil, 2, nil, []string{`-x\x1b[2J`}},
	} {
		cloud.ClearRequests()
		var stdout, stderr bytes.Buffer
		exit := command(strings.Fields(test.args), test.environ, nil, &stdout, &stderr)
		missed := func(text string, words []string) bool {
			return slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
		}
		if exit != test.exit || missed(stdout.String(), test.stdout) || missed(stderr.String(), test.stderr) || exit == 2 && test.stdout == nil && stdout.Len() > 0 {
			t.Errorf("%q: got exit %d\nstdout %s\nstderr %s\nwant exit %d, %q, %q", test.args, exit, &stdout, &stderr, test.exit, test.stdout, test.stderr)
		}
		if strings.HasPrefix(test.args, "doctor") {
			wantNothingWritten(t, cloud)
		}
	}
}

func TestAdviceHasThePathThatWasTyped(t *testing.T) {
	for path, want := range map[string]string{"build/local/rotator-1.0": "build/local/rotator-1.0", "rotator": "rotator", "my build/rotator": program, "a;b": program, "\x1b[2J": program} {
		if got := asTyped(path); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
	if got, want := commandFor("a", true), os.Args[0]+" -rotation a -force"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestConfigOpensNoConnection(t *testing.T) {
	cloud, _ := newCloud(t)
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
		log.Debug("attempt failed, trying again", "rotation", "a", "attempt", 1, "wait_ms", 2500, "error", errors.New("why\x1b[2J"))
		time.Sleep(2500 * time.Millisecond)
		log.Debug("attempt failed, trying again", "rotation", "a", "attempt", 2, "wait_ms", 300, "error", errors.New("why"))
		end()
		const clear = "\r\x1b[K"
		want := "a: attempt 1 failed, the next is in 2.5s: why\\x1b[2J\nworking, 9s left" + clear + "working, 8s left" +
			clear + "a: attempt 2 failed, the next is in 300ms: why\nworking, 8s left" + clear
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
		exit int
		want string
	}{
		{stopped, exitFailed, program + ": stopped before it was done: interrupt signal received\n"},
		{stopped, exitDone, ""},
		{late, exitFailed, ""},
	} {
		var stderr bytes.Buffer
		if exit := exitCode(test.ctx, &stderr, test.exit == exitDone); exit != test.exit || stderr.String() != test.want {
			t.Errorf("%v: got exit %d and %q, want %d and %q", test.ctx.Err(), exit, &stderr, test.exit, test.want)
		}
	}
}
