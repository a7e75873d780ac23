package keyrenewal

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

const (
	owner   = "iam-ServiceId-bootstrap"
	account = "0123456789abcdef0123456789abcdef"
	keyID1  = "ApiKey-11111111-1111-4111-8111-111111111111"
	keyID2  = "ApiKey-22222222-2222-4222-8222-222222222222"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func errIs(kind rotation.Kind, retry rotation.Retry) error {
	return &rotation.Error{Kind: kind, Retry: retry, Message: "refused"}
}

// version is one of the AWS secret.
type version struct{ id, key string }

// cloud emulates IBM and AWS. It calls happens before the request numbered at; forgetting the key
// in use, which is step 6, counts as a request.
type cloud struct {
	managed rotation.KeySecret
	owners  map[string]string // IAM ids by the keys that IAM knows
	refused map[string]error  // Secrets Manager's answers to the tokens of keys

	versions []version // of the AWS secret
	current  int       // index in versions; AWSPREVIOUS is the one before it
	putError error     // AWS's answer to a put
	iamError error     // IAM's answer to the exchange of a key that is not in use

	requests int
	at       int
	happens  func()
	done     []string // the requests, by name
}

type crashed struct{}

// crashes runs a renewal in a process that ends before the request numbered at, and reports whether there were as many.
func (c *cloud) crashes(t *testing.T, r *Renewer, at int) (ended bool) {
	c.at, c.happens = at, func() { panic(crashed{}) }
	defer func() {
		c.at = 0
		switch cause := recover(); cause {
		case nil, crashed{}:
			ended = cause != nil
		default:
			panic(cause)
		}
	}()
	_ = r.Run(t.Context(), rotation.TokenRef{})
	return false
}

func (c *cloud) request(name string) {
	if c.requests++; c.requests == c.at {
		c.happens()
	}
	c.done = append(c.done, name)
}

func newCloud() *cloud {
	return &cloud{
		managed: rotation.KeySecret{
			SecretDescription: rotation.SecretDescription{Type: "iam_credentials", ExpiresAt: start.Add(45 * day)},
			Key:               iamtoken.NewSecret("key-1"), KeyID: keyID1,
			TTL: 45 * day, Interval: 15 * day, NextRotation: start.Add(15 * day),
		},
		owners:   map[string]string{"key-0": owner, "key-1": owner, "key-2": owner, "other": "iam-ServiceId-other"},
		refused:  map[string]error{},
		versions: []version{{"version-0", "key-0"}, {versionID(keyID1, "version-0"), "key-1"}}, current: 1,
	}
}

// rotate is IBM's rotation: key-2 becomes the current key.
func (c *cloud) rotate() {
	c.managed.Key, c.managed.KeyID, c.managed.ExpiresAt = iamtoken.NewSecret("key-2"), keyID2, start.Add(60*day)
}

func (c *cloud) ReadManagedKey(context.Context, rotation.KeyRef) (rotation.KeySecret, error) {
	c.request("read")
	return c.managed, nil
}

func (c *cloud) Current(context.Context) (iamtoken.Secret, string, error) {
	c.request("current")
	now := c.versions[c.current]
	return iamtoken.NewSecret(now.key), now.id, nil
}

func (c *cloud) Previous(context.Context) (iamtoken.Secret, string, error) {
	c.request("previous")
	before := c.versions[c.current-1]
	return iamtoken.NewSecret(before.key), before.id, nil
}

// Put behaves as AWS documents: an id that exists, with the same value, changes nothing.
func (c *cloud) Put(_ context.Context, key iamtoken.Secret, versionID string) error {
	c.request("put")
	if c.putError != nil {
		return c.putError
	}
	if len(versionID) < 32 || len(versionID) > 64 {
		return errIs(rotation.Misconfigured, rotation.Never)
	}
	for _, v := range c.versions {
		if v.id == versionID && v.key != key.Reveal() {
			return errIs(rotation.Misconfigured, rotation.Never)
		} else if v.id == versionID {
			return nil
		}
	}
	c.versions = append(c.versions, version{versionID, key.Reveal()})
	c.current = len(c.versions) - 1
	return nil
}

// process is the bootstrap identity of one process, which keeps the key that it has read.
type process struct {
	*cloud
	key      string
	previous bool
}

func (p *process) InUse(context.Context) (rotation.KeyInUse, iamtoken.Token, error) {
	if p.key == "" {
		p.key, p.previous = p.versions[p.current].key, false
	}
	if _, known := p.owners[p.key]; !known {
		p.key, p.previous = p.versions[p.current-1].key, true
	}
	if _, known := p.owners[p.key]; !known {
		return rotation.KeyInUse{}, iamtoken.Token{}, errIs(rotation.Denied, rotation.Once)
	}
	return rotation.KeyInUse{Key: iamtoken.NewSecret(p.key), Previous: p.previous}, p.tokenOf(p.key), nil
}

func (p *process) Forget() { p.request("forget"); p.key = "" }

func (c *cloud) tokenOf(key string) iamtoken.Token {
	return iamtoken.Token{Value: iamtoken.NewSecret("token of " + key), IAMID: c.owners[key], Account: account}
}

type candidate struct {
	*cloud
	key string
}

func (c candidate) Identify(context.Context) (iamtoken.Token, error) {
	c.request("exchange")
	if c.iamError != nil {
		return iamtoken.Token{}, c.iamError
	}
	if _, known := c.owners[c.key]; !known {
		return iamtoken.Token{}, &rotation.Error{Step: rotation.StepBootstrap, Kind: rotation.Denied, Retry: rotation.Once}
	}
	return c.tokenOf(c.key), nil
}

func (c candidate) ReadMetadata(context.Context, rotation.TokenRef) (rotation.TokenVersion, error) {
	c.request("look")
	return rotation.TokenVersion{}, c.refused[c.key]
}

// process starts a process, which reads the key that is current in AWS.
func (c *cloud) process() *Renewer {
	bootstrap := &process{cloud: c}
	_, _, _ = bootstrap.InUse(context.Background())
	return &Renewer{Managed: c, Bootstrap: bootstrap, Store: c, Now: func() time.Time { return start },
		Candidate: func(key iamtoken.Secret) (Candidate, error) { return candidate{c, key.Reveal()}, nil }}
}

func run(t *testing.T, r *Renewer) report.KeyRenewal {
	t.Helper()
	got := r.Run(t.Context(), rotation.TokenRef{})
	if text := fmt.Sprintf("%+v %v", got, got.Error) + got.Text(); strings.Contains(text, "key-1") || strings.Contains(text, "key-2") {
		t.Fatal("the report holds a key")
	}
	return got
}

func (c *cloud) wantStored(t *testing.T, key string, versions int) {
	t.Helper()
	if got := c.versions[c.current].key; got != key || len(c.versions) != versions {
		t.Errorf("AWS has %s of %d versions, want %s of %d", got, len(c.versions), key, versions)
	}
}

// byHand stores a key in AWS as a person would.
func (c *cloud) byHand(key string) {
	c.versions = append(c.versions, version{fmt.Sprintf("by-hand-0123456789-0123456789-%04d", len(c.versions)), key})
	c.current = len(c.versions) - 1
}

// One renewal, in a process that has read the key in AWS. begin is called before that, then after it.
func TestWhatARenewalDoes(t *testing.T) {
	type scenario struct {
		begin, then  func(c *cloud)
		outcome      report.RenewalOutcome
		step         rotation.Step // of a failure
		kind         rotation.Kind
		says         string // the failure, or the warnings one after another
		byPrevious   bool
		expires      int    // in days
		stored       string // in AWS, of this many versions
		versions     int
		requestNames string // empty: any
	}
	forget := func(key string) func(*cloud) { return func(c *cloud) { delete(c.owners, key) } }
	renewed := func(s scenario) scenario {
		s.outcome, s.stored, s.versions, s.expires = report.KeyRenewed, "key-2", 3, 60
		return s
	}
	kept := func(step rotation.Step, kind rotation.Kind, says string, then func(*cloud)) scenario { // IBM has rotated
		return scenario{then: func(c *cloud) { c.rotate(); then(c) }, outcome: report.KeyRenewalFailed, step: step, kind: kind, says: says,
			stored: "key-1", versions: 2, expires: 45}
	}
	refused := func(kind rotation.Kind) func(*cloud) {
		return func(c *cloud) { c.refused["key-2"] = errIs(kind, rotation.Never) }
	}
	for name, test := range map[string]scenario{
		"the key in use is current": {outcome: report.KeyCurrent, stored: "key-1", versions: 2, expires: 45, requestNames: "read previous"},
		"a new key":                 renewed(scenario{then: (*cloud).rotate, requestNames: "read current exchange look put forget previous exchange"}),
		"what is wrong with the token secret says nothing against the key": renewed(scenario{then: func(c *cloud) { c.rotate(); refused(rotation.NotFound)(c) }}),

		"IAM does not know it yet": kept(rotation.StepExchange, rotation.Denied, "does not accept the new bootstrap key yet", forget("key-2")),
		"refused by the instance":  kept(rotation.StepReadMetadata, rotation.Denied, "with the new bootstrap key", refused(rotation.Denied)),
		"the instance is down":     kept(rotation.StepReadMetadata, rotation.Unavailable, "", refused(rotation.Unavailable)),
		"AWS refuses":              kept(rotation.StepSave, rotation.Denied, "", func(c *cloud) { c.putError = errIs(rotation.Denied, rotation.Never) }),
		"an opaque token":          kept(rotation.StepCheck, rotation.InvalidToken, "cannot be seen", func(c *cloud) { c.owners["key-2"] = "" }),
		"another identity's": {then: func(c *cloud) { c.rotate(); c.owners["key-2"] = "iam-ServiceId-other" }, outcome: report.KeyRenewalFailed,
			step: rotation.StepCheck, kind: rotation.InvalidToken, says: "iam-ServiceId-other", stored: "key-1", versions: 2}, // its dates are of no key in use
		"the answer has no key id": kept(rotation.StepReadKey, rotation.Unavailable, "does not name the key",
			func(c *cloud) { c.managed.KeyID = "" }),
		"the bootstrap has no key": {then: func(c *cloud) { c.owners = nil }, outcome: report.KeyRenewalFailed,
			step: rotation.StepBootstrap, kind: rotation.Denied, stored: "key-1", versions: 2},

		// AWSPREVIOUS is used: IBM ended the key when it rotated, IAM does not know IBM's current key, or a bad one was stored by hand.
		"the current one has ended": renewed(scenario{begin: func(c *cloud) { forget("key-1")(c); c.rotate() }, byPrevious: true,
			says: "and the one before it was used"}),
		"the current one is not known": {begin: forget("key-1"), outcome: report.KeyRenewalFailed, step: rotation.StepExchange,
			kind: rotation.Denied, byPrevious: true, stored: "key-1", versions: 2, expires: 30},
		"a bad one was stored by hand": {begin: func(c *cloud) { c.byHand("bad") }, outcome: report.KeyRenewed, byPrevious: true,
			says: "key-renewal", stored: "key-1", versions: 4, expires: 45},
		"an older one was, and is known": {begin: func(c *cloud) { c.byHand("key-0") }, outcome: report.KeyRenewed, stored: "key-1",
			versions: 4, expires: 45},
		"another identity's was": {begin: func(c *cloud) { c.byHand("other") }, outcome: report.KeyRenewalFailed,
			step: rotation.StepCheck, kind: rotation.InvalidToken, stored: "other", versions: 3},

		"it is late, and has locks": {begin: func(c *cloud) { c.managed.Locks, c.managed.ExpiresAt = 2, start.Add(26*day) },
			outcome: report.KeyCurrent, stored: "key-1", versions: 2, expires: 26,
			says: "expires 2026-01-27T00:00:00Z: IBM's Secrets Manager should have rotated it: see its rotation rule, its locks and the authorization for IAM BOOTSTRAP_KEY_SECRET has locks (2)"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud()
			if test.begin != nil {
				test.begin(c)
			}
			r := c.process()
			if test.then != nil {
				test.then(c)
			}
			got := run(t, r)
			said := strings.Join(got.Warnings, " ")
			if got.Error != nil {
				said = got.Error.Message
			}
			if got.Outcome != test.outcome || (got.Error == nil) != (test.kind == "") ||
				got.Error != nil && (got.Error.Step != test.step || got.Error.Kind != test.kind) ||
				!strings.Contains(said, test.says) || got.Error == nil && (said == "") != (test.says == "") || got.ByPreviousKey != test.byPrevious {
				t.Errorf("got %+v (%v), want %+v", got, got.Error, test)
			}
			if (got.ExpiresAt == nil) != (test.expires == 0) ||
				got.ExpiresAt != nil && !got.ExpiresAt.Equal(start.Add(time.Duration(test.expires)*day)) {
				t.Errorf("expires %v, want in %d days", got.ExpiresAt, test.expires)
			}
			c.wantStored(t, test.stored, test.versions)
			if done := strings.Join(c.done, " "); test.requestNames != "" && done != test.requestNames {
				t.Errorf("requests %s, want %s", done, test.requestNames)
			}
			// The next run finds nothing to do.
			c.done = nil
			if got.Error == nil {
				if got := run(t, r); got.Outcome != report.KeyCurrent || got.ByPreviousKey || got.Error != nil || got.NextRotationAt == nil {
					t.Errorf("again: got %+v, want current", got)
				}
				c.wantStored(t, test.stored, test.versions)
			}
		})
	}
}

