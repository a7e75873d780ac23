package main

import "syscall"

// prSetDumpable is PR_SET_DUMPABLE of prctl(2).
const prSetDumpable = 4

// protectMemory makes sure that the process's memory, which holds every key and
// token, is neither dumped by a crash, whatever the limit of the surroundings and
// GOTRACEBACK, nor read by another process of the same user. It needs no right.
func protectMemory() {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0)
}
