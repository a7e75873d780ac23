package ibm_test

import (
	"os"
	"path/filepath"
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
