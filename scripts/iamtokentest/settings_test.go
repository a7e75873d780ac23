package iamtokentest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
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
	underEachShell(t, func(j *job) {
		expires := time.Now().Add(20 * time.Minute)
		token := j.token(20 * time.Minute)
		j.store(token, expires)
		j.byToken()
		j.env["IAM_TOKEN"] = "Bearer of something else"
		for args, want := range map[string]string{
			"":              "Bearer " + token + "\n",
			"--format=raw":  token + "\n",
			"--format json": `{"iam_token":"Bearer ` + token + `"}` + "\n",
			"--format=env":  "export IAM_TOKEN='Bearer " + token + "'\n",
		} {
			if stdout, stderr, exit := j.iamToken(strings.Fields(args)...); stdout != want || stderr != "" || exit != 0 {
				j.t.Errorf("%s: got exit %d, %d bytes (stderr %q), want exit 0 and the token", args, exit, len(stdout), stderr)
			}
		}
		stdout, stderr, exit := j.iamToken("--format", "token.json", "--min-ttl=1m")
		var got map[string]any
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || exit != 0 {
			j.t.Fatalf("token.json: got exit %d, %v (stderr %q)", exit, err, stderr)
		}
		left, _ := got["expires_in"].(float64)
		if len(got) != 4 || got["token_type"] != "Bearer" || got["access_token"] != token || got["expiration"] != float64(expires.Unix()) || left > 1200 || left < 1140 {
			j.t.Errorf("got %d fields, token_type %q, expiration %v, expires_in %v; want 4, Bearer, %d and just under 1200",
				len(got), got["token_type"], got["expiration"], left, expires.Unix())
		}
	})
}

func TestUsage(t *testing.T) {
	withJob(t, "options", func(j *job) {
		for args, says := range map[string]string{
			"--format":                     "--format needs a value",
			"--format jwt":                 "--format takes header, raw, json, env or token.json",
			"--format=":                    "--format takes",
			"--min-ttl 5x":                 "--min-ttl takes a duration such as 5m or 90s",
			"--min-ttl=":                   "--min-ttl takes a duration",
			"--min-ttl 1h":                 "--min-ttl must be less than 1h",
			"--wait soon":                  "--wait takes a duration",
			"--min-ttl 5x --min-ttl 5m":    "--min-ttl takes a duration", // a good value does not replace a bad one
			"--min-ttl=90m --min-ttl=5m":   "--min-ttl must be less than 1h",
			"--wait= --wait=1s":            "--wait takes a duration",
			"--format=jwt --format=raw":    "--format takes",
			"--min-ttl 5m|5m":              "--min-ttl takes a duration",
			"--frobnicate=raw":             "argument 1 is no option",
			"--check=yes":                  "argument 1 is no option",
			"--format raw --frobnicate x":  "argument 3 is no option",
			"--format=raw --apikey=eyJ":    "argument 2 is no option",
			"one two":                      "name one secret, after the options",
			"token":                        "the SECRET given is no secret id",
			"-- " + j.cloud.ReaderAPIKey(): "the SECRET given is no secret id",
		} {
			j.wantFailure(2, says, strings.Fields(args)...)
		}
		if requests := j.cloud.Requests(); len(requests) != 0 {
			t.Errorf("got %d requests, want none", len(requests))
		}
	})
	underEachShell(t, func(j *job) {
		j.program("jq", "echo jq-1.5-1-a5b5cbe\n")
		j.wantFailure(2, "jq 1.6 or newer is needed", "--frobnicate")
		j.program("jq", "echo 'No version is set for command jq' >&2; exit 126\n")
		j.wantFailure(2, "no shim")
		j.env["PATH"] = j.bin // without curl
		if err := os.Symlink(programs.Path(j.t, "cat"), filepath.Join(j.bin, "cat")); err != nil {
			j.t.Fatal(err)
		}
		if j.shell[0] != "busybox" {
			j.wantFailure(2, "curl is not installed")
		}
		stdout, stderr, exit := j.iamToken("-h")
		if exit != 0 || stderr != "" || !strings.HasPrefix(stdout, "Usage: iam-token ") {
			j.t.Errorf("-h: got exit %d, stderr %q, stdout %.40q", exit, stderr, stdout)
		}
	})
}

