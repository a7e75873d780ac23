// Package ibmcloud adapts IBM's SDKs to the rotation: IAM for the exchange,
// Secrets Manager for the key and the token, and the bootstrap identity that
// opens Secrets Manager.
//
// The SDKs build and send requests, and that is all. Their token cache, their retries,
// their connection pools and their reading of answers are not used: the cache returns
// ageing tokens, the retries repeat a save whose answer was lost, and their decoders hide
// the status of some failures, take HTML for an empty token, index into answers without
// a check and copy foreign text into errors. So this package reads the answers itself,
// and the SDKs see only the status.
package ibmcloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// largeAnswer limits an answer that holds an API key, in bytes. The largest secret that
// may hold one is of type kv: 512 KB of entries (Secrets Manager's limit).
const largeAnswer = 1 << 20

// answer is the answer to one request.
type answer struct {
	limit int // of the body in bytes
	into  any // a success is decoded into it

	status    int // 0 when no answer came
	header    http.Header
	body      []byte         // nil once it is decoded
	decodeErr error          // of a success whose body is not, or only in part, decoded
	date      time.Time      // the Date header; zero without one
	clock     rotation.Clock // by the Date header; zero without one
	sendErr   error          // why no answer came
}

type answerKey struct{}

// succeeded reports whether the status is 2xx.
func (a *answer) succeeded() bool { return a.status >= 200 && a.status <= 299 }

// notSent reports whether the SDK rejected the request before anything was sent.
func (a *answer) notSent() bool { return a.status == 0 && a.sendErr == nil }

// wire is the RoundTripper of every SDK client, and sends the requests that need no SDK.
// It reads each body into memory, up to a limit.
type wire struct {
	base  http.RoundTripper
	now   func() time.Time
	large chan struct{} // a semaphore of one, held while a large answer is read and decoded
}

func newWire(base http.RoundTripper, now func() time.Time) wire {
	return wire{base, now, make(chan struct{}, 1)}
}

// ask returns the answer to the one request that send makes through wire. The SDK's own
// result is ignored: its error may repeat whatever a service answered.
func ask(ctx context.Context, limit int, into any, send func(context.Context)) *answer {
	got := &answer{limit: max(limit, network.SmallAnswer), into: into} // an operation without a limit has small answers
	send(context.WithValue(ctx, answerKey{}, got))
	return got
}

// get sends a GET request without an SDK, and decodes a success into into.
func (w wire) get(ctx context.Context, address string, header http.Header, into any) *answer {
	return ask(ctx, 0, into, func(ctx context.Context) {
		if request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil); err == nil {
			request.Header = header
			header.Set("Accept", "application/json")
			_, _ = w.RoundTrip(request)
		}
	})
}

// RoundTrip hands the whole answer to ask, and returns only its status to the SDK. Without
// a Location header no client follows a redirect, so keys and tokens are sent only to the
// host that they are meant for.
func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	got := req.Context().Value(answerKey{}).(*answer)
	if got.sendErr = w.send(req, got); got.sendErr != nil {
		return nil, got.sendErr
	}
	return &http.Response{StatusCode: got.status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

// send sends the request and fills in the answer. It sends nothing after the run's
// deadline by the wall clock, which counts the time that a process is suspended.
func (w wire) send(req *http.Request, got *answer) error {
	if latest, ok := rotation.WallDeadline(req.Context()); ok && w.now().Round(0).After(latest) {
		return network.ErrSuspended
	}
	sent := w.now().Round(0)
	response, err := w.base.RoundTrip(req)
	if err != nil {
		return err
	}
	whole, done, err := w.waitForTurn(req.Context(), response.Body, got.limit)
	if err != nil {
		_ = response.Body.Close()
		return err
	}
	defer done()
	response.Body = struct {
		io.Reader
		io.Closer
	}{whole, response.Body}
	if got.body, err = network.ReadBody(response, got.limit); err != nil {
		return err
	}
	got.status, got.header = response.StatusCode, response.Header
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		got.date, got.clock = date, rotation.ClockAt(date, sent, w.now().Round(0))
	}
	if got.succeeded() {
		if got.decodeErr = json.Unmarshal(got.body, got.into); got.decodeErr == nil {
			got.body = nil
		}
	}
	return nil
}

// waitForTurn keeps only one large answer in memory at a time: if the body is larger than a
// small answer, it waits until the one before is decoded. whole reads the body from its
// beginning; call done when it is decoded.
func (w wire) waitForTurn(ctx context.Context, body io.Reader, limit int) (whole io.Reader, done func(), err error) {
	if limit <= network.SmallAnswer {
		return body, func() {}, nil
	}
	first := make([]byte, network.SmallAnswer+1)
	n, err := io.ReadFull(body, first)
	whole = io.MultiReader(bytes.NewReader(first[:n]), body)
	if err != nil { // the body ends here: it is small
		return whole, func() {}, nil
	}
	select {
	case w.large <- struct{}{}:
		return whole, func() { <-w.large }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// dateBefore reports whether the answer's Date is before a time that the service
// itself names in it: then the Date is wrong.
func (a *answer) dateBefore(named time.Time) bool {
	const tolerance = 5 * time.Second // the clocks of one service's machines differ
	return !a.date.IsZero() && a.date.Add(tolerance).Before(named)
}

// retryAfter is the wait that the service asked for, in seconds or as a date; 0
// when it asked for none.
func (a *answer) retryAfter(now time.Time) time.Duration {
	value := a.header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(0, min(seconds, 3600))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return 0
}

// timestamp is a time in any form that IBM writes or its SDKs accept: seconds and their
// fraction may be missing, and a time without a zone is in UTC.
type timestamp struct{ time.Time }

var layouts = []string{time.RFC3339, "2006-01-02T15:04:05-0700", "2006-01-02T15:04-0700", "2006-01-02T15:04Z07:00",
	"2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly}

var errNoTime = errors.New("not a time")

// UnmarshalJSON implements json.Unmarshaler. null and an empty text are the zero time.
func (t *timestamp) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil || text == "" {
		return err
	}
	for _, layout := range layouts {
		if at, err := time.Parse(layout, text); err == nil {
			t.Time = at
			return nil
		}
	}
	return errNoTime
}

func hostOf(origin string) string {
	parsed, err := url.Parse(origin)
	if err != nil {
		return ""
	}
	return parsed.Host
}
