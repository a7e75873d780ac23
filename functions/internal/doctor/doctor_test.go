package doctor_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// order has the names of the checks: each depends on those before it.
var order = []string{"configuration",
	"iam-dns", "iam-tcp", "iam-tls", "iam-clock",
	"secrets-manager-dns", "secrets-manager-tcp", "secrets-manager-tls", "secrets-manager-clock",
	"bootstrap-identity", "bootstrap-key-expiry",
	"key-secret", "key-identity", "key-expiry", "token-lifetime", "token-secret", "token-locks", "stored-token", "save"}

func TestASoundSetUpHasNothingWrong(t *testing.T) {
	fx := newFixture(t, ibmcloudtest.Options{})
	diagnosis := fx.run()
	if got := names(diagnosis.Checks); !slices.Equal(got, order) {
		t.Errorf("got checks %v, want %v", got, order)
	}
	if bad := names(diagnosis.Checks, report.CheckFailed, report.CheckWarning); len(bad) > 0 || !diagnosis.OK {
		t.Errorf("%v are wrong: %+v", bad, diagnosis.Checks)
	}
	// http on loopback has no TLS; a save cannot be tried without saving.
	if got := names(diagnosis.Checks, report.CheckSkipped); !slices.Equal(got, []string{"iam-tls", "secrets-manager-tls", "save"}) {
		t.Errorf("skipped %v", got)
	}
	fx.want(diagnosis, "bootstrap-identity", report.CheckOK, fx.cloud.BootstrapIAMID(), fx.cloud.AccountID())
	fx.want(diagnosis, "key-identity", report.CheckOK, fx.seeded.IAMID, fx.cloud.AccountID())
	fx.want(diagnosis, "stored-token", report.CheckOK, "fingerprint 0123456789abcdef")
	fx.want(diagnosis, "save", report.CheckSkipped, "secret-version.create")
	if save := diagnosis.Checks[len(diagnosis.Checks)-1]; save.Advice != "" {
		t.Errorf("got the advice %q after a good save", save.Advice)
	}
}

func TestManyRotationsAreShownInTheOrderAsked(t *testing.T) {
	fx := newFixture(t, ibmcloudtest.Options{Rotations: 40})
	fx.doctor.Concurrency = 8
	var rotations []rotation.Rotation
	for _, seeded := range fx.cloud.Rotations() {
		rotations = append(rotations, rotation.Rotation{Name: seeded.Name,
			APIKey: rotation.KeyRef{ID: seeded.APIKeySecret}, Token: rotation.TokenRef{ID: seeded.TokenSecret}})
	}
	rotations[7].APIKey.ID = nowhere
	diagnosis := fx.doctor.Run(context.Background(), rotations)
	fx.wantSound(diagnosis)
	shown := 0
	for _, check := range diagnosis.Checks {
		if check.Name != "key-secret" {
			continue
		}
		if check.Rotation != rotations[shown].Name || (check.Status == report.CheckFailed) != (shown == 7) {
			t.Errorf("got %+v as number %d", check, shown)
		}
		shown++
	}
	if shown != len(rotations) {
		t.Errorf("got %d rotations, want %d", shown, len(rotations))
	}
}

