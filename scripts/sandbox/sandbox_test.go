package main

import (
	"bufio"
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

	"iam-token-rotator/scripts/serving"
)

func TestServesUntilStopped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sandbox.env")
	s := startSandbox(t, "-token-ttl", "15m", "-env", file)
	env := readEnvFile(t, file)
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "LOGS_ROUTING_URL", "SECRETS_MANAGER_APIKEY",
		"READER_APIKEY", "ADMIN_APIKEY", "API_KEY_SECRET", "TOKEN_SECRET",
		"ACCOUNT_ID", "KEY_GROUP_ID", "TOKEN_GROUP_ID", "BOOTSTRAP_IAM_ID", "WORKLOAD_IAM_ID", "READER_IAM_ID"} {
		if env[name] == "" {
			t.Errorf("%s: got none", name)
		}
	}
	if len(env) != 14 {
		t.Errorf("got %d variables, want 14", len(env))
	}
	if u, err := url.Parse(env["SECRETS_MANAGER_URL"]); err != nil || u.Scheme != "http" || u.Path != "" {
		t.Errorf("SECRETS_MANAGER_URL: got %q, want an origin without a path", env["SECRETS_MANAGER_URL"])
	}
	for name, status := range map[string]int{"SECRETS_MANAGER_APIKEY": 403, "READER_APIKEY": 200, "ADMIN_APIKEY": 200} {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, env["SECRETS_MANAGER_URL"]+"/api/v2/secrets/"+env["TOKEN_SECRET"], nil)
		r.Header.Set("Authorization", "Bearer "+exchange(t, http.DefaultClient, env, name))
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("%s reads the token secret: got %d, want %d", name, response.StatusCode, status)
		}
	}
	if code := s.stop(); code != serving.ExitOK {
		t.Errorf("stopped: got exit code %d, want 0", code)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(env["IAM_URL"], "http://")); err == nil {
		t.Error("stopped: it still listens")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 1 {
		t.Errorf("left behind: got %v, want the environment file only", left)
	}
}

func TestHTTPS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "tls")
	file := filepath.Join(t.TempDir(), "env")
	startSandbox(t, "-tls-dir", dir, "-token-ttl", "15m", "-env", file)
	env := readEnvFile(t, file)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, rest := pem.Decode(ca); block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		t.Errorf("ca.pem: want one certificate and no key")
	}
	if info, _ := os.Stat(filepath.Join(dir, "ca.pem")); info.Mode() != 0o644 {
		t.Errorf("ca.pem: got mode %s, want 0644", info.Mode())
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files in -tls-dir, want ca.pem only", len(files))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	u, _ := url.Parse(env["IAM_URL"])
	if u.Scheme != "https" {
		t.Errorf("IAM_URL: got %s, want https", env["IAM_URL"])
	}
	for _, name := range []string{"127.0.0.1", "::1", "localhost"} {
		conn, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		conn.Close()
	}
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer trusting.CloseIdleConnections()
	exchange(t, trusting, env, "READER_APIKEY")
}

// A sandbox is one that run serves.
type sandbox struct {
	stdout *io.PipeReader
	stop   func() int // ends it and returns the exit code
}

// startSandbox starts run and waits until it says that it serves.
func startSandbox(t *testing.T, args ...string) sandbox {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	outReader, stdout := io.Pipe()
	errReader, stderr := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), stdout, stderr)
		stdout.Close()
		stderr.Close()
	}()
	stop := func() int {
		cancel()
		code := <-exit
		exit <- code // stopping twice is harmless
		return code
	}
	t.Cleanup(func() {
		outReader.Close()
		stop()
	})
	serving := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(errReader).ReadString('\n')
		serving <- line
		_, _ = io.Copy(io.Discard, errReader)
	}()
	s := sandbox{outReader, stop}
	if len(args) == 0 || args[len(args)-1] != "-" {
		if line := <-serving; !strings.Contains(line, "serving IBM Cloud on http") {
			t.Fatalf("stderr: got %q, want the address", line)
		}
	}
	return s
}

// readEnv parses NAME='value' lines.
func readEnv(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	variables := map[string]string{}
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		name, value, _ := strings.Cut(scanner.Text(), "=")
		if len(value) < 2 || value[0] != '\'' || value[len(value)-1] != '\'' {
			t.Fatalf("line for %s is not NAME='value'", name)
		}
		variables[name] = value[1 : len(value)-1]
	}
	return variables
}

func readEnvFile(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if info, _ := file.Stat(); info.Mode() != 0o600 {
		t.Errorf("%s: got mode %s, want 0600", filepath.Base(path), info.Mode())
	}
	return readEnv(t, file)
}

