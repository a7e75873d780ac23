package ibm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

var rotatorFolder string // empty until it is built

var buildRotator = sync.OnceValues(func() (string, error) {
	var err error
	if rotatorFolder, err = os.MkdirTemp("", "rotator-*"); err != nil {
		return "", err
	}
	return filepath.Join(rotatorFolder, "bootstrap"), programs.Build(rotatorFolder, map[string]string{"bootstrap": "functions/rotate"})
})

// rotator is the path of the rotator, built once.
func rotator(t *testing.T) string {
	t.Helper()
	path, err := buildRotator()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain(m *testing.M) {
	status := m.Run()
	_ = os.RemoveAll(rotatorFolder)
	os.Exit(status)
}

func TestFirstRunMakesWhatRotates(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		r := s.succeed("--reader-key-file", s.path("reader.key"))
		var names []string
		for line := range strings.Lines(r.stdout) {
			name, _, _ := strings.Cut(line, "=")
			names = append(names, name)
		}
		want := []string{"SECRETS_MANAGER_URL", "API_KEY_SECRET", "TOKEN_SECRET", "WORKLOAD_APIKEY_ID",
			"BOOTSTRAP_APIKEY_ID", "BOOTSTRAP_EXPIRES_AT", "BOOTSTRAP_SECRET_ARN", "READER_APIKEY_ID"}
		if !slices.Equal(names, want) {
			t.Errorf("names: got %q, want %q", names, want)
		}
		if got, want := r.values["BOOTSTRAP_SECRET_ARN"], "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-rotator/bootstrap-a1b2c3"; got != want {
			t.Errorf("BOOTSTRAP_SECRET_ARN: got %s, want %s", got, want)
		}

		token := s.cloud.MustCurrent(r.values["TOKEN_SECRET"])
		if token.Payload != "no token yet" || token.Metadata != nil {
			t.Errorf("token secret: got %q and %v, want the placeholder without metadata", token.Payload, token.Metadata)
		}
		if got := s.asAdmin("GET", "/api/v2/secrets/"+r.values["TOKEN_SECRET"], "")["expiration_date"]; got != nil {
			t.Errorf("token secret: got an expiration date, %v, at which it would be destroyed", got)
		}
		if got := s.cloud.MustCurrent(r.values["API_KEY_SECRET"]).Metadata["apikey_id"]; got != r.values["WORKLOAD_APIKEY_ID"] {
			t.Errorf("key secret: got apikey_id %v, want %s", got, r.values["WORKLOAD_APIKEY_ID"])
		}
		s.checkPrivate("reader.key")
		s.token(s.read("reader.key"))

		s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
	})
}

func TestKeysExpireAndAreDisabledWhenLeaked(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		r := s.succeed()
		day := time.Now().UTC().Add(90 * 24 * time.Hour).Format(time.DateOnly)
		if got := r.values["BOOTSTRAP_EXPIRES_AT"]; got != day {
			t.Errorf("BOOTSTRAP_EXPIRES_AT: got %s, want %s", got, day)
		}
		for role, iamID := range map[string]string{"bootstrap": s.cloud.BootstrapIAMID(), "workload": s.outputs["workload_iam_id"]} {
			keys := s.keys(iamID)["iam-token-rotator-"+role]
			if len(keys) != 1 {
				t.Fatalf("%s: got %d keys, want 1", role, len(keys))
			}
			if keys[0]["action_when_leaked"] != "disable" || !strings.HasPrefix(fmt.Sprint(keys[0]["expires_at"]), day) {
				t.Errorf("%s: got %v, want disable and %s", role, keys[0], day)
			}
		}
		r = s.succeed("--rotate-keys", "--expires-in", "0")
		if _, there := r.values["BOOTSTRAP_EXPIRES_AT"]; there {
			t.Error("--expires-in 0: got BOOTSTRAP_EXPIRES_AT, want none")
		}
	})
}

func TestSecondRunChangesNothing(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		arguments := []string{"--reader-key-file", s.path("reader.key")}
		first := s.succeed(arguments...)
		for _, name := range []string{"reader.key", "stored-in-aws"} { // moved to where they belong
			if err := os.Remove(s.path(name)); err != nil {
				t.Fatal(err)
			}
		}
		s.cloud.ClearRequests()
		second := s.succeed(arguments...)
		if got := s.writes(); len(got) > 0 {
			t.Errorf("requests that change something: got %q, want none", got)
		}
		if second.stdout != first.stdout {
			t.Errorf("got\n%s, want what the first run printed,\n%s", second.stdout, first.stdout)
		}
		for _, name := range []string{"reader.key", "stored-in-aws"} {
			if _, err := os.Stat(s.path(name)); err == nil {
				t.Errorf("%s was written again", name)
			}
		}
	})
}