// IAM does not know the stored key, which is IBM's current one, for a while.
func TestAKeyThatIAMDoesNotKnowForAWhile(t *testing.T) {
	c := newCloud()
	delete(c.owners, "key-1")
	r := c.process()
	run(t, r)
	c.owners["key-1"] = owner
	if got := run(t, r); got.Outcome != report.KeyCurrent || got.Error != nil {
		t.Errorf("got %+v, want current", got)
	}
	c.wantStored(t, "key-1", 2)
}

// The process ends before each of the requests of a renewal. The next renewal, in another process, completes it.
func TestAProcessThatEndsBetweenTwoStepsLosesNothing(t *testing.T) {
	for crash := 1; crash <= 9; crash++ {
		c := newCloud()
		r := c.process()
		c.rotate()
		if ended := c.crashes(t, r, crash); ended != (crash <= 8) {
			t.Fatalf("crash %d: got %t", crash, ended)
		}
		if now := c.versions[c.current].key; c.owners[now] == "" {
			t.Errorf("crash %d: AWS has a key that IAM does not know", crash)
		}
		if got := run(t, c.process()); got.Error != nil {
			t.Errorf("crash %d: then got %v", crash, got.Error)
		}
		c.wantStored(t, "key-2", 3)
	}
}

// Two functions renew at once: one does a whole renewal between two steps of the other.
func TestTwoAtOnceStoreOneVersion(t *testing.T) {
	for at := 1; at <= 8; at++ {
		c := newCloud()
		first, second := c.process(), c.process()
		c.rotate()
		var other report.KeyRenewal
		c.at, c.happens = at, func() { other = run(t, second) }
		if got := run(t, first); got.Error != nil || other.Error != nil || other.Outcome == "" {
			t.Errorf("before step %d: got %+v and %+v", at, got, other)
		}
		c.wantStored(t, "key-2", 3)
	}
}

