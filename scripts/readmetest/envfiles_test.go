package readmetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// TestNothingGoesOnWithoutTheFileOfVariables: where a file that a block reads is missing, a shell at a
// terminal goes on with the next line. What it would do then, it does in an account that is not meant.
func TestNothingGoesOnWithoutTheFileOfVariables(t *testing.T) {
	t.Parallel()
	bash, seen := programs.Path(t, "bash"), 0
	for _, b := range allBlocks(t) {
		// The fleet's commands end at a template that refuses what is empty.
		elsewhere := b.section == "Try it by hand" || b.section == "Deploy it" && strings.Contains(b.text, "cloudformation deploy")
		makesIt := strings.Contains(b.text, "mv build/new.env build/ibm.env")
		if b.language != "sh" || elsewhere || makesIt || !strings.Contains(b.text, ". build/") {
			continue
		}
		seen++
		dir, bin := t.TempDir(), t.TempDir()
		for _, program := range []string{"make", "aws", "ibmcloud", "scripts/set-up-secrets"} { // each writes down that it was called
			folder := map[bool]string{true: dir, false: bin}[strings.Contains(program, "/")]
			writeProgram(t, filepath.Join(folder, program), `echo "$(basename "$0") $*" >>'`+filepath.Join(dir, "called")+`'; echo '{"iam_token":"x"}'`)
		}
		writeProgram(t, filepath.Join(bin, "terraform"), "echo {}")
		if err := os.Mkdir(filepath.Join(dir, "build"), 0o700); err != nil {
			t.Fatal(err)
		}
		programs.Run(t, programs.Command{Dir: dir, Env: []string{"PATH=" + bin + ":" + pathVariable, "HOME=" + dir}, Stdin: b.text, Name: bash, Args: []string{"--norc", "--noprofile", "-i"}})
		called, _ := os.ReadFile(filepath.Join(dir, "called"))
		for line := range strings.Lines(string(called)) {
			if !strings.HasPrefix(line, "ibmcloud iam oauth-tokens") {
				t.Errorf("%s: without its file it goes on to %s", b.where(), line)
			}
		}
	}
	if seen < 6 {
		t.Errorf("only %d blocks read a file: does the test still find them?", seen)
	}
}

func writeProgram(t *testing.T, path, body string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTokensOutliveTheirKeys: a key that is deleted leaves the tokens that it was exchanged for, so the
// page must not promise that changing it ends a theft.
func TestTokensOutliveTheirKeys(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	key := cloud.Rotations()[0].APIKey
	token := cloud.MustMintToken(key, time.Hour)
	cloud.MustDeleteAPIKey(key)
	if _, _, err := cloud.Validate(token); err != nil {
		t.Fatalf("a token whose key was deleted: %v; then the page says too much", err)
	}
	told := 0
	for _, row := range readme(t).rows(t, "If it is stolen", "what") {
		if strings.HasSuffix(row[0], "key**") {
			told++
			if end := row[len(row)-1]; !strings.Contains(end, "live on, an hour at most") {
				t.Errorf("%s: what ends it: got %q, want it to say that tokens live on", row[0], end)
			}
		}
	}
	if told != 3 {
		t.Errorf("got %d keys, want 3", told)
	}
}