func TestSettings(t *testing.T) {
	const id, other = "e2dd1896-8c39-4160-b230-92430f439ba9", "11111111-8c39-4160-b230-92430f439ba9"
	for _, test := range []struct{ set, says string }{ // set are variables in place of a job's, between bars
		{"READER_APIKEY=", "set exactly one of READER_APIKEY, READER_APIKEY_FILE, READER_IAM_TOKEN, IAM_PROFILE_NAME, IAM_PROFILE_ID and TOKEN_SECRET_ARN (set: none)"},
		{"READER_APIKEY=|SECRETS_MANAGER_APIKEY=key|IAM_TOKEN=Bearer x", "(set: none)"},
		{"IAM_PROFILE_NAME=reader", "(set: READER_APIKEY IAM_PROFILE_NAME)"},
		{"SECRETS_MANAGER_URL=", "SECRETS_MANAGER_URL is not set"},
		{"SECRETS_MANAGER_URL=http://10.0.0.1", "SECRETS_MANAGER_URL must begin with https:// (http:// is for this machine alone)"},
		{"SECRETS_MANAGER_URL=http://[::1].example.com", "must begin with https://"},
		{"SECRETS_MANAGER_URL=http://localhost:80@example.com", "must be an origin"},
		{"SECRETS_MANAGER_URL=https://a.test:x", "has a port that is no number"},
		{"SECRETS_MANAGER_URL=https://[::1", "has a port that is no number"},
		{"SECRETS_MANAGER_URL=https://a[b]:x", "has a port that is no number"},
		{"IAM_URL=https://iam.cloud.ibm.com/identity/token", "IAM_URL must be an origin"},
		{"IAM_URL=https://${REGION}.test/", "IAM_URL still has a placeholder"},
		{"SECRETS_MANAGER_URL=https://<instance>.us-south.test", "SECRETS_MANAGER_URL still has a placeholder"},
		{"SECRETS_MANAGER_URL=https://%ID%.us-south.test", "still has a placeholder"},
		{"SECRETS_MANAGER_URL=https://(null).us-south.test", "still has a placeholder"},
		{"SECRETS_MANAGER_URL=https://….us-south.test", "still has a placeholder"},
		{"SECRETS_MANAGER_URL=https://.us-south.test", "has an empty part"},
		{"SECRETS_MANAGER_URL=https://a..test:443", "has an empty part"},
		{"IAM_URL=https://:443", "IAM_URL has an empty part"},
		{"SECRETS_MANAGER_URL=https://a.Null.test:443/", "has null, undefined or none in its host"},
		{"READER_APIKEY=eyJa.b.c", "READER_APIKEY is an access token"},
		{"READER_APIKEY=ApiKey-" + id, "READER_APIKEY is the id of an API key"},
		{"TOKEN_SECRET=", "TOKEN_SECRET is not set"},
		{"TOKEN_SECRET=group/" + id, "TOKEN_SECRET is no secret id, such as"},
		{"TOKEN_SECRET=crn:v1:bluemix:public:secrets-manager:us-south:a/1:" + id + ":secret-group:" + id, "no secret id"},
		{"SECRETS_MANAGER_URL=https://" + other + ".us-south.test|TOKEN_SECRET=us-south/" + id + "/" + id, "TOKEN_SECRET is of another Secrets Manager instance"},
		{"READER_APIKEY=one\ntwo", "READER_APIKEY holds no API key on one line"},
		{`READER_APIKEY="eyJ"`, "READER_APIKEY is in quotes"},
		{"READER_APIKEY=eyJ\u2019\n", "READER_APIKEY is in quotes"},
		{"READER_APIKEY=\ufeffeyJ", "READER_APIKEY begins with a byte-order mark"},
		{"READER_APIKEY=null\n", "READER_APIKEY is what a program prints for a field that is not there"},
		{"READER_APIKEY=READER_APIKEY=eyJ", "READER_APIKEY is a line NAME=key"},
		{"READER_APIKEY=export KEY=eyJ\n", "READER_APIKEY is a line NAME=key"},
		{"READER_APIKEY=${KEY}", "READER_APIKEY is a placeholder"},
		{"READER_APIKEY=<your key>", "READER_APIKEY is a placeholder"},
		{"READER_APIKEY={{ .eyJ }}", "READER_APIKEY is a placeholder"},
		{"READER_APIKEY=e\u200byJ", "READER_APIKEY has an invisible character"},
		{"READER_APIKEY=|READER_IAM_TOKEN=e\u200byJ", "READER_IAM_TOKEN has an invisible character"},
		{"READER_APIKEY=|READER_IAM_TOKEN='Bearer eyJ'", "READER_IAM_TOKEN is in quotes"},
		{"READER_APIKEY=|READER_IAM_TOKEN=null", "READER_IAM_TOKEN holds no token"},
		{"READER_APIKEY=|READER_APIKEY_FILE=/nonexistent", "READER_APIKEY_FILE cannot be read"},
		{"READER_APIKEY=|READER_APIKEY_FILE=/", "READER_APIKEY_FILE is not a regular file"},
		{"READER_APIKEY=|READER_APIKEY_FILE=/dev/zero", "READER_APIKEY_FILE is not a regular file"},
		{"READER_APIKEY=|IAM_PROFILE_NAME=reader|CR_TOKEN_FILENAME=/nonexistent", "on Code Engine enable the trusted profile on the job"},
		{"READER_APIKEY=|IAM_PROFILE_NAME=reader|CR_TOKEN_FILENAME=/dev/null", "CR_TOKEN_FILENAME is not a regular file"},
		{"READER_APIKEY=|TOKEN_SECRET_ARN=iam-token", "TOKEN_SECRET_ARN is not the ARN of an AWS secret or of a parameter"},
		{"READER_APIKEY=|TOKEN_SECRET_ARN=arn:aws:ssm:eu-central-1:123456789012:document/logs", "not the ARN of an AWS secret or of a parameter"},
		{"READER_APIKEY=|TOKEN_SECRET_ARN=" + parameterARN + "|AWS_ENDPOINT_URL_SSM=http://10.0.0.1", "AWS_ENDPOINT_URL must begin with https://"},
		{"READER_APIKEY=|TOKEN_SECRET_ARN=" + mirrorARN + "|AWS_ENDPOINT_URL=http://10.0.0.1", "AWS_ENDPOINT_URL must begin with https://"},
	} {
		withJob(t, test.set, func(j *job) {
			j.program("aws", "exit 1\n")
			for variable := range strings.SplitSeq(test.set, "|") {
				name, value, _ := strings.Cut(variable, "=")
				j.env[name] = value
			}
			j.wantFailure(2, test.says)
		})
	}
}

