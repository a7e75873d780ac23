package rotation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

func TestAnAgeingTokenIsNeverPublished(t *testing.T) {
	for name, left := range map[string]time.Duration{
		"expired":                     -time.Minute,
		"4 seconds left":              4 * time.Second,
		"less than 5 minutes":         299 * time.Second,
		"less than half its lifetime": 29 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.answer(tokenAnswer(fx.cloud.MustMintToken(fx.workload().APIKey, left)), 0)
				fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepCheck, rotation.InvalidToken)
				fx.wantVersions(1)
			})
		})
	}
}

func TestATokenOfEightMinutesNeedsFiveOfThem(t *testing.T) {
	for left, want := range map[time.Duration]report.Outcome{299 * time.Second: report.Failed, 301 * time.Second: report.Rotated} {
		withFixture(t, ibmcloudtest.Options{TokenTTL: 8 * time.Minute}, func(fx *fixture) {
			fx.answer(strings.Replace(tokenAnswer(fx.cloud.MustMintToken(fx.workload().APIKey, left)), "3600", "480", 1), 0)
			fx.wantOutcome(fx.run(rotation.ModeRotate), want)
		})
	}
}

// A token is held against what is expected, and against the one before it by what
// both say: one may say less than the other, or say it in another form.
func TestATokenOfTheWrongIdentityIsNeverPublished(t *testing.T) {
	const federated, other, somebody = "saml-somebody@example.test", "saml-else@example.test", "iam-ServiceId-somebody-else"
	ones, none := strings.Repeat("1", 32), ""
	type says struct{ iamID, account string } // "own" is the workload's
	for name, test := range map[string]struct {
		before, after says
		expect        says
		force         bool
		want          report.Outcome
	}{
		"the same":                       {says{"own", "own"}, says{"own", "own"}, says{}, false, report.Rotated},
		"as expected":                    {says{"own", "own"}, says{"own", "own"}, says{"own", "own"}, false, report.Rotated},
		"another account expected":       {says{"own", "own"}, says{"own", "own"}, says{"", ones}, false, report.Failed},
		"another identity expected":      {says{"own", "own"}, says{"own", "own"}, says{somebody, ""}, false, report.Failed},
		"force does not pass expect":     {says{"own", "own"}, says{"own", "own"}, says{somebody, ""}, true, report.Failed},
		"all expected, another account":  {says{"own", "own"}, says{"own", ones}, says{"own", "own"}, true, report.Failed},
		"all expected, after another":    {says{somebody, ones}, says{"own", "own"}, says{"own", "own"}, false, report.Rotated},
		"another identity":               {says{"own", "own"}, says{somebody, "own"}, says{}, false, report.Failed},
		"another identity, by force":     {says{"own", "own"}, says{somebody, "own"}, says{}, true, report.Rotated},
		"another account":                {says{"own", "own"}, says{"own", ones}, says{}, false, report.Failed},
		"no account":                     {says{"own", "own"}, says{"own", none}, says{}, false, report.Rotated},
		"nobody, and another account":    {says{"own", "own"}, says{none, ones}, says{}, false, report.Failed},
		"nobody, and the account":        {says{"own", "own"}, says{none, "own"}, says{}, false, report.Rotated},
		"no account, as before":          {says{"own", none}, says{"own", none}, says{}, false, report.Rotated},
		"an account for the first time":  {says{"own", none}, says{"own", "own"}, says{}, false, report.Rotated},
		"no account, another identity":   {says{"own", "own"}, says{somebody, none}, says{}, false, report.Failed},
		"of a realm not known":           {says{"own", "own"}, says{federated, "own"}, says{}, false, report.Failed},
		"of a realm not known as before": {says{federated, "own"}, says{federated, "own"}, says{}, false, report.Rotated},
		"another one of that realm":      {says{federated, "own"}, says{other, "own"}, says{}, false, report.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				mean := func(s says) says {
					return says{strings.Replace(s.iamID, "own", fx.workload().IAMID, 1), strings.Replace(s.account, "own", fx.cloud.AccountID(), 1)}
				}
				publish := func(s says, force bool) report.Result {
					fx.cloud.ClearFaults()
					fx.answer(tokenAnswer(fx.token("iam_id", `"`+mean(s).iamID+`"`, "account", `{"bss":"`+mean(s).account+`"}`)), 0)
					return fx.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: force, RunID: "identity-" + unixIn(0)})
				}
				fx.wantOutcome(publish(test.before, false), report.Rotated)
				time.Sleep(time.Second)
				fx.one.Expect = rotation.Expect{Account: mean(test.expect).account, IAMID: mean(test.expect).iamID}
				result := publish(test.after, test.force)
				if fx.wantOutcome(result, test.want); test.want == report.Failed {
					fx.wantFailure(result, rotation.StepCheck, rotation.InvalidToken)
					fx.wantVersions(2)
					if strings.Contains(result.Error.Message, "saml") {
						t.Errorf("got %q, want an identity of a form not known as its digest", result.Error.Message)
					}
				}
			})
		})
	}
}

