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
	seedFlag   = flag.Uint64("seed", 1, "of the sample: another seed draws other paths")
	sampleFlag = flag.Int("sample", 220, "paths of the sample; it has more if every program needs more to meet every kind of path")
	atOnceFlag = flag.Int("at-once", 20, "paths at a time; most of them wait")
)

const notWorking = "it does not work, so little is tried"

// connectionKeys are what SSLKEYLOGFILE asks for.
var connectionKeys = regexp.MustCompile(`(?m)^CLIENT_(RANDOM|\w+_SECRET\w*) [0-9a-f]{32}`)

// attempt tries a path and returns what was found, as lines for a person, and which operations the program made, so that the
// next faults meet it there.
func attempt(ctx context.Context, p path, t tools) (hits []string, made []operation, err error) {
	s, err := newStage(t, p)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	parts, err := s.run(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p, err)
	}
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	hit := func(format string, args ...any) { hits = append(hits, p.String()+": "+fmt.Sprintf(format, args...)) }
	if p.works() && (parts[0].text != "0" || s.lambda.asked > 0) && !s.lambda.answered(2) {
		hit("%s: exit status %s", notWorking, parts[0].text)
	}
	if p.misplaced != "" && p.env != nil { // what was set may name another host
		parts = slices.DeleteFunc(parts, func(part part) bool { return strings.HasPrefix(part.name, "a connection to ") })
	}
	x := newIndex(s.subjects())
	alike := []string{s.folder, "FOLDER"}
	for service := range s.servers {
		alike = append(alike, s.host(service), service)
	}
	for _, part := range append(parts, s.sent()...) {
		text := without(part.text, s.allowed(part.name))
		if connectionKeys.MatchString(text) {
			hit("a connection's keys are in %s", part.name)
		}
		if _, before := searched.LoadOrStore(strings.NewReplacer(alike...).Replace(text), true); before {
			continue
		}
		for _, found := range x.in(text) {
			hit("%s is in %s", found, part.name)
		}
	}
	return hits, s.operations(), nil
}

// searched are the texts that were searched on any path. Every path has secrets of its own, so what came out of an earlier one
// as well holds none of a later one's.
var searched sync.Map

// met are the names of the secrets that some program was given or sent, and so could have leaked.
var met sync.Map

// operations are what the program asked of whom, each once. The secrets that it met on the way are noted.
func (s *stage) operations() (made []operation) {
	for _, request := range s.cloud.Requests() {
		made = append(made, operation{request.Op, request.Identity})
	}
	var all strings.Builder
	for _, request := range s.cloud.requests {
		if request.call != "" && !strings.Contains(request.call, " ") {
			made = append(made, operation{"AWS " + request.call, "the function"})
		}
		for _, text := range request.parts {
			all.WriteString(text + "\n")
		}
	}
	for _, subject := range s.subjects() {
		if s.named[subject.name] || strings.Contains(all.String(), subject.value) {
			met.Store(subject.name, true)
		}
	}
	seen := map[operation]bool{}
	return slices.DeleteFunc(made, func(o operation) bool { again := seen[o]; seen[o] = true; return again || o.op == "" })
}

// try tries paths, some at a time, and returns what each door asked for.
func try(t *testing.T, paths []path, at tools) (hits []string, made map[string][]operation) {
	t.Helper()
	var mu sync.Mutex
	made = map[string][]operation{}
	var running sync.WaitGroup
	slots := make(chan struct{}, *atOnceFlag)
	slices.SortStableFunc(paths, func(a, b path) int { return cmp.Compare(b.waits(), a.waits()) }) // the longest begin first
	for _, p := range paths {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			found, operations, err := attempt(t.Context(), p, at)
			if err != nil { // a slow machine: once more
				found, operations, err = attempt(t.Context(), p, at)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			hits = append(hits, found...)
			made[p.door.name] = append(made[p.door.name], operations...)
		})
	}
	running.Wait()
	for name, operations := range made { // the same paths in every hunt
		slices.SortFunc(operations, func(a, b operation) int { return strings.Compare(a.op+" "+a.identity, b.op+" "+b.identity) })
		made[name] = slices.Compact(operations)
	}
	slices.Sort(hits)
	return slices.Compact(hits), made
}

func TestMain(m *testing.M) {
	flag.Parse()
	syscall.Umask(0o022) // a file is private because the program makes it so
	os.Exit(m.Run())
}

// sources of the programs.
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

// TestNothingLeaks tries a sample of the paths, in which every door is, and every kind of path at each program; or with -all each of them.
func TestNothingLeaks(t *testing.T) {
	if *mutantFlag != "" {
		t.Skip("-mutant tries mutants alone")
	}
	at := builtTools(t)
	missing := map[string]bool{} // the doors whose programs are
	for _, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			missing[d.name] = true
			programs.Need(t, d.needs...)
			missing[d.name] = false
		})
	}
	pattern := regexp.MustCompile(*onlyFlag)
	chosen := func(paths []path) []path {
		return slices.DeleteFunc(paths, func(p path) bool { return missing[p.door.name] || !pattern.MatchString(p.String()) })
	}
	first := chosen(calm())
	hits, made := try(t, first, at)
	var others []path
	for _, d := range doors {
		others = append(others, faulty(d, made[d.name])...)
	}
	others = chosen(slices.Concat(others, misplaced(), switched()))
	if !*allFlag && *onlyFlag == "" {
		others = sample(others, *sampleFlag-len(first), *seedFlag)
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

// sample draws paths until each kind of path was met at each program, and then up to n, each of another fault, switch, signal or
// shape. Those that wait long are drawn where there is no other.
func sample(paths []path, n int, seed uint64) (drawn []path) {
	dice := mathrand.New(mathrand.NewPCG(seed, 0))
	dice.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	slices.SortStableFunc(paths, func(a, b path) int { return cmp.Compare(a.waits(), b.waits()) })
	seen := map[string]bool{}
	draw := func(more bool) {
		for _, p := range paths {
			group, by := p.door.family()+": "+p.group(), "by "+p.by
			if !seen[group] || more && !seen[by] && len(drawn) < n {
				seen[group], seen[by] = true, true
				drawn = append(drawn, p)
			}
		}
	}
	draw(false)
	draw(true)
	return drawn
}
