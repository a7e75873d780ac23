package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
)

// The tests in this file drive the built binary as AWS does, through
// scripts/invoke, against the built sandbox over HTTPS.

// built is set once builtPrograms has been called: few tests need them.
var built atomic.Bool

// builtPrograms builds iam-token-rotator, invoke and sandbox once and returns their folder.
var builtPrograms = sync.OnceValues(func() (string, error) {
	built.Store(true)
	folder, err := os.MkdirTemp("", "rotate-e2e-")
	if err != nil {
		return "", err
	}
	return folder, programs.Build(folder, map[string]string{
		"iam-token-rotator": "functions/rotate", "invoke": "scripts/invoke", "sandbox": "scripts/sandbox",
	})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built.Load() {
		folder, _ := builtPrograms()
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

// stage is a running sandbox and the environment for programs that use it.
type stage struct {
	t   *testing.T
	bin string
	dir string
	env map[string]string

	workloadKey string // of the one rotation; empty when there are several
}

// newStage starts the sandbox with args; it ends with the test.
func newStage(t *testing.T, args ...string) *stage {
	t.Helper()
	bin, err := builtPrograms()
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, bin: bin, dir: t.TempDir()}
	file := filepath.Join(s.dir, "sandbox.env")
	sandbox := exec.Command(filepath.Join(bin, "sandbox"), append([]string{"-addr", "127.0.0.1:0", "-tls-dir", s.dir, "-env", file}, args...)...)
	sandbox.Stderr = os.Stderr
	if err := sandbox.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sandbox.Process.Signal(os.Interrupt)
		_ = sandbox.Wait()
	})
	if s.env, err = envfile.Await(t.Context(), file, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	s.env["SSL_CERT_FILE"] = filepath.Join(s.dir, "ca.pem")
	if id := s.env["API_KEY_SECRET"]; id != "" {
		s.workloadKey = s.readSecret(id, s.env["ADMIN_APIKEY"])
	}
	return s
}

// run runs a program with the stage's environment and more, and returns its exit
// code. Whatever it prints is searched for keys and tokens.
func (s *stage) run(more map[string]string, program string, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, set := range []map[string]string{s.env, more} {
		for name, value := range set {
			if !strings.HasPrefix(name, "READER") && !strings.HasPrefix(name, "ADMIN") {
				env = append(env, name+"="+value)
			}
		}
	}
	got := programs.Run(s.t, programs.Command{Env: env, Name: filepath.Join(s.bin, program), Args: args})
	for _, secret := range s.secrets() {
		if strings.Contains(got.All(), secret) {
			s.t.Errorf("%s printed a key or token", program)
		}
	}
	return got.Stdout, got.Stderr, got.Exit
}

// secrets are pieces of the bootstrap's and the workload's keys, and what every
// token begins with.
func (s *stage) secrets() []string {
	pieces := []string{"eyJ"}
	for _, key := range []string{s.env["SECRETS_MANAGER_APIKEY"], s.workloadKey} {
		if len(key) > 36 {
			pieces = append(pieces, key[:12], key[12:24], key[24:36])
		}
	}
	return pieces
}

// invoke delivers the events of invoke's arguments to the function.
func (s *stage) invoke(more map[string]string, args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	return s.run(more, "invoke", append(args, "--", filepath.Join(s.bin, "iam-token-rotator"))...)
}

// event writes an event file.
func (s *stage) event(content string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, "event.json")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// reports are the lines of stdout.
func reports(t *testing.T, stdout string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(stdout) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("not JSON: %s", line)
		}
		all = append(all, fields)
	}
	return all
}

// firstResult is the first result of a report.
func firstResult(t *testing.T, report map[string]any) map[string]any {
	t.Helper()
	results, _ := report["results"].([]any)
	if len(results) == 0 {
		t.Fatalf("got no results: %v", report)
	}
	result, _ := results[0].(map[string]any)
	return result
}

func TestTheBuiltFunctionRotatesATokenThatAJobCanUse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	stdout, stderr, exit := s.invoke(nil, "-event", "event.json", "-n", "2")
	answers := reports(t, stdout)
	if exit != 0 || len(answers) != 2 {
		t.Fatalf("got exit %d, %d answers\n%s%s", exit, len(answers), stdout, stderr)
	}
	first, second := firstResult(t, answers[0]), firstResult(t, answers[1])
	if first["outcome"] != "rotated" || second["outcome"] != "rotated" || first["fingerprint"] == second["fingerprint"] {
		t.Errorf("got %v and %v, want two rotations with different tokens", first, second)
	}
	if strings.Count(stderr, `"msg":"report"`) != 2 || strings.Count(stderr, `"_aws":`) != 2 {
		t.Errorf("got log %s, want a report and metrics for each", stderr)
	}
	token := s.readAs(s.env["READER_APIKEY"])
	if status := s.get("/v3/targets", token, nil); status != 200 {
		t.Errorf("Logs Routing answered %d, want 200", status)
	}
}

