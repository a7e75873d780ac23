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
	"strings"
	"sync"
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
)

// line is the way from one process to IBM Cloud.
type line struct {
	w    *world
	ours bool // the rotator's; else the naive way's

	mu    sync.Mutex
	inv   *invocation
	count map[string]int // requests of the invocation, by kind
	dead  bool           // the process was killed
}

var errKilled = errors.New("the process was killed")

// begin starts an invocation.
func (l *line) begin(inv *invocation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inv, l.count = inv, map[string]int{}
}

// RoundTrip implements http.RoundTripper.
func (l *line) RoundTrip(req *http.Request) (*http.Response, error) {
	op := l.operation(req)
	l.mu.Lock()
	inv := l.inv
	l.count[op]++
	nth := l.count[op]
	l.mu.Unlock()
	throw := hash(l.w.name, inv.id, op, fmt.Sprint(nth))
	here := moment{op: op, nth: nth}
	if l.fates(inv, here) {
		return nil, errKilled
	}
	if err := pause(req.Context(), latency(throw)); err != nil {
		return nil, err
	}
	if inv.fate.stale && inv.once(req.URL.Host) {
		return nil, reset()
	}
	response, err := l.w.weather.answer(op, throw, req, func(req *http.Request) (*http.Response, error) {
		return l.reach(op, inv, req)
	})
	here.after = true
	if l.fates(inv, here) {
		return nil, errKilled
	}
	return response, err
}

// reach is where the request arrives at IBM Cloud.
func (l *line) reach(op string, inv *invocation, req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	response, err := l.w.cloud.Transport().RoundTrip(req)
	l.w.counts.call(l.ours, op)
	if err == nil && op == opSave && response.StatusCode == http.StatusCreated {
		if l.ours {
			l.w.published(inv)
		} else {
			l.w.naivePublished()
		}
	}
	return response, err
}

// fates kills the process if this is the moment, and reports whether it is dead.
func (l *line) fates(inv *invocation, here moment) bool {
	if inv.fate.kill == here {
		inv.die()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *line) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

// operation tells what a request is for; an IAM request's key tells whose it is.
func (l *line) operation(req *http.Request) string {
	switch {
	case req.URL.Host == "iam.test":
		form, _ := io.ReadAll(req.Body)
		req.Body = io.NopCloser(bytes.NewReader(form))
		if l.w.isBootstrap(form) {
			return opBootstrap
		}
		return opExchange
	case req.Method == http.MethodPost:
		return opSave
	case strings.HasSuffix(req.URL.Path, "/metadata"):
		return opLook
	default:
		return opReadKey
	}
}

// latency is 20 to 320 ms, mostly little.
func latency(throw uint64) time.Duration {
	s := share(throw)
	return 20*time.Millisecond + time.Duration(s*s*float64(300*time.Millisecond))
}

// pause waits for d, or less when the caller gives up.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func reset() error {
	return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
}
