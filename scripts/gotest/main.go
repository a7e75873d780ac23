// Command gotest runs `go test` for several groups of arguments, all groups at once. Like go test it prints a line
// for each package, and the output of failed tests. Its last line says how many tests were skipped, and why.
//
//	gotest -race ./functions/... -- ./infra/... ./scripts/...
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
)

func main() {
	r := results{out: os.Stdout, skipped: map[string]int{}}
	r.run(os.Args[1:])
	fmt.Println(r.summary())
	if r.failed {
		os.Exit(1)
	}
}

// results collects the results of all groups.
type results struct {
	mu      sync.Mutex
	out     io.Writer
	skipped map[string]int // tests by reason
	failed  bool
}

// run runs the groups, which "--" separates. They run at once, because many tests wait.
func (r *results) run(args []string) {
	var running sync.WaitGroup
	for more := true; more; {
		var group []string
		i := slices.Index(append(args, "--"), "--")
		group, more = args[:i], i < len(args)
		running.Go(func() { r.test(group) })
		args = args[min(i+1, len(args)):]
	}
	running.Wait()
}

func (r *results) test(group []string) {
	command := append(strings.Fields(cmp.Or(os.Getenv("GO"), "go")), "test", "-json")
	test := exec.Command(command[0], append(command[1:], group...)...) // #nosec G204 -- the Makefile's arguments
	test.Stderr = os.Stderr
	events, err := test.StdoutPipe()
	if err == nil {
		err = test.Start()
	}
	if err == nil {
		r.relay(events)
		err = test.Wait()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	r.failed = r.failed || err != nil
}

// event is a line of `go test -json`, as cmd/test2json documents it.
type event struct{ Action, Package, Test, Output string }

// location matches the file and line in front of what a test logs.
var location = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// relay prints the lines of packages and the output of failed tests, and counts the skipped tests.
func (r *results) relay(events io.Reader) {
	pending := map[string]map[string]string{} // output of the tests that still run, by package and test
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		e := event{Action: "build-output", Output: lines.Text() + "\n"} // if the line is not JSON
		_ = json.Unmarshal(lines.Bytes(), &e)
		if pending[e.Package] == nil {
			pending[e.Package] = map[string]string{}
		}
		r.add(e, pending[e.Package])
	}
}

func (r *results) add(e event, tests map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case e.Action == "build-output", e.Action == "output" && e.Test == "" && e.Output != "PASS\n":
		_, _ = io.WriteString(r.out, e.Output)
	case e.Action == "output":
		tests[e.Test] += e.Output
	case e.Action == "fail" && e.Test == "": // the package failed: print the output of tests that did not end
		for _, name := range slices.Sorted(maps.Keys(tests)) {
			_, _ = io.WriteString(r.out, tests[name])
		}
	case e.Action == "skip" && e.Test != "":
		r.skipped[reason(tests[e.Test])]++
		delete(tests, e.Test)
	case e.Action == "fail":
		_, _ = io.WriteString(r.out, tests[e.Test])
		delete(tests, e.Test)
	case e.Action == "pass":
		delete(tests, e.Test)
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
func (r *results) summary() string {
	var parts []string
	total := 0
	for _, why := range slices.Sorted(maps.Keys(r.skipped)) {
		parts = append(parts, fmt.Sprintf("%s (%d)", why, r.skipped[why]))
		total += r.skipped[why]
	}
	if total == 0 {
		return "skipped: no test"
	}
	return fmt.Sprintf("skipped: %d tests: %s", total, strings.Join(parts, "; "))
}