func TestOneCauseIsOneFailedCheck(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(fx *fixture)
		failed  string
		skipped []string
	}{
		"the sandbox is gone": {func(fx *fixture) {
			fx.doctor.IAMURL, fx.doctor.SecretsManagerURL = "http://127.0.0.1:1", "http://127.0.0.1:1"
		},
			"iam-tcp", []string{"iam-clock", "secrets-manager-dns", "secrets-manager-tcp", "bootstrap-identity", "key-secret", "stored-token"}},
		"the bootstrap key is unknown": {func(fx *fixture) { fx.as("not-a-key-that-iam-knows") }, "bootstrap-identity", order[11:]},
		"it cannot be read":            {keyInAWS(&rotation.Error{Kind: rotation.Denied, Message: "reading"}), "bootstrap-key", append([]string{"bootstrap-identity"}, order[11:]...)},
		"wrong TOKEN_SECRET":           {func(fx *fixture) { fx.one.Token.ID = nowhere }, "token-secret", []string{"token-locks", "stored-token", "save"}},
		"another type": {tokenSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials"}),
			"token-secret", []string{"token-locks", "stored-token", "save"}},
		"the instance is down":           {answerAll(ibmcloudtest.Fault{Status: 503}), "key-secret", []string{"key-identity", "token-secret", "token-locks", "stored-token", "save"}},
		"everything is denied":           {answerAll(ibmcloudtest.Fault{Status: 403, Body: `{"errors":[{"code":"forbidden"}]}`}), "key-secret", nil},
		"by a page":                      {answerAll(ibmcloudtest.Fault{Status: 403, Body: "<html>" + canary}), "key-secret", nil},
		"a rule of IAM's network":        {fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 403, ContentType: "text/html", Body: "<html>" + canary}), "bootstrap-identity", order[11:]},
		"an address that is not allowed": {fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 401, Body: `{"errorCode":"BXNIM0430E","errorMessage":"` + canary + `"}`}), "bootstrap-identity", order[11:]},
	} {
		t.Run(name, func(t *testing.T) {
			fx := newFixture(t, ibmcloudtest.Options{})
			test.arrange(fx)
			diagnosis := fx.run()
			if got := names(diagnosis.Checks, report.CheckFailed); !slices.Equal(got, []string{test.failed}) {
				t.Errorf("got %v failed, want %s alone", got, test.failed)
			}
			for _, skipped := range test.skipped {
				fx.want(diagnosis, skipped, report.CheckSkipped, "not tried: "+test.failed+" failed")
			}
			if test.skipped == nil {
				fx.want(diagnosis, test.failed, report.CheckFailed, "answered 403", "secret.read", "context-based restriction")
				for _, name := range []string{"token-secret", "token-locks", "stored-token"} {
					fx.want(diagnosis, name, report.CheckSkipped, "denied too")
				}
			}
		})
	}
}

func TestATokenAtHandNeedsNoIAM(t *testing.T) {
	fx := newFixture(t, ibmcloudtest.Options{})
	fx.doctor.Bootstrap.NoIAM, fx.doctor.Bootstrap.HasKey = true, false
	fx.run() // now the identity has a token
	fx.doctor.IAMURL = "http://iam.invalid"
	diagnosis := fx.run()
	fx.want(diagnosis, "bootstrap-identity", report.CheckWarning, "not the function's own", "unset")
	fx.want(diagnosis, "key-secret", report.CheckOK)
	fx.want(diagnosis, "key-identity", report.CheckSkipped, "iam-dns failed")
	if slices.Contains(names(diagnosis.Checks), "bootstrap-key-expiry") {
		t.Error("a given token has no key to expire")
	}
}

func TestAFaultyConfigurationIsADiagnosis(t *testing.T) {
	diagnosis := doctor.Misconfigured(errors.Join(errors.New("A: is wrong"), errors.New("B: too")))
	if got := fmt.Sprintln(names(diagnosis.Checks, report.CheckFailed), diagnosis.Checks[1].Detail, diagnosis.OK); got != "[configuration configuration] B: too false\n" {
		t.Errorf("got %s", got)
	}
	if single := doctor.Misconfigured(errors.New("A")); single.Count(report.CheckFailed) != 1 || single.Count(report.CheckSkipped) != 1 {
		t.Errorf("got %+v", single)
	}
}

const parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/tokens/logs"

// mirrors has the state of mirrors by ARN: a version's id or an error. None may be written.
type mirrors map[string]any

func (mirrors) Put(context.Context, string, string, iamtoken.Secret) error { panic("doctor writes") }

func (m mirrors) Describe(_ context.Context, arn string) (rotation.MirrorDescription, error) {
	if err, ok := m[arn].(error); ok {
		return rotation.MirrorDescription{}, err
	}
	return rotation.MirrorDescription{VersionID: m[arn].(string)}, nil
}

