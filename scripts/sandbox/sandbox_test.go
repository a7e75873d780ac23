package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/scripts/envfile"
)

// runsAsSandbox is a variable that makes the test binary the sandbox.
const runsAsSandbox = "TEST_RUNS_AS_SANDBOX"

func TestMain(m *testing.M) {
	if os.Getenv(runsAsSandbox) != "" {
		main()
	}
	os.Exit(m.Run())
}

// running is a running sandbox, whose environment is in a file.
type running struct {
	t    *testing.T
	env  map[string]string
	file string
	stop func() (code int, stderr string) // may be called twice
	http *http.Client
}

// start runs a sandbox until it is stopped or the test ends. If file is empty, its environment is in a new file.
func start(t *testing.T, file string, args ...string) running {
	t.Helper()
	if file == "" {
		file = filepath.Join(t.TempDir(), "sandbox.env")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, append([]string{"-addr", "127.0.0.1:0", "-env", file}, args...), io.Discard, &stderr)
	}()
	stop := func() (int, string) {
		cancel()
		code := <-exit
		exit <- code
		return code, stderr.String()
	}
	t.Cleanup(func() { stop() })
	env, err := envfile.Await(t.Context(), file, time.Minute)
	if err != nil {
		_, said := stop()
		t.Fatal(err, said)
	}
	wantMode(t, file, 0o600)
	return running{t, env, file, stop, http.DefaultClient}
}

func wantMode(t *testing.T, file string, want os.FileMode) {
	t.Helper()
	if info, err := os.Stat(file); err != nil || info.Mode() != want {
		t.Errorf("%s: got %v, %v; want mode %s", filepath.Base(file), info, err, want)
	}
}

// ask sends a request, with headers by name and value, and returns the status and the body.
func (r running) ask(method, path, body string, header ...string) (int, string) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), method, r.env["IAM_URL"]+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := r.http.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(answer)
}

// token exchanges the API key in a variable.
func (r running) token(name string) (token string, lifetime int) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {r.env[name]}}.Encode()
	_, body := r.ask("POST", "/identity/token", form, "Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		Token     string `json:"access_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Token == "" {
		r.t.Fatalf("%s gives no token", name)
	}
	return answer.Token, answer.ExpiresIn
}

// wantNothingLeft stops the sandbox and checks that it leaves no file and no listener.
func (r running) wantNothingLeft(want string) {
	r.t.Helper()
	if code, stderr := r.stop(); code != 0 || stderr != want {
		r.t.Errorf("stopped: got exit code %d, %q; want 0 and %q", code, stderr, want)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(r.env["IAM_URL"], "http://")); err == nil {
		r.t.Error("stopped: it still listens")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(r.file), "*")); len(left) != 0 {
		r.t.Errorf("left behind: got %v, want nothing", left)
	}
}