// Each identity as people have it; a file's mode is checked.
func TestIdentities(t *testing.T) {
	const key, minted = "KEY", "MINTED" // stand for the reader's key and for a token of the reader
	for name, test := range map[string]struct {
		variable, content string
		mode              os.FileMode // of a file that holds the content; 0: the variable does
		exit              int
		says              string // on stderr, which is empty otherwise
	}{
		"a key with a newline":      {"READER_APIKEY", key + "\n", 0, 0, ""},
		"a file":                    {"READER_APIKEY_FILE", key + "\r\n", 0o640, 0, ""},
		"IBM's apikey.json":         {"READER_APIKEY_FILE", `{"name":"reader","apikey":"` + key + `"}`, 0o600, 0, ""},
		"a token":                   {"READER_IAM_TOKEN", "Bearer " + minted, 0, 0, ""},
		"a bare token":              {"READER_IAM_TOKEN", minted, 0, 0, ""},
		"any case, any white space": {"READER_IAM_TOKEN", "\u00a0iam\tTOKEN:\r\nbEARER \v\f " + minted, 0, 0, ""},
		"what older versions print": {"READER_IAM_TOKEN", "IAM token:  Bearer " + minted + "\nUAA token:  Bearer another\n", 0, 0, ""},
		"no blank after the words":  {"READER_IAM_TOKEN", "IAM token:Bearer " + minted, 0, 0, ""},
		"everybody reads":           {"READER_APIKEY_FILE", key, 0o644, 0, "warning: everybody may read READER_APIKEY_FILE"},
		"the group writes":          {"READER_APIKEY_FILE", key, 0o620, 2, "READER_APIKEY_FILE may be written by others than its owner"},
		"everybody writes":          {"READER_APIKEY_FILE", key, 0o602, 2, "READER_APIKEY_FILE may be written by others than its owner"},
		"an empty file":             {"READER_APIKEY_FILE", "", 0o600, 2, "READER_APIKEY_FILE holds no API key on one line"},
		"two lines":                 {"READER_APIKEY_FILE", key + "\n" + key, 0o600, 2, "holds no API key on one line"},
		"UTF-16":                    {"READER_APIKEY_FILE", "\xff\xfek\x00e\x00y\x00", 0o600, 2, "READER_APIKEY_FILE begins with a byte-order mark"},
		"a large file":              {"READER_APIKEY_FILE", strings.Repeat("k", 70_000), 0o600, 2, "holds no API key on one line"},
		"an unknown key":            {"READER_APIKEY", "a-key-that-nobody-knows", 0, 1, "IAM answered 400 BXNIM0415E: READER_APIKEY is not known to IAM"},
		"an expired token":          {"READER_IAM_TOKEN", "EXPIRED", 0, 1, "rejects the token of READER_IAM_TOKEN"},
		// The sandbox's profile is the rotator's own, which may not read the token: that
		// rejection shows that the exchange went well.
		"a profile's name": {"IAM_PROFILE_NAME", ibmcloudtest.ProfileName, 0, 1, "the identity of IAM_PROFILE_NAME may not read"},
		"a profile's id":   {"IAM_PROFILE_ID", "PROFILE", 0, 1, "the identity of IAM_PROFILE_ID may not read"},
	} {
		withJob(t, name, func(j *job) {
			j.program("sleep", "")
			token, reader := j.save(time.Hour), j.cloud.ReaderAPIKey()
			value := strings.NewReplacer(key, reader, minted, j.cloud.MustMintToken(reader, time.Hour), "EXPIRED", j.cloud.MustMintToken(reader, -time.Minute),
				"PROFILE", j.cloud.ProfileID()).Replace(test.content)
			if test.mode != 0 { // a link, as Kubernetes mounts secrets
				link := filepath.Join(t.TempDir(), "link")
				if err := os.Symlink(j.file("key", value, test.mode), link); err != nil {
					t.Fatal(err)
				}
				value = link
			}
			delete(j.env, "READER_APIKEY")
			j.env["CR_TOKEN_FILENAME"] = j.file("cr-token", "compute-resource-token\n", 0o644)
			j.env[test.variable] = value
			if test.exit != 0 {
				j.wantFailure(test.exit, test.says)
			} else if stderr := j.wantToken(token); (test.says == "") != (stderr == "") || !strings.Contains(stderr, test.says) {
				t.Errorf("got stderr %q, want %q", stderr, test.says)
			}
		})
	}
	withJob(t, "ids of other tools", func(j *job) {
		j.byToken()
		token, id := j.save(time.Hour), j.secret()
		const instance = "11111111-8c39-4160-b230-92430f439ba9"
		for _, form := range []string{"arbitrary/" + id, "us-south/" + instance + "/" + id,
			"crn:v1:bluemix:public:secrets-manager:us-south:a/0123456789abcdef0123456789abcdef:" + instance + ":secret:" + id} {
			j.wantToken(token, form)
		}
	})
}

