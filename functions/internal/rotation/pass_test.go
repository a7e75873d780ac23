package rotation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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

const (
	ensure, check = rotation.ModeEnsure, rotation.ModeCheck

	metadataOp, keyOp, tokenOp, saveOp = ibmcloudtest.OpVersionsMetadata, ibmcloudtest.OpSecretsGet, ibmcloudtest.OpIAMToken,
		ibmcloudtest.OpVersionsCreate
)

func TestRotateSavesANewToken(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		result := fx.runAs(rotation.Request{Mode: rotation.ModeRotate, RunID: "rotate-1234"})
		fx.wantOutcome(result, report.Rotated)
		fx.wantStored(59 * time.Minute)
		fx.wantVersions(2)
		current := fx.cloud.MustCurrent(fx.one.Token.ID)
		if result.VersionID != current.ID || result.MarginSeconds != nil || result.SecondsRemaining == nil || *result.SecondsRemaining < 3590 {
			t.Errorf("got %+v, want version %s, no margin where there was no token before, and an hour", result, current.ID)
		}
		metadata, err := iamtoken.ParseMetadata(current.Metadata)
		_, expires, _ := fx.cloud.Validate(current.Payload)
		want := iamtoken.Metadata{
			Expiration: expires.Unix(), IssuedAt: expires.Unix() - 3600, ExpiresIn: 3600,
			IAMID: fx.workload().IAMID, Account: fx.cloud.AccountID(),
			Fingerprint: iamtoken.Token{Value: iamtoken.NewSecret(current.Payload)}.Fingerprint(),
			RunID:       "rotate-1234", RotatorVersion: "test", Mirrors: "none",
		}
		if err != nil || metadata != want {
			t.Errorf("got metadata %+v (%v), want %+v", metadata, err, want)
		}
	})
}

// Step 1: what is read of the current version.

// stored edits the metadata of the current version. A duration is the time from then on.
func stored(metadata map[string]any) func(*fixture) {
	return func(fx *fixture) {
		edited := maps.Clone(metadata)
		if in, ok := metadata["expiration"].(time.Duration); ok {
			edited["expiration"] = time.Now().Add(in).Unix()
		}
		fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, "current", edited)
	}
}

// metadataAnswer answers the read of the metadata with a version that has an hour left. replaced are names and JSON values of
// fields to replace.
func metadataAnswer(headers map[string]string, replaced ...string) func(*fixture) {
	return func(fx *fixture) {
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
		fx.fault(ibmcloudtest.Fault{Op: metadataOp, Status: 200, Headers: headers, Body: string(encoded)})
	}
}

