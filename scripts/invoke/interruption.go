package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// interruption is the cause of a context that a signal ended.
type interruption struct{ syscall.Signal }

func (i interruption) Error() string { return "stopped by signal: " + i.String() }

// exitStatus is what a shell would show for a process that the signal ended: 130 for SIGINT, 143 for SIGTERM.
func (i interruption) exitStatus() int { return 128 + int(i.Signal) }

// untilSignal returns a context that SIGINT, SIGTERM or SIGHUP cancels with an interruption as its cause, so that the
// child, which sits in a process group of its own and does not get the terminal's signals, can be killed first. Call
// stop to release it.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		select {
		case sig := <-signals:
			cancel(interruption{sig.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	// A reader that closes our stdout ("invoke … | head -1") must end us by a write error, not by the death that would
	// leave the child behind. Ignoring the signal would be inherited by the child; catching it is not.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}
