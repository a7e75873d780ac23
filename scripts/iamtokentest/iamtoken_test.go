package iamtokentest

import (
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
	underEachShell(t, func(fx *fixture) {
		token := fx.save(time.Hour)
		for format, want := range map[string]string{
			"":       "Bearer " + token + "\n",
			"header": "Bearer " + token + "\n",
			"raw":    token + "\n",
			"json":   `{"iam_token":"Bearer ` + token + `"}` + "\n",
			"env":    "export IAM_TOKEN='Bearer " + token + "'\n",
		} {
			args := []string{"--format=" + format}
			if format == "" {
				args = nil
			}
			if stdout, stderr, exit := fx.iamToken(args...); stdout != want || stderr != "" || exit != 0 {
				fx.t.Errorf("--format %q: got exit %d, %d bytes (stderr %q), want exit 0 and the token", format, exit, len(stdout), stderr)
			}
		}
		expires := time.Now().Add(20 * time.Minute)
		fx.store(fx.token(20*time.Minute), expires)
		stdout, stderr, exit := fx.iamToken("--format", "token.json", "--min-ttl=1m")
		var got struct {
			AccessToken string `json:"access_token"`
			TokenType   string `json:"token_type"`
			Expiration  int64  `json:"expiration"`
			ExpiresIn   int64  `json:"expires_in"`
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || exit != 0 {
			fx.t.Fatalf("token.json: got exit %d, %v (stderr %q)", exit, err, stderr)
		}
		if got.TokenType != "Bearer" || !strings.HasPrefix(got.AccessToken, "eyJ") || got.Expiration != expires.Unix() || got.ExpiresIn > 1200 || got.ExpiresIn < 1140 {
			fx.t.Errorf("got %q, a token of %d bytes, expiration %d, expires_in %d; want %d and just under 1200",
				got.TokenType, len(got.AccessToken), got.Expiration, got.ExpiresIn, expires.Unix())
		}
	})
}

func TestTheDocumentedExampleWorks(t *testing.T) {
	underEachShell(t, func(fx *fixture) {
		fx.save(time.Hour)
		fx.env["IAM_TOKEN"] = "Bearer of something else"
		for name, example := range map[string]string{
			"header": `export IAM_TOKEN="$("$1" --format header)"`,
			"json":   `export IAM_TOKEN=$("$1" --format json | jq -r '.iam_token')`,
			"env":    `eval "$("$1" --format env)"`,
		} {
			stdout, stderr, exit := fx.sh("-c", example+`
curl -s -o /dev/null -w '%{http_code}' -X GET "$IAM_URL/v3/targets" -H "Authorization: ${IAM_TOKEN}"`, "job", script(fx.t))
			if stdout != "200" || exit != 0 {
				fx.t.Errorf("%s: Logs Routing answered %s (exit %d, stderr %q), want 200", name, stdout, exit, stderr)
			}
		}
		stdout, _, _ := fx.sh("-c", `set -x; "$1" | sed 's/^/Authorization: /' | curl -s -o /dev/null -w '%{http_code}' -H @- "$IAM_URL/v3/targets"`, "job", script(fx.t))
		if stdout != "200" {
			fx.t.Errorf("through a pipe: Logs Routing answered %s, want 200", stdout)
		}
	})
}

func TestCheckPrintsTheExpiryFromMetadata(t *testing.T) {
	withFixture(t, "check", ibmcloudtest.Options{}, func(fx *fixture) {
		expires := time.Now().Add(20 * time.Minute)
		fx.store(fx.token(20*time.Minute), expires)
		want := expires.UTC().Truncate(time.Second).Format(time.RFC3339) + "\n"
		stdout, stderr, exit := fx.iamToken("--check")
		fx.wantNoSecret("--check", stdout)
		if stdout != want || exit != 0 {
			fx.t.Errorf("got %q, exit %d (stderr %q), want %q, exit 0", stdout, exit, stderr, want)
		}
		if fx.cloud.CountRequests(ibmcloudtest.OpVersionsGet, "")+fx.cloud.CountRequests(ibmcloudtest.OpSecretsGet, "") > 0 {
			fx.t.Error("--check read the value")
		}
		if stdout, _, exit := fx.iamToken("--check", "--min-ttl", "21m"); exit != 1 || stdout != want {
			fx.t.Errorf("--min-ttl 21m: got exit %d and %q, want 1 and the expiry", exit, stdout)
		}
		fx.store(fx.token(-time.Minute), time.Now().Add(-time.Minute))
		if _, stderr, exit := fx.iamToken("--check"); exit != 3 || !strings.Contains(stderr, "expired 1m") {
			fx.t.Errorf("an expired token: got exit %d (stderr %q), want 3", exit, stderr)
		}
	})
}

func TestUsage(t *testing.T) {
	underEachShell(t, func(fx *fixture) {
		for _, args := range [][]string{
			{"--format"}, {"--format", "jwt"}, {"--format="}, {"--min-ttl", "5x"}, {"--min-ttl="}, {"--min-ttl", "1h"}, {"--wait", "soon"},
			{"--frobnicate"}, {"--frobnicate=raw"}, {"--check=yes"}, {"-x"}, {"one", "two"},
		} {
			fx.wantFailure(2, args, "iam-token -h")
		}
		if requests := fx.cloud.Requests(); len(requests) != 0 {
			fx.t.Errorf("got %d requests, want none", len(requests))
		}
		fx.wantFailure(2, []string{"--format", "raw", "--frobnicate", "x"}, "argument 3 is no option")
		fx.wantFailure(2, []string{"--format=raw", "--apikey=" + fx.cloud.ReaderAPIKey()}, "argument 2 is no option")
		fx.program("jq", "echo jq-1.5-1-a5b5cbe\n")
		fx.wantFailure(2, []string{"--frobnicate"}, "jq 1.6 or newer is needed")
		fx.program("jq", "echo 'No version is set for command jq' >&2; exit 126\n")
		fx.wantFailure(2, nil, "no shim")
		fx.env["PATH"] = fx.bin // without curl
		if err := os.Symlink(programs.Path(fx.t, "cat"), filepath.Join(fx.bin, "cat")); err != nil {
			fx.t.Fatal(err)
		}
		if fx.shell[0] != "busybox" {
			fx.wantFailure(2, nil, "curl is not installed")
		}
		stdout, stderr, exit := fx.iamToken("-h")
		if exit != 0 || stderr != "" || !strings.HasPrefix(stdout, "Usage: iam-token ") {
			fx.t.Errorf("-h: got exit %d, stderr %q, stdout %.40q", exit, stderr, stdout)
		}
	})
}

func TestSettings(t *testing.T) {
	folder := t.TempDir()
	for name, test := range map[string]struct {
		set    map[string]string
		advice string
	}{
		"no identity":              {map[string]string{"READER_APIKEY": ""}, "(set: none)"},
		"the rotator's own key":    {map[string]string{"READER_APIKEY": "", "SECRETS_MANAGER_APIKEY": "key"}, "exactly one of"},
		"a token for other things": {map[string]string{"READER_APIKEY": "", "IAM_TOKEN": "Bearer x"}, "exactly one of"},
		"two identities":           {map[string]string{"IAM_PROFILE_NAME": "reader"}, "(set: READER_APIKEY IAM_PROFILE_NAME)"},
		"no instance":              {map[string]string{"SECRETS_MANAGER_URL": ""}, "SECRETS_MANAGER_URL is not set"},
		"http":                     {map[string]string{"SECRETS_MANAGER_URL": "http://10.0.0.1"}, "https://"},
		"an address, disguised":    {map[string]string{"SECRETS_MANAGER_URL": "http://[::1].example.com"}, "https://"},
		"http, disguised":          {map[string]string{"SECRETS_MANAGER_URL": "http://localhost:80@example.com"}, "origin"},
		"a path":                   {map[string]string{"IAM_URL": "https://iam.cloud.ibm.com/identity/token"}, "origin"},
		"a placeholder":            {map[string]string{"SECRETS_MANAGER_URL": "https://<instance>.us-south.secrets-manager.appdomain.cloud"}, "SECRETS_MANAGER_URL still has a placeholder"},
		"a variable":               {map[string]string{"IAM_URL": "https://${REGION}.test/"}, "IAM_URL still has a placeholder"},
		"a template":               {map[string]string{"SECRETS_MANAGER_URL": "https://{instance}.test"}, "still has a placeholder"},
		"an empty variable":        {map[string]string{"SECRETS_MANAGER_URL": "https://.us-south.test"}, "has an empty part"},
		"two dots":                 {map[string]string{"SECRETS_MANAGER_URL": "https://a..test:443"}, "has an empty part"},
		"null":                     {map[string]string{"SECRETS_MANAGER_URL": "https://a.Null.test:443/"}, "has null, undefined or none in its host"},
		"undefined":                {map[string]string{"SECRETS_MANAGER_URL": "https://undefined.us-south.test"}, "has null, undefined or none in its host"},
		"a variable of Windows":    {map[string]string{"SECRETS_MANAGER_URL": "https://%ID%.us-south.test"}, "still has a placeholder"},
		"a null of a program":      {map[string]string{"SECRETS_MANAGER_URL": "https://(null).us-south.test"}, "still has a placeholder"},
		"dots of a page":           {map[string]string{"SECRETS_MANAGER_URL": "https://….us-south.test"}, "still has a placeholder"},
		"a token as the key":       {map[string]string{"READER_APIKEY": "eyJa.b.c"}, "READER_APIKEY is an access token"},
		"the id of a key":          {map[string]string{"READER_APIKEY": "ApiKey-e2dd1896-8c39-4160-b230-92430f439ba9"}, "READER_APIKEY is the id of an API key"},
		"no secret":                {map[string]string{"TOKEN_SECRET": ""}, "TOKEN_SECRET"},
		"a group and a name":       {map[string]string{"TOKEN_SECRET": "group/e2dd1896-8c39-4160-b230-92430f439ba9"}, "TOKEN_SECRET is no secret id, such as"},
		"a secret group's CRN":     {map[string]string{"TOKEN_SECRET": "crn:v1:bluemix:public:secrets-manager:us-south:a/1:e2dd1896-8c39-4160-b230-92430f439ba9:secret-group:e2dd1896-8c39-4160-b230-92430f439ba9"}, "no secret id"},
		"another instance": {map[string]string{"SECRETS_MANAGER_URL": "https://11111111-8c39-4160-b230-92430f439ba9.us-south.test",
			"TOKEN_SECRET": "us-south/e2dd1896-8c39-4160-b230-92430f439ba9/e2dd1896-8c39-4160-b230-92430f439ba9"}, "of another Secrets Manager instance"},
		"a key of two lines":      {map[string]string{"READER_APIKEY": "one\ntwo"}, "READER_APIKEY holds no"},
		"a key in quotes":         {map[string]string{"READER_APIKEY": `"eyJ"`}, "READER_APIKEY is in quotes"},
		"half a key in quotes":    {map[string]string{"READER_APIKEY": "eyJ\u2019\n"}, "READER_APIKEY is in quotes"},
		"a byte-order mark":       {map[string]string{"READER_APIKEY": "\ufeffeyJ"}, "READER_APIKEY begins with a byte-order mark"},
		"the null of jq":          {map[string]string{"READER_APIKEY": "null\n"}, "READER_APIKEY is what a program prints for a field that is not there"},
		"a line of a file":        {map[string]string{"READER_APIKEY": "READER_APIKEY=eyJ"}, "READER_APIKEY is a line NAME=key"},
		"a line of a shell":       {map[string]string{"READER_APIKEY": "export KEY=eyJ\n"}, "READER_APIKEY is a line NAME=key"},
		"a variable's name":       {map[string]string{"READER_APIKEY": "${KEY}"}, "READER_APIKEY is a placeholder"},
		"a page's words":          {map[string]string{"READER_APIKEY": "<your key>"}, "READER_APIKEY is a placeholder"},
		"a template's words":      {map[string]string{"READER_APIKEY": "{{ .eyJ }}"}, "READER_APIKEY is a placeholder"},
		"a space without width":   {map[string]string{"READER_APIKEY": "e\u200byJ"}, "READER_APIKEY has an invisible character"},
		"one in a token":          {map[string]string{"READER_APIKEY": "", "READER_IAM_TOKEN": "e\u200byJ"}, "READER_IAM_TOKEN has an invisible character"},
		"a token in quotes":       {map[string]string{"READER_APIKEY": "", "READER_IAM_TOKEN": "'Bearer eyJ'"}, "READER_IAM_TOKEN is in quotes"},
		"a key as reader's token": {map[string]string{"READER_APIKEY": "", "READER_IAM_TOKEN": "null"}, "READER_IAM_TOKEN holds no token"},
		"no file":                 {map[string]string{"READER_APIKEY": "", "READER_APIKEY_FILE": "/nonexistent"}, "READER_APIKEY_FILE cannot be read"},
		"a folder":                {map[string]string{"READER_APIKEY": "", "READER_APIKEY_FILE": folder}, "READER_APIKEY_FILE is not a regular file"},
		"a device":                {map[string]string{"READER_APIKEY": "", "READER_APIKEY_FILE": "/dev/zero"}, "READER_APIKEY_FILE is not a regular file"},
		"no compute resource":     {map[string]string{"READER_APIKEY": "", "IAM_PROFILE_NAME": "reader", "CR_TOKEN_FILENAME": "/nonexistent"}, "on Code Engine enable the trusted profile on the job"},
		"no ARN":                  {map[string]string{"READER_APIKEY": "", "TOKEN_SECRET_ARN": "iam-token"}, "TOKEN_SECRET_ARN"},
		"a document of SSM":       {map[string]string{"READER_APIKEY": "", "TOKEN_SECRET_ARN": "arn:aws:ssm:eu-central-1:123456789012:document/logs"}, "not the ARN of an AWS secret or of a parameter"},
		"SSM in the clear":        {map[string]string{"READER_APIKEY": "", "TOKEN_SECRET_ARN": parameterARN, "AWS_ENDPOINT_URL_SSM": "http://10.0.0.1"}, "AWS_ENDPOINT_URL"},
		"AWS in the clear":        {map[string]string{"READER_APIKEY": "", "TOKEN_SECRET_ARN": mirrorARN, "AWS_ENDPOINT_URL": "http://10.0.0.1"}, "AWS_ENDPOINT_URL"},
	} {
		withFixture(t, name, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.program("aws", "exit 1\n")
			for variable, value := range test.set {
				fx.env[variable] = value
			}
			fx.wantFailure(2, nil, test.advice)
		})
	}
}

