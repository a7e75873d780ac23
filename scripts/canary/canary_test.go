package canary

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"iam-token-rotator/scripts/programs"
)

var (
	allFlag    = flag.Bool("all", false, "try every path, and every mutant")
	onlyFlag   = flag.String("only", "", "try the paths whose name matches this regular expression, and no mutants")
	mutantFlag = flag.String("mutant", "", "try the mutants whose name matches this regular expression, and no paths")
)

const (
	sampleSize = 220 // paths; more if every program needs more to meet every kind of path
	atOnce     = 20  // paths at a time; most of them wait
	notWorking = "it does not work, so little is tried"
)

// connectionKeys are the TLS keys that a program writes into the file of SSLKEYLOGFILE.
var connectionKeys = regexp.MustCompile(`(?m)^CLIENT_(RANDOM|\w+_SECRET\w*) [0-9a-f]{32}`)

// attempt runs a path. It returns the leaks, a line for each, and the operations that the program called: faults at these follow.
func attempt(ctx context.Context, p path, t tools) (hits []string, made []operation, err error) {
	f, err := newFixture(t, p)
	if err != nil {
		return nil, nil, err
	}
	defer f.close()
	parts, err := f.run(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p, err)
	}
	f.cloud.mu.Lock()
	defer f.cloud.mu.Unlock()
	hit := func(format string, args ...any) { hits = append(hits, p.String()+": "+fmt.Sprintf(format, args...)) }
	if p.works() && (parts[0].text != "0" || f.lambda.asked > 0) && f.lambda.answered != 2 {
		hit("%s: exit status %s", notWorking, parts[0].text)
	}
	if p.misplaced != "" && p.env != nil { // the misplaced variable may name another host
		parts = slices.DeleteFunc(parts, func(part part) bool { return strings.HasPrefix(part.name, "a connection to ") })
	}
	x := newIndex(f.subjects())
	differing := []string{f.folder, "FOLDER"} // what alone differs between many texts
	for service := range f.servers {
		differing = append(differing, f.host(service), service)
	}
	for _, part := range append(parts, f.sent()...) {
		text := without(part.text, f.allowed(part.name))
		if connectionKeys.MatchString(text) {
			hit("a connection's keys are in %s", part.name)
		}
		if _, before := searched.LoadOrStore(strings.NewReplacer(differing...).Replace(text), true); before {
			continue
		}
		for _, found := range x.in(text) {
			hit("%s is in %s", found, part.name)
		}
	}
	return hits, f.operations(), nil
}

// searched has the texts that were searched on any path. Each path has its own secrets, so a text that came out of an earlier path
// holds none of them.
var searched sync.Map

// met are the names of the secrets that some program was given or sent, and so could have leaked.
var met sync.Map

// operations are those that the program called. The secrets that it was given or sent are stored in met.
func (f *fixture) operations() (made []operation) {
	for _, request := range f.cloud.Requests() {
		made = append(made, operation{request.Op, request.Identity})
	}
	var all strings.Builder
	for _, request := range f.cloud.requests {
		if request.call != "" && !strings.Contains(request.call, " ") {
			made = append(made, operation{"AWS " + request.call, "the function"})
		}
		for _, text := range request.parts {
			all.WriteString(text + "\n")
		}
	}
	for _, subject := range f.subjects() {
		if f.named[subject.name] || strings.Contains(all.String(), subject.value) {
			met.Store(subject.name, true)
		}
	}
	return slices.DeleteFunc(made, func(o operation) bool { return o.op == "" })
}

