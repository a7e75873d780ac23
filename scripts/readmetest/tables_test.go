package readmetest

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
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
		{"README.md", "By kind", "kind", matches(t, rotationFolder+"report.go", `Kind += "(\w+)"`)},
		{"README.md", "What an alarm means", "alarm", matches(t, "infra/aws/template.yaml", alarm)},
		{"infra/aws/README.md", "When an alarm rings", "alarm", matches(t, "infra/aws/template.yaml", alarm)},
		{"infra/aws/README.md", "Deploy it", "alarm", matches(t, "infra/aws/fleet.yaml", alarm)},
		{"README.md", "Configuration", "variable", matches(t, "functions/internal/config/config.go", `env:"(\w+)"`)},
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
	if want := matches(t, rotationFolder+"report.go", `Step += "(\w+)"`); !slices.Equal(got, want) {
		t.Errorf("README.md names the steps %v, there are %v", got, want)
	}
}

// calls are what a step asks of IBM Cloud, with the service that answers and the step to fail it.
var calls = map[string]struct {
	who  string
	call ibmcloudtest.Fault
}{
	"bootstrap": {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityBootstrap}},
	"exchange":  {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload}},
	"check":     {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Body: "{}"}},
	"look":      {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata}},
	"read_key":  {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet}},
	"save":      {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate}},
}

var statusShape = regexp.MustCompile(`\b\d{3}\b`)

// Each row of the table of IBM's answers is tried: the cloud answers so, and the function must fail at
// that step, with that kind, repeating that code.
func TestAnswersAreToldRight(t *testing.T) {
	for _, row := range readme(t).rows(t, "By what IBM answers", "who") {
		who, answers, kind := row[0], row[1], spans(row[3])[0]
		for _, answer := range strings.Split(answers, ", ") {
			for _, step := range spans(row[2]) {
				c := calls[step]
				if c.who == "" || who != c.who && who != "either" {
					t.Errorf("%s is not asked at the step %q", who, step)
					continue
				}
				t.Run(fmt.Sprint(who, " ", answer, " at ", step), func(t *testing.T) {
					t.Parallel()
					tryAnswer(t, c.call, answer, step, kind)
				})
			}
		}
	}
}

func tryAnswer(t *testing.T, fault ibmcloudtest.Fault, answer, step, kind string) {
	f := newFunction(t)
	var err error
	if fault.Status, err = strconv.Atoi(statusShape.FindString(answer)); err != nil {
		t.Fatalf("%q names no status", answer)
	}
	code := strings.Join(spans(answer), "")
	switch {
	case strings.HasPrefix(code, "BXN"):
		fault.Body = `{"errorCode":"` + code + `","errorMessage":"No."}`
	case code != "":
		fault.Body = `{"errors":[{"code":"` + code + `","message":"No."}]}`
	case strings.Contains(answer, "web page"):
		fault.Body = "<html><body>Welcome</body></html>"
	}
	f.fault(fault)
	var report struct {
		Results []struct {
			Error struct{ Step, Kind, Message string } `json:"error"`
		} `json:"results"`
	}
	got := f.run("-json", "-timeout", "2s") // tried until then, where trying again may help
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil || len(report.Results) != 1 {
		t.Fatalf("no report: %v: %s", err, got.All())
	}
	failure := report.Results[0].Error
	if failure.Step != step || failure.Kind != kind || !strings.Contains(failure.Message, code) {
		t.Errorf("got %s: %s: %s; want %s: %s with %q", failure.Step, failure.Kind, failure.Message, step, kind, code)
	}
}

// IBM's codes are those that the sandbox knows: nobody has made them up for the page.
func TestCodesAreKnown(t *testing.T) {
	known := strings.Join(append(matches(t, "functions/ibmcloudtest/iam.go", `"(BXNIM\w+)"`), matches(t, "functions/ibmcloudtest/server.go", `"(secrets-manager\.\w+)"`)...), " ")
	for _, p := range allPages(t) {
		for i, line := range p.lines {
			for _, code := range regexp.MustCompile(`BXN\w+|secrets-manager\.Error\d+`).FindAllString(line, -1) {
				if !strings.Contains(known+" ", code+" ") {
					t.Errorf("%s: the sandbox knows no %s", place(p.path, i+1), code)
				}
			}
		}
	}
}

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

