package aws_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// object is a mapping of the template.
type object = map[string]any

// template is the stack of one function, fleet that of very many rotations.
func template(t *testing.T) object { return readTemplate(t, "template.yaml") }
func fleet(t *testing.T) object    { return readTemplate(t, "fleet.yaml") }

// readTemplate reads a template with its short tags written out (!Ref x is
// {"Ref": "x"}), nothing resolved.
func readTemplate(t *testing.T, file string) object {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	return plain(t, document.Content[0]).(object)
}

// plain turns a node into maps, lists and scalars.
func plain(t *testing.T, node *yaml.Node) any {
	t.Helper()
	var value any
	switch node.Kind {
	case yaml.MappingNode:
		fields := object{}
		for i := 0; i < len(node.Content); i += 2 {
			fields[node.Content[i].Value] = plain(t, node.Content[i+1])
		}
		value = fields
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range node.Content {
			list = append(list, plain(t, item))
		}
		value = list
	case yaml.ScalarNode:
		value = node.Value
		if !strings.HasPrefix(node.Tag, "!") || strings.HasPrefix(node.Tag, "!!") {
			if err := node.Decode(&value); err != nil {
				t.Fatal(err)
			}
		}
	default:
		t.Fatalf("line %d: CloudFormation does not know YAML aliases", node.Line)
	}
	if function, found := strings.CutPrefix(node.Tag, "!"); found && !strings.HasPrefix(node.Tag, "!!") {
		return intrinsic(function, value)
	}
	return value
}

func intrinsic(function string, value any) any {
	if function == "Ref" || function == "Condition" {
		return object{function: value}
	}
	if text, ok := value.(string); ok && function == "GetAtt" {
		name, attribute, _ := strings.Cut(text, ".")
		value = []any{name, attribute}
	}
	return object{"Fn::" + function: value}
}

// at follows a path of keys and indices; a missing step fails the test.
func at(t *testing.T, value any, path ...any) any {
	t.Helper()
	for i, step := range path {
		switch step := step.(type) {
		case string:
			fields, _ := value.(object)
			next, ok := fields[step]
			if !ok {
				t.Fatalf("the template has nothing at %v", path[:i+1])
			}
			value = next
		case int:
			list, _ := value.([]any)
			if step >= len(list) {
				t.Fatalf("the template has nothing at %v", path[:i+1])
			}
			value = list[step]
		}
	}
	return value
}

// ofType returns the resources of a type by their logical ids.
func ofType(t *testing.T, tmpl object, resourceType string) map[string]object {
	t.Helper()
	found := map[string]object{}
	for id, resource := range at(t, tmpl, "Resources").(object) {
		if at(t, resource, "Type") == resourceType {
			found[id] = resource.(object)
		}
	}
	return found
}

// properties returns a resource's properties.
func properties(t *testing.T, tmpl object, id string) object {
	t.Helper()
	return at(t, tmpl, "Resources", id, "Properties").(object)
}

// show writes a value so that two can be compared.
func show(value any) string { return fmt.Sprintf("%v", value) }

// want compares a value of the template.
func want(t *testing.T, where string, got, want any) {
	t.Helper()
	if show(got) != show(want) {
		t.Errorf("%s: got %v, want %v", where, got, want)
	}
}
