package rotation_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

const (
	firstARN  = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token-Ab12Cd"
	secondARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-Ab12Cd"
)

// mirrors emulates AWS Secrets Manager: it keeps the current version of each mirror.
type mirrors struct {
	mu      sync.Mutex
	current map[string]string // version id by ARN
	payload map[string]string
	puts    []string // version ids, as they were given
	reject  func(arn string, put bool) error
}

// mirrorTo gives the fixture's rotation two mirrors.
func (fx *fixture) mirrorTo(arns ...string) *mirrors {
	m := &mirrors{current: map[string]string{}, payload: map[string]string{}}
	fx.rotator.Mirrors, fx.one.Mirror = m, arns
	return m
}

func (m *mirrors) Current(_ context.Context, arn string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reject != nil {
		if err := m.reject(arn, false); err != nil {
			return "", err
		}
	}
	return m.current[arn], nil
}

func (m *mirrors) Put(_ context.Context, arn, versionID string, payload iamtoken.Secret) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts = append(m.puts, versionID)
	if m.reject != nil {
		if err := m.reject(arn, true); err != nil {
			return err
		}
	}
	m.current[arn], m.payload[arn] = versionID, payload.Reveal()
	return nil
}

// failing rejects puts to arn with kind, times times; 0 is for ever.
func (m *mirrors) failing(arn string, kind rotation.Kind, retry rotation.Retry, times int) {
	count := 0
	m.reject = func(to string, put bool) error {
		if to != arn || !put {
			return nil
		}
		if count++; times > 0 && count > times {
			return nil
		}
		return &rotation.Error{Kind: kind, Retry: retry, Message: "rejected by the test"}
	}
}

// wantMirrored checks that every mirror holds what IBM holds, under its version id.
func (fx *fixture) wantMirrored(m *mirrors, arns ...string) {
	fx.t.Helper()
	current := fx.cloud.MustCurrent(fx.one.Token.ID)
	for _, arn := range arns {
		if m.current[arn] != current.ID || m.payload[arn] != current.Payload {
			fx.t.Errorf("%s: got version %q, want %s with the same payload", arn, m.current[arn], current.ID)
		}
	}
}

func TestTheTokenIsInEveryMirror(t *testing.T) {
	for _, format := range []iamtoken.Format{iamtoken.Raw, iamtoken.Bearer, iamtoken.JSON} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			m := fx.mirrorTo(firstARN, secondARN)
			fx.one.Token.Format = format
			fx.rotate()
			fx.wantMirrored(m, firstARN, secondARN)
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
			fx.wantVersions(2)
		})
	}
}

func TestAKVSecretHasTheTokenInItsFieldAndItsMirrorIsTheObject(t *testing.T) {
	for field, want := range map[string]string{"": "iam_token", "logs": "logs"} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			m := fx.mirrorTo(firstARN)
			fx.one.Token.Field = field
			fx.one.Token.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: fx.cloud.TokenGroupName(), Data: map[string]any{want: "no token yet"}, Metadata: marked})
			fx.rotate()
			token, _ := fx.cloud.MustCurrent(fx.one.Token.ID).Data[want].(string)
			if _, _, err := fx.cloud.Validate(token); err != nil {
				t.Errorf("field %q: %v", want, err)
			}
			fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
			if got, want := m.payload[firstARN], fmt.Sprintf(`{%q:%q}`, want, token); got != want {
				t.Errorf("got a mirror of %d bytes, want the object of %d", len(got), len(want))
			}
		})
	}
}

// A mirror that fails for a moment is written again, with the same version: nothing
// more is saved at IBM.
func TestAMirrorIsRetriedWithTheSameToken(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		m.failing(secondARN, rotation.Unavailable, rotation.Later, 2)
		result := fx.rotate()
		if result.Attempts != 3 {
			t.Errorf("got %d attempts, want 3", result.Attempts)
		}
		fx.wantMirrored(m, firstARN, secondARN)
		fx.wantVersions(2)
		if ids := slices.Compact(slices.Sorted(slices.Values(m.puts))); len(ids) != 1 {
			t.Errorf("got puts of the versions %v, want one version", ids)
		}
	})
}

// The answer to the save is lost, so its version id is found by the next attempt.
func TestASaveWhoseAnswerWasLostIsMirrored(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Drop: ibmcloudtest.DropAfter, Times: 1})
		fx.rotate()
		fx.wantMirrored(m, firstARN)
		fx.wantVersions(2)
	})
}

