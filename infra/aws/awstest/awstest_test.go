package awstest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Lambda logs a line of its own where the function cannot, and only there.
func TestOwnWords(t *testing.T) {
	for answer, want := range map[string]string{
		`{"errorMessage":"8f1b Task timed out after 2.00 seconds","errorType":"Sandbox.Timedout"}` + "\n":                           "8f1b Task timed out after 2.00 seconds\n",
		`{"errorMessage":"RequestId: 8f1b Error: Runtime exited with error: exit status 2","errorType":"Runtime.ExitError"}` + "\n": "RequestId: 8f1b Error: Runtime exited with error: exit status 2\n",
		`{"errorMessage":"1 of 1 rotations failed","errorType":"RotationError"}` + "\n":                                             "",
		"null\n": "",
	} {
		if got := ownWords([]byte(answer)); got != want {
			t.Errorf("%s: got %q, want %q", answer, got, want)
		}
	}
}

// Where moto is missing or does not start, whoever asked for it is told what to do.
func TestStartMotoTellsWhyItCannot(t *testing.T) {
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

func TestLambdaKnowsOnlyWhatWasDeployed(t *testing.T) {
	moto := Start(t)
	server := httptest.NewServer(&Lambda{Moto: moto})
	t.Cleanup(server.Close)
	response, err := http.Post(server.URL+FunctionPath("missing")+"/invocations", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if got := response.Header.Get("X-Amzn-Errortype"); response.StatusCode != http.StatusNotFound || got != "ResourceNotFoundException" {
		t.Errorf("got %s, %q; want 404 and ResourceNotFoundException", response.Status, got)
	}
	moto.Stop()
	select {
	case <-moto.Ended():
	default:
		t.Error("stopped, moto goes on")
	}
	if _, err := moto.Call(t.Context(), "secretsmanager", "secretsmanager.ListSecrets", nil); err == nil {
		t.Error("stopped, moto answers")
	}
}

// An account that the process knows of must not be reached by a test.
func TestSetenvLeavesNothingOfAnotherAccount(t *testing.T) {
	t.Setenv("AWS_SESSION_TOKEN", "real")
	t.Setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://real.test")
	Setenv(t, "http://127.0.0.1:1")
	for name, want := range map[string]string{
		"AWS_SESSION_TOKEN": "", "AWS_ENDPOINT_URL_SECRETS_MANAGER": "", "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "test",
	} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
