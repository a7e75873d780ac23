package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
	"iam-token-rotator/scripts/serving"
)

// The aws CLI uses the sandbox even if its user has an account. scripts/readmetest runs the commands of the page,
// a whole deployment.
func TestServes(t *testing.T) {
	programs.Need(t, "moto_server", "aws", "sh")
	if runtime.GOOS != "linux" {
		t.Skip("the deployed function is a program for Linux")
	}
	file := filepath.Join(t.TempDir(), "aws.env")
	start(t, file)
	const script = `set -eu; set -a; . "$ENV_FILE"; set +a
aws s3api head-bucket --bucket "$BUCKET"
aws sts assume-role-with-web-identity --role-arn arn:aws:iam::123456789012:role/r --role-session-name session \
	--web-identity-token "$WEB_IDENTITY_TOKEN" --query AssumedRoleUser.Arn --output text`
	got := programs.Run(t, programs.Command{Env: programs.CleanEnviron("ENV_FILE="+file, "AWS_PROFILE=mine", "AWS_SESSION_TOKEN=real"), Name: "sh", Args: []string{"-c", script}})
	if got.Exit != 0 || !strings.HasSuffix(got.Stdout, "assumed-role/r/session\n") {
		t.Errorf("got exit %d and\n%s, want the bucket and the role", got.Exit, got.All())
	}
}

// start runs the sandbox until the test ends. It checks the environment file, and that nothing is left at the end.
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
		t.Errorf("got an endpoint %s, bucket %q, architecture %q, regions %q and %q", origin, env["BUCKET"], env["ARCH"], env["AWS_REGION"], env["AWS_DEFAULT_REGION"])
	}
	t.Cleanup(func() {
		cancel()
		if code := <-exit; code != serving.ExitOK || !strings.Contains(stderr.String(), "serving AWS on "+origin.String()+"\n") {
			t.Errorf("stopped: got exit code %d, %q; want 0", code, stderr.String())
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("the environment file still exists: %v", err)
		}
		if _, err := net.Dial("tcp", origin.Host); err == nil {
			t.Error("stopped, it still listens")
		}
	})
}

func TestUsage(t *testing.T) {
	for args, says := range map[string]string{
		"-addr nowhere":          "-addr must be host:port",
		"-addr localhost:99999":  "-addr must have a port",
		"-addr :8481":            "on loopback",
		"-addr 0.0.0.0:8481":     "on loopback, not \"0.0.0.0:8481\": this sandbox runs programs",
		"-addr example.com:8481": "on loopback",
		"-bin=":                  "-bin must not be empty",
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &stdout, &stderr); code != serving.ExitUsage || stdout.Len() != 0 || !strings.Contains(stderr.String(), says) {
			t.Errorf("%s: got exit code %d, %q and %q; want 2, nothing and %q", args, code, stdout.String(), stderr.String(), says)
		}
	}
}

// fakesMoto is a variable that makes the test binary a moto_server that answers one request, to create a bucket,
// and ends.
const fakesMoto = "TEST_FAKES_MOTO"

func TestMain(m *testing.M) {
	if os.Getenv(fakesMoto) == "" {
		os.Exit(m.Run())
	}
	listener, err := net.Listen("unix", strings.TrimPrefix(os.Args[2], "unix://"))
	if err != nil {
		panic(err)
	}
	_, _ = os.Stderr.WriteString(" * Running on " + os.Args[2] + "\n")
	_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		time.AfterFunc(100*time.Millisecond, func() { os.Exit(0) })
	}))
}

func TestFailures(t *testing.T) {
	folder := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"+content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	t.Setenv("PATH", folder)
	fails := func(code int, says string, args ...string) {
		t.Helper()
		var stderr bytes.Buffer
		got := run(t.Context(), append([]string{"-addr", "127.0.0.1:0", "-bin", folder, "-env", filepath.Join(folder, "env")}, args...), io.Discard, &stderr)
		if got != code || !strings.Contains(stderr.String(), says) {
			t.Errorf("got exit code %d, %q; want %d and %q", got, stderr.String(), code, says)
		}
		if _, err := os.Stat(filepath.Join(folder, "env")); !os.IsNotExist(err) {
			t.Errorf("the environment file still exists: %v", err)
		}
	}
	fails(serving.ExitUsage, "make build-local first")
	write("invoke", "")
	fails(serving.ExitUsage, "pip install 'moto[server]'")
	write("moto_server", fakesMoto+"=1 exec '"+os.Args[0]+"' \"$@\"\n")
	fails(serving.ExitError, "address already in use", "-addr", taken.Addr().String())
	fails(serving.ExitError, "making a file", "-env", filepath.Join(folder, "missing", "env"))
	fails(serving.ExitError, "moto_server has ended unexpectedly\n")
}
