// Package readmetest holds the documentation to the programs: every command in it is run, in the
// order in which it stands, every sample compared with what is really printed, and every name and
// link looked up. Nothing of the text is changed for that: what differs here comes from the
// environment, from sandboxes and from stand-ins for programs that cannot run (testdata/bin).
//
// A fenced block says after its language what it is for. See the grammar in blocks_test.go, and the
// exceptions, with their reasons, in exempt_test.go.
package readmetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// A world is a copy of the repository and what surrounds it: an environment without anything of this
// machine's owner, and clouds.
type world struct {
	t       *testing.T
	dir     string // the copy
	home    string
	state   string // what the stand-ins of testdata/bin know
	env     map[string]string
	printed map[*block]string // what blocks have printed to stdout

	cloud  *ibmcloudtest.Cloud // nil before serveIBM
	origin string              // of it
	moto   *awstest.Moto       // nil before serveAWS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: makeCopy(t), home: t.TempDir(), state: t.TempDir(), printed: map[*block]string{}}
	standIns := filepath.Join(w.dir, "scripts", "readmetest", "testdata", "bin")
	w.env = map[string]string{
		"PATH": standIns + ":" + pastShims() + os.Getenv("PATH"), "HOME": w.home, "TMPDIR": t.TempDir(), "STAND_IN_STATE": w.state,
		"ARCH": runtime.GOARCH, // Lambda is this machine here
	}
	maps.Copy(w.env, goEnvironment(t))
	return w
}

var goVariables = sync.OnceValues(func() (map[string]string, error) {
	printed, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOSUMDB", "GOFLAGS", "GOTOOLCHAIN").Output()
	if err != nil {
		return nil, err
	}
	variables := map[string]string{}
	return variables, json.Unmarshal(printed, &variables)
})

// goEnvironment has go find its caches although HOME is another.
func goEnvironment(t *testing.T) map[string]string {
	t.Helper()
	variables, err := goVariables()
	if err != nil {
		t.Fatal(err)
	}
	return variables
}

// pastShims is the beginning of a PATH where the aws program itself is found: pyenv's shim for it takes
// as long as the program does.
var pastShims = sync.OnceValue(func() string {
	path, err := exec.Command("pyenv", "which", "aws").Output()
	if err != nil {
		return ""
	}
	return filepath.Dir(strings.TrimSpace(string(path))) + ":"
})

// write writes a file for its owner alone.
func (w *world) write(path, content string) {
	w.t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

const changeKeys = "Change the keys without a gap"

// newKeyWorld is one where infra/ibm has been set up, as its page says.
func newKeyWorld(t *testing.T) *world {
	t.Helper()
	programs.Need(t, append([]string{"sh", "go", "make", "curl"}, forAWS...)...)
	w := newWorld(t)
	w.serveIBM()
	w.serveAWS()
	for _, b := range inSection(t, "infra/ibm/README.md", "Set it up", "ibm") {
		w.mustDo(b)
	}
	return w
}

// inSection are the commands of a section that belong to a stage.
func inSection(t *testing.T, path, section, stage string) []*block {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(pageAt(t, path).blocks), func(b *block) bool {
		return b.section != section || b.language != "sh" || !b.is(stage)
	})
}

// keyChange are the steps, and the two for keys that were made in another way.
func keyChange(t *testing.T) (make, doctor, remove, makeByHand, removeByHand *block) {
	t.Helper()
	b := inSection(t, "README.md", changeKeys, "deploy")
	if len(b) != 6 {
		t.Fatalf("the section has %d blocks of commands, want four steps and two others", len(b))
	}
	return b[0], b[1], b[3], b[4], b[5]
}

// do runs a block in a shell of its own.
func (w *world) do(b *block) programs.Result {
	w.t.Helper()
	return programs.Run(w.t, programs.Command{Dir: w.dir, Env: programs.Environ(w.env), Name: "sh", Args: []string{"-euc", b.runnable()}})
}

