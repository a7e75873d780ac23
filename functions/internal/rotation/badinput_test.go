package rotation_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
)

// good are the parts of a token answer that are not under test.
const good = `"token_type":"Bearer","expires_in":3600,"expiration":946688400`

func TestAnUnusableAnswerOfIAMIsNeverPublished(t *testing.T) {
	for name, answer := range map[string]ibmcloudtest.Fault{
		"empty":            {Status: 200},
		"HTML":             {Status: 200, ContentType: "text/html", Body: "<html><body>Log in</body></html>"},
		"truncated":        {Status: 200, Body: `{"access_token":"eyJraWQiOi`},
		"not JSON":         {Status: 200, Body: `access_token=abc`},
		"null":             {Status: 200, Body: `null`},
		"empty token":      {Status: 200, Body: `{"access_token":"",` + good + `}`},
		"white space":      {Status: 200, Body: `{"access_token":"a b",` + good + `}`},
		"not Bearer":       {Status: 200, Body: `{"access_token":"abc","token_type":"MAC","expires_in":3600,"expiration":946688400}`},
		"no expiration":    {Status: 200, Body: `{"access_token":"abc","token_type":"Bearer"}`},
		"expires_in wrong": {Status: 200, Body: `{"access_token":"abc","token_type":"Bearer","expires_in":"soon"}`},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.rotate()
				answer.Op, answer.Identity = ibmcloudtest.OpIAMToken, ibmcloudtest.IdentityWorkload
				w.fault(answer)
				w.wantFailure(w.run(rotation.ModeRotate), rotation.StepCheck, rotation.InvalidToken)
				w.wantVersions(2)
				w.wantPublished(50 * time.Minute)
				w.cloud.ClearFaults()
				answer.Times = 2
				w.fault(answer)
				result := w.run(rotation.ModeRotate)
				w.wantOutcome(result, rotation.Rotated)
				if result.Attempts != 3 {
					t.Errorf("got %d attempts, want 3", result.Attempts)
				}
			})
		})
	}
}

func TestAnAgeingTokenIsNeverPublished(t *testing.T) {
	for name, left := range map[string]time.Duration{
		"expired":                 -time.Minute,
		"4 seconds left":          4 * time.Second,
		"less than 5 minutes":     299 * time.Second,
		"less than half its life": 29 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.ageingToken(left)
				w.wantFailure(w.run(rotation.ModeRotate), rotation.StepCheck, rotation.InvalidToken)
				w.wantVersions(1)
			})
		})
	}
}

// ageingToken makes IAM answer with a real token that has left of its life.
func (w *world) ageingToken(left time.Duration) {
	w.t.Helper()
	token := w.cloud.MustMintToken(w.workload().APIKey, left)
	w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200,
		Body: `{"access_token":"` + token + `",` + good + `}`})
}

func TestAnAccountWhoseTokensLive15MinutesIsServedWithAWarning(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(w *world) {
		result := w.rotate()
		w.wantPublished(14 * time.Minute)
		if !strings.Contains(strings.Join(result.Warnings, "\n"), "shorter than the schedule") {
			t.Errorf("got warnings %q, want one on the lifetime", result.Warnings)
		}
		time.Sleep(7*time.Minute + time.Second)
		w.wantOutcome(w.run(rotation.ModeEnsure), rotation.Rotated)
	})
}

func TestATokenThatExpiresBeforeTheStoredOneIsKeptBack(t *testing.T) {
	for _, force := range []bool{false, true} {
		inWorld(t, ibmcloudtest.Options{}, func(w *world) {
			w.rotate()
			w.cloud.SetTokenTTL(15 * time.Minute)
			result := w.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: force, RunID: "a-shorter-one"})
			if force {
				w.wantOutcome(result, rotation.Rotated)
				w.wantPublished(14 * time.Minute)
				return
			}
			w.wantOutcome(result, rotation.Kept)
			w.wantPublished(59 * time.Minute)
			w.wantVersions(2)
		})
	}
}

func TestStoredMetadataIsBelievedOnlyAsFarAsItMay(t *testing.T) {
	inAYear := func() int64 { return time.Now().Add(365 * 24 * time.Hour).Unix() }
	for name, test := range map[string]struct {
		metadata func() map[string]any
		after    time.Duration
		want     rotation.Outcome
	}{
		"an expiration far ahead holds rotation up for an hour": {func() map[string]any { return map[string]any{"expiration": inAYear()} }, 50 * time.Minute, rotation.Fresh},
		"and no longer":              {func() map[string]any { return map[string]any{"expiration": inAYear()} }, 54 * time.Minute, rotation.Rotated},
		"none":                       {func() map[string]any { return nil }, 0, rotation.Rotated},
		"of another type":            {func() map[string]any { return map[string]any{"expiration": "tomorrow"} }, 0, rotation.Rotated},
		"no expiration among others": {func() map[string]any { return map[string]any{"owner": "someone"} }, 0, rotation.Rotated},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.rotate()
				w.cloud.MustSetVersionMetadata(w.one.Token.ID, "current", test.metadata())
				time.Sleep(test.after)
				w.wantOutcome(w.run(rotation.ModeEnsure), test.want)
			})
		})
	}
}

