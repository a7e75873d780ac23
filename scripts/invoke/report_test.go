package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	t.Parallel()
	const ms = `(0\.\d*[1-9]\d*|[1-9]\d*(\.\d{1,3})?)` // above 0
	first := `"init_ms":` + ms + `,"duration_ms":` + ms
	tests := []struct {
		name, function string
		lines          []string // regular expressions
	}{
		{"one process", "look", []string{
			`^{"invocation":1,` + first + `,"failed":false}$`,
			`^{"invocation":2,"duration_ms":` + ms + `,"failed":false}$`,
		}},
		{"errors in one process", "fail", []string{
			`^{"invocation":1,` + first + `,"failed":true}$`,
			`^{"invocation":2,"duration_ms":` + ms + `,"failed":true}$`,
		}},
		{"a process each", "exit", []string{
			`^{"invocation":1,` + first + `,"failed":true}$`,
			`^{"invocation":2,` + first + `,"failed":true}$`,
		}},
		{"never polled", "exit-early", []string{
			`^{"invocation":1,"duration_ms":0,"failed":true}$`,
			`^{"invocation":2,"duration_ms":0,"failed":true}$`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "report.jsonl")
			runInvoke(t, "", with(tt.function, "-n", "2", "-report", path)...)
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
			if len(lines) != len(tt.lines) {
				t.Fatalf("got %d lines, want %d:\n%s", len(lines), len(tt.lines), got)
			}
			for i, line := range lines {
				if !regexp.MustCompile(tt.lines[i]).MatchString(line) {
					t.Errorf("got %s, want a match of %s", line, tt.lines[i])
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("got a report of mode %v (%v), want 0600", info.Mode(), err)
			}
		})
	}
}