func (w *world) mustDo(b *block) programs.Result {
	w.t.Helper()
	got := w.do(b)
	if got.Exit != 0 {
		w.t.Fatalf("%s: exit %d: %s", b.where(), got.Exit, scrub(got.All()))
	}
	return got
}

// keyIDs are the ids of the keys of one identity, without that of the sandbox itself.
func (w *world) keyIDs(iamID string) []string {
	w.t.Helper()
	request, _ := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.origin+"/v1/apikeys?pagesize=100&iam_id="+iamID, nil)
	request.Header.Set("Authorization", "Bearer "+w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Keys []struct{ ID, Name string } `json:"apikeys"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, key := range answer.Keys {
		if strings.HasPrefix(key.Name, "iam-token-rotator-") || key.Name == "rotator-bootstrap" {
			ids = append(ids, key.ID)
		}
	}
	return ids
}

func (w *world) read(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// named is the value of a variable in build/ibm.env.
func (w *world) named(variable string) string {
	w.t.Helper()
	found := regexp.MustCompile(`(?m)^` + variable + `=(.+)$`).FindStringSubmatch(w.read("build/ibm.env"))
	if found == nil {
		w.t.Fatalf("build/ibm.env has no %s", variable)
	}
	return found[1]
}

// TestNothingGoesOnWithoutTheFileOfVariables: where a file that a block reads is missing, a shell at a
// terminal goes on with the next line. What it would do then, it does in an account that is not meant.
func TestNothingGoesOnWithoutTheFileOfVariables(t *testing.T) {
	t.Parallel()
	bash, seen := programs.Path(t, "bash"), 0
	for _, b := range allBlocks(t) {
		// The fleet's commands end at a template that refuses what is empty.
		elsewhere := b.section == "Try it by hand" || b.section == "Deploy it" && strings.Contains(b.text, "cloudformation deploy")
		makesIt := strings.Contains(b.text, "mv build/new.env build/ibm.env")
		if b.language != "sh" || elsewhere || makesIt || !strings.Contains(b.text, ". build/") {
			continue
		}
		seen++
		dir, bin := t.TempDir(), t.TempDir()
		for _, program := range []string{"make", "aws", "ibmcloud", "scripts/set-up-secrets"} { // each writes down that it was called
			folder := map[bool]string{true: dir, false: bin}[strings.Contains(program, "/")]
			writeProgram(t, filepath.Join(folder, program), `echo "$(basename "$0") $*" >>'`+filepath.Join(dir, "called")+`'; echo '{"iam_token":"x"}'`)
		}
		writeProgram(t, filepath.Join(bin, "terraform"), "echo {}")
		if err := os.Mkdir(filepath.Join(dir, "build"), 0o700); err != nil {
			t.Fatal(err)
		}
		programs.Run(t, programs.Command{Dir: dir, Env: []string{"PATH=" + bin + ":" + pathVariable, "HOME=" + dir}, Stdin: b.text, Name: bash, Args: []string{"--norc", "--noprofile", "-i"}})
		called, _ := os.ReadFile(filepath.Join(dir, "called"))
		for line := range strings.Lines(string(called)) {
			if !strings.HasPrefix(line, "ibmcloud iam oauth-tokens") {
				t.Errorf("%s: without its file it goes on to %s", b.where(), line)
			}
		}
	}
	if seen < 6 {
		t.Errorf("only %d blocks read a file: does the test still find them?", seen)
	}
}

func writeProgram(t *testing.T, path, body string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTokensOutliveTheirKeys: a key that is deleted leaves the tokens that it was exchanged for, so the
// page must not promise that changing it ends a theft.
func TestTokensOutliveTheirKeys(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	key := cloud.Rotations()[0].APIKey
	token := cloud.MustMintToken(key, time.Hour)
	cloud.MustDeleteAPIKey(key)
	if _, _, err := cloud.Validate(token); err != nil {
		t.Fatalf("a token whose key was deleted: %v; then the page says too much", err)
	}
	told := 0
	for _, row := range readme(t).rows(t, "If it is stolen", "what") {
		if strings.HasSuffix(row[0], "key**") {
			told++
			if end := row[len(row)-1]; !strings.Contains(end, "live on, an hour at most") {
				t.Errorf("%s: what ends it: got %q, want it to say that tokens live on", row[0], end)
			}
		}
	}
	if told != 3 {
		t.Errorf("got %d keys, want 3", told)
	}
}

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

// A stage is a world in which the blocks that name it are run, in one shell, in a copy of the
// repository.
type stage struct {
	needs   []string // programs beside sh, go and make
	prepare func(w *world)
	dir     string // in the copy; its top if empty
}

// forAWS is what AWS's side of a stage needs.
var forAWS = []string{"moto_server", "aws", "jq"}

var stages = map[string]stage{
	// The first screen, and what a contributor does.
	"first":      {},
	"contribute": {needs: []string{"curl", "jq"}},
	"simulate":   {},
	// The sandboxes of make, each a process of its own.
	"sandbox":   {needs: []string{"curl"}},
	"sandboxes": {needs: forAWS},
	// IBM Cloud and AWS in memory, and stand-ins for ibmcloud and terraform.
	"deploy":      {needs: append(forAWS, "curl"), prepare: func(w *world) { w.serveIBM(); w.serveAWS() }},
	"ibm":         {needs: append(forAWS, "curl"), prepare: func(w *world) { w.serveIBM(); w.serveAWS() }},
	"further":     {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.exportOutputs() }},
	"code-engine": {needs: []string{"curl", "jq"}, prepare: (*world).serveIBM},
	// AWS, where infra/ibm has been set up before.
	"aws":   {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.writeEnv() }},
	"fleet": {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.writeEnv(); w.writeFleet() }},
	// Jobs, with a token to read.
	"job":             {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.publish(); w.giveReaderKey() }},
	"laptop":          {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.publish(); w.leaveReaderKey() }},
	"code-engine-job": {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.publish(); w.giveComputeToken() }, dir: "scripts"},
	"aws-job":         {needs: append(forAWS, "curl"), prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.publish(); w.copyToAWS() }, dir: "scripts"},
}

func stageNames() []string { return slices.Sorted(maps.Keys(stages)) }

// ready is the file by which one can tell that a server is.
var ready = map[string]string{
	"make sandbox":     "build/sandbox.env",
	"make aws-sandbox": "build/aws.env",
}

// atATime is how many stages run side by side: more than processors, since they mostly wait, for
// CloudFormation above all.
const atATime = 4

// TestEveryCommandRuns runs the pages.
func TestEveryCommandRuns(t *testing.T) {
	t.Parallel()
	_ = programsFolder(t) // once, before the clock of any stage runs
	slots := make(chan struct{}, atATime)
	var all sync.WaitGroup
	for _, name := range longestFirst() {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.Run(name, func(t *testing.T) { run(t, name) })
		})
	}
	all.Wait()
}

func run(t *testing.T, name string) {
	stage := stages[name]
	programs.Need(t, append([]string{"sh", "go", "make"}, stage.needs...)...)
	w := newWorld(t)
	if stage.prepare != nil {
		stage.prepare(w)
	}
	blocks := blocksOf(t, name)
	if name == "aws-job" {
		blocks = append(blocks, workflowRuns(t)...)
	}
	w.play(blocks, stage.dir)
	w.checkSamples()
}

// longestFirst are the stages with those first that wait most.
func longestFirst() []string {
	long := []string{"deploy", "aws", "sandboxes", "contribute"}
	return append(long, slices.DeleteFunc(stageNames(), func(name string) bool { return slices.Contains(long, name) })...)
}

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
