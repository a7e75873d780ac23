package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"iam-token-rotator/functions/internal/rotation"
)

// event is what an invocation asks for.
type event struct {
	mode      rotation.Mode
	rotations []string // empty means all
	force     bool
	runID     string // empty when the event names none
}

// decodeEvent reads an event. Nothing, null, {} and an event of EventBridge (one
// with source and detail-type) mean: rotate everything. Anything else is the
// manual form, {"mode","rotations","force","run_id"}, in which an unknown field
// is an error, since a misspelt one must not mean "everything".
func decodeEvent(payload []byte) (event, error) {
	all := event{mode: rotation.ModeRotate}
	payload = bytes.TrimSpace(payload)
	if len(payload) == 0 || string(payload) == "null" {
		return all, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return event{}, errors.New(`the event is no JSON object: send {} or {"mode":"rotate"}`)
	}
	if isText(fields["source"]) && isText(fields["detail-type"]) {
		return all, nil
	}
	manual := all
	for name, value := range fields {
		if err := manual.set(name, value); err != nil {
			return event{}, err
		}
	}
	return manual, nil
}

func isText(value json.RawMessage) bool {
	var text string
	return len(value) > 0 && json.Unmarshal(value, &text) == nil && text != ""
}

// set takes one field of the manual form, by its exact name.
func (e *event) set(name string, value json.RawMessage) error {
	var target any
	switch name {
	case "mode":
		target = &e.mode
	case "rotations":
		target = &e.rotations
	case "force":
		target = &e.force
	case "run_id":
		target = &e.runID
	default:
		return fmt.Errorf("the event has an unknown field %s: it may have mode, rotations, force and run_id", short(name))
	}
	if string(value) == "null" || json.Unmarshal(value, target) != nil {
		return fmt.Errorf(`the event's %s has the wrong type: {"mode":"rotate","rotations":["name"],"force":false,"run_id":"…"}`, name)
	}
	return e.check(name)
}

func (e *event) check(name string) error {
	switch name {
	case "mode":
		if e.mode == modeDoctor {
			return nil
		}
		return checkMode(e.mode)
	case "run_id":
		return rotation.CheckRunID(e.runID)
	case "rotations":
		if len(e.rotations) == 0 {
			return errors.New("the event's rotations are empty: name some, or leave the field out for all")
		}
	}
	return nil
}

func checkMode(mode rotation.Mode) error {
	modes := []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure, rotation.ModeCheck}
	if !slices.Contains(modes, mode) {
		return fmt.Errorf("mode %s is not known: use rotate, ensure or check, or doctor as an event's mode or the command's first word", short(string(mode)))
	}
	return nil
}

// short quotes a value that is too short to be a key or a token, and tells the
// length of any other: people paste into the wrong place.
func short(value string) string {
	if len(value) >= 40 {
		return fmt.Sprintf("(%d characters, not repeated here)", len(value))
	}
	return strconv.Quote(value)
}

// choose returns the rotations named, in that order, or all if none is.
func choose(configured []rotation.Rotation, names []string) ([]rotation.Rotation, error) {
	if len(names) == 0 {
		return configured, nil
	}
	byName := make(map[string]rotation.Rotation, len(configured))
	for _, r := range configured {
		byName[r.Name] = r
	}
	chosen := make([]rotation.Rotation, 0, len(names))
	var unknown []string
	for _, name := range names {
		r, ok := byName[name]
		if !ok {
			unknown = append(unknown, short(name))
			continue
		}
		delete(byName, name) // so that a name given twice is caught
		chosen = append(chosen, r)
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("no rotation is called %s, or it is named twice: see ROTATIONS (one given by API_KEY_SECRET is called \"default\")",
			strings.Join(unknown, ", "))
	}
	return chosen, nil
}
