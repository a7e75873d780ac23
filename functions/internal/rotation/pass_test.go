package rotation_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

func TestRotatePublishesAFreshToken(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		result := fx.runAs(rotation.Request{Mode: rotation.ModeRotate, RunID: "rotate-1234"})
		fx.wantOutcome(result, report.Rotated)
		fx.wantPublished(59 * time.Minute)
		fx.wantVersions(2)
		current := fx.cloud.MustCurrent(fx.one.Token.ID)
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
		_, expires, _ := fx.cloud.Validate(current.Payload)
		want := iamtoken.Metadata{
			Expiration: expires.Unix(), IssuedAt: expires.Unix() - 3600, ExpiresIn: 3600,
			IAMID: fx.workload().IAMID, Account: fx.cloud.AccountID(),
			Fingerprint: iamtoken.Token{Value: iamtoken.NewSecret(current.Payload)}.Fingerprint(),
			RunID:       "rotate-1234", RotatorVersion: "test", Mirrors: "none",
		}
		if metadata != want {
			t.Errorf("got metadata %+v, want %+v", metadata, want)
		}
	})
}

func TestEnsureRotatesOnlyATokenThatExpiresSoon(t *testing.T) {
	for name, test := range map[string]struct {
		after time.Duration
		want  report.Outcome
	}{
		"at once":                      {0, report.Fresh},
		"with MIN_REMAINING left":      {52 * time.Minute, report.Fresh},
		"with a second less":           {52*time.Minute + time.Second, report.Rotated},
		"long after the token expired": {3 * time.Hour, report.Rotated},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.rotate()
				time.Sleep(test.after)
				fx.cloud.ClearRequests()
				fx.wantOutcome(fx.run(rotation.ModeEnsure), test.want)
				fx.wantPublished(8 * time.Minute)
				if test.want == report.Fresh && fx.countRequests(ibmcloudtest.OpSecretsGet) > 0 {
					t.Error("ensure read the API key though the token was fresh")
				}
			})
		})
	}
}

func TestCheckSavesNothing(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.wantOutcome(fx.run(rotation.ModeCheck), report.Checked)
		fx.wantVersions(1)
		if got := fx.countRequests(ibmcloudtest.OpIAMToken); got != 2 {
			t.Errorf("got %d token requests, want the bootstrap's and the workload's", got)
		}
	})
}

func TestARedeliveredEventDoesNothing(t *testing.T) {
	request := rotation.Request{Mode: rotation.ModeRotate, RunID: "rotate-2026-01-01T10:00:00Z"}
	for name, test := range map[string]struct {
		after time.Duration
		want  report.Outcome
	}{
		"soon after":            {time.Minute, report.AlreadyDone},
		"after 15 minutes":      {15 * time.Minute, report.Rotated},
		"when the token is old": {55 * time.Minute, report.Rotated},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.wantOutcome(fx.runAs(request), report.Rotated)
				time.Sleep(test.after)
				fx.wantOutcome(fx.runWithin(2*time.Minute, fx.process(fx.cloud.Transport()), request), test.want)
			})
		})
	}
}

func TestEveryFormatIsWhatReadersExpect(t *testing.T) {
	for format, shape := range map[iamtoken.Format]string{
		iamtoken.Raw: `^[^ ]+$`, iamtoken.Bearer: `^Bearer [^ ]+$`,
		iamtoken.JSON: `^{"access_token":"[^"]+","token_type":"Bearer","expires_in":3600,"expiration":[0-9]+}$`,
	} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.one.Token.Format = format
			fx.rotate()
			current := fx.cloud.MustCurrent(fx.one.Token.ID)
			token, err := iamtoken.Version{Payload: iamtoken.NewSecret(current.Payload), CreatedAt: current.CreatedAt}.Token()
			if err == nil {
				_, _, err = fx.cloud.Validate(token.Value.Reveal())
			}
			if err != nil || !regexp.MustCompile(shape).MatchString(current.Payload) {
				t.Errorf("%s: %v, or the payload has another shape", format, err)
			}
		})
	}
}

func TestManyRotationsSucceedOrFailOnTheirOwn(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{Rotations: 40}, func(fx *fixture) {
		fx.all[3].Token.ID = "00000000-0000-4000-8000-000000000000"
		for i := 10; i < 20; i++ {
			fx.all[i].APIKey = fx.all[10].APIKey
		}
		ran := fx.runAll("many-rotations")
		for i, result := range ran.Results {
			if result.Rotation != fx.all[i].Name {
				t.Fatalf("result %d is of %s, want %s", i, result.Rotation, fx.all[i].Name)
			}
			if i != 3 {
				fx.wantOutcome(result, report.Rotated)
			}
		}
		fx.wantFailure(ran.Results[3], rotation.StepLook, rotation.NotFound)
		if got := len(ran.Failures()); got != 1 {
			t.Errorf("got %d failures, want 1", got)
		}
		if got := fx.countRequests(ibmcloudtest.OpSecretsGet); got != 31 {
			t.Errorf("got %d key reads, want 31: equal keys are read once", got)
		}
		if got := fx.countRequests(ibmcloudtest.OpIAMToken); got != 1+39 {
			t.Errorf("got %d token requests, want one for the bootstrap and one for each rotation but the failed", got)
		}
	})
}