// Whoever may write metadata can hold a rotation up for 61 minutes, and no longer.
func TestMetadataIsTrustedOnlyAsFarAsItMay(t *testing.T) {
	const year, other = 365 * 24 * time.Hour, "iam-ServiceId-else"
	ones, noDate := strings.Repeat("1", 32), map[string]string{"Date": ""}
	unreadable := func(metadata string) func(*fixture) { return metadataAnswer(nil, "version_custom_metadata", metadata) }
	play(t, map[string]story{
		"none":                       {edit: stored(nil), mode: ensure},
		"no expiration among others": {edit: stored(map[string]any{"owner": "someone"}), mode: ensure},
		"a far expiration, for now": {edit: stored(map[string]any{"expiration": year}), after: 52 * time.Minute, mode: ensure,
			want: report.Fresh},
		"a far expiration, later": {edit: stored(map[string]any{"expiration": year}), after: 54 * time.Minute, mode: ensure},
		"the largest expiration":  {edit: stored(map[string]any{"expiration": int64(1<<63 - 1)}), after: 54 * time.Minute, mode: ensure},
		"the least expiration":    {edit: stored(map[string]any{"expiration": int64(-1 << 63)}), mode: ensure},
		"0":                       {edit: stored(map[string]any{"expiration": 0}), mode: ensure},
		"an expiration as text":   {edit: stored(map[string]any{"expiration": "4102444800"}), mode: ensure},
		"beyond all numbers":      {edit: stored(map[string]any{"expiration": 1e300}), mode: ensure},
		"another identity": {edit: stored(map[string]any{"expiration": time.Hour, "iam_id": other}),
			fails: rotation.StepCheck, kind: rotation.InvalidToken},
		"another account": {edit: stored(map[string]any{"expiration": time.Hour, "account": ones}),
			fails: rotation.StepCheck, kind: rotation.InvalidToken},
		"an identity of another type":      {edit: stored(map[string]any{"expiration": time.Hour, "iam_id": 7})},
		"another identity, expired":        {edit: stored(map[string]any{"expiration": -time.Second, "iam_id": other})},
		"another identity, without an end": {edit: stored(map[string]any{"iam_id": other})},
		"another identity, for long": {edit: stored(map[string]any{"expiration": year, "iam_id": other}),
			after: 60*time.Minute + 55*time.Second, fails: rotation.StepCheck, kind: rotation.InvalidToken},
		"another identity, for longer": {edit: stored(map[string]any{"expiration": year, "iam_id": other}), after: 61 * time.Minute},
		"a list":                       {first: true, edit: unreadable(`[1]`), mode: ensure},
		"text":                         {first: true, edit: unreadable(`"x"`), mode: ensure},
		"a number that is none":        {first: true, edit: unreadable(`{"expiration":1e999}`), mode: ensure},
		"a number deep within":         {first: true, edit: unreadable(`{"x":{"y":[-1e999]},"expiration":9999999999}`), mode: ensure},
		// Answers that a proxy has mixed up must not put one rotation's token where another's is read.
		"of another secret": {first: true, mode: ensure, fails: rotation.StepReadMetadata, kind: rotation.Unavailable,
			edit: func(fx *fixture) { metadataAnswer(nil, "secret_id", `"`+fx.one.APIKey.ID+`"`)(fx) }},
		// Without a Date nothing else says that a version of the future is none: its token would pass for a fresh one for ever.
		"a version of the future": {first: true, mode: ensure, says: "2286",
			edit: metadataAnswer(noDate, "created_at", `"2286-01-01T00:00:00Z"`, "version_custom_metadata", `{"expiration":9999999999}`)},
		"a version of the future, of another": {first: true, says: "2286",
			edit: metadataAnswer(noDate, "created_at", `"2286-01-01T00:00:00Z"`, "version_custom_metadata",
				`{"expiration":9999999999,"iam_id":"iam-ServiceId-else"}`)},
	})
}

// Whoever may edit metadata could have put anything there.
func TestStoredMetadataIsNotRepeated(t *testing.T) {
	each(t, map[string]map[string]any{
		"expired":    {"iam_id": pasted, "account": pasted, "fingerprint": pasted, "run_id": pasted, "expiration": 1},
		"an account": {"iam_id": "iam-ServiceId-1", "account": pasted}, "of another kind": {pasted: pasted},
	}, func(fx *fixture, metadata map[string]any) {
		fx.rotate()
		stored(metadata)(fx)
		for _, mode := range []rotation.Mode{check, rotation.ModeRotate} {
			if encoded, err := json.Marshal(fx.run(mode)); err != nil || strings.Contains(string(encoded), "pasted") {
				fx.t.Errorf("%s: the report repeats stored metadata (%v)", mode, err)
			}
		}
	})
}

// kv gives the rotation a kv token secret with entries of its owner's, with metadata and then as the edits leave it.
func kv(metadata map[string]any, edits ...func(*fixture)) func(*fixture) {
	return func(fx *fixture) {
		fx.one.Token.ID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: fx.cloud.TokenGroupName(), Metadata: metadata,
			Data: map[string]any{"url": "https://example.com", "user": "someone", "iam_token": "none"}})
		fx.rotator.HowToRun = func(name string, force bool) string { return map[bool]string{true: "force " + name}[force] }
		for _, edit := range edits {
			edit(fx)
		}
		fx.cloud.ClearRequests()
	}
}

// marked is the metadata of a kv secret that the set-up has made.
var marked = map[string]any{"rotator_version": "set-up"}

