package main

import (
	"iter"
	"maps"
	"slices"

	"iam-token-rotator/functions/ibmcloudtest"
)

// operation is something that a program asked of the cloud, and as whom.
type operation struct{ op, identity string }

// operations are those of the requests, each once, in the order in which they were first made.
func operations(requests []ibmcloudtest.Request) []operation {
	var all []operation
	for _, request := range requests {
		o := operation{request.Op, request.Identity}
		if o.op != "" && !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	return all
}

// inOrder goes through a map in the order of its keys: the same paths in every hunt.
func inOrder[V any](all map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if !yield(key, all[key]) {
				return
			}
		}
	}
}
