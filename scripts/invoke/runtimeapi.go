package main

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// runtimeAPI serves the Lambda Runtime API to one process, on a port of its own. Its statuses and error bodies are
// those of AWS's emulator, https://github.com/aws/aws-lambda-runtime-interface-emulator.
type runtimeAPI struct {
	address string       // host:port, the value of AWS_LAMBDA_RUNTIME_API
	polls   chan poll    // each GET …/next, for as long as nobody takes it and its client waits
	answers chan answer  // one for each invocation handed out, or one init error; never blocks the function
	arn     string       // told with each event
	server  *http.Server // closed by close

	mu      sync.Mutex
	phase   phase
	pending string // request id handed out and not yet answered, or ""
}

// phase is where a process is in its life. Initialising ends with its first poll or an init error, whichever is first.
type phase int

const (
	initialising phase = iota
	serving
	initFailed
)

// poll is a process waiting for an event.
type poll struct {
	at    time.Time
	event chan<- invocation // takes one without blocking
}

// invocation is one event as a function gets it.
type invocation struct {
	id       string
	event    []byte
	deadline time.Time
}

// serveRuntimeAPI listens on a free loopback port until close.
func serveRuntimeAPI(arn string) (*runtimeAPI, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serving the Lambda Runtime API: %w", err)
	}
	a := &runtimeAPI{
		address: listener.Addr().String(),
		polls:   make(chan poll),
		answers: make(chan answer, 1),
		arn:     arn,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", a.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", a.answerInvocation(readResponse))
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", a.answerInvocation(readError))
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", a.failInit)
	a.server = &http.Server{Handler: mux}
	go a.server.Serve(listener) // returns when closed
	return a, nil
}

// close ends the connections, waiting polls among them.
func (a *runtimeAPI) close() { a.server.Close() }

// handOut answers the poll with the invocation, whose answer is the next to come out of answers.
func (a *runtimeAPI) handOut(p *poll, inv invocation) {
	a.mu.Lock()
	a.pending = inv.id
	a.mu.Unlock()
	p.event <- inv
}

// endInit goes to the phase, from initialising only, and reports whether that is allowed: any number of polls is, one
// init error is.
func (a *runtimeAPI) endInit(to phase) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase == initialising {
		a.phase = to
		return true
	}
	return a.phase == serving && to == serving
}

// take accepts the answer to the pending invocation, once, and reports whether it did. Any other id is refused: that of
// an invocation that timed out, or was answered already, or never was.
func (a *runtimeAPI) take(id string, got answer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending != id {
		return false
	}
	a.pending = ""
	a.answers <- got
	return true
}