// Whoever may write metadata can hold a rotation up for 61 minutes, and no longer.
func TestMetadataIsTrustedOnlyAsFarAsItMay(t *testing.T) {
	other := func(expires time.Duration) func() map[string]any {
		return func() map[string]any {
			return map[string]any{"iam_id": "iam-ServiceId-else", "account": strings.Repeat("1", 32), "expiration": time.Now().Add(expires).Unix()}
		}
	}
	expiration := func(value any) func() map[string]any {
		return func() map[string]any { return map[string]any{"expiration": value} }
	}
	const year = 365 * 24 * time.Hour
	for name, test := range map[string]struct {
		metadata func() map[string]any
		mode     rotation.Mode
		after    time.Duration
		want     report.Outcome
	}{
		"none":                       {func() map[string]any { return nil }, rotation.ModeEnsure, 0, report.Rotated},
		"no expiration among others": {func() map[string]any { return map[string]any{"owner": "someone"} }, rotation.ModeEnsure, 0, report.Rotated},
		"a far expiration, for now":  {other(year), rotation.ModeEnsure, 52 * time.Minute, report.Fresh},
		"a far expiration, later":    {expiration(int64(4_102_444_800)), rotation.ModeEnsure, 54 * time.Minute, report.Rotated},
		"the largest expiration":     {expiration(int64(1<<63 - 1)), rotation.ModeEnsure, 54 * time.Minute, report.Rotated},
		"an expiration as text":      {expiration("4102444800"), rotation.ModeEnsure, 0, report.Rotated},
		"a fraction":                 {expiration(1.5), rotation.ModeEnsure, 0, report.Rotated},
		"beyond all numbers":         {expiration(1e300), rotation.ModeEnsure, 0, report.Rotated},
		"a list":                     {expiration([]any{}), rotation.ModeEnsure, 0, report.Rotated},
		"null":                       {expiration(nil), rotation.ModeEnsure, 0, report.Rotated},
		"the least expiration":       {expiration(int64(-1 << 63)), rotation.ModeEnsure, 0, report.Rotated},
		"0":                          {expiration(0), rotation.ModeEnsure, 0, report.Rotated},
		"another identity":           {other(time.Hour), rotation.ModeRotate, 0, report.Failed},
		"the identity of text": {func() map[string]any {
			return map[string]any{"iam_id": 7, "expiration": time.Now().Add(time.Hour).Unix()}
		}, rotation.ModeRotate, 0, report.Rotated},
		"another identity, expired":                    {other(-time.Second), rotation.ModeRotate, 0, report.Rotated},
		"another identity, without an end":             {func() map[string]any { return map[string]any{"iam_id": "iam-ServiceId-else"} }, rotation.ModeRotate, 0, report.Rotated},
		"another identity, for long":                   {other(year), rotation.ModeRotate, 60*time.Minute + 55*time.Second, report.Failed},
		"another identity, for longer than 61 minutes": {other(year), rotation.ModeRotate, 61 * time.Minute, report.Rotated},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.rotate()
				fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", test.metadata())
				time.Sleep(test.after)
				fx.wantOutcome(fx.run(test.mode), test.want)
			})
		})
	}
}

