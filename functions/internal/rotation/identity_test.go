package rotation_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/rotation"
)

func TestATokenOfTheWrongIdentityIsNeverPublished(t *testing.T) {
	type change func(w *world)
	otherKey := func(account string) change {
		return func(w *world) {
			key := w.cloud.MustCreateAPIKey(w.cloud.MustCreateServiceID("other", account))
			w.cloud.MustPutVersion(w.one.APIKey.ID, key, nil)
		}
	}
	for name, test := range map[string]struct {
		change change
		force  bool
		fails  bool
	}{
		"as expected": {func(w *world) {
			w.one.Expect = rotation.Expect{Account: w.cloud.AccountID(), IAMID: w.workload().IAMID}
		}, false, false},
		"another account expected":     {func(w *world) { w.one.Expect.Account = strings.Repeat("0", 32) }, false, true},
		"another identity expected":    {func(w *world) { w.one.Expect.IAMID = "iam-ServiceId-0" }, false, true},
		"force does not pass expect":   {func(w *world) { w.one.Expect.IAMID = "iam-ServiceId-0" }, true, true},
		"another identity than before": {otherKey(""), false, true},
		"another account than before":  {otherKey(strings.Repeat("1", 32)), false, true},
		"another identity by force":    {otherKey(""), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				w.rotate()
				test.change(w)
				result := w.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: test.force, RunID: "wrong-identity"})
				if test.fails {
					w.wantFailure(result, rotation.StepCheck, rotation.InvalidToken)
					w.wantVersions(2)
					w.wantPublished(50 * time.Minute)
				} else {
					w.wantOutcome(result, rotation.Rotated)
				}
			})
		})
	}
}

func TestAnOpaqueTokenIsPublishedWithAWarningButNotWhereAnIdentityIsExpected(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200,
			Body: `{"access_token":"opaque-token","token_type":"Bearer","expires_in":3600,"expiration":` + unixIn(time.Hour) + `}`})
		result := w.rotate()
		if !strings.Contains(strings.Join(result.Warnings, "\n"), "does not tell whose it is") {
			t.Errorf("got warnings %q, want one on the opaque token", result.Warnings)
		}
		w.one.Expect.Account = w.cloud.AccountID()
		w.wantFailure(w.run(rotation.ModeRotate), rotation.StepCheck, rotation.InvalidToken)
		w.wantVersions(2)
	})
}

// A signature of a kind that the library does not know hides nobody.
func TestAnUnknownAlgorithmHidesNoIdentity(t *testing.T) {
	inWorld(t, ibmcloudtest.Options{}, func(w *world) {
		w.rotate()
		w.answerWith(jwt("ML-DSA-65", "iam-ServiceId-somebody-else", w.cloud.AccountID(), 0, time.Hour), "3600", time.Hour)
		w.wantOutcome(w.run(rotation.ModeRotate), rotation.Failed)
	})
}

// A token that tells less than the one before it, or tells it in another form, is
// compared by what both tell.
func TestATokenIsComparedByWhatItTells(t *testing.T) {
	const federated, other = "saml-somebody@example.test", "saml-else@example.test"
	own := func(w *world) string { return w.cloud.AccountID() }
	none := func(*world) string { return "" }
	for name, test := range map[string]struct {
		before, after               string // the identities; empty: the workload's
		accountBefore, accountAfter func(*world) string
		want                        rotation.Outcome
	}{
		"the same identity":                {"", "", own, own, rotation.Rotated},
		"of another account":               {"", "", own, func(*world) string { return strings.Repeat("1", 32) }, rotation.Failed},
		"of no account":                    {"", "", own, none, rotation.Rotated},
		"of nobody, but another account":   {"", "nobody", own, func(*world) string { return strings.Repeat("1", 32) }, rotation.Failed},
		"of nobody, but the account":       {"", "nobody", own, own, rotation.Rotated},
		"of no account, as before":         {"", "", none, none, rotation.Rotated},
		"of an account for the first time": {"", "", none, own, rotation.Rotated},
		"of no account, another identity":  {"", "iam-ServiceId-somebody-else", own, none, rotation.Failed},
		"of a realm not known":             {"", federated, own, own, rotation.Failed},
		"of a realm not known, as before":  {federated, federated, own, own, rotation.Rotated},
		"another one of that realm":        {federated, other, own, own, rotation.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, ibmcloudtest.Options{}, func(w *world) {
				publish := func(iamID, account string) rotation.Result {
					switch iamID {
					case "":
						iamID = w.workload().IAMID
					case "nobody":
						iamID = ""
					}
					w.answerWith(jwt("RS256", iamID, account, 0, time.Hour), "3600", time.Hour)
					return w.run(rotation.ModeRotate)
				}
				w.wantOutcome(publish(test.before, test.accountBefore(w)), rotation.Rotated)
				w.cloud.ClearFaults()
				time.Sleep(time.Second)
				result := publish(test.after, test.accountAfter(w))
				w.wantOutcome(result, test.want)
				if result.Error != nil && strings.Contains(result.Error.Message, "saml") {
					t.Errorf("got %q, want an identity of a form not known as its digest", result.Error.Message)
				}
			})
		})
	}
}

func jwt(algorithm, iamID, account string, issued, expires time.Duration) string {
	header := `{"alg":"` + algorithm + `"}`
	claims := `{"iam_id":"` + iamID + `","account":{"bss":"` + account + `"},"iat":` + unixIn(issued) + `,"exp":` + unixIn(expires) + `}`
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func (w *world) answerWith(token, expiresIn string, expires time.Duration) {
	w.t.Helper()
	w.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200,
		Body: `{"access_token":"` + token + `","token_type":"Bearer","expires_in":` + expiresIn + `,"expiration":` + unixIn(expires) + `}`})
}
