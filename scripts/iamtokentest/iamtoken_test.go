package iamtokentest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
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

func wantSaid(t *testing.T, name, stderr, advice string) {
	t.Helper()
	if !strings.Contains(stderr, advice) {
		t.Errorf("%s: got stderr %q, want it to say %q", name, stderr, advice)
	}
}

func TestUsage(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		for _, args := range [][]string{
			{"--format"}, {"--format", "jwt"}, {"--min-ttl", "5x"}, {"--min-ttl", ""}, {"--min-ttl", "1h"}, {"--wait", "soon"},
			{"--frobnicate"}, {"-x"}, {"one", "two"},
		} {
			s.wantFailure(2, args, "iam-token -h")
		}
		if requests := s.cloud.Requests(); len(requests) != 0 {
			s.t.Errorf("got %d requests, want none", len(requests))
		}
		s.wantFailure(2, []string{"--format", "raw", "--frobnicate", "x"}, "argument 3 is no option")
		s.env["PATH"] = s.bin // without curl and jq
		if err := os.Symlink(programs.Path(s.t, "cat"), filepath.Join(s.bin, "cat")); err != nil {
			s.t.Fatal(err)
		}
		stdout, stderr, exit := s.iamToken("-h")
		if exit != 0 || stderr != "" || !strings.HasPrefix(stdout, "Usage: iam-token ") {
			s.t.Errorf("-h: got exit %d, stderr %q, stdout %.40q", exit, stderr, stdout)
		}
	})
}

func TestSettings(t *testing.T) {
	for name, test := range map[string]struct {
		set    map[string]string
		advice string
	}{
		"no identity":              {map[string]string{"READER_APIKEY": ""}, "exactly one of"},
		"the rotator's own key":    {map[string]string{"READER_APIKEY": "", "SECRETS_MANAGER_APIKEY": "key"}, "exactly one of"},
		"a token for other things": {map[string]string{"READER_APIKEY": "", "IAM_TOKEN": "Bearer x"}, "exactly one of"},
		"two identities":           {map[string]string{"IAM_PROFILE_NAME": "reader"}, "(2 are set)"},
		"no instance":              {map[string]string{"SECRETS_MANAGER_URL": ""}, "SECRETS_MANAGER_URL is not set"},
		"http":                     {map[string]string{"SECRETS_MANAGER_URL": "http://10.0.0.1"}, "https://"},
		"http, disguised":          {map[string]string{"SECRETS_MANAGER_URL": "http://localhost:80@example.com"}, "origin"},
		"a path":                   {map[string]string{"IAM_URL": "https://iam.cloud.ibm.com/identity/token"}, "origin"},
		"no secret":                {map[string]string{"TOKEN_SECRET": ""}, "TOKEN_SECRET"},
		"a key of two lines":       {map[string]string{"READER_APIKEY": "one\ntwo"}, "READER_APIKEY holds no"},
		"no file":                  {map[string]string{"READER_APIKEY": "", "READER_APIKEY_FILE": "/nonexistent"}, "READER_APIKEY_FILE cannot be read"},
		"no compute resource":      {map[string]string{"READER_APIKEY": "", "IAM_PROFILE_NAME": "reader", "CR_TOKEN_FILENAME": "/nonexistent"}, "CR_TOKEN_FILENAME"},
		"no ARN":                   {map[string]string{"READER_APIKEY": "", "TOKEN_SECRET_ARN": "iam-token"}, "TOKEN_SECRET_ARN"},
	} {
		t.Run(name, func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				for variable, value := range test.set {
					s.env[variable] = value
				}
				s.wantFailure(2, nil, test.advice)
			})
		})
	}
}

func TestIdentities(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.publish(time.Hour)
		key := s.cloud.ReaderAPIKey()
		file := func(name, content string) string {
			path := filepath.Join(s.t.TempDir(), name)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				s.t.Fatal(err)
			}
			return path
		}
		for name, identity := range map[string]map[string]string{
			"a key with a newline": {"READER_APIKEY": key + "\n"},
			"a file":               {"READER_APIKEY_FILE": file("key", key+"\n")},
			"IBM's apikey.json":    {"READER_APIKEY_FILE": file("apikey.json", `{"name":"reader","apikey":"`+key+`"}`)},
			"a token":              {"READER_IAM_TOKEN": "Bearer " + s.cloud.MustMintToken(key, time.Hour)},
			"a bare token":         {"READER_IAM_TOKEN": s.cloud.MustMintToken(key, time.Hour)},
		} {
			delete(s.env, "READER_APIKEY")
			for variable, value := range identity {
				s.env[variable] = value
			}
			s.wantRaw(name, token)
			for variable := range identity {
				delete(s.env, variable)
			}
		}
		// The sandbox's profile is the rotator's own, which may not read the token: that it
		// is told so, as that profile, shows that the exchange went well.
		s.env["CR_TOKEN_FILENAME"] = file("cr-token", "compute-resource-token\n")
		for name, value := range map[string]string{"IAM_PROFILE_NAME": ibmcloudtest.ProfileName, "IAM_PROFILE_ID": s.cloud.ProfileID()} {
			s.env[name] = value
			s.wantFailure(1, nil, "the identity of "+name+" may not read")
			delete(s.env, name)
		}
	})
}