// erase edits the metadata of the two versions that have a value, after two saves.
func erase(versions ...string) func(*fixture) {
	return func(fx *fixture) {
		fx.force()
		fx.rotate()
		for _, version := range versions {
			fx.cloud.MustSetVersionMetadata(fx.one.Token.ID, version,
				map[string]any{"expiration": time.Now().Add(time.Hour).Unix(), "owner": "someone"})
		}
	}
}

// A save to a kv secret leaves none of its other entries: the function writes where it wrote before, or by force.
func TestAKVSecretOfOthersIsNotOverwritten(t *testing.T) {
	previous := func(status, times int) func(*fixture) { // a fault of the second read of metadata, the previous version's
		return fault(ibmcloudtest.Fault{Op: metadataOp, Skip: 1, Times: times, Status: status})
	}
	reads := func(want int) func(*fixture, report.Result) {
		return func(fx *fixture, _ report.Result) {
			if got := fx.countRequests(metadataOp); got != want {
				fx.t.Errorf("got %d reads of metadata, want %d", got, want)
			}
			fx.cloud.ClearFaults()
			fx.cloud.ClearRequests()
			fx.wantOutcome(fx.run(ensure), report.Fresh)
			if got := len(fx.cloud.Requests()); got != 1 {
				fx.t.Errorf("ensure made %d requests, want 1", got)
			}
		}
	}
	of := func(s story, edit func(*fixture)) story {
		s.first, s.edit = true, edit
		if s.then == nil && !s.force {
			s.fails, s.kind, s.says, s.attempts = rotation.StepReadMetadata, rotation.Misconfigured,
				"would remove all its other entries: if nothing else in it is needed, run once with force: force default", 1
		}
		return s
	}
	play(t, map[string]story{
		"made by hand":         of(story{}, kv(nil)),
		"made by hand, ensure": of(story{mode: ensure}, kv(nil)),
		"made by hand, check":  of(story{mode: check}, kv(nil)),
		"made by hand, force":  of(story{force: true}, kv(nil)),
		"with metadata of its own": of(story{mode: ensure},
			kv(map[string]any{"expiration": 9999999999, "fingerprint": "0123456789abcdef", "owner": "someone"})),
		"a mark that is empty":   of(story{}, kv(map[string]any{"rotator_version": ""})),
		"a mark that is no text": of(story{}, kv(map[string]any{"rotator_version": 1})),
		"both erased since":      of(story{mode: check}, kv(nil, erase("current", "previous"))),
		"no previous version":    of(story{}, kv(nil, previous(400, 1))),

		"made by the set-up":        of(story{then: reads(1)}, kv(marked)),
		"written before":            of(story{then: reads(1)}, kv(nil, erase())),
		"the previous one's erased": of(story{then: reads(1)}, kv(nil, erase("previous"))),
		"the current one's erased":  of(story{then: reads(2)}, kv(nil, erase("current"))),
		"a field of another type": of(story{then: reads(1)}, kv(nil, func(fx *fixture) {
			fx.force()
			stored(map[string]any{"rotator_version": "1", "expiration": "soon"})(fx)
		})),
		"the previous one's read is tried": of(story{then: reads(4)}, kv(nil, erase("current"), previous(503, 1))),
	})
}

