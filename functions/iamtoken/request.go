package iamtoken

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxBody bounds an answer: kv data of 512 KB fits, however escaped.
const maxBody = 2 << 20

// The services, as errors name them.
const (
	iam            = "IAM"
	secretsManager = "Secrets Manager"
)

// call is one request to one service.
type call struct {
	service       string
	method, url   string
	form          string // the body, if any
	authorization string // the header, if any
}

// response is what a service answered. Nothing of its text enters an error.
type response struct {
	service    string
	status     int
	body       []byte
	date       time.Time     // the service's clock; zero if it is not known
	retryAfter time.Duration // what the service asked for; 0 if it did not
}

// send makes one request and reads the answer whole. It calls the transport itself:
// an http.Client follows redirects and repeats a faulty Location in its error.
func (s *SecretsManager) send(ctx context.Context, c call) (response, error) {
	request, err := http.NewRequestWithContext(ctx, c.method, c.url, strings.NewReader(c.form))
	if err != nil {
		return response{}, errors.New("iamtoken: the URL of " + c.service + " cannot be used")
	}
	request.Header.Set("Accept", "application/json")
	if c.form != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.authorization != "" {
		request.Header.Set("Authorization", c.authorization)
	}
	transport := s.Transport
	if transport == nil {
		transport = singleRequests
	}
	got, err := transport.RoundTrip(request)
	if err != nil {
		return response{}, unanswered(c.service, err)
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(got.Body, maxBody+1))
	if err != nil {
		return response{}, unanswered(c.service, err)
	}
	r := response{service: c.service, status: got.StatusCode, body: body}
	if len(body) > maxBody {
		return response{}, r.unusable()
	}
	if date, err := http.ParseTime(got.Header.Get("Date")); err == nil {
		r.date = date
	}
	after := got.Header.Get("Retry-After") // in seconds, or a date
	if date, err := http.ParseTime(after); err == nil && !r.date.IsZero() {
		after = strconv.Itoa(int(date.Sub(r.date) / time.Second))
	}
	if seconds, err := strconv.Atoi(after); err == nil && seconds > 0 {
		r.retryAfter = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	return r, nil
}

// permanent is a failure that another read does not change.
type permanent struct{ error }

func (e permanent) Unwrap() error { return e.error }

// newKey is how long IAM may not know a key that was just made.
const newKey = 2 * time.Second

// failure is the error for an answer that is no success: its kind by the status
// alone, what to do by advice. Text of the answer is shown only if it has the form of
// one of IAM's codes.
func (r response) failure(advice string) error {
	kind := ErrDenied
	switch {
	case r.status == http.StatusTooManyRequests:
		kind, advice = ErrUnavailable, cmp.Or(advice, "it is asked too often: nothing to do unless it persists")
	case r.status == http.StatusRequestTimeout, r.status >= 500:
		kind, advice = ErrUnavailable, cmp.Or(advice, "the service is having trouble: nothing to do unless it persists")
	case (r.status == http.StatusNotFound || r.status == http.StatusGone) && r.service == secretsManager:
		kind = ErrNotFound
	case r.status != http.StatusUnauthorized && r.status != http.StatusForbidden && (r.status != http.StatusBadRequest || r.service != iam):
		return permanent{fmt.Errorf("%w: %s: %s", ErrUnavailable, r.said(), cmp.Or(advice, "is its URL right?"))}
	}
	wait := r.retryAfter
	if kind == ErrDenied && r.service == iam {
		wait = max(wait, newKey)
	}
	return &retryAfter{fmt.Errorf("%w: %s: %s", kind, r.said(), cmp.Or(advice, "is its URL right?")), wait}
}

// said is who answered, with the status and IAM's code if there is one.
func (r response) said() string {
	return strings.TrimSpace(fmt.Sprintf("%s answered %d %s", r.service, r.status, r.code()))
}

// code is IAM's error code, BXNIM0415E say; empty for a text of any other form.
func (r response) code() string {
	var body struct {
		ErrorCode string `json:"errorCode"`
		Errors    []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if r.status < 400 || json.Unmarshal(r.body, &body) != nil {
		return ""
	}
	if body.ErrorCode == "" && len(body.Errors) > 0 {
		body.ErrorCode = body.Errors[0].Code
	}
	number, found := strings.CutPrefix(body.ErrorCode, "BXNIM")
	number, ended := strings.CutSuffix(number, "E")
	if !found || !ended || len(number) != 4 || !only(number, "0123456789") {
		return ""
	}
	return body.ErrorCode
}

func (r response) unusable() error {
	return fmt.Errorf("%w: %s answered %d, but not what was asked for: is there a proxy in between, or is its URL wrong?", ErrUnavailable, r.service, r.status)
}

// proxyRefusal is a proxy's answer to CONNECT that is no success.
type proxyRefusal int

func (status proxyRefusal) Error() string { return "the proxy answered " + strconv.Itoa(int(status)) }

// unanswered is the error for a request without an answer, in our own words: the
// errors of net/http repeat what a server or a proxy sent, which may be the key or
// the token. It wraps only what holds no such text: the end of a context
// or of a time limit, and the number of a system call's error.
func unanswered(service string, err error) error {
	var refusal proxyRefusal
	var operation *net.OpError
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var number syscall.Errno
	var limit net.Error
	private := ""
	if service == secretsManager {
		private = ". An instance made since April 2025 is private-only, and answers only in IBM Cloud's network, unless created with public-and-private endpoints"
	}
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: the call of %s was given up: %w", ErrUnavailable, service, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s did not answer in time%s: %w", ErrUnavailable, service, private, context.DeadlineExceeded)
	case errors.As(err, &refusal) && (refusal >= 500 || refusal == http.StatusTooManyRequests || refusal == http.StatusRequestTimeout):
		return fmt.Errorf("%w: the proxy on the way to %s answered %d: it may be unable to reach the host: check the URL%s", ErrUnavailable, service, refusal, private)
	case errors.As(err, &refusal) && refusal == http.StatusProxyAuthRequired:
		return permanent{fmt.Errorf("%w: the proxy on the way to %s answered 407: check the user and password in HTTPS_PROXY", ErrUnavailable, service)}
	case errors.As(err, &refusal):
		return permanent{fmt.Errorf("%w: the proxy on the way to %s answered %d: allow the host at the proxy, or name it in NO_PROXY", ErrUnavailable, service, refusal)}
	case errors.As(err, &operation) && operation.Op == "proxyconnect":
		return fmt.Errorf("%w: the proxy on the way to %s cannot be reached: check HTTPS_PROXY, or name the host in NO_PROXY", ErrUnavailable, service)
	case errors.As(err, &dns):
		return fmt.Errorf("%w: calling %s: its host name does not resolve%s", ErrUnavailable, service, private)
	case errors.As(err, &certificate):
		return permanent{fmt.Errorf("%w: calling %s: its TLS certificate is not trusted: check the URL, or name the CA in SSL_CERT_FILE", ErrUnavailable, service)}
	case errors.As(err, &number):
		return fmt.Errorf("%w: calling %s: %w%s", ErrUnavailable, service, number, private)
	case errors.As(err, &limit) && limit.Timeout():
		return fmt.Errorf("%w: %s did not answer in time%s: %w", ErrUnavailable, service, private, os.ErrDeadlineExceeded)
	default:
		return fmt.Errorf("%w: calling %s: the connection broke, or what came was not HTTP: is there a proxy in between, or is its URL wrong?", ErrUnavailable, service)
	}
}

