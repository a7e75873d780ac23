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
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// counting emulates both services, counts their requests and measures the process meanwhile.
type counting struct {
	rotation.TokenStore
	keys, exchanges, saves atomic.Int64
	takes                  time.Duration // of each read of metadata

	mu         sync.Mutex
	order      []string // token secrets in the order of the reads
	failFirst  string   // the token secret whose first read fails
	goroutines int      // the most at any read
	memory     uint64   // the most at any thousandth read, heap and stacks
}

func (c *counting) ReadMetadata(_ context.Context, ref rotation.TokenRef) (rotation.TokenVersion, error) {
	time.Sleep(c.takes)
	for range 10 {
		runtime.Gosched() // goroutines that have done their work can end
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = append(c.order, ref.ID)
	c.goroutines = max(c.goroutines, runtime.NumGoroutine())
	if len(c.order)%1000 == 0 {
		c.memory = max(c.memory, inUse())
	}
	if ref.ID == c.failFirst {
		c.failFirst = ""
		return rotation.TokenVersion{}, &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Message: "down"}
	}
	return rotation.TokenVersion{VersionID: "before", SecretType: "arbitrary"}, nil
}

func (c *counting) ReadKey(context.Context, rotation.KeyRef) (iamtoken.Secret, error) {
	c.keys.Add(1)
	return iamtoken.NewSecret("key"), nil
}

func (c *counting) Exchange(context.Context, iamtoken.Secret) (rotation.TokenResponse, error) {
	token := iamtoken.Token{Value: iamtoken.NewSecret(fmt.Sprint("token ", c.exchanges.Add(1))), Expiration: time.Now().Add(time.Hour),
		ExpiresIn: time.Hour, IAMID: "iam-ServiceId-x", Account: "a"}
	return rotation.TokenResponse{Token: token}, nil
}

func (c *counting) Prepare(context.Context) {}

func (c *counting) Save(context.Context, rotation.TokenRef, rotation.TokenVersion, iamtoken.Token, iamtoken.Metadata) (rotation.SavedVersion, error) {
	c.saves.Add(1)
	return rotation.SavedVersion{VersionID: "after", CreatedAt: time.Now()}, nil
}

// inUse is the memory of heap and stacks. Garbage counts, as it does for Lambda.
func inUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}

// runMany runs n rotations, each with its own key, all of which must succeed.
func (c *counting) runMany(t *testing.T, n, concurrency int) {
	t.Helper()
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
			t.Fatalf("%s: got %s (%v), want rotated", result.Rotation, result.Outcome, result.Error)
		}
	}
}

// A rotation that waits for its turn takes a line in a list, not a stack.
func TestTenThousandRotationsHoldNoGoroutines(t *testing.T) {
	const n, concurrency, limit = 10_000, 16, 16 << 10
	runtime.GC()
	before, held := runtime.NumGoroutine(), inUse()
	c := &counting{}
	c.runMany(t, n, concurrency)
	if len(c.order) != n || c.keys.Load() != n || c.exchanges.Load() != n || c.saves.Load() != n {
		t.Errorf("got %d reads of metadata, %d of keys, %d exchanges and %d saves, want %d each", len(c.order), c.keys.Load(),
			c.exchanges.Load(), c.saves.Load(), n)
	}
	if most := before + concurrency*3 + 1; c.goroutines > most { // a pass, its read of the key and one that is ending
		t.Errorf("got %d goroutines at once, want at most %d", c.goroutines, most)
	}
	if each := int64(c.memory-held) / n; each > limit {
		t.Errorf("got %d bytes for a rotation, want at most %d", each, limit)
	}
}

// A rotation that failed tries again when its wait is over, not when all others have had their turn.
func TestARetryDoesNotQueueBehindAllTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{takes: 100 * time.Millisecond, failFirst: "00000"}
		c.runMany(t, 1_000, 1)
		first := slices.Index(c.order, "00000")
		between := slices.Index(c.order[first+1:], "00000")
		if between < 0 || between > 6 { // 450 ms of back-off at most, and two turns
			t.Errorf("got %d reads between the failed one and its retry, want 6 at most", between)
		}
	})
}

// Rotations of a run succeed or fail on their own, and equal keys are read once.
func TestRotationsOfARun(t *testing.T) {
	type counts struct{ failures, attempts, reads, exchanges int }
	failing := func(i int) func(*fixture) { // its token secret is missing
		return func(fx *fixture) { fx.all[i].Token.ID = "00000000-0000-4000-8000-000000000000" }
	}
	equalKeys := func(from, to int) func(*fixture) {
		return func(fx *fixture) {
			for i := from; i < to; i++ {
				fx.all[i].APIKey = fx.all[from].APIKey
			}
		}
	}
	atATime := func(n int) func(*fixture) { return func(fx *fixture) { fx.rotator.Concurrency = n } }
	for name, test := range map[string]struct {
		rotations   int
		edit        func(*fixture)
		want        counts
		least, most time.Duration // that it takes
		other       time.Duration // that one that does not fail takes at most; 0: any
	}{
		"40, one of which fails, and 10 with the same key": {40, all(failing(3), equalKeys(10, 20)), counts{1, 40, 31, 1 + 39}, 0, time.Second, 0},
		"one that fails delays no other": {8, all(atATime(1), func(fx *fixture) {
			fx.all[0].APIKey.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "no-such-key"})
		}), counts{1, 9, 9, 1 + 9}, 2 * time.Second, 3 * time.Second, time.Second},
		// The one that failed reads again, as does the next; the third shares.
		"a failed read of a key is not shared": {3, all(atATime(1), equalKeys(0, 3), fault(ibmcloudtest.Fault{Op: keyOp, Status: 503, Times: 1})),
			counts{0, 4, 3, 1 + 3}, 0, time.Second, 0},
		"three at a time": {12, all(atATime(3), fault(ibmcloudtest.Fault{Op: tokenOp, Identity: ibmcloudtest.IdentityWorkload, Delay: time.Second})),
			counts{0, 12, 12, 1 + 12}, 4 * time.Second, 5 * time.Second, 0},
	} {
		withFixture(t, ibmcloudtest.Options{Rotations: test.rotations}, func(fx *fixture) {
			test.edit(fx)
			began := time.Now()
			ran := fx.runAll("many-rotations")
			took, got := time.Since(began), counts{failures: len(ran.Failures()), reads: fx.countRequests(keyOp),
				exchanges: fx.countRequests(tokenOp)}
			for i, result := range ran.Results {
				got.attempts += result.Attempts
				if result.Rotation != fx.all[i].Name || test.other > 0 && result.Outcome != report.Failed && result.Duration > test.other {
					t.Errorf("%s: result %d is of %s, which took %s, want %s and %s", name, i, result.Rotation, result.Duration,
						fx.all[i].Name, test.other)
				}
			}
			if got != test.want || took < test.least || took > test.most {
				t.Errorf("%s: got %+v in %s, want %+v in %s to %s", name, got, took, test.want, test.least, test.most)
			}
		})
	}
}
