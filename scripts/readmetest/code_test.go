package readmetest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var pathVariable = os.Getenv("PATH")

// A piece of code is a span in the text, or the lines of a block of commands.
type piece struct{ where, text string }

// allCode is what may hold commands.
func allCode(t *testing.T) []piece {
	t.Helper()
	var all []piece
	for _, p := range allPages(t) {
		for i, line := range p.prose {
			for _, span := range spans(line) {
				all = append(all, piece{place(p.path, i+1), span})
			}
		}
		for _, b := range p.blocks {
			if b.language == "sh" {
				all = append(all, piece{b.where(), b.text})
			}
		}
	}
	return all
}

var (
	commentShape  = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	continued     = regexp.MustCompile(`\\\n`)
	operatorShape = regexp.MustCompile("\\|\\||&&|[|;&()`\n]|\\$\\(|\"\\$\\(")
	assignment    = regexp.MustCompile(`^[A-Z_a-z]+=`)
)

// commandsIn splits code into simple commands, as words, without the variables set before them. It
// need not know all of the shell: what it does not see is still run.
func commandsIn(code string) [][]string {
	code = commentShape.ReplaceAllString(continued.ReplaceAllString(code, " "), "")
	var commands [][]string
	for _, part := range operatorShape.Split(code, -1) {
		words := strings.Fields(part)
		for len(words) > 0 && (assignment.MatchString(words[0]) || words[0] == "export") {
			words = words[1:]
		}
		if len(words) > 0 {
			commands = append(commands, words)
		}
	}
	return commands
}

// Every target that is named is one of the Makefile, and every variable one that it or scripts/stack
// takes.
func TestTargetsExist(t *testing.T) {
	targets := map[string]bool{}
	for _, target := range matches(t, "Makefile", `(?m)^([a-z][a-z-]*):`) {
		targets[target] = true
	}
	taken := strings.Join(append(matches(t, "Makefile", `\b([A-Z][A-Z_]+)\b`), matches(t, "scripts/stack", `\b([A-Z][A-Z_]+)\b`)...), " ")
	targetShape, seen := regexp.MustCompile(`^[a-z][a-z-]*$`), 0
	for _, code := range allCode(t) {
		for _, words := range commandsIn(code.text) {
			if words[0] != "make" {
				continue
			}
			for _, word := range words[1:] {
				name, _, set := strings.Cut(word, "=")
				switch {
				case set && !strings.Contains(" "+taken+" ", " "+name+" "):
					t.Errorf("%s: make %s: nothing takes this variable", code.where, word)
				case targetShape.MatchString(word) && !targets[word]:
					t.Errorf("%s: make %s: there is no such target", code.where, word)
				}
				seen++
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d targets and variables were found on the pages: does commandsIn still work?", seen)
	}
}

// What a stack takes in PARAMS is a parameter of the template.
func TestParametersExist(t *testing.T) {
	parameters := strings.Join(matches(t, "infra/aws/template.yaml", `(?m)^  ([A-Z]\w+):$`), " ") + " "
	shape := regexp.MustCompile(`PARAMS="?(\w+)=`)
	for _, code := range allCode(t) {
		for _, found := range shape.FindAllStringSubmatch(code.text, -1) {
			if !strings.Contains(parameters, found[1]+" ") {
				t.Errorf("%s: the template has no parameter %s", code.where, found[1])
			}
		}
	}
}

// The defaults in the table of the configuration are those that apply.
func TestDefaultsAreTrue(t *testing.T) {
	defaults := map[string]string{}
	source, err := os.ReadFile(root + "/functions/internal/config/variables.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range regexp.MustCompile(`env:"(\w+)" envDefault:"([^"]*)"`).FindAllStringSubmatch(string(source), -1) {
		defaults[tag[1]] = tag[2]
	}
	for _, row := range readme(t).rows(t, "Configuration", "variable") {
		name, stated := spans(row[0])[0], strings.Join(spans(row[len(row)-1]), "")
		if stated != defaults[name] {
			t.Errorf("README.md says that %s is %q unless set, it is %q", name, stated, defaults[name])
		}
	}
}
