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
	"slices"
	"strings"
	"sync"
	"syscall"
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

var rotatorFolder string // empty until it is built

var buildRotator = sync.OnceValues(func() (string, error) {
	var err error
	if rotatorFolder, err = os.MkdirTemp("", "rotator-*"); err != nil {
		return "", err
	}
	return filepath.Join(rotatorFolder, "bootstrap"), programs.Build(rotatorFolder, map[string]string{"bootstrap": "functions/rotate"})
})

// rotator is the path of the rotator, built once.
func rotator(t *testing.T) string {
	t.Helper()
	path, err := buildRotator()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain(m *testing.M) {
	status := m.Run()
	_ = os.RemoveAll(rotatorFolder)
	os.Exit(status)
}

func TestFirstRunMakesWhatRotates(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		r := s.succeed("--reader-key-file", s.path("reader.key"))
		var names []string
		for line := range strings.Lines(r.stdout) {
			name, _, _ := strings.Cut(line, "=")
			names = append(names, name)
		}
		want := []string{"SECRETS_MANAGER_URL", "API_KEY_SECRET", "TOKEN_SECRET", "WORKLOAD_APIKEY_ID",
			"BOOTSTRAP_APIKEY_ID", "BOOTSTRAP_EXPIRES_AT", "BOOTSTRAP_SECRET_ARN", "READER_APIKEY_ID"}
		if !slices.Equal(names, want) {
			t.Errorf("names: got %q, want %q", names, want)
		}
		if got, want := r.values["BOOTSTRAP_SECRET_ARN"], "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-rotator/bootstrap-a1b2c3"; got != want {
			t.Errorf("BOOTSTRAP_SECRET_ARN: got %s, want %s", got, want)
		}

		token := s.cloud.MustCurrent(r.values["TOKEN_SECRET"])
		if token.Payload != "no token yet" || token.Metadata != nil {
			t.Errorf("token secret: got %q and %v, want the placeholder without metadata", token.Payload, token.Metadata)
		}
		if got := s.asAdmin("GET", "/api/v2/secrets/"+r.values["TOKEN_SECRET"], "")["expiration_date"]; got != nil {
			t.Errorf("token secret: got an expiration date, %v, at which it would be destroyed", got)
		}
		if got := s.cloud.MustCurrent(r.values["API_KEY_SECRET"]).Metadata["apikey_id"]; got != r.values["WORKLOAD_APIKEY_ID"] {
			t.Errorf("key secret: got apikey_id %v, want %s", got, r.values["WORKLOAD_APIKEY_ID"])
		}
		s.checkPrivate("reader.key")
		s.token(s.read("reader.key"))

		s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
	})
}

func TestKeysExpireAndAreDisabledWhenLeaked(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		r := s.succeed()
		day := time.Now().UTC().Add(90 * 24 * time.Hour).Format(time.DateOnly)
		if got := r.values["BOOTSTRAP_EXPIRES_AT"]; got != day {
			t.Errorf("BOOTSTRAP_EXPIRES_AT: got %s, want %s", got, day)
		}
		for role, iamID := range map[string]string{"bootstrap": s.cloud.BootstrapIAMID(), "workload": s.outputs["workload_iam_id"]} {
			keys := s.keys(iamID)["iam-token-rotator-"+role]
			if len(keys) != 1 {
				t.Fatalf("%s: got %d keys, want 1", role, len(keys))
			}
			if keys[0]["action_when_leaked"] != "disable" || !strings.HasPrefix(fmt.Sprint(keys[0]["expires_at"]), day) {
				t.Errorf("%s: got %v, want disable and %s", role, keys[0], day)
			}
		}
		r = s.succeed("--rotate-keys", "--expires-in", "0")
		if _, there := r.values["BOOTSTRAP_EXPIRES_AT"]; there {
			t.Error("--expires-in 0: got BOOTSTRAP_EXPIRES_AT, want none")
		}
	})
}

