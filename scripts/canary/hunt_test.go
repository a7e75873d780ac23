package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// built builds the programs once.
var built = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "canary-built-")
	if err != nil {
		return "", err
	}
	return folder, programs.Build(folder, map[string]string{"bootstrap": "functions/rotate", "invoke": "scripts/invoke"})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if folder, _ := built(); folder != "" {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

// newTools skips the test where a program that the scripts need is missing; continuous integration must have it.
func newTools(t *testing.T) tools {
	t.Helper()
	programs.Need(t, "curl", "jq", "bash")
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	noting := t.TempDir()
	if err := writeNoting(noting); err != nil {
		t.Fatal(err)
	}
	return tools{bin: bin, scripts: scripts, noting: noting}
}

// TestAFewOfAllPaths is `make canary` in small.
func TestAFewOfAllPaths(t *testing.T) {
	t.Parallel()
	needed := newTools(t)
	var out bytes.Buffer
	exit := hunt(t.Context(), hunter{bin: needed.bin, scripts: needed.scripts, only: regexp.MustCompile(""), every: 97, workers: 2}, &out)
	if exit != 0 || !regexp.MustCompile(`canary: \d{2,} paths tried, 0 hits\n$`).MatchString(out.String()) {
		t.Errorf("got exit %d\n%s", exit, out.String())
	}
}

// TestWhatWasFoundBefore tries again each path on which something once came out.
func TestWhatWasFoundBefore(t *testing.T) {
	t.Parallel()
	needed := newTools(t)
	for finding, p := range map[string]path{
		"iam-token repeated an unknown option":               findPath(t, wrongArguments(), "iam-token: with the argument --apikey=%s"),
		"set-up-secrets repeated its arguments":              findPath(t, wrongArguments(), "set-up-secrets: with the argument --apikey=%s"),
		"set-up-secrets repeated a number of days":           findPath(t, wrongArguments(), "set-up-secrets: with a key for --expires-in"),
		"the command repeated a flag's value":                findPath(t, wrongArguments(), "command: with a key for -timeout"),
		"curl's complaint has the proxy's password":          findPath(t, proxied(), "set-up-secrets: a URL that is no proxy"),
		"aws's complaint was passed on":                      findPath(t, inputs(), "put-bootstrap-key: aws: repeat"),
		"set-up-secrets left its files after SIGQUIT":        findPath(t, kills(), "set-up-secrets: killed by quit with GOTRACEBACK=crash"),
		"a shell dumped core":                                findPath(t, kills(), "iam-token: killed by aborted with GOTRACEBACK=crash"),
		"the function dumped core":                           findPath(t, kills(), "command: killed by quit with GOTRACEBACK=crash"),
		"the AWS SDK logged a header that it could not read": findPath(t, awsPaths(), "lambda, mirrored: secretsmanager.GetSecretValue meets 502"),
		"curl wrote down the keys of its connections":        findPath(t, switchedOn(), "iam-token: with SSLKEYLOGFILE=keys.log"),
		"GODEBUG showed every header sent":                   findPath(t, switchedOn(), "command: with GODEBUG=http2debug=2"),
	} {
		hits, _, err := attempt(t.Context(), p, needed)
		if err != nil {
			t.Errorf("%s: %v", finding, err)
		}
		for _, hit := range hits {
			t.Errorf("%s: %s", finding, hit)
		}
	}
}

func findPath(t *testing.T, paths []path, name string) path {
	t.Helper()
	for _, p := range paths {
		if p.name() == name {
			return p
		}
	}
	t.Fatalf("there is no path %q", name)
	return path{}
}

// TestALeakIsFoundWhereverItComesOut: the harness itself must be able to find.
func TestALeakIsFoundWhereverItComesOut(t *testing.T) {
	t.Parallel()
	needed := newTools(t)
	for where, text := range map[string]string{
		"stdout":            `printf '%s' "$SECRETS_MANAGER_APIKEY"`,
		"stderr":            `printf '%s' "x$SECRETS_MANAGER_APIKEY" | base64 >&2`,
		"the file left":     `printf '%s' "$AWS_SECRET_ACCESS_KEY" >"$HOME/left"`,
		programArguments:    `date "+$SECRETS_MANAGER_APIKEY" >/dev/null`,
		networkEnvironment:  `curl --version >/dev/null`,
		processArguments:    `/bin/sh -c 'exec </dev/zero; head -c 200000000 >/dev/null' "$SECRETS_MANAGER_APIKEY"`,
		"stdout, of a part": `printf '%.12s' "$SECRETS_MANAGER_APIKEY"`,
	} {
		leaking := subject{name: "leaking", env: function, command: func(tools) []string { return []string{"sh", "-c", text} }}
		hits, _, err := attempt(t.Context(), path{subject: leaking, how: "on purpose"}, needed)
		if err != nil {
			t.Fatal(err)
		}
		want, _, _ := strings.Cut(where, ",")
		if !strings.Contains(strings.Join(hits, "\n"), " is in "+want) {
			t.Errorf("%s: got %d hits, none there", where, len(hits))
		}
		for _, hit := range hits {
			if strings.Contains(hit, "canary-aws-") {
				t.Error("the hit repeats the secret")
			}
		}
	}
}

const planted = "Xq7/kV2+mPz0_Lr4tGw8-Hs1dNf6yBc3eJa9uKo5iQvT"

// TestTheSearchFindsAPlantedLeak: a search that finds nothing anywhere would pass every other test.
func TestTheSearchFindsAPlantedLeak(t *testing.T) {
	search := newPieces(canary{"planted", planted})
	percent := "%" + spaced(planted, "%")
	for name, leak := range map[string]string{
		"whole":                   planted,
		"the first 12 characters": planted[:12],
		"12 in the middle":        planted[17:29],
		"the last 12":             planted[len(planted)-12:],
		"in JSON":                 fmt.Sprintf(`{"error":%q}`, planted),
		"base64":                  base64.StdEncoding.EncodeToString([]byte(planted)),
		"base64, one before":      base64.StdEncoding.EncodeToString([]byte(":" + planted)),
		"base64, two before":      base64.StdEncoding.EncodeToString([]byte("u:" + planted)),
		"base64url":               base64.URLEncoding.EncodeToString([]byte("apikey=" + planted)),
		"base64 of a part":        base64.StdEncoding.EncodeToString([]byte(planted[5:22])),
		"Basic authorization":     base64.StdEncoding.EncodeToString([]byte("user:" + planted)),
		"hex":                     hex.EncodeToString([]byte(planted)),
		"upper-case hex":          strings.ToUpper(hex.EncodeToString([]byte(planted[20:33]))),
		"a byte slice with %x":    fmt.Sprintf("% x", []byte(planted)),
		"URL-encoded":             url.QueryEscape(planted),
		"every byte encoded":      percent,
		"in upper case":           strings.ToUpper(percent),
		"an argument in a trace":  fmt.Sprintf("main.f(0x%x, 0x2c)", littleEndian(planted[8:16])),
		"a word of memory":        hex.EncodeToString([]byte(planted[3:11])),
	} {
		if hits := search.in([]byte("some text " + leak + " more text")); len(hits) == 0 {
			t.Errorf("%s: got no hit, want one", name)
		}
	}
	for name, text := range map[string]string{
		"nothing":       "",
		"11 characters": planted[:11] + " " + planted[30:41],
		"other text":    strings.Repeat("the token expires 2026-01-01T00:00:00Z, fingerprint 1f3a5b7c9d0e2f4a; ", 100),
	} {
		if hits := search.in([]byte(text)); len(hits) != 0 {
			t.Errorf("%s: got hits of form %q, want none", name, hits[0].form)
		}
	}
}

func littleEndian(eight string) uint64 {
	var word uint64
	for i := range len(eight) {
		word |= uint64(eight[i]) << (8 * i)
	}
	return word
}
