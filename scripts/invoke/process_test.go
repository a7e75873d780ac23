package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestLastWordsOfAnIdleProcessAreKept(t *testing.T) {
	t.Parallel()
	got := runInvoke(t, "", with("last-words")...)
	if got.code != exitOK {
		t.Errorf("got exit status %d, want 0", got.code)
	}
	if want := strings.Repeat(".", 1<<20) + "farewell\n"; !strings.HasSuffix(got.stderr, want) {
		t.Errorf("got %d bytes of stderr, want the %d that the function wrote on SIGTERM", len(got.stderr), len(want))
	}
}

func TestProcessThatIgnoresSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	start := time.Now()
	got := runInvoke(t, "", with("ignore-sigterm")...)
	if got.code != exitOK {
		t.Errorf("got exit status %d, want 0", got.code)
	}
	if took := time.Since(start); took < stopGrace {
		t.Errorf("got an end after %v, want the process to have had %v to end by itself", took, stopGrace)
	}
}

// startInvoke starts this program as a process and returns it with a pipe that all it starts writes to, too. The pipe
// ends when the last of them has.
func startInvoke(t *testing.T, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	cmd := exec.Command(os.Args[0], append([]string{"invoke"}, args...)...)
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	return cmd, bufio.NewReader(read)
}

// exitStatus waits for cmd to end. It is -1 when a signal ended it.
func exitStatus(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestSignalLeavesNoProcessBehind(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd, stderr := startInvoke(t, with("family")...)
			if line, err := stderr.ReadString('\n'); line != "asleep\n" {
				t.Fatalf("got the first line %q (%v), want that of the function's child", line, err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			// It ends only when the function and its child have ended too; else the test times out here.
			rest, err := io.ReadAll(stderr)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("invoke: stopped by signal: %v\n", sig); string(rest) != want {
				t.Errorf("got the stderr %q, want %q", rest, want)
			}
			if got, want := exitStatus(t, cmd), 128+int(sig); got != want {
				t.Errorf("got exit status %d, want %d", got, want)
			}
		})
	}
}

func TestWhatAnExitedFunctionLeftRunningIsKilled(t *testing.T) {
	t.Parallel()
	cmd, stderr := startInvoke(t, with("leave-family")...)
	if _, err := io.ReadAll(stderr); err != nil { // see TestSignalLeavesNoProcessBehind
		t.Fatal(err)
	}
	if got := exitStatus(t, cmd); got != exitFailed {
		t.Errorf("got exit status %d, want %d", got, exitFailed)
	}
}

func TestClosedStdoutLeavesNoProcessBehind(t *testing.T) {
	t.Parallel()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	cmd := exec.Command(os.Args[0], append([]string{"invoke"}, with("look", "-n", "5")...)...)
	cmd.Stdout = write
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(stderr) // see TestSignalLeavesNoProcessBehind
	if err != nil {
		t.Fatal(err)
	}
	if want := "invoke: writing the answer to stdout: "; !strings.HasPrefix(string(said), want) {
		t.Errorf("got the stderr %q, want it to begin with %q", said, want)
	}
	if got := exitStatus(t, cmd); got != exitUsage {
		t.Errorf("got exit status %d, want %d", got, exitUsage)
	}
}
