package rotation_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

const (
	first     = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token-Ab12Cd"
	second    = "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-Ab12Cd"
	third     = "arn:aws:secretsmanager:us-west-2:123456789012:secret:token-Ab12Cd"
	parameter = "arn:aws:ssm:eu-central-1:123456789012:parameter/tokens/logs"

	someonesID = "11111111-2919-432f-9883-d5040bfcd326"
)

// step is something that happens to a rotation with mirrors, or a check of them.
type step = func(fx *fixture)

// mirrors gives the rotation new mirrors.
func mirrors(arns ...string) step {
	return func(fx *fixture) {
		fx.aws = &mirrortest.AWS{}
		fx.rotator.Mirrors, fx.rotator.Refusals, fx.one.Mirror = fx.aws, &rotation.Refusals{}, arns
		for _, arn := range arns {
			fx.aws.Current(arn)
		}
	}
}

func all(steps ...step) step {
	return func(fx *fixture) {
		for _, s := range steps {
			s(fx)
		}
	}
}

func times(n int, steps ...step) step {
	return func(fx *fixture) {
		for range n {
			all(steps...)(fx)
		}
	}
}

func wait(d time.Duration) step { return func(*fixture) { time.Sleep(d) } }

func lifetime(d time.Duration) step  { return func(fx *fixture) { fx.cloud.SetTokenTTL(d) } }
func remaining(d time.Duration) step { return func(fx *fixture) { fx.rotator.MinRemaining = d } }

// forget starts a new process as far as refusals go.
func forget(fx *fixture) { fx.rotator.Refusals = nil }

func rotates(fx *fixture) { fx.t.Helper(); fx.rotate() }
func forces(fx *fixture)  { fx.t.Helper(); fx.wantOutcome(fx.force(), report.Rotated) }

// runs is a run with any outcome, ensures a run of ensure with this one, and fails a run that fails because of a mirror.
func runs(mode rotation.Mode) step { return func(fx *fixture) { fx.run(mode) } }

func ensures(want report.Outcome) step {
	return func(fx *fixture) { fx.t.Helper(); fx.wantOutcome(fx.run(ensure), want) }
}

func fails(mode rotation.Mode, kind rotation.Kind, says ...string) step {
	return func(fx *fixture) { fx.t.Helper(); fx.wantFailure(fx.run(mode), rotation.StepMirror, kind, says...) }
}

// noFailure is a run of ensure that does not fail.
func noFailure(fx *fixture) {
	fx.t.Helper()
	if got := fx.run(ensure); got.Outcome == report.Failed {
		fx.t.Fatal(got.Error)
	}
}

// dies is a run that dies between the save and its puts.
func dies(mode rotation.Mode) step {
	return func(fx *fixture) {
		store := fx.rotator.Tokens
		ctx, die := context.WithTimeout(context.Background(), 2*time.Minute)
		fx.rotator.Tokens = hooked{TokenStore: store, afterSave: die}
		fx.rotator.Run(ctx, rotation.Request{Mode: mode, RunID: "it-dies-here"}, []rotation.Rotation{fx.one})
		fx.rotator.Tokens = store
	}
}

// reads changes the versions that are read; id "" is the current one.
func reads(change func(ctx context.Context, id string, version rotation.TokenVersion) (rotation.TokenVersion, error)) step {
	return func(fx *fixture) {
		fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, read: change}
	}
}

// silentBut answers no read of a version but those of the current one and of id.
func silentBut(id string) func(context.Context, string, rotation.TokenVersion) (rotation.TokenVersion, error) {
	return func(ctx context.Context, asked string, version rotation.TokenVersion) (rotation.TokenVersion, error) {
		if asked == "" || asked == id {
			return version, nil
		}
		return rotation.TokenVersion{}, hanging(ctx, false)
	}
}

