package main

import (
	"context"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// hunter says what is searched, and how thoroughly.
type hunter struct {
	bin, scripts string         // folders of the built programs and of the shell scripts
	only         *regexp.Regexp // the paths to try, by name
	every        int            // try one path in so many; those without a fault are always tried
	workers      int            // paths at a time
}

// result is what a hunt came to.
type result struct {
	tried int
	hits  []string // sorted, each once
}

func (r *result) add(more result) {
	r.tried += more.tried
	r.hits = append(r.hits, more.hits...)
	slices.Sort(r.hits)
	r.hits = slices.Compact(r.hits)
}

// tryAll tries the paths without faults first, which tells the operations that faults can meet, and then the others.
func (h hunter) tryAll(ctx context.Context, noting string) (result, error) {
	t := tools{noting: noting}
	var err error
	if t.bin, err = filepath.Abs(h.bin); err != nil {
		return result{}, err
	}
	if t.scripts, err = filepath.Abs(h.scripts); err != nil {
		return result{}, err
	}
	var total result
	made := map[string][]operation{}
	for _, p := range calm() {
		hits, operations, err := attempt(ctx, p, t)
		if err != nil {
			return total, err
		}
		made[p.subject.name] = operations
		total.add(result{1, hits})
	}
	paths := slices.Concat(misplaced(), storedOddly(), switchedOn(), traced(), proxied(), filed(),
		wrongArguments(), events(), inputs(), kills(), awsPaths())
	for _, sub := range subjects() {
		paths = append(paths, faultPaths(sub, made[sub.name])...)
	}
	others, err := h.try(ctx, t, h.chosen(paths))
	total.add(others)
	return total, err
}

func (h hunter) chosen(paths []path) []path {
	var chosen []path
	for i, p := range paths {
		if i%h.every == 0 && h.only.MatchString(p.name()) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// try tries paths, some at a time.
func (h hunter) try(ctx context.Context, t tools, paths []path) (result, error) {
	var mu sync.Mutex
	var total result
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(h.workers)
	for _, p := range paths {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			hits, _, err := attempt(ctx, p, t)
			mu.Lock()
			defer mu.Unlock()
			total.add(result{1, hits})
			return err
		})
	}
	err := group.Wait()
	return total, err
}