func TestAFailingRotationDelaysNoOther(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{Rotations: 8}, func(fx *fixture) {
		fx.rotator.Concurrency = 1
		fx.all[0].APIKey.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Payload: "no-such-key"})
		ran := fx.runAll("one-of-them-fails")
		fx.wantFailure(ran.Results[0], rotation.StepExchange, rotation.Denied)
		for _, result := range ran.Results[1:] {
			fx.wantOutcome(result, report.Rotated)
			if result.Duration > time.Second {
				t.Errorf("%s took %s behind a failing rotation, want no delay", result.Rotation, result.Duration)
			}
		}
	})
}

func TestTokensOf15MinutesAreServedWithAWarning(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{TokenTTL: 15 * time.Minute}, func(fx *fixture) {
		result := fx.rotate()
		fx.wantPublished(14 * time.Minute)
		if !strings.Contains(strings.Join(result.Warnings, "\n"), "less than the schedule") {
			t.Errorf("got warnings %q, want one on the lifetime", result.Warnings)
		}
		time.Sleep(7*time.Minute + time.Second)
		fx.wantOutcome(fx.run(rotation.ModeEnsure), report.Rotated)
	})
}

func TestATokenThatExpiresBeforeTheStoredOneIsKeptBack(t *testing.T) {
	for _, force := range []bool{false, true} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.rotate()
			fx.cloud.SetTokenTTL(15 * time.Minute)
			result := fx.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: force, RunID: "a-shorter-one"})
			if force {
				fx.wantOutcome(result, report.Rotated)
				fx.wantPublished(14 * time.Minute)
				return
			}
			fx.wantOutcome(result, report.Kept)
			fx.wantPublished(59 * time.Minute)
			fx.wantVersions(2)
		})
	}
}

func TestAnAPIKeyIsReadWhereverItSits(t *testing.T) {
	for name, test := range map[string]struct {
		spec  func(key, iamID string) ibmcloudtest.SecretSpec
		field string
		byRef func(fx *fixture, id string) rotation.KeyRef
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
		}, "", func(fx *fixture, _ string) rotation.KeyRef {
			return rotation.KeyRef{Group: fx.cloud.KeyGroupName(), Type: "arbitrary", Name: "by-name"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				id := fx.cloud.MustCreateSecret(test.spec(fx.workload().APIKey, fx.workload().IAMID))
				fx.one.APIKey = rotation.KeyRef{ID: id, Field: test.field}
				if test.byRef != nil {
					fx.one.APIKey = test.byRef(fx, id)
				}
				fx.rotate()
				fx.wantPublished(59 * time.Minute)
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
		"too long for a key":       {ibmcloudtest.SecretSpec{Payload: strings.Repeat("k", 8193)}, "", "bare key"},
		"several words":            {ibmcloudtest.SecretSpec{Payload: "apikey: abc"}, "", "bare key"},
		"JSON":                     {ibmcloudtest.SecretSpec{Payload: `{"apikey":"abc"}`}, "", "bare key"},
		"field of a plain secret":  {ibmcloudtest.SecretSpec{Payload: "abc"}, "apikey", "api_key_field"},
		"kv without a field":       {ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": "abc"}}, "", "api_key_field"},
		"kv with another field":    {ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": "abc"}}, "the-key-pasted-here-by-mistake", "api_key_field"},
		"kv with an object":        {ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": map[string]any{"a": "b"}}}, "apikey", "api_key_field"},
		"in quotes":                {ibmcloudtest.SecretSpec{Payload: `"pasted-key"`}, "", "what the key secret holds is in quotes: remove them"},
		"a byte-order mark":        {ibmcloudtest.SecretSpec{Payload: "\ufeffpasted-key"}, "", "what the key secret holds begins with a byte-order mark"},
		"an invisible space":       {ibmcloudtest.SecretSpec{Payload: "pasted-key\u200b"}, "", "what the key secret holds has an invisible character"},
		"a token":                  {ibmcloudtest.SecretSpec{Payload: "eyJpasted.eyJ.sig"}, "", "what the key secret holds is an access token"},
		"in quotes, kv":            {ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": "'pasted-key'"}}, "apikey", "is in quotes"},
		"iam_credentials no reuse": {ibmcloudtest.SecretSpec{Type: "iam_credentials"}, "", "reuse_api_key"},
		"made by access groups":    {ibmcloudtest.SecretSpec{Type: "iam_credentials", ReuseAPIKey: true}, "", "made by access groups (service_id_is_static false)"},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.one.APIKey = rotation.KeyRef{ID: fx.cloud.MustCreateSecret(test.spec), Field: test.field}
				result := fx.run(rotation.ModeRotate)
				fx.wantFailure(result, rotation.StepReadKey, rotation.Misconfigured, test.says)
				fx.wantAttempts(result, 1)
				if strings.Contains(result.Error.Message, "pasted") {
					t.Errorf("got %q, want nothing of the secret in it", result.Error.Message)
				}
				fx.wantVersions(1)
			})
		})
	}
}

func TestASecretOutOfReachIsSaidSoAtOnce(t *testing.T) {
	type arrange func(fx *fixture)
	for name, test := range map[string]struct {
		arrange arrange
		step    rotation.Step
		kind    rotation.Kind
		says    string
	}{
		"key missing": {func(fx *fixture) { fx.cloud.MustDeleteSecret(fx.one.APIKey.ID) }, rotation.StepReadKey, rotation.NotFound, "API_KEY_SECRET"},
		"key forbidden": {func(fx *fixture) {
			fx.one.APIKey.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Group: "default", Payload: "abc"})
		}, rotation.StepReadKey, rotation.Denied, "secret.read"},
		"key locked":    {func(fx *fixture) { fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 412}) }, rotation.StepReadKey, rotation.Locked, "remove its locks"},
		"token missing": {func(fx *fixture) { fx.cloud.MustDeleteSecret(fx.one.Token.ID) }, rotation.StepLook, rotation.NotFound, "TOKEN_SECRET"},
		"token forbidden": {func(fx *fixture) {
			fx.one.Token.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Group: "default", Payload: "abc"})
		}, rotation.StepLook, rotation.Denied, "secret-version-metadata.read"},
		"save forbidden": {func(fx *fixture) { fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 403}) }, rotation.StepSave, rotation.Denied, "secret-version.create"},
		"token's type": {func(fx *fixture) {
			fx.one.Token.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Group: fx.cloud.TokenGroupName()})
		}, rotation.StepLook, rotation.Misconfigured, "arbitrary or kv"},
		"field of raw": {func(fx *fixture) { fx.one.Token.Field = "token" }, rotation.StepLook, rotation.Misconfigured, "token_field"},
		"redirected": {func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 307, Headers: map[string]string{"Location": "https://elsewhere.test/"}})
		}, rotation.StepReadKey, rotation.Misconfigured, "redirects"},
		"IAM redirected": {func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: "workload", Status: 307, Headers: map[string]string{"Location": "https://elsewhere.test/"}})
		}, rotation.StepExchange, rotation.Misconfigured, "redirects"},
		"address not allowed": {func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: "workload", Status: 403})
		}, rotation.StepExchange, rotation.Denied, "address"},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				test.arrange(fx)
				result := fx.run(rotation.ModeRotate)
				fx.wantFailure(result, test.step, test.kind, test.says)
				fx.wantAttempts(result, 1)
			})
		})
	}
}