// mirrored checks that mirrors hold what IBM holds, under its version id.
func mirrored(arns ...string) step {
	return func(fx *fixture) {
		fx.t.Helper()
		current := fx.cloud.MustCurrent(fx.one.Token.ID)
		want := current.Payload
		if token, _, _, _ := fx.storedToken(); current.Data != nil {
			want = fmt.Sprintf(`{%q:%q}`, fx.one.Token.Field, token)
		}
		for _, arn := range arns {
			if got := fx.aws.Current(arn); got.ID != current.ID || got.Payload != want {
				fx.t.Errorf("%s: got version %q of %d bytes, want %s of %d", arn, got.ID, len(got.Payload), current.ID, len(want))
			}
		}
	}
}

// puts checks how many versions a mirror got, and that AWS refused none.
func puts(arn string, want int) step {
	return func(fx *fixture) {
		fx.t.Helper()
		if got, limited := fx.aws.Versions(arn); len(got) != want || limited != 0 {
			fx.t.Errorf("%s got %d versions, and %d that AWS refused, want %d", arn, len(got), limited, want)
		}
	}
}

func versions(want int) step { return func(fx *fixture) { fx.t.Helper(); fx.wantVersions(want) } }

// left checks that readers of a mirror have a token that is valid for a time.
func left(arn string, least time.Duration) step {
	return func(fx *fixture) {
		fx.t.Helper()
		if left := fx.remaining(arn); left < least {
			fx.t.Errorf("the token in %s has %s left, want %s", arn, left, least)
		}
	}
}

// remaining is how long the token in a mirror is still valid.
func (fx *fixture) remaining(arn string) time.Duration {
	_, expires, _ := fx.cloud.Validate(fx.aws.Current(arn).Payload)
	return time.Until(expires)
}

// mirrorFault is what a mirror's fault does to a request.
type mirrorFault = func(ctx context.Context, put bool) error

// failing gives the requests to a mirror a fault: all of them, or the first ones if times is not 0.
func failing(arn string, times int64, of mirrorFault) step {
	return func(fx *fixture) {
		var failed atomic.Int64
		fx.aws.Fault = func(ctx context.Context, to string, put bool) error {
			if to != arn || times > 0 && failed.Load() >= times {
				return nil
			}
			err := of(ctx, put)
			if err != nil {
				failed.Add(1)
			}
			return err
		}
	}
}

func heal(fx *fixture) { fx.aws.Fault = nil }

func rejected(kind rotation.Kind, retry rotation.Retry) mirrorFault {
	return func(context.Context, bool) error {
		return &rotation.Error{Kind: kind, Retry: retry, Message: "rejected by the test"}
	}
}

func onlyPuts(of mirrorFault) mirrorFault {
	return func(ctx context.Context, put bool) error {
		if !put {
			return nil
		}
		return of(ctx, put)
	}
}

// Puts that are denied, and puts that may succeed at the next try.
var (
	denied      = onlyPuts(rejected(rotation.Denied, rotation.Never))
	unavailable = onlyPuts(rejected(rotation.Unavailable, rotation.Later))
)

// hanging does not answer before the caller has given up.
func hanging(ctx context.Context, _ bool) error {
	<-ctx.Done()
	return &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "no answer in the test"}
}

// lost is a put that is done, and whose answer is lost after a time.
func lost(after time.Duration) mirrorFault {
	return onlyPuts(func(context.Context, bool) error { time.Sleep(after); return mirrortest.ErrLost })
}

func writes(arn, id, payload string) step {
	return func(fx *fixture) {
		if err := fx.aws.Write(arn, id, payload); err != nil {
			fx.t.Fatal(err)
		}
	}
}

// moves makes the version before the last one the current one, or an earlier one.
func moves(arn string, back int) step {
	return func(fx *fixture) {
		kept, _ := fx.aws.Versions(arn)
		fx.aws.Move(arn, kept[len(kept)-1-back].ID)
	}
}

