package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
	"iam-token-rotator/scripts/serving"
)

// tried is what `make aws-sandbox` tells people to do in another terminal.
const tried = `
set -eu
set -a; . "$ENV_FILE"; set +a
export BOOTSTRAP_SECRET_ARN="$(printenv SECRETS_MANAGER_APIKEY | scripts/put-bootstrap-key)"
make --no-print-directory deploy STACK=try DEPLOY_DIR="$BUILT"
make --no-print-directory invoke STACK=try MODE=check
`

// The whole deployment, without an account, by somebody who has one.
func TestDeployThere(t *testing.T) {
	programs.Need(t, "moto_server", "aws", "jq", "make", "sh", "printenv")
	if runtime.GOOS != "linux" {
		t.Skip("the deployed function is a program for Linux")
	}
	file := filepath.Join(t.TempDir(), "aws.env")
	start(t, file)
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	ibm := httptest.NewServer(cloud)
	t.Cleanup(ibm.Close)
	one := cloud.Rotations()[0]
	env := programs.CleanEnviron("ENV_FILE="+file, "BUILT="+t.TempDir(), "AWS_PROFILE=mine", "AWS_SESSION_TOKEN=real", "ARCH=s390x",
		"SECRETS_MANAGER_URL="+ibm.URL, "IAM_URL="+ibm.URL, "SECRETS_MANAGER_APIKEY="+cloud.BootstrapAPIKey(),
		"API_KEY_SECRET="+one.APIKeySecret, "TOKEN_SECRET="+one.TokenSecret, "DENIED_FOR=0")
	got := programs.Run(t, programs.Command{Dir: "../..", Env: env, Name: "sh", Args: []string{"-c", tried}})
	for _, words := range []string{"to s3://" + bucket + "/", "default: rotated; the stored token expires 20", "default: checked; "} {
		if got.Exit != 0 || !strings.Contains(got.Stdout, words) {
			t.Errorf("got exit %d, want %q in\n%s", got.Exit, words, got.All())
		}
	}
	if strings.Contains(got.All(), cloud.BootstrapAPIKey()) {
		t.Error("the bootstrap key shows")
	}
	if _, _, err := cloud.Validate(cloud.MustCurrent(one.TokenSecret).Payload); err != nil {
		t.Errorf("no token was published: %v", err)
	}
}

// start runs the sandbox until the test ends, and holds the file, and the end, against what is promised.
func start(t *testing.T, file string) {
	t.Helper()
	bin := t.TempDir()
	if err := programs.Build(bin, map[string]string{"invoke": "scripts/invoke"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, []string{"-addr", "127.0.0.1:0", "-bin", bin, "-env", file}, io.Discard, &stderr)
	}()
	env, err := envfile.Await(t.Context(), file, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v; want 0600", info.Mode(), err)
	}
	origin, err := url.Parse(env["AWS_ENDPOINT_URL"])
	if err != nil || env["BUCKET"] == "" || env["ARCH"] != runtime.GOARCH || env["AWS_REGION"] != env["AWS_DEFAULT_REGION"] || env["AWS_CONFIG_FILE"] != "/dev/null" {
		t.Errorf("got %v", env)
	}
	t.Cleanup(func() {
		cancel()
		if code := <-exit; code != serving.ExitOK || !strings.Contains(stderr.String(), "serving AWS on "+origin.String()+"\n") {
			t.Errorf("stopped: got exit code %d, %q; want 0", code, stderr.String())
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the environment file outlived the sandbox: %v", err)
		}
		if _, err := net.Dial("tcp", origin.Host); err == nil {
			t.Error("stopped, it still listens")
		}
	})
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args string
		says string
	}{
		{"stray", "unexpected argument"},
		{"-addr nowhere", "-addr must be host:port"},
		{"-addr :8481", "on loopback"},
		{"-addr 0.0.0.0:8481", "whoever reaches it can run programs here"},
		{"-addr example.com:8481", "on loopback"},
		{"-env=", "-env"},
		{"-bin=", "-bin"},
		{"-colour red", "colour"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(test.args), &stdout, &stderr); code != serving.ExitUsage || stdout.Len() != 0 {
			t.Errorf("%s: got exit code %d, stdout %q; want 2 and nothing", test.args, code, stdout.String())
		}
		if !strings.Contains(stderr.String(), test.says) || !strings.Contains(stderr.String(), "-h") {
			t.Errorf("%s: got %q, want %q and where help is", test.args, stderr.String(), test.says)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, &stdout, &stderr); code != serving.ExitOK || stderr.Len() != 0 || !strings.Contains(stdout.String(), "examples:") {
		t.Errorf("-h: got exit code %d, stderr %q, stdout %q", code, stderr.String(), stdout.String())
	}
}

// withMoto makes a folder the only one in PATH, and puts there invoke and a moto_server that runs text.
func withMoto(t *testing.T, text string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	t.Setenv("PATH", folder)
	for name, content := range map[string]string{"invoke": "", "moto_server": text} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"+content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestWhatMustBeThereFirst(t *testing.T) {
	folder := withMoto(t, "")
	if err := os.Remove(filepath.Join(folder, "moto_server")); err != nil {
		t.Fatal(err)
	}
	for bin, says := range map[string]string{folder: "pip install 'moto[server]'", t.TempDir(): "make build-local first"} {
		var stderr bytes.Buffer
		code := run(t.Context(), []string{"-addr", "127.0.0.1:0", "-bin", bin, "-env", filepath.Join(folder, "env")}, io.Discard, &stderr)
		if code != serving.ExitUsage || !strings.Contains(stderr.String(), says) {
			t.Errorf("got exit code %d, %q; want 2 and %q", code, stderr.String(), says)
		}
	}
}

func TestFailures(t *testing.T) {
	s3 := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // for the bucket
	defer s3.Close()
	folder := withMoto(t, "echo ' * Running on "+s3.URL+"' >&2\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	file := filepath.Join(folder, "env")
	for says, args := range map[string][]string{
		"address already in use":            {"-addr", taken.Addr().String()},
		"making a file":                     {"-env", filepath.Join(folder, "missing", "env")},
		"moto_server has ended by itself\n": {"-env", file},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), append([]string{"-addr", "127.0.0.1:0", "-bin", folder}, args...), io.Discard, &stderr)
		if code != serving.ExitError || !strings.Contains(stderr.String(), says) {
			t.Errorf("got exit code %d, %q; want 1 and %q", code, stderr.String(), says)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the environment file outlived the sandbox: %v", err)
	}
}