// freezing is a token store whose process is frozen after a save.
type freezing struct {
	rotation.TokenStore
	freeze func()
}

func (f freezing) Save(ctx context.Context, ref rotation.TokenRef, current rotation.CurrentVersion, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	defer f.freeze()
	return f.TokenStore.Save(ctx, ref, current, token, metadata)
}

func TestNothingOldIsMirrored(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotator.Tokens = freezing{fx.rotator.Tokens, func() { fx.freeze(3 * time.Minute) }}
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Timeout)
		if len(m.puts) != 0 {
			t.Errorf("got %d puts, want none", len(m.puts))
		}
	})
}

func TestAFailedMirrorFailsTheReportButNotTheSavedToken(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		m.failing(secondARN, rotation.Denied, rotation.Never, 0)
		result := fx.run(rotation.ModeRotate)
		fx.wantFailure(result, rotation.StepMirror, rotation.Denied)
		fx.wantPublished(59 * time.Minute)
		fx.wantMirrored(m, firstARN)
		if want := fx.cloud.MustCurrent(fx.one.Token.ID).ID; result.VersionID != want || result.SecondsRemaining == nil || *result.SecondsRemaining < 3500 {
			t.Errorf("got version %s and %v seconds, want the token that was saved (%s)", result.VersionID, result.SecondsRemaining, want)
		}
	})
}

// Nobody here may read the stored token: a mirror that is behind is repaired by a new
// one in both, at most once in 5 minutes.
func TestAMirrorThatIsBehindIsRepaired(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN, secondARN)
		m.failing(secondARN, rotation.Denied, rotation.Never, 0)
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Denied)
		fx.wantVersions(2)
		for range 4 { // an ensure run every minute
			time.Sleep(time.Minute)
			fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepMirror, rotation.Unavailable)
		}
		fx.wantVersions(2)
		time.Sleep(time.Minute)
		fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepMirror, rotation.Denied)
		fx.wantVersions(3)
		m.reject = nil
		time.Sleep(time.Minute)
		fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepMirror, rotation.Unavailable)
		time.Sleep(4 * time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
		fx.wantVersions(4)
		fx.wantMirrored(m, firstARN, secondARN)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
	})
}

// A mirror named for the first time is filled without waiting for the next rotation.
func TestANewMirrorIsFilled(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		time.Sleep(10 * time.Minute)
		m := fx.mirrorTo(firstARN)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
		fx.wantMirrored(m, firstARN)
	})
}

func TestARepeatedDeliveryChecksTheMirrors(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		request := rotation.Request{Mode: rotation.ModeRotate, RunID: "delivered-twice"}
		fx.wantOutcome(fx.runAs(request), report.Rotated)
		fx.wantOutcome(fx.runAs(request), report.AlreadyDone)
		m.current[firstARN] = "another version"
		fx.wantFailure(fx.runAs(request), rotation.StepMirror, rotation.Unavailable)
		time.Sleep(6 * time.Minute)
		fx.wantOutcome(fx.runAs(request), report.Rotated)
		fx.wantMirrored(m, firstARN)
	})
}

// A run that is just writing its mirrors is no failure of another one.
func TestARunInTheMiddleOfItsMirrorsIsWaitedFor(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotate()
		current := maps.Clone(m.current)
		m.current[firstARN] = "the version before"
		time.AfterFunc(time.Second, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.current = current
		})
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Fresh)
		fx.wantVersions(2)
	})
}

func TestCheckReadsTheMirrorsAndWritesNone(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.wantOutcome(fx.run(rotation.ModeCheck), report.Checked)
		if len(m.puts) != 0 {
			t.Errorf("got %d puts, want none", len(m.puts))
		}
		m.reject = func(string, bool) error {
			return &rotation.Error{Kind: rotation.NotFound, Message: "rejected by the test"}
		}
		fx.wantFailure(fx.run(rotation.ModeCheck), rotation.StepMirror, rotation.NotFound)
	})
}

func TestAKeptTokenMustBeInTheMirrors(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		m := fx.mirrorTo(firstARN)
		fx.rotate()
		fx.cloud.SetTokenTTL(15 * time.Minute)
		time.Sleep(10 * time.Minute)
		fx.wantOutcome(fx.run(rotation.ModeRotate), report.Kept)
		m.current[firstARN] = "the version before"
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepMirror, rotation.Unavailable)
		fx.wantOutcome(fx.runAs(rotation.Request{Mode: rotation.ModeRotate, RunID: "with-force", Force: true}), report.Rotated)
		fx.wantMirrored(m, firstARN)
	})
}