// lookAnswer is an answer about the stored version, with an hour left, in which some
// fields are of another kind.
func (fx *fixture) lookAnswer(replaced ...string) string {
	fields := map[string]json.RawMessage{
		"id": json.RawMessage(`"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4"`), "secret_id": json.RawMessage(`"` + fx.one.Token.ID + `"`),
		"secret_type": json.RawMessage(`"arbitrary"`), "created_at": json.RawMessage(`"` + time.Now().UTC().Format(time.RFC3339) + `"`),
		"version_custom_metadata": json.RawMessage(`{"expiration":` + unixIn(time.Hour) + `}`),
	}
	for i := 0; i < len(replaced); i += 2 {
		fields[replaced[i]] = json.RawMessage(replaced[i+1])
	}
	encoded, err := json.Marshal(fields)
	if err != nil {
		fx.t.Fatal(err)
	}
	return string(encoded)
}

func TestMetadataThatNobodyCanReadStopsNothing(t *testing.T) {
	for _, metadata := range []string{`[1]`, `"x"`, `7`, `true`, `1e999`, `{"expiration":1e999}`, `{"x":{"y":[-1e999]},"expiration":` + unixIn(time.Hour) + `}`} {
		withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 200, Body: fx.lookAnswer("version_custom_metadata", metadata)})
			if result := fx.run(rotation.ModeEnsure); result.Outcome != report.Rotated {
				t.Errorf("%s: got %s (%v), want it to count as none", metadata, result.Outcome, result.Error)
			}
		})
	}
}

// Answers that a proxy has mixed up must not put one rotation's token where another's is read.
func TestAnAnswerAboutAnotherSecretIsNotUsed(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{Rotations: 2}, func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 200, Body: fx.lookAnswer("secret_id", `"`+fx.all[1].Token.ID+`"`)})
		fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepLook, rotation.Unavailable)
		fx.cloud.ClearFaults()
		other := fx.cloud.Rotations()[1]
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 200,
			Body: `{"id":"` + other.APIKeySecret + `","secret_type":"arbitrary","payload":"` + other.APIKey + `"}`})
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepReadKey, rotation.Unavailable)
		fx.wantVersions(1)
	})
}

// Without a Date nothing else says that a version of the future is none: its token would
// pass for a fresh one for ever.
func TestAVersionOfTheFutureIsNotTrusted(t *testing.T) {
	for _, metadata := range []string{`{"expiration":9999999999}`, `{"expiration":9999999999,"iam_id":"iam-ServiceId-else"}`} {
		for _, mode := range []rotation.Mode{rotation.ModeEnsure, rotation.ModeRotate} {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 200, Headers: map[string]string{"Date": ""},
					Body: fx.lookAnswer("created_at", `"2286-01-01T00:00:00Z"`, "version_custom_metadata", metadata)})
				result := fx.run(mode)
				if fx.wantOutcome(result, report.Rotated); len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "2286") {
					t.Errorf("got warnings %q, want one on the future", result.Warnings)
				}
			})
		}
	}
}

// A metric of a gap since 1970 hides every other.
func TestAGapIsNoLongerThanTheVersionIsOld(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", map[string]any{"expiration": 1})
		time.Sleep(10 * time.Minute)
		if margin := fx.rotate().MarginSeconds; margin == nil || *margin != -600 {
			t.Errorf("got a margin of %v, want -600", margin)
		}
		time.Sleep(50 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate, Status: 201,
			Body: `{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"arbitrary","created_at":"1970-01-01T00:00:00Z"}`})
		if result := fx.rotate(); *result.MarginSeconds != 600 || *result.SecondsRemaining != 3600 {
			t.Errorf("of a version made in 1970: got a margin of %d and %d seconds left, want 600 and 3600", *result.MarginSeconds, *result.SecondsRemaining)
		}
	})
}

