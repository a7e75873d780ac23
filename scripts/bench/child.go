package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// measureChild runs a command and writes what it used to file. It passes SIGTERM
// on, with which the Lambda host ends a process.
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
	content, err := json.Marshal(usageOf(time.Since(began), process.ProcessState))
	if err != nil || os.WriteFile(file, content, 0o600) != nil {
		fmt.Fprintln(os.Stderr, "bench: writing what the command used failed")
		return 1
	}
	return 0
}
