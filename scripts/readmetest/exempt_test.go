package readmetest

import (
	"slices"
	"strings"
	"testing"
)

// An exception is something on a page that is not run or compared, and why.
type exception struct{ line, reason string }

// notRun are command lines that are left out of their blocks, without the comment that follows them.
var notRun = []exception{
	{"make test", "it runs these tests: they would run themselves"},
	{"make check", "make test runs it, and it would lint everything a second time"},
	{`go test ./functions/internal/rotation`, "make test runs it"},
	{`aws stepfunctions start-execution --name first --state-machine-arn "$machine"`, "moto makes no state machine of this template"},
}

// notCompared are first lines of blocks whose content nothing prints here.
var notCompared = []exception{
	{"fields @timestamp, result.rotation, result.error | filter msg = \"rotation\" and result.outcome = \"failed\"", "moto knows no CloudWatch Logs Insights"},
	{"readers without a token: 40h in 40 gaps, all within the bound; the naive way: 1362h in 1971", "the year takes minutes: make simulate"},
	{"fault                                            times  hours  longest   worst gap  its bound  naive: worst  naive: all", "the same"},
	{"what                                               round trips  wall    CPU     memory   ratio", "measured on a quiet machine: make bench"},
}

// unwritten are kinds of blocks that nothing is compared with, so that each must be excused.
var unwritten = []string{"figures", "query"}

func TestExceptionsAreNeeded(t *testing.T) {
	var lines, firsts []string
	for _, b := range allBlocks(t) {
		if b.language == "sh" {
			lines = append(lines, commandLines(b.text)...)
		}
		if b.language == "text" && slices.ContainsFunc(unwritten, b.is) {
			first, _, _ := strings.Cut(b.text, "\n")
			firsts = append(firsts, first)
			if !slices.ContainsFunc(notCompared, func(e exception) bool { return e.line == first }) {
				t.Errorf("%s: nothing is compared with this block: say why in notCompared, or make it an output", b.where())
			}
		}
	}
	for _, e := range notRun {
		if !slices.Contains(lines, e.line) {
			t.Errorf("notRun: no block has the line %q any more", e.line)
		}
	}
	for _, e := range notCompared {
		if !slices.Contains(firsts, e.line) {
			t.Errorf("notCompared: no block begins with %q any more", e.line)
		}
	}
}

// commandLines are lines without comments and the space around them.
func commandLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		command, _, _ := strings.Cut(line, " #")
		lines = append(lines, strings.TrimSpace(command))
	}
	return lines
}

// runnable is a block's text without the lines that are not run; they leave an empty line, so that
// the shell counts as the page does.
func (b *block) runnable() string {
	var text strings.Builder
	for line := range strings.Lines(b.text) {
		if isNotRun(line) {
			line = "\n"
		}
		text.WriteString(line)
	}
	return text.String()
}

func isNotRun(line string) bool {
	command := commandLines(line)[0]
	return slices.ContainsFunc(notRun, func(e exception) bool { return e.line == command })
}
