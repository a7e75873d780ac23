package rotation_test

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// hours is what the schedules make of some hours: ensure every minute, rotate every 50. The first mirror has no fault, the
// second one, if there is one, a fault for ever.
type hours struct {
	lifetime, least time.Duration // of tokens, an hour if 0, and MIN_REMAINING, 8m if 0
	mirrors         []string
	fault           mirrorFault
	begins          bool          // the fault comes after a first token
	cold            bool          // every run is a new process
	length          time.Duration // 8 hours if 0
	someone         bool          // somebody else writes to the first mirror every 15 minutes

	saves   int           // versions at IBM, at most
	puts    int           // to the first mirror, at most; 0: one for each rotation and two more
	expired time.Duration // readers of the first mirror, at most
	failed  [2]int        // runs, at least and at most
	warned  [2]int        // reports that name an expired token of a mirror
}

func TestHoursOfMirrors(t *testing.T) {
	t.Parallel()
	const minute, whole = time.Minute, 8*60 - 2
	both, always, never := []string{first, second}, [2]int{whole, 8 * 60}, [2]int{}
	some := [2]int{0, 8 * 60}
	unreachable, noAnswer := rejected(rotation.Unavailable, rotation.Later), onlyPuts(hanging)
	throttled := onlyPuts(rejected(rotation.RateLimited, rotation.Later))
	rows := map[string]hours{
		// One mirror fails for ever: the other gets what it gets alone, and IBM's secret, too.
		"denied":                    {mirrors: both, fault: denied, saves: 12, failed: always},
		"denied, in cold processes": {mirrors: both, fault: denied, cold: true, saves: 25, failed: always},
		"missing":                   {mirrors: both, fault: rejected(rotation.NotFound, rotation.Never), saves: 12, failed: always},
		"throttled":                 {mirrors: both, fault: throttled, saves: 25, failed: always},
		"out of reach":              {mirrors: both, fault: unreachable, saves: 12, failed: always},
		"no answer":                 {mirrors: both, fault: hanging, saves: 12, failed: always},
		"no answer to puts":         {mirrors: both, fault: noAnswer, saves: 25, failed: always},
		"slow, its answers lost":    {mirrors: both, fault: lost(3 * time.Second), saves: 12, failed: some},
		"in order, then it fails":   {mirrors: both, fault: unavailable, begins: true, saves: 25, failed: some},
		// AWS takes 100 versions a day, and tokens of 15 minutes would be 180: the mirror lags by 2 of 17 minutes or so, and the
		// report says for how long. IBM's secret does not.
		"tokens of 15 minutes": {lifetime: 15 * minute, mirrors: both[:1], length: 6 * time.Hour, saves: 62, puts: 23,
			expired: 54 * minute, warned: [2]int{120, 360}},
		"tokens of 15 minutes, cold": {lifetime: 15 * minute, mirrors: both[:1], cold: true, length: 6 * time.Hour, saves: 62,
			puts: 23, expired: 54 * minute, warned: [2]int{120, 360}},
		"tokens of 15 minutes beside a fault": {lifetime: 15 * minute, mirrors: both, fault: unavailable, cold: true, saves: 92, puts: 31,
			expired: 72 * minute, failed: some, warned: some},
		// A parameter has no quota: it gets each token, whatever a secret beside it waits for.
		"tokens of 15 minutes in a parameter": {lifetime: 15 * minute, mirrors: []string{parameter}, cold: true, saves: 70, puts: 70,
			failed: never},
		"tokens of 15 minutes in a parameter, also": {lifetime: 15 * minute, mirrors: []string{parameter, first}, length: 6 * time.Hour,
			saves: 72, puts: 72, failed: never, warned: [2]int{120, 360}},
		// Tokens of 30 minutes are enough, whatever MIN_REMAINING is.
		"tokens of half an hour": {lifetime: rotation.MirrorLifetime, mirrors: both[:1], saves: 31, puts: 30, failed: never},
		"tokens of half an hour, an hour": {lifetime: rotation.MirrorLifetime, least: time.Hour, mirrors: both[:1], saves: 31, puts: 30,
			failed: never},
		// Someone who writes to the mirror all the time is not fought: the run fails.
		"someone else writes": {mirrors: both[:1], cold: true, someone: true, saves: 14, puts: 33, expired: 8 * time.Hour, failed: [2]int{60, 480}},
	}
	each(t, rows, func(fx *fixture, h hours) { h.play(fx) })
}

