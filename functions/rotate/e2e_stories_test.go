package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
)

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
		"private host":  {map[string]string{"SECRETS_MANAGER_URL": "https://instance.private.invalid"}, "{}", "private-only"},
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
	stdout, stderr, exit := s.run(map[string]string{"SECRETS_MANAGER_MAX_RPS": "0"}, "bootstrap", "-json", "-mode", "ensure")
	if exit != 0 {
		t.Fatalf("got exit %d: %s", exit, stderr)
	}
	results, _ := reports(t, stdout)[0]["results"].([]any)
	if len(results) != 30 || strings.Count(stdout, `"outcome":"rotated"`) != 30 {
		t.Errorf("got %s, want 30 rotations", stdout)
	}
	stdout, _, _ = s.run(nil, "bootstrap", "-mode", "ensure", "-rotation", "rotation-00007")
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
		if stdout, stderr, exit := s.run(more, "bootstrap"); exit != 0 || !strings.HasPrefix(stdout, "default: rotated") {
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
