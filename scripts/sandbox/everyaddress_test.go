package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryAddress: one that listens on all of this machine's is used here on loopback, and says that it
// is not alone with its user.
func TestEveryAddress(t *testing.T) {
	for _, test := range []struct {
		addr string
		told bool
	}{{"0.0.0.0:0", true}, {":0", true}, {"127.0.0.1:0", false}} {
		file := filepath.Join(t.TempDir(), "env")
		said := serveOn(t, test.addr, file)
		env := readEnvFile(t, file)
		host, port, err := net.SplitHostPort(strings.TrimPrefix(env["IAM_URL"], "http://"))
		if err != nil || host != "127.0.0.1" {
			t.Errorf("%s: got IAM_URL %s, %v; want it on 127.0.0.1", test.addr, env["IAM_URL"], err)
		}
		want := fmt.Sprintf("sandbox: serving IBM Cloud on %s", env["IAM_URL"])
		if test.told {
			want += ", and to everybody who reaches this machine, on port " + port
		}
		if said != want+"\n" {
			t.Errorf("%s: got %q, want %q", test.addr, said, want)
		}
		response, err := http.Get(env["IAM_URL"] + "/identity/keys")
		if err != nil {
			t.Errorf("%s: %v", test.addr, err)
			continue
		}
		response.Body.Close()
	}
}

// serveOn runs a sandbox until the test ends and returns its first line.
func serveOn(t *testing.T, addr, file string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	errReader, stderr := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx, []string{"-addr", addr, "-env", file}, io.Discard, stderr)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	line, err := bufio.NewReader(errReader).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, errReader) }()
	return line
}