func TestRotateKeys(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		arguments := []string{"--reader-key-file", s.path("reader.key")}
		first := s.succeed(arguments...)
		old := map[string]string{"bootstrap": s.read("stored-in-aws"), "reader": s.read("reader.key"),
			"workload": s.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload}
		s.cloud.ClearRequests()
		second := s.succeed(append(arguments, "--rotate-keys")...)

		for _, name := range []string{"API_KEY_SECRET", "TOKEN_SECRET", "BOOTSTRAP_SECRET_ARN"} {
			if second.values[name] != first.values[name] {
				t.Errorf("%s: got %s, want it unchanged, %s", name, second.values[name], first.values[name])
			}
		}
		for _, name := range []string{"WORKLOAD_APIKEY_ID", "BOOTSTRAP_APIKEY_ID", "READER_APIKEY_ID"} {
			if second.values[name] == first.values[name] {
				t.Errorf("%s: got the old key", name)
			}
		}
		for role, key := range old {
			if status, _ := s.exchange(key); status != 400 {
				t.Errorf("the old key of the %s: got %d, want 400", role, status)
			}
		}
		s.token(s.read("reader.key"))
		s.rotates(second.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))

		// Each key is made, tried, stored and noted before an old one goes.
		var order []string
		for _, request := range s.cloud.Requests() {
			if request.Method != "GET" && request.Identity != "" {
				order = append(order, request.Op)
			}
		}
		want := []string{"apikeys.create", "iam.token", "versions.create", "apikeys.update", "apikeys.delete"}
		start := slices.Index(order, "apikeys.create")
		if start < 0 || len(order) < start+5 || !slices.Equal(order[start:start+5], want) {
			t.Errorf("the order of requests: got %q, want %q first", order, want)
		}
	})
}

// TestPlainRunAfterAnInterruptedRotation: the new key was stored, and noting that failed. Which key is in
// use is then not known, so none of them may be taken for it.
func TestPlainRunAfterAnInterruptedRotation(t *testing.T) {
	for skip, role := range []string{"workload", "bootstrap"} {
		t.Run(role, func(t *testing.T) {
			inDash(t, func(t *testing.T, s *setUp) {
				s.succeed()
				s.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysUpdate, Skip: skip, Status: 503})
				s.fail(1, "Try again later", "--rotate-keys")
				s.cloud.ClearFaults()
				r := s.succeed()
				s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
			})
		})
	}
}

func TestKeepOldKeys(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		first := s.succeed()
		old := s.read("stored-in-aws")
		second := s.succeed("--rotate-keys", "--keep-old-keys")
		s.token(old)
		if want := "service-api-key-delete " + first.values["BOOTSTRAP_APIKEY_ID"] + " ServiceId-"; !strings.Contains(second.stderr, want) {
			t.Errorf("got %s, want the command that deletes the old key, %q", second.stderr, want)
		}
	})
}

// TestOtherSetUpsKeysStay: a second rotation of the same workload has another name, and another place.
func TestOtherSetUpsKeysStay(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.succeed()
		bootstrapKey := s.read("stored-in-aws")
		s.env["PUT_BOOTSTRAP_KEY"] = "none"
		other := s.succeed("--name", "iam-token-rotator-other")
		if _, there := other.values["BOOTSTRAP_APIKEY_ID"]; there {
			t.Error("PUT_BOOTSTRAP_KEY=none: got a bootstrap key")
		}
		s.succeed("--name", "iam-token-rotator-other", "--rotate-keys")
		keys := s.keys(s.outputs["workload_iam_id"])
		if len(keys["iam-token-rotator-workload"]) != 1 || len(keys["iam-token-rotator-other-workload"]) != 1 {
			t.Errorf("got %v, want one key of each name", keys)
		}
		s.rotates(other.values, "SECRETS_MANAGER_APIKEY="+bootstrapKey)
	})
}

