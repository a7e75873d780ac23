package simulation

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// weather is what lies between the processes and IBM Cloud: the network faults
// of the moment, and the services' own troubles.
type weather struct {
	mu     sync.Mutex
	storms []*storm
}

// forward passes a request on.
type forward func(*http.Request) (*http.Response, error)

// storm is one fault of the network or of a service.
type storm struct {
	ops []string // the requests that it meets; empty means all
	// play answers in its own way or passes the request on. throw is the
	// request's own random number.
	play func(throw uint64, req *http.Request, onward forward) (*http.Response, error)
}

// add begins a storm; call what it returns to end it.
func (w *weather) add(s *storm) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storms = append(slices.Clone(w.storms), s)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.storms = slices.DeleteFunc(slices.Clone(w.storms), func(other *storm) bool { return other == s })
	}
}

// answer takes a request through all the storms that it meets, the oldest first.
func (w *weather) answer(op string, throw uint64, req *http.Request, arrive forward) (*http.Response, error) {
	w.mu.Lock()
	storms := w.storms
	w.mu.Unlock()
	onward := arrive
	for _, s := range slices.Backward(storms) {
		if len(s.ops) > 0 && !slices.Contains(s.ops, op) {
			continue
		}
		next := onward
		onward = func(req *http.Request) (*http.Response, error) { return s.play(throw, req, next) }
	}
	return onward(req)
}

// answerWith is an answer that nobody at IBM meant.
func answerWith(req *http.Request, status int, contentType, body string, headers ...string) *http.Response {
	header := http.Header{"Content-Type": {contentType}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
	for i := 0; i+1 < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader([]byte(body))), ContentLength: int64(len(body)), Request: req,
	}
}

// always is a storm that gives every request the same treatment.
func always(treat func(req *http.Request) (*http.Response, error)) func(uint64, *http.Request, forward) (*http.Response, error) {
	return func(_ uint64, req *http.Request, _ forward) (*http.Response, error) { return treat(req) }
}

// hang answers when the caller has given up.
func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
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
