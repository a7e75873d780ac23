package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
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

// usage is what a process used, as the operating system reports it.
type usage struct {
	Wall   time.Duration // of the process, or of the last invocation of a Lambda function
	Init   time.Duration // from the start of a Lambda function to its first poll
	CPU    time.Duration // user and system, of the process and its children
	MaxRSS int64         // bytes, of the largest single process
}

func (u usage) memory() string { return fmt.Sprintf("%.1f MB", float64(u.MaxRSS)/1e6) }

// median measures several times and returns the median of each figure.
func (b bencher) median(runs int, measure func() (usage, error)) (usage, error) {
	var all []usage
	for range runs {
		used, err := measure()
		if err != nil {
			return usage{}, err
		}
		all = append(all, used)
	}
	return medians(all), nil
}

func medians(all []usage) (middle usage) {
	for _, figure := range []func(*usage) *int64{
		func(u *usage) *int64 { return (*int64)(&u.Wall) }, func(u *usage) *int64 { return (*int64)(&u.Init) },
		func(u *usage) *int64 { return (*int64)(&u.CPU) }, func(u *usage) *int64 { return &u.MaxRSS },
	} {
		slices.SortFunc(all, func(a, b usage) int { return cmp.Compare(*figure(&a), *figure(&b)) })
		*figure(&middle) = *figure(&all[len(all)/2])
	}
	return middle
}

// measured runs a command to its end. A second, small process of bench starts the command, because the
// maximum that the system reports for a child includes the memory of its parent at the fork.
func (b bencher) measured(c *cloud, command ...string) (used usage, err error) {
	err = b.start(c, append(b.measuring(c), command...)...)
	if err == nil {
		err = readJSON(filepath.Join(c.folder, "usage"), &used)
	}
	return used, err
}

// measuring is the command line in front of a command that is measured; see measureChild.
func (b bencher) measuring(c *cloud) []string {
	return []string{b.program("bench"), "measure", filepath.Join(c.folder, "usage")}
}

func (b bencher) start(c *cloud, command ...string) error {
	process := exec.Command(command[0], command[1:]...)
	process.Env = c.env
	if out, err := process.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.300s", filepath.Base(command[0]), err, out)
	}
	return nil
}

// invoked delivers n events to one process of a Lambda function. It sets Init, and Wall to the time of the
// last invocation.
func (b bencher) invoked(c *cloud, n int, command ...string) (used usage, err error) {
	report := filepath.Join(c.folder, "report")
	if err := b.start(c, append([]string{b.program("invoke"), "-n", strconv.Itoa(n), "-report", report, "--"}, command...)...); err != nil {
		return usage{}, err
	}
	lines, err := os.ReadFile(report)
	for line := range bytes.Lines(lines) {
		invocation := struct {
			Init     float64 `json:"init_ms"`
			Duration float64 `json:"duration_ms"`
		}{}
		err = errors.Join(err, json.Unmarshal(line, &invocation))
		used.Init = max(used.Init, time.Duration(invocation.Init*float64(time.Millisecond)))
		used.Wall = time.Duration(invocation.Duration * float64(time.Millisecond))
	}
	return used, err
}

// answered is what a Lambda function has used in all when it has answered n events.
func (b bencher) answered(c *cloud, n int, command ...string) (used usage, err error) {
	if _, err := b.invoked(c, n, append(b.measuring(c), command...)...); err != nil {
		return usage{}, err
	}
	return used, readJSON(filepath.Join(c.folder, "usage"), &used)
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
