package iamtoken

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	readersKey   = "canary-5gkHXZ0r8vPw2QmB1sTq-readers-api-key"
	readersToken = "canary-9wJcYt3LfUeN7aRd4KoV-readers-own-token"
)

// repeating has answers that repeat what was sent, SECRET, in places that net/http or
// encoding/json would copy into an error or a log line.
var repeating = map[string]string{
	"status line":           "SECRET\r\n\r\n",
	"status code":           "HTTP/1.1 SECRET\r\n\r\n",
	"protocol":              "HTTP/SECRET 200 OK\r\n\r\n",
	"header without colon":  "HTTP/1.1 200 OK\r\nSECRET\r\n\r\n",
	"header name":           "HTTP/1.1 200 OK\r\nSECRET x: y\r\n\r\n",
	"transfer encoding":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\n",
	"content length":        "HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n",
	"two content lengths":   "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: SECRET\r\n\r\n",
	"chunk":                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
	"trailer":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: SECRET\r\n\r\n0\r\nSECRET\r\n\r\n",
	"forbidden trailer":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, SECRET\r\n\r\n0\r\n\r\n",
	"location":              "HTTP/1.1 302 Found\r\nLocation: http://[SECRET\r\nContent-Length: 0\r\n\r\n",
	"location elsewhere":    "HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:1/SECRET\r\nContent-Length: 0\r\n\r\n",
	"reason phrase":         "HTTP/1.1 500 SECRET\r\nContent-Length: 6\r\n\r\nSECRET",
	"informational answers": strings.Repeat("HTTP/1.1 103 SECRET\r\nLink: SECRET\r\n\r\n", 10),
	"switching protocols":   "HTTP/1.1 101 SECRET\r\nUpgrade: SECRET\r\nConnection: Upgrade\r\n\r\nSECRET",
	"compression":           "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\nSECRET",
	"a cut body":            "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{\"access_token\":\"SECRET",
	"HTTP/2":                "\x00\x00\x2a\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01SECRET",
	"TLS":                   "\x15\x03\x01\x00\x02SECRET",
	"a web page":            "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n<html>SECRET" + strings.Repeat(" ", 2000),
	"a number for a text":   okJSON(`{"access_token":1,"secret_type":2,"expires_in":"SECRET","created_at":"SECRET"}`),
	"a date":                okJSON(`{"access_token":"","secret_type":"arbitrary","created_at":"SECRET"}`),
	"what was sent":         okJSON(`{"access_token":"SECRET","secret_type":"arbitrary","payload":"SECRET","version_custom_metadata":{"expiration":"SECRET"}}`),
	"headers":               "HTTP/1.1 503 x\r\nDate: SECRET\r\nRetry-After: SECRET\r\nContent-Length: 0\r\n\r\n",
	"unasked, afterwards":   okJSON(`{}`) + "HTTP/1.1 200 SECRET\r\n\r\nSECRET",
}

func okJSON(body string) string {
	return "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 10:00:00 GMT\r\nContent-Length: 500\r\n\r\n" + body + strings.Repeat(" ", max(0, 500-len(body)))
}

// No error and no log line contains the key or a token of a request, whatever the server or a
// proxy answers.
func TestNothingThatWasSentIsPrinted(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(io.Discard)
	for name, answer := range repeating {
		for _, target := range []string{"/identity/token", "/api/v2/secrets"} {
			if name == "what was sent" && target != "/identity/token" {
				continue // a secret may hold any token, even the reader's own; only Version.Token rejects it
			}
			t.Run(name+" to "+target, func(t *testing.T) {
				server := rawServer(t, "", func(path string) string {
					if strings.HasPrefix(path, target) {
						return answer
					}
					return okJSON(`{"access_token":"` + readersToken + `","expires_in":3600}`)
				})
				_, err := storeAt(server, nil).Read(t.Context())
				wantQuiet(t, err)
			})
		}
	}
	// net/http would log what it reads before it has written the request. Give it time to.
	idle := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { time.Sleep(50 * time.Millisecond) }})
	_, err := storeAt(rawServer(t, "HTTP/1.1 200 SECRET\r\n\r\nSECRET", func(string) string { return "" }), nil).Read(idle)
	wantQuiet(t, err)
	_, err = storeAt("https://iam.test", repeatingTransport{}).Read(t.Context())
	wantQuiet(t, err)
	refusing := func(status string) string {
		return rawServer(t, "", func(string) string {
			return "HTTP/1.1 " + status + " SECRET\r\nSECRET: SECRET\r\nContent-Length: 0\r\n\r\nSECRET"
		})
	}
	for says, proxy := range map[string]string{
		"the proxy on the way to IAM answered 407: check the user and password in HTTPS_PROXY": refusing("407"),
		"the proxy on the way to IAM answered 403: allow the host at the proxy":                refusing("403"),
		"the proxy on the way to IAM answered 503: it may be unable to reach the host":         refusing("503"),
		"the proxy on the way to IAM cannot be reached: check HTTPS_PROXY":                     "http://127.0.0.1:1",
	} {
		transport := singleRequests.Clone()
		transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
		_, err := storeAt("https://iam.test", transport).Read(t.Context())
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
		wantQuiet(t, err)
	}
	time.Sleep(50 * time.Millisecond) // for what is logged after an answer
	wantNothingSent(t, "the log", logged.String())
}

