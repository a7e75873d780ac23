package ibm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// A setUp is one cloud, what Terraform would have printed for it, and the surroundings of the script.
type setUp struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	origin  string
	admin   string // the person's token
	shell   string
	folder  string            // holds the programs below and everything that they write
	outputs map[string]string // of Terraform
	env     map[string]string // over the defaults of run
}

// A run is one run of the script.
type run struct {
	stdout, stderr string
	status         int
	values         map[string]string // the NAME=value lines
}

// eachShell runs a test under both shells that /bin/sh commonly is, inDash under the stricter one.
func eachShell(t *testing.T, test func(t *testing.T, s *setUp)) {
	t.Helper()
	for _, shell := range []string{"dash", "bash"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			test(t, newSetUp(t, shell, ibmcloudtest.Options{KeyPropagation: -1}))
		})
	}
}

func inDash(t *testing.T, test func(t *testing.T, s *setUp)) {
	t.Helper()
	t.Parallel()
	test(t, newSetUp(t, "dash", ibmcloudtest.Options{KeyPropagation: -1}))
}

// newSetUp needs curl, jq and the shell: CI must have them.
func newSetUp(t *testing.T, shell string, options ibmcloudtest.Options) *setUp {
	t.Helper()
	cloud := ibmcloudtest.New(options)
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	s := &setUp{t: t, cloud: cloud, origin: server.URL, folder: t.TempDir(), env: map[string]string{}}
	s.admin, s.shell = s.token(cloud.AdminAPIKey()), programs.Path(t, shell)
	s.outputs = map[string]string{
		"secrets_manager_url": server.URL, "account_id": cloud.AccountID(),
		"key_group_id": cloud.KeyGroupID(), "token_group_id": cloud.TokenGroupID(),
		"bootstrap_iam_id": cloud.BootstrapIAMID(), "workload_iam_id": cloud.Rotations()[0].IAMID,
		"reader_iam_id": cloud.ReaderIAMID(), "iam_profile_id": "",
	}
	for _, name := range []string{"bin", "tmp"} {
		if err := os.Mkdir(s.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"curl", "jq"} { // each writes its arguments down
		s.script("bin/"+name, `printf '%s\n' "$@" >>'`+s.path("arguments")+`'; exec '`+programs.Path(t, name)+`' "$@"`)
	}
	s.script("put-bootstrap-key", `name=iam-token-rotator/bootstrap; [ $# -eq 0 ] || { [ "$1" = --name ] && name=$2; } || exit 2
cat >'`+s.path("stored-in-aws")+`' && echo "arn:aws:secretsmanager:eu-central-1:123456789012:secret:$name-a1b2c3"`)
	return s
}

func (s *setUp) path(name string) string { return filepath.Join(s.folder, name) }

func (s *setUp) script(name, body string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

func (s *setUp) read(name string) string {
	s.t.Helper()
	raw, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(raw)
}

// checkPrivate sees to it that only its owner may read a file.
func (s *setUp) checkPrivate(name string) {
	s.t.Helper()
	info, err := os.Stat(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		s.t.Errorf("%s: got mode %o, want 600", name, got)
	}
}

// terraform is what `terraform output -json` prints.
func (s *setUp) terraform() io.Reader {
	s.t.Helper()
	outputs := map[string]map[string]any{}
	for name, value := range s.outputs {
		outputs[name] = map[string]any{"sensitive": false, "type": "string", "value": value}
	}
	raw, err := json.Marshal(outputs)
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes.NewReader(raw)
}

// command is the script with Terraform's outputs on its standard input, as the admin.
func (s *setUp) command(arguments ...string) *exec.Cmd {
	env := map[string]string{
		"PATH": s.path("bin") + ":" + os.Getenv("PATH"), "TMPDIR": s.path("tmp"), "HOME": s.folder,
		"IAM_URL": s.origin, "IAM_TOKEN": "Bearer " + s.admin,
		"PUT_BOOTSTRAP_KEY": s.path("put-bootstrap-key"), "CURL_RETRIES": "0",
	}
	for name, value := range s.env {
		env[name] = value
	}
	command := exec.Command(s.shell, append([]string{"../../scripts/set-up-secrets", "--terraform", "-"}, arguments...)...)
	for name, value := range env {
		command.Env = append(command.Env, name+"="+value)
	}
	command.Stdin = s.terraform()
	return command
}

// run runs the script and sees to it that nothing secret came out or stayed behind.
func (s *setUp) run(arguments ...string) run {
	s.t.Helper()
	return s.finish(s.command(arguments...))
}

// finish runs a command; meanwhile is called when it has started.
func (s *setUp) finish(command *exec.Cmd, meanwhile ...func(*os.Process)) run {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Start(); err != nil {
		s.t.Fatalf("starting the script: %v", err)
	}
	for _, do := range meanwhile {
		do(command.Process)
	}
	err := command.Wait()
	r := run{stdout: stdout.String(), stderr: stderr.String(), status: command.ProcessState.ExitCode(), values: map[string]string{}}
	if err != nil && r.status < 0 {
		s.t.Fatalf("running the script: %v", err)
	}
	for line := range strings.Lines(r.stdout) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		r.values[name] = value
	}
	s.checkNothingLeaked(r)
	return r
}

// succeed is run, which must exit 0.
func (s *setUp) succeed(arguments ...string) run {
	s.t.Helper()
	r := s.run(arguments...)
	if r.status != 0 {
		s.t.Fatalf("set-up-secrets %s: got exit %d, want 0\n%s", strings.Join(arguments, " "), r.status, r.stderr)
	}
	return r
}

// fail is run, which must exit with a status, print nothing and say the words.
func (s *setUp) fail(status int, words string, arguments ...string) run {
	s.t.Helper()
	r := s.run(arguments...)
	if r.status != status || r.stdout != "" || !strings.Contains(r.stderr, words) {
		s.t.Fatalf("set-up-secrets %s: got exit %d, %q, %q; want exit %d and the words %q",
			strings.Join(arguments, " "), r.status, r.stdout, r.stderr, status, words)
	}
	return r
}

var (
	// secretShape is a token, or a run of characters as long as an API key.
	secretShape = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}|[A-Za-z0-9_-]{44,}`)
	publicID    = regexp.MustCompile(`^(iam-)?(ServiceId|Profile)-[0-9a-f-]{36}$`)
)

func (s *setUp) checkNothingLeaked(r run) {
	s.t.Helper()
	arguments, _ := os.ReadFile(s.path("arguments")) // none if nothing was asked
	for where, text := range map[string]string{"stdout": r.stdout, "stderr": r.stderr, "the arguments of curl and jq": string(arguments)} {
		for _, found := range secretShape.FindAllString(strings.ReplaceAll(text, s.folder, ""), -1) {
			if !publicID.MatchString(found) {
				s.t.Errorf("%s: a secret of %d characters", where, len(found))
			}
		}
	}
	left, err := os.ReadDir(s.path("tmp"))
	if err != nil || len(left) > 0 {
		s.t.Errorf("temporary files: got %v %v, want none", left, err)
	}
}

// token exchanges a key. It fails the test if IAM refuses.
func (s *setUp) token(key string) string {
	s.t.Helper()
	status, token := s.exchange(key)
	if status != http.StatusOK {
		s.t.Fatalf("exchanging a key: got %d, want 200", status)
	}
	return token
}

func (s *setUp) exchange(key string) (status int, token string) {
	s.t.Helper()
	response, err := http.PostForm(s.origin+"/identity/token", url.Values{
		"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {strings.TrimSpace(key)}})
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct {
		AccessToken string `json:"access_token"`
	}
	_ = json.NewDecoder(response.Body).Decode(&body)
	return response.StatusCode, body.AccessToken
}

// asAdmin sends a request with the admin's token and decodes the answer.
func (s *setUp) asAdmin(method, path, body string) map[string]any {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.origin+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.admin)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	_ = json.NewDecoder(response.Body).Decode(&answer)
	if response.StatusCode >= 300 {
		s.t.Fatalf("%s %s: got %d %v", method, path, response.StatusCode, answer)
	}
	return answer
}

// keys lists the script's keys of one service id: their ids by name.
func (s *setUp) keys(iamID string) map[string][]map[string]any {
	s.t.Helper()
	byName := map[string][]map[string]any{}
	listed, _ := s.asAdmin("GET", "/v1/apikeys?pagesize=100&iam_id="+iamID, "")["apikeys"].([]any)
	for _, item := range listed {
		key := item.(map[string]any)
		if name := fmt.Sprint(key["name"]); strings.HasPrefix(name, "iam-token-rotator-") {
			byName[name] = append(byName[name], key)
		}
	}
	return byName
}

// fault makes the next requests of an operation misbehave.
func (s *setUp) fault(f ibmcloudtest.Fault) {
	s.t.Helper()
	if err := s.cloud.AddFault(f); err != nil {
		s.t.Fatal(err)
	}
}

// writes lists the requests that changed something.
func (s *setUp) writes() []string {
	var list []string
	for _, request := range s.cloud.Requests() {
		if request.Method != http.MethodGet && request.Op != ibmcloudtest.OpIAMToken {
			list = append(list, request.Op)
		}
	}
	return list
}

// rotates runs the built rotator with what the script made: it must publish a token of the workload
// that the reader's key, if there is one, can read.
func (s *setUp) rotates(values map[string]string, bootstrap ...string) {
	s.t.Helper()
	command := exec.Command(rotator(s.t), "-mode", "rotate")
	command.Env = append([]string{"IAM_URL=" + s.origin, "SECRETS_MANAGER_URL=" + values["SECRETS_MANAGER_URL"],
		"API_KEY_SECRET=" + values["API_KEY_SECRET"], "TOKEN_SECRET=" + values["TOKEN_SECRET"]}, bootstrap...)
	if date := values["BOOTSTRAP_EXPIRES_AT"]; date != "" {
		command.Env = append(command.Env, "BOOTSTRAP_EXPIRES_AT="+date)
	}
	if out, err := command.CombinedOutput(); err != nil {
		s.t.Fatalf("the rotator, with what was made: %v\n%s", err, out)
	}
	current := s.cloud.MustCurrent(values["TOKEN_SECRET"])
	if got, want := current.Metadata["iam_id"], s.outputs["workload_iam_id"]; got != want {
		s.t.Errorf("the published token's identity: got %v, want the workload, %s", got, want)
	}
	if status, err := s.useToken(values["TOKEN_SECRET"]); status != http.StatusOK || err != nil {
		s.t.Errorf("Logs Routing, asked with the published token: got %d, %v; want 200", status, err)
	}
}

// useToken asks Logs Routing with the token that is published in a secret.
func (s *setUp) useToken(tokenSecret string) (status int, err error) {
	request, err := http.NewRequestWithContext(s.t.Context(), "GET", s.origin+"/v3/targets", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+s.cloud.MustCurrent(tokenSecret).Payload)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// waitFor polls until a condition holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}
