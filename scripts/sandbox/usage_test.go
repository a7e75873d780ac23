package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/serving"
)

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args string
		says string
	}{
		{"stray", "unexpected argument"},
		{"-rotations 0", "-rotations"},
		{"-rotations -1", "-rotations"},
		{"-rotations many", "rotations"},
		{"-token-ttl 0", "-token-ttl"},
		{"-token-ttl -1h", "-token-ttl"},
		{"-token-ttl 61m", "-token-ttl"},
		{"-token-ttl 1500ms", "-token-ttl"},
		{"-token-ttl soon", "token-ttl"},
		{"-addr nowhere", "-addr must be host:port"},
		{"-addr 127.0.0.1:99999", "-addr must have a port from 0 to 65535"},
		{"-addr 127.0.0.1:-1", "-addr must have a port from 0 to 65535"},
		{"-addr 192.0.2.1:8480", "-addr must be on loopback"},
		{"-env=", "-env"},
		{"-tls-dir=", "-tls-dir"},
		{"-colour red", "colour"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(test.args), &stdout, &stderr); code != serving.ExitUsage || stdout.Len() != 0 {
			t.Errorf("%s: got exit code %d, stdout %q; want 2 and nothing", test.args, code, stdout.String())
		}
		if !strings.Contains(stderr.String(), test.says) || !strings.Contains(stderr.String(), "-h") {
			t.Errorf("%s: got %q, want %q and where help is", test.args, stderr.String(), test.says)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, &stdout, &stderr); code != serving.ExitOK || stderr.Len() != 0 || !strings.Contains(stdout.String(), "examples:") {
		t.Errorf("-h: got exit code %d, stderr %q, stdout %q", code, stderr.String(), stdout.String())
	}
}

func TestFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	missing := filepath.Join(t.TempDir(), "missing", "env")
	for name, args := range map[string][]string{
		"port taken":         {"-addr", taken.Addr().String()},
		"env in no folder":   {"-addr", "127.0.0.1:0", "-env", missing},
		"fleet in no folder": {"-addr", "127.0.0.1:0", "-rotations", "2", "-env", missing},
		"tls-dir is a file":  {"-addr", "127.0.0.1:0", "-tls-dir", os.Args[0]},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, io.Discard, &stderr); code != serving.ExitError || !strings.HasPrefix(stderr.String(), "sandbox: ") {
			t.Errorf("%s: got exit code %d, %q; want 1 and a message", name, code, stderr.String())
		}
	}
}
