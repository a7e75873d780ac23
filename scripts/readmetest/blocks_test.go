package readmetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// purposes are what a block of a language may be for, its first word after the language.
//
//	sh STAGE [server]   commands, run in the order of the page; see stages_test.go. A server runs in a
//	                    terminal of its own until the stage ends.
//	text output         what the commands above print, compared; … stands for anything
//	text picture        a drawing
//	text packages       the drawing that is held against the imports
//	text usage          a synopsis, compared with the program's -h
//	text figures        what was measured, not compared
//	text query          for CloudWatch Logs Insights
//	json …, yaml …, go  parsed and, but for yaml, given to the function or the compiler
var purposes = map[string][]string{
	"text": {"output", "picture", "packages", "usage", "figures", "query"},
	"json": {"event", "rotations", "report", "doctor"},
	"yaml": {"pod", "actions"},
	"go":   {""},
}

func TestEveryBlockSaysWhatItIsFor(t *testing.T) {
	for _, b := range allBlocks(t) {
		allowed, known := purposes[b.language]
		if b.language == "sh" {
			allowed, known = stageNames(), true
		}
		purpose := strings.Join(b.words, " ")
		if b.language == "sh" {
			purpose = strings.TrimSuffix(purpose, " server")
		}
		if !known || !slices.Contains(allowed, purpose) {
			t.Errorf("%s: a block of %q for %q: want one of %v", b.where(), b.language, purpose, allowed)
		}
		if strings.TrimSpace(b.text) == "" {
			t.Errorf("%s: the block is empty", b.where())
		}
	}
}

// An indented block would escape all of these tests.
func TestNoBlockIsIndented(t *testing.T) {
	for _, p := range allPages(t) {
		for i, line := range p.prose {
			if strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "\t") {
				t.Errorf("%s: an indented block: use a fenced one, which says what it is", place(p.path, i+1))
			}
			if strings.Contains(line, fence) {
				t.Errorf("%s: a fence that does not begin its line", place(p.path, i+1))
			}
		}
	}
}

func TestPicturesAreDrawn(t *testing.T) {
	for _, b := range allBlocks(t) {
		if b.language == "text" && b.is("picture") && !strings.ContainsAny(b.text, "─│") {
			t.Errorf("%s: this is no picture: say what it is, so that it can be held to that", b.where())
		}
	}
}

// Every stage has commands, and every server says when it is ready.
func TestNoStageIsEmpty(t *testing.T) {
	for _, name := range stageNames() {
		if len(blocksOf(t, name)) == 0 {
			t.Errorf("no page has a block for the stage %s", name)
		}
	}
	for _, b := range allBlocks(t) {
		if b.language == "sh" && slices.Contains(b.words, "server") && ready[strings.TrimSpace(b.text)] == "" {
			t.Errorf("%s: by what can one tell that %q is ready?", b.where(), strings.TrimSpace(b.text))
		}
	}
}

// blocksOf are a stage's, in the order of the pages.
func blocksOf(t *testing.T, stage string) []*block {
	t.Helper()
	return slices.DeleteFunc(allBlocks(t), func(b *block) bool { return b.language != "sh" || !b.is(stage) })
}

func place(path string, line int) string { return fmt.Sprintf("%s:%d", path, line) }
