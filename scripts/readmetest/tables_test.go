package readmetest

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rows are those of the first table in a section whose first column bears a name, without its head.
func (p *page) rows(t *testing.T, section, column string) [][]string {
	t.Helper()
	within, inTable := false, false
	var rows [][]string
	for _, line := range p.prose {
		if h := headingShape.FindStringSubmatch(line); h != nil {
			within = h[2] == section
		}
		switch cells := cellsOf(line); {
		case !within:
		case inTable && cells == nil:
			return rows[1:] // the first is the line of dashes
		case inTable:
			rows = append(rows, cells)
		case len(cells) > 0 && cells[0] == column:
			inTable = true
		}
	}
	if len(rows) < 2 {
		t.Fatalf("%s: the section %q has no table of %q", p.path, section, column)
	}
	return rows[1:]
}

// cellsOf are the cells of a row, nil for another line. No cell may hold a |, not even in code.
func cellsOf(line string) []string {
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") || len(line) < 2 {
		return nil
	}
	cells := strings.Split(line[1:len(line)-1], "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	return cells
}

// Every row of a table has as many cells as the row before it.
func TestTablesAreEven(t *testing.T) {
	for _, p := range allPages(t) {
		before := 0
		for i, line := range p.prose {
			cells := len(cellsOf(line))
			if cells > 0 && before > 0 && cells != before {
				t.Errorf("%s: a row of %d cells in a table of %d", place(p.path, i+1), cells, before)
			}
			before = cells
		}
	}
}

var spanShape = regexp.MustCompile("`([^`]+)`")

// spans are the pieces of code in a text.
func spans(text string) []string {
	var found []string
	for _, match := range spanShape.FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

// firstSpans are the pieces of code in the first cells of rows.
func firstSpans(rows [][]string) []string {
	var found []string
	for _, row := range rows {
		found = append(found, spans(row[0])...)
	}
	return found
}

func pageAt(t *testing.T, path string) *page {
	t.Helper()
	for _, p := range allPages(t) {
		if p.path == path {
			return p
		}
	}
	t.Fatalf("there is no page %s", path)
	return nil
}

// matches are what the first group of a pattern finds in a file of the repository.
func matches(t *testing.T, path, pattern string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		found[match[1]] = true
	}
	return slices.Sorted(maps.Keys(found))
}

const rotationFolder = "functions/internal/rotation/"

// Tables name exactly what there is.
func TestTablesAreComplete(t *testing.T) {
	const alarm = `AlarmName: !Sub \$\{AWS::StackName\}-([a-z-]+)`
	for _, table := range []struct {
		page, section, column string
		want                  []string
	}{
		{"README.md", "Run it elsewhere", "mode", append(matches(t, rotationFolder+"rotation.go", `Mode += "(\w+)"`), "doctor")},
		{"README.md", "Run it elsewhere", "outcome", matches(t, rotationFolder+"report.go", `Outcome += "(\w+)"`)},
		{"README.md", "By kind", "kind", matches(t, rotationFolder+"error.go", `Kind += "(\w+)"`)},
		{"README.md", "What an alarm means", "alarm", matches(t, "infra/aws/template.yaml", alarm)},
		{"infra/aws/README.md", "When an alarm rings", "alarm", matches(t, "infra/aws/template.yaml", alarm)},
		{"infra/aws/README.md", "Deploy it", "alarm", matches(t, "infra/aws/fleet.yaml", alarm)},
		{"README.md", "Configuration", "variable", matches(t, "functions/internal/config/variables.go", `env:"(\w+)"`)},
	} {
		got := firstSpans(pageAt(t, table.page).rows(t, table.section, table.column))
		slices.Sort(got)
		slices.Sort(table.want)
		if !slices.Equal(got, table.want) || len(table.want) == 0 {
			t.Errorf("%s, %s: the table of each %s names\n%v, there is\n%v", table.page, table.section, table.column, got, table.want)
		}
	}
}

// The steps of a pass are told in a sentence.
func TestEveryStepIsNamed(t *testing.T) {
	prose := strings.Join(readme(t).prose, "\n")
	_, sentence, _ := strings.Cut(prose, "\nSteps are ")
	sentence, _, _ = strings.Cut(sentence, ". ")
	got := spans(sentence)
	slices.Sort(got)
	if want := matches(t, rotationFolder+"error.go", `Step += "(\w+)"`); !slices.Equal(got, want) {
		t.Errorf("README.md names the steps %v, there are %v", got, want)
	}
}