// One row for each rule of when a mirror is put and repaired. Runs have the timeout of the Lambda function.
func TestMirrors(t *testing.T) {
	const minute, rotate = time.Minute, rotation.ModeRotate
	each(t, map[string][]step{
		"each holds the token": {mirrors(first, second, third), rotates, mirrored(first, second, third),
			ensures(report.Fresh), versions(2)},
		"in the format that readers at IBM have": {mirrors(first), func(fx *fixture) { fx.one.Token.Format = iamtoken.JSON }, rotates,
			mirrored(first)},
		"of a kv secret it is the object": {mirrors(first), kv(marked), func(fx *fixture) { fx.one.Token.Field = iamtoken.DefaultField },
			rotates, mirrored(first), ensures(report.Fresh),
			remaining(30 * minute), wait(20 * minute), failing(first, 0, denied), fails(rotate, rotation.Denied), ensures(report.Fresh)}, // its own version is read of kv, too
		"of a kv secret with another field": {mirrors(first), kv(marked), func(fx *fixture) { fx.one.Token.Field = "logs" }, rotates,
			mirrored(first)},

		// What fails for a moment is written again, with the same version: nothing more is saved at IBM.
		"a put that fails for a moment": {mirrors(first, second), failing(second, 2, unavailable),
			func(fx *fixture) { fx.wantAttempts(fx.rotate(), 3) }, mirrored(first, second), versions(2)},
		"the answers to a save and a put are lost": {mirrors(first, second),
			fault(ibmcloudtest.Fault{Op: saveOp, Drop: ibmcloudtest.DropAfter, Times: 1}),
			failing(second, 1, lost(0)), rotates, mirrored(first, second), versions(2)},
		"another one refuses for good, once": {mirrors(first, second), func(fx *fixture) {
			tries, again := 0, 2
			fx.aws.Fault = func(ctx context.Context, arn string, put bool) error {
				switch {
				case arn == first && put:
					tries++
					return denied(ctx, put)
				case arn == second && again > 0:
					again--
					return &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later}
				}
				return nil
			}
			result := fx.run(rotate)
			fx.wantFailure(result, rotation.StepMirror, rotation.Denied)
			if tries != 1 || result.Error.Message != "rejected by the test" {
				fx.t.Errorf("got %d tries and %q, want one", tries, result.Error.Message)
			}
		}, mirrored(second)},
		"a put that fails is a failure, and the token is saved": {mirrors(first, second), failing(second, 0, denied), func(fx *fixture) {
			result := fx.run(rotate)
			fx.wantFailure(result, rotation.StepMirror, rotation.Denied)
			if want := fx.cloud.MustCurrent(fx.one.Token.ID).ID; result.VersionID != want || result.SecondsRemaining == nil ||
				*result.SecondsRemaining < 3500 {
				fx.t.Errorf("got version %s and %v seconds, want the token that was saved (%s)", result.VersionID, result.SecondsRemaining, want)
			}
		}, mirrored(first)},
		"nothing old is put": {mirrors(first), func(fx *fixture) {
			fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, afterSave: func() { fx.freeze(3 * minute) }}
		}, fails(rotate, rotation.Timeout), puts(first, 0)},
		"a put that came too late is no refusal": {mirrors(first), failing(first, 1, onlyPuts(rejected(rotation.Timeout, rotation.Never))),
			fails(rotate, rotation.Timeout), wait(3 * minute), ensures(report.Rotated)},

		// A put that was refused for good is not repaired, and is tried again with the next token that is saved anyway.
		"a refused one": {mirrors(first, second), failing(second, 0, denied), fails(rotate, rotation.Denied),
			times(45, wait(minute), fails(ensure, rotation.Denied)), versions(2),
			heal, wait(8 * minute), ensures(report.Rotated), mirrored(first, second),
			wait(20 * minute), failing(second, 1, denied), fails(rotate, rotation.Denied),
			wait(20 * minute), fault(ibmcloudtest.Fault{Op: saveOp, Drop: ibmcloudtest.DropAfter, Times: 1}), rotates, mirrored(second), // in the second attempt, the first put of this version
			failing(second, 0, denied), wait(50 * minute), fails(rotate, rotation.Denied)},
		"one that was refused once": {mirrors(first), failing(first, 1, denied), fails(rotate, rotation.Denied), rotates,
			wait(50 * minute), dies(rotate), times(4, wait(minute), noFailure), mirrored(first)},

		// A mirror named for the first time is filled without waiting for the next rotation.
		"a new one": {rotates, wait(10 * minute), mirrors(first), ensures(report.Rotated), mirrored(first)},
		"a new one with a value": {rotates, wait(10 * minute), mirrors(first), writes(first, someonesID, "none yet"),
			ensures(report.Rotated), mirrored(first)},
		"a new one with an id of another kind": {rotates, wait(10 * minute), mirrors(first),
			writes(first, "../../../etc/passwd/../../../..//", "none yet"), ensures(report.Rotated), mirrored(first)},
		"a new one that was changed just now": {rotates, wait(10 * minute), mirrors(first), writes(first, someonesID, "none yet"),
			wait(3 * minute), func(fx *fixture) { fx.aws.Move(first, "") }, wait(10 * time.Second), ensures(report.Rotated), mirrored(first)},
		"a new one beside one that hangs": {slowLine, rotates, wait(10 * minute), mirrors(first, second), failing(second, 0, hanging),
			fails(ensure, rotation.Timeout), mirrored(first), versions(3)},
		"one that cannot be reached is tried once more": {mirrors(first), rotates,
			failing(first, 0, rejected(rotation.Unavailable, rotation.Later)), func(fx *fixture) {
				result := fx.run(ensure)
				fx.wantFailure(result, rotation.StepMirror, rotation.Unavailable)
				fx.wantAttempts(result, 2)
			}},
		"a check reads it and writes none": {mirrors(first),
			func(fx *fixture) { fx.wantWarning(fx.run(check), "does not hold a token") }, puts(first, 0),
			failing(first, 0, rejected(rotation.NotFound, rotation.Never)), fails(check, rotation.NotFound)},
		"the puts of another run are under way": {mirrors(first), failing(first, 1, lost(time.Second)),
			func(fx *fixture) { go fx.run(rotate) }, wait(500 * time.Millisecond), ensures(report.Fresh), versions(2)},

		"a new one, of a version that another function has saved": {mirrors(first), others(time.Second, second),
			func(fx *fixture) { fx.one.Mirror = []string{first} }, noFailure, wait(2 * minute), ensures(report.Rotated), mirrored(first)},

		// A run dies between the save and its puts: the mirror has its own older token, and gets the next one by the expiry of that.
		"a run of rotate dies": {mirrors(first), rotates, wait(50 * minute), dies(rotate), puts(first, 1), versions(3),
			times(10, wait(minute), left(first, 2*minute), runs(ensure)), mirrored(first), versions(4)},
		"a run of ensure dies": {mirrors(first), rotates, wait(53 * minute), dies(ensure), puts(first, 1), versions(3),
			times(10, wait(minute), left(first, 2*minute), runs(ensure)), mirrored(first), versions(4)},
		// An outage of IBM is no lag of a mirror. The version in the mirror need not be read.
		"the first run after an outage of IBM dies": {mirrors(first), rotates, wait(3 * time.Hour), dies(ensure), puts(first, 1),
			reads(silentBut(rotation.PreviousVersion)), times(4, wait(minute), runs(ensure)), mirrored(first), puts(first, 2)},

		// IBM answers slowly: what it has saved comes to the mirrors all the same, whatever they hold, and under the same quota.
		"IBM is slow": {mirrors(first, second), rotates, wait(20 * minute), rotates, wait(20 * minute), failing(second, 1, denied),
			runs(rotate), puts(second, 2), // it holds neither the current version nor the one before the next
			func(fx *fixture) {
				fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, read: silentBut(""),
					beforeSave: func() { time.Sleep(9900 * time.Millisecond) }}
			}, wait(minute), func(fx *fixture) { fx.wantAttempts(fx.rotate(), 1) }, mirrored(second), puts(first, 3),
			times(3, wait(4*minute), rotates), puts(first, 3), // from the second one on the first mirror's version is one that the run does not know
			wait(4 * minute), rotates, mirrored(first), puts(first, 4), puts(second, 4)},

		// A rotation that comes soon after a put leaves the mirror its token, which is in order; a person may write it. A wrong clock of this machine changes nothing.
		"rotations that come soon":                   {mirrors(first), soon(0)},
		"rotations that come soon, the clock behind": {mirrors(first), soon(-20 * minute)},
		"rotations that come soon, a day ahead":      {mirrors(first), soon(24 * time.Hour)},
		"a parameter has no quota": {mirrors(parameter), rotates, wait(minute), rotates, mirrored(parameter),
			wait(minute), writes(parameter, "", "by hand"), wait(3 * minute), runs(ensure), mirrored(parameter)},
		"a parameter that was changed before a save": {mirrors(parameter), rotates, wait(minute), writes(parameter, "", "by hand"),
			rotates, mirrored(parameter)},
		"two runs at once may put in the other order": {lifetime(15 * minute), mirrors(first), rotates, wait(3 * time.Second), forces,
			moves(first, 1), times(18, wait(minute), noFailure), mirrored(first)},
		// A run that does not know the version in a mirror counts from AWS's date of it, which is later than IBM's: what was
		// saved in between was not put, and that is no failure.
		"a version that had to wait": {mirrors(first), func(fx *fixture) {
			fx.rotator.Random = func() float64 { return 0 } // no put waits for another deployment's
			fx.aws.Fault = putsTake(2 * time.Second)
		}, lifetime(15 * minute), rotates, wait(20 * minute), rotates, wait(8 * minute), rotates,
			wait(8*minute - time.Second), // since the second one's save: 16 minutes and a second
			func(fx *fixture) { fx.wantWarning(fx.rotate(), "gets a later token") }, puts(first, 2),
			wait(minute), ensures(report.Fresh), wait(minute), ensures(report.Rotated), mirrored(first)},

		"the puts of a run wait for another's": {lifetime(15 * minute), mirrors(first),
			func(fx *fixture) { fx.rotator.Random = func() float64 { return 0.99 } }, rotates, wait(30 * minute),
			func(fx *fixture) { go fx.run(ensure) }, wait(time.Second), noFailure, wait(minute), mirrored(first)},

		"a version that is saved too soon": {lifetime(15 * minute), mirrors(first),
			func(fx *fixture) { fx.rotator.Random = func() float64 { return 0.99 } },
			rotates, wait(16*minute - 15*time.Second), rotates, puts(first, 1)}, // its own wait does not make it later
		"two deployments that put at once": {lifetime(15 * minute), mirrors(first), rotates, wait(20 * minute), func(fx *fixture) {
			other := fx.process(fx.cloud.Transport())
			fx.aws.Fault = putsTake(time.Second)
			other.Mirrors, other.Random, fx.rotator.Random = fx.aws, func() float64 { return 0.9 }, func() float64 { return 0.1 }
			var both sync.WaitGroup
			both.Go(func() {
				fx.runWithin(2*minute, other, rotation.Request{Mode: rotate, RunID: "of-another-deployment"})
			})
			fx.rotate()
			both.Wait()
		}, puts(first, 2), wait(minute), noFailure},

		// People change mirrors by hand.
		"an older version made current": {mirrors(first), rotates, wait(50 * minute), rotates, wait(12 * minute), moves(first, 1),
			fails(ensure, rotation.Unavailable, "or one with force now"), times(5, runs(ensure), wait(minute)), mirrored(first), versions(4)},
		"overwritten by someone": {mirrors(first), rotates, wait(30 * minute), writes(first, someonesID, "mine"),
			fails(ensure, rotation.Unavailable, "does not hold a token that this function has put there"),
			times(17, runs(ensure), wait(minute)), mirrored(first), versions(3)},

		// The metadata of a mirror's version can be changed by others, as that of the current one.
		"metadata erased, and new":             metadataOfOlder(10*minute, nil, report.Fresh), // its put is counted
		"metadata erased":                      metadataOfOlder(22*minute, nil, report.Rotated),
		"metadata far in the future":           metadataOfOlder(22*minute, map[string]any{"expiration": int64(1) << 40}, report.Fresh),
		"metadata far in the future, and late": metadataOfOlder(54*minute, map[string]any{"expiration": int64(1) << 40}, report.Rotated), // trusted for 61 minutes
		"metadata in the past":                 metadataOfOlder(22*minute, map[string]any{"expiration": 1}, report.Rotated),
		"a version of the future": {mirrors(first), rotates, wait(10 * minute), rotates,
			reads(func(_ context.Context, id string, version rotation.TokenVersion) (rotation.TokenVersion, error) {
				if id != "" {
					version.CreatedAt = version.CreatedAt.Add(24 * time.Hour)
				}
				return version, nil
			}), wait(10 * minute), ensures(report.Rotated), mirrored(first)},
		// What cannot be read of its version is tried again, and publishes nothing, also where IBM seems to have forgotten it.
		"its version cannot be read": {mirrors(first), rotates, wait(20 * minute), failing(first, 1, denied), runs(rotate),
			fault(ibmcloudtest.Fault{Op: metadataOp, Skip: 1, Times: 1, Status: 503}),
			func(fx *fixture) { fx.wantAttempts(fx.run(ensure), 2) }, ensures(report.Fresh),
			fault(ibmcloudtest.Fault{Op: metadataOp, Skip: 1, Times: 2, Status: 400}), wait(minute), fails(ensure, rotation.Denied),
			func(fx *fixture) { fx.cloud.ClearFaults() },
			fault(ibmcloudtest.Fault{Op: metadataOp, Skip: 1, Times: 2, Status: 404}), wait(minute), fails(ensure, rotation.Denied), versions(3)},
		// Without IBM's time every token counts as expired: IBM's secret gets one every minute, and a mirror still one in 16
		// minutes. Only its second one may come sooner: the first one passes for the value that a person made the secret with.
		"IBM shows no time": {mirrors(first), reads(func(_ context.Context, _ string,
			version rotation.TokenVersion) (rotation.TokenVersion, error) {
			version.CreatedAt = time.Time{}
			return version, nil
		}), times(60, runs(ensure), wait(minute)), puts(first, 5)},

		"an event that is delivered again": {mirrors(first), failing(first, 1, denied), delivered(rotation.Denied),
			delivered(rotation.Denied), forget, delivered(rotation.Unavailable),
			wait(6 * minute), delivered(rotation.Unavailable), versions(2), // ensure repairs it, and rotate with the next version
			ensures(report.Rotated), mirrored(first), rotates},
		"a token that is kept": {mirrors(first, second), rotates, wait(20 * minute), failing(second, 1, denied), runs(rotate), lifetime(15 * minute),
			func(fx *fixture) { fx.wantOutcome(fx.run(rotate), report.Kept) },
			wait(35 * minute), // the second one's token has 5 minutes left, IBM's 25
			fails(rotate, rotation.Unavailable, "run once with force"), puts(second, 1), forces, mirrored(first, second)},
		// The account's lifetime of tokens was cut: a mirror that has a better one than IAM gives does not fail.
		"a better token than a new one": {remaining(44 * minute), mirrors(first), rotates, lifetime(15 * minute), times(58, wait(minute), noFailure)},

		// A repair is for the failing mirror alone, and comes later and later.
		"a failing one": {mirrors(first, second), rotates, failing(second, 0, unavailable), wait(20 * minute),
			fails(rotate, rotation.Unavailable), puts(first, 2),
			wait(32 * minute), forget, repairs, heal, wait(time.Hour), runs(ensure), left(second, 50*minute)}, // the second mirror's token has 6 minutes left, the first one's 28
		"runs that overlap": {mirrors(first, second), rotates, wait(53 * minute), func(fx *fixture) {
			var both sync.WaitGroup
			for range 3 {
				both.Go(func() { fx.run(ensure) })
			}
			both.Wait()
		}, wait(minute), ensures(report.Fresh), left(first, 50*minute)},
		// A save in the seconds when a mirror may be put again, by IBM's date and not yet by AWS's, was no try that failed: another
		// function's next save is no answer to it.
		"a save that could not be put is no try": {lifetime(15 * minute), mirrors(first, second), rotates,
			others(rotation.PutInterval+15*time.Second, first, second), others(2*minute, first),
			func(fx *fixture) { fx.one.Mirror = []string{second} }, times(4, wait(minute), noFailure)},
	}, func(fx *fixture, steps []step) { all(steps...)(fx) })
}

