package readmetest

import (
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"iam-token-rotator/scripts/programs"
)

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
