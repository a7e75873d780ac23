package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// usage is what a process took, by the operating system's own account.
type usage struct {
	Wall   time.Duration // of the process; of its last invocation, for a Lambda function
	Init   time.Duration // from the start of a Lambda function to its first poll
	CPU    time.Duration // user and system, of the process and its children
	MaxRSS int64         // bytes, of the largest single process
}

// pass is a cold pass of a Lambda function.
func (u usage) pass() time.Duration { return u.Init + u.Wall }

func (u usage) memory() string { return fmt.Sprintf("%.1f MB", float64(u.MaxRSS)/1e6) }

// median measures several times and returns the median of each figure.
func (b bencher) median(measure func() (usage, error)) (usage, error) {
	var all []usage
	for range b.runs {
		used, err := measure()
		if err != nil {
			return usage{}, err
		}
		all = append(all, used)
	}
	return medians(all), nil
}

func medians(all []usage) usage {
	return usage{
		Wall:   middle(all, func(u usage) time.Duration { return u.Wall }),
		Init:   middle(all, func(u usage) time.Duration { return u.Init }),
		CPU:    middle(all, func(u usage) time.Duration { return u.CPU }),
		MaxRSS: middle(all, func(u usage) int64 { return u.MaxRSS }),
	}
}

func middle[N time.Duration | int64](all []usage, figure func(usage) N) N {
	var figures []N
	for _, one := range all {
		figures = append(figures, figure(one))
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}

// measured runs a command to its end. Bench itself is in between, in a process that
// is small: the account of a child's memory begins with its parent's.
func (b bencher) measured(c *cloud, command ...string) (usage, error) {
	self, err := os.Executable()
	if err != nil {
		return usage{}, err
	}
	file := filepath.Join(c.folder, "usage")
	process := exec.Command(self, append([]string{"measure", file}, command...)...)
	process.Env = c.env
	if out, err := process.CombinedOutput(); err != nil {
		return usage{}, fmt.Errorf("%s: %w: %.300s", filepath.Base(command[0]), err, out)
	}
	var used usage
	return used, readJSON(file, &used)
}

// invoked delivers n events to one process of a Lambda function. Of its figures Init
// and Wall are set, Wall to the last invocation's.
func (b bencher) invoked(c *cloud, n int, command ...string) (usage, error) {
	report := filepath.Join(c.folder, "report")
	process := exec.Command(b.program("invoke"), append([]string{"-n", strconv.Itoa(n), "-report", report, "--"}, command...)...)
	process.Env = c.env
	if out, err := process.CombinedOutput(); err != nil {
		return usage{}, fmt.Errorf("invoke: %w: %.300s", err, out)
	}
	lines, err := os.ReadFile(report)
	if err != nil {
		return usage{}, err
	}
	var used usage
	for line := range bytes.Lines(lines) {
		invocation := struct {
			Init     float64 `json:"init_ms"`
			Duration float64 `json:"duration_ms"`
		}{}
		if err := json.Unmarshal(line, &invocation); err != nil {
			return usage{}, err
		}
		milliseconds := func(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
		used.Init, used.Wall = max(used.Init, milliseconds(invocation.Init)), milliseconds(invocation.Duration)
	}
	return used, nil
}

// answered is what a Lambda function has used when it has answered one event.
func (b bencher) answered(c *cloud, program string) (usage, error) {
	self, err := os.Executable()
	if err != nil {
		return usage{}, err
	}
	file := filepath.Join(c.folder, "usage")
	if _, err := b.invoked(c, 1, self, "measure", file, program); err != nil {
		return usage{}, err
	}
	var used usage
	return used, readJSON(file, &used)
}

func readJSON(file string, value any) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, value)
}

// measureChild runs a command and writes what it used to file. It passes on the
// SIGTERM with which invoke ends a Lambda function.
func measureChild(file string, command []string) int {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	process := exec.Command(command[0], command[1:]...)
	process.Stdin, process.Stdout, process.Stderr = os.Stdin, os.Stdout, os.Stderr
	began := time.Now()
	if err := process.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	go func() {
		<-terminated
		_ = process.Process.Signal(syscall.SIGTERM)
	}()
	_ = process.Wait()
	state := process.ProcessState
	used := usage{Wall: time.Since(began), CPU: state.UserTime() + state.SystemTime()}
	if resources, ok := state.SysUsage().(*syscall.Rusage); ok {
		used.MaxRSS = resources.Maxrss * 1024
	}
	content, err := json.Marshal(used)
	if err != nil || os.WriteFile(file, content, 0o600) != nil {
		fmt.Fprintln(os.Stderr, "bench: writing what the command used failed")
		return 1
	}
	return max(0, state.ExitCode()) // a signal is how a Lambda function ends
}
