package readmetest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "iam-token-rotator/"

// imports are the imports within the module of every package that has code beside tests, by paths in
// the repository.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,GoFiles,Imports", "./...")
	list.Dir = root
	printed, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for decoder := json.NewDecoder(strings.NewReader(string(printed))); ; {
		var p struct {
			ImportPath       string
			GoFiles, Imports []string
		}
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) == 0 {
			continue
		}
		found[strings.TrimPrefix(p.ImportPath, module)] = nil
		for _, imported := range p.Imports {
			if ours, isOurs := strings.CutPrefix(imported, module); isOurs {
				found[strings.TrimPrefix(p.ImportPath, module)] = append(found[strings.TrimPrefix(p.ImportPath, module)], ours)
			}
		}
	}
}

// TestPackagesAreAllListed holds the table of packages against the module: each package once, with what it
// imports of the module, tests left aside.
func TestPackagesAreAllListed(t *testing.T) {
	t.Parallel()
	real, listed := imports(t), map[string]bool{}
	for _, row := range readme(t).rows(t, "How it is built", "package") {
		name := spans(row[0])[0]
		actual, exists := real[name]
		if !exists || listed[name] {
			t.Errorf("README.md lists %s, which is no package, or stands there twice", name)
			continue
		}
		listed[name] = true
		var want []string
		for _, imported := range actual {
			want = append(want, path.Base(imported))
		}
		got := spans(row[2])
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("README.md says that %s imports %v, it imports %v", name, got, want)
		}
	}
	for name := range real {
		if !listed[name] {
			t.Errorf("README.md does not list the package %s", name)
		}
	}
}

// TestPackagesAreDrawnAsTheyAre holds the drawing against the imports of what is shipped: functions/rotate
// and all that it imports, each drawn once, with every arrow that does not follow from others and no more.
func TestPackagesAreDrawnAsTheyAre(t *testing.T) {
	t.Parallel()
	real := imports(t)
	var nodes, edges []string
	for _, b := range readme(t).blocks {
		if b.language == "text" && b.is("packages") {
			n, e := readDrawing(b.text)
			nodes, edges = append(nodes, n...), append(edges, e...)
		}
	}
	shipped := reachable(real, "functions/rotate", nil)
	slices.Sort(shipped)
	slices.Sort(nodes)
	if !slices.Equal(nodes, shipped) {
		t.Errorf("README.md draws the packages\n%v, what is shipped are\n%v", nodes, shipped)
	}
	var want []string
	for _, from := range shipped {
		for _, to := range real[from] {
			if !follows(real, from, to) {
				want = append(want, from+" → "+to)
			}
		}
	}
	slices.Sort(edges)
	slices.Sort(want)
	if !slices.Equal(edges, want) {
		t.Errorf("README.md draws the imports\n%s\nthose that follow from no others are\n%s", strings.Join(edges, "\n"), strings.Join(want, "\n"))
	}
}

// reachable adds to found the package and all that it imports.
func reachable(real map[string][]string, from string, found []string) []string {
	if slices.Contains(found, from) {
		return found
	}
	found = append(found, from)
	for _, to := range real[from] {
		found = reachable(real, to, found)
	}
	return found
}

// follows tells whether from imports to by way of another package as well.
func follows(real map[string][]string, from, to string) bool {
	return slices.ContainsFunc(real[from], func(by string) bool {
		return by != to && slices.Contains(reachable(real, by, nil), to)
	})
}
