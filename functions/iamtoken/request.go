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

	// maxBody is how many bytes of an answer are read: 512 KB of kv data fit, however they
	// are escaped.
	maxBody = 2 << 20
	// maxRetryAfter is the longest wait that a service may ask for.
	maxRetryAfter = 5 * time.Second
	// newKeyDelay is how long IAM may not know a new key.
	newKeyDelay = 2 * time.Second
)

// failure is an error that says whether and when to read again.
type failure struct {
	error
	final bool          // another read would fail in the same way
	wait  time.Duration // before another read; 0 if the answer does not say
}

func (f failure) Unwrap() error { return f.error }

// repeatable reports whether another read may succeed. That includes a denial: IAM and
// Secrets Manager sometimes deny for a moment what they allow.
func repeatable(err error) bool {
	found, _ := errors.AsType[failure](err)
	return !found.final && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDenied))
}

// waitOf returns how long to wait before another read; 0 if the answer does not say.
func waitOf(err error) time.Duration {
	found, _ := errors.AsType[failure](err)
	return found.wait
}

// response is a service's answer. No error repeats its text.
type response struct {
	service    string
	status     int
	body       []byte
	date       time.Time     // the service's clock; zero if it is not known
	retryAfter time.Duration // at most maxRetryAfter; 0 if the answer has no Retry-After
}

// send makes one request, a POST if there is a form, and reads the whole answer. It does
// without an http.Client, which would follow redirects and repeat a faulty Location in its
// error.
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
		return response{}, noAnswer(service, err)
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(got.Body, maxBody))
	if err != nil {
		return response{}, noAnswer(service, err)
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
	unknownKey = "the reader's API key is not known to IAM, disabled or expired: replace it with a valid key"
	noSecret   = "check SecretID and URL: the secret is not in this instance"
)

// advice has the advice by service and status, for answers without a known code of IAM's.
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

// failure returns the error for an answer that is not a success. The status decides its kind;
// IAM's code, or else the status, decides the advice. The error repeats nothing of the answer
// but a text that has the form of IAM's codes.
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
		f.wait = max(f.wait, newKeyDelay)
	}
	said := strings.TrimSpace(fmt.Sprintf("%s answered %d %s", r.service, r.status, code))
	f.error = fmt.Errorf("%w: %s: %s", kind, said, cmp.Or(help, "is its URL right?"))
	return f
}

// code returns IAM's error code, for example BXNIM0415E, or "" if there is none.
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

// unusable is the error for a success whose body cannot be used.
func (r response) unusable() error {
	return fmt.Errorf("%w: %s answered %d, but not what was asked for: is there a proxy in between, or is its URL wrong?", ErrUnavailable, r.service, r.status)
}

// proxyRefusal is the status with which a proxy refuses CONNECT.
type proxyRefusal int

func (status proxyRefusal) Error() string { return "the proxy answered " + strconv.Itoa(int(status)) }

// noAnswer returns the error for a request without an answer. It leaves out the text of err:
// errors of net/http repeat what a server or a proxy sent, which may be the key or the
// token. It wraps only errors without such text: a context's, a time limit's, and the
// number of a system call's error.
func noAnswer(service string, err error) error {
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
	temporary := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrUnavailable}, args...)...)
	}
	final := func(format string, args ...any) error { return failure{error: temporary(format, args...), final: true} }
	switch {
	case errors.Is(err, context.Canceled):
		return temporary("the call of %s was given up: %w", service, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return temporary("%s did not answer in time%s: %w", service, private, context.DeadlineExceeded)
	case refused && (refusal >= 500 || refusal == http.StatusTooManyRequests || refusal == http.StatusRequestTimeout):
		return temporary("the proxy on the way to %s answered %d: it may be unable to reach the host: check the URL%s", service, refusal, private)
	case refusal == http.StatusProxyAuthRequired:
		return final("the proxy on the way to %s answered 407: check the user and password in HTTPS_PROXY", service)
	case refused:
		return final("the proxy on the way to %s answered %d: allow the host at the proxy, or name it in NO_PROXY", service, refusal)
	case operation != nil && operation.Op == "proxyconnect":
		return temporary("the proxy on the way to %s cannot be reached: check HTTPS_PROXY, or name the host in NO_PROXY", service)
	case unresolved:
		return temporary("calling %s: its host name does not resolve%s", service, private)
	case untrusted:
		return final("calling %s: its TLS certificate is not trusted: check the URL, or name the CA in SSL_CERT_FILE", service)
	case number == syscall.ECONNREFUSED:
		return temporary("%s refuses connections on this port: is the port in its URL right? A sandbox answers only while it runs (make sandbox): %w", service, number)
	case isNumber:
		return temporary("calling %s: %w%s", service, number, private)
	case isLimit && limit.Timeout():
		return temporary("%s did not answer in time%s: %w", service, private, os.ErrDeadlineExceeded)
	default:
		return temporary("calling %s: the connection broke, or what came was not HTTP: is there a proxy in between, or is its URL wrong?", service)
	}
}

// singleRequests makes a new connection for each request. The secret is read once a rotation,
// so that an idle connection would be of no use. Without one, net/http never repeats a
// request, and never logs what a server sends on it.
var singleRequests = &http.Transport{
	Proxy:                  http.ProxyFromEnvironment,
	OnProxyConnectResponse: namedRefusal,
	DialContext:            quietly(dialer.DialContext),
	DialTLSContext:         quietly((&tls.Dialer{NetDialer: dialer, Config: &tls.Config{MinVersion: tls.VersionTLS12}}).DialContext),
	TLSHandshakeTimeout:    dialer.Timeout,
	MaxResponseHeaderBytes: 64 << 10,
	DisableKeepAlives:      true,
	DisableCompression:     true,
	TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 only
}

// namedRefusal returns a proxy's status as an error. That of net/http would be the answer's
// text.
func namedRefusal(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return proxyRefusal(answer.StatusCode)
	}
	return nil
}

// dialer limits the time for a connection, including its TLS handshake.
var dialer = &net.Dialer{Timeout: 5 * time.Second}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

// quietly makes the connections of base quietConns.
func quietly(base dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := base(ctx, network, address)
		if err != nil {
			return nil, err
		}
		opened := make(chan struct{})
		return &quietConn{conn, opened, sync.OnceFunc(func() { close(opened) })}, nil
	}
}

// quietConn is a connection that can be read only after the first write: net/http would log
// what a server sends before the request.
type quietConn struct {
	net.Conn
	opened <-chan struct{} // closed by open
	open   func()          // lets reads begin
}

func (c *quietConn) Read(p []byte) (int, error) {
	<-c.opened
	return c.Conn.Read(p)
}

func (c *quietConn) Write(p []byte) (int, error) {
	c.open()
	return c.Conn.Write(p)
}

func (c *quietConn) Close() error {
	c.open()
	return c.Conn.Close()
}
