package rotation_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// counting emulates both services, counts what is asked of them and notes how
// much the process holds meanwhile.
type counting struct {
	reads, keys, exchanges, saves atomic.Int64
	takes                         time.Duration // each request

	mu         sync.Mutex
	order      []string // token secrets in the order of the reads
	failFirst  string   // the token secret whose first read fails
	goroutines int      // the most at any read
	memory     uint64   // the most at any thousandth read, heap and stacks
}

func (c *counting) ReadVersion(context.Context, rotation.TokenRef, string) (rotation.CurrentVersion, error) {
	return rotation.CurrentVersion{}, nil
}

func (c *counting) ReadMetadata(_ context.Context, ref rotation.TokenRef) (rotation.CurrentVersion, error) {
	time.Sleep(c.takes)
	for range 10 {
		runtime.Gosched() // those that have done their work get to their end
	}
	n := c.reads.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = append(c.order, ref.ID)
	c.goroutines = max(c.goroutines, runtime.NumGoroutine())
	if n%1000 == 0 {
		c.memory = max(c.memory, inUse())
	}
	if ref.ID == c.failFirst {
		c.failFirst = ""
		return rotation.CurrentVersion{}, &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Message: "down"}
	}
	return rotation.CurrentVersion{VersionID: "before", SecretType: "arbitrary"}, nil
}

func (c *counting) ReadKey(context.Context, rotation.KeyRef) (iamtoken.Secret, error) {
	c.keys.Add(1)
	return iamtoken.NewSecret("key"), nil
}

func (c *counting) Exchange(context.Context, iamtoken.Secret) (rotation.TokenResponse, error) {
	n := c.exchanges.Add(1)
	token := iamtoken.Token{Value: iamtoken.NewSecret(fmt.Sprint("token ", n)), Expiration: time.Now().Add(time.Hour), ExpiresIn: time.Hour, IAMID: "iam-ServiceId-x", Account: "a"}
	return rotation.TokenResponse{Token: token}, nil
}

func (c *counting) Prepare(context.Context) {}

func (c *counting) Save(context.Context, rotation.TokenRef, rotation.CurrentVersion, iamtoken.Token, iamtoken.Metadata) (rotation.SavedVersion, error) {
	c.saves.Add(1)
	return rotation.SavedVersion{VersionID: "after", CreatedAt: time.Now()}, nil
}

// inUse is what heap and stacks take. Garbage counts, as it does for Lambda.
func inUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}

// runMany runs n rotations, each with its own key, all of which must succeed.
func runMany(tb testing.TB, c *counting, n, concurrency int) {
	tb.Helper()
	rotator := &rotation.Rotator{Keys: c, IAM: c, Tokens: c, MinRemaining: 8 * time.Minute, Concurrency: concurrency}
	rotations := make([]rotation.Rotation, n)
	for i := range rotations {
		id := fmt.Sprintf("%05d", i)
		rotations[i] = rotation.Rotation{Name: id, APIKey: rotation.KeyRef{ID: "key " + id}, Token: rotation.TokenRef{ID: id}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	for _, result := range rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "run-of-many"}, rotations).Results {
		if result.Outcome != report.Rotated {
			tb.Fatalf("%s: got %s (%v), want rotated", result.Rotation, result.Outcome, result.Error)
		}
	}
}

func TestTenThousandRotationsAskTenThousandTimes(t *testing.T) {
	for _, n := range []int{100, 1_000, 10_000} {
		c := &counting{}
		runMany(t, c, n, 16)
		for what, got := range map[string]int64{"metadata": c.reads.Load(), "keys": c.keys.Load(), "exchanges": c.exchanges.Load(), "saves": c.saves.Load()} {
			if got != int64(n) {
				t.Errorf("%d rotations: got %d %s, want one each", n, got, what)
			}
		}
	}
}

// A rotation that waits for its turn costs a line in a list, not a stack.
func TestRotationsThatWaitHoldNoGoroutine(t *testing.T) {
	runtime.GC()
	before, held := runtime.NumGoroutine(), inUse()
	c := &counting{}
	runMany(t, c, 10_000, 16)
	if most := before + 16*3 + 1; c.goroutines > most { // a pass, its read of the key and one that is ending
		t.Errorf("got %d goroutines at once, want at most %d", c.goroutines, most)
	}
	const limit = 16 << 10
	if each := int64(c.memory-held) / 10_000; each > limit {
		t.Errorf("got %d bytes for a rotation, want at most %d", each, limit)
	}
}

// A rotation that failed tries again when its wait is over, not when all others
// have had their turn.
func TestARetryDoesNotQueueBehindAllTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{takes: 100 * time.Millisecond, failFirst: "00000"}
		runMany(t, c, 1_000, 1)
		first := slices.Index(c.order, "00000")
		between := slices.Index(c.order[first+1:], "00000")
		if between < 0 || between > 6 { // 450 ms of back-off at most, and two turns
			t.Errorf("got %d reads between the failed one and its retry, want 6 at most", between)
		}
	})
}