func TestSecondRunChangesNothing(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		arguments := []string{"--reader-key-file", s.path("reader.key")}
		first := s.succeed(arguments...)
		for _, name := range []string{"reader.key", "stored-in-aws"} { // moved to where they belong
			if err := os.Remove(s.path(name)); err != nil {
				t.Fatal(err)
			}
		}
		s.cloud.ClearRequests()
		second := s.succeed(arguments...)
		if got := s.writes(); len(got) > 0 {
			t.Errorf("requests that change something: got %q, want none", got)
		}
		if second.stdout != first.stdout {
			t.Errorf("got\n%s, want what the first run printed,\n%s", second.stdout, first.stdout)
		}
		for _, name := range []string{"reader.key", "stored-in-aws"} {
			if _, err := os.Stat(s.path(name)); err == nil {
				t.Errorf("%s was written again", name)
			}
		}
	})
}

func TestRotateKeys(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		arguments := []string{"--reader-key-file", s.path("reader.key")}
		first := s.succeed(arguments...)
		old := map[string]string{"bootstrap": s.read("stored-in-aws"), "reader": s.read("reader.key"),
			"workload": s.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload}
		s.cloud.ClearRequests()
		second := s.succeed(append(arguments, "--rotate-keys")...)

		for _, name := range []string{"API_KEY_SECRET", "TOKEN_SECRET", "BOOTSTRAP_SECRET_ARN"} {
			if second.values[name] != first.values[name] {
				t.Errorf("%s: got %s, want it unchanged, %s", name, second.values[name], first.values[name])
			}
		}
		for _, name := range []string{"WORKLOAD_APIKEY_ID", "BOOTSTRAP_APIKEY_ID", "READER_APIKEY_ID"} {
			if second.values[name] == first.values[name] {
				t.Errorf("%s: got the old key", name)
			}
		}
		for role, key := range old {
			if status, _ := s.exchange(key); status != 400 {
				t.Errorf("the old key of the %s: got %d, want 400", role, status)
			}
		}
		s.token(s.read("reader.key"))
		s.rotates(second.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))

		// Each key is made, tried, stored and noted before an old one goes.
		var order []string
		for _, request := range s.cloud.Requests() {
			if request.Method != "GET" && request.Identity != "" {
				order = append(order, request.Op)
			}
		}
		want := []string{"apikeys.create", "iam.token", "versions.create", "apikeys.update", "apikeys.delete"}
		start := slices.Index(order, "apikeys.create")
		if start < 0 || len(order) < start+5 || !slices.Equal(order[start:start+5], want) {
			t.Errorf("the order of requests: got %q, want %q first", order, want)
		}
	})
}

// TestPlainRunAfterAnInterruptedRotation: the new key was stored, and noting that failed. Which key is in
// use is then not known, so none of them may be taken for it.
func TestPlainRunAfterAnInterruptedRotation(t *testing.T) {
	for skip, role := range []string{"workload", "bootstrap"} {
		t.Run(role, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				s.succeed()
				s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysUpdate, Skip: skip, Status: 503})
				s.fail(1, "Try again later", "--rotate-keys")
				s.cloud.ClearFaults()
				r := s.succeed()
				s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
			})
		})
	}
}

func TestKeepOldKeys(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		first := s.succeed()
		old := s.read("stored-in-aws")
		second := s.succeed("--rotate-keys", "--keep-old-keys")
		s.token(old)
		if want := "service-api-key-delete " + first.values["BOOTSTRAP_APIKEY_ID"] + " ServiceId-"; !strings.Contains(second.stderr, want) {
			t.Errorf("got %s, want the command that deletes the old key, %q", second.stderr, want)
		}
	})
}

