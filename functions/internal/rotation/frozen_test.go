package rotation_test

import (
	"context"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
)

// freezing is an exchanger whose process is suspended after the exchange: the
// wall clock moves on, no timer fires.
type freezing struct {
	rotation.Exchanger
	freeze func()
}

func (f freezing) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.Exchanged, error) {
	exchanged, err := f.Exchanger.Exchange(ctx, key)
	f.freeze()
	return exchanged, err
}

func TestATokenExchangedBeforeTheProcessWasFrozenIsNotPublished(t *testing.T) {
	for _, frozen := range []time.Duration{121 * time.Second, 25 * time.Minute} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.rotator.IAM = freezing{w.rotator.IAM, func() { w.skew.Add(int64(frozen)) }}
			w.wantFailure(w.run(rotation.ModeRotate), rotation.StepSave, rotation.Timeout)
			w.wantVersions(1)
		})
	}
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotator.IAM = freezing{w.rotator.IAM, func() { w.skew.Add(int64(time.Hour)) }}
		result := w.run(rotation.ModeRotate)
		if result.Outcome != rotation.Failed || w.versions() != 1 {
			t.Errorf("got outcome %s and %d versions, want a failure and nothing published", result.Outcome, w.versions())
		}
	})
}

// thawing is an exchanger before which the process is suspended: the token it
// gets is fresh, what the look found is not.
type thawing struct {
	rotation.Exchanger
	freeze func()
}

func (f thawing) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.Exchanged, error) {
	f.freeze()
	return f.Exchanger.Exchange(ctx, key)
}

func TestALookBeforeTheProcessWasFrozenDoesNotCountAfterwards(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		time.Sleep(50 * time.Minute)
		other := w.process(w.cloud.Transport())
		w.rotator.IAM = thawing{w.rotator.IAM, func() {
			w.skew.Add(int64(41 * time.Minute))
			published := w.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"})
			w.wantOutcome(published, rotation.Rotated)
			w.cloud.SetTokenTTL(45 * time.Minute) // ours would take life from readers now
		}}
		w.wantFailure(w.run(rotation.ModeRotate), rotation.StepSave, rotation.Timeout)
		w.wantVersions(3)
		w.wantPublished(59 * time.Minute)
	})
}

// freezingStore is a store before which the process is suspended: it has decided
// to save, and the request has not left yet.
type freezingStore struct {
	rotation.TokenStore
	freeze func()
}

func (f freezingStore) Save(ctx context.Context, ref rotation.TokenRef, stored rotation.Stored, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.Saved, error) {
	f.freeze()
	return f.TokenStore.Save(ctx, ref, stored, token, metadata)
}

func TestASaveDecidedBeforeTheProcessWasFrozenDoesNotLeave(t *testing.T) {
	for frozen, want := range map[time.Duration]rotation.Outcome{
		time.Minute: rotation.Rotated, 3 * time.Minute: rotation.Failed, 54 * time.Minute: rotation.Failed,
	} {
		t.Run(frozen.String(), func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.rotate()
				w.rotator.Tokens = freezingStore{w.rotator.Tokens, func() { w.skew.Add(int64(frozen)) }}
				result := w.run(rotation.ModeRotate)
				w.wantOutcome(result, want)
				if want == rotation.Failed {
					w.wantFailure(result, rotation.StepLook, rotation.Timeout)
					w.wantVersions(2)
				}
			})
		})
	}
}
