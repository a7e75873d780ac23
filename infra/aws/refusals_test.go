package aws_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// What is missing or not known is told before anything is built or sent.
func TestMissingValues(t *testing.T) {
	t.Parallel()
	programs.Need(t, "aws", "jq")
	rotations := filepath.Join(t.TempDir(), "rotations.json")
	broken, empty := filepath.Join(t.TempDir(), "broken.json"), filepath.Join(t.TempDir(), "empty.json")
	faulty := filepath.Join(t.TempDir(), "faulty.json")
	for file, text := range map[string]string{rotations: `{"name":"x"}`, broken: `[{"name":"x"},]`, empty: "",
		faulty: `[{"name":"a b","api_key_secret":"g/k","token_secret":"00000000-0000-4000-8000-000000000000"}]`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const arn = "BOOTSTRAP_SECRET_ARN=arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd"
	whole := []string{"STACK=s", "BUCKET=b", arn, "SECRETS_MANAGER_URL=https://x", "API_KEY_SECRET=a", "TOKEN_SECRET=t"}
	params := func(words string) []string { return append(slices.Clone(whole), "PARAMS="+words) }
	const likeAKey = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH"
	tests := []struct {
		name, command string
		env           []string
		says          string
	}{
		{"nothing", "deploy", []string{"STACK=s"}, "set BUCKET BOOTSTRAP_SECRET_ARN SECRETS_MANAGER_URL API_KEY_SECRET TOKEN_SECRET"},
		{"one of two", "deploy", slices.Delete(slices.Clone(whole), 5, 6), "set TOKEN_SECRET"},
		{"no stack", "status", nil, "set STACK"},
		{"odd stack", "deploy", append(whole[1:], "STACK=9 lives"), "set STACK"},
		{"long stack", "deploy", append(whole[1:], "STACK=a"+strings.Repeat("b", 64)), "more than 64"},
		{"partial ARN", "deploy", append(slices.Clone(whole), "BOOTSTRAP_SECRET_ARN=rotator/bootstrap"), "put-bootstrap-key prints"},
		{"unknown ARCH", "deploy", append(slices.Clone(whole), "ARCH=mips"), "use arm64 or amd64"},
		{"both sources", "deploy", append(slices.Clone(whole), "ROTATIONS_FILE="+rotations), "not both"},
		{"no such file", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE=/no/such"), "cannot be read"},
		{"no list", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+rotations), "no JSON list"},
		{"an empty file", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+empty), "no JSON list"},
		{"a faulty entry", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+faulty), "bootstrap: ROTATIONS_FILE[0]: name: use 1 to 40"},
		{"a syntax error", "deploy", append(slices.Clone(whole[:4]), "ROTATIONS_FILE="+broken), "parse error: Expected another array element at line 1"},
		{"misspelt parameter", "deploy", params("LogLevel=info MinRemaning=10m"), `the key "MinRemaning", which the template does not know. It may have: TokenFormat MinRemaining `},
		{"no parameter's name", "check", params("=10m"), `the key ""`},
		{"a space in a value", "deploy", params("AlarmEmail=me and@example.com"), `PARAMS has "and@example.com", which is no Key=Value`},
		{"a key for a parameter", "deploy", params(likeAKey), "(44 characters, not repeated here)"},
		{"no mode", "invoke", []string{"STACK=s"}, "set MODE: rotate, ensure, check or doctor"},
		{"unknown mode", "invoke", []string{"STACK=s", "MODE=bogus"}, `MODE="bogus" is not known: use rotate, ensure, check or doctor`},
		{"a key for a mode", "invoke", []string{"STACK=s", "MODE=" + likeAKey}, "(44 characters, not repeated here)"},
		{"a key of AWS for a mode", "invoke", []string{"STACK=s", "MODE=" + likeAKey[:40]}, "(40 characters, not repeated here)"},
		{"unknown force", "invoke", []string{"STACK=s", "MODE=rotate", "FORCE=yes"}, `FORCE="yes" is not known: use true, or leave it out`},
		{"forced doctor", "invoke", []string{"STACK=s", "MODE=doctor", "FORCE=true"}, "leave it out"},
		{"minutes in words", "logs", []string{"STACK=s", "MINUTES=abc"}, `MINUTES="abc" is no number of minutes`},
		{"no minutes", "logs", []string{"STACK=s", "MINUTES=0"}, "is no number of minutes"},
		{"minutes to come", "logs", []string{"STACK=s", "MINUTES=-5"}, "is no number of minutes"},
		{"octal minutes", "logs", []string{"STACK=s", "MINUTES=010"}, "is no number of minutes"},
		{"more minutes than there were", "logs", []string{"STACK=s", "MINUTES=99999999"}, "is no number of minutes"},
		{"unknown command", "explode", []string{"STACK=s"}, "say what to do"},
	}
	for _, shell := range []string{"dash", "bash"} {
		for _, tt := range tests {
			t.Run(shell+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				programs.Need(t, shell)
				got := runIn(t, root, programs.CleanEnviron(append(tt.env, "AWS_ENDPOINT_URL=http://127.0.0.1:1")...), "", shell, "scripts/stack", tt.command)
				if got.Exit != 2 || !strings.Contains(got.Stderr, tt.says) || got.Stdout != "" || strings.Contains(got.Stderr, likeAKey[:40]) {
					t.Errorf("got exit %d, %q, %q, want 2 and %q", got.Exit, got.Stdout, got.Stderr, tt.says)
				}
			})
		}
	}
}

// Of every parameter it is settled who sets it: deploy, from a variable that is named to whoever tries
// otherwise, or PARAMS.
func TestEveryParameterIsSetInOnePlace(t *testing.T) {
	t.Parallel()
	programs.Need(t, "aws", "jq")
	script, err := os.ReadFile(filepath.Join(root, "scripts", "stack"))
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]string{} // parameters to the variables that deploy sets them from
	for _, found := range regexp.MustCompile(`"([A-Z]\w+)=\$\{?(\w+)`).FindAllSubmatch(script, -1) {
		ours[string(found[1])] = string(found[2])
	}
	parameters := at(t, template(t), "Parameters").(object)
	if len(ours) < 10 || len(ours) >= len(parameters) {
		t.Fatalf("of %d parameters deploy seems to set %v", len(parameters), ours)
	}
	for parameter := range parameters {
		got := runIn(t, root, programs.CleanEnviron("STACK=s", "BUCKET=b", "BOOTSTRAP_SECRET_ARN=arn:aws:secretsmanager:eu-central-1:123456789012:secret:x-Ab12Cd",
			"SECRETS_MANAGER_URL=https://x", "API_KEY_SECRET=a", "TOKEN_SECRET=t", "PARAMS="+parameter+"=x"), "", "scripts/stack", "check")
		variable, isOurs := ours[parameter]
		if !isOurs {
			want(t, parameter, fmt.Sprint(got.Exit, got.All()), "0")
			continue
		}
		says := map[string]string{"architecture": "set ARCH", "key": "deploy names the zip"}[variable]
		if says == "" {
			says = "set " + variable
		}
		if got.Exit != 2 || !strings.Contains(got.Stderr, "PARAMS must not set "+parameter+": "+says) {
			t.Errorf("%s: got exit %d, %q, want 2 and %q", parameter, got.Exit, got.Stderr, says)
		}
	}
}
