package ibm_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// TestChangingTheKeysLeavesNoGap: both keys are replaced, as the README tells it, while a warm
// function, whose bootstrap key is in AWS, goes on rotating. No invocation fails, and after each the
// token that readers have is good.
func TestChangingTheKeysLeavesNoGap(t *testing.T) {
	t.Parallel()
	programs.Need(t, "aws")
	moto := awstest.Start(t)
	s := newSetUp(t, "dash", ibmcloudtest.Options{})
	aws := awstest.Environment(moto.URL())
	aws["AWS_DEFAULT_REGION"] = awstest.Region
	for name, value := range aws {
		s.env[name] = value
	}
	s.env["PUT_BOOTSTRAP_KEY"] = "../../scripts/put-bootstrap-key"
	made := s.succeed().values
	aws["SECRETS_MANAGER_APIKEY_ARN"] = made["BOOTSTRAP_SECRET_ARN"]

	function := s.warmFunction(made, aws)
	defer function.stop()
	function.mustRotate(3)
	changed := s.succeed("--rotate-keys", "--keep-old-keys").values
	function.mustRotate(3)
	s.inUse(changed)
	s.succeed("--delete-old-keys")
	function.mustRotate(3)
	// It goes on with the bootstrap token that it has; refused, it needs the new key.
	s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Identity: ibmcloudtest.IdentityBootstrap, Times: 1, Status: 401})
	function.mustRotate(3)
	s.rotates(changed, programs.Environ(aws)...) // and so does a cold one

	for _, id := range []string{"BOOTSTRAP_APIKEY_ID", "WORKLOAD_APIKEY_ID"} {
		if changed[id] == "" || changed[id] == made[id] {
			t.Errorf("%s: got %q, want another than before", id, changed[id])
		}
	}
	if changed["BOOTSTRAP_SECRET_ARN"] != made["BOOTSTRAP_SECRET_ARN"] {
		t.Errorf("BOOTSTRAP_SECRET_ARN: got %s, want that of before, %s", changed["BOOTSTRAP_SECRET_ARN"], made["BOOTSTRAP_SECRET_ARN"])
	}
}

// A warmFunction is one process that is invoked again and again.
type warmFunction struct {
	s       *setUp
	rotated *atomic.Int64
	stop    func()
}

// warmFunction starts the built function under scripts/invoke. Each of its answers is looked at when
// it comes.
func (s *setUp) warmFunction(values, aws map[string]string) warmFunction {
	s.t.Helper()
	folder := s.t.TempDir()
	if err := programs.Build(folder, map[string]string{"invoke": "scripts/invoke"}); err != nil {
		s.t.Fatal(err)
	}
	command := exec.Command(filepath.Join(folder, "invoke"), "-n", "100000", "--", rotator(s.t))
	command.Env = programs.Environ(aws, map[string]string{
		"IAM_URL": s.origin, "SECRETS_MANAGER_URL": values["SECRETS_MANAGER_URL"], "SECRETS_MANAGER_MAX_RPS": "0",
		"API_KEY_SECRET": values["API_KEY_SECRET"], "TOKEN_SECRET": values["TOKEN_SECRET"],
	})
	answers, err := command.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		s.t.Fatal(err)
	}
	watched := make(chan struct{})
	f := warmFunction{s, new(atomic.Int64), func() {
		_ = command.Process.Signal(os.Interrupt) // which ends the function too
		<-watched
		_ = command.Wait()
	}}
	go func() {
		defer close(watched)
		f.watch(answers, values["TOKEN_SECRET"])
	}()
	return f
}

// watch fails the test for an invocation that does not rotate, and for a token that is of no use.
func (f warmFunction) watch(answers io.Reader, tokenSecret string) {
	for lines := bufio.NewScanner(answers); lines.Scan(); {
		if !strings.Contains(lines.Text(), `"outcome":"rotated"`) {
			f.s.t.Errorf("an invocation while the keys change: got %s, want it to rotate", lines.Text())
		}
		if status, err := f.s.useToken(tokenSecret); status != 200 || err != nil {
			f.s.t.Errorf("Logs Routing, asked with the published token while the keys change: got %d, %v; want 200", status, err)
		}
		f.rotated.Add(1)
	}
}

// mustRotate waits for n invocations that began after the call.
func (f warmFunction) mustRotate(n int64) {
	f.s.t.Helper()
	goal := f.rotated.Load() + n + 1 // one may have begun before
	waitFor(f.s.t, "the function to rotate", func() bool { return f.rotated.Load() >= goal })
}

