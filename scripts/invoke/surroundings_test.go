package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestWhatTheFunctionSees(t *testing.T) {
	t.Parallel()
	event := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(event, []byte("{\"mode\":\n \"check\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, stdin string
		flags       []string
		event       string
	}{
		{"no event", "", nil, `{}`},
		{"event from a file", "", []string{"-event", event}, `{"mode":"check"}`},
		{"event from stdin", ` null`, []string{"-event", "-"}, `null`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := time.Now()
			got := runInvoke(t, tt.stdin, with("look", append(tt.flags, "-n", "3", "-timeout", "30s")...)...)
			if got.code != exitOK {
				t.Fatalf("got exit status %d, want 0; stderr:\n%s", got.code, got.stderr)
			}
			ids := make(map[string]bool)
			pids := make(map[int]bool)
			for _, line := range got.lines(t) {
				var s sighting
				if err := json.Unmarshal([]byte(line), &s); err != nil {
					t.Fatal(err)
				}
				ids[s.RequestID], pids[s.PID] = true, true
				if string(s.Event) != tt.event {
					t.Errorf("got the event %s, want %s", s.Event, tt.event)
				}
				if uuid := `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`; !regexp.MustCompile(uuid).MatchString(s.RequestID) {
					t.Errorf("got the request id %q, want a version 4 UUID", s.RequestID)
				}
				if from, to := before.Add(30*time.Second-time.Millisecond), time.Now().Add(30*time.Second); s.Deadline.Before(from) || s.Deadline.After(to) {
					t.Errorf("got the deadline %v, want it from %v to %v", s.Deadline, from, to)
				}
				if !strings.HasPrefix(s.ARN, "arn:aws:lambda:") || !strings.HasSuffix(s.ARN, ":function:"+s.Name) || s.Name == "" {
					t.Errorf("got the ARN %q of the function %q, want one that ends in its name", s.ARN, s.Name)
				}
			}
			if len(ids) != 3 || len(pids) != 1 {
				t.Errorf("got %d request ids in %d processes, want 3 in 1", len(ids), len(pids))
			}
		})
	}
}