// TestOtherSetUpsKeysStay: a second rotation of the same workload has another name, and another place.
func TestOtherSetUpsKeysStay(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.succeed()
		bootstrapKey := s.read("stored-in-aws")
		s.env["PUT_BOOTSTRAP_KEY"] = "none"
		other := s.succeed("--name", "iam-token-rotator-other")
		if _, there := other.values["BOOTSTRAP_APIKEY_ID"]; there {
			t.Error("PUT_BOOTSTRAP_KEY=none: got a bootstrap key")
		}
		s.succeed("--name", "iam-token-rotator-other", "--rotate-keys")
		keys := s.keys(s.outputs["workload_iam_id"])
		if len(keys["iam-token-rotator-workload"]) != 1 || len(keys["iam-token-rotator-other-workload"]) != 1 {
			t.Errorf("got %v, want one key of each name", keys)
		}
		s.rotates(other.values, "SECRETS_MANAGER_APIKEY="+bootstrapKey)
	})
}

func TestBootstrapKeyInAFile(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		r := s.succeed("--bootstrap-key-file", s.path("bootstrap.key"))
		s.checkPrivate("bootstrap.key")
		if _, there := r.values["BOOTSTRAP_SECRET_ARN"]; there {
			t.Error("got an ARN, want none")
		}
		s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+strings.TrimSpace(s.read("bootstrap.key")))

		moved := s.succeed() // to AWS: another place, so another key; the first goes on working
		if moved.values["BOOTSTRAP_APIKEY_ID"] == r.values["BOOTSTRAP_APIKEY_ID"] || moved.values["BOOTSTRAP_SECRET_ARN"] == "" {
			t.Errorf("got %v, want a new key in AWS", moved.values)
		}
		s.token(s.read("bootstrap.key"))
	})
}

func TestAWSSecretsNameIsHandedOn(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		first := s.succeed("--aws-secret", "team/rotator")
		if want := "arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/rotator-a1b2c3"; first.values["BOOTSTRAP_SECRET_ARN"] != want {
			t.Errorf("got %s, want %s", first.values["BOOTSTRAP_SECRET_ARN"], want)
		}
		s.cloud.ClearRequests()
		if again := s.succeed("--aws-secret", "team/rotator"); again.stdout != first.stdout || len(s.writes()) > 0 {
			t.Errorf("the same name again: got %q, want no change", s.writes())
		}
		if other := s.succeed("--aws-secret", "team/other"); other.values["BOOTSTRAP_APIKEY_ID"] == first.values["BOOTSTRAP_APIKEY_ID"] {
			t.Error("another name: got the same key, want one of its own")
		}
	})
}

func TestTrustedProfileNeedsNoBootstrapKey(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.outputs["bootstrap_iam_id"], s.outputs["iam_profile_id"] = "", s.cloud.ProfileID()
		r := s.succeed()
		if r.values["IAM_PROFILE_ID"] != s.cloud.ProfileID() || r.values["BOOTSTRAP_APIKEY_ID"] != "" {
			t.Errorf("got %v, want the profile and no key", r.values)
		}
		if err := os.WriteFile(s.path("cr-token"), []byte("a compute resource token"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.rotates(r.values, "IAM_PROFILE_ID="+r.values["IAM_PROFILE_ID"], "CR_TOKEN_FILENAME="+s.path("cr-token"))
	})
}

// TestTokenForms: IAM_TOKEN may be whatever the CLI prints.
func TestTokenForms(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		bare := s.admin
		for _, form := range []string{bare, "Bearer " + bare, "IAM token:  Bearer " + bare + "\n"} {
			s.env["IAM_TOKEN"] = form
			s.succeed()
		}
	})
}

func TestKeyIsTriedUntilIAMKnowsIt(t *testing.T) {
	t.Parallel()
	s := newSetUp(t, "dash", ibmcloudtest.Options{}) // two seconds
	r := s.succeed()
	s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
}