// IBM ends the key when it rotates, and the key's cached token hides that. AWSPREVIOUS then cannot replace the new key: each run
// warns until a person stores another key, whichever process stored the new one and however it ended.
func TestAnEndedKeyWhoseTokenIsStillUsed(t *testing.T) {
	for crash := range 9 { // before this request of the process that stores the new key; 0 is not at all
		c := newCloud()
		r := c.process()
		r.Bootstrap = cached{r.Bootstrap.(*process)}
		c.rotate()
		delete(c.owners, "key-1")
		says := func(got report.KeyRenewal) bool {
			return got.Error == nil && (got.ByPreviousKey || got.PreviousEnded) && len(got.Warnings) == 1 &&
				strings.Contains(got.Warnings[0], "key-renewal")
		}
		if crash > 0 {
			c.crashes(t, r, crash)
		} else if got := run(t, r); !says(got) || got.Outcome != report.KeyRenewed {
			t.Errorf("got %+v, want renewed, and a warning that the key before has ended", got)
		}
		other := c.process()
		for range 3 {
			if got := run(t, other); !says(got) {
				t.Errorf("crash %d: then got %+v, want a warning that the key before has ended", crash, got)
			}
		}
		c.wantStored(t, "key-2", 3)
		c.byHand("key-0") // as the runbook says
		for range 2 {
			if got := run(t, c.process()); got.PreviousEnded || len(got.Warnings) > 0 {
				t.Errorf("crash %d: another key was stored, got %+v", crash, got)
			}
		}
	}
}

