//go:build !linux

package main

import "syscall"

// protectMemory sees to it that a crash leaves no core file behind.
func protectMemory() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
