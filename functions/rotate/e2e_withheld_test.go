package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// net/http logs what a server says unasked, and HTTP/2's debug switch logs every
// header and body. Both repeat keys and tokens, whatever our log level.
func TestTheBuiltFunctionWithholdsWhatLibrariesLog(t *testing.T) {
	t.Parallel()
	s := newStage(t) // s.run searches all output for keys and tokens
	for _, host := range []string{"invoke", "bootstrap"} {
		args := []string{}
		if host == "invoke" {
			args = []string{"--", s.bin + "/bootstrap"}
		}
		if _, stderr, exit := s.run(map[string]string{"GODEBUG": "http2debug=2"}, host, args...); exit != 0 {
			t.Errorf("%s: got exit %d: %s", host, exit, stderr)
		}
	}
	echo := echoing(t)
	_, stderr, exit := s.run(map[string]string{"IAM_URL": echo, "SECRETS_MANAGER_URL": echo}, "bootstrap", "-timeout", "2s")
	if exit != 1 || strings.Contains(stderr, "Unsolicited") {
		t.Errorf("got exit %d: %s", exit, stderr)
	}
}

// echoing serves HTTP/1.1: after each answer it repeats, unasked, the headers and
// the body of the request.
func echoing(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(conn)
		}
	}()
	return "http://" + listener.Addr().String()
}

func echo(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	sent, _ := io.ReadAll(request.Body)
	answer := `{"errors":[]}`
	status := 503
	if request.URL.Path == "/identity/token" {
		status = 200
		answer = fmt.Sprintf(`{"access_token":"eyJhbGciOiJub25lIn0.e30.","token_type":"Bearer","expires_in":3600,"expiration":%d}`, time.Now().Add(time.Hour).Unix())
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(answer), answer)
	// The client must have put the connection back before it reads this.
	time.Sleep(50 * time.Millisecond)
	_, _ = fmt.Fprintf(conn, "debug %s %s\r\n", request.Header.Get("Authorization"), sent)
	_, _ = io.Copy(io.Discard, conn)
}