func TestALockOnCurrentLetsOneRotationPassAndStopsTheNext(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.cloud.MustLock(fx.one.Token.ID, "current", "someone-needs-it")
		fx.rotate()
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepSave, rotation.Locked, "previous version is locked: remove its locks")
		fx.wantVersions(2)
		fx.wantPublished(59 * time.Minute)
	})
}

// Whoever may edit metadata could have put anything there.
func TestStoredMetadataIsNotRepeated(t *testing.T) {
	const planted = "canary-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		for _, metadata := range []map[string]any{
			{"iam_id": planted, "account": planted, "fingerprint": planted, "run_id": planted, "expiration": 1},
			{"iam_id": "iam-ServiceId-1", "account": planted}, {planted: planted},
		} {
			fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", metadata)
			for _, mode := range []rotation.Mode{rotation.ModeCheck, rotation.ModeRotate} {
				encoded, err := json.Marshal(fx.run(mode))
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(encoded), "canary") {
					t.Errorf("%s: the report repeats stored metadata", mode)
				}
			}
		}
	})
}

// An answer that was read long after it came says nothing of the clock.
func TestAnAnswerReadAfterAFreezeDoesNotMakeAnExpiredTokenFresh(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		frozen := false
		fx.rotator = fx.process(roundTripper(func(req *http.Request) (*http.Response, error) {
			response, err := fx.cloud.Transport().RoundTrip(req)
			if strings.Contains(req.URL.Path, "/versions/current/metadata") && !frozen {
				frozen = true
				fx.freeze(90 * time.Minute)
			}
			return response, err
		}))
		if got := fx.run(rotation.ModeEnsure); got.Outcome == report.Fresh {
			t.Errorf("got %s with %d s left of a token that expired half an hour ago", got.Outcome, *got.SecondsRemaining)
		}
	})
}

func TestAnOlderVersionAtTheSecondReadIsNobodysWork(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		before, err := fx.rotator.Tokens.ReadMetadata(context.Background(), fx.one.Token)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		fx.rotate()
		reads := 0
		fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens, read: func(_ context.Context, _ string, version rotation.CurrentVersion) (rotation.CurrentVersion, error) {
			if reads++; reads == 2 {
				return before, nil
			}
			return version, nil
		}}
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 503, Times: 1})
		fx.rotate()
	})
}

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