// A token secret that any rotation of the configuration reads its key from is never
// written, in whichever way the two are named and whichever rotations run.
func TestATokenIsNeverSavedOverAKey(t *testing.T) {
	byID := func(_ *fixture, id, _ string) rotation.KeyRef { return rotation.KeyRef{ID: id} }
	inCapitals := func(_ *fixture, id, _ string) rotation.KeyRef { return rotation.KeyRef{ID: strings.ToUpper(id)} }
	byName := func(fx *fixture, _, name string) rotation.KeyRef {
		return rotation.KeyRef{Group: fx.cloud.KeyGroupName(), Type: "arbitrary", Name: name}
	}
	type reference struct {
		key     func(fx *fixture, id, name string) rotation.KeyRef
		unnamed bool // Secrets Manager does not report the token secret's name
		apart   bool // the rotation of that key does not run
	}
	each(t, map[string]reference{
		"by id":                          {byID, false, false},
		"by id, in capitals":             {inCapitals, false, true},
		"by name":                        {byName, false, false},
		"by name, of a rotation not run": {byName, false, true},
		"by name, which is not reported": {byName, true, false},
		"neither reported nor run":       {byName, true, true},
	}, func(fx *fixture, test reference) {
		// The token of the second rotation goes where the first has its key.
		id := fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Name: "a-key", Payload: fx.workload().APIKey})
		first, second := fx.one, fx.one
		first.APIKey, second.Token.ID = test.key(fx, id, "a-key"), id
		transport := roundTripper(func(req *http.Request) (*http.Response, error) {
			response, err := fx.cloud.Transport().RoundTrip(req)
			if test.unnamed && err == nil && strings.HasSuffix(req.URL.Path, "/metadata") {
				body, _ := io.ReadAll(response.Body)
				response.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), `"secret_name"`, `"not_a_name"`, 1)))
			}
			return response, err
		})
		// The admin may do what the bootstrap identity may not.
		fx.rotator = fx.processAs(transport, byKey(fx.cloud.AdminAPIKey()), first.APIKey, second.APIKey)
		fx.rotator.Concurrency = 1
		run := []rotation.Rotation{second, first}
		if test.apart {
			run = run[:1]
		}
		for _, force := range []bool{false, true} {
			ran := fx.rotator.Run(context.Background(), rotation.Request{Mode: rotation.ModeRotate, Force: force,
				RunID: fmt.Sprint("over-the-key-", force)}, run)
			fx.wantFailure(ran.Results[0], rotation.StepReadMetadata, rotation.Misconfigured)
			if !test.apart {
				fx.wantOutcome(ran.Results[1], report.Rotated)
			}
		}
		if got := len(fx.cloud.MustVersions(id)); got != 1 {
			fx.t.Errorf("the API key was replaced: its secret has %d versions", got)
		}
	})
}

// Step 2: when there is nothing to do.

func TestARunStopsWhereThereIsNothingToDo(t *testing.T) {
	lifetime := func(d time.Duration) func(*fixture) { return func(fx *fixture) { fx.cloud.SetTokenTTL(d) } }
	delivered := func(after time.Duration) func(*fixture) { // the story's run is the second delivery of an event
		return func(fx *fixture) {
			fx.wantOutcome(fx.runAs(rotation.Request{Mode: rotation.ModeRotate, RunID: "the-run-of-the-story"}), report.Rotated)
			time.Sleep(after)
			fx.rotator = fx.process(fx.cloud.Transport())
		}
	}
	anotherRun := func(fx *fixture) { // saves while the story's run waits for its second attempt
		fx.fault(ibmcloudtest.Fault{Op: saveOp, Status: 503, Times: 1, Headers: map[string]string{"Retry-After": "5"}})
		other := fx.process(fx.cloud.Transport())
		time.AfterFunc(2*time.Second, func() {
			fx.runWithin(2*time.Minute, other, rotation.Request{Mode: rotation.ModeRotate, RunID: "somebody-else"})
		})
	}
	olderAtSecondRead := func(fx *fixture) {
		before, _ := fx.rotator.Tokens.ReadMetadata(context.Background(), fx.one.Token)
		time.Sleep(10 * time.Minute)
		fx.rotate()
		reads := 0
		fx.rotator.Tokens = hooked{TokenStore: fx.rotator.Tokens,
			read: func(_ context.Context, _ string, version rotation.TokenVersion) (rotation.TokenVersion, error) {
				if reads++; reads == 2 {
					return before, nil
				}
				return version, nil
			}}
		fx.fault(ibmcloudtest.Fault{Op: saveOp, Status: 503, Times: 1})
	}
	play(t, map[string]story{
		"at once":                         {mode: ensure, want: report.Fresh},
		"with MIN_REMAINING left":         {mode: ensure, after: 52 * time.Minute, want: report.Fresh},
		"with a second less":              {mode: ensure, after: 52*time.Minute + time.Second},
		"long after the token expired":    {mode: ensure, after: 3 * time.Hour},
		"a check":                         {mode: check, want: report.Checked},
		"a check, before any token":       {mode: check, first: true, want: report.Checked},
		"delivered twice":                 {first: true, edit: delivered(time.Minute), want: report.AlreadyDone},
		"delivered twice, 15 minutes on":  {first: true, edit: delivered(15 * time.Minute)},
		"delivered twice, the token old":  {first: true, edit: delivered(55 * time.Minute)},
		"a token that would expire first": {edit: lifetime(15 * time.Minute), want: report.Kept},
		"such a token, by force":          {edit: lifetime(15 * time.Minute), force: true},
		"tokens of 15 minutes":            {first: true, edit: lifetime(15 * time.Minute), says: "less than the schedule"},
		"such a token in order": {first: true, mode: ensure, want: report.Fresh, edit: func(fx *fixture) {
			lifetime(15 * time.Minute)(fx)
			fx.rotate()
			time.Sleep(7 * time.Minute)
		}},
		"another run saves meanwhile":       {after: 50 * time.Minute, edit: anotherRun, others: 1, want: report.AlreadyDone, attempts: 2},
		"the same, by force":                {after: 50 * time.Minute, edit: anotherRun, others: 1, force: true}, // a person asked for it
		"an older version is nobody's work": {edit: olderAtSecondRead, attempts: 2},
		"such a token later": {first: true, mode: ensure, edit: func(fx *fixture) {
			lifetime(15 * time.Minute)(fx)
			fx.rotate()
			time.Sleep(7*time.Minute + time.Second)
		}},
	})
}

