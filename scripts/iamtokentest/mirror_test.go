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

	"iam-token-rotator/scripts/awstest"
	"iam-token-rotator/scripts/programs"
)

const (
	mirrorARN    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-Ab12Cd"
	parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/tokens/logs"
)

// onAWS gives the job a role on AWS in place of its IBM identity.
func (j *job) onAWS(endpoint, arn string) {
	for _, name := range []string{"READER_APIKEY", "SECRETS_MANAGER_URL", "IAM_URL", "TOKEN_SECRET"} {
		delete(j.env, name)
	}
	maps.Copy(j.env, awstest.Environment(endpoint))
	delete(j.env, "AWS_REGION") // the script takes the ARN's
	j.env["TOKEN_SECRET_ARN"] = arn
}

// The aws program keeps what it receives where cli_history is on, but not for this.
func TestTheMirrorInAWS(t *testing.T) {
	programs.Need(t, "aws")
	moto := awstest.Start(t)
	j := newJob(t, "dash", nil)
	token := j.token(time.Hour)
	created := moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret",
		map[string]any{"Name": "iam-token", "SecretString": "Bearer " + token, "ClientRequestToken": "7cf9d6e1-2919-432f-9883-d5040bfcd326"})
	j.onAWS(moto.URL(), created["ARN"].(string))
	folder := filepath.Join(j.env["HOME"], ".aws")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "config"), []byte("[default]\ncli_history = enabled\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	j.wantToken(token, "--min-ttl", "5m")
	if _, err := os.Stat(filepath.Join(folder, "cli", "history")); !os.IsNotExist(err) {
		t.Errorf("got %v, want no history", err)
	}
	moto.MustCall(t, "ssm", "AmazonSSM.PutParameter", map[string]any{"Name": "/tokens/logs", "Type": "SecureString", "Value": `{"iam_token":"` + token + `"}`})
	j.env["TOKEN_SECRET_ARN"] = parameterARN
	j.wantToken(token)
	j.env["TOKEN_SECRET_ARN"] += "x"
	if stderr := j.wantFailure(1, "ParameterNotFound"); !strings.Contains(stderr, "ssm:GetParameter on") {
		t.Errorf("got %q, want it to name the permission", stderr)
	}
}

