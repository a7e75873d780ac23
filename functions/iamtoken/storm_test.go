package iamtoken_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// A thousand goroutines of one process ask for the token, each every half minute
// or so, while it is rotated ten times.
func TestAThousandGoroutinesAcrossTenRotations(t *testing.T) {
	const goroutines, rotations, interval = 1000, 10, 50 * time.Minute
	inWorld(t, func(w *world) {
		w.rotate(time.Hour)
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Delay: time.Second}) // time for others to ask meanwhile
		var handedOut, expired, failed atomic.Int64
		end := time.Now().Add((rotations + 1) * interval)
		var all sync.WaitGroup
		for range goroutines {
			all.Go(func() {
				for time.Now().Before(end) {
					token, err := w.reader.Token(w.t.Context())
					if err != nil {
						failed.Add(1)
					} else if handedOut.Add(1); !token.Expiration.After(time.Now()) {
						expired.Add(1)
					}
					time.Sleep(rand.N(time.Minute))
				}
			})
		}
		for range rotations {
			time.Sleep(interval)
			w.rotate(time.Hour)
		}
		all.Wait()
		synctest.Wait()
		if expired.Load() != 0 || failed.Load() != 0 {
			t.Errorf("got %d expired tokens and %d errors in %d calls, want none", expired.Load(), failed.Load(), handedOut.Load())
		}
		if handedOut.Load() < goroutines*rotations*50 {
			t.Errorf("got %d calls: too few to show anything", handedOut.Load())
		}
		if got := w.reads(); got > rotations+1 {
			t.Errorf("got %d reads for the first token and %d rotations, want one each", got, rotations)
		}
		for _, request := range w.cloud.Requests() {
			if request.Op == ibmcloudtest.OpVersionsGet && request.Status != 200 {
				t.Errorf("got a read with status %d, want 200", request.Status)
			}
		}
	})
}

// Many processes read at different times: the jitter sees to that.
func TestProcessesDoNotAskInTheSameSecond(t *testing.T) {
	seconds := map[int64]bool{}
	for range 20 {
		inWorld(t, func(w *world) {
			w.wantToken(w.rotate(time.Hour))
			began := time.Now()
			for w.reads() == 1 {
				time.Sleep(time.Second)
				if _, err := w.reader.Token(w.t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			seconds[int64(time.Since(began).Seconds())] = true
		})
	}
	if len(seconds) < 8 {
		t.Errorf("20 processes read in %d different seconds, want them spread over a minute", len(seconds))
	}
}
