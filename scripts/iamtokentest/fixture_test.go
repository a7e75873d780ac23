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

// TestMain lets more tests run in parallel than there are processors: most of
// their time is waiting.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// fixture is a cloud, and the environment of a job that reads from it.
type fixture struct {
	t      *testing.T
	shell  []string // the shell, with its options
	cloud  *ibmcloudtest.Cloud
	env    map[string]string
	bin    string        // the first folder of PATH
	worked time.Duration // the processor time of the last run
}

// turn is for the shells to take turns: one run of each case is enough.
var turn atomic.Int64

// withFixture runs test in parallel with others, under one shell.
func withFixture(t *testing.T, name string, o ibmcloudtest.Options, test func(fx *fixture)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		test(newFixture(t, shells[int(turn.Add(1))%len(shells)], o))
	})
}

// underEachShell runs test with its own fixture for each shell.
func underEachShell(t *testing.T, test func(fx *fixture)) {
	t.Helper()
	t.Parallel()
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			test(newFixture(t, shell, ibmcloudtest.Options{}))
		})
	}
}

func newFixture(t *testing.T, shell string, o ibmcloudtest.Options) *fixture {
	t.Helper()
	if _, err := exec.LookPath(shell); shell == "busybox" && err != nil {
		shell = "dash" // busybox is in few images for development
	}
	programs.Need(t, shell, "curl", "jq")
	fx := &fixture{t: t, shell: []string{shell}, cloud: ibmcloudtest.New(o), bin: t.TempDir()}
	if shell == "busybox" {
		fx.shell = []string{shell, "sh"}
	}
	server := httptest.NewServer(fx.cloud)
	t.Cleanup(server.Close)
	fx.env = map[string]string{
		"PATH":          fx.bin + ":" + os.Getenv("PATH"),
		"HOME":          t.TempDir(),
		"TMPDIR":        t.TempDir(),
		"READER_APIKEY": fx.cloud.ReaderAPIKey(),
		"TOKEN_SECRET":  fx.secret(),
	}
	fx.at(server.URL)
	return fx
}

// at is where both services answer.
func (fx *fixture) at(url string) { fx.env["SECRETS_MANAGER_URL"], fx.env["IAM_URL"] = url, url }

// secret is the id of the token secret.
func (fx *fixture) secret() string { return fx.cloud.Rotations()[0].TokenSecret }

// token makes a token of the workload with the lifetime ttl.
func (fx *fixture) token(ttl time.Duration) string {
	return fx.cloud.MustMintToken(fx.cloud.Rotations()[0].APIKey, ttl)
}

// save stores a new token as the rotator does, and returns it.
func (fx *fixture) save(ttl time.Duration) string {
	token := fx.token(ttl)
	fx.store(token, time.Now().Add(ttl))
	return token
}

// store saves a payload with metadata that states its expiry.
func (fx *fixture) store(payload string, expires time.Time) {
	fx.cloud.MustPutVersion(fx.secret(), payload, map[string]any{"expiration": expires.Unix()})
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
func (fx *fixture) iamToken(args ...string) (stdout, stderr string, exit int) {
	fx.t.Helper()
	return fx.sh(append([]string{script(fx.t)}, args...)...)
}

// sh runs the shell with the fixture's environment and nothing else of ours.
func (fx *fixture) sh(args ...string) (stdout, stderr string, exit int) {
	fx.t.Helper()
	got := programs.Run(fx.t, programs.Command{Env: programs.Environ(fx.env), Name: fx.shell[0], Args: append(fx.shell[1:len(fx.shell):len(fx.shell)], args...)})
	fx.worked = got.Worked
	fx.wantNoSecret("stderr", got.Stderr)
	return got.Stdout, got.Stderr, got.Exit
}

// wantFailure checks that the script prints no token, and says on stderr what
// each of advice says.
func (fx *fixture) wantFailure(exit int, args []string, advice ...string) {
	fx.t.Helper()
	stdout, stderr, got := fx.iamToken(args...)
	if got != exit || stdout != "" {
		fx.t.Errorf("got exit %d and %d bytes, want %d and none (stderr: %s)", got, len(stdout), exit, stderr)
	}
	for _, text := range advice {
		if !strings.Contains(stderr, text) {
			fx.t.Errorf("got stderr %q, want it to say %q", stderr, text)
		}
	}
}

// wantRaw checks that the script prints token.
func (fx *fixture) wantRaw(name, token string, args ...string) (stderr string) {
	fx.t.Helper()
	stdout, stderr, exit := fx.iamToken(append([]string{"--format", "raw"}, args...)...)
	if stdout != token+"\n" || exit != 0 {
		fx.t.Errorf("%s: got exit %d, %d bytes (stderr %q), want exit 0 and the token", name, exit, len(stdout), stderr)
	}
	return stderr
}

// wantNoSecret ends the test, before anything prints text, if text holds a key of the cloud or anything of a token.
func (fx *fixture) wantNoSecret(where, text string) {
	fx.t.Helper()
	secrets := []string{"eyJ", fx.cloud.ReaderAPIKey(), fx.cloud.AdminAPIKey(), fx.cloud.Rotations()[0].APIKey}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			fx.t.Fatalf("%s holds a key or token", where)
		}
	}
}

// file writes a file and returns its path.
func (fx *fixture) file(name, content string, mode os.FileMode) string {
	fx.t.Helper()
	path := filepath.Join(fx.t.TempDir(), name)
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
		fx.t.Fatal(err)
	}
	return path
}

// program writes a shell script under name, to be found before any other program.
func (fx *fixture) program(name, text string) {
	fx.t.Helper()
	if err := os.WriteFile(filepath.Join(fx.bin, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		fx.t.Fatal(err)
	}
}

// fault adds a fault to the cloud.
func (fx *fixture) fault(f ibmcloudtest.Fault) { fx.cloud.MustAddFault(f) }

// serveTLS moves the fixture to HTTPS, with a CA that nobody trusts unasked.
func (fx *fixture) serveTLS() (caFile string) {
	fx.t.Helper()
	server := httptest.NewTLSServer(fx.cloud)
	fx.t.Cleanup(server.Close)
	fx.at(server.URL)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return fx.file("ca.pem", string(certificate), 0o600)
}