// Step 3: where the API key is.

// keyIn puts the workload's key, or what is in its place, into a secret that spec makes.
func keyIn(field string, spec func(fx *fixture) ibmcloudtest.SecretSpec) func(*fixture) {
	return func(fx *fixture) {
		fx.one.APIKey = rotation.KeyRef{ID: fx.cloud.MustCreateSecret(spec(fx)), Field: field}
	}
}

func TestAnAPIKeyIsReadWhereverItSits(t *testing.T) {
	type spec = ibmcloudtest.SecretSpec
	play(t, map[string]story{
		"trailing newline": {edit: keyIn("", func(fx *fixture) spec { return spec{Payload: fx.workload().APIKey + "\n"} })},
		"kv": {edit: keyIn("the_key", func(fx *fixture) spec {
			return spec{Type: "kv", Data: map[string]any{"the_key": fx.workload().APIKey, "more": 1}}
		})},
		"iam_credentials": {edit: keyIn("", func(fx *fixture) spec {
			return spec{Type: "iam_credentials", ReuseAPIKey: true, IAMID: fx.workload().IAMID}
		})},
		"service_credentials": {edit: keyIn("", func(fx *fixture) spec { return spec{Type: "service_credentials", IAMID: fx.workload().IAMID} })},
		"by group and name": {edit: func(fx *fixture) {
			fx.cloud.MustCreateSecret(spec{Name: "by-name", Payload: fx.workload().APIKey})
			fx.one.APIKey = rotation.KeyRef{Group: fx.cloud.KeyGroupName(), Type: "arbitrary", Name: "by-name"}
		}},
		"replaced during the pass": {attempts: 2, edit: func(fx *fixture) {
			fx.cloud.MustDeleteAPIKey(fx.workload().APIKey)
			time.AfterFunc(time.Second, func() {
				fx.cloud.MustPutVersion(fx.one.APIKey.ID, fx.cloud.MustCreateAPIKey(fx.workload().IAMID), nil)
			})
		}},
	})
}