// dated is the Date header of a clock that is off.
func dated(off time.Duration) map[string]string {
	return map[string]string{"Date": time.Now().Add(off).UTC().Format(http.TimeFormat)}
}

// A Date that is wrong would have an old token pass for a fresh one, or raise alarms.
func TestAWrongDateIsNotTrusted(t *testing.T) {
	const metadata, token = ibmcloudtest.OpVersionsMetadata, ibmcloudtest.OpIAMToken
	for name, test := range map[string]struct {
		op    string
		off   time.Duration
		mode  rotation.Mode
		after time.Duration // of the last save, in a warm process
		cold  bool
		step  rotation.Step // empty: all is well
	}{
		"Secrets Manager, before the version":           {metadata, -2 * time.Hour, rotation.ModeEnsure, 50 * time.Minute, false, rotation.StepLook},
		"Secrets Manager, 1970":                         {metadata, -time.Since(time.Unix(0, 0)), rotation.ModeEnsure, 50 * time.Minute, true, rotation.StepLook},
		"Secrets Manager, back, cold":                   {metadata, -30 * time.Minute, rotation.ModeEnsure, 50 * time.Minute, true, rotation.StepLook},
		"Secrets Manager, back, warm":                   {metadata, -30 * time.Minute, rotation.ModeEnsure, 39 * time.Minute, false, rotation.StepLook},
		"Secrets Manager, ahead":                        {metadata, 2 * time.Minute, rotation.ModeRotate, 39 * time.Minute, false, rotation.StepLook},
		"Secrets Manager, a minute ahead":               {metadata, 59 * time.Second, rotation.ModeRotate, 39 * time.Minute, false, ""},
		"Secrets Manager, a minute back":                {metadata, -59 * time.Second, rotation.ModeEnsure, 10 * time.Minute, false, ""},
		"IAM, before the token was issued":              {token, -10 * time.Second, rotation.ModeRotate, 39 * time.Minute, false, rotation.StepCheck},
		"IAM, ahead":                                    {token, 2 * time.Minute, rotation.ModeRotate, 39 * time.Minute, false, rotation.StepExchange},
		"IAM, a minute ahead":                           {token, 59 * time.Second, rotation.ModeRotate, 39 * time.Minute, false, ""},
		"this machine's clock, which is only a warning": {"", 0, rotation.ModeRotate, 10 * time.Minute, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
				fx.rotate()
				time.Sleep(test.after)
				if test.cold {
					fx.rotator = fx.process(fx.cloud.Transport())
				}
				if test.op == "" {
					fx.skew.Store(int64(10 * time.Minute))
				} else {
					// For a moment: the Date does not go on.
					fx.fault(ibmcloudtest.Fault{Op: test.op, Identity: map[string]string{token: "workload"}[test.op], Headers: dated(test.off)})
				}
				result := fx.runWithin(20*time.Second, fx.rotator, rotation.Request{Mode: test.mode, RunID: "wrong-date"})
				if test.step == "" {
					if result.Outcome == report.Failed {
						t.Errorf("got %v, want success", result.Error)
					}
					return
				}
				if result.Outcome != report.Failed || result.Error.Step != test.step || result.Attempts < 2 {
					t.Errorf("got %s (%v) after %d attempts, want a failure of %s after several", result.Outcome, result.Error, result.Attempts, test.step)
				}
				fx.wantVersions(2)
				fx.cloud.ClearFaults()
				if result := fx.run(test.mode); result.Outcome == report.Failed {
					t.Errorf("with the Date right again: got %v", result.Error)
				}
			})
		})
	}
}

// Where IAM's clock is not known an answer still has to agree with itself.
func TestADateBeforeItsOwnAnswerIsNotTrusted(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		fx.rotator = fx.processAs(fx.cloud.Transport(), func(iam *ibmcloud.IAM) *ibmcloud.Bootstrap {
			return ibmcloud.BootstrapByToken(iam, iamtoken.NewSecret(fx.cloud.MustMintToken(fx.cloud.BootstrapAPIKey(), time.Hour)))
		})
		time.Sleep(50 * time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Headers: dated(-time.Hour)})
		fx.wantFailure(fx.run(rotation.ModeEnsure), rotation.StepLook, rotation.Unavailable)
	})
}

