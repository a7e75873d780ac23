package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/functions/internal/rotation"
)

// Whatever arrives: an event is understood whole or refused, and a refusal does
// not repeat what could be a key.
func FuzzEvent(f *testing.F) {
	for _, seed := range []string{
		"", "null", "{}", " {} ", "[]", `"rotate"`, `{"mode":"rotate"}`, `{"mode":"ensure","run_id":"ensure-2026-01-01T10:00:00Z"}`,
		`{"source":"aws.events","detail-type":"Scheduled Event","detail":{}}`, `{"source":"","detail-type":"x"}`,
		`{"mode":"check","rotations":["a","b"],"force":true}`, `{"rotations":[]}`, `{"mode":null}`, `{"Mode":"rotate"}`, `{"mode":"doctor"}`,
		`{"mode":"rotate","mode":"ensure"}`, `{"run_id":"<aws.scheduler.scheduled-time>"}`, `{"force":"yes"}`, "{\"mode\":\"\\u0000\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := decodeEvent(payload)
		if err != nil {
			if long := longestWord(payload); len(long) > 40 && strings.Contains(err.Error(), long) {
				t.Errorf("the error repeats %d characters of the event", len(long))
			}
			return
		}
		modes := []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure, rotation.ModeCheck, modeDoctor}
		if !slices.Contains(modes, got.mode) {
			t.Errorf("got mode %q", got.mode)
		}
		if got.runID != "" && rotation.CheckRunID(got.runID) != nil {
			t.Errorf("got run id %q", got.runID)
		}
		if got.force && !bytes.Contains(payload, []byte("force")) && !bytes.Contains(payload, []byte(`\u`)) {
			t.Error("got force, which nobody asked for")
		}
		checkFields(t, payload, got)
	})
}

// checkFields: an event that is not EventBridge's has no field but the four.
func checkFields(t *testing.T, payload []byte, got event) {
	t.Helper()
	var fields map[string]json.RawMessage
	if json.Unmarshal(payload, &fields) != nil || isText(fields["source"]) {
		return
	}
	for name := range fields {
		if !slices.Contains([]string{"mode", "rotations", "force", "run_id"}, name) {
			t.Errorf("field %q was accepted", name)
		}
	}
	if _, named := fields["rotations"]; named && len(got.rotations) == 0 {
		t.Error("no rotation was named, and that meant all")
	}
}

func longestWord(payload []byte) (longest string) {
	for _, word := range strings.FieldsFunc(string(payload), func(r rune) bool { return strings.ContainsRune(" \t\r\n\"{}[]:,\\", r) }) {
		if len(word) > len(longest) {
			longest = word
		}
	}
	return longest
}