func TestRefusedIdentities(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		s.publish(time.Hour)
		s.env["READER_APIKEY"] = "a-key-that-nobody-knows"
		s.wantFailure(1, nil, "IAM does not take READER_APIKEY (HTTP 400, BXNIM0415E)")
		delete(s.env, "READER_APIKEY")
		s.env["READER_IAM_TOKEN"] = s.cloud.MustMintToken(s.cloud.ReaderAPIKey(), -time.Minute)
		s.wantFailure(1, nil, "does not take the token of READER_IAM_TOKEN")
	})
}

func TestBadInput(t *testing.T) {
	jwt := func(claims string) string {
		return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
	}
	for name, test := range map[string]struct {
		payload  string
		metadata map[string]any // nil: none
		exit     int
		advice   string
	}{
		"no token yet":               {"no token yet", nil, 1, "no token yet"},
		"white space":                {" \n ", nil, 1, "is empty"},
		"a web page":                 {"<html><body>502</body></html>", future(), 1, "no token"},
		"words":                      {"to be done", future(), 1, "no token"},
		"an API key":                 {"a-key-of-44-characters-has-no-expiry-to-read", nil, 1, "cannot be told"},
		"Bearer without a token":     {"Bearer ", future(), 1, "no token"},
		"JSON without a token":       {`{"refresh_token":1,"expires_in":3600}`, future(), 1, "no token"},
		"JSON with an empty token":   {`{"access_token":""}`, future(), 1, "no token"},
		"JSON with a broken token":   {`{"access_token":"two words"}`, future(), 1, "no token"},
		"broken JSON":                {`{"access_token":"eyJ`, future(), 1, "no token"},
		"a JSON list":                {`["eyJ"]`, future(), 1, "no token"},
		"two lines":                  {"eyJhbGci\neyJhbGci", future(), 1, "no token"},
		"no expiry to read":          {"opaque", nil, 1, "cannot be told"},
		"unreadable metadata":        {"opaque", map[string]any{"expiration": "soon"}, 1, "cannot be told"},
		"a JWT without exp":          {jwt(`{"iat":1}`), nil, 1, "cannot be told"},
		"a JWT with a text for exp":  {jwt(`{"exp":"soon"}`), nil, 1, "cannot be told"},
		"a JWT that is no JSON":      {jwt(`exp`), nil, 1, "cannot be told"},
		"expired by metadata":        {"opaque", past(), 3, "expired 1h30m ago"},
		"expired, without metadata":  {jwt(`{"exp":1767225600}`), nil, 3, "2026-01-01T00:00:00Z"},
		"expired by its own account": {jwt(`{"exp":1767225600}`), future(), 3, "2026-01-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				s.cloud.MustPutVersion(s.secret(), test.payload, test.metadata)
				s.wantFailure(test.exit, nil, test.advice)
			})
		})
	}
}

func future() map[string]any {
	return map[string]any{"expiration": time.Now().Add(time.Hour).Unix()}
}

func past() map[string]any {
	return map[string]any{"expiration": time.Now().Add(-90 * time.Minute).Unix()}
}

func TestBadSecrets(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.publish(time.Hour)
		for name, test := range map[string]struct {
			secret string
			advice string
		}{
			"missing":                 {"00000000-0000-4000-8000-000000000000", "no such secret"},
			"forbidden":               {s.cloud.Rotations()[0].APIKeySecret, "SecretsReader"},
			"no id":                   {"token", "the SECRET given is no secret id"},
			"an API key for an id":    {s.cloud.ReaderAPIKey(), "no secret id"},
			"a kv secret of many":     {s.kv(map[string]any{"a": token, "b": token}), "no token"},
			"a kv secret of a number": {s.kv(map[string]any{"iam_token": 1}), "no token"},
			"a secret of another type": {s.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
				Type: "iam_credentials", Group: s.cloud.TokenGroupName(), ReuseAPIKey: true,
			}), "a type that holds no token"},
		} {
			stdout, stderr, exit := s.iamToken(test.secret)
			if exit == 0 || stdout != "" {
				s.t.Errorf("%s: got exit %d and %d bytes, want a failure", name, exit, len(stdout))
			}
			wantSaid(s.t, name, stderr, test.advice)
			s.wantNoSecret(name, stderr)
		}
	})
}

func (s *stage) kv(data map[string]any) (id string) {
	return s.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: s.cloud.TokenGroupName(), Data: data, Metadata: future()})
}

// A token that somebody wrote by hand bears no metadata, but tells its expiry itself.
func TestATokenWrittenByHand(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		token := s.token(20 * time.Minute)
		s.cloud.MustPutVersion(s.secret(), token, nil)
		s.wantRaw("by hand", token, "--min-ttl", "19m")
		s.wantFailure(1, []string{"--min-ttl", "21m"}, "--min-ttl")
		s.wantFailure(1, []string{"--check"}, "no metadata")
	})
}

