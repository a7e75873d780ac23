package readmetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
)

const (
	// patience is how long the commands of a stage may take.
	patience = 3 * time.Minute
	// serverPatience is how long a server may take to be ready, its programs built.
	serverPatience = time.Minute
)

// play starts the servers of a stage and runs its other blocks in one shell, in a folder of the copy.
func (w *world) play(blocks []*block, dir string) {
	w.t.Helper()
	var commands []*block
	for _, b := range blocks {
		if slices.Contains(b.words, "server") {
			w.serve(b)
		} else {
			commands = append(commands, b)
		}
	}
	out := w.t.TempDir()
	script := filepath.Join(out, "script")
	w.write(script, scriptOf(commands, out))
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	shell := w.command(ctx, script)
	shell.Dir = filepath.Join(w.dir, dir)
	err := shell.Run()
	for i, b := range commands {
		printed, _ := os.ReadFile(filepath.Join(out, fmt.Sprint(i, ".out")))
		w.printed[b] = string(printed)
		if _, undone := os.Stat(filepath.Join(out, fmt.Sprint(i, ".done"))); undone != nil {
			complaint, _ := os.ReadFile(filepath.Join(out, fmt.Sprint(i, ".err")))
			w.t.Fatalf("%s: these commands failed (%v):\n%s\nthey printed:\n%s%s", b.where(), err, b.text, scrub(string(printed)), scrub(string(complaint)))
		}
	}
	if err != nil {
		w.t.Fatalf("the shell: %v", err)
	}
}

// scriptOf is the blocks as one script for sh, which ends with the first command that fails and leaves
// what each block prints in files of out.
func scriptOf(blocks []*block, out string) string {
	text := "set -eu\n"
	for i, b := range blocks {
		text += fmt.Sprintf("exec >'%s/%d.out' 2>'%s/%d.err'\n%s\n", out, i, out, i, b.runnable())
		for _, exported := range exportShape.FindAllStringSubmatch(b.text, -1) {
			text += fmt.Sprintf("[ -n \"$%s\" ] || { echo '%s is empty' >&2; exit 1; }\n", exported[1], exported[1])
		}
		text += fmt.Sprintf(": >'%s/%d.done'\n", out, i)
	}
	return text
}

// exportShape is an export of what a command prints. It succeeds whether the command does or not.
var exportShape = regexp.MustCompile(`(?m)^export (\w+)="\$\(`)

// command is a shell with the world's environment. Cancelled, it ends with all that it has started.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	shell := exec.CommandContext(ctx, "sh", args...)
	shell.Dir, shell.Env = w.dir, programs.Environ(w.env)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) }
	shell.WaitDelay = 10 * time.Second
	return shell
}

// serve runs a block in a terminal of its own until the test ends, and returns when it is ready.
func (w *world) serve(b *block) {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	server := w.command(ctx, "-euc", b.runnable())
	var printed strings.Builder
	server.Stdout, server.Stderr = &printed, &printed
	if err := server.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		stop()
		_ = server.Wait()
	})
	if _, err := envfile.Await(w.t.Context(), filepath.Join(w.dir, ready[strings.TrimSpace(b.text)]), serverPatience); err != nil {
		stop()
		_ = server.Wait()
		w.t.Fatalf("%s: %v; it printed:\n%s", b.where(), err, scrub(printed.String()))
	}
}

// secretShape is a token, or a run of characters as long as an API key.
var secretShape = regexp.MustCompile(`eyJ[\w-]{10,}[\w.-]*|\b[A-Za-z0-9_-]{44}\b`)

// scrub takes out of a text what may be secret, for the test's own log.
func scrub(text string) string { return secretShape.ReplaceAllString(text, "[secret]") }