func TestMirrors(t *testing.T) {
	fx := newFixture(t, ibmcloudtest.Options{})
	save := func(lifetime, remaining time.Duration) string {
		expires := time.Now().Add(remaining).Unix()
		fx.cloud.MustPutVersion(fx.one.Token.ID, "a token", map[string]any{"expiration": expires, "issued_at": expires - int64(lifetime.Seconds())})
		return fx.cloud.MustCurrent(fx.one.Token.ID).ID
	}
	const hour, quarter = time.Hour, 15 * time.Minute
	unknown := "00000000-0000-4000-8000-000000000000"
	for name, test := range map[string]struct {
		state     any // the version's id
		lifetime  time.Duration
		remaining time.Duration
		status    report.Status
		says      string
	}{
		"the same version":    {"current", hour, 50 * time.Minute, report.CheckOK, "holds the stored token"},
		"of 15 minutes":       {"current", quarter, 14 * time.Minute, report.CheckWarning, "tokens of 15m0s are too short for a mirror"},
		"waits for its turn":  {"before", quarter, 2 * time.Minute, report.CheckWarning, "allows one in 16m0s"},
		"an earlier one":      {"before", hour, 40 * time.Minute, report.CheckOK, "holds an earlier token that expires in 40m"},
		"one of someone else": {unknown, hour, 50 * time.Minute, report.CheckWarning, "does not hold a token that this function has put there"},
		"none yet":            {"", hour, 50 * time.Minute, report.CheckWarning, "does not hold a token"},
		"denied":              {&rotation.Error{Kind: rotation.Denied, Message: "copying: the role needs DescribeSecret", Advice: "the role needs DescribeSecret"}, hour, hour, report.CheckFailed, "DescribeSecret"},
	} {
		t.Run(name, func(t *testing.T) {
			fx.t = t
			state := test.state
			switch state {
			case "current":
				state = save(test.lifetime, test.remaining)
			case "before":
				state = save(test.lifetime, test.remaining)
				save(test.lifetime, test.lifetime)
			default:
				save(test.lifetime, test.remaining)
			}
			fx.one.Mirror, fx.doctor.Mirrors = []string{"arn:a"}, mirrors{"arn:a": state}
			fx.want(fx.run(), "mirror", test.status, test.says)
		})
	}
	fx.t = t
	fx.one.Mirror, fx.doctor.Mirrors = []string{parameterARN}, mirrors{parameterARN: save(quarter, 14*time.Minute)}
	fx.want(fx.run(), "mirror", report.CheckOK, "holds the stored token") // no token is too short: a parameter has no quota
	fx.one.Mirror = []string{"arn:a"}
	fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", nil)
	fx.doctor.Mirrors = mirrors{"arn:a": ""}
	fx.want(fx.run(), "mirror", report.CheckOK, "waits for the first token")
	fx.doctor.Mirrors = mirrors{"arn:a": save(hour, time.Second)}
	save(hour, hour)
	clock(20 * time.Minute)(fx)
	fx.want(fx.run(), "mirror", report.CheckFailed, "readers of arn:a have a token that expired") // though IBM's secret has a good one
	fx.doctor.Mirrors = mirrors{"arn:a": ""}
	fx.cloud.MustDeleteSecret(fx.one.Token.ID)
	fx.want(fx.run(), "mirror", report.CheckOK, "not tried: secretsmanager:PutSecretValue")
	fx.one.Mirror, fx.doctor.Mirrors = []string{parameterARN}, mirrors{parameterARN: ""}
	fx.want(fx.run(), "mirror", report.CheckOK, "not tried: ssm:PutParameter")
}

func TestARotationWhoseTurnDoesNotComeIsAFailure(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{})
	fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpLocks, Delay: time.Minute})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	diagnosis := fx.doctor.Run(ctx, slices.Repeat([]rotation.Rotation{fx.one}, 8))
	fx.wantSound(diagnosis)
	last := diagnosis.Checks[len(diagnosis.Checks)-8]
	fx.timeout = time.Nanosecond
	if fx.run().OK {
		t.Error("got nothing wrong without any time")
	}
	if last.Name != "key-secret" || last.Status != report.CheckFailed || !strings.Contains(last.Detail, "the time was up") {
		t.Errorf("got %+v", last)
	}
}

// misbehaviours are ways in which a service may fail. Each answer repeats what must not show.
var misbehaviours = func() map[string]ibmcloudtest.Fault {
	faults := map[string]ibmcloudtest.Fault{
		"dropped":         {Drop: ibmcloudtest.DropBefore},
		"dropped after":   {Drop: ibmcloudtest.DropAfter},
		"hangs":           {Delay: time.Minute},
		"a page with 200": {Status: 200, ContentType: "text/html", Body: "<html>" + canary},
		"nothing, 200":    {Status: 200},
		"null, 200":       {Status: 200, Body: "null"},
		"{}, 200":         {Status: 200, Body: "{}"},
		"a number, 200":   {Status: 200, Body: `{"id":1}`},
		"odd fields, 200": {Status: 200, Body: `{"expires_at":"` + canary + `","id":"x"}`},
		"a redirect":      {Status: 302, Headers: map[string]string{"Location": "https://" + canary + ".invalid/"}},
	}
	for _, status := range []int{400, 401, 403, 404, 409, 412, 429, 500, 502, 503} {
		faults[fmt.Sprint(status)] = ibmcloudtest.Fault{Status: status, Body: fmt.Sprintf(
			`{"errorCode":%[1]q,"errorMessage":%[1]q,"errors":[{"code":%[1]q,"message":%[1]q}]}`, canary)}
	}
	return faults
}()

