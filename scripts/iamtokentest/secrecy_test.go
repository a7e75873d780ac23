package iamtokentest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

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
