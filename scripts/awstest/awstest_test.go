package awstest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Lambda logs a line of its own only when the function gave no answer.
func TestLogLineOf(t *testing.T) {
	for answer, want := range map[string]string{
		`{"errorMessage":"8f1b Task timed out after 2.00 seconds","errorType":"Sandbox.Timedout"}` + "\n":                           "8f1b Task timed out after 2.00 seconds\n",
		`{"errorMessage":"RequestId: 8f1b Error: Runtime exited with error: exit status 2","errorType":"Runtime.ExitError"}` + "\n": "RequestId: 8f1b Error: Runtime exited with error: exit status 2\n",
		`{"errorMessage":"1 of 1 rotations failed","errorType":"RotationError"}` + "\n":                                             "",
		"null\n": "",
	} {
		if got := logLineOf([]byte(answer)); got != want {
			t.Errorf("%s: got %q, want %q", answer, got, want)
		}
	}
}

// If moto is not installed or does not start, the error says what to do, or why.
func TestStartMotoShowsWhyItCannot(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("PATH", folder)
	if _, err := StartMoto(); !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "pip install") {
		t.Errorf("none: got %v, want ErrNotInstalled with the remedy", err)
	}
	const broken = "#!/bin/sh\necho Traceback >&2\necho \"ModuleNotFoundError: No module named 'flask'\" >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(folder, "moto_server"), []byte(broken), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := StartMoto(); err == nil || !strings.Contains(err.Error(), "No module named 'flask'") {
		t.Errorf("broken: got %v, want its last words", err)
	}
}

// Moto and Lambda serve only signed requests. The credentials may be their own or issued by their STS.
func TestWhatMotoAndLambdaServe(t *testing.T) {
	moto := Start(t)
	server := httptest.NewServer(&Lambda{Moto: moto})
	t.Cleanup(server.Close)
	do := func(r *http.Request) (int, string) {
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		for name := range response.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s: got the header %s", r.Method, r.URL.Path, name)
			}
		}
		answer, _ := io.ReadAll(response.Body)
		return response.StatusCode, response.Header.Get("X-Amzn-Errortype") + string(answer)
	}
	for _, origin := range []string{server.URL, moto.URL()} {
		invoke := func() *http.Request {
			return request(t, "POST", origin+FunctionPath("missing")+"/invocations", "{}", "Content-Type", "application/json")
		}
		if status, answer := do(invoke()); status != http.StatusForbidden || !strings.HasPrefix(answer, "MissingAuthenticationToken{") {
			t.Errorf("unsigned: got %d %s, want 403", status, answer)
		}
		if status, answer := do(signed(t, invoke(), own(), "lambda", time.Now())); status != http.StatusNotFound || !strings.HasPrefix(answer, "ResourceNotFoundException") {
			t.Errorf("signed: got %d %s, want 404 and ResourceNotFoundException", status, answer)
		}
		role := "&RoleArn=arn:aws:iam::123456789012:role/r&RoleSessionName=session&Version=2011-06-15"
		const form = "application/x-www-form-urlencoded"
		assume := signed(t, request(t, "POST", origin+"/", "Action=AssumeRole"+role, "Content-Type", form), own(), "sts", time.Now())
		byIdentity := request(t, "POST", origin+"/", "Action=AssumeRoleWithWebIdentity&WebIdentityToken="+WebIdentityToken()+role, "Content-Type", form)
		for _, r := range []*http.Request{assume, byIdentity} {
			status, answer := do(r)
			issued := new(gate).learn([]byte(answer))
			if status != http.StatusOK || issued.KeyID == "" {
				t.Fatalf("got %d and no credentials", status)
			}
			r := signed(t, request(t, "POST", origin+"/", "Action=GetCallerIdentity&Version=2011-06-15", "Content-Type", form), issued, "sts", time.Now())
			if status, answer := do(r); status != http.StatusOK || !strings.Contains(answer, "assumed-role/r/session") {
				t.Errorf("issued credentials: got %d %s, want the role", status, answer)
			}
		}
	}
	at := moto.URL()
	moto.Stop()
	if _, err := moto.Call(t.Context(), "secretsmanager", "secretsmanager.ListSecrets", nil); err == nil {
		t.Error("stopped, moto answers")
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(at, "http://")); err == nil {
		t.Error("stopped, it still listens")
	}
}

// Only a signed request moves the clock for the age of versions.
func TestClock(t *testing.T) {
	moto := Start(t)
	server := httptest.NewServer(&Lambda{Moto: moto})
	t.Cleanup(server.Close)
	for _, test := range []struct {
		method, body string
		signed       bool
		status       int
		says         string
	}{
		{"POST", `{"advance":"24h"}`, false, 403, "MissingAuthenticationToken"},
		{"GET", "", true, 200, `"ahead_seconds":0,`},
		{"POST", `{"advance":"24h"}`, true, 200, `"ahead_seconds":86400,`},
		{"POST", `{"advance":"90m"}`, true, 200, `"ahead_seconds":91800,`},
		{"POST", `{"advance":"-1h"}`, true, 400, `send {"advance":"24h"}`},
		{"POST", `{"advance":"1001h"}`, true, 400, "1000h at most"},
		{"POST", `{"forward":"1h"}`, true, 400, `send {"advance":"24h"}`},
		{"POST", ``, true, 400, `send {"advance":"24h"}`},
	} {
		r := request(t, test.method, server.URL+"/_sandbox/clock", test.body)
		if test.signed {
			r = signed(t, r, own(), "sandbox", time.Now())
		}
		response, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != test.status || !strings.Contains(string(answer), test.says) {
			t.Errorf("%s %s: got %d %s, want %d and %s", test.method, test.body, response.StatusCode, answer, test.status, test.says)
		}
	}
}

// A test must not reach an account that is configured in its process's environment.
func TestSetenvLeavesNothingOfAnotherAccount(t *testing.T) {
	t.Setenv("AWS_SESSION_TOKEN", "real")
	t.Setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://real.test")
	Setenv(t, "http://127.0.0.1:1")
	for name, want := range map[string]string{
		"AWS_SESSION_TOKEN": "", "AWS_ENDPOINT_URL_SECRETS_MANAGER": "", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": own().KeyID,
	} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