// TestTracingShowsNoSecret: people run scripts with -x when something is wrong.
func TestTracingShowsNoSecret(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		command := s.command("--reader-key-file", s.path("reader.key"))
		command.Args = slices.Insert(command.Args, 1, "-x")
		if r := s.finish(command); r.status != 0 || !strings.Contains(r.stderr, "+ curl") {
			t.Errorf("got exit %d and %d bytes of trace, want 0 and a trace", r.status, len(r.stderr))
		}
	})
}

// TestInterruptedRunCleansUp: Ctrl-C while a key waits to be stored leaves no file, and the next run goes on.
func TestInterruptedRunCleansUp(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		s.script("put-slowly", "cat >'"+s.path("waiting")+"'; sleep 3; exit 1")
		s.env["PUT_BOOTSTRAP_KEY"] = s.path("put-slowly")
		interrupt := func(script *os.Process) {
			waitFor(t, "the key to be handed over", func() bool { info, err := os.Stat(s.path("waiting")); return err == nil && info.Size() > 0 })
			_ = script.Signal(syscall.SIGTERM)
		}
		if r := s.finish(s.command(), interrupt); r.status != 143 || r.stdout != "" {
			t.Errorf("got exit %d and %q, want 143 and nothing", r.status, r.stdout)
		}
		lost := s.read("waiting")
		delete(s.env, "PUT_BOOTSTRAP_KEY")
		r := s.succeed()
		s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
		if status, _ := s.exchange(lost); status != 400 {
			t.Errorf("the key that was never stored: got %d, want 400, deleted", status)
		}
	})
}

// TestFailureAtEachCall: whatever fails, the run says so, and the next one finishes the work and
// leaves one key for each identity.
func TestFailureAtEachCall(t *testing.T) {
	kinds := []struct {
		name       string
		fault      ibmcloudtest.Fault
		words      string
		everywhere bool // at each call, and not at the first alone
	}{
		{"401", ibmcloudtest.Fault{Status: 401}, "fetch a new one", false},
		{"403", ibmcloudtest.Fault{Status: 403, Body: `{"errors":[{"code":"forbidden","message":"You may not."}]}`}, "You may not.", true},
		{"404", ibmcloudtest.Fault{Status: 404}, "Check the ids", false},
		{"429", ibmcloudtest.Fault{Status: 429}, "Try again later", false},
		{"500", ibmcloudtest.Fault{Status: 500, Body: "<html>", ContentType: "text/html"}, "Try again later", false},
		{"not JSON", ibmcloudtest.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, "check the URL", false},
		{"dropped", ibmcloudtest.Fault{Drop: ibmcloudtest.DropBefore}, "no answer", false},
		{"done, answer lost", ibmcloudtest.Fault{Drop: ibmcloudtest.DropAfter}, "no answer", true},
	}
	calls := []struct {
		op     string
		skip   int
		rotate bool // the call happens with --rotate-keys alone
		reads  bool // before anything is made
	}{
		{op: "secrets.list", reads: true}, {op: "secrets.list", skip: 1, reads: true},
		{op: "apikeys.list", reads: true}, {op: "apikeys.list", skip: 1, reads: true},
		{op: "secrets.create"}, {op: "secrets.create", skip: 1},
		{op: "apikeys.create"}, {op: "apikeys.create", skip: 1},
		{op: "iam.token"}, {op: "apikeys.update"}, {op: "apikeys.update", skip: 1},
		{op: "versions.create", rotate: true}, {op: "apikeys.delete", rotate: true},
	}
	for i, call := range calls {
		for j, kind := range kinds {
			if i > 0 && !kind.everywhere {
				continue
			}
			t.Run(fmt.Sprintf("%s %d %s", call.op, call.skip, kind.name), func(t *testing.T) {
				t.Parallel()
				s := newSetUp(t, []string{"dash", "bash"}[(i+j)%2], ibmcloudtest.Options{KeyPropagation: -1})
				var arguments []string
				if call.rotate {
					s.succeed()
					arguments = []string{"--rotate-keys"}
				}
				fault := kind.fault
				fault.Op, fault.Skip = call.op, call.skip
				s.fault(fault)
				s.fail(1, kind.words, arguments...)
				if call.reads {
					if got := s.writes(); len(got) > 0 {
						t.Errorf("got %q, want nothing made", got)
					}
					return
				}
				s.cloud.ClearFaults()
				s.goesOn(arguments...)
			})
		}
	}
}

