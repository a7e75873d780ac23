package ibmcloudtest_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// TestDrops: before, nothing is done; after, the work is done and its answer lost.
func TestDrops(t *testing.T) {
	for drop, wantVersions := range map[string]int{ibmcloudtest.DropBefore: 1, ibmcloudtest.DropAfter: 2} {
		cloud := ibmcloudtest.New(ibmcloudtest.Options{})
		c := inProcess(t, cloud)
		token := c.token(cloud.BootstrapAPIKey())
		id := cloud.Rotations()[0].TokenSecret
		if err := cloud.AddFault(ibmcloudtest.Fault{Op: "versions.create", Drop: drop}); err != nil {
			t.Fatal(err)
		}
		_, err := c.http.Do(c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"x"}`, "Authorization", "Bearer "+token))
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v, want a reset connection", drop, err)
		}
		if got := len(cloud.MustVersions(id)); got != wantVersions {
			t.Errorf("%s: got %d versions, want %d", drop, got, wantVersions)
		}
		requests := cloud.Requests()
		if last := requests[len(requests)-1]; last.Status != 0 || last.Op != "versions.create" || last.Identity != "bootstrap" {
			t.Errorf("%s: logged %+v, want status 0", drop, last)
		}
	}
}

func TestDelays(t *testing.T) {
	for _, test := range []struct {
		fault        ibmcloudtest.Fault
		patience     time.Duration
		wantElapsed  time.Duration
		wantErr      error
		wantVersions int
	}{
		{ibmcloudtest.Fault{}, time.Hour, 30 * time.Second, nil, 2},
		{ibmcloudtest.Fault{}, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 1},
		{ibmcloudtest.Fault{Status: 503}, time.Hour, 30 * time.Second, nil, 1},
		{ibmcloudtest.Fault{Drop: "before"}, time.Hour, 30 * time.Second, syscall.ECONNRESET, 1},
		{ibmcloudtest.Fault{Drop: "after"}, time.Hour, 30 * time.Second, syscall.ECONNRESET, 2},
		{ibmcloudtest.Fault{Drop: "after"}, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			cloud := ibmcloudtest.New(ibmcloudtest.Options{})
			c := inProcess(t, cloud)
			token := c.token(cloud.BootstrapAPIKey())
			id := cloud.Rotations()[0].TokenSecret
			test.fault.Op, test.fault.Delay = "versions.create", 30*time.Second
			if err := cloud.AddFault(test.fault); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), test.patience)
			defer cancel()
			began := time.Now()
			response, err := c.http.Do(c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"x"}`, "Authorization", "Bearer "+token).WithContext(ctx))
			if err == nil {
				response.Body.Close()
			}
			if elapsed := time.Since(began); elapsed != test.wantElapsed || !errors.Is(err, test.wantErr) {
				t.Errorf("%+v: got %s, %v; want %s, %v", test.fault, elapsed, err, test.wantElapsed, test.wantErr)
			}
			if got := len(cloud.MustVersions(id)); got != test.wantVersions {
				t.Errorf("%+v: got %d versions, want %d", test.fault, got, test.wantVersions)
			}
		})
	}
}
