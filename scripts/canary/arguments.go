package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// argumentWatch reads, while a program runs, the command lines of it and of all its children from /proc, where everybody on
// the machine can read them.
type argumentWatch struct {
	stop chan struct{}
	done chan []byte
}

func watchArguments(pid int) argumentWatch {
	w := argumentWatch{make(chan struct{}), make(chan []byte, 1)}
	go func() {
		seen := map[string]bool{}
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, member := range family(pid) {
				if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", member)); err == nil {
					seen[string(line)] = true
				}
			}
			select {
			case <-tick.C:
			case <-w.stop:
				var all bytes.Buffer
				for line := range seen {
					all.WriteString(line + "\n")
				}
				w.done <- all.Bytes()
				return
			}
		}
	}()
	return w
}

// end returns the command lines, one a line.
func (w argumentWatch) end() []byte {
	close(w.stop)
	return <-w.done
}

// family is the process and its descendants. Where the kernel does not tell children it is the process alone.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", all[i], all[i]))
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(children)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// signalAll sends a signal to the program and its children, as a terminal does.
func signalAll(pid int, signal syscall.Signal) {
	for _, member := range family(pid) {
		_ = syscall.Kill(member, signal)
	}
}
