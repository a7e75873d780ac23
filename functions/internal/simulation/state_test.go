package simulation

import (
	"net/url"
	"slices"
	"sync"
	"time"
)

// counts are what a story came to in numbers.
type counts struct {
	mu        sync.Mutex
	calls     map[bool]map[string]int // by the rotator (true) or the naive way, by kind
	runs      int
	failed    int // invocations that reported a failure
	crashed   int // invocations that reported nothing
	throttles int
	versions  int
	visits    int // the reader's
}

func (c *counts) call(ours bool, op string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[ours][op]++
}

func (c *counts) allCalls(ours bool) (sum int) {
	for _, n := range c.calls[ours] {
		sum += n
	}
	return sum
}

// bootstrapKey is what the source of the bootstrap key holds.
func (w *world) bootstrapKey() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bootstrapKeys[len(w.bootstrapKeys)-1]
}

func (w *world) newBootstrapKey() {
	key := w.cloud.MustCreateAPIKey(w.bootstrapID)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bootstrapKeys = append(w.bootstrapKeys, key)
}

// isBootstrap tells from a token request's form whose key it bears.
func (w *world) isBootstrap(form []byte) bool {
	values, _ := url.ParseQuery(string(form))
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.bootstrapKeys, values.Get("apikey"))
}

func (w *world) setLifetime(d time.Duration) {
	w.cloud.SetTokenTTL(d)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lifetime, w.lifetimeSet = d, w.now()
}

// tamper changes the current version's metadata behind the rotator's back.
func (w *world) tamper(metadata map[string]any) {
	w.cloud.MustSetVersionMetadata(w.tokenSecret, "current", metadata)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tampered = w.now()
}

// lostRun notes a run that did not happen or did not end.
func (w *world) lostRun(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = append(w.lost, lostRun{at})
}

// note notes another mishap of every day, so that the time around it does not
// count as one without faults.
func (w *world) note(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noted = append(w.noted, at)
}
