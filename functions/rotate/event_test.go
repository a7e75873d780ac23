package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"iam-token-rotator/functions/internal/rotation"
)

func TestDecodeEvent(t *testing.T) {
	scheduled, err := os.ReadFile("event.json")
	if err != nil {
		t.Fatal(err)
	}
	all := event{mode: rotation.ModeRotate}
	for name, test := range map[string]struct {
		payload string
		want    event
	}{
		"nothing":             {"", all},
		"null":                {"null", all},
		"empty object":        {"{}", all},
		"EventBridge":         {string(scheduled), all},
		"a rule's own detail": {`{"source":"my.app","detail-type":"x","detail":{"mode":"check"},"anything":1}`, all},
		"mode":                {`{"mode":"ensure"}`, event{mode: rotation.ModeEnsure}},
		"everything": {`{"mode":"check","rotations":["a","b"],"force":true,"run_id":"rotate-2026-01-01T10:00:00Z"}`,
			event{mode: rotation.ModeCheck, rotations: []string{"a", "b"}, force: true, runID: "rotate-2026-01-01T10:00:00Z"}},
		"white space": {" \n{ \"force\" : false }\n", all},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decodeEvent([]byte(test.payload))
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func TestDecodeEventRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for name, test := range map[string]struct{ payload, says string }{
		"text":                {`"rotate"`, "no JSON object"},
		"a list":              {`[]`, "no JSON object"},
		"not JSON":            {`mode=rotate`, "no JSON object"},
		"two values":          {`{} {}`, "no JSON object"},
		"unknown field":       {`{"rotation":"a"}`, `unknown field "rotation"`},
		"another case":        {`{"Mode":"check"}`, `unknown field "Mode"`},
		"source alone":        {`{"source":"my.app"}`, `unknown field "source"`},
		"source of no text":   {`{"source":1,"detail-type":"x"}`, "unknown field"},
		"unknown mode":        {`{"mode":"dance"}`, `mode "dance" is not known: use rotate, ensure or check`},
		"mode of no text":     {`{"mode":1}`, "mode has the wrong type"},
		"null mode":           {`{"mode":null}`, "mode has the wrong type"},
		"one rotation's name": {`{"rotations":"a"}`, "rotations has the wrong type"},
		"no rotation":         {`{"rotations":[]}`, "rotations are empty"},
		"null rotations":      {`{"rotations":null}`, "rotations has the wrong type"},
		"force of text":       {`{"force":"yes"}`, "force has the wrong type"},
		"short run_id":        {`{"run_id":"1234567"}`, "run_id must be 8 to 256 characters"},
		"empty run_id":        {`{"run_id":""}`, "run_id must be 8 to 256 characters"},
		"long run_id":         {`{"run_id":"` + strings.Repeat("x", 257) + `"}`, "run_id must be 8 to 256 characters"},
		"not substituted":     {`{"run_id":"rotate-<aws.scheduler.scheduled-time>"}`, "<aws.scheduler.scheduled-time>"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decodeEvent([]byte(test.payload))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %+v, %v; want it to say %s", got, err, test.says)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	a, b, c := rotation.Rotation{Name: "a"}, rotation.Rotation{Name: "b"}, rotation.Rotation{Name: "c"}
	for name, test := range map[string]struct {
		names []string
		want  []rotation.Rotation
		fails bool
	}{
		"all":        {nil, []rotation.Rotation{a, b, c}, false},
		"some":       {[]string{"c", "a"}, []rotation.Rotation{c, a}, false},
		"unknown":    {[]string{"a", "d"}, nil, true},
		"twice":      {[]string{"a", "a"}, nil, true},
		"other case": {[]string{"A"}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := choose([]rotation.Rotation{a, b, c}, test.names)
			if (err != nil) != test.fails || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, %v; want %v", got, err, test.want)
			}
		})
	}
}