// singleRequests uses a connection for one request. A token is read once a rotation,
// so an idle connection has no use, and net/http does not repeat a request or log
// what a server sends on an idle connection.
var singleRequests = &http.Transport{
	Proxy:                  http.ProxyFromEnvironment,
	OnProxyConnectResponse: namedRefusal,
	DialContext:            quietly(dialer.DialContext),
	DialTLSContext:         quietly((&tls.Dialer{NetDialer: dialer, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext),
	TLSHandshakeTimeout:    dialer.Timeout,
	MaxResponseHeaderBytes: 64 << 10,
	DisableKeepAlives:      true,
	DisableCompression:     true,
	TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 alone
}

// namedRefusal keeps the status of a proxy's answer, of which net/http passes on the text.
func namedRefusal(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return proxyRefusal(answer.StatusCode)
	}
	return nil
}

// dialer bounds connecting together with the TLS handshake.
var dialer = &net.Dialer{Timeout: 5 * time.Second}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

func quietly(base dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := base(ctx, network, address)
		if err != nil {
			return nil, err
		}
		asked, ask := context.WithCancel(context.Background())
		return &quietConn{conn, asked, ask}, nil
	}
}

// quietConn hands out nothing before the first write: what a server sends ahead of a
// request, net/http would log.
type quietConn struct {
	net.Conn
	asked context.Context
	ask   context.CancelFunc
}

func (c *quietConn) Read(p []byte) (int, error) {
	<-c.asked.Done()
	return c.Conn.Read(p)
}

func (c *quietConn) Write(p []byte) (int, error) {
	c.ask()
	return c.Conn.Write(p)
}

func (c *quietConn) Close() error {
	c.ask()
	return c.Conn.Close()
}