// goesOn runs the script after a failure: what it makes then rotates, and each identity has one key.
func (s *setUp) goesOn(arguments ...string) {
	s.t.Helper()
	r := s.succeed(arguments...)
	s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
	for role, iamID := range map[string]string{"bootstrap": s.cloud.BootstrapIAMID(), "workload": s.outputs["workload_iam_id"]} {
		if got := s.keys(iamID)["iam-token-rotator-"+role]; len(got) != 1 {
			s.t.Errorf("keys of the %s: got %d, want 1", role, len(got))
		}
	}
}

func TestPassingFaultsAreWaitedOut(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		s.env["CURL_RETRIES"] = "3"
		s.fault(ibmcloudtest.Fault{Op: "secrets.list", Times: 1, Status: 500})
		s.fault(ibmcloudtest.Fault{Op: "apikeys.create", Times: 2, Status: 429, Headers: map[string]string{"Retry-After": "1"}})
		s.fault(ibmcloudtest.Fault{Op: "iam.token", Times: 1, Status: 503})
		s.succeed()
	})
}

// TestKeyThatNeverWorksIsNotStored: one that IAM does not know after ten seconds is worth nothing.
func TestKeyThatNeverWorksIsNotStored(t *testing.T) {
	t.Parallel()
	s := newSetUp(t, "dash", ibmcloudtest.Options{KeyPropagation: -1})
	first := s.succeed()
	before := s.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload
	s.fault(ibmcloudtest.Fault{Op: "iam.token", Status: 400, Body: `{"errorCode":"BXNIM0415E","errorMessage":"Provided API key could not be found."}`})
	s.fail(1, "Provided API key could not be found", "--rotate-keys")
	s.cloud.ClearFaults()
	if after := s.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload; after != before {
		t.Error("the key secret was given the key that does not work")
	}
	s.token(before)
}

func TestPutBootstrapKeyFails(t *testing.T) {
	for name, test := range map[string]struct{ body, words string }{
		"refused":          {"cat >/dev/null; echo AccessDenied >&2; exit 1", "Mend that and run set-up-secrets again"},
		"prints no ARN":    {"cat >/dev/null; echo done", "something other than the ARN"},
		"prints the key":   {"cat", "something other than the ARN"},
		"prints two lines": {"cat >/dev/null; echo arn:aws:secretsmanager:x:1:secret:a; echo b", "something other than the ARN"},
	} {
		t.Run(name, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				s.script("put", test.body)
				s.env["PUT_BOOTSTRAP_KEY"] = s.path("put")
				s.fail(1, test.words)
				if name == "refused" {
					delete(s.env, "PUT_BOOTSTRAP_KEY")
					s.goesOn()
				}
			})
		})
	}
}

// TestErrorTextIsScrubbed: a server that repeats what it was sent must not make us print it.
func TestErrorTextIsScrubbed(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		key := strings.Repeat("Ab3_", 11)
		s.fault(ibmcloudtest.Fault{Op: "secrets.create", Status: 400, Body: `{"errors":[{"message":"payload ` + key + ` is wrong"}]}`})
		s.fail(1, "payload … is wrong")
	})
}

func TestNameIsTakenInAnotherGroup(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.asAdmin("POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"iam-token-rotator-token","payload":"x"}`)
		s.fail(1, "use another --name")
		s.succeed("--name", "other")
	})
}