// shownBy has, for each operation that doctor uses, the check that shows its failure.
var shownBy = map[[2]string]string{
	{ibmcloudtest.OpIAMToken, ibmcloudtest.IdentityBootstrap}: "bootstrap-identity",
	{ibmcloudtest.OpIAMToken, ibmcloudtest.IdentityWorkload}:  "key-identity",
	{ibmcloudtest.OpSecretsGet, ""}:                           "key-secret",
	{ibmcloudtest.OpSecretsMetadata, ""}:                      "token-secret",
	{ibmcloudtest.OpLocks, ""}:                                "token-locks",
	{ibmcloudtest.OpVersionsMetadata, ""}:                     "stored-token",
	{ibmcloudtest.OpAny, ""}:                                  "bootstrap-identity",
}

// The tests of requests that hang, which take the whole time limit, run in parallel.
func TestEachFaultOfEachOperationIsShownWhereItBelongs(t *testing.T) {
	t.Parallel()
	var hanging sync.WaitGroup
	defer hanging.Wait()
	for name, fault := range misbehaviours {
		examine := func(examine func(*fixture, ibmcloudtest.Fault)) {
			fx := newFixture(t, ibmcloudtest.Options{})
			if fault.Delay == 0 {
				examine(fx, fault)
				return
			}
			fx.timeout = 4 * time.Second // otherwise a slow machine has time
			hanging.Go(func() { examine(fx, fault) })
		}
		for operation, check := range shownBy {
			examine(func(fx *fixture, fault ibmcloudtest.Fault) {
				fault.Op, fault.Identity = operation[0], operation[1]
				fx.fault(fault)
				diagnosis := fx.run()
				status := report.CheckFailed
				if fault.Status == 403 && (check == "token-secret" || check == "token-locks") {
					status = report.CheckWarning // a rotation needs neither permission
				}
				fx.want(diagnosis, check, status)
				if bad := names(diagnosis.Checks, report.CheckFailed, report.CheckWarning); !slices.Equal(bad, []string{check}) {
					t.Errorf("%s of %s: %v are said to be wrong, want %s alone", name, operation, bad, check)
				}
			})
		}
		examine(func(fx *fixture, fault ibmcloudtest.Fault) { // no rotation needs these
			for _, op := range []string{ibmcloudtest.OpAPIKeysDetails, ibmcloudtest.OpIAMKeys} {
				fault.Op = op
				fx.fault(fault)
			}
			diagnosis := fx.run()
			fx.want(diagnosis, "key-identity", report.CheckWarning, "signature could not be verified", "/identity/keys")
			fx.want(diagnosis, "key-expiry", report.CheckSkipped, "not known")
			if bad := names(diagnosis.Checks, report.CheckFailed, report.CheckWarning); len(bad) > 1 {
				t.Errorf("%s: %v are said to be wrong", name, bad)
			}
		})
	}
}

const nowhere = "00000000-0000-4000-8000-000000000000"