func TestAKeySecretThatCannotServeIsSaidSo(t *testing.T) {
	plain := func(payload string) ibmcloudtest.SecretSpec { return ibmcloudtest.SecretSpec{Payload: payload} }
	withKey := func(value any) ibmcloudtest.SecretSpec {
		return ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": value}}
	}
	stories := map[string]story{}
	for name, test := range map[string]struct {
		spec        ibmcloudtest.SecretSpec
		field, says string
	}{
		"empty":                    {plain(" \n"), "", "holds no API key"},
		"too long for a key":       {plain(strings.Repeat("k", 8193)), "", "bare key"},
		"several words":            {plain("apikey: " + pasted), "", "bare key"},
		"field of a plain secret":  {plain(pasted), "apikey", "api_key_field"},
		"kv without a field":       {withKey(pasted), "", "api_key_field"},
		"kv with another field":    {withKey(pasted), "the-key-" + pasted, "api_key_field"},
		"kv with an object":        {withKey(map[string]any{"a": pasted}), "apikey", "api_key_field"},
		"a byte-order mark":        {plain("\ufeff" + pasted), "", "what the key secret holds begins with a byte-order mark"},
		"an invisible space":       {plain(pasted + "\u200b"), "", "what the key secret holds has an invisible character"},
		"a token":                  {plain("eyJ" + pasted + ".eyJ.sig"), "", "what the key secret holds is an access token"},
		"in quotes, kv":            {withKey("'" + pasted + "'"), "apikey", "is in quotes"},
		"iam_credentials no reuse": {ibmcloudtest.SecretSpec{Type: "iam_credentials"}, "", "reuse_api_key"},
	} {
		stories[name] = story{first: true, edit: keyIn(test.field, func(*fixture) ibmcloudtest.SecretSpec { return test.spec }),
			fails: rotation.StepReadKey, kind: rotation.Misconfigured, says: test.says, attempts: 1}
	}
	play(t, stories)
}

func TestASecretOutOfReachIsSaidSoAtOnce(t *testing.T) {
	redirect := map[string]string{"Location": "https://elsewhere.test/"}
	tokenOf := func(spec ibmcloudtest.SecretSpec) func(*fixture) {
		return func(fx *fixture) { fx.one.Token.ID = fx.cloud.MustCreateSecret(spec) }
	}
	stories := with(func(s *story) { s.attempts = 1 }, map[string]story{
		"key missing": {edit: func(fx *fixture) { fx.cloud.MustDeleteSecret(fx.one.APIKey.ID) }, fails: rotation.StepReadKey,
			kind: rotation.NotFound, says: "API_KEY_SECRET"},
		"key forbidden": {edit: keyIn("", func(*fixture) ibmcloudtest.SecretSpec {
			return ibmcloudtest.SecretSpec{Group: "default", Payload: "abc"}
		}),
			fails: rotation.StepReadKey, kind: rotation.Denied, says: "secret.read"},
		"key locked": {edit: fault(ibmcloudtest.Fault{Op: keyOp, Status: 412}), fails: rotation.StepReadKey, kind: rotation.Locked,
			says: "remove its locks"},
		"token missing": {edit: fault(ibmcloudtest.Fault{Op: metadataOp, Status: 404}), fails: rotation.StepReadMetadata,
			kind: rotation.NotFound, says: "TOKEN_SECRET"},
		"token forbidden": {edit: tokenOf(ibmcloudtest.SecretSpec{Group: "default", Payload: "abc"}), fails: rotation.StepReadMetadata,
			kind: rotation.Denied, says: "secret-version-metadata.read"},
		"save forbidden": {edit: fault(ibmcloudtest.Fault{Op: saveOp, Status: 403}), fails: rotation.StepSave, kind: rotation.Denied,
			says: "secret-version.create"},
		"token's type": {edit: func(fx *fixture) {
			tokenOf(ibmcloudtest.SecretSpec{Type: "iam_credentials", Group: fx.cloud.TokenGroupName()})(fx)
		}, fails: rotation.StepReadMetadata, kind: rotation.Misconfigured, says: "arbitrary or kv"},
		"field of raw": {edit: func(fx *fixture) { fx.one.Token.Field = "token" }, fails: rotation.StepReadMetadata,
			kind: rotation.Misconfigured, says: "token_field"},
		"redirected": {edit: fault(ibmcloudtest.Fault{Op: keyOp, Status: 307, Headers: redirect}), fails: rotation.StepReadKey,
			kind: rotation.Misconfigured, says: "redirects"},
		"IAM redirected": {edit: fault(ibmcloudtest.Fault{Op: tokenOp, Identity: "workload", Status: 307, Headers: redirect}),
			fails: rotation.StepExchange, kind: rotation.Misconfigured, says: "redirects"},
		"address not allowed": {edit: fault(ibmcloudtest.Fault{Op: tokenOp, Identity: "workload", Status: 403}),
			fails: rotation.StepExchange, kind: rotation.Denied, says: "address"},
		"a lock on the version before": {edit: func(fx *fixture) {
			fx.cloud.MustLock(fx.one.Token.ID, "current", "someone-needs-it")
			fx.rotate()
		}, fails: rotation.StepSave, kind: rotation.Locked, says: "previous version is locked: remove its locks"},
	})
	stories["the key of another secret"] = story{fails: rotation.StepReadKey, kind: rotation.Unavailable, attempts: several, edit: func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: keyOp, Status: 200,
			Body: `{"id":"` + fx.one.Token.ID + `","secret_type":"arbitrary","payload":"` + pasted + `"}`})
	}}
	play(t, stories)
}

