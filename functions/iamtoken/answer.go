package iamtoken

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxBody bounds an answer: a secret of a million characters fits, however escaped.
const maxBody = 8 << 20

// answer is what a service said. Nothing of its body enters an error.
type answer struct {
	status     int
	body       []byte
	date       time.Time     // the service's clock; zero when it was not told
	retryAfter time.Duration // what it asked for; 0 when it did not
}

// send makes one request and reads the answer whole. It follows no redirect: the
// request bears a key or a token.
func (s *SecretsManager) send(request *http.Request, service string) (answer, error) {
	request.Header.Set("Accept", "application/json")
	client := &http.Client{
		Transport:     s.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, unanswered(request.Context(), service, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return answer{}, unanswered(request.Context(), service, err)
	}
	a := answer{status: response.StatusCode, body: body}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		a.date = date
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.retryAfter = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	return a, nil
}

// failure is the error for a status that the request does not explain.
func (a answer) failure(service string) error {
	if a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout || a.status >= 500 {
		return &retryAfter{fmt.Errorf("%w: %s answered HTTP %d", ErrUnavailable, service, a.status), a.retryAfter}
	}
	return fmt.Errorf("%s answered HTTP %d: is its URL right?", service, a.status)
}

func unusable(service string) error {
	return fmt.Errorf("%w: %s answered HTTP 200, but not what was asked for: is there a proxy in between, or is its URL wrong?", ErrUnavailable, service)
}

// unanswered is the error for a call without an answer. The cause's text is that
// of net/http, which knows addresses and no headers or bodies.
func unanswered(ctx context.Context, service string, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w: %s did not answer in time", ErrUnavailable, service)
	}
	return fmt.Errorf("%w: calling %s: %w", ErrUnavailable, service, err)
}