func TestAnAPIKeyIsReadWhereverItSits(t *testing.T) {
	for name, test := range map[string]struct {
		spec  func(key, iamID string) ibmcloudtest.SecretSpec
		field string
		byRef func(w *world, id string) rotation.KeyRef
	}{
		"trailing newline": {func(key, _ string) ibmcloudtest.SecretSpec { return ibmcloudtest.SecretSpec{Payload: key + "\n"} }, "", nil},
		"kv": {func(key, _ string) ibmcloudtest.SecretSpec {
			return ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"the_key": key, "more": 1}}
		}, "the_key", nil},
		"iam_credentials": {func(_, iamID string) ibmcloudtest.SecretSpec {
			return ibmcloudtest.SecretSpec{Type: "iam_credentials", ReuseAPIKey: true, IAMID: iamID}
		}, "", nil},
		"service_credentials": {func(_, iamID string) ibmcloudtest.SecretSpec {
			return ibmcloudtest.SecretSpec{Type: "service_credentials", IAMID: iamID}
		}, "", nil},
		"by group and name": {func(key, _ string) ibmcloudtest.SecretSpec {
			return ibmcloudtest.SecretSpec{Name: "by-name", Payload: key}
		}, "", func(w *world, _ string) rotation.KeyRef {
			return rotation.KeyRef{Group: w.cloud.KeyGroupName(), Type: "arbitrary", Name: "by-name"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				id := w.cloud.MustCreateSecret(test.spec(w.workload().APIKey, w.workload().IAMID))
				w.one.APIKey = rotation.KeyRef{ID: id, Field: test.field}
				if test.byRef != nil {
					w.one.APIKey = test.byRef(w, id)
				}
				w.rotate()
				w.wantPublished(59 * time.Minute)
			})
		})
	}
}

func TestAKeySecretThatCannotServeIsSaidSo(t *testing.T) {
	for name, test := range map[string]struct {
		spec  ibmcloudtest.SecretSpec
		field string
		says  string
	}{
		"empty":                    {ibmcloudtest.SecretSpec{Payload: " \n"}, "", "holds no API key"},
		"several words":            {ibmcloudtest.SecretSpec{Payload: "apikey: abc"}, "", "bare key"},
		"JSON":                     {ibmcloudtest.SecretSpec{Payload: `{"apikey":"abc"}`}, "", "bare key"},
		"field of a plain secret":  {ibmcloudtest.SecretSpec{Payload: "abc"}, "apikey", "api_key_field"},
		"kv without a field":       {ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": "abc"}}, "", "api_key_field"},
		"kv with another field":    {ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": "abc"}}, "key", "api_key_field"},
		"kv with an object":        {ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": map[string]any{"a": "b"}}}, "apikey", "api_key_field"},
		"iam_credentials no reuse": {ibmcloudtest.SecretSpec{Type: "iam_credentials"}, "", "reuse_api_key"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.one.APIKey = rotation.KeyRef{ID: w.cloud.MustCreateSecret(test.spec), Field: test.field}
				result := w.run(rotation.ModeRotate)
				step := rotation.StepReadKey
				if name == "JSON" {
					step = rotation.StepExchange // only IBM's SDK knows
				}
				w.wantFailure(result, step, rotation.Misconfigured)
				if !strings.Contains(result.Error.Message, test.says) || result.Attempts != 1 {
					t.Errorf("got %q after %d attempts, want it to say %q after one", result.Error.Message, result.Attempts, test.says)
				}
				w.wantVersions(1)
			})
		})
	}
}