// TestLongListsAreReadToTheEnd: our keys and secrets may lie on a later page.
func TestLongListsAreReadToTheEnd(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		for i := range 101 { // 101 keys at 100 a page, 202 secrets at 200
			s.asAdmin("POST", "/v1/apikeys", `{"name":"another","iam_id":"`+s.outputs["workload_iam_id"]+`"}`)
			for _, half := range []string{"a", "b"} {
				s.asAdmin("POST", "/api/v2/secrets", fmt.Sprintf(`{"secret_type":"arbitrary","name":"iam-token-rotator-token-%d%s","payload":"x","secret_group_id":%q}`,
					i, half, s.outputs["token_group_id"]))
			}
		}
		first := s.succeed()
		if second := s.succeed(); second.stdout != first.stdout {
			t.Errorf("got\n%s, want\n%s", second.stdout, first.stdout)
		}
	})
}

func TestKeyThatSoonExpiresIsTold(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		if r := s.succeed("--expires-in", "13"); strings.Contains(r.stderr, "note:") {
			t.Errorf("a new key: got %s, want no note", r.stderr)
		}
		if r := s.succeed(); strings.Count(r.stderr, "--rotate-keys") != 2 {
			t.Errorf("got %s, want a note for each of the two keys", r.stderr)
		}
		s.succeed("--rotate-keys", "--expires-in", "15")
		if r := s.succeed(); strings.Contains(r.stderr, "note:") {
			t.Errorf("15 days: got %s, want no note", r.stderr)
		}
	})
}

// TestUnreachableInstance: a private-only host does not answer from outside.
func TestUnreachableInstance(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.outputs["secrets_manager_url"] = "http://127.0.0.1:1"
		s.fail(1, "allow public-and-private")
	})
}

func TestRefusedToken(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.env["IAM_TOKEN"] = "nonsense"
		s.fail(1, "fetch a new one")
		s.env["IAM_TOKEN"] = s.token(s.cloud.ReaderAPIKey())
		s.fail(1, "Needed: Operator on the service id")
	})
}

func TestWrongUsage(t *testing.T) {
	tests := []struct {
		name      string
		arguments []string
		change    func(s *setUp)
		words     string
	}{
		{"unknown option", []string{"--rotate"}, nil, "is not an option"},
		{"option without a value", []string{"--name"}, nil, "--name needs a value"},
		{"name with a blank", []string{"--name", "a b"}, nil, "--name is not an id"},
		{"days in words", []string{"--expires-in", "ninety"}, nil, "a number of days"},
		{"days past all dates", []string{"--expires-in", "10000"}, nil, "9999 at most"},
		{"--keep-old-keys alone", []string{"--keep-old-keys"}, nil, "goes with --rotate-keys"},
		{"no folder for the file", []string{"--reader-key-file", "/nowhere/reader.key"}, nil, "/nowhere/reader.key cannot be written"},
		{"a folder for the file", []string{"--bootstrap-key-file", os.TempDir()}, nil, "cannot be written"},
		{"no token", nil, func(s *setUp) { s.env["IAM_TOKEN"] = "" }, "IAM_TOKEN is not set"},
		{"token of two lines", nil, func(s *setUp) { s.env["IAM_TOKEN"] = "a\nurl = evil" }, "IAM_TOKEN is not a token"},
		{"null for a token", nil, func(s *setUp) { s.env["IAM_TOKEN"] = "null" }, "IAM_TOKEN is not a token"}, // jq's, for a field that is not there
		{"quote in the token", nil, func(s *setUp) { s.env["IAM_TOKEN"] = `a"` }, "IAM_TOKEN is not a token"},
		{"no such program", nil, func(s *setUp) { s.env["PUT_BOOTSTRAP_KEY"] = "/nowhere/put" }, "there is no program"},
		{"plain http", nil, func(s *setUp) { s.env["IAM_URL"] = "http://iam.cloud.ibm.com" }, "IAM_URL must be an https URL"},
		{"URL with a path", nil, func(s *setUp) { s.outputs["secrets_manager_url"] = "https://example.com/api/v2" }, "without a path"},
		{"retries in words", nil, func(s *setUp) { s.env["CURL_RETRIES"] = "many" }, "CURL_RETRIES must be a number"},
		{"Terraform not applied", nil, func(s *setUp) { s.outputs = nil }, "after terraform apply"},
		{"an output is missing", nil, func(s *setUp) { s.outputs["key_group_id"] = "" }, "KEY_GROUP_ID is not set"},
		{"an id with a slash", nil, func(s *setUp) { s.outputs["account_id"] = "../x" }, "ACCOUNT_ID is not an id"},
		{"no reader", []string{"--reader-key-file", "reader.key"}, func(s *setUp) { s.outputs["reader_iam_id"] = "" }, "READER_IAM_ID is not set"},
		{"a file for no key", []string{"--bootstrap-key-file", "b.key"}, func(s *setUp) { s.outputs["bootstrap_iam_id"] = "" }, "no bootstrap key to store"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachShell(t, func(t *testing.T, s *setUp) {
				if test.change != nil {
					test.change(s)
				}
				s.fail(2, test.words, test.arguments...)
				for _, request := range s.cloud.Requests() {
					if request.Op != ibmcloudtest.OpIAMToken { // the test's own
						t.Errorf("got a request, %s, want none", request.Op)
					}
				}
			})
		})
	}
}

