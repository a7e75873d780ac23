//go:build !linux

package main

import "syscall"

// protectMemory makes sure that a crash leaves no core file.
func protectMemory() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
