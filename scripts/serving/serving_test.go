package serving

import (
	"bytes"
	"errors"
	"flag"
	"net"
	"strings"
	"testing"
)

func TestOriginIsWhereAClientOnThisMachineFindsIt(t *testing.T) {
	for _, test := range []struct {
		ip     string
		secure bool
		want   string
	}{
		{"127.0.0.1", false, "http://127.0.0.1:8480"},
		{"0.0.0.0", true, "https://127.0.0.1:8480"},
		{"::", false, "http://127.0.0.1:8480"},
		{"::1", true, "https://[::1]:8480"},
	} {
		if got := Origin(&net.TCPAddr{IP: net.ParseIP(test.ip), Port: 8480}, test.secure); got != test.want {
			t.Errorf("%s: got %s, want %s", test.ip, got, test.want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for args, want := range map[string]struct {
		code           int
		stdout, stderr string // what they contain
	}{
		"":                            {ExitOK, "", ""},
		"-env FILE":                   {ExitOK, "", ""},
		"-h":                          {ExitOK, "usage: x\n  -env FILE\n", ""},
		strings.Repeat("k", 44):       {ExitUsage, "", "x: unexpected argument \"(44 characters, not repeated here)\"\nrun with -h for help\n"},
		"-" + strings.Repeat("k", 44): {ExitUsage, "", "(45 characters, not repeated here)\nrun with -h for help\n"},
		"stray":                       {ExitUsage, "", "x: unexpected argument \"stray\"\nrun with -h for help\n"},
		"-colour red":                 {ExitUsage, "", "-colour\nrun with -h for help\n"},
		"-env=":                       {ExitUsage, "", "x: -env must not be empty\nrun with -h for help\n"},
		"-env checked":                {ExitUsage, "", "x: checked\nrun with -h for help\n"},
		"-env FILE end":               {ExitUsage, "", "unexpected argument"},
	} {
		var stdout, stderr bytes.Buffer
		flags := flag.NewFlagSet("x", flag.ContinueOnError)
		env := flags.String("env", "", "write `FILE`")
		err := Parse(flags, strings.Fields(args), "usage: x\n", "examples: x\n", &stdout, func() error {
			if *env == "checked" {
				return errors.New("checked")
			}
			return nil
		})
		if code := End(&stderr, "x", err); code != want.code || !strings.Contains(stdout.String(), want.stdout) || !strings.Contains(stderr.String(), want.stderr) || (want.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%s: got exit code %d, %q, %q; want %v", args, code, stdout.String(), stderr.String(), want)
		}
	}
	var stderr bytes.Buffer
	if code := End(&stderr, "x", errors.New("broken")); code != ExitError || stderr.String() != "x: broken\n" {
		t.Errorf("got exit code %d, %q; want 1 and the error", code, stderr.String())
	}
}
