package rotation_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
)

func TestRotatePublishesAFreshToken(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		result := w.runAs(rotation.Request{Mode: rotation.ModeRotate, RunID: "rotate-1234"})
		w.wantOutcome(result, rotation.Rotated)
		w.wantPublished(59 * time.Minute)
		w.wantVersions(2)
		current := w.cloud.MustCurrent(w.one.Token.ID)
		if result.VersionID != current.ID {
			t.Errorf("reported version %s, want %s", result.VersionID, current.ID)
		}
		if result.MarginSeconds != nil {
			t.Errorf("got margin %d with no token before, want none", *result.MarginSeconds)
		}
		if result.SecondsRemaining == nil || *result.SecondsRemaining < 3590 {
			t.Errorf("got seconds_remaining %v, want about 3600", result.SecondsRemaining)
		}
		metadata, err := iamtoken.ParseMetadata(current.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		_, expires, _ := w.cloud.Validate(current.Payload)
		want := iamtoken.Metadata{
			Expiration: expires.Unix(), IssuedAt: expires.Unix() - 3600, ExpiresIn: 3600,
			IAMID: w.workload().IAMID, Account: w.cloud.AccountID(),
			Fingerprint: iamtoken.Token{Value: iamtoken.NewSecret(current.Payload)}.Fingerprint(),
			RunID:       "rotate-1234", RotatorVersion: "test",
		}
		if metadata != want {
			t.Errorf("got metadata %+v, want %+v", metadata, want)
		}
	})
}

func TestTwoPassesInOneWarmProcessPublishTwoFreshTokens(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		first := w.rotate()
		time.Sleep(50 * time.Minute)
		second := w.rotate()
		w.wantPublished(59 * time.Minute)
		if first.Fingerprint == second.Fingerprint {
			t.Error("both passes published the same token")
		}
		if second.MarginSeconds == nil || *second.MarginSeconds < 9*60 || *second.MarginSeconds > 10*60 {
			t.Errorf("got margin %v, want about 10 minutes", second.MarginSeconds)
		}
		w.wantVersions(3)
	})
}

func TestEnsureRotatesOnlyWhenLittleLifeIsLeft(t *testing.T) {
	for name, test := range map[string]struct {
		after time.Duration
		want  rotation.Outcome
	}{
		"at once":                   {0, rotation.Fresh},
		"with MIN_REMAINING left":   {52 * time.Minute, rotation.Fresh},
		"with a second less":        {52*time.Minute + time.Second, rotation.Rotated},
		"long after the token died": {3 * time.Hour, rotation.Rotated},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.rotate()
				time.Sleep(test.after)
				w.cloud.ClearRequests()
				w.wantOutcome(w.run(rotation.ModeEnsure), test.want)
				w.wantPublished(8 * time.Minute)
				if test.want == rotation.Fresh && w.countRequests(ibmcloudtest.OpSecretsGet) > 0 {
					t.Error("ensure read the API key though the token was fresh")
				}
			})
		})
	}
}

func TestEnsureFillsASecretThatHoldsNoTokenYet(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.wantOutcome(w.run(rotation.ModeEnsure), rotation.Rotated)
		w.wantPublished(59 * time.Minute)
	})
}

func TestCheckSavesNothing(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.wantOutcome(w.run(rotation.ModeCheck), rotation.Checked)
		w.wantVersions(1)
		if got := w.countRequests(ibmcloudtest.OpIAMToken); got != 2 {
			t.Errorf("got %d token requests, want the bootstrap's and the workload's", got)
		}
	})
}

func TestARedeliveredEventDoesNothing(t *testing.T) {
	request := rotation.Request{Mode: rotation.ModeRotate, RunID: "rotate-2026-01-01T10:00:00Z"}
	for name, test := range map[string]struct {
		after time.Duration
		want  rotation.Outcome
	}{
		"soon after":            {time.Minute, rotation.AlreadyDone},
		"after 15 minutes":      {15 * time.Minute, rotation.Rotated},
		"when the token is old": {55 * time.Minute, rotation.Rotated},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.wantOutcome(w.runAs(request), rotation.Rotated)
				time.Sleep(test.after)
				w.wantOutcome(w.runWithin(2*time.Minute, w.process(w.cloud.Transport()), request), test.want)
			})
		})
	}
}