// soon is rotations within the quota's 16 minutes, while this machine's clock is off.
func soon(off time.Duration) step {
	return all(func(fx *fixture) { fx.skew.Store(int64(off)) }, rotates, wait(10*time.Minute), func(fx *fixture) {
		if result := fx.rotate(); off == 0 {
			fx.wantNoWarning(result)
		}
	}, puts(first, 1), ensures(report.Fresh), forces, mirrored(first), puts(first, 2), wait(16*time.Minute), rotates, mirrored(first),
		ensures(report.Fresh))
}

// metadataOfOlder edits the metadata of the version in a mirror, which is of this age when IBM already has a later one.
func metadataOfOlder(age time.Duration, metadata map[string]any, want report.Outcome) []step {
	return []step{mirrors(first), rotates, wait(age - 5*time.Minute), failing(first, 1, denied), runs(rotation.ModeRotate), forget,
		func(fx *fixture) { fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "previous", metadata) }, wait(5 * time.Minute), ensures(want)}
}

// delivered is a delivery of one event.
func delivered(kind rotation.Kind) step {
	return func(fx *fixture) {
		fx.t.Helper()
		fx.wantFailure(fx.runAs(rotation.Request{Mode: rotation.ModeRotate, RunID: "delivered-twice"}), rotation.StepMirror, kind)
	}
}

