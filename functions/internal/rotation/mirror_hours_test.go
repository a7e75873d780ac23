package rotation_test

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// deployment is a function with mirrors of its own, which runs ensure every minute and rotate every 50 minutes.
type deployment struct {
	mirrors []string
	ensures bool                  // it runs no rotate
	dead    func(minute int) bool // its region is down, with its readers, who also get 3 minutes after; nil: never
	cold    bool                  // each run is a new process

	rotator *rotation.Rotator
}

// hours are some hours of scheduled runs, and what may come of them.
type hours struct {
	lifetime, least time.Duration // of tokens, an hour if 0; MIN_REMAINING, 8m if 0
	of              []deployment
	begins          bool // with a run of rotate, before the fault
	fault           step // for all the time
	someone         bool // somebody else writes to the first mirror every 15 minutes
	length          time.Duration

	saves   int           // at most: versions at IBM
	puts    int           // at most: to the first mirror of each deployment
	expired time.Duration // at most: in which readers of these mirrors have an expired token
	failed  [2]int        // at least and at most: runs that fail
	warned  [2]int        // at least and at most: reports that warn of an expired token in a mirror
}

func TestHoursOfMirrors(t *testing.T) {
	t.Parallel()
	const minute, eight, six, twelve = time.Minute, 8 * time.Hour, 6 * time.Hour, 12 * time.Hour
	always, some, each120 := [2]int{8*60 - 2, 8 * 60}, [2]int{0, 8 * 60}, [2]int{120, 360}
	one := func(arns ...string) []deployment { return []deployment{{mirrors: arns}} }
	cold := func(arns ...string) []deployment { return []deployment{{mirrors: arns, cold: true}} }
	threeHours := func(minute int) bool { return minute >= 3*60+17 && minute < 6*60+17 }
	forGood := func(minute int) bool { return minute > 60 }
	// The second region ensures alone.
	regions := func(firstDead, secondDead func(int) bool) []deployment {
		return []deployment{{mirrors: []string{first}, dead: firstDead}, {mirrors: []string{second}, dead: secondDead, ensures: true}}
	}
	// The second mirror fails for ever: the first one gets what it gets alone, and IBM's secret, too.
	fails := func(of mirrorFault, saves int, failed [2]int, functions []deployment) hours {
		return hours{of: functions, fault: failing(second, 0, of), length: eight, saves: saves, puts: 11, failed: failed}
	}
	inOrder := fails(unavailable, 25, some, one(first, second))
	inOrder.begins = true
	each(t, map[string]hours{
		"denied":                    fails(denied, 12, always, one(first, second)),
		"denied, in cold processes": fails(denied, 25, always, cold(first, second)),
		"missing":                   fails(rejected(rotation.NotFound, rotation.Never), 12, always, one(first, second)),
		"throttled":                 fails(onlyPuts(rejected(rotation.RateLimited, rotation.Later)), 25, always, one(first, second)),
		"out of reach":              fails(rejected(rotation.Unavailable, rotation.Later), 12, always, one(first, second)),
		"no answer":                 fails(hanging, 12, always, one(first, second)),
		"no answer to puts":         fails(onlyPuts(hanging), 25, always, one(first, second)),
		"slow, its answers lost":    fails(lost(3*time.Second), 12, some, one(first, second)),
		"in order, then it fails":   inOrder,

		// AWS keeps 100 versions a day, and tokens of 15 minutes would need 180: the mirror's token is expired for about 2 of 17
		// minutes, and the report says for how long. IBM's secret does not wait. A parameter has no quota.
		"tokens of 15 minutes": {lifetime: 15 * minute, of: one(first), length: six, saves: 62, puts: 23, expired: 54 * minute,
			warned: each120},
		"tokens of 15 minutes, cold": {lifetime: 15 * minute, of: cold(first), length: six, saves: 62, puts: 23, expired: 54 * minute,
			warned: each120},
		"tokens of 15 minutes beside a fault": {lifetime: 15 * minute, of: cold(first, second), fault: failing(second, 0, unavailable), length: eight,
			saves: 92, puts: 31, expired: 72 * minute, failed: some, warned: some},
		"tokens of 15 minutes in a parameter": {lifetime: 15 * minute, of: cold(parameter), length: eight, saves: 70, puts: 70},
		"tokens of 15 minutes, a parameter beside": {lifetime: 15 * minute, of: one(parameter, second), length: six, saves: 72, puts: 72,
			warned: each120},
		// Tokens of 30 minutes are enough, whatever MIN_REMAINING is.
		"tokens of half an hour":          {lifetime: rotation.MirrorLifetime, of: one(first), length: eight, saves: 31, puts: 30},
		"tokens of half an hour, an hour": {lifetime: rotation.MirrorLifetime, least: time.Hour, of: one(first), length: eight, saves: 31, puts: 30},
		// The runs do not fight with someone who writes to the mirror all the time: they fail.
		"someone else writes": {of: cold(first), someone: true, length: eight, saves: 14, puts: 33, expired: eight, failed: [2]int{60, 480}},

		// Two functions with one token secret, and a mirror for each: the loss of either region harms no reader of the other, and
		// what it costs stays within AWS's quota.
		"two regions":                   {of: regions(nil, nil), length: twelve, saves: 31, puts: 16},
		"two regions, no mirrors":       {of: []deployment{{}, {ensures: true}}, length: twelve, saves: 18},
		"the first is dead for 3 hours": {of: regions(threeHours, nil), length: twelve, saves: 31, puts: 16},
		"the second is":                 {of: regions(nil, threeHours), length: twelve, saves: 31, puts: 16},
		"the first for good":            {of: regions(forGood, nil), length: twelve, saves: 20, puts: 16},
		// Two functions that cannot put, each to its own mirror, do not answer each other's saves for ever.
		"two regions that cannot put": {of: []deployment{{mirrors: []string{first}, ensures: true},
			{mirrors: []string{second}, ensures: true}}, length: six,
			fault: func(fx *fixture) {
				fx.aws.Fault = func(ctx context.Context, _ string, put bool) error { return unavailable(ctx, put) }
			}, saves: 30, expired: twelve, failed: [2]int{120, 720}},
	}, func(fx *fixture, h hours) { h.play(fx) })
}

