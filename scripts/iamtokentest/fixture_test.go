// Package iamtokentest runs scripts/iam-token as jobs do: as a program, under
// dash, bash and busybox sh, against the sandbox over HTTP and HTTPS.
package iamtokentest

import (
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

const iam, read = ibmcloudtest.OpIAMToken, ibmcloudtest.OpVersionsGet

// TestMain lets more tests run in parallel than there are processors: most of
// their time is waiting.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// job is a cloud, and the environment of a job that reads from it.
type job struct {
	t      *testing.T
	shell  []string // the shell, with its options
	cloud  *ibmcloudtest.Cloud
	env    map[string]string
	bin    string        // the first folder of PATH
	worked time.Duration // the processor time of the last run
}

// turn is for the shells to take turns: one run of each case is enough.
var turn atomic.Int64

// withJob runs test in parallel with others, under one shell.
func withJob(t *testing.T, name string, test func(j *job)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		test(newJob(t, shells[int(turn.Add(1))%len(shells)], nil))
	})
}

// underEachShell runs test with its own job for each shell.
func underEachShell(t *testing.T, test func(j *job)) {
	t.Helper()
	t.Parallel()
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			test(newJob(t, shell, nil))
		})
	}
}

func newJob(t *testing.T, shell string, now func() time.Time) *job {
	t.Helper()
	if _, err := exec.LookPath(shell); shell == "busybox" && err != nil {
		shell = "dash" // busybox is in few images for development
	}
	programs.Need(t, shell, "curl", "jq")
	if _, err := os.Stat("../iam-token"); err != nil { // the go command runs the test anew when what it has looked at changes
		t.Fatal(err)
	}
	j := &job{t: t, shell: []string{shell}, cloud: ibmcloudtest.New(ibmcloudtest.Options{Now: now}), bin: t.TempDir()}
	if shell == "busybox" {
		j.shell = []string{shell, "sh"}
	}
	server := httptest.NewServer(j.cloud)
	t.Cleanup(server.Close)
	j.env = map[string]string{
		"PATH": j.bin + ":" + os.Getenv("PATH"), "HOME": t.TempDir(), "TMPDIR": t.TempDir(),
		"READER_APIKEY": j.cloud.ReaderAPIKey(), "TOKEN_SECRET": j.secret(),
	}
	j.at(server.URL)
	return j
}

// at is where both services answer.
func (j *job) at(url string) { j.env["SECRETS_MANAGER_URL"], j.env["IAM_URL"] = url, url }

// byToken gives the job a token of the reader in place of its key: that saves each run an exchange.
func (j *job) byToken() {
	delete(j.env, "READER_APIKEY")
	j.env["READER_IAM_TOKEN"] = j.cloud.MustMintToken(j.cloud.ReaderAPIKey(), time.Hour)
}

// secret is the id of the token secret.
func (j *job) secret() string { return j.cloud.Rotations()[0].TokenSecret }

// token makes a token of the workload with the lifetime ttl.
func (j *job) token(ttl time.Duration) string {
	return j.cloud.MustMintToken(j.cloud.Rotations()[0].APIKey, ttl)
}

// save stores a new token as the rotator does, and returns it.
func (j *job) save(ttl time.Duration) string {
	token := j.token(ttl)
	j.store(token, time.Now().Add(ttl))
	return token
}

// store saves a payload with metadata that states its expiry.
func (j *job) store(payload string, expires time.Time) {
	j.cloud.MustPutVersion(j.secret(), payload, map[string]any{"expiration": expires.Unix()})
}

// iamToken runs the script.
func (j *job) iamToken(args ...string) (stdout, stderr string, exit int) {
	j.t.Helper()
	return j.sh(append([]string{"../iam-token"}, args...)...)
}

// sh runs the shell with the job's environment and nothing else of ours.
func (j *job) sh(args ...string) (stdout, stderr string, exit int) {
	j.t.Helper()
	got := programs.Run(j.t, programs.Command{Env: programs.Environ(j.env), Name: j.shell[0], Args: append(j.shell[1:len(j.shell):len(j.shell)], args...)})
	j.worked = got.Worked
	j.wantNoSecret("stderr", got.Stderr)
	return got.Stdout, got.Stderr, got.Exit
}

// wantFailure checks that the script prints no token, and what it says on stderr.
func (j *job) wantFailure(exit int, says string, args ...string) (stderr string) {
	j.t.Helper()
	stdout, stderr, got := j.iamToken(args...)
	if got != exit || stdout != "" || !strings.Contains(stderr, says) {
		j.t.Errorf("got exit %d and %d bytes, stderr %q; want exit %d, no bytes and %q", got, len(stdout), stderr, exit, says)
	}
	return stderr
}

// wantToken checks that the script prints token.
func (j *job) wantToken(token string, args ...string) (stderr string) {
	j.t.Helper()
	stdout, stderr, exit := j.iamToken(append([]string{"--format", "raw"}, args...)...)
	if stdout != token+"\n" || exit != 0 {
		j.t.Errorf("%v: got exit %d, %d bytes (stderr %q), want exit 0 and the token", args, exit, len(stdout), stderr)
	}
	return stderr
}

// wantNoSecret ends the test, before anything prints text, if text holds a key of the cloud or anything of a token.
func (j *job) wantNoSecret(where, text string) {
	j.t.Helper()
	for _, secret := range []string{"eyJ", j.cloud.ReaderAPIKey(), j.cloud.AdminAPIKey(), j.cloud.Rotations()[0].APIKey} {
		if strings.Contains(text, secret) {
			j.t.Fatalf("%s holds a key or token", where)
		}
	}
}

// file writes a file and returns its path.
func (j *job) file(name, content string, mode os.FileMode) string {
	j.t.Helper()
	path := filepath.Join(j.t.TempDir(), name)
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
		j.t.Fatal(err)
	}
	return path
}

// program writes a shell script under name, to be found before any other program.
func (j *job) program(name, text string) {
	j.t.Helper()
	if err := os.WriteFile(filepath.Join(j.bin, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		j.t.Fatal(err)
	}
}