func (h hours) play(fx *fixture) {
	mirrors(h.mirrors...)(fx)
	fx.cloud.SetTokenTTL(cmp.Or(h.lifetime, time.Hour))
	if h.least > 0 {
		fx.rotator.MinRemaining = h.least
	}
	if h.begins {
		fx.rotate()
	}
	if h.fault != nil {
		failing(second, 0, h.fault)(fx)
	}
	length := cmp.Or(h.length, 8*time.Hour)
	var expired time.Duration
	failed, warned, before := 0, 0, fx.versions()
	var running sync.WaitGroup
	var mu sync.Mutex
	for minute := range int(length / time.Minute) {
		if h.cold {
			fx.rotator.Refusals = nil
		}
		if h.someone && minute%15 == 1 {
			_ = fx.aws.Write(first, fmt.Sprintf("11111111-2919-432f-9883-%012d", minute), "mine")
		}
		mode := ensure
		if minute%50 == 0 {
			mode = rotation.ModeRotate
		}
		running.Go(func() { // the next run does not wait for this one
			result := fx.run(mode)
			mu.Lock()
			defer mu.Unlock()
			if result.Outcome == report.Failed {
				failed++
			}
			if strings.Contains(fmt.Sprint(result.Warnings), "readers have an expired token for") {
				warned++
			}
		})
		time.Sleep(time.Minute)
		if fx.remaining(h.mirrors[0]) < 0 {
			expired += time.Minute
		}
		if _, _, expires, _ := fx.published(); time.Until(expires) < 0 {
			fx.t.Errorf("minute %d: the token at IBM has expired", minute)
		}
	}
	running.Wait()
	kept, limited := fx.aws.Versions(h.mirrors[0])
	most := cmp.Or(h.puts, int(length/(50*time.Minute))+2)
	if len(kept) > most || limited > 0 || expired > h.expired {
		fx.t.Errorf("the first mirror got %d versions and %d that AWS refused, and its readers an expired token for %s; want %d at most, none and %s", len(kept), limited, expired, most, h.expired)
	}
	if saves := fx.countRequests(saveOp); saves > h.saves {
		fx.t.Errorf("IBM got %d versions, want %d at most (%d there)", saves, h.saves, fx.versions()-before)
	}
	if failed < h.failed[0] || failed > h.failed[1] || warned < h.warned[0] || warned > h.warned[1] {
		fx.t.Errorf("%d runs failed and %d named an expired token, want %v and %v", failed, warned, h.failed, h.warned)
	}
}

// region is a deployment of the one rotation in a region of AWS, with a mirror of its own there.
type region struct {
	rotator  *rotation.Rotator
	rotation rotation.Rotation
	rotates  bool // else it ensures alone
	dead     func(minute int) bool
	mirror   string

	failed int
	least  time.Duration // left of the mirror's token, by minutes
}

func newRegions(fx *fixture, aws *mirrortest.AWS, mirrored bool) []*region {
	fx.aws = aws
	regions := []*region{{rotates: true, mirror: first}, {mirror: second}}
	for _, r := range regions {
		r.rotator, r.rotation, r.least = fx.process(fx.cloud.Transport()), fx.one, time.Hour
		r.rotator.Mirrors, r.rotator.Refusals = aws, &rotation.Refusals{}
		if mirrored {
			r.rotation.Mirror = []string{r.mirror}
		}
	}
	return regions
}

