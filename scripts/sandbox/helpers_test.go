package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A sandbox is one that run serves.
type sandbox struct {
	stdout *io.PipeReader
	stop   func() int // ends it and returns the exit code
}

// startSandbox starts run and waits until it says that it serves.
func startSandbox(t *testing.T, args ...string) sandbox {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	outReader, stdout := io.Pipe()
	errReader, stderr := io.Pipe()
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, append([]string{"-addr", "127.0.0.1:0"}, args...), stdout, stderr)
		stdout.Close()
		stderr.Close()
	}()
	stop := func() int {
		cancel()
		code := <-exit
		exit <- code // stopping twice is harmless
		return code
	}
	t.Cleanup(func() {
		outReader.Close()
		stop()
	})
	serving := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(errReader).ReadString('\n')
		serving <- line
		_, _ = io.Copy(io.Discard, errReader)
	}()
	s := sandbox{outReader, stop}
	if len(args) == 0 || args[len(args)-1] != "-" {
		if line := <-serving; !strings.Contains(line, "serving IBM Cloud on http") {
			t.Fatalf("stderr: got %q, want the address", line)
		}
	}
	return s
}

// readEnv parses NAME='value' lines.
func readEnv(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	variables := map[string]string{}
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		name, value, _ := strings.Cut(scanner.Text(), "=")
		if len(value) < 2 || value[0] != '\'' || value[len(value)-1] != '\'' {
			t.Fatalf("line for %s is not NAME='value'", name)
		}
		variables[name] = value[1 : len(value)-1]
	}
	return variables
}

func readEnvFile(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if info, _ := file.Stat(); info.Mode() != 0o600 {
		t.Errorf("%s: got mode %s, want 0600", filepath.Base(path), info.Mode())
	}
	return readEnv(t, file)
}

// exchange gets a token for the key in variable name.
func exchange(t *testing.T, client *http.Client, env map[string]string, name string) string {
	t.Helper()
	response, err := client.PostForm(env["IAM_URL"]+"/identity/token",
		url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {env[name]}})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct {
		Token     string `json:"access_token"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Token == "" {
		t.Fatalf("%s: got %s, want a token", name, response.Status)
	}
	if body.ExpiresIn != 900 {
		t.Errorf("%s: got a token of %d s, want 900", name, body.ExpiresIn)
	}
	return body.Token
}