func TestServesUntilStopped(t *testing.T) {
	r := start(t, "", "-token-ttl", "15m")
	for _, name := range strings.Fields(`SECRETS_MANAGER_URL IAM_URL LOGS_ROUTING_URL SECRETS_MANAGER_APIKEY READER_APIKEY ADMIN_APIKEY API_KEY_SECRET TOKEN_SECRET
		ACCOUNT_ID KEY_GROUP_ID TOKEN_GROUP_ID BOOTSTRAP_IAM_ID WORKLOAD_IAM_ID READER_IAM_ID MANAGED_API_KEY_SECRET MANAGED_BOOTSTRAP_KEY_SECRET`) {
		if r.env[name] == "" {
			t.Errorf("%s: got none", name)
		}
	}
	if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+$`).MatchString(r.env["SECRETS_MANAGER_URL"]) || len(r.env) != 16 {
		t.Errorf("got SECRETS_MANAGER_URL %q and %d variables, want an origin without a path and 16", r.env["SECRETS_MANAGER_URL"], len(r.env))
	}
	for name, want := range map[string]int{"SECRETS_MANAGER_APIKEY": 403, "READER_APIKEY": 200, "ADMIN_APIKEY": 200} {
		token, lifetime := r.token(name)
		if got, _ := r.ask("GET", "/api/v2/secrets/"+r.env["TOKEN_SECRET"], "", "Authorization", "Bearer "+token); got != want || lifetime != 900 {
			t.Errorf("%s reads the token secret: got %d with a token of %d s, want %d and 900 s", name, got, lifetime, want)
		}
	}
	r.wantNothingLeft("sandbox: serving IBM Cloud on " + r.env["IAM_URL"] + "\n")
}

// Of two sandboxes with the same environment file the later one does not start, and leaves the files of the first one.
func TestAnotherSandboxesEnvironment(t *testing.T) {
	first := start(t, "", "-rotations", "3")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"-addr", "127.0.0.1:0", "-rotations", "2", "-env", first.file}, &stdout, &stderr)
	if code != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "belongs to a sandbox that still runs") || strings.Contains(stderr.String(), "serving") {
		t.Errorf("the second one: got exit code %d and %q, want 1 and whose file it is", code, stderr.String())
	}
	checkRotations(t, first.env, 3)
	first.wantNothingLeft("sandbox: serving IBM Cloud on " + first.env["IAM_URL"] + "\n")
}

func TestHTTPS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "tls")
	r := start(t, "", "-tls-dir", dir)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if block, rest := pem.Decode(ca); err != nil || block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		t.Fatalf("ca.pem: %v; want one certificate and no key", err)
	}
	wantMode(t, filepath.Join(dir, "ca.pem"), 0o644)
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files in -tls-dir, want ca.pem only", len(files))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	address, _ := strings.CutPrefix(r.env["IAM_URL"], "https://")
	for _, name := range []string{"127.0.0.1", "::1", "localhost"} {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Fatalf("as %s: %v", name, err)
		}
		_ = conn.Close()
	}
	r.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer r.http.CloseIdleConnections()
	r.token("READER_APIKEY")
	for origin, want := range map[string]int{r.env["IAM_URL"]: 200, "http://" + address: 403} {
		if got, _ := r.ask("GET", "/_sandbox/requests", "", "Origin", origin); got != want {
			t.Errorf("the control interface, Origin %q: got %d, want %d", origin, got, want)
		}
	}
}

func TestManyRotations(t *testing.T) {
	r := start(t, "", "-rotations", "3")
	checkRotations(t, r.env, 3)
	if filepath.Dir(r.env["ROTATIONS_FILE"]) != filepath.Dir(r.file) || r.env["API_KEY_SECRET"]+r.env["TOKEN_SECRET"] != "" {
		t.Errorf("ROTATIONS_FILE is %s, want one next to the environment file, and no ids", r.env["ROTATIONS_FILE"])
	}
	r.wantNothingLeft("sandbox: serving IBM Cloud on " + r.env["IAM_URL"] + "\n")
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

// writer is an io.Writer that calls a function with the text.
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
		env, _ = envfile.Read(file)
		checkRotations(t, env, 2)
		stop() // once it is written
	})
	if code := run(ctx, []string{"-addr", "127.0.0.1:0", "-rotations", "2", "-env", "-"}, stdout, io.Discard); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	if _, err := os.Stat(env["ROTATIONS_FILE"]); !os.IsNotExist(err) {
		t.Errorf("the temporary ROTATIONS_FILE still exists: %v", err)
	}
}

// A sandbox that other machines can reach prints a warning, and programs on this machine use it on loopback.
func TestWhoReachesIt(t *testing.T) {
	r := start(t, "", "-addr", ":0")
	_, port, found := strings.Cut(r.env["IAM_URL"], "http://127.0.0.1:")
	if got, _ := r.ask("GET", "/_sandbox/faults", ""); !found || got != 200 {
		t.Errorf("got %s and %d, want an address of loopback and 200", r.env["IAM_URL"], got)
	}
	want := "sandbox: serving IBM Cloud on " + r.env["IAM_URL"] + ", and to everybody who reaches this machine, on port " + port + "\n"
	if _, said := r.stop(); said != want {
		t.Errorf("got %q, want %q", said, want)
	}
	for ip, want := range map[string]bool{"127.0.0.1": false, "127.0.0.2": false, "::1": false, "0.0.0.0": true, "::": true, "192.0.2.1": true, "2001:db8::1": true} {
		if got := others(&net.TCPAddr{IP: net.ParseIP(ip)}) != ""; got != want {
			t.Errorf("%s: warned %t, want %t", ip, got, want)
		}
	}
}

// SIGTERM ends a sandbox in which a fault delays an answer by an hour.
func TestSIGTERM(t *testing.T) {
	r := running{t: t, file: filepath.Join(t.TempDir(), "env"), http: http.DefaultClient}
	process := exec.CommandContext(t.Context(), os.Args[0], "-addr", "127.0.0.1:0", "-env", r.file)
	process.Env = append(os.Environ(), runsAsSandbox+"=1")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.env, err = envfile.Await(t.Context(), r.file, time.Minute); err != nil {
		t.Fatal(err)
	}
	r.ask("POST", "/_sandbox/faults", `{"op":"iam.keys","times":1,"delay":"1h"}`)
	answered := make(chan error)
	go func() {
		_, err := http.Get(r.env["IAM_URL"] + "/identity/keys")
		answered <- err
	}()
	for waiting := ""; waiting != "[]"; time.Sleep(time.Millisecond) { // until the fault is taken: the request has arrived
		_, waiting = r.ask("GET", "/_sandbox/faults", "")
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
