// Package readmetest tests the pages: every command in them is run in the order of the page, every
// sample is compared with what is printed, and names and links are checked.
//
// A fenced block states its purpose after its language:
//
//	sh STAGE [server]      commands, run in the order of the pages; commands_test.go has the stages. A
//	                       server runs in its own terminal until the stage ends
//	text output|errors     what the commands above print on stdout or stderr; … matches anything
//	text picture|figures   a drawing; what was measured, not compared
//	text query             for CloudWatch Logs Insights, not run
//	text usage             a synopsis, compared with the program's -h
//	json event|rotations|report|announced|doctor   given to the function, or compared with its answer
//	yaml …, go, python     parsed; the Go code is compiled
package readmetest

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"
)

// root is the repository.
var root, _ = filepath.Abs("../..")

// A page is a Markdown file.
type page struct {
	path     string   // in the repository
	prose    []string // its lines, empty where they belong to a block
	blocks   []*block
	headings []string
	tables   [][][]string // rows of cells, the head first. No cell may hold a |, not even in code
}

// A block is a fenced one.
type block struct {
	where    string // page:line
	section  string
	language string
	purpose  string // the word after the language
	server   bool
	above    *block // the nearest commands above it on the page
	text     string
}

func parse(path, text string) *page {
	p := &page{path: path, headings: []string{""}}
	var open, commands *block
	inTable := false
	for i, line := range strings.Split(text, "\n") {
		info, isFence := strings.CutPrefix(line, "```")
		if isFence && open == nil {
			language, purpose, _ := strings.Cut(info, " ")
			purpose, server := strings.CutSuffix(purpose, " server")
			open = &block{where: fmt.Sprintf("%s:%d", path, i+1), section: p.headings[len(p.headings)-1], language: language, purpose: purpose, server: server, above: commands}
			if language == "sh" {
				commands = open
			}
			p.blocks = append(p.blocks, open)
			line = ""
		} else if isFence {
			open, line = nil, ""
		} else if open != nil {
			open.text += line + "\n"
			line = ""
		}
		p.prose = append(p.prose, line)
		if _, heading, found := strings.Cut(line, "# "); found && strings.Trim(strings.TrimSuffix(line, heading), "# ") == "" {
			p.headings = append(p.headings, heading)
		}
		isRow := len(line) > 1 && strings.HasPrefix(line, "|") && strings.HasSuffix(line, "|")
		if isRow && !inTable {
			p.tables = append(p.tables, nil)
		}
		if inTable = isRow; isRow && !strings.HasPrefix(line, "|--") {
			var cells []string
			for cell := range strings.SplitSeq(line[1:len(line)-1], "|") {
				cells = append(cells, strings.TrimSpace(cell))
			}
			p.tables[len(p.tables)-1] = append(p.tables[len(p.tables)-1], cells)
		}
	}
	return p
}

// pages are all Markdown files of the repository, the main one first.
var pages = sync.OnceValue(func() (found []*page) {
	for _, path := range repositoryFiles() {
		if strings.HasSuffix(path, ".md") {
			found = append(found, parse(path, fileText(path)))
		}
	}
	slices.SortStableFunc(found, func(a, b *page) int { return strings.Count(a.path, "/") - strings.Count(b.path, "/") })
	return found
})

func pageNamed(path string) *page {
	return pages()[slices.IndexFunc(pages(), func(p *page) bool { return p.path == path })]
}

// fileText is the content of a file of the repository; empty if it was another test's file, which is gone now.
func fileText(path string) string {
	text, _ := os.ReadFile(filepath.Join(root, path))
	return string(text)
}

// repositoryFiles are the paths of the repository's files, without those that are built.
func repositoryFiles() (files []string) {
	_ = filepath.WalkDir(root, func(file string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // another test's file, which is gone now
		case entry.IsDir() && slices.Contains([]string{".git", "build", ".terraform"}, entry.Name()):
			return filepath.SkipDir
		case entry.Type().IsRegular() && entry.Name() != ".git": // which is a file in a worktree
			relative, _ := filepath.Rel(root, file)
			files = append(files, relative)
		}
		return nil
	})
	return files
}