// Every finding of a rotation's checks, with words of its advice.
func TestFindings(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(fx *fixture)
		check   string
		status  report.Status
		words   []string
	}{
		"no key secret":    {func(fx *fixture) { fx.one.APIKey.ID = nowhere }, "key-secret", report.CheckFailed, []string{"not_found", "API_KEY_SECRET"}},
		"two lines":        {keySecret(ibmcloudtest.SecretSpec{Payload: canary + "\n" + canary}), "key-secret", report.CheckFailed, []string{"misconfigured: what the key secret holds is not an API key on one line", "bare key"}},
		"kv, no field":     {keySecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"k": canary}}), "key-secret", report.CheckFailed, []string{"api_key_field"}},
		"unknown key":      {func(fx *fixture) { fx.cloud.MustDeleteAPIKey(fx.seeded.APIKey) }, "key-identity", report.CheckFailed, []string{"denied", "BXNIM0415E: the API key in the key secret is not known", "replace it with a valid key"}},
		"another account":  {func(fx *fixture) { fx.one.Expect.Account = strings.Repeat("0", 32) }, "key-identity", report.CheckFailed, []string{"is expected", "`expect`"}},
		"as expected":      {func(fx *fixture) { fx.one.Expect.IAMID = fx.seeded.IAMID }, "key-identity", report.CheckOK, []string{"as expected"}},
		"key was replaced": {func(fx *fixture) { fx.save(fx.cloud.ReaderIAMID(), time.Now().Add(time.Hour)) }, "key-identity", report.CheckFailed, []string{"run once with force"}},
		"bootstrap's own": {func(fx *fixture) {
			fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", nil)
			keySecret(ibmcloudtest.SecretSpec{Payload: fx.cloud.BootstrapAPIKey()})(fx)
		}, "key-identity", report.CheckWarning, []string{"bootstrap identity itself"}},
		"no secret.read":   {forbidden(ibmcloudtest.OpSecretsGet), "key-secret", report.CheckFailed, []string{"answered 403 → give the bootstrap identity a role with secret.read"}},
		"no metadata.read": {forbidden(ibmcloudtest.OpSecretsMetadata), "token-secret", report.CheckWarning, []string{"answered 403 → give the bootstrap identity a role with secret-metadata.read"}},
		"no locks.list":    {forbidden(ibmcloudtest.OpLocks), "token-locks", report.CheckWarning, []string{"answered 403 → give the bootstrap identity a role with secret-version-locks.list"}},
		"no version.read":  {forbidden(ibmcloudtest.OpVersionsMetadata), "stored-token", report.CheckFailed, []string{"answered 403 → give the bootstrap identity a role with secret-version-metadata.read"}},
		"opaque token":     {opaque(ibmcloudtest.IdentityWorkload), "key-identity", report.CheckWarning, []string{"does not show its identity"}},
		"opaque bootstrap": {func(fx *fixture) {
			fx.cloud.MustDeleteAPIKey(fx.seeded.APIKey)
			opaque(ibmcloudtest.IdentityBootstrap)(fx)
		}, "bootstrap-identity", report.CheckWarning, []string{"does not show its identity"}},
		"key expires soon":  {expiringKey(3 * 24 * time.Hour), "key-expiry", report.CheckWarning, []string{"in 2 days", "store a new key"}},
		"key expires later": {expiringKey(90 * 24 * time.Hour), "key-expiry", report.CheckOK, []string{"expires on 20"}},
		"key secret expires": {func(fx *fixture) {
			keySecret(ibmcloudtest.SecretSpec{Payload: fx.seeded.APIKey, Expires: time.Now().Add(25 * time.Hour)})(fx)
		}, "key-expiry", report.CheckWarning, []string{"the key secret expires in 1 day", "destroys"}},
		"short lifetime":     {func(fx *fixture) { fx.cloud.SetTokenTTL(15 * time.Minute) }, "token-lifetime", report.CheckWarning, []string{"shorter than the schedule", "ensure"}},
		"no longer than MIN": {func(fx *fixture) { fx.cloud.SetTokenTTL(15 * time.Minute); fx.doctor.MinRemaining = 15 * time.Minute }, "token-lifetime", report.CheckWarning, []string{"MIN_REMAINING (15m0s): 8m0s counts instead", "to 8m0s or less"}},
		"an ageing token":    {ageing, "token-lifetime", report.CheckFailed, []string{"invalid_token", "half of its lifetime"}},
		"no token secret":    {func(fx *fixture) { fx.one.Token.ID = nowhere }, "token-secret", report.CheckFailed, []string{"not_found", "TOKEN_SECRET"}},
		"expiration date":    {tokenSecret(ibmcloudtest.SecretSpec{Expires: time.Now().Add(time.Hour)}), "token-secret", report.CheckFailed, []string{"IBM destroys the secret for good", "without an expiration date"}},
		"destroyed":          {tokenSecret(ibmcloudtest.SecretSpec{Expires: time.Now().Add(-time.Hour)}), "token-secret", report.CheckFailed, []string{"was destroyed"}},
		"of another type":    {tokenSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials"}), "token-secret", report.CheckFailed, []string{`the secret is of type "iam_credentials"`, "name one of type arbitrary or kv"}},
		"field of no kv":     {func(fx *fixture) { fx.one.Token.Field = "iam_token" }, "token-secret", report.CheckFailed, []string{"remove token_field"}},
		"kv":                 {tokenSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"iam_token": "x"}, Metadata: map[string]any{"rotator_version": "1"}}), "token-secret", report.CheckOK, []string{"of type kv"}},
		"kv of others":       {tokenSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"iam_token": "x", "user": "someone"}}), "stored-token", report.CheckFailed, []string{"misconfigured", "all its other entries", "run default, force true"}},
		"the key's group": {func(fx *fixture) {
			fx.as(fx.cloud.AdminAPIKey())
			tokenSecret(ibmcloudtest.SecretSpec{Group: fx.cloud.KeyGroupName()})(fx)
		}, "token-secret", report.CheckWarning, []string{"who may read the token may read the API key", "its own group"}},
		"previous locked": {func(fx *fixture) { fx.cloud.MustLock(fx.one.Token.ID, "previous", canary) }, "token-locks", report.CheckFailed, []string{"the next save fails", "remove the locks of the previous version"}},
		"current locked":  {func(fx *fixture) { fx.cloud.MustLock(fx.one.Token.ID, "current", canary) }, "token-locks", report.CheckWarning, []string{"the one after it fails"}},
		"one version":     {tokenSecret(ibmcloudtest.SecretSpec{Payload: "no token yet"}), "token-locks", report.CheckOK, nil},
		"no token yet":    {func(fx *fixture) { fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", nil) }, "stored-token", report.CheckWarning, []string{"none was saved", "run default"}},
		"forged metadata": {func(fx *fixture) {
			fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", map[string]any{"expiration": canary, "iam_id": canary})
		}, "stored-token", report.CheckWarning, []string{"someone has edited it"}},
		"expired":         {stored(-time.Minute), "stored-token", report.CheckFailed, []string{"readers have a token that expired 20", "(1m", " ago)", "schedule"}},
		"expired, so try": {stored(-time.Minute), "save", report.CheckSkipped, []string{"to find out, save a token: run default"}},
		"about to expire": {func(fx *fixture) {
			fx.doctor.MinRemaining = 150 * time.Second
			fx.save(fx.seeded.IAMID, time.Now().Add(2*time.Minute))
		}, "stored-token", report.CheckWarning, []string{"less than MIN_REMAINING (2m30s)", "ensure schedule"}},
		"capped":                  {stored(2 * time.Minute), "stored-token", report.CheckWarning, []string{"less than the 3m0s that its lifetime allows of MIN_REMAINING (8m0s)"}},
		"clock behind":            {clock(-10 * time.Minute), "iam-clock", report.CheckWarning, []string{"it is 10m", "behind the clock of", "NTP"}},
		"clock ahead":             {clock(90 * time.Second), "secrets-manager-clock", report.CheckWarning, []string{"it is 1m", "ahead of the clock of", "NTP"}},
		"bootstrap soon":          {expirySet(50 * time.Hour), "bootstrap-key-expiry", report.CheckWarning, []string{"in 2 days", "replace the key"}},
		"bootstrap expired":       {expirySet(-50 * time.Hour), "bootstrap-key-expiry", report.CheckWarning, []string{"has expired"}},
		"bootstrap is set":        {expirySet(500 * time.Hour), "bootstrap-key-expiry", report.CheckOK, []string{"BOOTSTRAP_EXPIRES_AT"}},
		"bootstrap is not":        {expirySet(0), "bootstrap-key-expiry", report.CheckSkipped, []string{"set BOOTSTRAP_EXPIRES_AT"}},
		"the date is wrong":       {func(fx *fixture) { fx.doctor.Bootstrap.ExpiresAt = time.Now().Add(500 * time.Hour) }, "bootstrap-key-expiry", report.CheckWarning, []string{"does not expire", "remove BOOTSTRAP_EXPIRES_AT"}},
		"the key is kept in AWS":  {keyInAWS(nil), "bootstrap-key", report.CheckOK, []string{"SECRETS_MANAGER_APIKEY_ARN"}},
		"and may not be read":     {keyInAWS(&rotation.Error{Kind: rotation.Denied, Message: "reading the secret: give the role", Advice: "give the role"}), "bootstrap-key", report.CheckFailed, []string{"denied: reading the secret → give the role"}},
		"and something is wrong":  {keyInAWS(errors.New(canary)), "bootstrap-key", report.CheckFailed, []string{"unexpected failure", "run doctor again"}},
		"managed: all is well":    {managed(managedKey, nil), "managed-key", report.CheckOK, []string{"every 15 days", "expires on"}},
		"managed: stored":         {managed(managedKey, nil), "managed-key-copy", report.CheckOK, []string{"holds IBM's current key, ApiKey-"}},
		"managed: another key":    {managed(managedKey, func(fx *fixture, id string) { fx.cloud.MustRotateSecret(id) }), "managed-key-copy", report.CheckWarning, []string{"does not hold", "the next run stores it"}},
		"managed: no locks":       {managed(managedKey, nil), "managed-key-locks", report.CheckOK, nil},
		"managed: a lock":         {managed(managedKey, func(fx *fixture, id string) { fx.cloud.MustLock(id, "current", "mine") }), "managed-key-locks", report.CheckWarning, []string{"locks (1)", "remove"}},
		"managed: no rule":        {managed(changed(func(s *ibmcloudtest.SecretSpec) { s.RotateDays = 0 }), nil), "managed-key", report.CheckWarning, []string{"not rotated automatically", "give it a rotation rule"}},
		"managed: too little ttl": {managed(changed(func(s *ibmcloudtest.SecretSpec) { s.TTL = "408h" }), nil), "managed-key", report.CheckWarning, []string{"last 17 days", "every 15 days"}},
		"managed: IBM is late":    {managed(managedKey, func(fx *fixture, _ string) { clock(19 * 24 * time.Hour)(fx) }), "managed-key", report.CheckWarning, []string{"should have rotated it"}},
		"managed: reuse is off":   {managed(changed(func(s *ibmcloudtest.SecretSpec) { s.ReuseAPIKey, s.RotateDays = false, 0 }), nil), "managed-key", report.CheckFailed, []string{"reuse_api_key"}},
		"managed: another type":   {managed(ibmcloudtest.SecretSpec{Payload: "a-key-that-nobody-renews"}, nil), "managed-key", report.CheckFailed, []string{"BOOTSTRAP_KEY_SECRET", "iam_credentials"}},
		"managed: it is gone":     {managed(managedKey, func(fx *fixture, id string) { fx.cloud.MustDeleteSecret(id) }), "managed-key", report.CheckFailed, []string{"not_found", "BOOTSTRAP_KEY_SECRET"}},
		"managed: forbidden":      {managed(managedKey, func(fx *fixture, _ string) { forbidden(ibmcloudtest.OpSecretsGet)(fx) }), "managed-key", report.CheckFailed, []string{"denied", "secret.read"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fx := newFixture(t, ibmcloudtest.Options{})
			test.arrange(fx)
			fx.cloud.ClearRequests()
			diagnosis := fx.run()
			fx.want(diagnosis, test.check, test.status, test.words...)
			if strings.HasPrefix(name, "managed") && slices.Contains(names(diagnosis.Checks), "bootstrap-key-expiry") {
				t.Error("the expiry of the bootstrap key is shown twice")
			}
		})
	}
}