// Steps 6 and 7: what is saved and reported.

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

func TestASaveWithoutAnAnswerMakesNoSecondVersion(t *testing.T) {
	found := func(fx *fixture, result report.Result) {
		if current := fx.cloud.MustCurrent(fx.one.Token.ID); result.VersionID != current.ID || result.MarginSeconds == nil ||
			*result.MarginSeconds < 590 {
			fx.t.Errorf("got version %s and a margin of %v, want %s and about 10 minutes", result.VersionID, result.MarginSeconds, current.ID)
		}
	}
	const fifty = 50 * time.Minute
	play(t, map[string]story{
		"lost before the save": {after: fifty, edit: fault(ibmcloudtest.Fault{Op: saveOp, Drop: ibmcloudtest.DropBefore, Times: 1}),
			attempts: 2, then: found},
		"lost after the save": {after: fifty, edit: fault(ibmcloudtest.Fault{Op: saveOp, Drop: ibmcloudtest.DropAfter, Times: 1}),
			attempts: 2, then: found},
		// Only a version's id passes for one: it is logged.
		"of something else": {after: fifty, edit: fault(ibmcloudtest.Fault{Op: saveOp, Status: 201, Times: 1,
			Body: `{"id":"canary","secret_type":"arbitrary","created_at":"2026-01-01T00:00:00Z"}`}), attempts: 2, then: found},
	})
}

// The margin is measured when the version was made, not when that became known. A gap is no longer than the version before is
// old: a metric of a gap since 1970 hides every other.
func TestTheMarginIsThatOfTheSave(t *testing.T) {
	const fifty = 50 * time.Minute
	margin := func(want int64) func(*fixture, report.Result) {
		return func(fx *fixture, result report.Result) {
			if got := result.MarginSeconds; got == nil || *got != want {
				fx.t.Errorf("got margin %v, want %d", got, want)
			}
		}
	}
	play(t, map[string]story{
		"of a save whose answer is lost": {after: fifty, then: margin(600),
			edit: fault(ibmcloudtest.Fault{Op: saveOp, Drop: ibmcloudtest.DropAfter, Delay: 5 * time.Second, Times: 1})},
		"of a run that saved nothing": {edit: fault(ibmcloudtest.Fault{Op: saveOp, Status: 412, Times: 1}), fails: rotation.StepSave,
			kind: rotation.Locked, then: func(fx *fixture, result report.Result) {
				if result.MarginSeconds != nil {
					fx.t.Errorf("got margin %d, want none", *result.MarginSeconds)
				}
			}},
		"after a tenth of a second without a token": {after: time.Hour + 100*time.Millisecond, then: margin(-1)},
		"of an expiry in 1970":                      {after: 10 * time.Minute, edit: stored(map[string]any{"expiration": 1}), then: margin(-600)},
	})
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.rotate()
		time.Sleep(fifty)
		fx.fault(ibmcloudtest.Fault{Op: saveOp, Status: 201,
			Body: `{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"arbitrary","created_at":"1970-01-01T00:00:00Z"}`})
		if result := fx.rotate(); *result.MarginSeconds != 600 || *result.SecondsRemaining != 3600 {
			t.Errorf("of a version made in 1970: got a margin of %d and %d seconds left, want 600 and 3600", *result.MarginSeconds,
				*result.SecondsRemaining)
		}
	})
}
