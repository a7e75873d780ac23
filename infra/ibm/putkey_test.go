package ibm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

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
