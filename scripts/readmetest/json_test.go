package readmetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// TestJSONIsWhatTheFunctionTakesAndGives gives every JSON block to the function, or compares it with
// what the function answers.
func TestJSONIsWhatTheFunctionTakesAndGives(t *testing.T) {
	check := map[string]func(f *function, b *block){
		"event": checkEvent, "rotations": checkRotations, "report": checkReport, "doctor": checkDoctor,
	}
	for _, b := range allBlocks(t) {
		if b.language != "json" || len(b.words) == 0 {
			continue
		}
		t.Run(b.where(), func(t *testing.T) {
			t.Parallel()
			if !json.Valid([]byte(b.text)) {
				t.Fatal("this is no JSON")
			}
			check[b.words[0]](newFunction(t), b)
		})
	}
}

func checkEvent(f *function, b *block) {
	if got := f.invoke(b.text); got.Exit != 0 || !strings.Contains(got.Stdout, `"outcome":"rotated"`) {
		f.t.Errorf("the function, given this event: got exit %d, %s", got.Exit, got.Stdout)
	}
}

func checkRotations(f *function, b *block) {
	got := f.with(map[string]string{"ROTATIONS": b.text, "API_KEY_SECRET": "", "TOKEN_SECRET": ""}, "doctor")
	if first, _, _ := strings.Cut(got.Stdout, "\n"); !strings.HasPrefix(first, "✓ configuration") {
		f.t.Errorf("bootstrap doctor, given these rotations: got %s", got.Stdout)
	}
}

// A report tells the margin when there was a token before.
func checkReport(f *function, b *block) {
	f.invoke("{}")
	compareShapes(f.t, b, f.invoke("{}").Stdout)
}

func checkDoctor(f *function, b *block) {
	f.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 403})
	var diagnosis struct {
		Checks []map[string]any `json:"checks"`
		OK     bool             `json:"ok"`
	}
	got := f.run("doctor", "-json")
	if err := json.Unmarshal([]byte(got.Stdout), &diagnosis); err != nil {
		f.t.Fatalf("bootstrap doctor -json: %v: %s", err, got.All())
	}
	diagnosis.Checks = slices.DeleteFunc(diagnosis.Checks, func(check map[string]any) bool { return check["check"] != "key-secret" })
	one, err := json.Marshal(diagnosis)
	if err != nil {
		f.t.Fatal(err)
	}
	compareShapes(f.t, b, string(one))
	if difference := differs(compact(f.t, b.text), compact(f.t, string(one))); difference != "" {
		f.t.Error(difference)
	}
}

// compareShapes holds the names in a sample against those in an answer.
func compareShapes(t *testing.T, sample *block, answer string) {
	t.Helper()
	want, got := shape(t, sample.text), shape(t, answer)
	if !slices.Equal(want, got) {
		t.Errorf("the sample has the fields\n%s\nthe answer\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	sorted, _ := json.Marshal(value)
	return string(sorted)
}

// shape lists the paths of all values with their types.
func shape(t *testing.T, text string) []string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	paths := map[string]bool{}
	walk("", value, paths)
	return slices.Sorted(maps.Keys(paths))
}

func walk(path string, value any, paths map[string]bool) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			walk(path+"."+name, inner, paths)
		}
	case []any:
		paths[path+" []"] = true
		for _, inner := range value {
			walk(path+"[]", inner, paths)
		}
	default:
		paths[fmt.Sprintf("%s %T", path, value)] = true
	}
}