// blocks returns the blocks of a language, of all pages.
func blocks(language string) (found []*block) {
	for _, p := range pages() {
		for _, b := range p.blocks {
			if b.language == language {
				found = append(found, b)
			}
		}
	}
	return found
}

func TestEveryBlockStatesItsPurpose(t *testing.T) {
	allowed := map[string][]string{
		"sh": slices.Collect(maps.Keys(stages)), "text": {"output", "errors", "picture", "figures", "query", "usage"},
		"json": {"event", "rotations", "report", "announced", "doctor"}, "yaml": {"pod", "actions"}, "go": {""}, "python": {""},
	}
	for _, p := range pages() {
		for _, b := range p.blocks {
			if b.language == "text" && slices.Contains([]string{"output", "errors"}, b.purpose) && (b.above == nil || b.above.section != b.section || b.above.server) {
				t.Errorf("%s: no command stands above this output in its section", b.where)
			}
			if !slices.Contains(allowed[b.language], b.purpose) || strings.TrimSpace(b.text) == "" {
				t.Errorf("%s: a %s block of purpose %q: want one of %q, with text", b.where, b.language, b.purpose, allowed[b.language])
			}
			if _, known := readyFile[strings.TrimSpace(b.text)]; b.server && !known {
				t.Errorf("%s: readyFile does not know the server %q", b.where, b.text)
			}
		}
		for i, line := range p.prose {
			if strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "\t") || strings.Contains(line, "```") {
				t.Errorf("%s:%d: an indented block, or a fence inside a line: these tests do not see it", p.path, i+1)
			}
		}
	}
	for name := range stages {
		if !slices.ContainsFunc(blocks("sh"), func(b *block) bool { return b.purpose == name }) {
			t.Errorf("no page has a block for the stage %s", name)
		}
	}
	for line := range notRun {
		if !slices.ContainsFunc(blocks("sh"), func(b *block) bool { return strings.Contains(b.text, line) }) {
			t.Errorf("notRun: no page has the line %q", line)
		}
	}
}

// The README is for a reader who has five minutes.
func TestREADMEKeepsItsBudget(t *testing.T) {
	text := fileText("README.md")
	lines, words := strings.Count(text, "\n"), len(strings.Fields(text))
	if lines > 200 || words > 2000 {
		t.Errorf("README.md has %d lines and %d words, want at most 200 and 2000: move details to the page of their package", lines, words)
	}
	first := strings.Join(strings.SplitN(text, "\n", 11)[:10], "\n")
	if !strings.Contains(first, "never run on real") || !strings.Contains(first, "no licence") {
		t.Error("the first ten lines do not state that it has never run on real clouds and has no licence yet")
	}
}

var (
	linkShape = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	spanShape = regexp.MustCompile("`([^`]+)`")
	pathShape = regexp.MustCompile(`^(functions|infra|scripts|\.ci|\.github)/[\w./-]+$`)
	testShape = regexp.MustCompile(`\bTest[A-Z]\w+`)
	noAnchor  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// Links within the repository lead to a file and, if they have an anchor, to a heading. Files and tests that a page names
// exist. The rows of a table have the same number of cells.
func TestLinksAndPathsExist(t *testing.T) {
	anchors := map[string]map[string]bool{}
	for _, p := range pages() {
		anchors[p.path] = map[string]bool{}
		for _, h := range p.headings {
			anchors[p.path][strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(h), ""), " ", "-")] = true
		}
	}
	var tests strings.Builder
	for _, file := range repositoryFiles() {
		if strings.HasSuffix(file, "_test.go") {
			tests.WriteString(fileText(file))
		}
	}
	exists := func(name string) bool {
		info, err := os.Stat(filepath.Join(root, name))
		return err == nil && (path.Ext(name) != ".md" || !info.IsDir())
	}
	for _, p := range pages() {
		for _, table := range p.tables {
			for _, row := range table {
				if len(row) != len(table[0]) {
					t.Errorf("%s: a row of %d cells in a table of %d: %s", p.path, len(row), len(table[0]), row[0])
				}
			}
		}
		for i, line := range p.prose {
			for _, link := range linkShape.FindAllStringSubmatch(line, -1) {
				file, anchor, _ := strings.Cut(link[1], "#")
				target := p.path
				if file != "" {
					target = path.Join(path.Dir(p.path), file)
				}
				if !strings.HasPrefix(link[1], "https://") && (!exists(target) || anchor != "" && !anchors[target][anchor]) {
					t.Errorf("%s:%d: %s leads nowhere", p.path, i+1, link[1])
				}
			}
			for _, name := range testShape.FindAllString(line, -1) {
				if !strings.Contains(tests.String(), "\nfunc "+name) {
					t.Errorf("%s:%d: there is no test %s", p.path, i+1, name)
				}
			}
			for _, span := range spansOf(line) {
				if first, _, _ := strings.Cut(span, " "); pathShape.MatchString(first) && !exists(first) {
					t.Errorf("%s:%d: there is no %s", p.path, i+1, first)
				}
			}
		}
	}
}

