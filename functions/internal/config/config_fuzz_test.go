package config_test

import (
	"errors"
	"strings"
	"testing"

	"iam-token-rotator/functions/internal/config"
)

// Whatever stands in the environment: it is understood whole or refused, and no
// fault repeats a key.
func FuzzConfiguration(f *testing.F) {
	const id = "e2dd1896-8c39-4160-b230-92430f439ba9"
	f.Add("https://sm.test", `[{"name":"a","api_key_secret":"g/n","token_secret":"`+id+`"}]`, "8m", "20", "raw", "2026-01-31")
	f.Add("http://127.0.0.1:8480/", `[{"name":"a","api_key_secret":"g/kv/n","api_key_field":"k","token_secret":"`+id+`","format":"bearer","expect":{"account":"0123456789abcdef0123456789abcdef"}}]`, "", "0", "json", "")
	f.Add("", "", "", "", "", "")
	f.Add("https://u:p@host/?q#f", "[]", "-1s", "-1", "xml", "tomorrow")
	f.Add("http://example.com", `{"name":"a"}`, "61m", "9999999999999999999999", "raw\x00", "2026-02-30")
	f.Add("https://sm.test", `[{"name":"a","mirror":["arn:aws:secretsmanager:us-east-1:123456789012:secret:x"]}]`, "8m", "20", "raw", "2026-01-31T12:00:00Z")
	f.Add("https://[::1", `[{"name":"a"},{"name":"a"}] x`, "1h", "1e3", "RAW", "0001-01-01")
	f.Fuzz(func(t *testing.T, url, rotations, minRemaining, rps, format, expires string) {
		const key = "canary-key-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"
		cfg, err := config.Load([]string{
			"SECRETS_MANAGER_APIKEY=" + key, "SECRETS_MANAGER_URL=" + url, "ROTATIONS=" + rotations, "MIN_REMAINING=" + minRemaining,
			"SECRETS_MANAGER_MAX_RPS=" + rps, "TOKEN_FORMAT=" + format, "BOOTSTRAP_EXPIRES_AT=" + expires,
		}, func(string) ([]byte, error) { return nil, errors.New("there are no files") })
		if err != nil {
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("a fault repeats the key: %v", err)
			}
			return
		}
		checkUsable(t, cfg)
	})
}

// checkUsable: what Load accepts can be run with.
func checkUsable(t *testing.T, cfg config.Config) {
	t.Helper()
	if len(cfg.Rotations) == 0 || cfg.MinRemaining <= 0 || cfg.MaxRPS < 0 || cfg.Concurrency < 1 {
		t.Errorf("got %d rotations, minimum %s, %d requests a second, %d at a time", len(cfg.Rotations), cfg.MinRemaining, cfg.MaxRPS, cfg.Concurrency)
	}
	if !strings.HasPrefix(cfg.SecretsManagerURL, "https://") && !strings.HasPrefix(cfg.SecretsManagerURL, "http://") {
		t.Errorf("got the URL %q", cfg.SecretsManagerURL)
	}
	targets := map[string]bool{}
	for _, r := range cfg.Rotations {
		if r.Name == "" || r.Token.ID == "" || r.APIKey.ID == "" && r.APIKey.Name == "" || targets[r.Token.ID] {
			t.Errorf("got the rotation %+v", r)
		}
		targets[r.Token.ID] = true
	}
}
