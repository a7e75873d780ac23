package ibmcloud_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
)

// clocked notes when each request to Secrets Manager was sent.
type clocked struct {
	http.RoundTripper
	mu   sync.Mutex
	sent []time.Time
}

func (c *clocked) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "instance.test" {
		c.mu.Lock()
		c.sent = append(c.sent, time.Now())
		c.mu.Unlock()
	}
	return c.RoundTripper.RoundTrip(req)
}

func TestMaxRPSIsNeverExceededOverAnySecond(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 7, 8, 20, 100} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := ibmcloudtest.New(ibmcloudtest.Options{})
				// A part of the requests fails, and is asked again at once.
				for range 50 {
					if err := cloud.AddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 503, Times: 1, Skip: 1}); err != nil {
						t.Fatal(err)
					}
				}
				wire := &clocked{RoundTripper: cloud.Transport()}
				iam := ibmcloud.NewIAM("https://iam.test", wire, nil)
				sm, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
					URL: "https://instance.test", Transport: wire, MaxRPS: limit,
					Bootstrap: ibmcloud.BootstrapByKey(iam, ibmcloud.FixedKey(iamtoken.NewSecret(cloud.BootstrapAPIKey()))),
				})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute) // the bucket is full
				var all sync.WaitGroup
				for range 200 {
					all.Go(func() {
						for {
							if _, err := sm.ReadKey(context.Background(), rotation.KeyRef{ID: cloud.Rotations()[0].APIKeySecret}); err == nil {
								return
							}
						}
					})
				}
				all.Wait()
				for i := range wire.sent {
					if j := i + limit; j < len(wire.sent) && wire.sent[j].Sub(wire.sent[i]) < time.Second {
						t.Fatalf("%d requests within %s, want at most %d in a second", limit+1, wire.sent[j].Sub(wire.sent[i]), limit)
					}
				}
				if took, fair := wire.sent[len(wire.sent)-1].Sub(wire.sent[0]), time.Duration(len(wire.sent))*time.Second/time.Duration(limit); took > fair*5/4+time.Second {
					t.Errorf("%d requests took %s, want about %s: the limit is to be used", len(wire.sent), took, fair)
				}
			})
		})
	}
}