func TestHTTPS(t *testing.T) {
	withJob(t, "HTTPS", func(j *job) {
		token := j.save(time.Hour)
		server := httptest.NewTLSServer(j.cloud)
		defer server.Close()
		j.at(server.URL)
		j.wantFailure(1, "SSL_CERT_FILE")
		j.env["SSL_CERT_FILE"] = j.file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), 0o600)
		j.wantToken(token)
	})
}

func TestThisMachinesClockIsOff(t *testing.T) {
	slow, fast := 7*time.Minute+30*time.Second, -70*time.Minute // the cloud's clock is ahead
	for ahead, test := range map[time.Duration]struct {
		ttl  time.Duration // of the stored token, by the cloud's clock
		exit int
		note string
	}{slow: {-time.Minute, 3, "slow; "}, fast: {50 * time.Minute, 0, "fast; "}} {
		now := func() time.Time { return time.Now().Truncate(time.Second).Add(ahead) }
		j := newJob(t, "dash", now)
		j.store(j.token(test.ttl), now().Add(test.ttl))
		stdout, stderr, exit := j.iamToken()
		if exit != test.exit || (stdout != "") != (test.exit == 0) || !strings.Contains(stderr, test.note) {
			t.Errorf("got exit %d and %d bytes (stderr %q), want exit %d and %q", exit, len(stdout), stderr, test.exit, test.note)
		}
	}
}