func TestIdentities(t *testing.T) {
	withFixture(t, "keys and tokens", ibmcloudtest.Options{}, func(fx *fixture) {
		token := fx.save(time.Hour)
		key := fx.cloud.ReaderAPIKey()
		link := filepath.Join(fx.t.TempDir(), "link")
		if err := os.Symlink(fx.file("key", key, 0o400), link); err != nil {
			fx.t.Fatal(err)
		}
		for name, identity := range map[string][2]string{
			"a key with a newline":                 {"READER_APIKEY", key + "\n"},
			"a file":                               {"READER_APIKEY_FILE", fx.file("key", key+"\r\n", 0o640)},
			"a link, as Kubernetes mounts secrets": {"READER_APIKEY_FILE", link},
			"IBM's apikey.json":                    {"READER_APIKEY_FILE", fx.file("apikey.json", `{"name":"reader","apikey":"`+key+`"}`, 0o600)},
			"a token":                              {"READER_IAM_TOKEN", "Bearer " + fx.cloud.MustMintToken(key, time.Hour)},
			"a bare token":                         {"READER_IAM_TOKEN", fx.cloud.MustMintToken(key, time.Hour)},
			"what ibmcloud prints":                 {"READER_IAM_TOKEN", "IAM token:  Bearer " + fx.cloud.MustMintToken(key, time.Hour) + "\n"},
			"any case, any white space":            {"READER_IAM_TOKEN", "\u00a0iam\tTOKEN:\r\nbEARER \v\f " + fx.cloud.MustMintToken(key, time.Hour)},
			"what older versions print":            {"READER_IAM_TOKEN", "IAM token:  Bearer " + fx.cloud.MustMintToken(key, time.Hour) + "\nUAA token:  Bearer another\n"},
			"no blank after the words":             {"READER_IAM_TOKEN", "IAM token:Bearer " + fx.cloud.MustMintToken(key, time.Hour)},
		} {
			delete(fx.env, "READER_APIKEY")
			fx.env[identity[0]] = identity[1]
			if stderr := fx.wantRaw(name, token); stderr != "" {
				fx.t.Errorf("%s: got stderr %q, want none", name, stderr)
			}
			delete(fx.env, identity[0])
		}
	})
	withFixture(t, "ids of other tools", ibmcloudtest.Options{}, func(fx *fixture) {
		token, id := fx.save(time.Hour), fx.secret()
		const instance = "11111111-8c39-4160-b230-92430f439ba9"
		for _, form := range []string{"arbitrary/" + id, "us-south/" + instance + "/" + id,
			"crn:v1:bluemix:public:secrets-manager:us-south:a/0123456789abcdef0123456789abcdef:" + instance + ":secret:" + id} {
			fx.wantRaw(form, token, form)
		}
	})
	withFixture(t, "files", ibmcloudtest.Options{}, func(fx *fixture) {
		token := fx.save(time.Hour)
		key := fx.cloud.ReaderAPIKey()
		delete(fx.env, "READER_APIKEY")
		fx.env["READER_APIKEY_FILE"] = fx.file("key", key, 0o644)
		if stderr := fx.wantRaw("everybody reads", token); !strings.Contains(stderr, "warning: everybody may read READER_APIKEY_FILE") {
			fx.t.Errorf("got stderr %q, want a warning", stderr)
		}
		for name, file := range map[string]string{
			"may be written by others": fx.file("group", key, 0o620),
			"written by others than":   fx.file("others", key, 0o602),
			"holds no API key":         fx.file("empty", "", 0o600),
			"no API key on one line":   fx.file("lines", key+"\n"+key, 0o600),
			"with a byte-order mark":   fx.file("bom", "\ufeff"+key, 0o600),
			"E begins with a byte":     fx.file("utf16", "\xff\xfek\x00e\x00y\x00", 0o600),
			"_FILE is in quotes":       fx.file("quotes", `"`+key+`"`, 0o600),
			"holds no API key on":      fx.file("large", strings.Repeat("k", 70_000), 0o600),
		} {
			fx.env["READER_APIKEY_FILE"] = file
			fx.wantFailure(2, nil, name)
		}
		pipe := filepath.Join(fx.t.TempDir(), "pipe")
		if err := exec.Command("mkfifo", pipe).Run(); err != nil {
			fx.t.Fatal(err)
		}
		fx.env["READER_APIKEY_FILE"] = pipe // nobody writes into it
		fx.wantFailure(2, nil, "is not a regular file")
	})
	withFixture(t, "a trusted profile", ibmcloudtest.Options{}, func(fx *fixture) {
		// The sandbox's profile is the rotator's own, which may not read the token: that
		// rejection shows that the exchange went well.
		fx.save(time.Hour)
		delete(fx.env, "READER_APIKEY")
		fx.env["CR_TOKEN_FILENAME"] = fx.file("cr-token", "compute-resource-token\n", 0o644)
		for name, value := range map[string]string{"IAM_PROFILE_NAME": ibmcloudtest.ProfileName, "IAM_PROFILE_ID": fx.cloud.ProfileID()} {
			fx.env[name] = value
			fx.wantFailure(1, nil, "the identity of "+name+" may not read")
			delete(fx.env, name)
		}
	})
	withFixture(t, "rejected", ibmcloudtest.Options{}, func(fx *fixture) {
		fx.program("sleep", "")
		fx.save(time.Hour)
		fx.env["READER_APIKEY"] = "a-key-that-nobody-knows"
		fx.wantFailure(1, nil, "IAM answered 400 BXNIM0415E: READER_APIKEY is not known to IAM")
		delete(fx.env, "READER_APIKEY")
		fx.env["READER_IAM_TOKEN"] = fx.cloud.MustMintToken(fx.cloud.ReaderAPIKey(), -time.Minute)
		fx.wantFailure(1, nil, "rejects the token of READER_IAM_TOKEN")
	})
}