// manuals are the commands that print how to use each of our programs.
var manuals = map[string][][]string{
	"bootstrap":         {{"build/local/bootstrap", "-h"}, {"build/local/bootstrap", "doctor", "-h"}},
	"sandbox":           {{"build/local/sandbox", "-h"}},
	"awssandbox":        {{"build/local/awssandbox", "-h"}},
	"invoke":            {{"build/local/invoke", "-h"}},
	"iam-token":         {{"scripts/iam-token", "-h"}},
	"set-up-secrets":    {{"scripts/set-up-secrets", "-h"}},
	"put-bootstrap-key": {{"scripts/put-bootstrap-key", "-h"}},
	"stack":             {{"scripts/stack", "-h"}},
}

// foreign are options that stand alone in code and belong to programs of others.
var foreign = map[string]string{
	"--trusted-profiles-enabled": "ibmcloud ce job create",
	"--schedule":                 "ibmcloud ce sub cron create",
	"-var":                       "terraform apply",
}

var help = sync.OnceValues(func() (map[string]string, error) {
	folder, err := original()
	return map[string]string{"folder": folder}, err
})

// manual is what a program of ours prints with -h, empty for others.
func manual(t *testing.T, program string) string {
	t.Helper()
	folder, err := help()
	if err != nil {
		t.Fatal(err)
	}
	var text string
	for _, command := range manuals[program] {
		got := programs.Run(t, programs.Command{Env: []string{"PATH=" + pathVariable}, Name: filepath.Join(folder["folder"], command[0]), Args: command[1:]})
		if got.Exit != 0 {
			t.Fatalf("%s: exit %d", strings.Join(command, " "), got.Exit)
		}
		text += got.All()
	}
	return text
}

var spaces = regexp.MustCompile(`\s+`)

// A synopsis is the program's own.
func TestSynopsesAreThePrograms(t *testing.T) {
	for _, b := range allBlocks(t) {
		if b.language != "text" || !b.is("usage") {
			continue
		}
		for line := range strings.Lines(b.text) {
			line = strings.TrimSpace(line)
			program, _, _ := strings.Cut(line, " ")
			if !strings.Contains(spaces.ReplaceAllString(manual(t, program), " "), line) {
				t.Errorf("%s: %s -h does not say %q", b.where(), program, line)
			}
		}
	}
}

// Every option that is written somewhere in code is one of the program.
func TestOptionsExist(t *testing.T) {
	known := map[string]string{}
	for program := range manuals {
		known[program] = manual(t, program)
	}
	used := map[string]bool{}
	for _, code := range allCode(t) {
		for _, words := range commandsIn(code.text) {
			checkOptions(t, code.where, words, known, used)
		}
	}
	for option, program := range foreign {
		if !used[option] {
			t.Errorf("%s of %s is on no page any more", option, program)
		}
	}
}

var optionShape = regexp.MustCompile(`^--?[a-z][a-z-]*`)

func checkOptions(t *testing.T, where string, words []string, known map[string]string, used map[string]bool) {
	t.Helper()
	program := path.Base(words[0])
	manual, ours := known[program]
	if strings.HasPrefix(words[0], "-") { // no program is named: any of ours
		ours, program = true, "any of our programs"
		for _, text := range known {
			manual += text
		}
	}
	for _, word := range words {
		option := optionShape.FindString(word)
		if option == "" || !ours || option == "-h" {
			continue
		}
		if foreign[option] != "" && strings.HasPrefix(words[0], "-") {
			used[option] = true
			return // its other words are that program's
		}
		if !regexp.MustCompile(`(^|[^\w-])` + option + `($|[^\w-])`).MatchString(manual) {
			t.Errorf("%s: %s knows no option %s", where, program, option)
		}
	}
}

// Messages in the table of messages are the programs' own.
func TestMessagesAreThePrograms(t *testing.T) {
	said := allMessages(t)
	for _, row := range readme(t).rows(t, "By what you read", "in a message or warning") {
		if message := spans(row[0])[0]; !strings.Contains(said, message) {
			t.Errorf("README.md: nothing of ours says %q", message)
		}
	}
}