// Metadata can be edited: a year ahead is believed up to 61 minutes after the version was made.
func TestAForgedExpiryIsNotBelieved(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}, func(s *stage) {
		s.cloud.MustPutVersion(s.secret(), "opaque", map[string]any{"expiration": time.Now().AddDate(1, 0, 0).Unix()})
		s.wantRaw("while it can be true", "opaque")
		stdout, _, _ := s.iamToken("--check")
		printed, err := time.Parse(time.RFC3339, stdout[:max(0, len(stdout)-1)])
		if left := time.Until(printed.Add(2 * time.Hour)); err != nil || left > 61*time.Minute {
			s.t.Errorf("got %q (%v), %s from the version's creation, want 61m at most", stdout, err, left)
		}
	})
}

func TestThisMachinesClockIsOff(t *testing.T) {
	for name, test := range map[string]struct {
		ahead time.Duration // of the cloud's clock
		ttl   time.Duration // of the stored token, by the cloud's clock
		exit  int
		note  string
	}{
		"slow, the token has expired": {7*time.Minute + 30*time.Second, -time.Minute, 3, "slow; "},
		"fast, the token is good":     {-70 * time.Minute, 50 * time.Minute, 0, "fast; "},
	} {
		t.Run(name, func(t *testing.T) {
			now := func() time.Time { return time.Now().Truncate(time.Second).Add(test.ahead) }
			underEachShell(t, ibmcloudtest.Options{Now: now}, func(s *stage) {
				s.store(s.token(test.ttl), now().Add(test.ttl))
				stdout, stderr, exit := s.iamToken()
				if exit != test.exit || (stdout != "") != (test.exit == 0) {
					s.t.Errorf("got exit %d and %d bytes (stderr %q), want exit %d", exit, len(stdout), stderr, test.exit)
				}
				wantSaid(s.t, name, stderr, test.note)
			})
		})
	}
}

func TestShellcheckFindsNothing(t *testing.T) {
	programs.Need(t, "shellcheck")
	jobs, err := filepath.Glob("../examples/*-job")
	if err != nil {
		t.Fatal(err)
	}
	scripts := []string{"../iam-token", "../examples/run"}
	for _, job := range jobs {
		if filepath.Base(job) != "go-job" { // a folder
			scripts = append(scripts, job)
		}
	}
	if out, err := exec.Command("shellcheck", scripts...).CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

func TestNoSecretIsInArgumentsOrFiles(t *testing.T) {
	underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
		recorded := filepath.Join(s.t.TempDir(), "arguments")
		for _, name := range []string{"curl", "jq", "sleep", "date", "cat", "grep", "printf", "sed", "tr"} {
			path, err := exec.LookPath(name)
			if err != nil {
				continue
			}
			s.program(name, fmt.Sprintf("printf '%%s\\n' %s \"$@\" >>'%s'\nexec '%s' \"$@\"\n", name, recorded, path))
		}
		s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 503, Times: 1})
		token := s.publish(time.Hour)
		for _, format := range []string{"header", "raw", "json", "env", "token.json"} {
			if _, stderr, exit := s.iamToken("--format", format, "--min-ttl", "5m"); exit != 0 {
				s.t.Errorf("--format %s: got exit %d (stderr %q)", format, exit, stderr)
			}
		}
		arguments, err := os.ReadFile(recorded)
		if err != nil {
			s.t.Fatal(err)
		}
		if !strings.Contains(string(arguments), "/identity/token") {
			s.t.Error("the recorder saw no exchange: this test could not fail")
		}
		s.wantNoSecret("a program's arguments", string(arguments))
		if strings.Contains(string(arguments), token[10:30]) {
			s.t.Error("a program's arguments hold the token")
		}
		for _, folder := range []string{s.env["TMPDIR"], s.env["HOME"]} {
			if files, err := os.ReadDir(folder); err != nil || len(files) != 0 {
				s.t.Errorf("got %d files left behind (%v), want none", len(files), err)
			}
		}
	})
}

func TestTracingShowsNoSecret(t *testing.T) {
	for _, options := range [][]string{{"-x"}, {"-v"}, {"-xv"}} {
		t.Run(options[0], func(t *testing.T) {
			underEachShell(t, ibmcloudtest.Options{}, func(s *stage) {
				token := s.publish(time.Hour)
				s.options = options
				stdout, stderr, exit := s.iamToken("--format", "raw")
				if stdout != token+"\n" || exit != 0 {
					s.t.Errorf("got exit %d and %d bytes, want the token", exit, len(stdout))
				}
				s.wantNoSecret("the trace", stderr)
			})
		})
	}
	t.Run("SHELLOPTS", func(t *testing.T) {
		s := newStage(t, "bash", ibmcloudtest.Options{})
		s.publish(time.Hour)
		s.env["SHELLOPTS"] = "xtrace:verbose"
		_, stderr, exit := s.sh("-c", `bash "$1" >/dev/null`, "job", script(t))
		if exit != 0 || !strings.Contains(stderr, "+ bash") {
			t.Errorf("got exit %d, stderr %q: want the caller's own trace", exit, stderr)
		}
		s.wantNoSecret("the trace", stderr)
	})
}