// The functions below arrange a fixture.

func fault(f ibmcloudtest.Fault) func(*fixture) { return func(fx *fixture) { fx.fault(f) } }

// forbidden makes Secrets Manager answer an operation with 403.
func forbidden(op string) func(*fixture) { return fault(ibmcloudtest.Fault{Op: op, Status: 403}) }

func keySecret(spec ibmcloudtest.SecretSpec) func(*fixture) {
	return func(fx *fixture) { fx.one.APIKey.ID = fx.cloud.MustCreateSecret(spec) }
}

func tokenSecret(spec ibmcloudtest.SecretSpec) func(*fixture) {
	return func(fx *fixture) {
		spec.Group = cmp.Or(spec.Group, fx.cloud.TokenGroupName())
		fx.one.Token.ID = fx.cloud.MustCreateSecret(spec)
	}
}

// answerAll makes fault the answer to every request to Secrets Manager.
func answerAll(fault ibmcloudtest.Fault) func(*fixture) {
	return func(fx *fixture) {
		for _, op := range []string{ibmcloudtest.OpSecretsGet, ibmcloudtest.OpSecretsMetadata, ibmcloudtest.OpLocks, ibmcloudtest.OpVersionsMetadata} {
			fault.Op = op
			fx.fault(fault)
		}
	}
}

