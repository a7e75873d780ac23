package readmetest

import (
	"strings"
	"testing"
)

// What the main page says of the simulated year, the report of that year does.
func TestTheSummaryIsTheReports(t *testing.T) {
	const report = "functions/internal/simulation/README.md"
	whole := strings.Join(pageAt(t, report).lines, "\n")
	for _, b := range readme(t).blocks {
		if b.section != "Does it hold?" || !b.is("figures") {
			continue
		}
		for line := range strings.Lines(b.text) {
			if !strings.Contains(whole, line) {
				t.Errorf("%s: %s has no line %q", b.where(), report, line)
			}
		}
	}
}
