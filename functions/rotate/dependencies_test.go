package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTheReadmeListsTheDependencies holds README.md to go.mod and to the binary.
func TestTheReadmeListsTheDependencies(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## What it depends on\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var listed, shipped []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\|$").FindAllStringSubmatch(section, -1) {
		listed = append(listed, row[1])
		if !strings.HasPrefix(row[2], "not shipped: ") {
			shipped = append(shipped, row[1])
		}
	}
	required := list(t, "-m", "-f", "{{if not (or .Main .Indirect)}}{{.Path}}{{end}}", "all")
	slices.Sort(listed)
	if !slices.Equal(listed, required) {
		t.Errorf("README.md lists\n%v, go.mod requires\n%v", listed, required)
	}
	binary := list(t, "-deps", "-tags", "lambda.norpc", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", ".")
	if said := fmt.Sprintf("holds %d modules besides", len(binary)); !strings.Contains(section, said) {
		t.Errorf("README.md does not say that the binary %s Go's own library", said)
	}
	for _, module := range required {
		if slices.Contains(shipped, module) != slices.Contains(binary, module) {
			t.Errorf("%s: README.md says shipped %t, in the binary %t", module, slices.Contains(shipped, module), slices.Contains(binary, module))
		}
	}
}

// list returns what go list prints for the shipped platform, each line once, sorted.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	command := exec.Command("go", append([]string{"list"}, args...)...)
	command.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	slices.Sort(lines)
	return slices.Compact(lines)
}