// allMessages is the text of the function and of the shell scripts, without the tests.
func allMessages(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	err := eachFile(func(path string) error {
		full := filepath.Join(root, path)
		switch {
		case strings.HasPrefix(path, "functions/") && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			file, err := parser.ParseFile(token.NewFileSet(), full, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(node ast.Node) bool { return writeMessage(&text, node) })
		case filepath.Dir(path) == "scripts":
			script, err := os.ReadFile(full)
			if err != nil {
				return err
			}
			text.Write(script)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// writeMessage writes a literal text on a line; one that is added up from several is one.
func writeMessage(text *strings.Builder, node ast.Node) (deeper bool) {
	expression, ok := node.(ast.Expr)
	if !ok {
		return true
	}
	if whole := literal(expression); whole != "" {
		text.WriteString(whole + "\n")
		return false
	}
	return true
}

// literal is the text of an expression; of what is computed in it … stands.
func literal(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			whole, _ := strconv.Unquote(e.Value)
			return whole
		}
	case *ast.BinaryExpr:
		left, right := literal(e.X), literal(e.Y)
		if e.Op == token.ADD && left+right != "" {
			return orDots(left) + orDots(right)
		}
	}
	return ""
}

func orDots(text string) string {
	if text == "" {
		return "…"
	}
	return text
}

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

// A drawing is text in which lines lead from names to names: a line leaves a name at its right, may
// branch and join, and ends in ▶ before a name.
type drawing [][]rune

type point struct{ row, column int }

// ways are the directions in which a character of a line goes on: left, right, up, down.
var ways = map[rune][4]bool{
	'─': {true, true, false, false}, '│': {false, false, true, true},
	'┌': {false, true, false, true}, '┐': {true, false, false, true}, '└': {false, true, true, false}, '┘': {true, false, true, false},
	'├': {false, true, true, true}, '┤': {true, false, true, true}, '┬': {true, true, false, true}, '┴': {true, true, true, false},
	'┼': {true, true, true, true},
}

var steps = [4]point{{0, -1}, {0, 1}, {-1, 0}, {1, 0}}

// opposite is the way back.
var opposite = [4]int{1, 0, 3, 2}

// readDrawing returns the names in a drawing and its arrows, "from → to".
func readDrawing(text string) (names, arrows []string) {
	var d drawing
	for line := range strings.Lines(text) {
		d = append(d, []rune(strings.TrimRight(line, "\n")))
	}
	seen := map[point]bool{}
	for row := range d {
		for column := 0; column < len(d[row]); column++ {
			if name := d.nameAt(point{row, column}); name != "" {
				names = append(names, name)
				column += len(name)
			}
		}
		for column := range d[row] {
			if start := (point{row, column}); ways[d.at(start)] != [4]bool{} && !seen[start] {
				sources, targets := d.follow(start, seen)
				for _, from := range sources {
					for _, to := range targets {
						arrows = append(arrows, from+" → "+to)
					}
				}
			}
		}
	}
	return names, arrows
}

// at is a character, a space outside of the drawing.
func (d drawing) at(p point) rune {
	if p.row < 0 || p.row >= len(d) || p.column < 0 || p.column >= len(d[p.row]) {
		return ' '
	}
	return d[p.row][p.column]
}

func partOfName(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '/' || r == '-' || r == '.'
}

// nameAt is the name that begins at a point, empty if none does.
func (d drawing) nameAt(p point) string {
	if !partOfName(d.at(p)) || partOfName(d.at(point{p.row, p.column - 1})) {
		return ""
	}
	name := ""
	for ; partOfName(d.at(p)); p.column++ {
		name += string(d.at(p))
	}
	return name
}

// nameBefore is the name that ends left of a point, a space between them.
func (d drawing) nameBefore(p point) string {
	p.column -= 2
	if d.at(point{p.row, p.column + 1}) != ' ' || !partOfName(d.at(p)) {
		return ""
	}
	for partOfName(d.at(point{p.row, p.column - 1})) {
		p.column--
	}
	return d.nameAt(p)
}

// follow goes along all of a line, and returns where it comes from and where it leads.
func (d drawing) follow(start point, seen map[point]bool) (sources, targets []string) {
	for open := []point{start}; len(open) > 0; {
		p := open[0]
		open = open[1:]
		if seen[p] {
			continue
		}
		seen[p] = true
		if from := d.nameBefore(p); ways[d.at(p)][0] && from != "" {
			sources = append(sources, from)
		}
		for way, goes := range ways[d.at(p)] {
			next := point{p.row + steps[way].row, p.column + steps[way].column}
			switch {
			case !goes:
			case ways[d.at(next)][opposite[way]]:
				open = append(open, next)
			case way == 1 && d.at(next) == '▶':
				targets = append(targets, d.nameAt(point{next.row, next.column + 2}))
			}
		}
	}
	return sources, targets
}

func TestDrawingsAreRead(t *testing.T) {
	names, arrows := readDrawing(`
a/x ─┬─▶ b ─────────┐
     ├─▶ c ─────────┼─▶ e ──▶ f
     └─▶ d ──▶ g.h ─┘
loner
`)
	slices.Sort(arrows)
	want := []string{"a/x → b", "a/x → c", "a/x → d", "b → e", "c → e", "d → g.h", "e → f", "g.h → e"}
	if !slices.Equal(arrows, want) || len(names) != 8 {
		t.Errorf("got %v and %v, want %v of 8 names", names, arrows, want)
	}
}

// scratch is a folder for what all tests share; it lasts as long as they do.
var scratch string

func TestMain(m *testing.M) {
	// Most tests here wait for programs; one for each processor would leave these idle.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	var err error
	if scratch, err = os.MkdirTemp("", "rotator-readme-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// freePort changes the Makefile of a copy so that the sandboxes take a free port: those of the pages
// may be in use.
var freePort = strings.NewReplacer(
	"ADDR ?= 127.0.0.1:8480", "ADDR ?= 127.0.0.1:0",
	"build/local/awssandbox -env", "build/local/awssandbox -addr 127.0.0.1:0 -env",
)

// original is the copy that all others are made of, its programs built.
var original = sync.OnceValues(func() (string, error) {
	folder := filepath.Join(scratch, "original")
	if err := copySources(folder); err != nil {
		return folder, err
	}
	command := exec.Command("make", "build-local")
	command.Dir, command.Env = folder, append(os.Environ(), "MAKEFLAGS=", "MFLAGS=")
	if printed, err := command.CombinedOutput(); err != nil {
		return folder, fmt.Errorf("make build-local: %w: %s", err, printed)
	}
	return folder, nil
})

// programsFolder is where the built programs of this repository are.
func programsFolder(t *testing.T) string {
	t.Helper()
	folder, err := original()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, "build", "local")
}

// copySources copies the repository's files.
func copySources(folder string) error {
	return eachFile(func(path string) error {
		from, to := filepath.Join(root, path), filepath.Join(folder, path)
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another test's, which has gone meanwhile
		}
		if err != nil {
			return err
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if path == "Makefile" {
			changed := freePort.Replace(string(content))
			if strings.Count(changed, "127.0.0.1:0 -env") != len(ready) {
				return fmt.Errorf("the Makefile starts the sandboxes in another way than freePort knows")
			}
			content = []byte(changed)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.WriteFile(to, content, info.Mode().Perm())
	})
}

// makeCopy is a copy of the repository with its programs built, so that make finds them up to date.
func makeCopy(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "iam-token-rotator")
	if err := copySources(folder); err != nil {
		t.Fatal(err)
	}
	bin := programsFolder(t)
	built, err := filepath.Glob(filepath.Join(bin, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range built {
		link(t, program, filepath.Join(folder, "build", "local"))
	}
	for _, other := range []string{"deploy", "rotate"} { // the same binary, where ARCH is that of this machine
		link(t, filepath.Join(bin, "bootstrap"), filepath.Join(folder, "build", other))
	}
	return folder
}

func link(t *testing.T, file, folder string) {
	t.Helper()
	err := os.MkdirAll(folder, 0o700)
	if err == nil {
		err = os.Link(file, filepath.Join(folder, filepath.Base(file)))
	}
	if err != nil {
		t.Fatal(err)
	}
}