func TestTheBuiltFunctionFailsLoudlyAndKeepsTheGoodToken(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	if _, stderr, exit := s.invoke(nil); exit != 0 {
		t.Fatal(stderr)
	}
	good := s.readAs(s.env["READER_APIKEY"])
	for name, test := range map[string]struct{ fault, says string }{
		"empty 200":   {`{"op":"iam.token","identity":"workload","status":200}`, "check: invalid_token"},
		"unreachable": {`{"op":"versions.metadata","drop":"before"}`, "look: unavailable"},
		"slow":        {`{"op":"versions.create","delay":"1m"}`, "save: timeout"},
		"forbidden":   {`{"op":"secrets.get","status":403}`, "read_key: denied"},
		"echo": {`{"op":"iam.token","identity":"workload","status":400,"body":"{\"errorCode\":\"BXNIM0415E\",\"errorMessage\":\"` + s.env["SECRETS_MANAGER_APIKEY"] + `\"}"}`,
			"exchange: denied"},
	} {
		t.Run(name, func(t *testing.T) {
			s.control(http.MethodPost, "faults", test.fault)
			defer s.control(http.MethodDelete, "faults", "")
			stdout, stderr, exit := s.invoke(map[string]string{"LOG_LEVEL": "debug"}, "-timeout", "3s")
			answers := reports(t, stdout)
			if exit != 1 || len(answers) != 1 {
				t.Fatalf("got exit %d, %s%s", exit, stdout, stderr)
			}
			if message, _ := answers[0]["errorMessage"].(string); answers[0]["errorType"] != "RotationError" || !strings.Contains(message, "default: "+test.says) {
				t.Errorf("got %v, want a RotationError that says %s", answers[0], test.says)
			}
			if !strings.Contains(stderr, `"msg":"report"`) || !strings.Contains(stderr, `"Failure":1`) {
				t.Errorf("got log %s, want the report and a metric", stderr)
			}
		})
	}
	if s.readAs(s.env["READER_APIKEY"]) != good {
		t.Error("a failed run has changed the stored token")
	}
}

func TestTheBuiltFunctionTellsWhatIsMisconfigured(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for name, test := range map[string]struct {
		more  map[string]string
		event string
		says  string
	}{
		"http":          {map[string]string{"IAM_URL": "http://iam.cloud.ibm.com"}, "{}", "IAM_URL: must begin with https://"},
		"unknown CA":    {map[string]string{"SSL_CERT_FILE": "/dev/null"}, "{}", "not trusted"},
		"private host":  {map[string]string{"SECRETS_MANAGER_URL": "https://instance.private.invalid"}, "{}", "is a private endpoint"},
		"unknown name":  {nil, `{"rotations":["other"]}`, `no rotation is called`},
		"unknown field": {nil, `{"token_secret":"x"}`, "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, _, exit := s.invoke(test.more, "-event", s.event(test.event), "-timeout", "4s")
			answer := reports(t, stdout)[0]
			if message, _ := answer["errorMessage"].(string); exit != 1 || answer["errorType"] != "RotationError" || !strings.Contains(message, test.says) {
				t.Errorf("got exit %d, %v; want a RotationError that says %s", exit, answer, test.says)
			}
		})
	}
}

func TestTheBuiltCommandServesManyRotations(t *testing.T) {
	t.Parallel()
	s := newStage(t, "-rotations", "30")
	stdout, stderr, exit := s.run(map[string]string{"SECRETS_MANAGER_MAX_RPS": "0"}, "iam-token-rotator", "-json", "-mode", "ensure")
	if exit != 0 {
		t.Fatalf("got exit %d: %s", exit, stderr)
	}
	results, _ := reports(t, stdout)[0]["results"].([]any)
	if len(results) != 30 || strings.Count(stdout, `"outcome":"rotated"`) != 30 {
		t.Errorf("got %s, want 30 rotations", stdout)
	}
	stdout, _, _ = s.run(nil, "iam-token-rotator", "-mode", "ensure", "-rotation", "rotation-00007")
	if !strings.HasPrefix(stdout, "rotation-00007: fresh") {
		t.Errorf("got %s, want rotation-00007: fresh", stdout)
	}
}