func TestASecretOutOfReachIsSaidSoAtOnce(t *testing.T) {
	type arrange func(w *world)
	for name, test := range map[string]struct {
		arrange arrange
		step    rotation.Step
		kind    rotation.Kind
		says    string
	}{
		"key missing": {func(w *world) { w.cloud.MustDeleteSecret(w.one.APIKey.ID) }, rotation.StepReadKey, rotation.NotFound, "API_KEY_SECRET"},
		"key forbidden": {func(w *world) {
			w.one.APIKey.ID = w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Group: "default", Payload: "abc"})
		}, rotation.StepReadKey, rotation.Denied, "secret.read"},
		"key locked":    {func(w *world) { w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 412}) }, rotation.StepReadKey, rotation.Locked, "remove its locks"},
		"token missing": {func(w *world) { w.cloud.MustDeleteSecret(w.one.Token.ID) }, rotation.StepLook, rotation.NotFound, "TOKEN_SECRET"},
		"token forbidden": {func(w *world) {
			w.one.Token.ID = w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Group: "default", Payload: "abc"})
		}, rotation.StepLook, rotation.Denied, "secret-version-metadata.read"},
		"save forbidden": {func(w *world) { w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 403}) }, rotation.StepSave, rotation.Denied, "secret-version.create"},
		"token's type": {func(w *world) {
			w.one.Token.ID = w.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Group: w.cloud.TokenGroupName()})
		}, rotation.StepLook, rotation.Misconfigured, "arbitrary or kv"},
		"field of raw": {func(w *world) { w.one.Token.Field = "token" }, rotation.StepLook, rotation.Misconfigured, "token_field"},
		"redirected": {func(w *world) {
			w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 307, Headers: map[string]string{"Location": "https://elsewhere.test/"}})
		}, rotation.StepReadKey, rotation.Misconfigured, "redirects"},
		"IAM redirected": {func(w *world) {
			w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: "workload", Status: 307, Headers: map[string]string{"Location": "https://elsewhere.test/"}})
		}, rotation.StepExchange, rotation.Misconfigured, "redirects"},
		"address not allowed": {func(w *world) {
			w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: "workload", Status: 403})
		}, rotation.StepExchange, rotation.Denied, "address"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				test.arrange(w)
				result := w.run(rotation.ModeRotate)
				w.wantFailure(result, test.step, test.kind)
				if !strings.Contains(result.Error.Message, test.says) || result.Attempts != 1 {
					t.Errorf("got %q after %d attempts, want it to say %q after one", result.Error.Message, result.Attempts, test.says)
				}
			})
		})
	}
}

func TestALockOnCurrentLetsOneRotationPassAndStopsTheNext(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.cloud.MustLock(w.one.Token.ID, "current", "someone-needs-it")
		w.rotate()
		result := w.run(rotation.ModeRotate)
		w.wantFailure(result, rotation.StepSave, rotation.Locked)
		if !strings.Contains(result.Error.Message, "previous version is locked: remove its locks") {
			t.Errorf("got message %q, want it to say which version to unlock", result.Error.Message)
		}
		w.wantVersions(2)
		w.wantPublished(59 * time.Minute)
	})
}

func TestATokenIsNeverPublishedOverTheKeyItCameFrom(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		// The admin may do what the bootstrap identity may not.
		w.rotator = w.processWithKey(w.cloud.Transport(), ibmcloud.FixedKey(iamtoken.NewSecret(w.cloud.AdminAPIKey())))
		w.one.Token.ID = w.workload().APIKeySecret
		w.one.APIKey = rotation.KeyRef{Group: w.cloud.KeyGroupName(), Type: "arbitrary", Name: w.workload().APIKeySecretName}
		w.wantFailure(w.run(rotation.ModeRotate), rotation.StepSave, rotation.Misconfigured)
		if got := w.cloud.MustCurrent(w.workload().APIKeySecret).Payload; got != w.workload().APIKey {
			t.Error("the API key was replaced")
		}
	})
}

// Whoever may edit metadata could have put anything there.
func TestStoredMetadataIsNotRepeated(t *testing.T) {
	const planted = "canary-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		for _, metadata := range []map[string]any{
			{"iam_id": planted, "account": planted, "fingerprint": planted, "run_id": planted, "expiration": 1},
			{"iam_id": "iam-ServiceId-1", "account": planted}, {planted: planted},
		} {
			w.cloud.MustSetVersionMetadata(w.one.Token.ID, "current", metadata)
			for _, mode := range []rotation.Mode{rotation.ModeCheck, rotation.ModeRotate} {
				encoded, err := json.Marshal(w.run(mode))
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(encoded), "canary") {
					t.Errorf("%s: the report repeats stored metadata: %s", mode, encoded)
				}
			}
		}
	})
}

func TestAnExpirationInMillisecondsIsNotPublished(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200,
			Body: `{"access_token":"opaque-token","token_type":"Bearer","expires_in":3600,"expiration":` + unixIn(time.Hour) + `000}`})
		w.wantFailure(w.run(rotation.ModeRotate), rotation.StepCheck, rotation.InvalidToken)
	})
}

func TestATokenOfEightMinutesNeedsFiveOfThem(t *testing.T) {
	for left, want := range map[time.Duration]rotation.Outcome{299 * time.Second: rotation.Failed, 301 * time.Second: rotation.Rotated} {
		inWorld(t, ibmcloudtest.Options{TokenTTL: 8 * time.Minute}, func(w *world) {
			token := w.cloud.MustMintToken(w.workload().APIKey, left)
			w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200,
				Body: `{"access_token":"` + token + `","token_type":"Bearer","expires_in":480,"expiration":4102444800}`})
			w.wantOutcome(w.run(rotation.ModeRotate), want)
		})
	}
}
