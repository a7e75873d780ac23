package main

import "syscall"

// dumpNoCore sees to it that a crash leaves no core file behind, whatever the limit
// of the surroundings and GOTRACEBACK: it would hold every key and token in memory.
// Lowering a limit needs no right.
func dumpNoCore() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