// TestEachKeyFileHasAKeyOfItsOwn: a second file is written too, and changing the key of one leaves those
// of the others working.
func TestEachKeyFileHasAKeyOfItsOwn(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		for _, name := range []string{"one.key", "two.key"} {
			s.succeed("--reader-key-file", s.path(name))
			s.checkPrivate(name)
		}
		one, two := s.read("one.key"), s.read("two.key")
		if one == two {
			t.Error("the files hold the same key, want one each")
		}
		r := s.succeed("--reader-key-file", s.path("three.key"), "--rotate-keys")
		if got := strings.Count(r.stderr, "another key named iam-token-rotator-reader, stored in file:"); got != 2 {
			t.Errorf("got %d notes, want one for each other file:\n%s", got, r.stderr)
		}
		for name, key := range map[string]string{"one": one, "two": two, "three": s.read("three.key")} {
			if status, _ := s.exchange(key); status != 200 {
				t.Errorf("changing the key of the third file: the key of %s: got %d, want 200", name, status)
			}
		}
		s.succeed("--reader-key-file", s.path("one.key"), "--rotate-keys")
		if status, _ := s.exchange(one); status != 400 {
			t.Errorf("the old key of the first file: got %d, want 400", status)
		}
		s.token(s.read("one.key"))
		s.token(two)
	})
}

// TestKeyFileIsTheSameByAnyPath: what counts is the file.
func TestKeyFileIsTheSameByAnyPath(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		here, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		relative, err := filepath.Rel(here, s.path("reader.key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(s.folder, s.path("link")); err != nil {
			t.Fatal(err)
		}
		first := s.succeed("--reader-key-file", s.path("reader.key"))
		for _, path := range []string{relative, s.folder + "/./reader.key", s.path("link/reader.key")} {
			s.cloud.ClearRequests()
			if again := s.succeed("--reader-key-file", path); again.stdout != first.stdout || len(s.writes()) > 0 {
				t.Errorf("%s: got %q, want no change", path, s.writes())
			}
		}
	})
}

// TestKeyFileThatIsGoneIsTold: nothing is written, so whoever has lost it must learn what to do.
func TestKeyFileThatIsGoneIsTold(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		arguments := []string{"--reader-key-file", s.path("reader.key"), "--bootstrap-key-file", s.path("bootstrap.key")}
		s.succeed(arguments...)
		if r := s.succeed(arguments...); strings.Contains(r.stderr, "is not there") {
			t.Errorf("the files are there: got %s, want no note", r.stderr)
		}
		for _, name := range []string{"reader.key", "bootstrap.key"} {
			if err := os.Remove(s.path(name)); err != nil {
				t.Fatal(err)
			}
			if r := s.succeed(arguments...); !strings.Contains(r.stderr, s.path(name)+" is not there") {
				t.Errorf("got %s, want a note that %s is gone", r.stderr, name)
			}
		}
	})
}

func TestTwoKeysInOneFile(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.fail(2, "a file each", "--reader-key-file", s.path("both.key"), "--bootstrap-key-file", s.folder+"/./both.key")
	})
}

// TestEarlierScriptKnowsThePlaces: one of before, which knows of no time, must not take a key that is
// stored elsewhere for one that is not stored, and delete it.
func TestEarlierScriptKnowsThePlaces(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.succeed("--reader-key-file", s.path("reader.key"))
		earlier := regexp.MustCompile(`^stored in \S+ by set-up-secrets$`)
		seen := 0
		for _, iamID := range []string{s.outputs["workload_iam_id"], s.cloud.BootstrapIAMID(), s.outputs["reader_iam_id"]} {
			for name, keys := range s.keys(iamID) {
				for _, key := range keys {
					if description, _ := key["description"].(string); strings.HasPrefix(name, "iam-token-rotator-") {
						seen++
						if !earlier.MatchString(description) {
							t.Errorf("%s: got %q, want what the earlier script reads", name, description)
						}
					}
				}
			}
		}
		if seen != 3 {
			t.Errorf("got %d keys of the script, want 3", seen)
		}
	})
}

// TestSearchPathOfFolders: an exported CDPATH leads cd elsewhere, and has it print.
func TestSearchPathOfFolders(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		elsewhere := t.TempDir()
		for _, folder := range []string{s.path("keys"), filepath.Join(elsewhere, "keys")} {
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		inFolder := func() run {
			command := s.command("--reader-key-file", "keys/reader.key")
			script, err := filepath.Abs(command.Args[1])
			if err != nil {
				t.Fatal(err)
			}
			command.Args[1], command.Dir = script, s.folder
			return s.finish(command)
		}
		first := inFolder()
		s.env["CDPATH"] = elsewhere
		if again := inFolder(); first.status != 0 || again.stdout != first.stdout {
			t.Errorf("got exit %d and\n%s, want the same keys again, and not\n%s", first.status, first.stdout, again.stdout)
		}
	})
}

