package main

import (
	"syscall"
	"testing"
)

func TestNoOtherProcessMayReadTheMemory(t *testing.T) {
	dumpable := func() uintptr {
		const prGetDumpable = 3
		value, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prGetDumpable, 0, 0)
		if errno != 0 {
			t.Fatal(errno)
		}
		return value
	}
	before := dumpable()
	defer func() { _, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, before, 0) }()
	protectMemory()
	if got := dumpable(); before != 1 || got != 0 {
		t.Errorf("got dumpable %d, then %d; want 1, then 0", before, got)
	}
}
