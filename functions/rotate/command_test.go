package main

import (
	"bytes"
	"strings"
	"testing"

	"iam-token-rotator/functions/report"
)

// commandCase is a command line, and what it must come to.
type commandCase struct {
	name    string
	args    []string
	environ []string
	exit    int
	stdout  []string // what it must say there
	stderr  string
}

func (c commandCase) check(t *testing.T) {
	var stdout, stderr bytes.Buffer
	exit := command(c.args, c.environ, &stdout, &stderr)
	if exit != c.exit || !strings.Contains(stderr.String(), c.stderr) {
		t.Errorf("got exit %d\nstdout %s\nstderr %s\nwant exit %d, %q", exit, &stdout, &stderr, c.exit, c.stderr)
	}
	for _, words := range c.stdout {
		if !strings.Contains(stdout.String(), words) {
			t.Errorf("got %s\nwant %q in it", &stdout, words)
		}
	}
	if exit == 2 && c.stdout == nil && stdout.Len() > 0 {
		t.Errorf("a usage error wrote to stdout: %s", &stdout)
	}
}

func TestCommand(t *testing.T) {
	cloud, origin := newCloud(t)
	good := environ(cloud, origin)
	for _, test := range []commandCase{
		{"rotate", nil, good, 0, []string{"default: rotated; the stored token expires "}, `"msg":"rotation"`},
		{"ensure", []string{"-mode", "ensure"}, good, 0, []string{"default: fresh"}, ""},
		{"check", []string{"-mode=check", "-rotation", "default"}, good, 0, []string{"default: checked"}, ""},
		{"by double dash", []string{"--mode", "check"}, good, 0, []string{"default: checked"}, ""},
		{"again", []string{"-run-id", "by-hand-1"}, good, 0, []string{"default: rotated"}, ""},
		{"same id", []string{"-run-id", "by-hand-1"}, good, 0, []string{"default: already_done"}, ""},
		{"failure", nil, environ(cloud, origin, noSuchSecret), 1, []string{"default: failed\n  look: not_found: "}, ""},
		{"help", []string{"-h"}, nil, 0, []string{"Examples:"}, ""},
		{"unknown flag", []string{"-rotate"}, good, 2, nil, "see " + program + " -h"},
		{"unknown mode", []string{"-mode", "dance"}, good, 2, nil, "use rotate, ensure or check"},
		{"unknown rotation", []string{"-rotation", "other"}, good, 2, nil, `no rotation is called "other"`},
		{"bad run id", []string{"-run-id", "short"}, good, 2, nil, "8 to 256"},
		{"no time", []string{"-timeout", "0s"}, good, 2, nil, "leaves no time"},
		{"stray argument", []string{"rotate"}, good, 2, nil, `unexpected argument "rotate"`},
		{"no configuration", nil, nil, 2, nil, "SECRETS_MANAGER_URL: is required"},
	} {
		t.Run(test.name, test.check)
	}
}

// noSuchSecret is a setting that names a token secret which does not exist.
const noSuchSecret = "TOKEN_SECRET=00000000-0000-4000-8000-000000000000"

func TestTheReportAsJSON(t *testing.T) {
	cloud, origin := newCloud(t)
	var stdout, stderr bytes.Buffer
	if exit := command([]string{"-json", "-mode", "check"}, environ(cloud, origin), &stdout, &stderr); exit != 0 {
		t.Fatalf("got exit %d: %s", exit, &stderr)
	}
	if got, err := report.Parse(stdout.Bytes()); err != nil || got.Mode != "check" || len(got.Results) != 1 {
		t.Errorf("got %s, %v", &stdout, err)
	}
}

// A deployment asks with it whether a list will do, so it must say what the function
// would say, and be as quick: it asks nobody.
func TestConfigCommand(t *testing.T) {
	cloud, origin := newCloud(t)
	good := environ(cloud, origin)
	cloud.ClearRequests()
	for _, test := range []commandCase{
		{"valid", nil, good, 0, []string{"valid: 1 rotation\n"}, ""},
		{"faulty", nil, environ(cloud, origin, "IAM_URL=http://iam.cloud.ibm.com", "TOKEN_SECRET=x"), 2, nil,
			program + ": IAM_URL: must begin with https://"},
		{"the second fault, too", nil, environ(cloud, origin, "IAM_URL=http://iam.cloud.ibm.com", "TOKEN_SECRET=x"), 2, nil,
			"\n" + program + ": TOKEN_SECRET: is no secret id"},
		{"help", []string{"-h"}, nil, 0, []string{"Usage: " + program + " config"}, ""},
		{"stray argument", []string{"now"}, good, 2, nil, `unexpected argument "now"`},
	} {
		test.args = append([]string{"config"}, test.args...)
		t.Run(test.name, test.check)
	}
	if got := cloud.Requests(); len(got) > 0 {
		t.Errorf("got %d requests, want none", len(got))
	}
}
