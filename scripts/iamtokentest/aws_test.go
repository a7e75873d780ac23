package iamtokentest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

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