// managedKey is a secret in which IBM renews the bootstrap key.
var managedKey = ibmcloudtest.SecretSpec{Type: "iam_credentials", ReuseAPIKey: true, TTL: "1080h", RotateDays: 15}

func changed(change func(*ibmcloudtest.SecretSpec)) ibmcloudtest.SecretSpec {
	spec := managedKey
	change(&spec)
	return spec
}

// managed makes spec the secret of BOOTSTRAP_KEY_SECRET, with its key in AWS, and calls then.
func managed(spec ibmcloudtest.SecretSpec, then func(fx *fixture, id string)) func(*fixture) {
	return func(fx *fixture) {
		if spec.Type != "" {
			spec.IAMID = fx.cloud.BootstrapIAMID()
		}
		id := fx.cloud.MustCreateSecret(spec)
		stored := iamtoken.NewSecret(fx.cloud.MustCurrent(id).Payload)
		fx.doctor.Bootstrap.ReadKey = func(context.Context) (iamtoken.Secret, error) { return stored, nil }
		fx.doctor.ManagedKey = rotation.KeyRef{ID: id}
		if then != nil {
			then(fx, id)
		}
	}
}

// keyInAWS has the bootstrap key in AWS, where reading it returns err.
func keyInAWS(err error) func(*fixture) {
	return func(fx *fixture) {
		fx.doctor.Bootstrap.Variable = "SECRETS_MANAGER_APIKEY_ARN"
		fx.doctor.Bootstrap.ReadKey = func(context.Context) (iamtoken.Secret, error) { return iamtoken.Secret{}, err }
	}
}

