// Package readmetest holds the documentation to the programs: every command in it is run, in the
// order in which it stands, every sample compared with what is really printed, and every name and
// link looked up. Nothing of the text is changed for that: what differs here comes from the
// environment, from sandboxes and from stand-ins for programs that cannot run (testdata/bin).
//
// A fenced block says after its language what it is for. See the grammar in blocks_test.go, and the
// exceptions, with their reasons, in exempt_test.go.
package readmetest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// root is the repository.
var root, _ = filepath.Abs("../..")

// A page is a Markdown file.
type page struct {
	path     string // in the repository
	lines    []string
	prose    []string // the lines, empty where they belong to a block
	blocks   []*block
	headings []heading
}

// A block is a fenced one.
type block struct {
	page     *page
	line     int // of its first fence
	language string
	words    []string // that follow the language
	text     string   // its lines
	section  string   // the heading above it
}

func (b *block) is(word string) bool { return len(b.words) > 0 && b.words[0] == word }

func (b *block) where() string { return place(b.page.path, b.line) }

// A heading is one with its level, 1 to 6.
type heading struct {
	text  string
	level int
	line  int
}

// pages are all of the repository, the main one first.
var pages = sync.OnceValues(func() ([]*page, error) {
	var found []*page
	err := eachFile(func(path string) error {
		if !strings.HasSuffix(path, ".md") {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		p := parse(path, string(text))
		if path == "README.md" {
			found = append([]*page{p}, found...)
		} else {
			found = append(found, p)
		}
		return nil
	})
	return found, err
})

// skipped are folders that are no part of the repository.
var skipped = map[string]bool{".git": true, "build": true, ".terraform": true}

// eachFile visits the repository's files by their paths in it.
func eachFile(visit func(path string) error) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // another test's, which has gone meanwhile
		case err != nil:
			return err
		case entry.IsDir() && skipped[entry.Name()]:
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		path, err = filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return visit(path)
	})
}

func allPages(t *testing.T) []*page {
	t.Helper()
	all, err := pages()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func allBlocks(t *testing.T) []*block {
	t.Helper()
	var blocks []*block
	for _, p := range allPages(t) {
		blocks = append(blocks, p.blocks...)
	}
	return blocks
}

// readme is the main page.
func readme(t *testing.T) *page { return allPages(t)[0] }

const fence = "```"

var headingShape = regexp.MustCompile(`^(#{1,6}) (.+)$`)

func parse(path, text string) *page {
	p := &page{path: path, lines: strings.Split(text, "\n")}
	section, open := "", (*block)(nil)
	for i, line := range p.lines {
		info, isFence := strings.CutPrefix(line, fence)
		switch h := headingShape.FindStringSubmatch(line); {
		case isFence && open == nil:
			language, purpose, _ := strings.Cut(info, " ")
			open = &block{page: p, line: i + 1, language: language, words: strings.Fields(purpose), section: section}
			p.blocks = append(p.blocks, open)
		case isFence:
			open = nil
		case open != nil:
			open.text += line + "\n"
		default:
			if h != nil {
				section = h[2]
				p.headings = append(p.headings, heading{h[2], len(h[1]), i + 1})
			}
			p.prose = append(p.prose, line)
			continue
		}
		p.prose = append(p.prose, "")
	}
	return p
}