// others is a save by another function for these mirrors, whose puts do not come to this function's AWS.
func others(after time.Duration, arns ...string) step {
	return func(fx *fixture) {
		time.Sleep(after)
		other := fx.process(fx.cloud.Transport())
		other.Mirrors, fx.one.Mirror = &mirrortest.AWS{}, arns
		fx.wantOutcome(fx.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, Force: true,
			RunID: "save after " + after.String()}), report.Rotated)
	}
}

// slowLine delays each request to IBM; a caller that has given up gets no answer.
func slowLine(fx *fixture) {
	fx.rotator = fx.process(roundTripper(func(req *http.Request) (*http.Response, error) {
		time.Sleep(50 * time.Millisecond)
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
		return fx.cloud.Transport().RoundTrip(req)
	}))
}

// putsTake delays each put, if the caller waits for so long.
func putsTake(d time.Duration) func(context.Context, string, bool) error {
	return func(ctx context.Context, _ string, put bool) error {
		if !put {
			return nil
		}
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "the time was up"}
		}
	}
}

// repairs checks when versions are saved for the second mirror in 40 minutes.
func repairs(fx *fixture) {
	var at []time.Duration
	for began := time.Now(); time.Since(began) < 40*time.Minute; time.Sleep(time.Minute) {
		before := fx.versions()
		fx.run(ensure)
		if fx.versions() > before && fx.aws.Current(first).ID != fx.cloud.MustCurrent(fx.one.Token.ID).ID { // not one of the healthy mirror
			at = append(at, time.Since(began).Round(time.Minute))
		}
	}
	if len(at) < 3 || len(at) > 6 || at[0] > 2*time.Minute || at[len(at)-1]-at[len(at)-2] < 8*time.Minute {
		fx.t.Errorf("versions were saved after %s, want the waits to grow", at)
	}
	if got, _ := fx.aws.Versions(first); len(got) > 3 {
		fx.t.Errorf("the healthy mirror got %d versions, want one more at most", len(got))
	}
}

