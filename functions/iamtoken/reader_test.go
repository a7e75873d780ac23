package iamtoken_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

func TestTheTokenIsKeptUntilItExpiresSoon(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		time.Sleep(50 * time.Minute)
		second := fx.rotate(time.Hour)
		time.Sleep(5*time.Minute - time.Second) // just over the margin of 5 minutes left
		fx.wantToken(first)
		fx.wantReads(1)
		time.Sleep(time.Minute + 2*time.Second) // below the margin less all its jitter
		fx.wantToken(second)
		fx.wantReads(2)
		if got := fx.count(ibmcloudtest.OpIAMToken); got != 2 {
			t.Errorf("got %d exchanges of the reader's key, want 2: its token has a lifetime of an hour, too", got)
		}
	})
}

func TestTheOldTokenIsServedWhileTheStoreIsDown(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Status: 503})
		time.Sleep(59*time.Minute + 50*time.Second)
		began := time.Now()
		fx.wantToken(first)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("waited %s although there was a valid token, want 2s at most", took)
		}
		time.Sleep(10 * time.Second)
		_, err := fx.reader.Token(context.Background())
		if !errors.Is(err, iamtoken.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable: an expired token is never handed out", err)
		}
		synctest.Wait()
		fx.cloud.ClearFaults()
		second := fx.rotate(time.Hour)
		time.Sleep(time.Minute)
		fx.wantToken(second)
	})
}

func TestAStoreThatHangsDelaysNobodyWhoHasAToken(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Delay: time.Hour})
		time.Sleep(56 * time.Minute)
		began := time.Now()
		fx.wantToken(first)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("waited %s, want 2s", took)
		}
		synctest.Wait()
		time.Sleep(time.Minute) // the read has ended, or the bubble would not
	})
}

func TestALateRotationIsNoticed(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		time.Sleep(56 * time.Minute)
		for range 60 { // a minute of calls each second
			fx.wantToken(first)
			time.Sleep(time.Second)
		}
		if got := fx.reads(); got < 3 || got > 6 {
			t.Errorf("got %d reads, want one every 15 to 30 s: 3 to 6", got)
		}
		second := fx.rotate(time.Hour)
		time.Sleep(31 * time.Second)
		fx.wantToken(second)
	})
}

func TestErrorsOfTheStoredToken(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(fx *fixture)
		want    error
		says    string
	}{
		"no token yet": {func(*fixture) {}, iamtoken.ErrNoToken, "has not run yet"},
		"expired":      {func(fx *fixture) { fx.rotate(-12 * time.Minute) }, iamtoken.ErrExpired, "12m0s ago"},
		"empty":        {func(fx *fixture) { fx.cloud.MustPutVersion(fx.secret(), " ", nil) }, iamtoken.ErrNoToken, "is empty"},
		"by hand, opaque": {func(fx *fixture) { fx.cloud.MustPutVersion(fx.secret(), opaque, nil) },
			iamtoken.ErrNoToken, "nothing states"},
		"missing":   {func(fx *fixture) { fx.store.SecretID = "00000000-0000-4000-8000-000000000000" }, iamtoken.ErrNotFound, "SecretID"},
		"forbidden": {func(fx *fixture) { fx.store.SecretID = fx.cloud.Rotations()[0].APIKeySecret }, iamtoken.ErrDenied, "SecretsReader"},
		"unknown key": {func(fx *fixture) { fx.store.APIKey = iamtoken.NewSecret("nobodys-key-0123456789") },
			iamtoken.ErrDenied, "API key"},
		"a web page": {func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 200, ContentType: "text/html", Body: "<html>canary"})
		}, iamtoken.ErrUnavailable, "proxy"},
		"no answer": {func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Drop: ibmcloudtest.DropBefore})
		}, iamtoken.ErrUnavailable, "calling Secrets Manager"},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(fx *fixture) {
				test.arrange(fx)
				token, err := fx.reader.Token(context.Background())
				if !errors.Is(err, test.want) || !token.Value.IsZero() {
					t.Fatalf("got %v, want %v and no token", err, test.want)
				}
				for _, secret := range []string{"canary", "nobodys", "eyJ", fx.cloud.ReaderAPIKey()} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error repeats what it must not: %v", err)
					}
				}
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %q, want it to say %q", err, test.says)
				}
				reads := len(fx.cloud.Requests())
				if _, again := fx.reader.Token(context.Background()); again == nil || len(fx.cloud.Requests()) != reads {
					t.Error("the failure was not remembered for a moment: callers in a loop would storm the store")
				}
			})
		})
	}
}