// TestNewestKeyOfAMinute: IAM tells the age of keys to the minute, and promises no order.
func TestNewestKeyOfAMinute(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		backwards := httptest.NewServer(reversed{s.cloud})
		t.Cleanup(backwards.Close)
		s.env["IAM_URL"] = backwards.URL
		s.succeed()
		second := s.succeed("--rotate-keys", "--keep-old-keys")
		if again := s.succeed(); again.stdout != second.stdout {
			t.Errorf("got\n%s, want what the last run printed,\n%s", again.stdout, second.stdout)
		}
	})
}

// reversed lists keys in the other order.
type reversed struct{ cloud http.Handler }

func (r reversed) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	answer := httptest.NewRecorder()
	r.cloud.ServeHTTP(answer, request)
	body := answer.Body.Bytes()
	var listing map[string]any
	if request.Method == http.MethodGet && json.NewDecoder(bytes.NewReader(body)).Decode(&listing) == nil {
		if keys, ok := listing["apikeys"].([]any); ok {
			slices.Reverse(keys)
			body, _ = json.Marshal(listing)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(body)
}

// inUse tells the script which keys are, as a person does who loads what the last run printed.
func (s *setUp) inUse(values map[string]string) {
	for _, name := range []string{"WORKLOAD_APIKEY_ID", "BOOTSTRAP_APIKEY_ID", "READER_APIKEY_ID"} {
		s.env[name] = values[name]
	}
}

// keyIDs are the ids of the script's keys of one identity.
func (s *setUp) keyIDs(role, iamID string) []string {
	s.t.Helper()
	var ids []string
	for _, key := range s.keys(iamID)["iam-token-rotator-"+role] {
		ids = append(ids, key["id"].(string))
	}
	return ids
}

// interrupted runs the script with its second key stored, but not noted.
func (s *setUp) interrupted(arguments ...string) {
	s.t.Helper()
	s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysUpdate, Skip: 1, Status: 503})
	s.fail(1, "Try again later", arguments...)
	s.cloud.ClearFaults()
}

// TestDeleteOldKeys: whatever runs have left, one key of each identity remains, the one in use. What is
// stored elsewhere, or is not the script's, stays.
func TestDeleteOldKeys(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		workload := s.outputs["workload_iam_id"]
		s.succeed()
		other := s.succeed("--aws-secret", "team/other")
		s.asAdmin("POST", "/v1/apikeys", `{"name":"somebody's","iam_id":"`+workload+`"}`)
		change := []string{"--aws-secret", "iam-token-rotator/bootstrap", "--rotate-keys", "--keep-old-keys"}
		s.interrupted(change...)
		old := append(s.keyIDs("workload", workload), s.keyIDs("bootstrap", s.cloud.BootstrapIAMID())...)
		changed := s.succeed(change...)
		before := len(s.asAdmin("GET", "/v1/apikeys?pagesize=100&iam_id="+workload, "")["apikeys"].([]any))

		s.inUse(changed.values)
		s.cloud.ClearRequests()
		r := s.succeed("--aws-secret", "iam-token-rotator/bootstrap", "--delete-old-keys")
		if r.stdout != changed.stdout {
			t.Errorf("got\n%s, want what the last run printed,\n%s", r.stdout, changed.stdout)
		}
		if got := s.writes(); len(got) == 0 || slices.ContainsFunc(got, func(op string) bool { return op != ibmcloudtest.OpAPIKeysDelete }) {
			t.Errorf("requests that change something: got %q, want keys deleted and nothing else", got)
		}
		if got, want := s.keyIDs("workload", workload), []string{changed.values["WORKLOAD_APIKEY_ID"]}; !slices.Equal(got, want) {
			t.Errorf("keys of the workload: got %q, want the one in use, %q", got, want)
		}
		if got, want := s.keyIDs("bootstrap", s.cloud.BootstrapIAMID()), []string{other.values["BOOTSTRAP_APIKEY_ID"], changed.values["BOOTSTRAP_APIKEY_ID"]}; !slices.Equal(got, want) {
			t.Errorf("keys of the bootstrap: got %q, want the other place's and the one in use, %q", got, want)
		}
		for _, id := range s.deleted() {
			if !slices.Contains(old, id) || !strings.Contains(r.stderr, "deleted the old key "+id) {
				t.Errorf("%s was deleted, want only old keys deleted, and told:\n%s", id, r.stderr)
			}
		}
		after := len(s.asAdmin("GET", "/v1/apikeys?pagesize=100&iam_id="+workload, "")["apikeys"].([]any))
		if before < 4 || after != 3 { // somebody's, that of the sandbox, and the one in use
			t.Errorf("all keys of the workload: got %d and then %d, want more than 3 and then 3", before, after)
		}
		s.rotates(changed.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
	})
}