// repeatingTransport fails with an error that repeats what was sent, like an HTTP/2 transport after such a
// GOAWAY frame.
type repeatingTransport struct{}

func (repeatingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, _ := io.ReadAll(r.Body)
	return nil, fmt.Errorf("server sent GOAWAY and closed the connection; debug=%q", sent)
}

func storeAt(server string, transport http.RoundTripper) *SecretsManager {
	return &SecretsManager{URL: server, IAMURL: server, SecretID: "00000000-0000-4000-8000-000000000000",
		APIKey: NewSecret(readersKey), Transport: transport}
}

// The error of a request without an answer has a text of this package, and wraps at most a system's error.
func TestNoAnswer(t *testing.T) {
	silence := make(chan struct{})
	silent, untrusted := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silence })), httptest.NewTLSServer(nil)
	defer untrusted.Close()
	defer silent.Close()
	defer close(silence)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	ended, end := context.WithCancel(t.Context())
	end()
	for says, test := range map[string]struct {
		ctx   context.Context
		url   string
		wraps error
		again bool
	}{
		"IAM did not answer in time":                   {soon, silent.URL, context.DeadlineExceeded, true},
		"the call of IAM was given up":                 {ended, silent.URL, context.Canceled, true},
		"calling IAM: its host name does not resolve":  {t.Context(), "https://iam.invalid", ErrUnavailable, true},
		"its TLS certificate is not trusted":           {t.Context(), untrusted.URL, ErrUnavailable, false},
		"IAM refuses connections on this port":         {t.Context(), "http://127.0.0.1:1", syscall.ECONNREFUSED, true},
		"the connection broke, or what came was not H": {t.Context(), rawServer(t, "", func(string) string { return "" }), ErrUnavailable, true},
	} {
		_, err := storeAt(test.url, nil).Read(test.ctx)
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, test.wraps) || !strings.Contains(err.Error(), says) || repeatable(err) != test.again {
			t.Errorf("got %v, repeatable: %t; want %q and %t", err, repeatable(err), says, test.again)
		}
	}
}

// wantQuiet checks err and all errors that it wraps, printed in every way.
func wantQuiet(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("got no error")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%q"} {
		wantNothingSent(t, verb, fmt.Sprintf(verb, err))
	}
	switch wrapping := err.(type) {
	case interface{ Unwrap() error }:
		if inner := wrapping.Unwrap(); inner != nil {
			wantQuiet(t, inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wrapping.Unwrap() {
			wantQuiet(t, inner)
		}
	}
}

func wantNothingSent(t *testing.T, where, text string) {
	t.Helper()
	for _, secret := range []string{readersKey, readersToken} {
		for i := range len(secret) - 8 {
			if strings.Contains(text, secret[i:i+8]) {
				t.Errorf("%s holds what was sent: %.200s", where, text)
				return
			}
		}
	}
}

// rawServer answers with raw bytes, in which SECRET becomes the key and the token. It sends
// greeting before it reads a request.
func rawServer(t *testing.T, greeting string, answer func(path string) string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	write := func(conn net.Conn, text string) {
		_, _ = io.WriteString(conn, strings.ReplaceAll(text, "SECRET", readersKey+readersToken))
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				write(conn, greeting)
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, request.Body)
				write(conn, answer(request.URL.Path))
				time.Sleep(5 * time.Millisecond) // so that the answer is read before the connection ends
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

// A service that a job calls may repeat the job's token too.
func TestTheTransportPassesNoTokenOn(t *testing.T) {
	reader := &Reader{Store: StoreFunc(func(context.Context) (Version, error) {
		return Version{Payload: NewSecret(readersToken), CreatedAt: time.Now(), Metadata: Metadata{Expiration: time.Now().Add(time.Hour).Unix()}}, nil
	})}
	for name, answer := range repeating {
		t.Run(name, func(t *testing.T) {
			server := rawServer(t, "", func(string) string { return answer })
			response, err := (&http.Client{Transport: reader.Transport(&http.Transport{DisableKeepAlives: true})}).Get(server)
			if err == nil {
				_, err = io.ReadAll(response.Body)
			}
			if err != nil {
				wantQuiet(t, err)
			}
		})
	}
}

func TestAnAnswerWithoutEndIsCut(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(w, strings.Repeat("[", 4096))
		}
	}))
	defer server.Close()
	if _, err := storeAt(server.URL, nil).Read(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}