func TestAReadIsTriedTwice(t *testing.T) {
	for name, test := range map[string]struct {
		fault       ibmcloudtest.Fault
		least, most time.Duration
		want        error
	}{
		"a back-off":                    {ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 503, Times: 1}, time.Second / 2, 3 * time.Second / 2, nil},
		"Retry-After, cut to 5 s":       {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 429, Headers: map[string]string{"Retry-After": "999999"}, Times: 1}, 5 * time.Second, 5 * time.Second, nil},
		"an outage, reported after 5 s": {ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 429, Headers: map[string]string{"Retry-After": "999999"}}, 5 * time.Second, 5 * time.Second, iamtoken.ErrUnavailable},
	} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			fx.fault(test.fault)
			began := time.Now()
			if _, err := fx.reader.Token(context.Background()); !errors.Is(err, test.want) {
				t.Errorf("%s: got %v, want %v", name, err, test.want)
			}
			if took := time.Since(began); took < test.least || took > test.most {
				t.Errorf("%s: took %s, want %s to %s", name, took, test.least, test.most)
			}
		})
	}
}

func TestACallerCanGiveUp(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.rotate(time.Hour)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Delay: 5 * time.Second, Times: 1})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := fx.reader.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		if _, err := fx.reader.Token(context.Background()); err != nil {
			t.Errorf("got %v: the read ended with the caller that started it", err)
		}
		fx.wantReads(1)
	})
}

func TestThisMachinesClockIsOff(t *testing.T) {
	for _, skew := range []time.Duration{-20 * time.Minute, 90 * time.Minute} {
		withFixture(t, func(fx *fixture) {
			fx.skew = skew
			fx.wantToken(fx.rotate(time.Hour))
			time.Sleep(57 * time.Minute)
			fx.wantToken(fx.rotate(time.Hour))
			fx.wantReads(2)
		})
	}
}

func TestFaultyFieldsAreReportedAtOnce(t *testing.T) {
	for name, reader := range map[string]*iamtoken.Reader{
		"Store is required":   {},
		"Margin is negative":  {Store: iamtoken.StoreFunc(nil), Margin: -1},
		"URL is required":     {Store: &iamtoken.SecretsManager{}},
		"SecretID is not a":   {Store: &iamtoken.SecretsManager{URL: "https://x.test", SecretID: "canary"}},
		"URL must be":         {Store: &iamtoken.SecretsManager{URL: "http://x.test"}},
		"IAMURL must be":      {Store: &iamtoken.SecretsManager{IAMURL: "https://canary@x.test/"}},
		"APIKey or AccessTok": {Store: &iamtoken.SecretsManager{}},
	} {
		_, err := reader.Token(t.Context())
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v, want it to say %q and to repeat no value", err, name)
		}
	}
}

// A thousand goroutines of one process ask for the token, each every half minute
// or so, while it is rotated ten times.
func TestAThousandGoroutinesAcrossTenRotations(t *testing.T) {
	const goroutines, rotations, interval = 1000, 10, 50 * time.Minute
	withFixture(t, func(fx *fixture) {
		fx.rotate(time.Hour)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Delay: time.Second}) // time for others to ask meanwhile
		var handedOut, expired, failed atomic.Int64
		end := time.Now().Add((rotations + 1) * interval)
		var all sync.WaitGroup
		for range goroutines {
			all.Go(func() {
				for time.Now().Before(end) {
					token, err := fx.reader.Token(fx.t.Context())
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
			fx.rotate(time.Hour)
		}
		all.Wait()
		synctest.Wait()
		if expired.Load() != 0 || failed.Load() != 0 {
			t.Errorf("got %d expired tokens and %d errors in %d calls, want none", expired.Load(), failed.Load(), handedOut.Load())
		}
		if handedOut.Load() < goroutines*rotations*50 {
			t.Errorf("got %d calls: too few to show anything", handedOut.Load())
		}
		if got := fx.reads(); got > rotations+1 {
			t.Errorf("got %d reads for the first token and %d rotations, want one each", got, rotations)
		}
		for _, request := range fx.cloud.Requests() {
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
		withFixture(t, func(fx *fixture) {
			fx.wantToken(fx.rotate(time.Hour))
			began := time.Now()
			for fx.reads() == 1 {
				time.Sleep(time.Second)
				if _, err := fx.reader.Token(fx.t.Context()); err != nil {
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