func (h hours) play(fx *fixture) {
	fx.aws = &mirrortest.AWS{}
	fx.cloud.SetTokenTTL(cmp.Or(h.lifetime, time.Hour))
	fx.rotator.MinRemaining = cmp.Or(h.least, fx.rotator.MinRemaining)
	for i := range h.of {
		d := &h.of[i]
		d.rotator = fx.process(fx.cloud.Transport())
		d.rotator.Mirrors, d.rotator.Refusals, d.rotator.MinRemaining = fx.aws, &rotation.Refusals{}, fx.rotator.MinRemaining
		for _, arn := range d.mirrors {
			fx.aws.Current(arn)
		}
	}
	if h.begins {
		h.of[0].run(fx, rotation.ModeRotate)
	}
	if h.fault != nil {
		h.fault(fx)
	}
	expired, failed, warned := time.Duration(0), 0, 0
	var running sync.WaitGroup
	var mu sync.Mutex
	for minute := range int(h.length / time.Minute) {
		if h.someone && minute%15 == 1 {
			_ = fx.aws.Write(first, fmt.Sprintf("11111111-2919-432f-9883-%012d", minute), "mine")
		}
		for _, d := range h.of {
			mode := ensure
			if minute%50 == 0 && !d.ensures {
				mode = rotation.ModeRotate
			}
			if d.isDead(minute) {
				continue
			}
			running.Go(func() { // the next run does not wait for this one
				result := d.run(fx, mode)
				mu.Lock()
				defer mu.Unlock()
				if result.Outcome == report.Failed {
					failed++
				}
				if strings.Contains(fmt.Sprint(result.Warnings), "readers have an expired token for") {
					warned++
				}
			})
		}
		time.Sleep(time.Minute)
		for _, d := range h.of {
			if len(d.mirrors) > 0 && minute > 3 && !d.isDead(minute) && !d.isDead(minute-3) && fx.remaining(d.mirrors[0]) < 0 {
				expired += time.Minute
			}
		}
		if _, _, expires, _ := fx.storedToken(); time.Until(expires) < 0 {
			fx.t.Errorf("minute %d: the token at IBM has expired", minute)
		}
	}
	running.Wait()
	for _, d := range h.of {
		for _, arn := range d.mirrors[:min(1, len(d.mirrors))] {
			if kept, limited := fx.aws.Versions(arn); len(kept) > h.puts || limited > 0 {
				fx.t.Errorf("%s got %d versions, and %d that AWS refused, want %d at most", arn, len(kept), limited, h.puts)
			}
		}
	}
	if saves := fx.countRequests(saveOp); saves > h.saves || expired > h.expired {
		fx.t.Errorf("IBM got %d versions, and readers of a mirror an expired token for %s, want %d and %s at most", saves, expired,
			h.saves, h.expired)
	}
	if failed < h.failed[0] || failed > h.failed[1] || warned < h.warned[0] || warned > h.warned[1] {
		fx.t.Errorf("%d runs failed and %d named an expired token, want %v and %v", failed, warned, h.failed, h.warned)
	}
}

func (d deployment) isDead(minute int) bool { return d.dead != nil && d.dead(minute) }

// run runs the rotation. Schedules of all deployments name a run alike.
func (d deployment) run(fx *fixture, mode rotation.Mode) report.Result {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	one, rotator := fx.one, *d.rotator
	one.Mirror = d.mirrors
	if d.cold {
		rotator.Refusals = nil
	}
	request := rotation.Request{Mode: mode, RunID: string(mode) + "-" + time.Now().Format(time.RFC3339)}
	return rotator.Run(ctx, request, []rotation.Rotation{one}).Results[0]
}
