package iamtoken

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

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
