package readmetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
)

const (
	stageLimit  = 3 * time.Minute // for the commands of a stage
	serverLimit = time.Minute     // for a server to be ready, its programs built
	atATime     = "4"             // tests in parallel: they mostly wait for programs
)

// notRun are command lines that are left out, with the reason.
var notRun = map[string]string{
	"make test":                             "it runs these tests",
	"make check":                            "make test runs it",
	"make run && make examples":             ".ci/run runs both; the page README.md has the first, and the jobs of the other wait for minutes",
	"go test ./functions/internal/rotation": "make test runs it",
}

// runnable is the text without the lines that are not run; they leave an empty line.
func (b *block) runnable() string {
	var text strings.Builder
	for line := range strings.Lines(b.text) {
		command, _, _ := strings.Cut(line, " #")
		if notRun[strings.TrimSpace(command)] != "" {
			line = "\n"
		}
		text.WriteString(line)
	}
	return text.String()
}

func TestNotRunIsNeeded(t *testing.T) {
	var all string
	for _, b := range blocks(t, "sh") {
		all += b.text
	}
	for line := range notRun {
		if !strings.Contains(all, line) {
			t.Errorf("notRun: no page has the line %q", line)
		}
	}
}

// TestEveryCommandRuns runs the pages, stage by stage.
func TestEveryCommandRuns(t *testing.T) {
	t.Parallel()
	_ = programsFolder(t) // built before the clock of any stage runs
	for _, name := range stageNames() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runStage(t, name)
		})
	}
}

func runStage(t *testing.T, name string) {
	stage := stages[name]
	programs.Need(t, append([]string{"sh", "go", "make"}, stage.needs...)...)
	w := newWorld(t)
	if stage.prepare != nil {
		stage.prepare(w)
	}
	var commands []*block
	for _, b := range blocks(t, "sh") {
		switch {
		case b.purpose != name:
		case b.server:
			w.serve(b)
		default:
			commands = append(commands, b)
		}
	}
	w.play(commands, stage.dir)
	w.checkSamples(commands)
}

// play runs blocks in one shell, in a folder of the copy. The shell ends with the first command that fails.
func (w *world) play(commands []*block, dir string) {
	w.t.Helper()
	out := w.t.TempDir()
	file := func(i int, kind string) string { return filepath.Join(out, fmt.Sprint(i, ".", kind)) }
	script := "set -eu\n"
	for i, b := range commands {
		// set -e ignores what fails before the last && of a list.
		script += fmt.Sprintf("exec >'%s' 2>'%s'\n%s\n[ $? = 0 ]\n", file(i, "out"), file(i, "err"), b.runnable())
		for _, exported := range exportShape.FindAllStringSubmatch(b.text, -1) {
			script += fmt.Sprintf("[ -n \"$%s\" ] || { echo '%s is empty' >&2; exit 1; }\n", exported[1], exported[1])
		}
		script += fmt.Sprintf(": >'%s'\n", file(i, "done"))
	}
	writeFile(w.t, filepath.Join(out, "script"), script)
	ctx, cancel := context.WithTimeout(w.t.Context(), stageLimit)
	defer cancel()
	shell := w.shell(ctx, filepath.Join(out, "script"))
	shell.Dir, shell.Stdin = filepath.Join(w.dir, dir), strings.NewReader(w.answers)
	err := shell.Run()
	for i, b := range commands {
		printed, _ := os.ReadFile(file(i, "out"))
		w.printed[b] = string(printed)
		if _, unfinished := os.Stat(file(i, "done")); unfinished != nil {
			complaint, _ := os.ReadFile(file(i, "err"))
			w.t.Fatalf("%s: these commands failed (%v):\n%s\nthey printed:\n%s%s", b.where, err, b.text, scrub(string(printed)), scrub(string(complaint)))
		}
	}
	if err != nil {
		w.t.Fatalf("the shell: %v", err)
	}
}

// exportShape is an export of what a command prints, which succeeds whether the command does or not.
var exportShape = regexp.MustCompile(`(?m)^export (\w+)="\$\(`)

// shell has the world's environment. Cancelled, it ends with all that it has started.
func (w *world) shell(ctx context.Context, args ...string) *exec.Cmd {
	shell := exec.CommandContext(ctx, "sh", args...)
	shell.Dir, shell.Env = w.dir, programs.Environ(w.env)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) }
	shell.WaitDelay = 10 * time.Second
	return shell
}

// readyFile is the file that shows that a server is ready.
var readyFile = map[string]string{"make sandbox": "build/sandbox.env", "make aws-sandbox": "build/aws.env"}

// serve runs a block until the test ends, and returns when it is ready.
func (w *world) serve(b *block) {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	server := w.shell(ctx, "-euc", b.runnable())
	var printed strings.Builder
	server.Stdout, server.Stderr = &printed, &printed
	if err := server.Start(); err != nil {
		w.t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		stop()
		_ = server.Wait()
	})
	w.t.Cleanup(end)
	if _, err := envfile.Await(w.t.Context(), filepath.Join(w.dir, readyFile[strings.TrimSpace(b.text)]), serverLimit); err != nil {
		end()
		w.t.Fatalf("%s: %v; it printed:\n%s", b.where, err, scrub(printed.String()))
	}
}