// A process that has seen AWSPREVIOUS serve asks again: after a late rotation that key reaches the end of its ttl days later. A
// key of a person may be deleted, and while the next rotation is late AWSPREVIOUS ends by its ttl.
func TestWhenAWSPreviousHasEnded(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(c *cloud) // before the first run, which reports nothing
		ended   bool           // whether the second one reports it, when IAM answers and refuses the key
	}{
		"later":                   {func(c *cloud) { c.owners["key-1"] = owner }, true},
		"IAM does not answer now": {func(c *cloud) { c.iamError = errIs(rotation.Unavailable, rotation.Later) }, true},
		"a network rule refuses":  {func(c *cloud) { c.iamError = errIs(rotation.Denied, rotation.Never) }, true},
		"the key of a person":     {func(c *cloud) { c.versions[1].id = "by-hand-0123456789-0123456789-0123" }, false},
		"past its ttl":            {func(c *cloud) { c.managed.ExpiresAt = start.Add(30 * day) }, false},
		"no dates":                {func(c *cloud) { c.managed.ExpiresAt = time.Time{} }, false},
	} {
		c := newCloud()
		c.versions = append(c.versions, version{"version-2", "key-2"})
		c.current = 2
		c.rotate()
		delete(c.owners, "key-1")
		test.arrange(c)
		r := c.process()
		if got := run(t, r); got.PreviousEnded {
			t.Errorf("%s: got %+v, want no warning", name, got)
		}
		c.iamError = nil
		delete(c.owners, "key-1")
		if got := run(t, r); got.PreviousEnded != test.ended {
			t.Errorf("%s: then got %+v", name, got)
		}
	}
}

