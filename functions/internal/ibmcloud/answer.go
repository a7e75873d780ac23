package ibmcloud

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

// bodyLimit bounds what is read of an answer: the largest secret is 1,000,000
// characters, which JSON may write in up to 6 bytes each.
const bodyLimit = 6_000_000 + 64<<10

var (
	errBodyTooLong = errors.New("an answer longer than the service may give")
	errSuspended   = errors.New("the process was suspended before the request left")
)

// answer is what came back over the wire for one SDK call. It is kept beside the
// SDK's own account, which loses the status of some failures, hides others
// behind a nil error and copies foreign text into its messages.
type answer struct {
	status int // 0 when no answer came
	header http.Header
	body   []byte
	skew   time.Duration // the server's clock less ours; 0 when it did not tell
	err    error         // why no answer came
}

type answerKey struct{}

// withAnswer returns a context under which recorder notes the answer; a caller
// that has asked for it already shares it.
func withAnswer(ctx context.Context) (context.Context, *answer) {
	if got, ok := ctx.Value(answerKey{}).(*answer); ok {
		return ctx, got
	}
	got := &answer{}
	return context.WithValue(ctx, answerKey{}, got), got
}

// recorder is the RoundTripper below every SDK client. It reads each body whole,
// through a limit, and notes the answer for the call that asked.
type recorder struct {
	base http.RoundTripper
	now  func() time.Time
}

// RoundTrip implements http.RoundTripper.
func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	got, ok := req.Context().Value(answerKey{}).(*answer)
	if !ok {
		got = &answer{}
	}
	if latest, ok := rotation.WallDeadline(req.Context()); ok && r.now().Round(0).After(latest) {
		got.err = errSuspended
		return nil, errSuspended
	}
	sent := r.now().Round(0)
	response, err := r.base.RoundTrip(req)
	if err != nil {
		got.err = err
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, bodyLimit+1))
	if err == nil && len(body) > bodyLimit {
		err = errBodyTooLong
	}
	if err != nil {
		got.err = err
		return nil, err
	}
	got.status, got.header, got.body = response.StatusCode, response.Header, body
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		got.skew = clockSkew(date, sent, r.now().Round(0))
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// clockSkew is how far the clock of a server that wrote date is off ours at least:
// it wrote it at some time between sent and received, which are far apart when the
// process was frozen meanwhile.
func clockSkew(date, sent, received time.Time) time.Duration {
	return max(date.Sub(received), min(0, date.Sub(sent)))
}

// client returns an HTTP client for SDK calls whose requests bear their context.
func (r recorder) client() *http.Client {
	return &http.Client{Transport: r, CheckRedirect: refuseRedirect}
}

// boundClient returns an HTTP client for one SDK call that takes no context.
func (r recorder) boundClient(ctx context.Context) *http.Client {
	return &http.Client{Transport: bound{ctx, r}, CheckRedirect: refuseRedirect}
}

// bound gives a context to the requests of an SDK call that takes none.
type bound struct {
	ctx  context.Context
	base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.base.RoundTrip(req.WithContext(b.ctx))
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