func TestWhatAMirrorCanHold(t *testing.T) {
	seconds, text := float64(time.Now().UnixMilli())/1000, time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00")
	j := newJob(t, "dash", nil)
	token := j.token(time.Hour)
	secret := func(payload, created any) map[string]any {
		return map[string]any{"ARN": mirrorARN, "SecretString": payload, "CreatedDate": created}
	}
	for name, test := range map[string]struct {
		answer map[string]any // of the aws program
		ahead  time.Duration  // of AWS's clock, which the aws program does not print
		exit   int
		advice string
	}{
		"version 1 of aws":   {secret("Bearer "+token, seconds), 0, 0, ""},
		"version 2 of aws":   {secret(fmt.Sprintf(`{"logs":%q}`, token), text), 0, 0, ""},
		"an expired token":   {secret(j.token(-time.Minute), seconds), 0, 3, "expired 1m"},
		"an opaque token":    {secret(opaque, seconds), 0, 1, "nothing states"},
		"not yet":            {secret("no token yet", seconds), 0, 1, "no token yet"},
		"something else":     {secret(`{"user":"a","password":"b"}`, seconds), 0, 1, "is it the"},
		"a binary secret":    {secret(nil, seconds), 0, 1, "empty"},
		"a slow clock there": {secret(token, seconds), -20 * time.Minute, 1, "is there a proxy in between, or is a clock wrong?"},
		"a slow clock here":  {secret(j.token(10*time.Minute), seconds), 20 * time.Minute, 3, "slow"},
		// The fields of another service count for nothing.
		"IBM's payload beside it": {map[string]any{"SecretString": "no token yet", "payload": token, "secret_type": "arbitrary"}, 0, 1, "no token yet"},
		"IBM's payload alone":     {map[string]any{"payload": token, "data": map[string]any{"iam_token": token}}, 0, 1, "empty"},
		"IBM's metadata": {map[string]any{"SecretString": opaque, "CreatedDate": seconds, "created_at": text,
			"version_custom_metadata": map[string]any{"expiration": seconds + 600}}, 0, 1, "nothing states"},
		"a parameter's value": {map[string]any{"Parameter": map[string]any{"Value": token, "LastModifiedDate": seconds}}, 0, 1, "empty"},
	} {
		withJob(t, name, func(j *job) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Now().Add(test.ahead).UTC().Format(http.TimeFormat))
			}))
			defer server.Close()
			answer, err := json.Marshal(test.answer)
			if err != nil {
				t.Fatal(err)
			}
			j.onAWS(server.URL, mirrorARN)
			j.program("aws", "case \"$*\" in *'--secret-id "+mirrorARN+" --region eu-central-1 '*) ;; *) echo \"unexpected: $*\" >&2; exit 1 ;; esac\ncat <<'E'\n"+string(answer)+"\nE\n")
			if test.exit != 0 {
				j.program("sleep", "")
				j.wantFailure(test.exit, test.advice)
				if test.exit == 1 {
					j.wantFailure(test.exit, test.advice, "--check") // only of a token that is there it prints the expiry
				}
				return
			}
			j.wantToken(token, "--min-ttl", "5m")
			delete(j.env, "TOKEN_SECRET_ARN")
			if stdout, stderr, exit := j.iamToken("--check", mirrorARN); exit != 0 || !strings.HasSuffix(stdout, "Z\n") || len(stdout) != 21 {
				t.Errorf("--check: got exit %d and %d bytes (stderr %q), want the expiry", exit, len(stdout), stderr)
			}
		})
	}
	// Each partition has its domain, where AWS is asked for the date.
	for arn, want := range map[string]string{
		strings.Replace(mirrorARN, "aws:secretsmanager:eu-central-1", "aws-us-gov:secretsmanager:us-gov-west-1", 1):    "secretsmanager.us-gov-west-1.amazonaws.com",
		strings.Replace(mirrorARN, "aws:secretsmanager:eu-central-1", "aws-iso-b:secretsmanager:us-isob-east-1", 1):    "secretsmanager.us-isob-east-1.sc2s.sgov.gov",
		strings.Replace(parameterARN, "aws:ssm:eu-central-1", "aws-cn:ssm:cn-north-1", 1):                              "ssm.cn-north-1.amazonaws.com.cn",
		strings.Replace(parameterARN, "aws:ssm:eu-central-1", "aws-eusc:ssm:eusc-de-east-1", 1) + "/of/a/path.x-y_z:3": "ssm.eusc-de-east-1.amazonaws.eu",
	} {
		withJob(t, want, func(j *job) {
			j.onAWS("", arn)
			delete(j.env, "AWS_ENDPOINT_URL")
			j.program("curl", "case $* in *' https://"+want+"/') exit 7 ;; esac; echo \"unexpected: $*\" >&2\n")
			j.program("aws", "case $* in *' "+arn+" '*) echo '{\"SecretString\": \""+token+"\", \"Parameter\": {\"Value\": \""+token+"\"}}' ;; esac\n")
			if stderr := j.wantToken(token); stderr != "" {
				t.Errorf("got %q, want nothing", stderr)
			}
		})
	}
	withJob(t, "a parameter", func(j *job) { // of a strange form
		j.onAWS("", parameterARN)
		j.program("curl", "exit 7\n")
		for _, answer := range []string{`{"Parameter": "x"}`, `{"Parameter": {"Version": 1}}`, `{"SecretString": "x", "Value": "x", "payload": "x"}`} {
			j.program("aws", "echo '"+answer+"'\n")
			j.wantFailure(1, "the secret is empty")
		}
	})
	// What AWS says beside its code may be anything.
	for said, want := range map[string]string{
		"An error occurred (AccessDeniedException) when calling the GetSecretValue operation: its text": "An error occurred (AccessDeniedException) when calling the GetSecretValue operation\n",
		"An error occurred (403) when calling the GetSecretValue operation: its text":                   "An error occurred (403) when calling the GetSecretValue operation\n",
		"An error occurred (a_key-1) when calling the GetSecretValue operation: its text":               "An error occurred\n",
		"Unable to locate\x1b": "Unable to locate\n",
	} {
		withJob(t, said, func(j *job) {
			j.onAWS("", mirrorARN)
			delete(j.env, "AWS_ENDPOINT_URL")
			j.program("curl", "case $* in *' https://secretsmanager.eu-central-1.amazonaws.com/') exit 7 ;; esac; echo \"unexpected: $*\" >&2\n")
			j.program("aws", "printf '\\n%s\\nits text\\n' '"+said+"' >&2; exit 255\n")
			if stderr := j.wantFailure(1, want); !strings.HasPrefix(stderr, want) || strings.Contains(stderr, "its text") {
				t.Errorf("got %q, want %q before all else", stderr, want)
			}
		})
	}
}
