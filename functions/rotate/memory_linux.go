package main

import "syscall"

// prSetDumpable is PR_SET_DUMPABLE of prctl(2).
const prSetDumpable = 4

// protectMemory protects the process's memory, which holds every key and token: no crash
// dumps it, whatever ulimit and GOTRACEBACK say, and no other process of the same user
// may read it. It needs no privilege.
func protectMemory() {
	_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0)
}
