package rotation_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

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
	threeHours := func(minute int) bool { return minute >= 6*60+17 && minute < 9*60+17 }
	for name, test := range map[string]struct {
		first, second func(minute int) bool // dead
		mirrored      bool
		saves, puts   int // a day, at most
	}{
		"nothing happens":               {never, never, true, 58, 30},
		"nothing happens, no mirrors":   {never, never, false, 32, 0},
		"the first is dead for 3 hours": {threeHours, never, true, 58, 30},
		"the second is":                 {never, threeHours, true, 58, 30},
		"the first for good":            {func(minute int) bool { return minute > 60 }, never, true, 35, 30},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				mirrors := &mirrortest.AWS{}
				regions := []*region{{rotates: true, dead: test.first, mirror: firstARN}, {dead: test.second, mirror: secondARN}}
				for _, r := range regions {
					r.rotator, r.rotation, r.least = fx.process(fx.cloud.Transport()), fx.one, time.Hour
					r.rotator.Mirrors, r.rotator.Refusals = mirrors, &rotation.Refusals{}
					if test.mirrored {
						r.rotation.Mirror = []string{r.mirror}
					}
				}
				play(t, fx, mirrors, regions, test.mirrored)
				saves := fx.countRequests(ibmcloudtest.OpVersionsCreate)
				if saves > test.saves {
					t.Errorf("%d versions at IBM in a day, want %d at most", saves, test.saves)
				}
				for _, r := range regions {
					versions, limited := mirrors.Versions(r.mirror)
					if len(versions) > test.puts || limited > 0 || r.failed > 0 || test.mirrored && r.least < 5*time.Minute {
						t.Errorf("%s: %d puts, %d refused, %d failed runs, %s left at least; want %d puts at most and 5m", r.mirror, len(versions), limited, r.failed, r.least, test.puts)
					}
				}
			})
		})
	}
}

// play plays a day. The readers of a dead region's mirror are dead, too, and for the minutes that its function needs after.
func play(t *testing.T, fx *fixture, mirrors *mirrortest.AWS, regions []*region, mirrored bool) {
	t.Helper()
	start := time.Now()
	for minute := range 24 * 60 {
		var running sync.WaitGroup
		for _, r := range regions {
			if r.dead(minute) {
				continue
			}
			if r.rotates && minute%50 == 0 {
				running.Go(func() { r.run(rotation.ModeRotate, start.Add(time.Duration(minute)*time.Minute)) })
			}
			running.Go(func() { r.run(rotation.ModeEnsure, start.Add(time.Duration(minute)*time.Minute)) })
		}
		running.Wait()
		time.Sleep(time.Until(start.Add(time.Duration(minute+1) * time.Minute)))
		if left := fx.remaining(fx.cloud.MustCurrent(fx.one.Token.ID).Payload); left < 5*time.Minute {
			t.Errorf("minute %d: %s left at IBM", minute, left)
		}
		for _, r := range regions {
			if mirrored && minute > 3 && !r.dead(minute) && !r.dead(minute-3) {
				r.least = min(r.least, fx.remaining(mirrors.Current(r.mirror).Payload))
			}
		}
	}
}
