package iamtokentest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestPrintedForms(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.publish(time.Hour)
		for format, want := range map[string]string{
			"":       "Bearer " + token + "\n",
			"header": "Bearer " + token + "\n",
			"raw":    token + "\n",
			"json":   `{"iam_token":"Bearer ` + token + `"}` + "\n",
			"env":    "export IAM_TOKEN='Bearer " + token + "'\n",
		} {
			args := []string{"--format", format}
			if format == "" {
				args = nil
			}
			stdout, stderr, exit := s.iamToken(args...)
			if stdout != want || stderr != "" || exit != 0 {
				s.t.Errorf("--format %q: got exit %d, %d bytes (stderr %q), want exit 0 and the token", format, exit, len(stdout), stderr)
			}
		}
	})
}

func TestTokenJSONTellsTheTimeLeft(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		expires := time.Now().Add(20 * time.Minute)
		s.store(s.token(20*time.Minute), expires)
		stdout, stderr, exit := s.iamToken("--format", "token.json")
		var got struct {
			AccessToken string `json:"access_token"`
			TokenType   string `json:"token_type"`
			Expiration  int64  `json:"expiration"`
			ExpiresIn   int64  `json:"expires_in"`
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || exit != 0 {
			s.t.Fatalf("got exit %d, %v (stderr %q)", exit, err, stderr)
		}
		if got.TokenType != "Bearer" || !strings.HasPrefix(got.AccessToken, "eyJ") {
			s.t.Errorf("got token_type %q and a token of %d bytes", got.TokenType, len(got.AccessToken))
		}
		if got.Expiration != expires.Unix() || got.ExpiresIn > 1200 || got.ExpiresIn < 1140 {
			s.t.Errorf("got expiration %d, expires_in %d; want %d and just under 1200", got.Expiration, got.ExpiresIn, expires.Unix())
		}
	})
}

func TestStoredForms(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.token(time.Hour)
		tokenJSON := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`, token, time.Now().Add(time.Hour).Unix())
		for name, payload := range map[string]string{
			"raw":                     token,
			"raw with a newline":      token + "\n",
			"bearer":                  "Bearer " + token,
			"bearer in small letters": "bearer  " + token,
			"json":                    tokenJSON,
			"the CLI's json":          fmt.Sprintf(`{"iam_token":"Bearer %s"}`, token),
		} {
			s.store(payload, time.Now().Add(time.Hour))
			s.wantRaw(name, token)
		}
		metadata := map[string]any{"expiration": time.Now().Add(time.Hour).Unix()}
		for name, data := range map[string]map[string]any{
			"kv":                     {"iam_token": token},
			"kv, bearer":             {"iam_token": "Bearer " + token},
			"kv, json":               {"iam_token": tokenJSON},
			"kv, a field of its own": {"logs_token": token},
			"kv, among others":       {"iam_token": token, "owner": "someone"},
		} {
			s.env["TOKEN_SECRET"] = s.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
				Type: "kv", Group: s.cloud.TokenGroupName(), Data: data, Metadata: metadata,
			})
			s.wantRaw(name, token)
		}
	})
}

func (s *stage) wantRaw(name, token string, args ...string) {
	s.t.Helper()
	stdout, stderr, exit := s.iamToken(append([]string{"--format", "raw"}, args...)...)
	if stdout != token+"\n" || exit != 0 {
		s.t.Errorf("%s: got exit %d, %d bytes (stderr %q), want exit 0 and the token", name, exit, len(stdout), stderr)
	}
}

func TestTheDocumentedExampleWorks(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		s.publish(time.Hour)
		s.env["IAM_TOKEN"] = "Bearer of something else"
		for name, example := range map[string]string{
			"header": `export IAM_TOKEN="$("$1" --format header)"`,
			"json":   `export IAM_TOKEN=$("$1" --format json | jq -r '.iam_token')`,
			"env":    `eval "$("$1" --format env)"`,
		} {
			stdout, stderr, exit := s.sh("-c", example+`
curl -s -o /dev/null -w '%{http_code}' -X GET "$IAM_URL/v3/targets" -H "Authorization: ${IAM_TOKEN}"`, "job", script(s.t))
			if stdout != "200" || exit != 0 {
				s.t.Errorf("%s: Logs Routing answered %s (exit %d, stderr %q), want 200", name, stdout, exit, stderr)
			}
		}
		stdout, _, _ := s.sh("-c", `set -x; "$1" | sed 's/^/Authorization: /' | curl -s -o /dev/null -w '%{http_code}' -H @- "$IAM_URL/v3/targets"`, "job", script(s.t))
		if stdout != "200" {
			s.t.Errorf("through a pipe: Logs Routing answered %s, want 200", stdout)
		}
	})
}

func TestCheckPrintsTheExpiryFromMetadata(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		expires := time.Now().Add(20 * time.Minute)
		s.store(s.token(20*time.Minute), expires)
		want := expires.UTC().Truncate(time.Second).Format(time.RFC3339) + "\n"
		if stdout, stderr, exit := s.iamToken("--check"); stdout != want || exit != 0 {
			s.t.Errorf("got %q, exit %d (stderr %q), want %q, exit 0", stdout, exit, stderr, want)
		}
		for _, request := range s.cloud.Requests() {
			if request.Op == ibmcloudtest.OpVersionsGet || request.Op == ibmcloudtest.OpSecretsGet {
				s.t.Errorf("--check read the value: %s", request.Path)
			}
		}
		if _, _, exit := s.iamToken("--check", "--min-ttl", "21m"); exit != 1 {
			s.t.Errorf("--min-ttl 21m: got exit %d, want 1", exit)
		}
		s.store(s.token(-time.Minute), time.Now().Add(-time.Minute))
		if _, stderr, exit := s.iamToken("--check"); exit != 3 || !strings.Contains(stderr, "expired 1m") {
			s.t.Errorf("an expired token: got exit %d (stderr %q), want 3", exit, stderr)
		}
	})
}