// TestDeleteOldKeysOfThePlaceInUse: without --aws-secret it is the ids that tell which AWS secret is meant,
// not which of them has the newest key.
func TestDeleteOldKeysOfThePlaceInUse(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		change := []string{"--aws-secret", "team/one", "--rotate-keys", "--keep-old-keys"}
		s.succeed(change...)
		one := s.succeed(change...).values
		s.succeed("--aws-secret", "team/two")
		s.inUse(one)
		before := s.keyIDs("bootstrap", s.cloud.BootstrapIAMID())
		got := s.succeed("--delete-old-keys").values
		if got["BOOTSTRAP_SECRET_ARN"] != one["BOOTSTRAP_SECRET_ARN"] || got["BOOTSTRAP_APIKEY_ID"] != one["BOOTSTRAP_APIKEY_ID"] {
			t.Errorf("got %q, want the place of %q", got, one)
		}
		if after := s.keyIDs("bootstrap", s.cloud.BootstrapIAMID()); len(before) != 3 || !slices.Equal(after, before[1:]) {
			t.Errorf("got keys %q of %q, want the oldest gone", after, before)
		}
	})
}

// deleted are the ids of the keys that were.
func (s *setUp) deleted() []string {
	var ids []string
	for _, request := range s.cloud.Requests() {
		if request.Op == ibmcloudtest.OpAPIKeysDelete {
			ids = append(ids, strings.TrimPrefix(request.Path, "/v1/apikeys/"))
		}
	}
	return ids
}

// TestNoKeyIsDeletedInDoubt: where it is not certain which key is in use, none goes.
func TestNoKeyIsDeletedInDoubt(t *testing.T) {
	tests := map[string]struct {
		change    func(s *setUp, first, second map[string]string)
		arguments []string
		status    int
		words     string
	}{
		"the ids are of before": {func(s *setUp, first, _ map[string]string) { s.inUse(first) }, nil, 1, "a newer key of the workload"},
		"one id is of before": {func(s *setUp, first, _ map[string]string) {
			s.env["BOOTSTRAP_APIKEY_ID"] = first["BOOTSTRAP_APIKEY_ID"]
		}, nil, 1, "a newer key of the bootstrap"},
		"the ids are swapped": {func(s *setUp, _, second map[string]string) {
			s.env["WORKLOAD_APIKEY_ID"] = second["BOOTSTRAP_APIKEY_ID"]
		}, nil, 1, "WORKLOAD_APIKEY_ID names no key of the workload"},
		"a run was interrupted":   {func(s *setUp, _, _ map[string]string) { s.interrupted("--rotate-keys", "--keep-old-keys") }, nil, 1, "a newer key of the workload"},
		"its second key was not":  {func(s *setUp, _, second map[string]string) { s.halfDone(second) }, nil, 1, "a run was interrupted"},
		"an old key is put back":  {func(s *setUp, _, second map[string]string) { s.putBack(second["API_KEY_SECRET"]) }, nil, 1, "by hand"},
		"another set-up":          {nil, []string{"--name", "other"}, 1, "is --name that of the set-up?"},
		"another place":           {nil, []string{"--aws-secret", "team/other"}, 1, "BOOTSTRAP_APIKEY_ID names no key of the bootstrap"},
		"no ids":                  {func(s *setUp, _, _ map[string]string) { s.inUse(nil) }, nil, 2, "WORKLOAD_APIKEY_ID is not set"},
		"one id is missing":       {func(s *setUp, _, _ map[string]string) { s.env["BOOTSTRAP_APIKEY_ID"] = "" }, nil, 2, "BOOTSTRAP_APIKEY_ID is not set"},
		"the reader's is missing": {nil, []string{"--reader-key-file", "reader.key"}, 2, "READER_APIKEY_ID is not set"},
		"new keys, too":           {nil, []string{"--rotate-keys"}, 2, "does not go with --rotate-keys"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				first := s.succeed().values
				second := s.succeed("--rotate-keys", "--keep-old-keys").values
				s.inUse(second)
				if test.change != nil {
					test.change(s, first, second)
				}
				s.cloud.ClearRequests()
				s.fail(test.status, test.words, append(test.arguments, "--delete-old-keys")...)
				if got := s.writes(); len(got) > 0 {
					t.Errorf("requests that change something: got %q, want none", got)
				}
			})
		})
	}
}