// cached still has a token of the key that it started with.
type cached struct{ *process }

func (c cached) InUse(context.Context) (rotation.KeyInUse, iamtoken.Token, error) {
	return rotation.KeyInUse{Key: iamtoken.NewSecret(c.key)}, iamtoken.Token{IAMID: owner, Account: account}, nil
}

// A key that is restored at IBM is stored again, under a new version id: AWS ignores a put with the id of an older version.
func TestARestoredKeyIsStored(t *testing.T) {
	c := newCloud()
	c.rotate()
	run(t, c.process())
	for i, key := range []string{"key-1", "key-2", "key-1"} { // restored, rotated back, and once more
		c.managed.Key, c.managed.KeyID = iamtoken.NewSecret(key), map[string]string{"key-1": keyID1, "key-2": keyID2}[key]
		if got := run(t, c.process()); got.Outcome != report.KeyRenewed {
			t.Errorf("%s restored: got %+v, want renewed", key, got)
		}
		c.wantStored(t, key, 4+i)
	}
}

func TestNoTimeIsLeftToRenew(t *testing.T) {
	c := newCloud()
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if got := c.process().Run(ctx, rotation.TokenRef{}); got.Error == nil || got.Error.Kind != rotation.Timeout || len(c.done) > 0 {
		t.Errorf("got %+v after %v, want a timeout and no request", got, c.done)
	}
}

// A process that was suspended in the middle must not store what it read long ago.
func TestASuspendedProcessStoresNothing(t *testing.T) {
	c := newCloud()
	r := c.process()
	c.rotate()
	now := start
	r.Now = func() time.Time { now = now.Add(time.Minute); return now }
	if got := run(t, r); got.Error == nil || got.Error.Kind != rotation.Timeout || got.Error.Step != rotation.StepSave {
		t.Errorf("got %+v, want a timeout", got)
	}
	c.wantStored(t, "key-1", 2)
}

func TestWhenARunEndsWithARenewal(t *testing.T) {
	now := start
	r := newCloud().process()
	r.Now = func() time.Time { return now }
	want := func(mode rotation.Mode, want bool) {
		t.Helper()
		if got := r.Due(mode); got != want {
			t.Errorf("%s after %s: got %t", mode, now.Sub(start), got)
		}
	}
	want(rotation.ModeCheck, false)
	want(rotation.ModeEnsure, true)
	run(t, r)
	now = start.Add(59 * time.Minute)
	want(rotation.ModeEnsure, false)
	want(rotation.ModeRotate, true)
	now = start.Add(time.Hour)
	want(rotation.ModeEnsure, true)
}

func TestVersionIDs(t *testing.T) {
	for _, keyID := range []string{keyID1, "short", strings.Repeat("long", 20)} {
		if id := versionID(keyID, "v"); len(id) < 32 || len(id) > 64 || id == versionID(keyID, "w") || id != versionID(keyID, "v") {
			t.Errorf("%s: got %s", keyID, id)
		}
	}
}
