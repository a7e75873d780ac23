// Package ibmcloud adapts IBM's SDKs to the rotation: IAM for the exchange,
// Secrets Manager for the key and the token, and the bootstrap identity that
// opens Secrets Manager.
//
// The SDKs are used for requests and types only. Their token cache, their
// retries, their own connection pools and their error texts are not: the cache
// returns ageing tokens, the retries repeat a save whose answer was lost, and
// the texts repeat whatever a service answered.
package ibmcloud

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// secretAnswer bounds the answer that holds an API key. The largest secret that may
// hold one is of type kv: 512 KB of entries (Secrets Manager's limit).
const secretAnswer = 1 << 20

// wireResponse is what came back over the wire for one SDK call. It is kept in addition to the
// SDK's response, which loses the status of some failures, hides others
// behind a nil error and copies foreign text into its messages.
type wireResponse struct {
	limit   int    // of the body in bytes; 0 means network.SmallAnswer
	release func() // to be called when the SDK has decoded the answer; may be nil

	status int // 0 when no answer came
	header http.Header
	body   []byte
	date   time.Time // by the server's clock; zero without a Date header
	clock  rotation.Clock
	err    error // why no answer came
}

type responseKey struct{}

// withResponse returns a context under which recorder notes the response; a caller
// that has asked for it already shares it.
func withResponse(ctx context.Context) (context.Context, *wireResponse) {
	if got, ok := ctx.Value(responseKey{}).(*wireResponse); ok {
		return ctx, got
	}
	got := &wireResponse{}
	return context.WithValue(ctx, responseKey{}, got), got
}

// done ends the use of the answer's body.
func (a *wireResponse) done() {
	if a.release != nil {
		a.release()
		a.release = nil
	}
}

// recorder is the RoundTripper below every SDK client. It reads each body whole,
// through a limit, and notes the answer for the call that asked.
type recorder struct {
	base  http.RoundTripper
	now   func() time.Time
	large chan struct{} // has room for one: who has put something may read a large answer
}

func newRecorder(base http.RoundTripper, now func() time.Time) recorder {
	return recorder{base, now, make(chan struct{}, 1)}
}

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	got, ok := req.Context().Value(responseKey{}).(*wireResponse)
	if !ok {
		got = &wireResponse{}
	}
	*got = wireResponse{limit: got.limit, release: got.release} // the token of this call may have been asked for under it
	response, err := r.exchange(req, got)
	got.err = err
	return response, err
}

func (r recorder) exchange(req *http.Request, got *wireResponse) (*http.Response, error) {
	if latest, ok := rotation.WallDeadline(req.Context()); ok && r.now().Round(0).After(latest) {
		return nil, network.ErrSuspended
	}
	sent := r.now().Round(0)
	response, err := r.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := r.read(req.Context(), response, got)
	if err != nil {
		return nil, err
	}
	got.status, got.header, got.body = response.StatusCode, response.Header, body
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		got.date, got.clock = date, rotation.ClockAt(date, sent, r.now().Round(0))
	}
	if got.status < 200 || got.status > 299 {
		body = nil // the SDK need not decode an error: failure goes by got
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// read reads the body. Of answers that may be larger than a small one, and that
// are, one at a time is in memory, until the SDK has decoded it: what a decoder
// builds is many times the answer's size.
func (r recorder) read(ctx context.Context, response *http.Response, got *wireResponse) ([]byte, error) {
	if got.limit <= network.SmallAnswer {
		return network.ReadBody(response, network.SmallAnswer)
	}
	first := make([]byte, network.SmallAnswer+1)
	n, err := io.ReadFull(response.Body, first)
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(first[:n]), response.Body), response.Body}
	if err == nil { // there is more
		select {
		case r.large <- struct{}{}:
			got.release = func() { <-r.large }
		case <-ctx.Done():
			_ = response.Body.Close()
			return nil, ctx.Err()
		}
	}
	return network.ReadBody(response, got.limit)
}

// dateTolerance is how far two clocks of one service may be apart.
const dateTolerance = 5 * time.Second

// dateBefore reports whether the answer's Date is before a time that the service
// itself names in it: then the Date is wrong.
func (a *wireResponse) dateBefore(named time.Time) bool {
	return !a.date.IsZero() && a.date.Add(dateTolerance).Before(named)
}

// client returns an HTTP client for SDK calls. It keeps keys and tokens at the host they
// were meant for: a 3xx is the answer.
func (r recorder) client() *http.Client {
	return &http.Client{Transport: r, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// retryAfter is the wait that the service asked for, in seconds or as a date; 0
// when it asked for none.
func (a *wireResponse) retryAfter(now time.Time) time.Duration {
	value := a.header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(0, min(seconds, 3600))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}

// guard calls an SDK and turns its panics into errors: the SDKs index into
// answers without a check, and one odd answer must not end the other rotations of
// a run. The panic's value may hold a part of the answer, so only its type is
// shown.
func guard[T any](call func() (T, error)) (result T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("IBM's SDK panicked with a %T", r)
		}
	}()
	return call()
}