func TestHTTPS(t *testing.T) {
	withFixture(t, "HTTPS", ibmcloudtest.Options{}, func(fx *fixture) {
		token := fx.save(time.Hour)
		ca := fx.serveTLS()
		fx.wantFailure(1, nil, "SSL_CERT_FILE")
		fx.env["SSL_CERT_FILE"] = ca
		fx.wantRaw("with the CA", token)
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
		now := func() time.Time { return time.Now().Truncate(time.Second).Add(test.ahead) }
		withFixture(t, name, ibmcloudtest.Options{Now: now}, func(fx *fixture) {
			fx.store(fx.token(test.ttl), now().Add(test.ttl))
			stdout, stderr, exit := fx.iamToken()
			if exit != test.exit || (stdout != "") != (test.exit == 0) || !strings.Contains(stderr, test.note) {
				fx.t.Errorf("got exit %d and %d bytes (stderr %q), want exit %d and %q", exit, len(stdout), stderr, test.exit, test.note)
			}
		})
	}
}

func TestShellcheckFindsNothing(t *testing.T) {
	t.Parallel()
	programs.Need(t, "shellcheck")
	scripts := []string{"../iam-token", "../examples/run", "../examples/shell-job"}
	if out, err := exec.Command("shellcheck", scripts...).CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

// Keys and tokens are in no program's arguments, environment or files, even of a
// shell that exports and traces everything.
func TestNoSecretIsInArgumentsEnvironmentsOrFiles(t *testing.T) {
	underEachShell(t, func(fx *fixture) {
		recorded := filepath.Join(fx.t.TempDir(), "recorded")
		for _, name := range []string{"curl", "jq", "sleep", "date", "cat", "grep", "printf", "sed", "tr", "head", "ls"} {
			if path, err := exec.LookPath(name); err == nil {
				fx.program(name, fmt.Sprintf("{ printf '%%s\\n' %s \"$@\"; env; } >>'%s'\nexec '%s' \"$@\"\n", name, recorded, path))
			}
		}
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 503, Times: 1})
		token := fx.save(time.Hour)
		for _, name := range []string{"access", "config", "credential", "given", "said", "text", "token", "value"} {
			fx.env[name] = "exported by the caller"
		}
		for _, option := range []string{"-a", "-x", "-v", "-xv"} {
			shell := fx.shell
			fx.shell = append(fx.shell[:len(fx.shell):len(fx.shell)], option)
			fx.wantRaw(option, token, "--min-ttl", "5m")
			fx.shell = shell
		}
		text, err := os.ReadFile(recorded)
		if err != nil || !strings.Contains(string(text), "/identity/token") {
			fx.t.Fatalf("the recorder saw no exchange (%v): this test could not fail", err)
		}
		fx.wantNoSecret("an argument or an environment", string(text))
		if strings.Contains(string(text), token[10:30]) {
			fx.t.Error("an argument or an environment holds the token")
		}
		for _, folder := range []string{fx.env["TMPDIR"], fx.env["HOME"]} {
			if files, err := os.ReadDir(folder); err != nil || len(files) != 0 {
				fx.t.Errorf("got %d files left behind (%v), want none", len(files), err)
			}
		}
	})
}

