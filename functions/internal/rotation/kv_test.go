package rotation_test

import (
	"maps"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// marked is the metadata of a kv secret that the set-up has made.
var marked = map[string]any{"rotator_version": "set-up"}

// withKV has a kv token secret with entries of its owner's, as the edits leave it.
func withKV(t *testing.T, metadata map[string]any, edit func(fx *fixture), test func(fx *fixture)) {
	t.Helper()
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.one.Token.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: fx.cloud.TokenGroupName(), Metadata: metadata,
			Data: map[string]any{"url": "https://example.com", "user": "someone", "iam_token": "none"}})
		fx.rotator.HowToRun = func(name string, force bool) string { return map[bool]string{true: "force " + name}[force] }
		if edit != nil {
			edit(fx)
		}
		fx.cloud.ClearRequests()
		test(fx)
	})
}

func (fx *fixture) force() report.Result {
	return fx.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: true, RunID: "forced-run"})
}

// erase edits the metadata of the two versions that have a value, after two saves.
func erase(versions ...string) func(fx *fixture) {
	return func(fx *fixture) {
		fx.force()
		fx.rotate()
		for _, version := range versions {
			fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, version, map[string]any{"expiration": time.Now().Add(time.Hour).Unix(), "owner": "someone"})
		}
	}
}

func TestAKVSecretOfOthersIsNotOverwritten(t *testing.T) {
	valid := time.Now().Add(time.Hour).Unix()
	for name, test := range map[string]struct {
		metadata map[string]any
		edit     func(fx *fixture)
	}{
		"made by hand":               {},
		"with metadata of its own":   {metadata: map[string]any{"expiration": valid, "fingerprint": "0123456789abcdef", "owner": "someone"}},
		"a mark that is empty":       {metadata: map[string]any{"rotator_version": ""}},
		"a mark that is no text":     {metadata: map[string]any{"rotator_version": 1}},
		"both erased since":          {edit: erase("current", "previous")},
		"no previous version is 400": {edit: func(fx *fixture) { fx.fault(previousMetadata(400, 1)) }},
	} {
		for _, mode := range []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure, rotation.ModeCheck} {
			t.Run(name+", "+string(mode), func(t *testing.T) {
				withKV(t, test.metadata, test.edit, func(fx *fixture) {
					before := fx.cloud.MustCurrent(fx.one.Token.ID)
					result := fx.run(mode)
					fx.wantFailure(result, rotation.StepLook, rotation.Misconfigured, "of type kv", "its other entries", "force default")
					after := fx.cloud.MustCurrent(fx.one.Token.ID)
					if after.ID != before.ID || !maps.Equal(after.Data, before.Data) || result.Attempts != 1 {
						t.Errorf("got version %s after %d attempts, want %s with its entries after 1", after.ID, result.Attempts, before.ID)
					}
					fx.wantOutcome(fx.force(), report.Rotated)
					time.Sleep(20 * time.Minute)
					fx.rotate() // it is the function's now
				})
			})
		}
	}
}

// previousMetadata is a fault of the second read of metadata, the previous version's.
func previousMetadata(status, times int) ibmcloudtest.Fault {
	return ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Skip: 1, Times: times, Status: status}
}

func TestAKVSecretOfTheFunctionIsWritten(t *testing.T) {
	damaged := func(fx *fixture) {
		fx.force()
		fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", map[string]any{"rotator_version": "1", "expiration": "soon"})
	}
	for name, test := range map[string]struct {
		metadata map[string]any
		edit     func(fx *fixture)
		reads    int // of metadata, in one run
	}{
		"made by the set-up":               {marked, nil, 1},
		"written before":                   {nil, erase(), 1},
		"the previous one's erased":        {nil, erase("previous"), 1},
		"the current one's erased":         {nil, erase("current"), 2},
		"a field of another type":          {nil, damaged, 1},
		"the previous one's read is tried": {nil, func(fx *fixture) { erase("current")(fx); fx.fault(previousMetadata(503, 1)) }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			withKV(t, test.metadata, test.edit, func(fx *fixture) {
				fx.rotate()
				if got := fx.countRequests(ibmcloudtest.OpVersionsMetadata); got != test.reads {
					t.Errorf("got %d reads of metadata, want %d", got, test.reads)
				}
				fx.cloud.ClearFaults()
				fx.cloud.ClearRequests()
				fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
				if got := len(fx.cloud.Requests()); got != 1 {
					t.Errorf("ensure made %d requests, want 1", got)
				}
			})
		})
	}
}
