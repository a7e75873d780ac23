package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/serving"
)

// runsAsSandbox makes the test binary be the sandbox.
const runsAsSandbox = "TEST_RUNS_AS_SANDBOX"

func TestMain(m *testing.M) {
	if os.Getenv(runsAsSandbox) != "" {
		main()
	}
	os.Exit(m.Run())
}

// start runs a sandbox until stop, which returns the exit code and stderr, or the test's end, and returns its environment.
func start(t *testing.T, args ...string) (env map[string]string, file string, stop func() (int, string)) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "sandbox.env")
	env, stop = startWith(t, file, args...)
	return env, file, stop
}

// startWith is start with a file for the environment.
func startWith(t *testing.T, file string, args ...string) (env map[string]string, stop func() (int, string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, append([]string{"-addr", "127.0.0.1:0", "-env", file}, args...), io.Discard, &stderr)
	}()
	stop = func() (int, string) {
		cancel()
		code := <-exit
		exit <- code // stopping twice is harmless
		return code, stderr.String()
	}
	t.Cleanup(func() { stop() })
	env, err := envfile.Await(t.Context(), file, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	wantMode(t, file, 0o600)
	return env, stop
}

func wantMode(t *testing.T, file string, want os.FileMode) {
	t.Helper()
	if info, err := os.Stat(file); err != nil || info.Mode() != want {
		t.Errorf("%s: got %v, %v; want mode %s", filepath.Base(file), info, err, want)
	}
}