// TestNoReaderKeyIsDeletedInDoubt is the same of a reader's.
func TestNoReaderKeyIsDeletedInDoubt(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		file := []string{"--reader-key-file", s.path("reader.key")}
		first := s.succeed(file...).values
		s.inUse(s.succeed(append(file, "--rotate-keys", "--keep-old-keys")...).values)
		s.env["READER_APIKEY_ID"] = first["READER_APIKEY_ID"]
		s.fail(1, "a newer key of the reader", append(file, "--delete-old-keys")...)
	})
}

// halfDone makes a key of the bootstrap that is not noted as stored, and the workload's the newest.
func (s *setUp) halfDone(values map[string]string) {
	s.asAdmin("POST", "/v1/apikeys", `{"name":"iam-token-rotator-bootstrap","description":"not stored yet by set-up-secrets","iam_id":"`+s.cloud.BootstrapIAMID()+`"}`)
	s.inUse(values)
}

// putBack stores a key of the workload by hand.
func (s *setUp) putBack(secret string) {
	s.asAdmin("POST", "/api/v2/secrets/"+secret+"/versions", `{"payload":"`+s.cloud.Rotations()[0].APIKey+`"}`)
}

// A putKey is put-bootstrap-key under a shell, with a stand-in for the aws program that stores what it is
// given in a file.
type putKey struct{ shell, bin string }

func newPutKey(t *testing.T, shell string) putKey {
	t.Helper()
	p := putKey{programs.Path(t, shell), t.TempDir()}
	aws := `#!/bin/sh
[ "$2" != describe-secret ] || { echo ResourceNotFoundException >&2; exit 1; }
for argument; do case $argument in file://*) cat "${argument#file://}" >'` + p.stored() + `' ;; esac; done
echo arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-rotator/bootstrap-a1b2c3
`
	if err := os.WriteFile(filepath.Join(p.bin, "aws"), []byte(aws), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p putKey) stored() string { return filepath.Join(p.bin, "stored") }

func (p putKey) run(t *testing.T, input string) programs.Result {
	t.Helper()
	return programs.Run(t, programs.Command{Env: []string{"PATH=" + p.bin + ":" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}, Stdin: input,
		Name: p.shell, Args: []string{"../../scripts/put-bootstrap-key"}})
}

// TestWhatIsNoKeyIsNotStored: a word, or what jq prints for a field that is not there, would take the
// place of a key that works.
func TestWhatIsNoKeyIsNotStored(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"dash", "bash"} {
		p := newPutKey(t, shell)
		for input, words := range map[string]string{
			"null\n":                      "the null of a JSON field that is not there",
			"short\n":                     "too short",
			strings.Repeat("k", 7):        "too short",
			strings.Repeat("k", 513):      "too long",
			strings.Repeat("k", 43) + "é": "characters that no API key has",
			`{"apikey":null}`:             "jq -er .apikey",
		} {
			got := p.run(t, input)
			if got.Exit != 2 || got.Stdout != "" || !strings.Contains(got.Stderr, words) {
				t.Errorf("%s, %d characters: got exit %d, %q, %q; want 2 and %q", shell, len(input), got.Exit, got.Stdout, got.Stderr, words)
			}
			if word := strings.TrimSpace(input); word != "null" && word != "short" && strings.Contains(got.All(), word) {
				t.Errorf("%s: what was given is printed", shell)
			}
			if stored, err := os.ReadFile(p.stored()); err == nil {
				t.Fatalf("%s: %d characters were stored", shell, len(stored))
			}
		}
	}
}

// TestWhatMayBeAKeyIsStored: IBM promises no length, so one that only resembles today's is taken.
func TestWhatMayBeAKeyIsStored(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"dash", "bash"} {
		p := newPutKey(t, shell)
		for _, key := range []string{strings.Repeat("aZ0_-", 8) + "abcd", strings.Repeat("k", 8), strings.Repeat("k", 512)} {
			got := p.run(t, " "+key+"\r\n")
			if stored, err := os.ReadFile(p.stored()); got.Exit != 0 || err != nil || string(stored) != key {
				t.Errorf("%s, %d characters: got exit %d, %q; want them stored: %v", shell, len(key), got.Exit, got.Stderr, err)
			}
		}
	}
}
