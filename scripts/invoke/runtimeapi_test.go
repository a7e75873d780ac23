package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// mustServe serves an API that has handed out the invocation with this id, as if a process had polled for it.
func mustServe(t *testing.T, id string) *runtimeAPI {
	t.Helper()
	api, err := serveRuntimeAPI("arn:test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.close)
	api.handOut(&poll{event: make(chan invocation, 1)}, invocation{id: id})
	return api
}

// mustPost posts the body and returns the status and body of what comes back.
func mustPost(t *testing.T, api *runtimeAPI, path, body string) (int, string) {
	t.Helper()
	resp, err := http.Post("http://"+api.address+"/2018-06-01/runtime/"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

func TestLateAnswerIsNotTakenForTheNextInvocation(t *testing.T) {
	t.Parallel()
	api := mustServe(t, "first")
	api.handOut(&poll{event: make(chan invocation, 1)}, invocation{id: "second"})
	for _, kind := range []string{"response", "error"} {
		if status, body := mustPost(t, api, "invocation/first/"+kind, `"late"`); status != http.StatusBadRequest {
			t.Errorf("late %s: got %d %s, want 400", kind, status, body)
		}
	}
	if status, body := mustPost(t, api, "invocation/second/response", `"in time"`); status != http.StatusAccepted {
		t.Errorf("got %d %s, want 202", status, body)
	}
	if got := <-api.answers; string(got.line) != `"in time"` || got.failed {
		t.Errorf(`got the answer %s (failed: %t), want "in time"`, got.line, got.failed)
	}
}

func TestTruncatedAnswerIsRefused(t *testing.T) {
	t.Parallel()
	api := mustServe(t, "id")
	conn, err := net.Dial("tcp", api.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /2018-06-01/runtime/invocation/id/response HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n\"half")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d, want 400", resp.StatusCode)
	}
	if status, body := mustPost(t, api, "invocation/id/response", `"whole"`); status != http.StatusAccepted {
		t.Errorf("the whole answer after it: got %d %s, want 202", status, body)
	}
}

func TestInitErrorExcludesPolling(t *testing.T) {
	t.Parallel()
	api, err := serveRuntimeAPI("arn:test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.close)
	if status, body := mustPost(t, api, "init/error", `{"errorMessage":"m","errorType":"T"}`); status != http.StatusAccepted {
		t.Errorf("first init error: got %d %s, want 202", status, body)
	}
	if status, body := mustPost(t, api, "init/error", `{"errorMessage":"m","errorType":"T"}`); status != http.StatusForbidden {
		t.Errorf("second init error: got %d %s, want 403", status, body)
	}
	resp, err := http.Get("http://" + api.address + "/2018-06-01/runtime/invocation/next")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("poll after it: got %d, want 403", resp.StatusCode)
	}
}

func TestPollEndsWhenItsClientLeaves(t *testing.T) {
	t.Parallel()
	api := mustServe(t, "id")
	ctx, leave := context.WithCancel(context.Background())
	request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/2018-06-01/runtime/invocation/next", nil)

	returned := make(chan struct{})
	go func() { api.next(httptest.NewRecorder(), request); close(returned) }()
	<-api.polls // taken, and no event follows
	leave()
	<-returned

	api.next(httptest.NewRecorder(), request) // not even taken
}