// TestTerraformPrintsNothing: it has failed itself, and said why, or lists something else.
func TestTerraformPrintsNothing(t *testing.T) {
	for _, printed := range []string{"", "\n", "{}", "[]", "null"} {
		t.Run(printed, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				command := s.command()
				command.Stdin = strings.NewReader(printed)
				if r := s.finish(command); r.status != 2 || !strings.Contains(r.stderr, "after terraform apply") {
					t.Errorf("got exit %d and %q, want 2 and what to do", r.status, r.stderr)
				}
			})
		})
	}
}

// TestEnvironmentInsteadOfTerraform: the same values, by the outputs' names in capitals.
func TestEnvironmentInsteadOfTerraform(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		for name, value := range s.outputs {
			s.env[strings.ToUpper(name)] = value
		}
		command := s.command()
		command.Args = command.Args[:2]
		if r := s.finish(command); r.status != 0 || r.values["TOKEN_SECRET"] == "" {
			t.Errorf("got exit %d: %s, want 0", r.status, r.stderr)
		}
	})
}

func TestHelp(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		if r := s.run("--help"); r.status != 0 || !strings.HasPrefix(r.stdout, "Usage: set-up-secrets") {
			t.Errorf("got exit %d and %q, want 0 and the usage", r.status, r.stdout)
		}
	})
}

// TestNoAWSCLI: whether it is needed shows when it is known which keys are there.
func TestNoAWSCLI(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		first := s.run()
		s.cloud.ClearRequests()
		s.withoutAWS()
		if again := s.succeed(); first.status != 0 || again.stdout != first.stdout {
			t.Errorf("got\n%s, want what is there printed,\n%s", again.stdout, first.stdout)
		}
		s.fail(2, "the aws CLI is not installed", "--rotate-keys")
		s.fail(2, "the aws CLI is not installed", "--aws-secret", "another")
		if got := s.writes(); len(got) > 0 {
			t.Errorf("requests that change something: got %q, want none", got)
		}
	})
}

// withoutAWS leaves the script what it needs, and the program that stores the bootstrap key in AWS
// without the CLI.
func (s *setUp) withoutAWS() {
	s.t.Helper()
	for _, name := range []string{"basename", "cat", "cksum", "dirname", "cut", "mktemp", "rm", "sed", "tail", "tr"} {
		if err := os.Symlink(programs.Path(s.t, name), s.path("bin/"+name)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.env["PATH"], s.env["PUT_BOOTSTRAP_KEY"] = s.path("bin"), ""
}