// secretShape is a token, or a run of characters as long as an API key.
var secretShape = regexp.MustCompile(`eyJ[\w-]{10,}[\w.-]*|\b[A-Za-z0-9_-]{44}\b`)

// scrub removes from a text what may be secret, for the test's own log.
func scrub(text string) string { return secretShape.ReplaceAllString(text, "[secret]") }

// masks replace what differs from run to run, in the sample and in what is printed.
var masks = []struct {
	shape *regexp.Regexp
	mask  string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`), "<time>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d`), "<day>"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "<account>"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "<fingerprint>"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(`port \d+`), "<port>"},
	{regexp.MustCompile(`\d+ bytes`), "<bytes>"},
	{regexp.MustCompile(`https?://(…[^\s']*|<address>)`), "<origin>"},
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+s\b`), "<while>"},
	{regexp.MustCompile(`(:secret:[\w/-]+)-\w{6}\b`), "$1-<random>"},
}

func masked(text string) []string {
	for _, m := range masks {
		text = m.shape.ReplaceAllString(text, m.mask)
	}
	return strings.Split(strings.TrimRight(text, "\n"), "\n")
}

// difference between a sample and what was printed, empty if there is none. In the sample … matches
// anything within a line, and alone any lines.
func difference(sample, printed string) string {
	got, gap := masked(printed), false
	for _, line := range masked(sample) {
		if line == "…" {
			gap = true
			continue
		}
		shape := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "$")
		at := 0
		for gap && at < len(got) && !shape.MatchString(got[at]) {
			at++
		}
		if at >= len(got) || !shape.MatchString(got[at]) {
			return "it has the line\n  " + line + "\nwhere the command prints\n  " + strings.Join(got, "\n  ")
		}
		got, gap = got[at+1:], false
	}
	if len(got) > 0 && !gap {
		return "the command also prints\n  " + strings.Join(got, "\n  ")
	}
	return ""
}

func TestDifference(t *testing.T) {
	for _, test := range []struct {
		sample, printed string
		same            bool
	}{
		{"a\nb", "a\nb\n", true},
		{"a\n…\nd", "a\nb\nc\nd\n", true},
		{"a\n…", "a\n", true},
		{"…\nb", "a\nb\nc\n", false},
		{"a…c", "abbc\n", true},
		{"a", "a\nb\n", false},
		{"a\nb", "a\n", false},
		{"a.c", "abc\n", false},
		{"in 59m59s at 2026-11-23T20:02:46Z", "in 1h0m0s at 2027-01-01T00:00:00.123Z\n", true},
		{"in 59m59s", "in time\n", false},
	} {
		if got := difference(test.sample, test.printed); (got == "") != test.same {
			t.Errorf("%q and %q: got %q, want them the same: %t", test.sample, test.printed, got, test.same)
		}
	}
}

// checkSamples compares what the blocks printed with the samples below them.
func (w *world) checkSamples(commands []*block) {
	w.t.Helper()
	for _, b := range commands {
		var last *block
		for _, sample := range b.page.blocks {
			if sample.language == "sh" {
				last = sample
			}
			if sample.language == "text" && sample.purpose == "output" && last == b {
				if d := difference(sample.text, w.printed[b]); d != "" {
					w.t.Errorf("%s: this sample is not what %s prints: %s", sample.where, b.where, scrub(d))
				}
			}
		}
	}
}

func TestEverySampleFollowsItsCommand(t *testing.T) {
	for _, p := range allPages(t) {
		var last *block
		for _, b := range p.blocks {
			if b.language == "sh" {
				last = b
			}
			if b.language == "text" && b.purpose == "output" && (last == nil || last.section != b.section || last.server) {
				t.Errorf("%s: no command stands above this output in its section", b.where)
			}
		}
	}
}

// Where a file that a block reads is missing, an interactive shell goes on with the next line, and would do
// there what it does in an account that is not meant: nothing may be called.
func TestNothingRunsWithoutTheFileOfVariables(t *testing.T) {
	t.Parallel()
	bash, tried := programs.Path(t, "bash"), 0
	for _, b := range blocks(t, "sh") {
		reads, makesIt := strings.Contains(b.text, ". build/"), strings.Contains(b.text, "--env build/")
		if !reads || makesIt || b.purpose == "sandbox" {
			continue
		}
		tried++
		dir := t.TempDir()
		log := filepath.Join(dir, "called")
		for _, program := range []string{"bin/make", "bin/aws", "bin/ibmcloud", "bin/terraform", "build/local/rotatorctl"} {
			writeFile(t, filepath.Join(dir, program), "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>'"+log+"'\n")
			if err := os.Chmod(filepath.Join(dir, program), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		env := []string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + dir}
		programs.Run(t, programs.Command{Dir: dir, Env: env, Stdin: b.text, Name: bash, Args: []string{"--norc", "--noprofile", "-i"}})
		if called, _ := os.ReadFile(log); len(called) > 0 {
			t.Errorf("%s: without its file it calls %s", b.where, called)
		}
	}
	if tried < 2 {
		t.Errorf("only %d blocks read a file of variables: does the test still find them?", tried)
	}
}
