package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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
		{"-addr nowhere", "-addr must be host:port"},
		{"-addr :8481", "on loopback"},
		{"-addr 0.0.0.0:8481", "whoever reaches it can run programs here"},
		{"-addr example.com:8481", "on loopback"},
		{"-env=", "-env"},
		{"-bin=", "-bin"},
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

// withMoto makes a folder the only one in PATH, and puts there invoke and a moto_server that runs text.
func withMoto(t *testing.T, text string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	t.Setenv("PATH", folder)
	for name, content := range map[string]string{"invoke": "", "moto_server": text} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"+content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestWhatMustBeThereFirst(t *testing.T) {
	folder := withMoto(t, "")
	if err := os.Remove(filepath.Join(folder, "moto_server")); err != nil {
		t.Fatal(err)
	}
	for bin, says := range map[string]string{folder: "pip install 'moto[server]'", t.TempDir(): "make build-local first"} {
		var stderr bytes.Buffer
		code := run(t.Context(), []string{"-addr", "127.0.0.1:0", "-bin", bin, "-env", filepath.Join(folder, "env")}, io.Discard, &stderr)
		if code != serving.ExitUsage || !strings.Contains(stderr.String(), says) {
			t.Errorf("got exit code %d, %q; want 2 and %q", code, stderr.String(), says)
		}
	}
}

func TestFailures(t *testing.T) {
	s3 := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // for the bucket
	defer s3.Close()
	folder := withMoto(t, "echo ' * Running on "+s3.URL+"' >&2\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	file := filepath.Join(folder, "env")
	for says, args := range map[string][]string{
		"address already in use":            {"-addr", taken.Addr().String()},
		"making a file":                     {"-env", filepath.Join(folder, "missing", "env")},
		"moto_server has ended by itself\n": {"-env", file},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), append([]string{"-addr", "127.0.0.1:0", "-bin", folder}, args...), io.Discard, &stderr)
		if code != serving.ExitError || !strings.Contains(stderr.String(), says) {
			t.Errorf("got exit code %d, %q; want 1 and %q", code, stderr.String(), says)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the environment file outlived the sandbox: %v", err)
	}
}
