// Package iamtokentest runs scripts/iam-token as jobs do: as a program, under
// dash, bash and busybox sh, against the sandbox over HTTP and HTTPS.
package iamtokentest

import (
	"encoding/pem"
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// shells are those that the script promises to run under.
var shells = []string{"dash", "bash", "busybox"}

// TestMain lets more tests run beside each other than there are processors: most of
// their time is waiting.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// stage is a cloud, and the environment of a job that reads from it.
type stage struct {
	t      *testing.T
	shell  []string // the shell, with its options
	cloud  *ibmcloudtest.Cloud
	env    map[string]string
	bin    string        // the first folder of PATH
	worked time.Duration // the processor time of the last run
}

// turn is for the shells to take turns: one run of each case is enough.
var turn atomic.Int64

// onStage runs test beside others, under one shell.
func onStage(t *testing.T, name string, o ibmcloudtest.Options, test func(s *stage)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		test(newStage(t, shells[int(turn.Add(1))%len(shells)], o))
	})
}

// underEachShell runs test on a stage of its own for each shell.
func underEachShell(t *testing.T, test func(s *stage)) {
	t.Helper()
	t.Parallel()
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			test(newStage(t, shell, ibmcloudtest.Options{}))
		})
	}
}

func newStage(t *testing.T, shell string, o ibmcloudtest.Options) *stage {
	t.Helper()
	if _, err := exec.LookPath(shell); shell == "busybox" && err != nil {
		shell = "dash" // busybox is in few images for development
	}
	programs.Need(t, shell, "curl", "jq")
	s := &stage{t: t, shell: []string{shell}, cloud: ibmcloudtest.New(o), bin: t.TempDir()}
	if shell == "busybox" {
		s.shell = []string{shell, "sh"}
	}
	server := httptest.NewServer(s.cloud)
	t.Cleanup(server.Close)
	s.env = map[string]string{
		"PATH":          s.bin + ":" + os.Getenv("PATH"),
		"HOME":          t.TempDir(),
		"TMPDIR":        t.TempDir(),
		"READER_APIKEY": s.cloud.ReaderAPIKey(),
		"TOKEN_SECRET":  s.secret(),
	}
	s.at(server.URL)
	return s
}

// at is where both services answer.
func (s *stage) at(url string) { s.env["SECRETS_MANAGER_URL"], s.env["IAM_URL"] = url, url }

// secret is the id of the token secret.
func (s *stage) secret() string { return s.cloud.Rotations()[0].TokenSecret }

// token makes a token of the workload with the lifetime ttl.
func (s *stage) token(ttl time.Duration) string {
	return s.cloud.MustMintToken(s.cloud.Rotations()[0].APIKey, ttl)
}

// publish stores a new token as the rotator does, and returns it.
func (s *stage) publish(ttl time.Duration) string {
	token := s.token(ttl)
	s.store(token, time.Now().Add(ttl))
	return token
}

// store saves a payload with metadata that states its expiry.
func (s *stage) store(payload string, expires time.Time) {
	s.cloud.MustPutVersion(s.secret(), payload, map[string]any{"expiration": expires.Unix()})
}

// script is where scripts/iam-token is.
func script(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../iam-token")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// iamToken runs the script.
func (s *stage) iamToken(args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	return s.sh(append([]string{script(s.t)}, args...)...)
}

// sh runs the shell with the stage's environment and nothing else of ours.
func (s *stage) sh(args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	got := programs.Run(s.t, programs.Command{Env: programs.Environ(s.env), Name: s.shell[0], Args: append(s.shell[1:len(s.shell):len(s.shell)], args...)})
	s.worked = got.Worked
	return got.Stdout, got.Stderr, got.Exit
}

// wantFailure checks that the script prints no token, and says on stderr what
// each of advice says.
func (s *stage) wantFailure(exit int, args []string, advice ...string) {
	s.t.Helper()
	stdout, stderr, got := s.iamToken(args...)
	if got != exit || stdout != "" {
		s.t.Errorf("got exit %d and %d bytes, want %d and none (stderr: %s)", got, len(stdout), exit, stderr)
	}
	for _, text := range advice {
		if !strings.Contains(stderr, text) {
			s.t.Errorf("got stderr %q, want it to say %q", stderr, text)
		}
	}
	s.wantNoSecret("stderr", stderr)
}

// wantRaw checks that the script prints token.
func (s *stage) wantRaw(name, token string, args ...string) (stderr string) {
	s.t.Helper()
	stdout, stderr, exit := s.iamToken(append([]string{"--format", "raw"}, args...)...)
	if stdout != token+"\n" || exit != 0 {
		s.t.Errorf("%s: got exit %d, %d bytes (stderr %q), want exit 0 and the token", name, exit, len(stdout), stderr)
	}
	s.wantNoSecret(name, stderr)
	return stderr
}

// wantNoSecret checks that text holds no key of the cloud and nothing of a token.
func (s *stage) wantNoSecret(where, text string) {
	s.t.Helper()
	secrets := []string{"eyJ", s.cloud.ReaderAPIKey(), s.cloud.AdminAPIKey(), s.cloud.Rotations()[0].APIKey}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			s.t.Errorf("%s holds a key or token", where)
		}
	}
}

// file writes a file and returns its path.
func (s *stage) file(name, content string, mode os.FileMode) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), name)
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// program writes a shell script under name, to be found before any other program.
func (s *stage) program(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.bin, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// fault adds a fault to the cloud.
func (s *stage) fault(f ibmcloudtest.Fault) {
	s.t.Helper()
	if err := s.cloud.AddFault(f); err != nil {
		s.t.Fatal(err)
	}
}

// serveTLS moves the stage to HTTPS, with a CA that nobody trusts unasked.
func (s *stage) serveTLS() (caFile string) {
	s.t.Helper()
	server := httptest.NewTLSServer(s.cloud)
	s.t.Cleanup(server.Close)
	s.at(server.URL)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return s.file("ca.pem", string(certificate), 0o600)
}