func TestTheBuiltCommandWithATrustedProfileOrAPersonsToken(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	admin := s.tokenFor(s.env["ADMIN_APIKEY"])
	file := s.event("compute-resource-token")
	for name, more := range map[string]map[string]string{
		"profile": {"SECRETS_MANAGER_APIKEY": "", "IAM_PROFILE_NAME": "rotator-bootstrap", "CR_TOKEN_FILENAME": file},
		"person":  {"SECRETS_MANAGER_APIKEY": "", "IAM_TOKEN": "Bearer " + admin},
	} {
		if stdout, stderr, exit := s.run(more, "iam-token-rotator"); exit != 0 || !strings.HasPrefix(stdout, "default: rotated") {
			t.Errorf("%s: got exit %d, %s%s", name, exit, stdout, stderr)
		}
	}
}

// control calls the sandbox's control interface.
func (s *stage) control(method, path, body string) {
	s.t.Helper()
	request, err := http.NewRequest(method, s.env["IAM_URL"]+"/_sandbox/"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := s.client().Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode > 299 {
		s.t.Fatalf("%s %s: the sandbox answered %s", method, path, response.Status)
	}
}

func (s *stage) client() *http.Client {
	s.t.Helper()
	ca, err := os.ReadFile(s.env["SSL_CERT_FILE"])
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// tokenFor exchanges an API key, as a job does.
func (s *stage) tokenFor(key string) string {
	s.t.Helper()
	response, err := s.client().PostForm(s.env["IAM_URL"]+"/identity/token", url.Values{
		"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var body struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.AccessToken == "" {
		s.t.Fatalf("no token: %s, %v", response.Status, err)
	}
	return body.AccessToken
}

// readAs reads the token secret with the identity of key.
func (s *stage) readAs(key string) string {
	s.t.Helper()
	return s.readSecret(s.env["TOKEN_SECRET"], key)
}

// readSecret reads an arbitrary secret with the identity of key.
func (s *stage) readSecret(id, key string) string {
	s.t.Helper()
	var secret struct {
		Payload string `json:"payload"`
	}
	if status := s.get("/api/v2/secrets/"+id, s.tokenFor(key), &secret); status != 200 {
		s.t.Fatalf("reading the secret %s: %d", id, status)
	}
	return secret.Payload
}

func (s *stage) get(path, token string, into any) int {
	s.t.Helper()
	request, err := http.NewRequest(http.MethodGet, s.env["SECRETS_MANAGER_URL"]+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := s.client().Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if into != nil {
		var body bytes.Buffer
		if _, err := body.ReadFrom(response.Body); err != nil || json.Unmarshal(body.Bytes(), into) != nil {
			s.t.Fatalf("%s answered %s: not JSON", path, response.Status)
		}
	}
	return response.StatusCode
}

func TestTheBuiltDoctorBeforeAndAfterTheFirstToken(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	stdout, stderr, exit := s.run(nil, "iam-token-rotator", "doctor")
	if exit != 0 || stderr != "" || !strings.Contains(stdout, "✓ iam-tls               TLS 1.3") || !strings.Contains(stdout, "! stored-token") {
		t.Fatalf("got exit %d, %s%s", exit, stdout, stderr)
	}
	for _, op := range s.requested() {
		if op == "versions.create" || strings.HasSuffix(op, ".patch") || strings.HasSuffix(op, ".delete") {
			t.Errorf("doctor asked for %s", op)
		}
	}
	if _, stderr, exit := s.run(nil, "iam-token-rotator"); exit != 0 {
		t.Fatal(stderr)
	}
	stdout, _, exit = s.run(nil, "iam-token-rotator", "doctor")
	if exit != 0 || !strings.HasSuffix(stdout, "nothing is wrong that can be seen without writing\n") || strings.ContainsAny(stdout, "✗!") {
		t.Errorf("got exit %d, %s", exit, stdout)
	}
}

func TestTheBuiltDoctorTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	echo := `"body":"{\"errorCode\":\"` + s.env["SECRETS_MANAGER_APIKEY"] + `\"}"`
	for name, test := range map[string]struct {
		more  map[string]string
		fault string
		exit  int
		says  string
	}{
		"unknown CA":   {map[string]string{"SSL_CERT_FILE": "/dev/null"}, "", 1, "✗ iam-tls"},
		"private host": {map[string]string{"SECRETS_MANAGER_URL": "https://instance.private.invalid"}, "", 1, "is a private endpoint"},
		"unknown key":  {map[string]string{"SECRETS_MANAGER_APIKEY": "unknown"}, "", 1, "✗ bootstrap-identity    denied"},
		"no permission": {nil, `{"op":"secrets.get","status":403,` + echo + `}`, 1,
			"→ give the bootstrap identity a role with secret.read"},
		"key refused":   {nil, `{"op":"iam.token","identity":"workload","status":400,` + echo + `}`, 1, "✗ key-identity          denied"},
		"outage":        {nil, `{"op":"*","status":503,` + echo + `}`, 1, "✗ bootstrap-identity    unavailable"},
		"slow":          {nil, `{"op":"versions.metadata","delay":"1m"}`, 1, "✗ stored-token          timeout"},
		"dropped":       {nil, `{"op":"locks","drop":"before"}`, 1, "✗ token-locks           unavailable"},
		"configuration": {map[string]string{"TOKEN_SECRET": "group/name"}, "", 2, "✗ configuration         TOKEN_SECRET: is no secret id"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.fault != "" {
				s.control(http.MethodPost, "faults", test.fault)
				defer s.control(http.MethodDelete, "faults", "")
			}
			stdout, stderr, exit := s.run(test.more, "iam-token-rotator", "doctor", "-timeout", "4s")
			if exit != test.exit || !strings.Contains(stdout, test.says) {
				t.Errorf("got exit %d, %s%s\nwant %d, %q", exit, stdout, stderr, test.exit, test.says)
			}
		})
	}
	if slices.Contains(s.requested(), "versions.create") {
		t.Error("doctor has saved a version")
	}
}

func TestTheBuiltFunctionAnswersTheDoctorEvent(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	stdout, stderr, exit := s.invoke(map[string]string{"SECRETS_MANAGER_APIKEY": "unknown"}, "-event", s.event(`{"mode":"doctor"}`))
	answers := reports(t, stdout)
	if exit != 0 || len(answers) != 1 || answers[0]["ok"] != false || !strings.Contains(stdout, `"check":"bootstrap-identity","status":"failed"`) {
		t.Errorf("got exit %d, %s%s; want the diagnosis, and no failed invocation", exit, stdout, stderr)
	}
	if strings.Contains(stderr, `"_aws":`) {
		t.Errorf("got %s, want no metric", stderr)
	}
}

// The function's copy in AWS bears the version's id; without it the invocation
// fails, but not the token at IBM.
func TestTheFunctionCopiesTheTokenToAWS(t *testing.T) {
	s := newStage(t)
	moto := awstest.Start(t)
	more := awstest.Environment(moto.URL())
	delete(more, "AWS_REGION") // the ARN's counts
	arn, _ := moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": "iam-token", "ClientRequestToken": "11111111-2919-432f-9883-d5040bfcd326"})["ARN"].(string)
	mirrorTo := func(arn string) map[string]string {
		more["API_KEY_SECRET"], more["TOKEN_SECRET"] = "", ""
		more["ROTATIONS"] = fmt.Sprintf(`[{"name":"logs","api_key_secret":%q,"token_secret":%q,"mirror":[%q]}]`, s.env["API_KEY_SECRET"], s.env["TOKEN_SECRET"], arn)
		return more
	}
	stdout, stderr, exit := s.invoke(mirrorTo(arn))
	if exit != 0 {
		t.Fatalf("got exit %d: %s%s", exit, stdout, stderr)
	}
	result := firstResult(t, reports(t, stdout)[0])
	value := moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": arn})
	if value["VersionId"] != result["version_id"] || !strings.HasPrefix(value["SecretString"].(string), "eyJ") {
		t.Errorf("got the copy %v, want version %v", value["VersionId"], result["version_id"])
	}
	if stdout, _, exit := s.invoke(mirrorTo(arn), "-event", s.event(`{"mode":"ensure"}`)); exit != 0 || !strings.Contains(stdout, `"fresh"`) {
		t.Errorf("ensure: got exit %d and %s, want fresh", exit, stdout)
	}
	stdout, stderr, exit = s.invoke(mirrorTo(strings.Replace(arn, "iam-token", "no-such-token", 1)))
	if exit != 1 || !strings.Contains(stdout, "mirror: not_found") {
		t.Errorf("no such secret: got exit %d and %s, want a failure of the step mirror", exit, stdout)
	}
	if !strings.Contains(stderr, `"Failure":1`) {
		t.Error("the metrics do not tell of the failure")
	}
}

// What a pass costs is round trips; their number follows from the connections
// and the requests.
func TestTheBuiltFunctionMakesNoMoreRequestsAndConnectionsThanItMust(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	sandbox, err := url.Parse(s.env["IAM_URL"])
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]*ibmcloudtest.SlowProxy{"IAM_URL": nil, "SECRETS_MANAGER_URL": nil}
	behind := map[string]string{}
	for name := range hosts {
		proxy, err := ibmcloudtest.NewSlowProxy(sandbox.Host, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = proxy.Close() }()
		hosts[name], behind[name] = proxy, "https://"+proxy.Addr()
	}
	if _, stderr, exit := s.invoke(behind, "-n", "3"); exit != 0 {
		t.Fatal(stderr)
	}
	if got := hosts["IAM_URL"].Connections(); got != 1 {
		t.Errorf("got %d connections to IAM for three passes, want 1", got)
	}
	// The reads of metadata and key set out together; net/http may dial for each before it
	// learns that the first connection serves both.
	if got := hosts["SECRETS_MANAGER_URL"].Connections(); got > 2 {
		t.Errorf("got %d connections to Secrets Manager for three passes, want at most 2", got)
	}
	pass := []string{"iam.token", "secrets.get", "versions.create", "versions.metadata"}
	want := slices.Concat([]string{"iam.token", "iam.keys"}, pass, pass, pass) // for the bootstrap identity, and to verify tokens
	slices.Sort(want)
	if got := s.requested(); !slices.Equal(got, want) {
		t.Errorf("got requests %v, want %v", got, want)
	}
}

// requested are the operations asked of the sandbox, sorted.
func (s *stage) requested() []string {
	s.t.Helper()
	response, err := s.client().Get(s.env["IAM_URL"] + "/_sandbox/requests")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var requests []struct{ Op, Identity string }
	if err := json.NewDecoder(response.Body).Decode(&requests); err != nil || response.StatusCode != http.StatusOK {
		s.t.Fatalf("reading the request log: %s, %v", response.Status, err)
	}
	var ops []string
	for _, request := range requests {
		if request.Identity != "admin" { // that is the test itself
			ops = append(ops, request.Op)
		}
	}
	slices.Sort(ops)
	return ops
}

// net/http logs what a server says unasked, and HTTP/2's debug switch logs every
// header and body. Both repeat keys and tokens, whatever our log level.
func TestTheBuiltFunctionWithholdsWhatLibrariesLog(t *testing.T) {
	t.Parallel()
	s := newStage(t) // s.run searches all output for keys and tokens
	for _, host := range []string{"invoke", "iam-token-rotator"} {
		args := []string{}
		if host == "invoke" {
			args = []string{"--", s.bin + "/iam-token-rotator"}
		}
		if _, stderr, exit := s.run(map[string]string{"GODEBUG": "http2debug=2"}, host, args...); exit != 0 {
			t.Errorf("%s: got exit %d: %s", host, exit, stderr)
		}
	}
	echo := echoing(t)
	_, stderr, exit := s.run(map[string]string{"IAM_URL": echo, "SECRETS_MANAGER_URL": echo}, "iam-token-rotator", "-timeout", "2s")
	if exit != 1 || strings.Contains(stderr, "Unsolicited") {
		t.Errorf("got exit %d: %s", exit, stderr)
	}
}

// echoing serves HTTP/1.1: after each answer it repeats, unasked, the headers and
// the body of the request.
func echoing(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(conn)
		}
	}()
	return "http://" + listener.Addr().String()
}

func echo(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	sent, _ := io.ReadAll(request.Body)
	answer := `{"errors":[]}`
	status := 503
	if request.URL.Path == "/identity/token" {
		status = 200
		answer = fmt.Sprintf(`{"access_token":"eyJhbGciOiJub25lIn0.e30.","token_type":"Bearer","expires_in":3600,"expiration":%d}`, time.Now().Add(time.Hour).Unix())
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(answer), answer)
	// The client must have put the connection back before it reads this.
	time.Sleep(50 * time.Millisecond)
	_, _ = fmt.Fprintf(conn, "debug %s %s\r\n", request.Header.Get("Authorization"), sent)
	_, _ = io.Copy(io.Discard, conn)
}
