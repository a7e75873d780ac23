package iamtokentest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// passTime replaces sleep and the clock, so that waiting takes no time; the
// returned function tells the sleeps so far, in seconds. meanwhile is called at
// each sleep with its number, from 1.
func (s *stage) passTime(meanwhile func(sleep int)) (sleeps func() []string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "sleeps")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	count := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		count++
		meanwhile(count)
	}))
	s.t.Cleanup(server.Close)
	s.program("sleep", fmt.Sprintf("echo \"$1\" >>'%s'\nexec curl -s '%s'\n", file, server.URL))
	s.program("date", fmt.Sprintf("now=1000000\nwhile read -r n; do now=$((now + n)); done <'%s'\necho $now\n", file))
	return func() []string {
		content, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		return strings.Fields(string(content))
	}
}

func nothing(int) {}

func TestOutagesAreRetried(t *testing.T) {
	for name, test := range map[string]struct {
		fault ibmcloudtest.Fault
		want  string // the sleeps
	}{
		"IAM 503":                  {ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 503, Times: 3}, "[1 2 4]"},
		"IAM, a web page":          {ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 200, ContentType: "text/html", Body: "<html>", Times: 1}, "[1]"},
		"IAM, an empty token":      {ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 200, Body: `{"access_token":""}`, Times: 1}, "[1]"},
		"Secrets Manager 429":      {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 429, Headers: map[string]string{"Retry-After": "7"}, Times: 1}, "[7]"},
		"a long Retry-After":       {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 429, Headers: map[string]string{"Retry-After": "3600"}, Times: 1}, "[10]"},
		"a Retry-After of letters": {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 503, Headers: map[string]string{"Retry-After": "soon"}, Times: 1}, "[1]"},
		"a reset connection":       {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Drop: ibmcloudtest.DropBefore, Times: 2}, "[1 2]"},
		"Secrets Manager, a page":  {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 200, ContentType: "text/html", Body: "<html>", Times: 1}, "[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				token := s.publish(time.Hour)
				sleeps := s.passTime(nothing)
				s.fault(test.fault)
				s.wantRaw(name, token)
				if got := fmt.Sprint(sleeps()); got != test.want {
					s.t.Errorf("got sleeps %s, want %s", got, test.want)
				}
			})
		})
	}
}

func TestALastingOutageEnds(t *testing.T) {
	for name, test := range map[string]struct {
		fault  ibmcloudtest.Fault
		advice string
		want   int // sleeps
	}{
		"503":        {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 503}, "Secrets Manager answers HTTP 503", 4},
		"no answer":  {ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Drop: ibmcloudtest.DropAfter}, "the connection to IAM failed", 4},
		"a redirect": {ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 302, Headers: map[string]string{"Location": "https://example.com"}}, "redirect", 0},
		"400":        {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 400, Body: `{"errors":[{"message":"eyJ"}]}`}, "HTTP 400", 0},
	} {
		t.Run(name, func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				s.publish(time.Hour)
				sleeps := s.passTime(nothing)
				s.fault(test.fault)
				s.wantFailure(1, nil, test.advice)
				if got := len(sleeps()); got != test.want {
					s.t.Errorf("got %d sleeps, want %d", got, test.want)
				}
			})
		})
	}
}

func TestWaitingForTheNextRotation(t *testing.T) {
	for name, first := range map[string]func(s *stage){
		"no token yet": func(*stage) {},
		"expired":      func(s *stage) { s.publish(-time.Minute) },
		"too short":    func(s *stage) { s.publish(4 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				first(s)
				token := s.token(time.Hour)
				sleeps := s.passTime(func(sleep int) {
					if sleep == 3 {
						s.store(token, time.Now().Add(time.Hour))
					}
				})
				s.wantRaw(name, token, "--min-ttl", "5m", "--wait", "2m")
				if got := fmt.Sprint(sleeps()); got != "[1 2 4]" {
					s.t.Errorf("got sleeps %s, want [1 2 4]", got)
				}
			})
		})
	}
}

func TestWaitingEnds(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		s.publish(-time.Minute)
		sleeps := s.passTime(nothing)
		s.wantFailure(3, []string{"--wait", "20s"}, "expired 1m")
		if got := fmt.Sprint(sleeps()); got != "[1 2 4 8 5]" {
			s.t.Errorf("got sleeps %s, want 20 s in all: [1 2 4 8 5]", got)
		}
	})
}

// In a long wait the reader's own token comes of age; a new one is fetched.
func TestTheReadersOwnTokenExpiresInAWait(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.token(time.Hour)
		s.passTime(func(sleep int) {
			switch sleep {
			case 1:
				s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 401, Times: 1})
			case 2:
				s.store(token, time.Now().Add(time.Hour))
			}
		})
		s.wantRaw("after a 401", token, "--wait", "2m")
	})
}

