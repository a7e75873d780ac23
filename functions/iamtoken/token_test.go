package iamtoken_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"testing"

	"iam-token-rotator/functions/iamtoken"
)

const canary = "canary-5gkHXZ0r8vPw2QmB1sTq"

func TestASecretCannotBePrinted(t *testing.T) {
	secret := iamtoken.NewSecret(canary)
	private := struct{ key iamtoken.Secret }{secret}
	nested := map[string]any{"a": []any{secret, &secret, private, &private}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%10.3s"} {
		for _, value := range []any{secret, &secret, private, &private, nested, fmt.Errorf("wrapped: %v", secret)} {
			if printed := fmt.Sprintf(verb, value); strings.Contains(printed, canary[:8]) || strings.Contains(printed, fmt.Sprintf("%x", canary[:8])) {
				t.Errorf("%s of %T printed the secret", verb, value)
			}
		}
	}
	encoded, err := json.Marshal(nested)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secret", secret, "nested", nested)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "secret", secret, "private", private, "nested", nested)
	for _, out := range []string{string(encoded), logged.String()} {
		if strings.Contains(out, canary[:8]) || !strings.Contains(out, "[secret]") {
			t.Errorf("got %s, want the secret redacted", out)
		}
	}
	if secret.Reveal() != canary {
		t.Error("Reveal does not return the value")
	}
}

func TestTheZeroSecretIsEmpty(t *testing.T) {
	var secret iamtoken.Secret
	if !secret.IsZero() || secret.Reveal() != "" || iamtoken.NewSecret("x").IsZero() {
		t.Error("got a zero secret that is not empty, or a full one that is")
	}
}

// A job that reads the token must not get the rotator or an SDK into its binary.
func TestNothingButTheStandardLibraryIsImported(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(out)), "iam-token-rotator/functions/iamtoken"; got != want {
		t.Errorf("got imports %q, want %q alone", got, want)
	}
}
