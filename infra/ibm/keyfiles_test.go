package ibm_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

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