// exchange returns a token for a key.
func exchange(t *testing.T, client *http.Client, env map[string]string, key string) string {
	t.Helper()
	response, err := client.PostForm(env["IAM_URL"]+"/identity/token", url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key}})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct {
		Token     string `json:"access_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Token == "" || body.ExpiresIn != 900 {
		t.Fatalf("got %s and a token of %d s, want one of 900", response.Status, body.ExpiresIn)
	}
	return body.Token
}

// status sends a GET with headers by name and value.
func status(t *testing.T, client *http.Client, url string, header ...string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

func TestServesUntilStopped(t *testing.T) {
	env, file, stop := start(t, "-token-ttl", "15m")
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "LOGS_ROUTING_URL", "SECRETS_MANAGER_APIKEY",
		"READER_APIKEY", "ADMIN_APIKEY", "API_KEY_SECRET", "TOKEN_SECRET",
		"ACCOUNT_ID", "KEY_GROUP_ID", "TOKEN_GROUP_ID", "BOOTSTRAP_IAM_ID", "WORKLOAD_IAM_ID", "READER_IAM_ID",
		"MANAGED_API_KEY_SECRET", "MANAGED_BOOTSTRAP_KEY_SECRET"} {
		if env[name] == "" {
			t.Errorf("%s: got none", name)
		}
	}
	origin := env["SECRETS_MANAGER_URL"]
	if u, err := url.Parse(origin); err != nil || u.Scheme != "http" || u.Path != "" || len(env) != 16 {
		t.Errorf("got SECRETS_MANAGER_URL %q and %d variables, want an origin without a path and 16", origin, len(env))
	}
	for name, want := range map[string]int{"SECRETS_MANAGER_APIKEY": 403, "READER_APIKEY": 200, "ADMIN_APIKEY": 200} {
		token := exchange(t, http.DefaultClient, env, env[name])
		if got := status(t, http.DefaultClient, origin+"/api/v2/secrets/"+env["TOKEN_SECRET"], "Authorization", "Bearer "+token); got != want {
			t.Errorf("%s reads the token secret: got %d, want %d", name, got, want)
		}
	}
	if code, stderr := stop(); code != serving.ExitOK || stderr != "sandbox: serving IBM Cloud on "+origin+"\n" {
		t.Errorf("stopped: got exit code %d, %q; want 0 and the origin", code, stderr)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(origin, "http://")); err == nil {
		t.Error("stopped: it still listens")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 0 {
		t.Errorf("left behind: got %v, want nothing", left)
	}
}

// Two sandboxes may be given one environment file. It describes the later one for as long as that runs.
func TestEndingLeavesAnotherSandboxesEnvironment(t *testing.T) {
	_, file, stop := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	exit := make(chan int, 1)
	go func() { exit <- run(ctx, []string{"-addr", "127.0.0.1:0", "-env", file}, io.Discard, &stderr) }()
	var after []byte
	for after = before; bytes.Equal(after, before); time.Sleep(time.Millisecond) {
		if after, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if left, err := os.ReadFile(file); !bytes.Equal(left, after) {
		t.Errorf("the first one ended: got a file of %d bytes, %v; want that of the second one", len(left), err)
	}
	cancel()
	if code := <-exit; code != serving.ExitOK || !strings.Contains(stderr.String(), "it now describes this one") {
		t.Errorf("the second one: got exit code %d and %q, want 0 and a note", code, stderr.String())
	}
}

func TestHTTPS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "tls")
	env, _, _ := start(t, "-tls-dir", dir, "-token-ttl", "15m")
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, rest := pem.Decode(ca); block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		t.Errorf("ca.pem: want one certificate and no key")
	}
	wantMode(t, filepath.Join(dir, "ca.pem"), 0o644)
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files in -tls-dir, want ca.pem only", len(files))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	address, isHTTPS := strings.CutPrefix(env["IAM_URL"], "https://")
	if !isHTTPS {
		t.Errorf("IAM_URL: got %s, want https", env["IAM_URL"])
	}
	for _, name := range []string{"127.0.0.1", "::1", "localhost"} {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		conn.Close()
	}
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer trusting.CloseIdleConnections()
	exchange(t, trusting, env, env["READER_APIKEY"])
	for origin, want := range map[string]int{env["IAM_URL"]: 200, "http://" + address: 403} {
		if got := status(t, trusting, env["IAM_URL"]+"/_sandbox/requests", "Origin", origin); got != want {
			t.Errorf("the control interface, Origin %q: got %d, want %d", origin, got, want)
		}
	}
}

func TestManyRotations(t *testing.T) {
	env, file, stop := start(t, "-rotations", "3")
	checkRotations(t, env, 3)
	if dir := filepath.Dir(env["ROTATIONS_FILE"]); dir != filepath.Dir(file) {
		t.Errorf("ROTATIONS_FILE is in %s, want next to the environment file", dir)
	}
	if env["API_KEY_SECRET"] != "" || env["TOKEN_SECRET"] != "" {
		t.Error("got ids with ROTATIONS_FILE, want none")
	}
	stop()
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 0 {
		t.Errorf("left behind: got %v, want nothing", left)
	}
}

func checkRotations(t *testing.T, env map[string]string, want int) {
	t.Helper()
	raw, err := os.ReadFile(env["ROTATIONS_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	wantMode(t, env["ROTATIONS_FILE"], 0o600)
	var list []map[string]string
	if err := json.Unmarshal(raw, &list); err != nil || len(list) != want {
		t.Fatalf("ROTATIONS_FILE: got %d rotations, %v; want %d", len(list), err, want)
	}
	for _, r := range list {
		if len(r) != 3 || !strings.HasPrefix(r["name"], "rotation-0000") || r["api_key_secret"] == "" || r["token_secret"] == "" {
			t.Errorf("got %v, want name, api_key_secret and token_secret", r)
		}
	}
}

// A writer calls itself with what is written.
type writer func(text string)

func (w writer) Write(text []byte) (int, error) {
	w(string(text))
	return len(text), nil
}

func TestEnvironmentOnStdout(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var env map[string]string
	stdout := writer(func(text string) {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		env, _ = envfile.Await(t.Context(), file, time.Minute)
		checkRotations(t, env, 2)
		stop() // once it is written
	})
	if code := run(ctx, []string{"-addr", "127.0.0.1:0", "-rotations", "2", "-env", "-"}, stdout, io.Discard); code != serving.ExitOK {
		t.Errorf("got exit code %d, want 0", code)
	}
	if _, err := os.Stat(env["ROTATIONS_FILE"]); !os.IsNotExist(err) {
		t.Errorf("the temporary ROTATIONS_FILE still exists: %v", err)
	}
}

// One that others reach too is used here on loopback, and says that it is not alone with its user.
func TestWhoReachesIt(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0"} {
		env, _, stop := start(t, "-addr", addr)
		_, port, found := strings.Cut(env["IAM_URL"], "http://127.0.0.1:")
		if got := status(t, http.DefaultClient, env["IAM_URL"]+"/_sandbox/faults"); !found || got != 200 {
			t.Errorf("%s: got %s and %d, want an address of loopback and 200", addr, env["IAM_URL"], got)
		}
		want := fmt.Sprintf("sandbox: serving IBM Cloud on %s, and to everybody who reaches this machine, on port %s\n", env["IAM_URL"], port)
		if _, said := stop(); said != want {
			t.Errorf("%s: got %q, want %q", addr, said, want)
		}
	}
	for ip, want := range map[string]bool{"127.0.0.1": false, "127.0.0.2": false, "::1": false, "0.0.0.0": true, "::": true, "192.0.2.1": true, "2001:db8::1": true} {
		if got := others(&net.TCPAddr{IP: net.ParseIP(ip)}) != ""; got != want {
			t.Errorf("%s: warned %t, want %t", ip, got, want)
		}
	}
}

// SIGTERM ends a sandbox that is holding an answer back for an hour.
func TestSIGTERM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	process := exec.CommandContext(t.Context(), os.Args[0], "-addr", "127.0.0.1:0", "-env", file)
	process.Env = append(os.Environ(), runsAsSandbox+"=1")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	env, err := envfile.Await(t.Context(), file, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	faults := env["IAM_URL"] + "/_sandbox/faults"
	response, err := http.Post(faults, "application/json", strings.NewReader(`{"op":"iam.keys","times":1,"delay":"1h"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	answered := make(chan error)
	go func() {
		_, err := http.Get(env["IAM_URL"] + "/identity/keys")
		answered <- err
	}()
	for waiting := "x"; waiting != "[]"; time.Sleep(time.Millisecond) { // until the fault is taken: the request has arrived
		response, err := http.Get(faults)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		waiting = string(body)
	}
	began := time.Now()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("got %v after %s, want exit code 0 soon", err, time.Since(began))
	}
	if err := <-answered; err == nil {
		t.Error("the delayed request was answered")
	}
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	missing := filepath.Join(t.TempDir(), "missing", "env")
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"-rotations 0":                      {2, "-rotations must be 1 to 100000, not 0"},
		"-rotations -1":                     {2, "-rotations"},
		"-rotations many":                   {2, "rotations"},
		"-token-ttl 0":                      {2, "-token-ttl"},
		"-token-ttl -1h":                    {2, "-token-ttl"},
		"-token-ttl 61m":                    {2, "-token-ttl"},
		"-token-ttl 1500ms":                 {2, "-token-ttl must be whole seconds from 1s to 1h"},
		"-token-ttl soon":                   {2, "use a duration such as 90s"},
		"-token-ttl 900":                    {2, "say 900s for seconds"},
		"-addr nowhere":                     {2, "-addr must be host:port"},
		"-addr 127.0.0.1:99999":             {2, "-addr must have a port from 0 to 65535"},
		"-addr 192.0.2.1:8480":              {2, "-addr must be on loopback"},
		"-env=":                             {2, "-env must not be empty"},
		"-tls-dir=":                         {2, "-tls-dir must not be empty"},
		"-addr " + taken.Addr().String():    {1, "address already in use: stop what listens there, or choose another port: -addr, ADDR of make"},
		"-addr 127.0.0.1:0 -env " + missing: {1, "missing"},
		"-addr 127.0.0.1:0 -rotations 2 -env " + missing: {1, "missing"},
		"-addr 127.0.0.1:0 -tls-dir " + os.Args[0]:       {1, "-tls-dir"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(args), &stdout, &stderr)
		if code != want.code || stdout.Len() != 0 || !strings.HasPrefix(stderr.String(), "sandbox: ") || !strings.Contains(stderr.String(), want.says) {
			t.Errorf("%s: got exit code %d, stdout %q, stderr %q; want %d and %q", args, code, stdout.String(), stderr.String(), want.code, want.says)
		}
	}
}

// scripts/conformance starts this sandbox. What it does takes a minute, so it must not do it when asked how it is used.
func TestConformanceSaysHowItIsUsed(t *testing.T) {
	for args, want := range map[string]int{"-h": 0, "--help": 0, "now": 2} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		command := exec.CommandContext(ctx, "../conformance", args)
		printed, _ := command.CombinedOutput()
		cancel()
		if got := command.ProcessState.ExitCode(); got != want || !strings.HasPrefix(string(printed), "usage: scripts/conformance\n") {
			t.Errorf("%s: got exit status %d and %q, want %d and the usage", args, got, printed, want)
		}
	}
}