// spansOf are the pieces of code in a text.
func spansOf(text string) (found []string) {
	for _, match := range spanShape.FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

// rows returns the rows of the tables on a page whose first column has this name, without their heads.
func rows(t *testing.T, path, column string) (found [][]string) {
	t.Helper()
	for _, table := range pageNamed(path).tables {
		if table[0][0] == column {
			found = append(found, table[1:]...)
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no table of %q", path, column)
	}
	return found
}

// matches returns what the first group of a pattern matches in a file, sorted and without repetitions.
func matches(file, pattern string) []string {
	found := map[string]bool{}
	for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(fileText(file), -1) {
		found[match[1]] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// YAML blocks are YAML. A pod mounts the token that it names, and a workflow requests its identity token.
func TestYAMLBlocks(t *testing.T) {
	for _, b := range blocks("yaml") {
		if err := yaml.Unmarshal([]byte(b.text), new(any)); err != nil {
			t.Errorf("%s: %v", b.where, err)
		}
		switch mount := regexp.MustCompile(`mountPath: ([\w/.-]+)`).FindStringSubmatch(b.text); {
		case b.purpose == "pod" && (mount == nil || !strings.Contains(b.text, "value: "+mount[1]+"/")):
			t.Errorf("%s: CR_TOKEN_FILENAME is not below the mountPath", b.where)
		case b.purpose == "actions" && !strings.Contains(b.text, "id-token: write"):
			t.Errorf("%s: without id-token: write there is no role", b.where)
		}
	}
}

// goFile is a file of Go around a block. It has the packages and variables that any of the blocks uses.
const goFile = `package example

import (
	"context"
	"net/http"

	"github.com/IBM/platform-services-go-sdk/logsrouterv3"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"iam-token-rotator/functions/iamtoken"
)

var service, err any
var _ = []any{context.Background, http.NewRequest, logsrouterv3.NewLogsRouterV3, aws.Bool, iamtoken.NewSecret}

func example(client *ssm.Client, arn, url, id, key string) {
	{
%s
		_, _, _, _ = reader, client, service, err
	}
}
`

func TestGoBlocksCompile(t *testing.T) {
	t.Parallel()
	for _, b := range blocks("go") {
		folder := t.TempDir()
		source, overlay := filepath.Join(folder, "example.go"), filepath.Join(folder, "overlay.json")
		writeFile(t, source, fmt.Sprintf(goFile, b.text))
		// The overlay puts the file into the module without writing there.
		writeFile(t, overlay, fmt.Sprintf(`{"Replace":{%q:%q}}`, filepath.Join(root, "scripts", "readmetest", "example", "example.go"), source))
		build := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "iam-token-rotator/scripts/readmetest/example")
		build.Dir = root
		if printed, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", b.where, err, printed)
		}
	}
}

func writeFile(t *testing.T, file, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file, []byte(content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