// What a caller's environment and home may hold changes nothing.
func TestAStrangeEnvironmentChangesNothing(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, "bash", ibmcloudtest.Options{})
	token := fx.save(time.Hour)
	folder := filepath.Join(t.TempDir(), "a=b c")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{".jq": "def test($re): true; def now: 0; def split($s): [.];", ".curlrc": "output = /dev/null\n", ".netrc": "default login a password b\n"} {
		if err := os.WriteFile(filepath.Join(fx.env["HOME"], name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"TMPDIR": folder, "CDPATH": "/", "IFS": "e", "SHELLOPTS": "allexport:xtrace:verbose",
		"newline": "x", "http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1", "definitions": "halt", "deadline": "9999999999", "wait": "1000", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo"} {
		fx.env[name] = value
	}
	stdout, stderr, exit := fx.sh("-c", `bash "$1" --format raw`, "job", script(t))
	if exit != 0 || stdout != token+"\n" || !strings.Contains(stderr, "+ bash") {
		t.Errorf("got exit %d, %d bytes, stderr %q: want the token and the caller's own trace", exit, len(stdout), stderr)
	}
}

// NO_PROXY=* means every host, to curl, if nothing else stands beside it.
func TestNoProxyKeepsItsMeaning(t *testing.T) {
	for given, want := range map[string]string{"*": "*", "": ",localhost,127.0.0.1,::1", "a.test": "a.test,localhost,127.0.0.1,::1"} {
		withFixture(t, "given "+given, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.program("curl", "echo \"$no_proxy $NO_PROXY\" >&2\nexit 63\n")
			fx.env["NO_PROXY"] = given
			fx.wantFailure(1, nil, want+" "+want+"\n")
		})
	}
}

