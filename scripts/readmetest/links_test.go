package readmetest

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var linkShape = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// Every link within the repository leads somewhere, to a heading if it names one.
func TestLinksResolve(t *testing.T) {
	anchors := map[string]map[string]bool{}
	for _, p := range allPages(t) {
		anchors[p.path] = p.anchors()
	}
	for _, p := range allPages(t) {
		for i, line := range p.prose {
			for _, link := range linkShape.FindAllStringSubmatch(line, -1) {
				if problem := checkLink(p.path, link[1], anchors); problem != "" {
					t.Errorf("%s: %s", place(p.path, i+1), problem)
				}
			}
		}
	}
}

// checkLink tells what is wrong with a link on a page.
func checkLink(from, link string, anchors map[string]map[string]bool) string {
	if strings.HasPrefix(link, "https://") {
		return ""
	}
	file, anchor, _ := strings.Cut(link, "#")
	target := from
	if file != "" {
		target = path.Join(path.Dir(from), file)
	}
	info, err := os.Stat(filepath.Join(root, target))
	switch {
	case err != nil:
		return link + ": there is no " + target
	case info.IsDir():
		return link + ": a folder; link to its README.md, which more than one site shows"
	case anchor != "" && !anchors[target][anchor]:
		return link + ": " + target + " has no such heading"
	}
	return ""
}

var noAnchor = regexp.MustCompile(`[^\p{L}\p{N}\p{M}_ -]`)

// anchors are the names that GitHub gives to the headings of a page.
func (p *page) anchors() map[string]bool {
	names := map[string]bool{}
	for _, h := range p.headings {
		name := strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(h.text), ""), " ", "-")
		for i := 1; names[name]; i++ {
			name = fmt.Sprintf("%s-%d", strings.TrimSuffix(name, fmt.Sprintf("-%d", i-1)), i)
		}
		names[name] = true
	}
	return names
}

// The contents on the first screen name every chapter.
func TestTheContentsAreComplete(t *testing.T) {
	p := readme(t)
	var contents string
	for _, line := range p.prose {
		if strings.HasPrefix(line, "**Decide:**") || contents != "" && line != "" {
			contents += line + "\n"
		} else if contents != "" {
			break
		}
	}
	listed := map[string]bool{}
	for _, link := range linkShape.FindAllStringSubmatch(contents, -1) {
		listed[strings.TrimPrefix(link[1], "#")] = true
	}
	for _, h := range p.headings {
		only := &page{headings: []heading{h}}
		for anchor := range only.anchors() {
			if h.level == 2 && !listed[anchor] {
				t.Errorf("the contents lack %q", h.text)
			}
		}
	}
}

// A path in code is that of a file or folder.
func TestPathsExist(t *testing.T) {
	ours := regexp.MustCompile(`^(functions|infra|scripts|\.ci)/[\w./-]+$`)
	for _, p := range allPages(t) {
		for i, line := range p.prose {
			for _, span := range spans(line) {
				first, _, _ := strings.Cut(span, " ")
				if _, err := os.Stat(filepath.Join(root, first)); ours.MatchString(first) && err != nil {
					t.Errorf("%s: there is no %s", place(p.path, i+1), first)
				}
			}
		}
	}
}
