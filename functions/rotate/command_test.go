package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"iam-token-rotator/functions/internal/rotation"
)

func TestCommand(t *testing.T) {
	cloud, origin := newCloud(t)
	good := environ(cloud, origin)
	missing := environ(cloud, origin, "TOKEN_SECRET=00000000-0000-4000-8000-000000000000")
	for _, test := range []struct {
		name    string
		args    []string
		environ []string
		exit    int
		stdout  string
		stderr  string
	}{
		{"rotate", nil, good, 0, "default: rotated; the stored token expires ", `"msg":"rotation"`},
		{"ensure", []string{"-mode", "ensure"}, good, 0, "default: fresh", ""},
		{"check", []string{"-mode=check", "-rotation", "default"}, good, 0, "default: checked", ""},
		{"by double dash", []string{"--mode", "check"}, good, 0, "default: checked", ""},
		{"again", []string{"-run-id", "by-hand-1"}, good, 0, "default: rotated", ""},
		{"same id", []string{"-run-id", "by-hand-1"}, good, 0, "default: already_done", ""},
		{"failure", nil, missing, 1, "default: failed\n  look: not_found: ", ""},
		{"help", []string{"-h"}, nil, 0, "Examples:", ""},
		{"unknown flag", []string{"-rotate"}, good, 2, "", "see bootstrap -h"},
		{"unknown mode", []string{"-mode", "dance"}, good, 2, "", "use rotate, ensure or check"},
		{"unknown rotation", []string{"-rotation", "other"}, good, 2, "", `no rotation is called "other"`},
		{"bad run id", []string{"-run-id", "short"}, good, 2, "", "8 to 256"},
		{"no time", []string{"-timeout", "0s"}, good, 2, "", "leaves no time"},
		{"stray argument", []string{"rotate"}, good, 2, "", `unexpected argument "rotate"`},
		{"no configuration", nil, nil, 2, "", "SECRETS_MANAGER_URL: is required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			exit := command(test.args, test.environ, &stdout, &stderr)
			if exit != test.exit || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("got exit %d\nstdout %s\nstderr %s\nwant exit %d, %q, %q", exit, &stdout, &stderr, test.exit, test.stdout, test.stderr)
			}
			if exit == 2 && stdout.Len() > 0 {
				t.Errorf("a usage error wrote to stdout: %s", &stdout)
			}
		})
	}
}

func TestTheReportAsJSON(t *testing.T) {
	cloud, origin := newCloud(t)
	var stdout, stderr bytes.Buffer
	if exit := command([]string{"-json", "-mode", "check"}, environ(cloud, origin), &stdout, &stderr); exit != 0 {
		t.Fatalf("got exit %d: %s", exit, &stderr)
	}
	var report rotation.Report
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil || report.Mode != rotation.ModeCheck || len(report.Results) != 1 {
		t.Errorf("got %s, %v", &stdout, err)
	}
}
