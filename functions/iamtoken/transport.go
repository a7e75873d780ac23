package iamtoken

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Transport returns a RoundTripper that authorizes every request with the
// Reader's token. After a 401 it tells the Reader, and sends the request once more
// if that has a new token by then and the request's body can be had again. A nil
// base means http.DefaultTransport.
//
// A request that a redirect sent to another host goes there without the token.
//
// IBM's SDKs take it as well, for the second chance after a 401:
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

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if redirectedAway(request) {
		return t.base.RoundTrip(request)
	}
	first := request.Clone(request.Context())
	token, err := t.reader.authorize(first)
	if err != nil {
		closeBody(request)
		return nil, err
	}
	response, err := t.base.RoundTrip(first)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	t.reader.Refused(token)
	second, ok := again(request)
	if !ok {
		return response, nil
	}
	next, err := t.reader.authorize(second)
	if err != nil || next.Value.Reveal() == token.Value.Reveal() {
		closeBody(second)
		return response, nil // the 401 tells the caller more than our error
	}
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // so that the connection can be used again
	_ = response.Body.Close()
	return t.base.RoundTrip(second)
}

// redirectedAway reports whether a redirect led from another host here.
func redirectedAway(request *http.Request) bool {
	for from := request; from.Response != nil && from.Response.Request != nil; {
		from = from.Response.Request
		if from.URL.Host != request.URL.Host {
			return true
		}
	}
	return false
}

// again returns the request as it was, if its body can be had a second time.
func again(request *http.Request) (*http.Request, bool) {
	second := request.Clone(request.Context())
	if request.Body == nil || request.Body == http.NoBody {
		return second, true
	}
	if request.GetBody == nil {
		return nil, false
	}
	body, err := request.GetBody()
	if err != nil {
		return nil, false
	}
	second.Body = body
	return second, true
}

func closeBody(request *http.Request) {
	if request.Body != nil {
		_ = request.Body.Close()
	}
}

// The three methods below make a Reader an Authenticator of IBM's Go SDKs
// (github.com/IBM/go-sdk-core/v5/core), in place of an IamAuthenticator:
//
//	service, err := logsrouterv3.NewLogsRouterV3(&logsrouterv3.LogsRouterV3Options{URL: url, Authenticator: reader})
//
// Nothing of the SDK is imported for it.

// AuthenticationType names this way of authenticating in the SDK's debug log.
func (r *Reader) AuthenticationType() string { return "iamtoken" }

// Validate reports what is wrong with the Reader's fields; it makes no request.
func (r *Reader) Validate() error {
	if r.Store == nil {
		return errors.New("iamtoken: Reader.Store is required")
	}
	if r.Margin < 0 {
		return fmt.Errorf("iamtoken: Reader.Margin is negative: %s", r.Margin)
	}
	if store, ok := r.Store.(interface{ Validate() error }); ok {
		return store.Validate()
	}
	return nil
}

// Authenticate sets the request's Authorization header. It fails if there is no
// valid token, or if the token would travel in the clear.
func (r *Reader) Authenticate(request *http.Request) error {
	_, err := r.authorize(request)
	return err
}

func (r *Reader) authorize(request *http.Request) (Token, error) {
	if err := checkConfidential(request.URL); err != nil {
		return Token{}, err
	}
	token, err := r.Token(request.Context())
	if err != nil {
		return Token{}, err
	}
	request.Header.Set("Authorization", "Bearer "+token.Value.Reveal())
	return token, nil
}

var errInTheClear = errors.New("iamtoken: only https URLs (and http ones of this machine) are called: keys and tokens would travel in the clear")

// checkConfidential accepts https anywhere and http on loopback.
func checkConfidential(u *url.URL) error {
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme == "https" || u.Scheme == "http" && loopback {
		return nil
	}
	return errInTheClear
}
