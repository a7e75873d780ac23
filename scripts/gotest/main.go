// Command gotest runs `go test` once for each group of arguments, and prints what go prints: a line a package, and the
// output of the tests that failed. Its last line says which tests were skipped, and why.
//
//	gotest -race ./functions/... -- ./infra/... ./scripts/...
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

func main() {
	failed, reasons := false, map[string]int{}
	for group := range splitGroups(os.Args[1:]) {
		command := append(strings.Fields(cmp.Or(os.Getenv("GO"), "go")), "test", "-json")
		test := exec.Command(command[0], append(command[1:], group...)...) // #nosec G204 -- the Makefile's arguments
		test.Stderr = os.Stderr
		events, err := test.StdoutPipe()
		if err == nil {
			err = test.Start()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "gotest:", err)
			os.Exit(2)
		}
		relay(events, os.Stdout, reasons)
		failed = test.Wait() != nil || failed
	}
	fmt.Println(summary(reasons))
	if failed {
		os.Exit(1)
	}
}

// splitGroups yields the arguments between the "--".
func splitGroups(args []string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for {
			i := slices.Index(args, "--")
			if i < 0 {
				yield(args)
				return
			}
			if !yield(args[:i]) {
				return
			}
			args = args[i+1:]
		}
	}
}

// event is a line of `go test -json`, as cmd/test2json documents it.
type event struct{ Action, Package, Test, Output string }

// location precedes what a test logs.
var location = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// relay prints the lines of packages and the output of tests that did not end well, and counts the skipped tests by reason.
func relay(events io.Reader, out io.Writer, reasons map[string]int) {
	pending := map[string]map[string]string{} // output of the tests that have not ended, by package and test
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			_, _ = fmt.Fprintln(out, lines.Text())
			continue
		}
		tests := pending[e.Package]
		if tests == nil {
			tests = map[string]string{}
			pending[e.Package] = tests
		}
		switch {
		case e.Action == "build-output", e.Action == "output" && e.Test == "" && e.Output != "PASS\n":
			_, _ = io.WriteString(out, e.Output)
		case e.Action == "output":
			tests[e.Test] += e.Output
		case e.Action == "skip" && e.Test != "":
			reasons[reason(tests[e.Test])]++
			delete(tests, e.Test)
		case e.Action == "pass":
			delete(tests, e.Test)
		case e.Action == "fail" && e.Test != "":
			_, _ = io.WriteString(out, tests[e.Test])
			delete(tests, e.Test)
		case e.Action == "fail": // of the package: what still ran when it ended
			for _, name := range slices.Sorted(maps.Keys(tests)) {
				_, _ = io.WriteString(out, tests[name])
			}
		}
	}
}

// reason is the last line that a skipped test logged.
func reason(output string) string {
	last := "no reason given"
	for line := range strings.Lines(output) {
		if location.MatchString(line) {
			last = strings.TrimSpace(location.ReplaceAllString(line, ""))
		}
	}
	return last
}

// summary is one line: how many tests were skipped, and why.
func summary(reasons map[string]int) string {
	var parts []string
	total := 0
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		parts = append(parts, fmt.Sprintf("%s (%d)", why, reasons[why]))
		total += reasons[why]
	}
	if total == 0 {
		return "skipped: no test"
	}
	return fmt.Sprintf("skipped: %d tests: %s", total, strings.Join(parts, "; "))
}