// The exit status is right even where no message can be printed.
func TestClosedStderr(t *testing.T) {
	underEachShell(t, func(fx *fixture) {
		fx.save(-time.Minute)
		for _, want := range []int{3, 2} {
			if stdout, _, exit := fx.sh("-c", `exec 2>&-; . "$0"`, script(t)); exit != want || stdout != "" {
				fx.t.Errorf("got exit %d and %d bytes, want %d and none", exit, len(stdout), want)
			}
			fx.env["TOKEN_SECRET"] = ""
		}
	})
}

// The folder that holds the sandbox's keys goes, even if the sandbox has ended by itself.
func TestTheExamplesLeaveNothingBehind(t *testing.T) {
	underEachShell(t, func(fx *fixture) {
		fx.program("sandbox", "echo 'no port is free' >&2\nexit 1\n")
		_, stderr, exit := fx.sh("../examples/run", fx.bin)
		if exit != 1 || !strings.Contains(stderr, "no port is free") {
			fx.t.Errorf("got exit %d and stderr %q, want 1 and the reason", exit, stderr)
		}
		if left, err := os.ReadDir(fx.env["TMPDIR"]); err != nil || len(left) != 0 {
			fx.t.Errorf("got %d folders left behind (%v), want none", len(left), err)
		}
	})
}