func TestAnswersWithoutADateLeaveTheClockAlone(t *testing.T) {
	noDate := map[string]string{"Date": ""}
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.skew.Store(int64(40 * time.Minute))
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Headers: noDate})
		fx.rotate() // by Secrets Manager's clock the token is fresh
	})
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		fx.skew.Store(int64(-10 * time.Minute))
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Headers: noDate})
		result := fx.run(rotation.ModeEnsure)
		if fx.wantOutcome(result, report.Fresh); *result.SecondsRemaining > 3600 {
			t.Errorf("got %d seconds remaining, want no more than the token was issued with", *result.SecondsRemaining)
		}
	})
}

// A token secret that any rotation of the configuration reads its key from is never
// written, in whichever way the two are named and whichever rotations run.
func TestATokenIsNeverSavedOverAKey(t *testing.T) {
	for name, test := range map[string]struct {
		key     func(fx *fixture, id, name string) rotation.KeyRef
		unnamed bool // Secrets Manager does not report the token secret's name
		apart   bool // the rotation of that key does not run
	}{
		"by id":                          {key: func(_ *fixture, id, _ string) rotation.KeyRef { return rotation.KeyRef{ID: id} }},
		"by id, in capitals":             {key: func(_ *fixture, id, _ string) rotation.KeyRef { return rotation.KeyRef{ID: strings.ToUpper(id)} }, apart: true},
		"by name":                        {key: byName},
		"by name, of a rotation not run": {key: byName, apart: true},
		"by name, which is not reported": {key: byName, unnamed: true},
		"neither reported nor run":       {key: byName, unnamed: true, apart: true},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, ibmcloudtest.Options{Rotations: 2}, func(fx *fixture) {
				// The token of the second rotation goes where the first has its key.
				const keyName = "a-key"
				id := fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Name: keyName, Payload: fx.workload().APIKey})
				fx.all[0].APIKey, fx.all[1].Token.ID = test.key(fx, id, keyName), id
				// The admin may do what the bootstrap identity may not.
				admin := ibmcloud.FixedKey(iamtoken.NewSecret(fx.cloud.AdminAPIKey()))
				var transport http.RoundTripper = roundTripper(func(req *http.Request) (*http.Response, error) {
					response, err := fx.cloud.Transport().RoundTrip(req)
					if test.unnamed && err == nil && strings.HasSuffix(req.URL.Path, "/metadata") {
						body, _ := io.ReadAll(response.Body)
						response.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), `"secret_name"`, `"not_a_name"`, 1)))
					}
					return response, err
				})
				fx.rotator = fx.processAs(transport, func(iam *ibmcloud.IAM) *ibmcloud.Bootstrap { return ibmcloud.BootstrapByKey(iam, admin) },
					fx.all[0].APIKey, fx.all[1].APIKey)
				fx.rotator.Concurrency = 1
				run := []rotation.Rotation{fx.all[1], fx.all[0]}
				if test.apart {
					run = run[:1]
				}
				for _, force := range []bool{false, true} {
					ran := fx.rotator.Run(context.Background(), rotation.Request{Mode: rotation.ModeRotate, Force: force, RunID: fmt.Sprint("over-the-key-", force)}, run)
					fx.wantFailure(ran.Results[0], rotation.StepLook, rotation.Misconfigured)
					if !test.apart {
						fx.wantOutcome(ran.Results[1], report.Rotated)
					}
				}
				if got := len(fx.cloud.MustVersions(id)); got != 1 {
					t.Errorf("the API key was replaced: its secret has %d versions", got)
				}
			})
		})
	}
}

func byName(fx *fixture, _, name string) rotation.KeyRef {
	return rotation.KeyRef{Group: fx.cloud.KeyGroupName(), Type: "arbitrary", Name: name}
}
