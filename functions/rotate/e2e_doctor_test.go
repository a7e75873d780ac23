package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestTheBuiltDoctorBeforeAndAfterTheFirstToken(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	stdout, stderr, exit := s.run(nil, "bootstrap", "doctor")
	if exit != 0 || stderr != "" || !strings.Contains(stdout, "✓ iam-tls               TLS 1.3") || !strings.Contains(stdout, "! stored-token") {
		t.Fatalf("got exit %d, %s%s", exit, stdout, stderr)
	}
	for _, op := range s.requested() {
		if op == "versions.create" || strings.HasSuffix(op, ".patch") || strings.HasSuffix(op, ".delete") {
			t.Errorf("doctor asked for %s", op)
		}
	}
	if _, stderr, exit := s.run(nil, "bootstrap"); exit != 0 {
		t.Fatal(stderr)
	}
	stdout, _, exit = s.run(nil, "bootstrap", "doctor")
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
			stdout, stderr, exit := s.run(test.more, "bootstrap", "doctor", "-timeout", "4s")
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