func TestHTTPS(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.publish(time.Hour)
		ca := s.serveTLS()
		s.wantFailure(1, nil, "SSL_CERT_FILE")
		s.env["SSL_CERT_FILE"] = ca
		s.wantRaw("with the CA", token)
	})
}

// onAWS gives the stage a job's role on AWS in place of its IBM identity.
func (s *stage) onAWS(endpoint string) {
	for _, name := range []string{"READER_APIKEY", "SECRETS_MANAGER_URL", "IAM_URL", "TOKEN_SECRET"} {
		delete(s.env, name)
	}
	maps.Copy(s.env, awstest.Environment(endpoint))
	delete(s.env, "AWS_REGION") // the script takes the ARN's
}

// copyToAWS makes an AWS secret that holds payload.
func (s *stage) copyToAWS(moto *awstest.Moto, name, payload string) (arn string) {
	s.t.Helper()
	created := moto.MustCall(s.t, "secretsmanager", "secretsmanager.CreateSecret",
		map[string]any{"Name": name, "SecretString": payload, "ClientRequestToken": "7cf9d6e1-2919-432f-9883-d5040bfcd326"})
	return created["ARN"].(string)
}

func TestTheCopyInAWS(t *testing.T) {
	programs.Need(t, "aws")
	moto := awstest.Start(t)
	for _, shell := range shells {
		s := newStage(t, shell, ibmcloudtest.Options{})
		s.onAWS(moto.URL())
		token := s.token(time.Hour)
		s.env["TOKEN_SECRET_ARN"] = s.copyToAWS(moto, shell, "Bearer "+token)
		s.wantRaw(shell, token, "--min-ttl", "5m")
		s.env["TOKEN_SECRET_ARN"] += "x"
		s.wantFailure(1, nil, "ResourceNotFoundException", "secretsmanager:GetSecretValue")
	}
}

const copyARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-Ab12Cd"

// answerAs puts a program in the place of aws that answers with a secret's value,
// made created ago.
func (s *stage) answerAs(payload any, created any) {
	s.t.Helper()
	answer, err := json.Marshal(map[string]any{"ARN": copyARN, "SecretString": payload, "CreatedDate": created})
	if err != nil {
		s.t.Fatal(err)
	}
	s.program("aws", "case \"$*\" in *'--secret-id "+copyARN+" --region eu-central-1 '*) ;; *) echo \"unexpected: $*\" >&2; exit 1 ;; esac\ncat <<'E'\n"+string(answer)+"\nE\n")
}

func TestWhatACopyCanHold(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		server := httptest.NewServer(http.NotFoundHandler()) // for its date
		defer server.Close()
		s.onAWS(server.URL)
		s.env["TOKEN_SECRET_ARN"] = copyARN
		token := s.token(time.Hour)
		tokenJSON := fmt.Sprintf(`{"access_token":%q,"expiration":%d}`, token, time.Now().Add(time.Hour).Unix())
		byV1, byV2 := float64(time.Now().UnixMilli())/1000, time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00")
		for name, payload := range map[string]string{"raw": token, "bearer": "Bearer " + token, "json": tokenJSON, "kv": fmt.Sprintf(`{"logs":%q}`, token)} {
			s.answerAs(payload, byV1)
			s.wantRaw(name, token, "--min-ttl", "5m")
			s.answerAs(payload, byV2)
			s.wantRaw(name+", version 2 of aws", token)
		}
		if stdout, stderr, exit := s.iamToken("--check"); exit != 0 || !strings.HasSuffix(stdout, "Z\n") || len(stdout) != 21 {
			s.t.Errorf("--check: got exit %d and %d bytes (stderr %q), want the expiry", exit, len(stdout), stderr)
		}
		for name, test := range map[string]struct {
			payload any
			exit    int
			advice  string
		}{
			"expired":        {s.token(-time.Minute), 3, "expired 1m"},
			"opaque":         {"opaque", 1, "cannot be told"},
			"no token yet":   {"no token yet", 1, "no token yet"},
			"something else": {`{"user":"a","password":"b"}`, 1, "no token"},
			"binary":         {nil, 1, "empty"},
		} {
			s.answerAs(test.payload, byV1)
			s.wantFailure(test.exit, nil, test.advice)
			if s.t.Failed() {
				s.t.Log("in the case", name)
			}
		}
		delete(s.env, "TOKEN_SECRET_ARN")
		s.answerAs(token, byV1)
		s.wantRaw("an ARN as the argument", token, copyARN)
	})
}

// The aws program does not tell AWS's clock; the script asks for it.
func TestACopyIsJudgedByTheClockOfAWS(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(20*time.Minute).UTC().Format(http.TimeFormat))
		}))
		defer server.Close()
		s.onAWS(server.URL)
		s.env["TOKEN_SECRET_ARN"] = copyARN
		s.answerAs(s.token(10*time.Minute), float64(time.Now().Unix()))
		s.wantFailure(3, nil, "slow", "expired")
	})
}
