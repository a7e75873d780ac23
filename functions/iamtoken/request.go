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
	"sync"
	"syscall"
	"time"
)

const (
	iam            = "IAM"
	secretsManager = "Secrets Manager"

	// maxBody is where an answer is cut: kv data of 512 KB fits, however escaped.
	maxBody = 2 << 20
	// maxRetryAfter bounds what a service may ask for.
	maxRetryAfter = 5 * time.Second
	// newKey is how long IAM may not know a key that was just made.
	newKey = 2 * time.Second
)

// failure is an error, with what it says of another read.
type failure struct {
	error
	final bool          // it ends in the same way
	wait  time.Duration // how long to wait before it; 0 if that is not known
}

func (f failure) Unwrap() error { return f.error }

// repeatable reports whether the same read can end otherwise: IAM and Secrets Manager
// now and then deny for a moment what they allow.
func repeatable(err error) bool {
	found, _ := errors.AsType[failure](err)
	return !found.final && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDenied))
}

// asked is how long the service asked to wait; 0 if it did not.
func asked(err error) time.Duration {
	found, _ := errors.AsType[failure](err)
	return found.wait
}

// response is what a service answered. Nothing of its text enters an error.
type response struct {
	service    string
	status     int
	body       []byte
	date       time.Time     // the service's clock; zero if it is not known
	retryAfter time.Duration // what the service asked for; 0 if it did not
}

// send makes one request, with a form if there is one, and reads the answer whole. It
// calls the transport itself: an http.Client follows redirects and repeats a faulty
// Location in its error.
func (s *SecretsManager) send(ctx context.Context, service, address, authorization string, form url.Values) (response, error) {
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return response{}, errors.New("iamtoken: the URL of " + service + " cannot be used")
	}
	request.Header.Set("Accept", "application/json")
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	transport := s.Transport
	if transport == nil {
		transport = singleRequests
	}
	got, err := transport.RoundTrip(request)
	if err != nil {
		return response{}, unanswered(service, err)
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(got.Body, maxBody))
	if err != nil {
		return response{}, unanswered(service, err)
	}
	r := response{service: service, status: got.StatusCode, body: body}
	r.date, _ = http.ParseTime(got.Header.Get("Date"))
	after := got.Header.Get("Retry-After") // in seconds, or a date
	if date, err := http.ParseTime(after); err == nil && !r.date.IsZero() {
		after = strconv.Itoa(int(date.Sub(r.date) / time.Second))
	}
	if seconds, err := strconv.Atoi(after); err == nil && seconds > 0 {
		r.retryAfter = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	return r, nil
}

const (
	unknownKey = "the reader's API key is not known to IAM, disabled or expired: replace it by a valid key"
	noSecret   = "check SecretID and URL: the secret is not in this instance"
)

// advice says what helps, by service and status, where none of IAM's codes does.
var advice = map[string]map[int]string{
	iam: {
		http.StatusBadRequest:   unknownKey,
		http.StatusUnauthorized: unknownKey,
		http.StatusForbidden:    "a network rule refuses this address: is there a context-based restriction in the account, or a proxy or firewall in between?",
	},
	secretsManager: {
		http.StatusUnauthorized: "the reader's own token is rejected: is it of this instance's account?",
		http.StatusForbidden:    "the reader identity needs SecretsReader on the token's secret group; a new policy takes minutes to reach everywhere; or a context-based restriction keeps this network out",
		http.StatusNotFound:     noSecret,
		http.StatusGone:         noSecret,
	},
}

// failure is the error for an answer that is no success: its kind by the status alone, what
// helps by IAM's code or the status. Text of the answer is shown only if it has the form of
// one of IAM's codes.
func (r response) failure() error {
	code, help := r.code(), advice[r.service][r.status]
	if cause, helps := Refusal(code, "the reader's API key", ""); cause != "" && r.service == iam {
		help = cause + ": " + helps
	}
	f, kind := failure{wait: r.retryAfter}, ErrDenied
	switch {
	case r.status == http.StatusTooManyRequests:
		kind, help = ErrUnavailable, cmp.Or(help, "it is asked too often: nothing to do unless it persists")
	case r.status == http.StatusRequestTimeout, r.status >= 500:
		kind, help = ErrUnavailable, cmp.Or(help, "the service is having trouble: nothing to do unless it persists")
	case advice[r.service][r.status] == noSecret:
		kind = ErrNotFound
	case advice[r.service][r.status] == "":
		kind, f.final = ErrUnavailable, true
	case r.service == iam:
		f.wait = max(f.wait, newKey)
	}
	said := strings.TrimSpace(fmt.Sprintf("%s answered %d %s", r.service, r.status, code))
	f.error = fmt.Errorf("%w: %s: %s", kind, said, cmp.Or(help, "is its URL right?"))
	return f
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
	refusal, refused := errors.AsType[proxyRefusal](err)
	operation, _ := errors.AsType[*net.OpError](err)
	_, unresolved := errors.AsType[*net.DNSError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	number, isNumber := errors.AsType[syscall.Errno](err)
	limit, isLimit := errors.AsType[net.Error](err)
	private := ""
	if service == secretsManager {
		private = ". An instance made since April 2025 is private-only, and answers only in IBM Cloud's network, unless created with public-and-private endpoints"
	}
	because := func(final bool, format string, args ...any) error {
		return failure{error: fmt.Errorf("%w: "+format, append([]any{ErrUnavailable}, args...)...), final: final}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return because(false, "the call of %s was given up: %w", service, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return because(false, "%s did not answer in time%s: %w", service, private, context.DeadlineExceeded)
	case refused && (refusal >= 500 || refusal == http.StatusTooManyRequests || refusal == http.StatusRequestTimeout):
		return because(false, "the proxy on the way to %s answered %d: it may be unable to reach the host: check the URL%s", service, refusal, private)
	case refusal == http.StatusProxyAuthRequired:
		return because(true, "the proxy on the way to %s answered 407: check the user and password in HTTPS_PROXY", service)
	case refused:
		return because(true, "the proxy on the way to %s answered %d: allow the host at the proxy, or name it in NO_PROXY", service, refusal)
	case operation != nil && operation.Op == "proxyconnect":
		return because(false, "the proxy on the way to %s cannot be reached: check HTTPS_PROXY, or name the host in NO_PROXY", service)
	case unresolved:
		return because(false, "calling %s: its host name does not resolve%s", service, private)
	case untrusted:
		return because(true, "calling %s: its TLS certificate is not trusted: check the URL, or name the CA in SSL_CERT_FILE", service)
	case isNumber:
		return because(false, "calling %s: %w%s", service, number, private)
	case isLimit && limit.Timeout():
		return because(false, "%s did not answer in time%s: %w", service, private, os.ErrDeadlineExceeded)
	default:
		return because(false, "calling %s: the connection broke, or what came was not HTTP: is there a proxy in between, or is its URL wrong?", service)
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
		asked := make(chan struct{})
		return &quietConn{conn, asked, sync.OnceFunc(func() { close(asked) })}, nil
	}
}

// quietConn hands out nothing before the first write: what a server sends ahead of a
// request, net/http would log.
type quietConn struct {
	net.Conn
	asked <-chan struct{}
	ask   func()
}

func (c *quietConn) Read(p []byte) (int, error) {
	<-c.asked
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
