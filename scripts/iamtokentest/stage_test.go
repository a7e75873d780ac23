// Package iamtokentest runs scripts/iam-token as jobs do: as a program, under
// dash and bash, against the sandbox over HTTP and HTTPS.
package iamtokentest

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// shells are those that the script promises to run under.
var shells = []string{"dash", "bash"}

// stage is a cloud, and the environment of a job that reads from it.
type stage struct {
	t       *testing.T
	shell   string
	cloud   *ibmcloudtest.Cloud
	env     map[string]string
	options []string // of the shell
	bin     string   // stands before PATH
}

// underEachShell runs test on a stage of its own for each shell.
func underEachShell(t *testing.T, o ibmcloudtest.Options, test func(s *stage)) {
	t.Helper()
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			test(newStage(t, shell, o))
		})
	}
}

func newStage(t *testing.T, shell string, o ibmcloudtest.Options) *stage {
	t.Helper()
	programs.Need(t, shell, "curl", "jq")
	s := &stage{t: t, shell: shell, cloud: ibmcloudtest.New(o), bin: t.TempDir()}
	server := httptest.NewServer(s.cloud)
	t.Cleanup(server.Close)
	s.env = map[string]string{
		"PATH":                s.bin + ":" + os.Getenv("PATH"),
		"HOME":                t.TempDir(),
		"TMPDIR":              t.TempDir(),
		"SECRETS_MANAGER_URL": server.URL,
		"IAM_URL":             server.URL,
		"READER_APIKEY":       s.cloud.ReaderAPIKey(),
		"TOKEN_SECRET":        s.secret(),
	}
	return s
}

// secret is the id of the token secret.
func (s *stage) secret() string { return s.cloud.Rotations()[0].TokenSecret }

// token makes a token of the workload that lives for ttl.
func (s *stage) token(ttl time.Duration) string {
	return s.cloud.MustMintToken(s.cloud.Rotations()[0].APIKey, ttl)
}

// publish stores a new token as the rotator does, and returns it.
func (s *stage) publish(ttl time.Duration) string {
	token := s.token(ttl)
	s.store(token, time.Now().Add(ttl))
	return token
}

// store saves a payload with metadata that tells its expiry.
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
	return s.sh(append(append(append([]string{}, s.options...), script(s.t)), args...)...)
}

// sh runs the shell with the stage's environment and nothing else of ours.
func (s *stage) sh(args ...string) (stdout, stderr string, exit int) {
	s.t.Helper()
	got := programs.Run(s.t, programs.Command{Env: programs.Environ(s.env), Name: s.shell, Args: args})
	return got.Stdout, got.Stderr, got.Exit
}

// wantFailure checks that the script prints no token, and says on stderr what
// each of advice says.
func (s *stage) wantFailure(exit int, args []string, advice ...string) {
	s.t.Helper()
	stdout, stderr, got := s.iamToken(args...)
	if got != exit {
		s.t.Errorf("got exit %d, want %d (stderr: %s)", got, exit, stderr)
	}
	if stdout != "" {
		s.t.Errorf("got %d bytes on stdout, want none", len(stdout))
	}
	for _, text := range advice {
		if !strings.Contains(stderr, text) {
			s.t.Errorf("got stderr %q, want it to say %q", stderr, text)
		}
	}
	s.wantNoSecret("stderr", stderr)
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
	s.env["SECRETS_MANAGER_URL"], s.env["IAM_URL"] = server.URL, server.URL
	caFile = filepath.Join(s.t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, certificate, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return caFile
}
