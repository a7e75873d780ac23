package aws_test

import (
	"os"
	"path/filepath"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// What the function answers is told in words for a person, whatever it is.
func TestAnswersInWords(t *testing.T) {
	t.Parallel()
	programs.Need(t, "jq")
	const result = `{"run_id":"r","mode":"rotate","results":[{"rotation":"a","attempts":1,"warnings":[],`
	tests := []struct {
		name, mode, answer, says string
	}{
		{"a first token", "rotate", result + `"outcome":"rotated","expires_at":"T","seconds_remaining":3599}]}`, "a: rotated; the stored token expires T (in 59m59s)\n"},
		{"another", "rotate", result + `"outcome":"rotated","expires_at":"T","seconds_remaining":3599,"margin_seconds":598}]}`, "a: rotated; the stored token expires T (in 59m59s); the old one had 9m58s left\n"},
		{"after a gap", "rotate", result + `"outcome":"rotated","expires_at":"T","seconds_remaining":3599,"margin_seconds":-61}]}`,
			"a: rotated; the stored token expires T (in 59m59s); readers had none for 1m1s: the old one had expired\n"},
		{"nothing stored", "check", result + `"outcome":"checked"}]}`, "a: checked; the expiry of the stored token is not known\n"},
		{"an expired token", "check", result + `"outcome":"checked","expires_at":"T","seconds_remaining":-125}]}`, "a: checked; the stored token EXPIRED T (2m5s ago)\n"},
		{"trouble, and warnings", "ensure", `{"results":[{"rotation":"a","outcome":"rotated","attempts":4,"warnings":["v","w"],"expires_at":"T","seconds_remaining":60}]}`,
			"a: rotated after 4 attempts; the stored token expires T (in 1m0s)\n  warning: v\n  warning: w\n"},
		{"two rotations", "check", `{"results":[{"rotation":"a","outcome":"checked","attempts":1},{"rotation":"b","outcome":"checked","attempts":1}]}`,
			"a: checked; the expiry of the stored token is not known\nb: checked; the expiry of the stored token is not known\n"},
		{"a diagnosis with a warning", "doctor", `{"ok":true,"checks":[{"check":"c","status":"warning","detail":"d","advice":"e"},{"check":"f","rotation":"a","status":"ok","detail":"g"},{"check":"f","rotation":"b","status":"ok","detail":"g"}]}`,
			"! c                     d\n                        → e\nrotation a\n✓ f                     g\nrotation b\n✓ f                     g\nnothing failed, 1 warning\n"},
	}
	for _, tt := range tests {
		folder := t.TempDir()
		aws := "#!/bin/sh\nfor last; do :; done\ncat >\"$last\" <<'END'\n" + tt.answer + "\nEND\necho None\n"
		if err := os.WriteFile(filepath.Join(folder, "aws"), []byte(aws), 0o700); err != nil {
			t.Fatal(err)
		}
		got := runIn(t, root, programs.CleanEnviron("PATH="+folder+":"+os.Getenv("PATH"), "STACK=s", "MODE="+tt.mode), "", "scripts/stack", "invoke")
		if got.Exit != 0 || got.All() != tt.says {
			t.Errorf("%s: got exit %d and\n%swant 0 and\n%s", tt.name, got.Exit, got.All(), tt.says)
		}
	}
}