// The wait before the puts of short tokens ends before the run does, and does not hold up other rotations.
func TestTheWaitOfAPutCostsNoPut(t *testing.T) {
	for within, rotations := range map[time.Duration]int{6 * time.Second: 1, 2 * time.Minute: 60} {
		withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute, Rotations: rotations}, func(fx *fixture) {
			mirrors()(fx)
			fx.aws.Fault = putsTake(2 * time.Second)
			for i := range fx.all {
				fx.all[i].Mirror = []string{fmt.Sprint(first, i)}
				fx.aws.Current(fx.all[i].Mirror[0])
			}
			fx.rotator.Random, fx.rotator.Concurrency = func() float64 { return 0.99 }, 2
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			for i, result := range fx.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "run"}, fx.all).Results {
				fx.wantOutcome(result, report.Rotated)
				fx.one = fx.all[i]
				mirrored(fx.one.Mirror...)(fx)
			}
		})
	}
}

// MIN_REMAINING is capped by the token's lifetime: with no lifetime does every run save a token, a repeated delivery saves none,
// and IBM's secret gets no version that its mirror may not get, too.
func TestMinRemainingIsCapped(t *testing.T) {
	for _, test := range []struct{ least, lifetime, want time.Duration }{
		{480, 60, 480}, {480, 15, 480}, {44 * 60, 60, 44 * 60}, {59 * 60, 60, 44 * 60}, {60, 60, 60},
		{45 * 60, 15, 480}, {45 * 60, 24, 480}, {45 * 60, 30, 14 * 60}, {480, 10, 320}, {480, 6, 192}, {45 * 60, 5, 160},
	} {
		if got := rotation.Threshold(test.least*time.Second, test.lifetime*time.Minute); got != test.want*time.Second {
			t.Errorf("MIN_REMAINING %d, lifetime %d: got %s, want %d", test.least, test.lifetime, got, test.want)
		}
	}
	for lifetime, most := range map[time.Duration]int{6: 20, 10: 12, 15: 8, 20: 5, 30: 4, 60: 4} { // every 3, 5, 8, 12, 16 and 16 minutes
		withFixture(t, ibmcloudtest.Options{TokenTTL: lifetime * time.Minute}, func(fx *fixture) {
			fx.rotator.MinRemaining = time.Hour
			mirrors(parameter)(fx) // it has no part in when a version is saved
			if lifetime >= 30 {
				mirrors(first)(fx)
			}
			fx.wantWarning(fx.rotate(), "more than tokens of")
			saved := 0
			for range 60 {
				time.Sleep(time.Minute)
				if fx.run(ensure).Outcome == report.Rotated {
					saved++
				}
			}
			if saved > most || saved < most-1 {
				t.Errorf("tokens of %d minutes: %d versions in an hour, want %d", lifetime, saved, most)
			}
			puts(fx.one.Mirror[0], saved+1)(fx)
		})
	}
	for _, lifetime := range []time.Duration{5, 15, 60} {
		for _, least := range []time.Duration{1, 8, 59} {
			withFixture(t, ibmcloudtest.Options{TokenTTL: lifetime * time.Minute}, func(fx *fixture) {
				fx.rotator.MinRemaining = least * time.Minute
				request := rotation.Request{Mode: rotation.ModeRotate, RunID: "rotate-2026-01-01T10:00:00Z"}
				fx.wantOutcome(fx.runAs(request), report.Rotated)
				time.Sleep(2 * time.Minute) // EventBridge Scheduler and Lambda try for as long
				fx.wantOutcome(fx.runAs(request), report.AlreadyDone)
			})
		}
	}
}
