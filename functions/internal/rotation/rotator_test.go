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

func TestManyRotationsSucceedOrFailOnTheirOwn(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{Rotations: 40}, func(fx *fixture) {
		fx.all[3].Token.ID = "00000000-0000-4000-8000-000000000000"
		for i := 10; i < 20; i++ {
			fx.all[i].APIKey = fx.all[10].APIKey
		}
		ran := fx.runAll("many-rotations")
		for i, result := range ran.Results {
			if result.Rotation != fx.all[i].Name {
				t.Fatalf("result %d is of %s, want %s", i, result.Rotation, fx.all[i].Name)
			}
			if i != 3 {
				fx.wantOutcome(result, report.Rotated)
			}
		}
		fx.wantFailure(ran.Results[3], rotation.StepLook, rotation.NotFound)
		if reads, exchanges := fx.countRequests(keyOp), fx.countRequests(tokenOp); len(ran.Failures()) != 1 || reads != 31 || exchanges != 1+39 {
			t.Errorf("got %d failures, %d key reads and %d token requests, want 1, 31 (equal keys are read once) and one for the bootstrap and each rotation but the failed",
				len(ran.Failures()), reads, exchanges)
		}
	})
}

func TestRotationsThatWaitForEachOther(t *testing.T) {
	// One that fails delays no other.
	withFixture(t, ibmcloudtest.Options{Rotations: 8}, func(fx *fixture) {
		fx.rotator.Concurrency = 1
		fx.all[0].APIKey.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "no-such-key"})
		ran := fx.runAll("one-of-them-fails")
		fx.wantFailure(ran.Results[0], rotation.StepExchange, rotation.Denied)
		for _, result := range ran.Results[1:] {
			if fx.wantOutcome(result, report.Rotated); result.Duration > time.Second {
				t.Errorf("%s took %s behind a failing rotation, want no delay", result.Rotation, result.Duration)
			}
		}
	})
	// A failed read of a key is not shared: the one that failed reads again, as does the next; the third shares.
	withFixture(t, ibmcloudtest.Options{Rotations: 3}, func(fx *fixture) {
		fx.rotator.Concurrency = 1
		for i := range fx.all {
			fx.all[i].APIKey = fx.all[0].APIKey
		}
		fx.fault(ibmcloudtest.Fault{Op: keyOp, Status: 503, Times: 1})
		attempts := 0
		for _, result := range fx.runAll("equal-keys").Results {
			fx.wantOutcome(result, report.Rotated)
			attempts += result.Attempts
		}
		if reads := fx.countRequests(keyOp); attempts != 4 || reads > 3 {
			t.Errorf("got %d attempts and %d key reads, want 4 and at most 3", attempts, reads)
		}
	})
	// No more run at once than the concurrency.
	withFixture(t, ibmcloudtest.Options{Rotations: 12}, func(fx *fixture) {
		fx.rotator.Concurrency = 3
		fx.fault(ibmcloudtest.Fault{Op: tokenOp, Identity: ibmcloudtest.IdentityWorkload, Delay: time.Second})
		began := time.Now()
		for _, result := range fx.runAll("three-at-once").Results {
			fx.wantOutcome(result, report.Rotated)
		}
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("12 rotations of a second took %s, want 4s: three at a time", took)
		}
	})
}
