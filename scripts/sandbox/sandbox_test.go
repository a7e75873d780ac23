package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/serving"
)

func TestServesUntilStopped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sandbox.env")
	s := startSandbox(t, "-token-ttl", "15m", "-env", file)
	env := readEnvFile(t, file)
	for _, name := range []string{"SECRETS_MANAGER_URL", "IAM_URL", "LOGS_ROUTING_URL", "SECRETS_MANAGER_APIKEY",
		"READER_APIKEY", "ADMIN_APIKEY", "API_KEY_SECRET", "TOKEN_SECRET",
		"ACCOUNT_ID", "KEY_GROUP_ID", "TOKEN_GROUP_ID", "BOOTSTRAP_IAM_ID", "WORKLOAD_IAM_ID", "READER_IAM_ID"} {
		if env[name] == "" {
			t.Errorf("%s: got none", name)
		}
	}
	if len(env) != 14 {
		t.Errorf("got %d variables, want 14", len(env))
	}
	if u, err := url.Parse(env["SECRETS_MANAGER_URL"]); err != nil || u.Scheme != "http" || u.Path != "" {
		t.Errorf("SECRETS_MANAGER_URL: got %q, want an origin without a path", env["SECRETS_MANAGER_URL"])
	}
	for name, status := range map[string]int{"SECRETS_MANAGER_APIKEY": 403, "READER_APIKEY": 200, "ADMIN_APIKEY": 200} {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, env["SECRETS_MANAGER_URL"]+"/api/v2/secrets/"+env["TOKEN_SECRET"], nil)
		r.Header.Set("Authorization", "Bearer "+exchange(t, http.DefaultClient, env, name))
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("%s reads the token secret: got %d, want %d", name, response.StatusCode, status)
		}
	}
	if code := s.stop(); code != serving.ExitOK {
		t.Errorf("stopped: got exit code %d, want 0", code)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(env["IAM_URL"], "http://")); err == nil {
		t.Error("stopped: it still listens")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 1 {
		t.Errorf("left behind: got %v, want the environment file only", left)
	}
}

func TestHTTPS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "tls")
	file := filepath.Join(t.TempDir(), "env")
	startSandbox(t, "-tls-dir", dir, "-token-ttl", "15m", "-env", file)
	env := readEnvFile(t, file)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, rest := pem.Decode(ca); block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		t.Errorf("ca.pem: want one certificate and no key")
	}
	if info, _ := os.Stat(filepath.Join(dir, "ca.pem")); info.Mode() != 0o644 {
		t.Errorf("ca.pem: got mode %s, want 0644", info.Mode())
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files in -tls-dir, want ca.pem only", len(files))
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	u, _ := url.Parse(env["IAM_URL"])
	if u.Scheme != "https" {
		t.Errorf("IAM_URL: got %s, want https", env["IAM_URL"])
	}
	for _, name := range []string{"127.0.0.1", "::1", "localhost"} {
		conn, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		conn.Close()
	}
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer trusting.CloseIdleConnections()
	exchange(t, trusting, env, "READER_APIKEY")
}
