package iamtoken

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxBody bounds an answer: kv data of 512 KB fits, however escaped.
const maxBody = 2 << 20

// call is one request to one service.
type call struct {
	service       string // "IAM"
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
	if seconds, err := strconv.Atoi(got.Header.Get("Retry-After")); err == nil && seconds > 0 {
		r.retryAfter = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	return r, nil
}

// failure is the error for a status that the request does not explain.
func (r response) failure() error {
	if r.status == http.StatusTooManyRequests || r.status == http.StatusRequestTimeout || r.status >= 500 {
		return &retryAfter{fmt.Errorf("%w: %s answered HTTP %d", ErrUnavailable, r.service, r.status), r.retryAfter}
	}
	return fmt.Errorf("%s answered HTTP %d: is its URL right?", r.service, r.status)
}

func (r response) unusable() error {
	return fmt.Errorf("%w: %s answered HTTP %d, but not what was asked for: is there a proxy in between, or is its URL wrong?", ErrUnavailable, r.service, r.status)
}

// unanswered is the error for a request without an answer, in our own words: the
// errors of net/http repeat what a server or a proxy sent, which may be the key or
// the token. It wraps only what holds no such text: the end of a context
// or of a time limit, and the number of a system call's error.
func unanswered(service string, err error) error {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var number syscall.Errno
	var limit net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: the call of %s was given up: %w", ErrUnavailable, service, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s did not answer in time: %w", ErrUnavailable, service, context.DeadlineExceeded)
	case errors.As(err, &dns):
		return fmt.Errorf("%w: calling %s: its host name does not resolve", ErrUnavailable, service)
	case errors.As(err, &certificate):
		return fmt.Errorf("%w: calling %s: its TLS certificate is not trusted: check the URL, or name the CA in SSL_CERT_FILE", ErrUnavailable, service)
	case errors.As(err, &number):
		return fmt.Errorf("%w: calling %s: %w", ErrUnavailable, service, number)
	case errors.As(err, &limit) && limit.Timeout():
		return fmt.Errorf("%w: %s did not answer in time: %w", ErrUnavailable, service, os.ErrDeadlineExceeded)
	default:
		return fmt.Errorf("%w: calling %s: the connection broke, or what came was not HTTP: is there a proxy in between, or is its URL wrong?", ErrUnavailable, service)
	}
}

// singleRequests uses a connection for one request. A token is read once a rotation,
// so an idle connection has no use, and net/http does not repeat a request or log
// what a server sends on an idle connection.
var singleRequests = &http.Transport{
	Proxy:                  http.ProxyFromEnvironment,
	DialContext:            quietly(dialer.DialContext),
	DialTLSContext:         quietly((&tls.Dialer{NetDialer: dialer, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext),
	TLSHandshakeTimeout:    dialer.Timeout,
	MaxResponseHeaderBytes: 64 << 10,
	DisableKeepAlives:      true,
	DisableCompression:     true,
	TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 alone
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
