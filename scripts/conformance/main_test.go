package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// What it does takes a minute, so it must not do it when asked how it is used.
func TestUsage(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, &stdout, &stderr); code != 0 || stdout.String() != usage {
		t.Errorf("-h: got exit code %d and %q", code, stdout.String())
	}
	if code := run(t.Context(), []string{"now"}, &stdout, &stderr); code != 2 || !strings.Contains(stderr.String(), `unexpected argument "now"`) {
		t.Errorf("now: got exit code %d and %q", code, stderr.String())
	}
}

// A test that fails, or prints something else, ends all, and what it printed is shown without keys and tokens.
func TestTheFirstErrorEndsAll(t *testing.T) {
	key := strings.Repeat("k", 44)
	for script, want := range map[string]string{"echo eyJx.y " + key + "; exit 3": "sh -c SCRIPT: exit status 3", "echo eyJx.y " + key: "nothing fits"} {
		var stdout, stderr bytes.Buffer
		tester := &tester{ctx: t.Context(), work: t.TempDir(), stdout: &stdout, stderr: &stderr}
		tester.find(tester.run(tester.work, "sh", "-c", script), `Ran (\d+)`)
		tester.say("passed")
		tester.try(errors.New("a further error"))
		if got := strings.Replace(tester.err.Error(), script, "SCRIPT", 1); !strings.HasPrefix(got, want) || stdout.Len() != 0 || stderr.String() != "[secret] [secret]\n" {
			t.Errorf("got %q, stdout %q, stderr %q; want %q", got, stdout.String(), stderr.String(), want)
		}
	}
}

func TestCIRunsEveryPart(t *testing.T) {
	for ci, wants := range map[string]bool{"true": true, "": false} {
		t.Setenv("CI", ci)
		var stdout bytes.Buffer
		tester := &tester{stdout: &stdout}
		tester.skip("node SDK: not run")
		if (tester.err != nil) != wants || (stdout.Len() == 0) != wants {
			t.Errorf("CI=%s: got %v and %q", ci, tester.err, stdout.String())
		}
	}
}
