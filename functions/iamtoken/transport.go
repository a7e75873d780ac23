package iamtoken

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Transport returns a RoundTripper that authorizes every request with the Reader's token. A
// nil base means http.DefaultTransport. After a 401 it calls [Reader.Rejected] and, if there
// is a new token, sends the request once more, unless its body cannot be read a second time.
//
// A redirect to another host is followed without the token. If Reader.Hosts is set, a request
// to any other host fails. Errors and redirects that repeat the token are replaced. net/http
// itself may log what a service sends without a request.
//
// IBM's SDKs need it for the second try after a 401 and for redirects:
//
//	service.Service.SetHTTPClient(&http.Client{Transport: reader.Transport(nil)})
func (r *Reader) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{r, base}
}

type transport struct {
	reader *Reader
	base   http.RoundTripper
}

func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	first := request.Clone(request.Context())
	if redirectedAway(request) {
		first.Header.Del("Authorization") // net/http keeps it for other ports and names below
		return t.base.RoundTrip(first)
	}
	token, err := t.reader.authorize(first)
	if err != nil {
		closeBody(request)
		return nil, err
	}
	response, err := t.send(first, token)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	t.reader.Rejected(token)
	second, ok := cloneForRetry(request)
	if !ok {
		return response, nil
	}
	next, err := t.reader.authorize(second)
	if err != nil || next.Value.Reveal() == token.Value.Reveal() {
		closeBody(second)
		return response, nil // the 401 tells the caller more than this error
	}
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // so that the connection can be used again
	_ = response.Body.Close()
	return t.send(second, next)
}

// send keeps the token out of what net/http and the caller's client print: a server may
// repeat it in a malformed answer or in a redirect.
func (t *transport) send(request *http.Request, token Token) (*http.Response, error) {
	response, err := t.base.RoundTrip(request)
	if err != nil {
		return nil, quiet(err, token)
	}
	if repeats(response.Header.Get("Location"), token) {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%w: the service answered HTTP %d with a redirect that repeats the token", ErrUnavailable, response.StatusCode)
	}
	if _, both := response.Body.(io.Writer); !both { // after a 101 the body is the connection, which must stay writable
		response.Body = quietBody{response.Body, token}
	}
	return response, nil
}

// quietBody is a body whose errors do not repeat the token, for example those of trailers.
type quietBody struct {
	io.ReadCloser
	token Token
}

func (b quietBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	return n, quiet(err, b.token)
}

// quiet replaces an error that repeats the token.
func quiet(err error, token Token) error {
	if err != nil && repeats(err.Error(), token) {
		return noAnswer("the service", err)
	}
	return err
}

// repeats reports whether text contains twelve successive characters of the token.
func repeats(text string, token Token) bool {
	const enough = 12
	value := token.Value.Reveal()
	for i := 0; len(text) >= enough && i+enough <= len(value); i++ {
		if strings.Contains(text, value[i:i+enough]) {
			return true
		}
	}
	return false
}

// redirectedAway reports whether the request follows a redirect from another host.
func redirectedAway(request *http.Request) bool {
	for from := request; from.Response != nil && from.Response.Request != nil; {
		from = from.Response.Request
		if from.URL.Host != request.URL.Host {
			return true
		}
	}
	return false
}

// cloneForRetry returns a copy of the request; ok is false if its body cannot be read again.
func cloneForRetry(request *http.Request) (second *http.Request, ok bool) {
	second = request.Clone(request.Context())
	if request.Body == nil || request.Body == http.NoBody {
		return second, true
	}
	if request.GetBody == nil {
		return nil, false
	}
	body, err := request.GetBody()
	second.Body = body
	return second, err == nil
}

func closeBody(request *http.Request) {
	if request.Body != nil {
		_ = request.Body.Close()
	}
}

// AuthenticationType is what the debug log of IBM's Go SDKs calls this way to authenticate.
// With Validate and Authenticate it makes a Reader an Authenticator of these SDKs
// (github.com/IBM/go-sdk-core/v5/core), without importing them:
//
//	service, err := logsrouterv3.NewLogsRouterV3(&logsrouterv3.LogsRouterV3Options{URL: url, Authenticator: reader})
func (r *Reader) AuthenticationType() string { return "iamtoken" }

// Validate reports what is wrong with the Reader's fields, without a request.
func (r *Reader) Validate() error {
	if r.Store == nil {
		return errors.New("iamtoken: Reader.Store is required")
	}
	if r.Margin < 0 {
		return fmt.Errorf("iamtoken: Reader.Margin is negative: %s", r.Margin)
	}
	for i, entry := range r.Hosts {
		if !hostShape().MatchString(strings.ToLower(entry)) {
			return fmt.Errorf("iamtoken: Reader.Hosts[%d] is not a host, such as api.example.com, .example.com or localhost:8080", i)
		}
	}
	if store, ok := r.Store.(interface{ Validate() error }); ok {
		return store.Validate()
	}
	return nil
}

// Authenticate sets the request's Authorization header. It fails if there is no valid token,
// if the request's host is not among Reader.Hosts, or if the URL is plain http to another
// machine.
func (r *Reader) Authenticate(request *http.Request) error {
	_, err := r.authorize(request)
	return err
}

func (r *Reader) authorize(request *http.Request) (Token, error) {
	switch {
	case !IsConfidential(request.URL):
		return Token{}, errors.New("iamtoken: only https URLs (and http ones of this machine) are called: keys and tokens would travel in the clear")
	case !r.serves(request.URL):
		return Token{}, errors.New("iamtoken: the request's host is not among Reader.Hosts: it does not get the token")
	}
	token, err := r.Token(request.Context())
	if err == nil {
		request.Header.Set("Authorization", "Bearer "+token.Value.Reveal())
	}
	return token, err
}

// hostShape is compiled only for a Reader with Hosts.
var hostShape = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[a-z0-9_-]+(\.[a-z0-9_-]+)*:[0-9]{1,5}|[0-9a-f:]+|\[[0-9a-f:]+\]:[0-9]{1,5})$`)
})

// serves reports whether Hosts allows to send the token to u.
func (r *Reader) serves(u *url.URL) bool {
	name := strings.ToLower(u.Hostname())
	port := cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
	return len(r.Hosts) == 0 || slices.ContainsFunc(r.Hosts, func(entry string) bool {
		entry = strings.ToLower(entry)
		return entry == name || entry == net.JoinHostPort(name, port) || strings.HasPrefix(entry, ".") && strings.HasSuffix(name, entry)
	})
}

// IsConfidential reports whether a key or a token may be sent to u: over https to
// any host, over http to loopback.
func IsConfidential(u *url.URL) bool {
	return u.Hostname() != "" && (u.Scheme == "https" || u.Scheme == "http" && IsLoopback(u.Hostname()))
}

// IsLoopback reports whether host, a name or an address without a port, is this
// machine itself.
func IsLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}