// try runs paths, some at a time, and returns the leaks and the operations that each program called.
func try(t *testing.T, paths []path, at tools) (hits []string, made map[string][]operation) {
	t.Helper()
	var mu sync.Mutex
	made = map[string][]operation{}
	var running sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	slices.SortStableFunc(paths, func(a, b path) int { return cmp.Compare(b.waits(), a.waits()) }) // the longest begin first
	for _, p := range paths {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			found, operations, err := attempt(t.Context(), p, at)
			if err != nil { // retried once: the machine may be slow
				found, operations, err = attempt(t.Context(), p, at)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			hits = append(hits, found...)
			made[p.program.name] = append(made[p.program.name], operations...)
		})
	}
	running.Wait()
	for name, operations := range made { // sorted, so that every run tries the same paths
		slices.SortFunc(operations, func(a, b operation) int { return strings.Compare(a.op+" "+a.identity, b.op+" "+b.identity) })
		made[name] = slices.Compact(operations)
	}
	slices.Sort(hits)
	return slices.Compact(hits), made
}

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(400) // the search makes many short texts
	syscall.Umask(0o022)    // a file is private because the program makes it so
	os.Exit(m.Run())
}

// sources has the folder of each program's source.
var sources = map[string]string{"rotate": "functions/rotate", "reader": "scripts/canary/reader", "rotatorctl": "scripts/rotatorctl"}

func builtTools(t *testing.T) tools {
	t.Helper()
	if strace() == "" {
		programs.Missing(t, "strace is not installed, or may not trace")
	}
	at := tools{bin: t.TempDir()}
	scripts, err := filepath.Abs("..")
	if err == nil {
		at.scripts, err = scripts, programs.Build(at.bin, sources)
	}
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestNothingLeaks tries a sample of the paths, with every class of path at every program, or with -all each path.
func TestNothingLeaks(t *testing.T) {
	if *mutantFlag != "" {
		t.Skip("-mutant tries mutants alone")
	}
	at := builtTools(t)
	missing := map[string]bool{} // by the name of a program, of which something is not installed
	for _, prog := range allPrograms {
		t.Run(prog.name, func(t *testing.T) {
			missing[prog.name] = true
			programs.Need(t, prog.needs...)
			missing[prog.name] = false
		})
	}
	pattern := regexp.MustCompile(*onlyFlag)
	chosen := func(paths []path) []path {
		return slices.DeleteFunc(paths, func(p path) bool { return missing[p.program.name] || !pattern.MatchString(p.String()) })
	}
	first := chosen(calm())
	hits, made := try(t, first, at)
	var others []path
	for _, prog := range allPrograms {
		others = append(others, faulty(prog, made[prog.name])...)
	}
	others = chosen(slices.Concat(others, misplaced(), switched()))
	if !*allFlag && *onlyFlag == "" {
		others = sample(others, sampleSize-len(first))
	}
	more, _ := try(t, others, at)
	for _, hit := range append(hits, more...) {
		t.Error(hit)
	}
	if *onlyFlag == "" {
		for name := range strings.SplitSeq("bootstrap,workload,second,renewed,reader,admin,aws,session,proxy,cr,old,readers,given,an issued token,a key that was made", ",") {
			if _, ok := met.Load(name); !ok {
				t.Errorf("no program was given or sent %s", name)
			}
		}
	}
	t.Logf("canary: %d paths tried, %d hits", len(first)+len(others), len(hits)+len(more))
}

// sample draws a path of each group for each program. Then it draws up to n paths in all, each with another fault, switch, signal
// or shape. A path that takes long is drawn only if there is no other.
func sample(paths []path, n int) (drawn []path) {
	dice := mathrand.New(mathrand.NewPCG(1, 0))
	dice.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	slices.SortStableFunc(paths, func(a, b path) int { return cmp.Compare(a.waits(), b.waits()) })
	seen := map[string]bool{}
	draw := func(more bool) {
		for _, p := range paths {
			group, detail := p.program.family()+": "+p.group(), "detail "+p.detail
			if !seen[group] || more && !seen[detail] && len(drawn) < n {
				seen[group], seen[detail] = true, true
				drawn = append(drawn, p)
			}
		}
	}
	draw(false)
	draw(true)
	return drawn
}
