package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The requests that a pass makes, as faults name them.
const (
	opBootstrap = "bootstrap" // IAM: the bootstrap identity's token
	opLook      = "look"      // Secrets Manager: the token's metadata
	opReadKey   = "read_key"  // Secrets Manager: the API key
	opExchange  = "exchange"  // IAM: the workload's token
	opSave      = "save"      // Secrets Manager: a new version
	opKeys      = "keys"      // IAM: the public keys that verify tokens
)

// line is the connection of one process to IBM Cloud.
type line struct {
	*simulation
	calls *atomic.Int64
	saved func(inv *invocation) // called when a version was made
	dead  atomic.Bool

	mu    sync.Mutex
	inv   *invocation
	count map[string]int // requests of the invocation, by kind
}

var errKilled = errors.New("the process was killed")

// begin starts an invocation.
func (l *line) begin(inv *invocation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inv, l.count = inv, map[string]int{}
}

// next counts a request of the invocation, and returns its place there and its random number.
func (l *line) next(op string, req *http.Request) (inv *invocation, here moment, random uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys != nil && req != nil {
		op = l.renewalOp(op, l.inv, req)
	}
	l.count[op]++
	here = moment{op: op, nth: l.count[op]}
	return l.inv, here, hash(l.name, l.inv.id, op, fmt.Sprint(here.nth))
}

// RoundTrip implements http.RoundTripper.
func (l *line) RoundTrip(req *http.Request) (*http.Response, error) {
	inv, here, random := l.next(l.operation(req), req)
	if l.killed(inv, here) {
		return nil, errKilled
	}
	if err := pause(req.Context(), latency(random)); err != nil {
		return nil, err
	}
	if inv.mishaps.stale && inv.once(req.URL.Host) {
		return nil, reset()
	}
	response, err := answer(l.networkFaults.now(), here.op, random, req, func(req *http.Request) (*http.Response, error) {
		return l.reach(here.op, inv, req)
	})
	here.after = true
	if l.killed(inv, here) {
		return nil, errKilled
	}
	return response, err
}

// reach has IBM Cloud answer the request.
func (l *line) reach(op string, inv *invocation, req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if op == opManaged {
		inv.once(op)
	}
	response, err := l.cloud.Transport().RoundTrip(req)
	l.calls.Add(1)
	if err != nil {
		return nil, err
	}
	inv.tried(op, response.StatusCode)
	if op == opSave && response.StatusCode == http.StatusCreated {
		l.saved(inv)
	}
	return response, nil
}

// killed kills the process if it is to die here, and reports whether it is dead.
func (l *line) killed(inv *invocation, here moment) bool {
	if inv.mishaps.kill == here {
		inv.die()
	}
	return l.dead.Load()
}

// operation is what a request is for. The key in a request to IAM tells whose token it asks for.
func (l *line) operation(req *http.Request) string {
	switch {
	case req.URL.Host == "iam.test" && req.Method == http.MethodGet:
		return opKeys
	case req.URL.Host == "iam.test":
		op, key := opExchange, keyOf(req)
		l.locked(func() {
			if slices.Contains(l.bootstrapKeys, key) {
				op = opBootstrap
			}
		})
		return op
	case req.Method == http.MethodPost:
		return opSave
	case strings.HasSuffix(req.URL.Path, "/metadata"):
		return opLook
	default:
		return opReadKey
	}
}

// latency is 20 to 320 ms, mostly little.
func latency(random uint64) time.Duration {
	s := share(random)
	return 20*time.Millisecond + time.Duration(s*s*float64(300*time.Millisecond))
}

// pause waits for d, or less when the caller gives up.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func reset() error {
	return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
}

// inForce are the current faults of a type, the oldest first.
type inForce[T any] struct {
	mu     sync.Mutex
	faults []*T
}

// add begins a fault; call what it returns to end it.
func (f *inForce[T]) add(fault T) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(slices.Clone(f.faults), &fault)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.faults = slices.DeleteFunc(slices.Clone(f.faults), func(other *T) bool { return other == &fault })
	}
}

func (f *inForce[T]) now() []*T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.faults
}

// networkFault is one fault of the network or of a service.
type networkFault struct {
	ops   []string // the requests that it meets; empty means all
	treat treatment
}

// treatment answers in its own way or passes the request on. random is the request's own random number.
type treatment func(random uint64, req *http.Request, onward forward) (*http.Response, error)

// forward passes a request on.
type forward func(*http.Request) (*http.Response, error)

// answer passes a request through all the faults that concern it.
func answer(faults []*networkFault, op string, random uint64, req *http.Request, arrive forward) (*http.Response, error) {
	onward := arrive
	for _, s := range slices.Backward(faults) {
		if next := onward; len(s.ops) == 0 || slices.Contains(s.ops, op) {
			onward = func(req *http.Request) (*http.Response, error) { return s.treat(random, req, next) }
		}
	}
	return onward(req)
}

// answerWith is an answer that is not from IBM Cloud.
func answerWith(req *http.Request, status int, contentType, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {contentType}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		Body:   io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// answering gives every request the same answer.
func answering(status int, contentType, body string) treatment {
	return func(_ uint64, req *http.Request, _ forward) (*http.Response, error) {
		return answerWith(req, status, contentType, body), nil
	}
}

func tooMany(random uint64, req *http.Request, _ forward) (*http.Response, error) {
	wild := []string{"0", "-5", "1", "7", "1.5", "30", "86400", "99999999999999999999", "soon", "", "Fri, 31 Dec 1999 23:59:59 GMT", "Wed, 01 Jan 2200 00:00:00 GMT"}
	response := answerWith(req, http.StatusTooManyRequests, "application/json", `{}`)
	response.Header.Set("Retry-After", wild[random%uint64(len(wild))])
	return response, nil
}

// lost loses the request, and lostAfter the answer to it.
func lost(uint64, *http.Request, forward) (*http.Response, error) { return nil, reset() }

func lostAfter(_ uint64, req *http.Request, onward forward) (*http.Response, error) {
	if _, err := onward(req); err != nil {
		return nil, err
	}
	return nil, reset()
}

// truncated passes the request on and cuts the answer in half.
func truncated(_ uint64, req *http.Request, onward forward) (*http.Response, error) {
	response, err := onward(req)
	if err != nil {
		return nil, err
	}
	body, _ := io.ReadAll(response.Body)
	body = body[:len(body)/2]
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return response, nil
}

// slow passes the request on, before or after a delay of up to most.
func slow(most time.Duration) treatment {
	return func(random uint64, req *http.Request, onward forward) (*http.Response, error) {
		wait := time.Duration(share(random^1) * float64(most))
		if random%2 == 0 {
			if err := pause(req.Context(), wait); err != nil {
				return nil, err
			}
			return onward(req)
		}
		response, err := onward(req)
		if err := errors.Join(err, pause(req.Context(), wait)); err != nil {
			return nil, err
		}
		return response, nil
	}
}

// third treats a sixth of the requests in one way and a sixth in another.
func third(salt uint64, one, other treatment) treatment {
	return func(random uint64, req *http.Request, onward forward) (*http.Response, error) {
		switch s := share(random ^ salt); {
		case s < 1.0/6:
			return one(random, req, onward)
		case s < 1.0/3:
			return other(random, req, onward)
		}
		return onward(req)
	}
}
