// Package ibmcloud adapts IBM's SDKs to the rotation: IAM for the exchange,
// Secrets Manager for the key and the token, and the bootstrap identity that
// opens Secrets Manager.
//
// The SDKs build and send requests, and that is all. Their token cache, their retries,
// their connection pools and their reading of answers are not used: the cache returns
// ageing tokens, the retries repeat a save whose answer was lost, and their decoders hide
// the status of some failures, take HTML for an empty token, index into answers without
// a check and copy foreign text into errors. So no answer reaches them.
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

// secretAnswer bounds the answer that holds an API key. The largest secret that may
// hold one is of type kv: 512 KB of entries (Secrets Manager's limit).
const secretAnswer = 1 << 20

// answer is what came back for one request.
type answer struct {
	limit int // of the body in bytes; 0 means network.SmallAnswer
	into  any // what a success is decoded into

	status     int // 0 when no answer came
	header     http.Header
	body       []byte // unless it was decoded
	undecoded  error  // of a success: why the body is not, or only in part, in into
	date       time.Time
	clock      rotation.Clock // by the Date header; zero without one, as date is
	unanswered error          // why no answer came
}

type answerKey struct{}

// succeeded reports whether the status is one of success.
func (a *answer) succeeded() bool { return a.status >= 200 && a.status <= 299 }

// unsent reports whether nothing was sent at all: the SDK has rejected the request.
func (a *answer) unsent() bool { return a.status == 0 && a.unanswered == nil }

// wire is the RoundTripper below every SDK client, and sends what no SDK is used for. It
// reads each body whole, through a limit.
type wire struct {
	base  http.RoundTripper
	now   func() time.Time
	large chan struct{} // has room for one: who has put something may read a large answer
}

func newWire(base http.RoundTripper, now func() time.Time) wire {
	return wire{base, now, make(chan struct{}, 1)}
}

// ask returns the answer to the request that send makes. What send says of it is of no
// use: that may repeat whatever a service answered.
func ask(ctx context.Context, limit int, into any, send func(context.Context)) *answer {
	got := &answer{limit: max(limit, network.SmallAnswer), into: into}
	send(context.WithValue(ctx, answerKey{}, got))
	return got
}

// get asks for what no SDK is used for.
func (w wire) get(ctx context.Context, address string, header http.Header, into any) *answer {
	return ask(ctx, 0, into, func(ctx context.Context) {
		if request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil); err == nil {
			request.Header = header
			header.Set("Accept", "application/json")
			_, _ = w.RoundTrip(request)
		}
	})
}

// RoundTrip notes the answer for whoever asked, and returns its status alone: without a
// Location no client follows a redirect, and keys and tokens stay at the host that they
// were meant for.
func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	got := req.Context().Value(answerKey{}).(*answer)
	if got.unanswered = w.exchange(req, got); got.unanswered != nil {
		return nil, got.unanswered
	}
	return &http.Response{StatusCode: got.status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

func (w wire) exchange(req *http.Request, got *answer) error {
	if latest, ok := rotation.WallDeadline(req.Context()); ok && w.now().Round(0).After(latest) {
		return network.ErrSuspended
	}
	sent := w.now().Round(0)
	response, err := w.base.RoundTrip(req)
	if err != nil {
		return err
	}
	first, done, err := w.begin(req.Context(), response.Body, got.limit)
	if err != nil {
		_ = response.Body.Close()
		return err
	}
	defer done()
	response.Body = struct {
		io.Reader
		io.Closer
	}{first, response.Body}
	if got.body, err = network.ReadBody(response, got.limit); err != nil {
		return err
	}
	got.status, got.header = response.StatusCode, response.Header
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		got.date, got.clock = date, rotation.ClockAt(date, sent, w.now().Round(0))
	}
	if got.succeeded() {
		if got.undecoded = json.Unmarshal(got.body, got.into); got.undecoded == nil {
			got.body = nil
		}
	}
	return nil
}

// begin begins to read a body. Of answers that may be larger than a small one, and that
// are, one at a time is in memory, until it is decoded: call done then.
func (w wire) begin(ctx context.Context, body io.Reader, limit int) (whole io.Reader, done func(), err error) {
	if limit <= network.SmallAnswer {
		return body, func() {}, nil
	}
	first := make([]byte, network.SmallAnswer+1)
	n, err := io.ReadFull(body, first)
	whole = io.MultiReader(bytes.NewReader(first[:n]), body)
	if err != nil { // there is no more
		return whole, func() {}, nil
	}
	select {
	case w.large <- struct{}{}:
		return whole, func() { <-w.large }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// dateTolerance is how far two clocks of one service may be apart.
const dateTolerance = 5 * time.Second

// dateBefore reports whether the answer's Date is before a time that the service
// itself names in it: then the Date is wrong.
func (a *answer) dateBefore(named time.Time) bool {
	return !a.date.IsZero() && a.date.Add(dateTolerance).Before(named)
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

// timestamp is a time as IBM writes one, or its SDKs read one: with a fraction of seconds, with
// seconds or without, in UTC where it names no zone.
type timestamp struct{ time.Time }

var layouts = []string{time.RFC3339, "2006-01-02T15:04:05-0700", "2006-01-02T15:04-0700", "2006-01-02T15:04Z07:00",
	"2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly}

var errNoTime = errors.New("not a time")

// UnmarshalJSON implements json.Unmarshaler. Without a time it is zero.
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
