package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/serving"
)

func TestManyRotations(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fleet.env")
	startSandbox(t, "-rotations", "3", "-env", file)
	env := readEnvFile(t, file)
	checkRotations(t, env, 3)
	if dir := filepath.Dir(env["ROTATIONS_FILE"]); dir != filepath.Dir(file) {
		t.Errorf("ROTATIONS_FILE is in %s, want beside the environment file", dir)
	}
}

func TestEnvironmentOnStdout(t *testing.T) {
	s := startSandbox(t, "-rotations", "2", "-env", "-")
	out := bufio.NewReader(s.stdout)
	var text bytes.Buffer
	for !strings.Contains(text.String(), "ROTATIONS_FILE") {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(line)
	}
	env := readEnv(t, &text)
	checkRotations(t, env, 2)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if code := s.stop(); code != serving.ExitOK {
		t.Errorf("got exit code %d, want 0", code)
	}
	if _, err := os.Stat(env["ROTATIONS_FILE"]); !os.IsNotExist(err) {
		t.Errorf("the temporary ROTATIONS_FILE outlived the sandbox: %v", err)
	}
}

func checkRotations(t *testing.T, env map[string]string, want int) {
	t.Helper()
	if env["API_KEY_SECRET"] != "" || env["TOKEN_SECRET"] != "" {
		t.Error("got ids beside ROTATIONS_FILE, want none")
	}
	raw, err := os.ReadFile(env["ROTATIONS_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(env["ROTATIONS_FILE"]); info.Mode() != 0o600 {
		t.Errorf("ROTATIONS_FILE: got mode %s, want 0600", info.Mode())
	}
	var list []map[string]string
	if err := json.Unmarshal(raw, &list); err != nil || len(list) != want {
		t.Fatalf("ROTATIONS_FILE: got %d rotations, %v; want %d", len(list), err, want)
	}
	for _, r := range list {
		if len(r) != 3 || !strings.HasPrefix(r["name"], "rotation-0000") || r["api_key_secret"] == "" || r["token_secret"] == "" {
			t.Errorf("got %v, want name, api_key_secret and token_secret", r)
		}
	}
}