// exchange gets a token for the key in variable name.
func exchange(t *testing.T, client *http.Client, env map[string]string, name string) string {
	t.Helper()
	response, err := client.PostForm(env["IAM_URL"]+"/identity/token",
		url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {env[name]}})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct {
		Token     string `json:"access_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Token == "" {
		t.Fatalf("%s: got %s, want a token", name, response.Status)
	}
	if body.ExpiresIn != 900 {
		t.Errorf("%s: got a token of %d s, want 900", name, body.ExpiresIn)
	}
	return body.Token
}

func TestManyRotations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fleet.env")
	startSandbox(t, "-rotations", "3", "-env", file)
	env := readEnvFile(t, file)
	checkRotations(t, env, 3)
	if dir := filepath.Dir(env["ROTATIONS_FILE"]); dir != filepath.Dir(file) {
		t.Errorf("ROTATIONS_FILE is in %s, want beside the environment file", dir)
	}
}

func TestEnvironmentOnStdout(t *testing.T) {
	s := startSandbox(t, "-rotations", "2", "-env", "-")
	out := bufio.NewReader(s.stdout)
	var text bytes.Buffer
	for !strings.Contains(text.String(), "ROTATIONS_FILE") {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(line)
	}
	env := readEnv(t, &text)
	checkRotations(t, env, 2)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if code := s.stop(); code != serving.ExitOK {
		t.Errorf("got exit code %d, want 0", code)
	}
	if _, err := os.Stat(env["ROTATIONS_FILE"]); !os.IsNotExist(err) {
		t.Errorf("the temporary ROTATIONS_FILE outlived the sandbox: %v", err)
	}
}

func checkRotations(t *testing.T, env map[string]string, want int) {
	t.Helper()
	if env["API_KEY_SECRET"] != "" || env["TOKEN_SECRET"] != "" {
		t.Error("got ids beside ROTATIONS_FILE, want none")
	}
	raw, err := os.ReadFile(env["ROTATIONS_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(env["ROTATIONS_FILE"]); info.Mode() != 0o600 {
		t.Errorf("ROTATIONS_FILE: got mode %s, want 0600", info.Mode())
	}
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

// TestEveryAddress: one that listens on all of this machine's is used here on loopback, and says that it
// is not alone with its user.
func TestEveryAddress(t *testing.T) {
	for _, test := range []struct {
		addr string
		told bool
	}{{"0.0.0.0:0", true}, {":0", true}, {"127.0.0.1:0", false}} {
		file := filepath.Join(t.TempDir(), "env")
		said := serveOn(t, test.addr, file)
		env := readEnvFile(t, file)
		host, port, err := net.SplitHostPort(strings.TrimPrefix(env["IAM_URL"], "http://"))
		if err != nil || host != "127.0.0.1" {
			t.Errorf("%s: got IAM_URL %s, %v; want it on 127.0.0.1", test.addr, env["IAM_URL"], err)
		}
		want := fmt.Sprintf("sandbox: serving IBM Cloud on %s", env["IAM_URL"])
		if test.told {
			want += ", and to everybody who reaches this machine, on port " + port
		}
		if said != want+"\n" {
			t.Errorf("%s: got %q, want %q", test.addr, said, want)
		}
		response, err := http.Get(env["IAM_URL"] + "/identity/keys")
		if err != nil {
			t.Errorf("%s: %v", test.addr, err)
			continue
		}
		response.Body.Close()
	}
}

// serveOn runs a sandbox until the test ends and returns its first line.
func serveOn(t *testing.T, addr, file string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	errReader, stderr := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx, []string{"-addr", addr, "-env", file}, io.Discard, stderr)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	line, err := bufio.NewReader(errReader).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, errReader) }()
	return line
}

// runsAsSandbox makes the test binary be the sandbox.
const runsAsSandbox = "TEST_RUNS_AS_SANDBOX"

func TestMain(m *testing.M) {
	if os.Getenv(runsAsSandbox) != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestSIGTERM ends a sandbox that is holding an answer back for an hour.
func TestSIGTERM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	process := exec.CommandContext(t.Context(), os.Args[0], "-addr", "127.0.0.1:0", "-env", file)
	process.Env = append(os.Environ(), runsAsSandbox+"=1")
	stderr, err := process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 128)
	n, _ := stderr.Read(line)
	if !strings.HasPrefix(string(line[:n]), "sandbox: serving IBM Cloud on http://127.0.0.1:") {
		t.Fatalf("got %q, want the address", line[:n])
	}
	env := readEnvFile(t, file)
	faults := env["IAM_URL"] + "/_sandbox/faults"
	response, err := http.Post(faults, "application/json", strings.NewReader(`{"op":"iam.keys","times":1,"delay":"1h"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if response, err := http.Get(env["IAM_URL"] + "/identity/keys"); err == nil {
			response.Body.Close()
			t.Errorf("delayed request: got %d, want no answer", response.StatusCode)
		}
	}()
	for get(t, faults) != "[]" { // until the fault is taken: the request has arrived
	}
	began := time.Now()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("got %v, want exit code 0", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to end", took)
	}
	<-answered
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args string
		says string
	}{
		{"stray", "unexpected argument"},
		{"-rotations 0", "-rotations"},
		{"-rotations -1", "-rotations"},
		{"-rotations many", "rotations"},
		{"-token-ttl 0", "-token-ttl"},
		{"-token-ttl -1h", "-token-ttl"},
		{"-token-ttl 61m", "-token-ttl"},
		{"-token-ttl 1500ms", "-token-ttl"},
		{"-token-ttl soon", "token-ttl"},
		{"-addr nowhere", "-addr must be host:port"},
		{"-addr 127.0.0.1:99999", "-addr must have a port from 0 to 65535"},
		{"-addr 127.0.0.1:-1", "-addr must have a port from 0 to 65535"},
		{"-addr 192.0.2.1:8480", "-addr must be on loopback"},
		{"-env=", "-env"},
		{"-tls-dir=", "-tls-dir"},
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

func TestFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	missing := filepath.Join(t.TempDir(), "missing", "env")
	for name, args := range map[string][]string{
		"port taken":         {"-addr", taken.Addr().String()},
		"env in no folder":   {"-addr", "127.0.0.1:0", "-env", missing},
		"fleet in no folder": {"-addr", "127.0.0.1:0", "-rotations", "2", "-env", missing},
		"tls-dir is a file":  {"-addr", "127.0.0.1:0", "-tls-dir", os.Args[0]},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, io.Discard, &stderr); code != serving.ExitError || !strings.HasPrefix(stderr.String(), "sandbox: ") {
			t.Errorf("%s: got exit code %d, %q; want 1 and a message", name, code, stderr.String())
		}
	}
}