// opaque makes IAM give an identity a token that is not a JWT.
func opaque(identity string) func(*fixture) {
	return fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: identity, Status: 200, Body: fmt.Sprintf(
		`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`, canary, time.Now().Add(time.Hour).Unix())})
}

// ageing makes IAM answer with a 60-minute token that expires in four minutes.
func ageing(fx *fixture) {
	fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200, Body: fmt.Sprintf(
		`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`,
		fx.cloud.MustMintToken(fx.seeded.APIKey, 4*time.Minute), time.Now().Add(4*time.Minute).Unix())})
}

// clock makes the machine's clock wrong.
func clock(by time.Duration) func(*fixture) {
	return func(fx *fixture) { fx.doctor.Now = func() time.Time { return time.Now().Add(by) } }
}

// expirySet sets BOOTSTRAP_EXPIRES_AT, unless expires is 0, and has IAM show no key's expiry.
func expirySet(expires time.Duration) func(*fixture) {
	return func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysDetails, Status: 403})
		if expires != 0 {
			fx.doctor.Bootstrap.ExpiresAt = time.Now().Add(expires)
		}
	}
}

// expiringKey makes IAM answer that every key expires.
func expiringKey(in time.Duration) func(*fixture) {
	return fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysDetails, Status: 200,
		Body: fmt.Sprintf(`{"id":"ApiKey-1","expires_at":%q}`, time.Now().Add(in).UTC().Format("2006-01-02T15:04-0700"))})
}

// stored saves a token with this remaining lifetime.
func stored(remaining time.Duration) func(*fixture) {
	return func(fx *fixture) {
		fx.save(fx.seeded.IAMID, time.Now().Add(remaining))
	}
}

// Reading such a secret makes a key and deletes another, and doctor must write nothing.
func TestASecretThatMakesAKeyOnEveryReadIsNotRead(t *testing.T) {
	for _, test := range []struct {
		spec  ibmcloudtest.SecretSpec
		words []string // none: it is read
	}{
		{ibmcloudtest.SecretSpec{Name: "minting"}, []string{"reuse_api_key false"}},
		{ibmcloudtest.SecretSpec{Name: "minting-2", ReuseAPIKey: true, IAMID: "the workload's"}, nil},
		{ibmcloudtest.SecretSpec{Name: "minting-3", ReuseAPIKey: true}, []string{"service_id_is_static false", "create it with a fixed service_id"}},
	} {
		fx := newFixture(t, ibmcloudtest.Options{})
		fx.as(fx.cloud.AdminAPIKey()) // who may read metadata
		test.spec.Type = "iam_credentials"
		if test.spec.IAMID != "" {
			test.spec.IAMID = fx.seeded.IAMID
		}
		id := fx.cloud.MustCreateSecret(test.spec)
		for _, ref := range []rotation.KeyRef{{ID: id}, {Group: "iam-api-keys", Type: "iam_credentials", Name: test.spec.Name}} {
			fx.one.APIKey = ref
			if test.words == nil {
				fx.want(fx.run(), "key-secret", report.CheckOK, "iam_credentials")
				continue
			}
			fx.want(fx.run(), "key-secret", report.CheckFailed, test.words...)
			if fx.cloud.CountRequests(ibmcloudtest.OpSecretsGet, "") > 0 {
				t.Error("the secret was read")
			}
		}
	}
}

func TestATokenHasNoMoreLeftThanItWasIssuedWith(t *testing.T) {
	fx := newFixture(t, ibmcloudtest.Options{})
	fx.doctor.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Headers: map[string]string{"Date": ""}})
	fx.want(fx.run(), "stored-token", report.CheckOK, "expires in 1h1m0s,")
}