func TestEveryFormatIsWhatReadersExpect(t *testing.T) {
	for _, format := range []iamtoken.Format{iamtoken.Raw, iamtoken.Bearer, iamtoken.JSON} {
		t.Run(string(format), func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.one.Token.Format = format
				w.rotate()
				payload := w.cloud.MustCurrent(w.one.Token.ID).Payload
				token := payload
				switch format {
				case iamtoken.Bearer:
					token = strings.TrimPrefix(payload, "Bearer ")
				case iamtoken.JSON:
					var fields map[string]any
					if err := json.Unmarshal([]byte(payload), &fields); err != nil {
						t.Fatal(err)
					}
					token, _ = fields["access_token"].(string)
					if fields["token_type"] != "Bearer" || fields["expires_in"] != 3600.0 || fields["refresh_token"] != nil {
						t.Errorf("got token.json with token_type %v, expires_in %v", fields["token_type"], fields["expires_in"])
					}
				}
				if _, _, err := w.cloud.Validate(token); err != nil {
					t.Errorf("the token in the payload: %v", err)
				}
			})
		})
	}
}

func TestAKVTokenSecretHoldsTheTokenInItsField(t *testing.T) {
	for field, want := range map[string]string{"": "iam_token", "access": "access"} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.one.Token.ID = w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
				Type: "kv", Group: w.cloud.TokenGroupName(), Data: map[string]any{want: "no token yet"},
			})
			w.one.Token.Field = field
			w.rotate()
			token, _ := w.cloud.MustCurrent(w.one.Token.ID).Data[want].(string)
			if _, _, err := w.cloud.Validate(token); err != nil {
				t.Errorf("field %q: %v", want, err)
			}
			w.wantOutcome(w.run(rotation.ModeEnsure), rotation.Fresh)
		})
	}
}

func TestManyRotationsSucceedOrFailOnTheirOwn(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{Rotations: 40}, func(w *world) {
		w.all[3].Token.ID = "00000000-0000-4000-8000-000000000000"
		for i := 10; i < 20; i++ {
			w.all[i].APIKey = w.all[10].APIKey
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		report := w.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "many-rotations"}, w.all)
		for i, result := range report.Results {
			if result.Rotation != w.all[i].Name {
				t.Fatalf("result %d is of %s, want %s", i, result.Rotation, w.all[i].Name)
			}
			if i != 3 {
				w.wantOutcome(result, rotation.Rotated)
			}
		}
		w.wantFailure(report.Results[3], rotation.StepLook, rotation.NotFound)
		if got := len(report.Failures()); got != 1 {
			t.Errorf("got %d failures, want 1", got)
		}
		if got := w.countRequests(ibmcloudtest.OpSecretsGet); got != 31 {
			t.Errorf("got %d key reads, want 31: equal keys are read once", got)
		}
		if got := w.countRequests(ibmcloudtest.OpIAMToken); got != 1+39 {
			t.Errorf("got %d token requests, want one for the bootstrap and one for each rotation but the failed", got)
		}
	})
}

func TestAFailingRotationDelaysNoOther(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{Rotations: 8}, func(w *world) {
		w.rotator.Concurrency = 1
		w.all[0].APIKey.ID = w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "no-such-key"})
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		report := w.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "one-of-them-fails"}, w.all)
		w.wantFailure(report.Results[0], rotation.StepExchange, rotation.Denied)
		for _, result := range report.Results[1:] {
			w.wantOutcome(result, rotation.Rotated)
			if result.Duration > time.Second {
				t.Errorf("%s took %s behind a failing rotation, want no delay", result.Rotation, result.Duration)
			}
		}
	})
}