func (r *region) run(mode rotation.Mode, at time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	// Schedules of all regions name a run alike.
	request := rotation.Request{Mode: mode, RunID: string(mode) + "-" + at.Format(time.RFC3339)}
	if r.rotator.Run(ctx, request, []rotation.Rotation{r.rotation}).Results[0].Outcome == report.Failed {
		r.failed++
	}
}

// Two functions with one token secret, the second of which ensures alone, and a mirror for each: the loss of either
// region harms no reader of the other, and what it costs stays within AWS's quota.
func TestHoursOfTwoRegions(t *testing.T) {
	t.Parallel()
	never := func(int) bool { return false }
	threeHours := func(minute int) bool { return minute >= 3*60+17 && minute < 6*60+17 }
	type regions struct {
		first, second func(minute int) bool // dead
		mirrored      bool
		saves, puts   int // in 12 hours, at most
	}
	each(t, map[string]regions{
		"nothing happens":               {never, never, true, 31, 16},
		"nothing happens, no mirrors":   {never, never, false, 18, 0},
		"the first is dead for 3 hours": {threeHours, never, true, 31, 16},
		"the second is":                 {never, threeHours, true, 31, 16},
		"the first for good":            {func(minute int) bool { return minute > 60 }, never, true, 20, 16},
	}, func(fx *fixture, test regions) {
		all := newRegions(fx, &mirrortest.AWS{}, test.mirrored)
		all[0].dead, all[1].dead = test.first, test.second
		playRegions(fx, all, test.mirrored)
		if saves := fx.countRequests(saveOp); saves > test.saves {
			fx.t.Errorf("%d versions at IBM, want %d at most", saves, test.saves)
		}
		for _, r := range all {
			versions, limited := fx.aws.Versions(r.mirror)
			if len(versions) > test.puts || limited > 0 || r.failed > 0 || test.mirrored && r.least < 5*time.Minute {
				fx.t.Errorf("%s: %d puts, %d refused, %d failed runs, %s left at least; want %d puts at most and 5m", r.mirror,
					len(versions), limited, r.failed, r.least, test.puts)
			}
		}
	})
	// Two functions that cannot put, each to its own mirror, do not answer each other's saves for ever.
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		regions := newRegions(fx, &mirrortest.AWS{Fault: func(ctx context.Context, _ string, put bool) error { return unavailable(ctx, put) }}, true)
		for range 6 * 60 {
			for _, r := range regions {
				r.run(ensure, time.Now())
			}
			time.Sleep(time.Minute)
		}
		if saves := fx.countRequests(saveOp); saves > 30 || regions[0].failed < 60 {
			t.Errorf("%d versions at IBM in 6 hours, and %d failed runs of the first; want 30 at most and 60 at least", saves, regions[0].failed)
		}
	})
}

// playRegions plays 12 hours. The readers of a dead region's mirror are dead, too, and for the minutes that its function needs after.
func playRegions(fx *fixture, regions []*region, mirrored bool) {
	start := time.Now()
	for minute := range 12 * 60 {
		var running sync.WaitGroup
		for _, r := range regions {
			if r.dead(minute) {
				continue
			}
			if r.rotates && minute%50 == 0 {
				running.Go(func() { r.run(rotation.ModeRotate, start.Add(time.Duration(minute)*time.Minute)) })
			}
			running.Go(func() { r.run(ensure, start.Add(time.Duration(minute)*time.Minute)) })
		}
		running.Wait()
		time.Sleep(time.Until(start.Add(time.Duration(minute+1) * time.Minute)))
		if _, _, expires, _ := fx.published(); time.Until(expires) < 5*time.Minute {
			fx.t.Errorf("minute %d: %s left at IBM", minute, time.Until(expires))
		}
		for _, r := range regions {
			if mirrored && minute > 3 && !r.dead(minute) && !r.dead(minute-3) {
				r.least = min(r.least, fx.remaining(r.mirror))
			}
		}
	}
}
