// Command canary looks for leaks. It seeds keys and tokens, runs the built function and the shell scripts through every
// fault, error, log level, debug switch and kill that it knows, and searches everything that came out for the seeds.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

func main() {
	bin := flag.String("bin", "build/local", "folder of the built bootstrap and invoke")
	scripts := flag.String("scripts", "scripts", "folder of the shell scripts")
	every := flag.Int("every", 1, "try one path in so many")
	only := flag.String("only", "", "try paths whose name matches this regular expression alone")
	workers := flag.Int("workers", 4, "paths at a time")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		os.Exit(unable(os.Stderr, err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(hunt(ctx, hunter{bin: *bin, scripts: *scripts, only: pattern, every: *every, workers: *workers}, os.Stdout))
}

// hunt tries the paths and returns the exit status: 0 if nothing was found, 1 if something was, 2 if it could not hunt.
func hunt(ctx context.Context, h hunter, out io.Writer) int {
	noting, err := os.MkdirTemp("", "canary-noting-")
	if err != nil {
		return unable(out, err)
	}
	defer func() { _ = os.RemoveAll(noting) }()
	if err := writeNoting(noting); err != nil {
		return unable(out, err)
	}
	result, err := h.tryAll(ctx, noting)
	if err != nil {
		return unable(out, err)
	}
	for _, hit := range result.hits {
		_, _ = fmt.Fprintln(out, hit)
	}
	_, _ = fmt.Fprintf(out, "canary: %d paths tried, %d hits\n", result.tried, len(result.hits))
	if len(result.hits) > 0 {
		return 1
	}
	return 0
}

func unable(out io.Writer, err error) int {
	_, _ = fmt.Fprintln(out, "canary:", err)
	return 2
}