func TestBootstrapKeyInAFile(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		r := s.succeed("--bootstrap-key-file", s.path("bootstrap.key"))
		s.checkPrivate("bootstrap.key")
		if _, there := r.values["BOOTSTRAP_SECRET_ARN"]; there {
			t.Error("got an ARN, want none")
		}
		s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+strings.TrimSpace(s.read("bootstrap.key")))

		moved := s.succeed() // to AWS: another place, so another key; the first goes on working
		if moved.values["BOOTSTRAP_APIKEY_ID"] == r.values["BOOTSTRAP_APIKEY_ID"] || moved.values["BOOTSTRAP_SECRET_ARN"] == "" {
			t.Errorf("got %v, want a new key in AWS", moved.values)
		}
		s.token(s.read("bootstrap.key"))
	})
}

func TestAWSSecretsNameIsHandedOn(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		first := s.succeed("--aws-secret", "team/rotator")
		if want := "arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/rotator-a1b2c3"; first.values["BOOTSTRAP_SECRET_ARN"] != want {
			t.Errorf("got %s, want %s", first.values["BOOTSTRAP_SECRET_ARN"], want)
		}
		s.cloud.ClearRequests()
		if again := s.succeed("--aws-secret", "team/rotator"); again.stdout != first.stdout || len(s.writes()) > 0 {
			t.Errorf("the same name again: got %q, want no change", s.writes())
		}
		if other := s.succeed("--aws-secret", "team/other"); other.values["BOOTSTRAP_APIKEY_ID"] == first.values["BOOTSTRAP_APIKEY_ID"] {
			t.Error("another name: got the same key, want one of its own")
		}
	})
}

func TestTrustedProfileNeedsNoBootstrapKey(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		s.outputs["bootstrap_iam_id"], s.outputs["iam_profile_id"] = "", s.cloud.ProfileID()
		r := s.succeed()
		if r.values["IAM_PROFILE_ID"] != s.cloud.ProfileID() || r.values["BOOTSTRAP_APIKEY_ID"] != "" {
			t.Errorf("got %v, want the profile and no key", r.values)
		}
		if err := os.WriteFile(s.path("cr-token"), []byte("a compute resource token"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.rotates(r.values, "IAM_PROFILE_ID="+r.values["IAM_PROFILE_ID"], "CR_TOKEN_FILENAME="+s.path("cr-token"))
	})
}

// TestTokenForms: IAM_TOKEN may be whatever the CLI prints.
func TestTokenForms(t *testing.T) {
	inDash(t, func(t *testing.T, s *setUp) {
		bare := s.admin
		for _, form := range []string{bare, "Bearer " + bare, "IAM token:  Bearer " + bare + "\n"} {
			s.env["IAM_TOKEN"] = form
			s.succeed()
		}
	})
}

func TestKeyIsTriedUntilIAMKnowsIt(t *testing.T) {
	t.Parallel()
	s := newSetUp(t, "dash", ibmcloudtest.Options{}) // two seconds
	r := s.succeed()
	s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
}

// TestTracingShowsNoSecret: people run scripts with -x when something is wrong.
func TestTracingShowsNoSecret(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		command := s.command("--reader-key-file", s.path("reader.key"))
		command.Args = slices.Insert(command.Args, 1, "-x")
		if r := s.finish(command); r.status != 0 || !strings.Contains(r.stderr, "+ curl") {
			t.Errorf("got exit %d and %d bytes of trace, want 0 and a trace", r.status, len(r.stderr))
		}
	})
}

// TestInterruptedRunCleansUp: Ctrl-C while a key waits to be stored leaves no file, and the next run goes on.
func TestInterruptedRunCleansUp(t *testing.T) {
	eachShell(t, func(t *testing.T, s *setUp) {
		s.script("put-slowly", "cat >'"+s.path("waiting")+"'; sleep 3; exit 1")
		s.env["PUT_BOOTSTRAP_KEY"] = s.path("put-slowly")
		interrupt := func(script *os.Process) {
			waitFor(t, "the key to be handed over", func() bool { info, err := os.Stat(s.path("waiting")); return err == nil && info.Size() > 0 })
			_ = script.Signal(syscall.SIGTERM)
		}
		if r := s.finish(s.command(), interrupt); r.status != 143 || r.stdout != "" {
			t.Errorf("got exit %d and %q, want 143 and nothing", r.status, r.stdout)
		}
		lost := s.read("waiting")
		delete(s.env, "PUT_BOOTSTRAP_KEY")
		r := s.succeed()
		s.rotates(r.values, "SECRETS_MANAGER_APIKEY="+s.read("stored-in-aws"))
		if status, _ := s.exchange(lost); status != 400 {
			t.Errorf("the key that was never stored: got %d, want 400, deleted", status)
		}
	})
}
