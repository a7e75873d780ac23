package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"iam-token-rotator/functions/report"
)

// isTerminal reports whether a reader or writer is a terminal, at which a person sits.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// progress is the handler of a run's log at a terminal. It shows the attempts that failed and,
// every second, the time left.
type progress struct {
	slog.Handler // for WithAttrs and WithGroup, which no run uses
	w            io.Writer
	deadline     time.Time

	mu      sync.Mutex
	waiting bool // the last line shows the time left
}

// showProgress returns the log to run with. end removes the line with the time left.
func showProgress(w io.Writer, timeout time.Duration) (log *slog.Logger, end func()) {
	p := &progress{Handler: slog.DiscardHandler, w: w, deadline: time.Now().Add(timeout)}
	done := make(chan struct{})
	var ticking sync.WaitGroup
	ticking.Go(func() {
		ticks := time.NewTicker(time.Second)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
				p.print("", true)
			case <-done:
				p.print("", false)
				return
			}
		}
	})
	return slog.New(p), func() { close(done); ticking.Wait() }
}

// print replaces the line with the time left by text and, if wait is true, a new such line.
func (p *progress) print(text string, wait bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const beginningOfLine, clearLine = "\r", "\x1b[K"
	if p.waiting {
		text = beginningOfLine + clearLine + text
	}
	if wait {
		text += fmt.Sprintf("working, %s left", max(0, time.Until(p.deadline)).Round(time.Second))
	}
	p.waiting = wait
	_, _ = io.WriteString(p.w, text)
}

// Enabled implements slog.Handler.
func (p *progress) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler. It shows failed attempts alone, since the report shows the results.
func (p *progress) Handle(_ context.Context, record slog.Record) error {
	of := map[string]slog.Value{}
	record.Attrs(func(attr slog.Attr) bool {
		of[attr.Key] = attr.Value
		return true
	})
	wait, failed := of["wait_ms"]
	if !failed {
		return nil
	}
	next := (time.Duration(wait.Int64()) * time.Millisecond).Round(100 * time.Millisecond)
	text := fmt.Sprintf("%s: attempt %s failed, the next is in %s: %s", of["rotation"], of["attempt"], next, of["error"])
	p.mu.Lock()
	waiting := p.waiting
	p.mu.Unlock()
	p.print(report.Printable(text)+"\n", waiting)
	return nil
}
