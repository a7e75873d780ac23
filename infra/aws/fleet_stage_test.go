package aws_test

import (
	"encoding/json"
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
	"iam-token-rotator/scripts/programs"
)

// fleetStage is a sandbox of IBM Cloud as a process of its own, and a folder that
// holds what the deployed zip does.
type fleetStage struct {
	t       *testing.T
	folder  string            // with rotations.json
	names   []string          // as the map reads them
	secrets map[string]string // token secrets by rotation
	env     map[string]string // that the sandbox has written
	timeout string            // of the deployed function
}

// newFleetStage starts scripts/sandbox; it ends with the test.
func newFleetStage(t *testing.T, rotations string, timeout time.Duration) *fleetStage {
	t.Helper()
	s := &fleetStage{t: t, folder: t.TempDir(), secrets: map[string]string{}, timeout: timeout.String()}
	file := filepath.Join(s.folder, "sandbox.env")
	sandbox := exec.Command(filepath.Join(builtPrograms(t), "sandbox"), "-addr", "127.0.0.1:0", "-rotations", rotations, "-env", file)
	if err := sandbox.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sandbox.Process.Signal(syscall.SIGTERM)
		_ = sandbox.Wait()
	})
	var err error
	if s.env, err = envfile.Await(t.Context(), file, time.Minute); err != nil {
		t.Fatal(err)
	}
	s.readRotations()
	return s
}

// readRotations makes the list of names as the page says, and puts rotations.json
// where the zip has it.
func (s *fleetStage) readRotations() {
	s.t.Helper()
	programs.Need(s.t, "jq")
	text, err := os.ReadFile(s.env["ROTATIONS_FILE"])
	if err == nil {
		err = os.WriteFile(filepath.Join(s.folder, "rotations.json"), text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var entries []struct {
		Name        string
		TokenSecret string `json:"token_secret"`
	}
	if err := json.Unmarshal(text, &entries); err != nil {
		s.t.Fatal(err)
	}
	for _, entry := range entries {
		s.secrets[entry.Name] = entry.TokenSecret
	}
	listed := runIn(s.t, s.folder, programs.CleanEnviron(), "", "jq", "-c", "[.[].name]", "rotations.json")
	if err := json.Unmarshal([]byte(listed.Stdout), &s.names); err != nil {
		s.t.Fatalf("jq: %v: %s", err, listed.All())
	}
}

// batchReport is a batch's answer: a report, or an error.
type batchReport struct {
	RunID        string `json:"run_id"`
	Results      []struct{ Rotation, Outcome string }
	ErrorType    string
	ErrorMessage string
}

// invoke delivers an event to the function as the map does, without politeness.
func (s *fleetStage) invoke(event object) batchReport {
	s.t.Helper()
	payload, err := json.Marshal(event)
	if err != nil {
		s.t.Error(err)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "ROTATIONS_FILE=rotations.json", "SECRETS_MANAGER_MAX_RPS=0", "LOG_LEVEL=error"}
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY"} {
		env = append(env, name+"="+s.env[name])
	}
	bin := builtPrograms(s.t)
	got := runIn(s.t, s.folder, env, string(payload), filepath.Join(bin, "invoke"), "-event", "-", "-timeout", s.timeout, "--", filepath.Join(bin, "deploy", "bootstrap"))
	var report batchReport
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil || (got.Exit == 0) != (report.ErrorType == "") {
		s.t.Errorf("the batch came to exit %d, %.300s, %.2000s", got.Exit, got.Stdout, got.Stderr)
	}
	return report
}

// requests counts what was asked of IBM Cloud so far, by operation.
func (s *fleetStage) requests() map[string]int {
	s.t.Helper()
	var all []struct{ Op string }
	s.ask(http.MethodGet, "/_sandbox/requests", "", "", &all)
	count := map[string]int{}
	for _, request := range all {
		count[request.Op]++
	}
	return count
}

// deleteToken deletes a rotation's token secret, as an administrator.
func (s *fleetStage) deleteToken(rotation string) {
	s.t.Helper()
	var token struct {
		Value string `json:"access_token"`
	}
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {s.env["ADMIN_APIKEY"]}}
	s.ask(http.MethodPost, "/identity/token", "", form.Encode(), &token)
	s.ask(http.MethodDelete, "/api/v2/secrets/"+s.secrets[rotation], token.Value, "", nil)
}

func (s *fleetStage) ask(method, path, token, form string, into any) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.env["IAM_URL"]+path, strings.NewReader(form))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if into != nil {
		err = json.NewDecoder(response.Body).Decode(into)
	}
	if err != nil || response.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %d, %v", method, path, response.StatusCode, err)
	}
}