func TestShellcheckFindsNothing(t *testing.T) {
	t.Parallel()
	programs.Need(t, "shellcheck")
	if out, err := exec.Command("shellcheck", "../iam-token", "../examples/shell-job").CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

// Keys and tokens are in no program's arguments, environment or files, even of a
// shell that exports and traces everything.
func TestNoSecretIsInArgumentsEnvironmentsOrFiles(t *testing.T) {
	underEachShell(t, func(j *job) {
		recorded := filepath.Join(j.t.TempDir(), "recorded")
		for _, name := range []string{"curl", "jq", "sleep", "date", "cat", "printf", "sed", "head", "ls"} {
			if path, err := exec.LookPath(name); err == nil {
				j.program(name, fmt.Sprintf("{ printf '%%s\\n' %s \"$@\"; env; } >>'%s'\nexec '%s' \"$@\"\n", name, recorded, path))
			}
		}
		token := j.save(time.Hour)
		for _, name := range []string{"access", "config", "credential", "given", "said", "text", "token", "value"} {
			j.env[name] = "exported by the caller"
		}
		shell := j.shell[:len(j.shell):len(j.shell)]
		for _, option := range []string{"-a", "-xv"} {
			j.shell = append(shell, option)
			j.wantToken(token, "--min-ttl", "5m")
		}
		text, err := os.ReadFile(recorded)
		if err != nil || !strings.Contains(string(text), "/identity/token") {
			j.t.Fatalf("the recorder saw no exchange (%v): this test could not fail", err)
		}
		j.wantNoSecret("an argument or an environment", string(text))
		if strings.Contains(string(text), token[10:30]) {
			j.t.Error("an argument or an environment holds the token")
		}
		for _, folder := range []string{j.env["TMPDIR"], j.env["HOME"]} {
			if files, err := os.ReadDir(folder); err != nil || len(files) != 0 {
				j.t.Errorf("got %d files left behind (%v), want none", len(files), err)
			}
		}
	})
}

// What a caller's environment and home may hold changes nothing.
func TestAStrangeEnvironmentChangesNothing(t *testing.T) {
	t.Parallel()
	j := newJob(t, "bash", nil)
	token := j.save(time.Hour)
	folder := filepath.Join(t.TempDir(), "a=b c")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{".jq": "def test($re): true; def now: 0; def split($s): [.];", ".curlrc": "output = /dev/null\n", ".netrc": "default login a password b\n"} {
		if err := os.WriteFile(filepath.Join(j.env["HOME"], name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"TMPDIR": folder, "CDPATH": "/", "IFS": "e", "SHELLOPTS": "allexport:xtrace:verbose",
		"newline": "x", "http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1", "program": "halt", "deadline": "9999999999", "wait": "1000", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Tokyo"} {
		j.env[name] = value
	}
	stdout, stderr, exit := j.sh("-c", `bash ../iam-token --format raw`)
	if exit != 0 || stdout != token+"\n" || !strings.Contains(stderr, "+ bash") {
		t.Errorf("got exit %d, %d bytes, stderr %q: want the token and the caller's own trace", exit, len(stdout), stderr)
	}
}

// NO_PROXY=* means every host, to curl, if nothing else stands beside it.
func TestNoProxyKeepsItsMeaning(t *testing.T) {
	for given, want := range map[string]string{"*": "*", "": ",localhost,127.0.0.1,::1", "a.test": "a.test,localhost,127.0.0.1,::1"} {
		withJob(t, "given "+given, func(j *job) {
			j.program("curl", "echo \"$no_proxy $NO_PROXY\" >&2\nexit 60\n")
			j.env["NO_PROXY"] = given
			j.wantFailure(1, want+" "+want+"\n")
		})
	}
}

// The exit status is right even where no message can be printed.
func TestClosedStderr(t *testing.T) {
	underEachShell(t, func(j *job) {
		j.save(-time.Minute)
		for _, want := range []int{3, 2} {
			if stdout, _, exit := j.sh("-c", `exec 2>&-; . ../iam-token`); exit != want || stdout != "" {
				j.t.Errorf("got exit %d and %d bytes, want %d and none", exit, len(stdout), want)
			}
			j.env["TOKEN_SECRET"] = ""
		}
	})
}
