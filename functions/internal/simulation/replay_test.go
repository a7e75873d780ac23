package simulation

import (
	"slices"
	"testing"
	"time"
)

// A seed that breaks an invariant must break it again when it is replayed.
func TestASeedTellsTheSameStoryEveryTime(t *testing.T) {
	first, second := tell(t, 7, 1, time.Hour), tell(t, 7, 1, time.Hour)
	for name, of := range map[string]func(*world) *timeline{"the rotator": ours, "the naive way": theNaive} {
		a, b := of(first).tokens, of(second).tokens
		if len(a) != len(b) {
			t.Errorf("%s published %d tokens, the second time %d", name, len(a), len(b))
		}
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Errorf("%s published token %d at %s, the second time at %s", name, i, a[i].at, b[i].at)
				break
			}
		}
	}
	if first.counts.allCalls(true) != second.counts.allCalls(true) || !slices.Equal(first.violations, second.violations) {
		t.Errorf("got %d calls and %q, the second time %d and %q", first.counts.allCalls(true), first.violations, second.counts.allCalls(true), second.violations)
	}
}
