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
	day1    = "ApiKey-11111111-1111-4111-8111-111111111111"
	day2    = "ApiKey-22222222-2222-4222-8222-222222222222"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	errIs = func(kind rotation.Kind, retry rotation.Retry) error {
		return &rotation.Error{Kind: kind, Retry: retry, Message: "said in our own words"}
	}
)

// version is one of the AWS secret's.
type version struct{ id, key string }

// world is IBM and AWS as a renewal meets them. Before the step numbered at, which is a
// request or step 6, something happens.
type world struct {
	managed rotation.KeySecret
	owners  map[string]string // IAM ids by the keys that IAM knows
	refused map[string]error  // why Secrets Manager does not serve a key's token

	versions   []version // of the AWS secret
	current    int       // of versions; AWSPREVIOUS is before it
	down       error     // why AWS stores nothing
	unanswered error     // why IAM answers nothing of a key that is not in use

	requests int
	at       int
	happens  func()
	done     []string
}

type crashed struct{}

// crashes runs a renewal of a process that ends before the request numbered at, if there are as many.
func (w *world) crashes(t *testing.T, r *Renewer, at int) (ended bool) {
	w.at, w.happens = at, func() { panic(crashed{}) }
	defer func() {
		w.at = 0
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

func (w *world) request(name string) {
	if w.requests++; w.requests == w.at {
		w.happens()
	}
	w.done = append(w.done, name)
}

func newWorld() *world {
	return &world{
		managed: rotation.KeySecret{
			SecretDescription: rotation.SecretDescription{Type: "iam_credentials", ExpiresAt: start.Add(45 * day)},
			Key:               iamtoken.NewSecret("key-1"), KeyID: day1,
			TTL: 45 * day, Interval: 15 * day, NextRotation: start.Add(15 * day),
		},
		owners:   map[string]string{"key-0": owner, "key-1": owner, "key-2": owner, "other": "iam-ServiceId-other"},
		refused:  map[string]error{},
		versions: []version{{"version-0", "key-0"}, {versionID(day1, "version-0"), "key-1"}}, current: 1,
	}
}

// rotate is IBM's: key-2 is the current one.
func (w *world) rotate() {
	w.managed.Key, w.managed.KeyID, w.managed.ExpiresAt = iamtoken.NewSecret("key-2"), day2, start.Add(60*day)
}

func (w *world) ReadManagedKey(context.Context, rotation.KeyRef) (rotation.KeySecret, error) {
	w.request("read")
	return w.managed, nil
}

func (w *world) Current(context.Context) (iamtoken.Secret, string, error) {
	w.request("current")
	now := w.versions[w.current]
	return iamtoken.NewSecret(now.key), now.id, nil
}

func (w *world) Previous(context.Context) (iamtoken.Secret, string, error) {
	w.request("previous")
	before := w.versions[w.current-1]
	return iamtoken.NewSecret(before.key), before.id, nil
}

// Put does as AWS documents: an id that exists, with the same value, changes nothing.
func (w *world) Put(_ context.Context, key iamtoken.Secret, versionID string) error {
	w.request("put")
	if w.down != nil {
		return w.down
	}
	if len(versionID) < 32 || len(versionID) > 64 {
		return errIs(rotation.Misconfigured, rotation.Never)
	}
	for _, v := range w.versions {
		if v.id == versionID && v.key != key.Reveal() {
			return errIs(rotation.Misconfigured, rotation.Never)
		} else if v.id == versionID {
			return nil
		}
	}
	w.versions = append(w.versions, version{versionID, key.Reveal()})
	w.current = len(w.versions) - 1
	return nil
}

// process is the function's: it keeps the key that it has read.
type process struct {
	*world
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

func (w *world) tokenOf(key string) iamtoken.Token {
	return iamtoken.Token{Value: iamtoken.NewSecret("token of " + key), IAMID: w.owners[key], Account: account}
}

type tried struct {
	*world
	key string
}

func (c tried) Identify(context.Context) (iamtoken.Token, error) {
	c.request("exchange")
	if c.unanswered != nil {
		return iamtoken.Token{}, c.unanswered
	}
	if _, known := c.owners[c.key]; !known {
		return iamtoken.Token{}, &rotation.Error{Step: rotation.StepBootstrap, Kind: rotation.Denied, Retry: rotation.Once}
	}
	return c.tokenOf(c.key), nil
}

func (c tried) ReadMetadata(context.Context, rotation.TokenRef) (rotation.TokenVersion, error) {
	c.request("look")
	return rotation.TokenVersion{}, c.refused[c.key]
}

// process starts one that begins with the key that is current in AWS.
func (w *world) process() *Renewer {
	bootstrap := &process{world: w}
	_, _, _ = bootstrap.InUse(context.Background())
	return &Renewer{Managed: w, Bootstrap: bootstrap, Store: w, Now: func() time.Time { return start },
		Candidate: func(key iamtoken.Secret) (Candidate, error) { return tried{w, key.Reveal()}, nil }}
}

func run(t *testing.T, r *Renewer) report.KeyRenewal {
	t.Helper()
	got := r.Run(t.Context(), rotation.TokenRef{})
	if text := fmt.Sprintf("%+v %v", got, got.Error) + got.Text(); strings.Contains(text, "key-1") || strings.Contains(text, "key-2") {
		t.Fatal("the report holds a key")
	}
	return got
}

func (w *world) wantStored(t *testing.T, key string, versions int) {
	t.Helper()
	if got := w.versions[w.current].key; got != key || len(w.versions) != versions {
		t.Errorf("AWS has %s of %d versions, want %s of %d", got, len(w.versions), key, versions)
	}
}

// byHand stores a key in AWS, as a person may.
func (w *world) byHand(key string) {
	w.versions = append(w.versions, version{fmt.Sprintf("by-hand-0123456789-0123456789-%04d", len(w.versions)), key})
	w.current = len(w.versions) - 1
}

// One renewal: of a process that begins with the key in AWS, after which something happens.
func TestWhatARenewalDoes(t *testing.T) {
	type story struct {
		begin, then  func(w *world)
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
	forget := func(key string) func(*world) { return func(w *world) { delete(w.owners, key) } }
	renewed := func(s story) story {
		s.outcome, s.stored, s.versions, s.expires = report.KeyRenewed, "key-2", 3, 60
		return s
	}
	kept := func(step rotation.Step, kind rotation.Kind, says string, then func(*world)) story { // IBM has rotated
		return story{then: func(w *world) { w.rotate(); then(w) }, outcome: report.KeyRenewalFailed, step: step, kind: kind, says: says,
			stored: "key-1", versions: 2, expires: 45}
	}
	refused := func(kind rotation.Kind) func(*world) {
		return func(w *world) { w.refused["key-2"] = errIs(kind, rotation.Never) }
	}
	for name, test := range map[string]story{
		"the key in use is current": {outcome: report.KeyCurrent, stored: "key-1", versions: 2, expires: 45, requestNames: "read previous"},
		"a new key":                 renewed(story{then: (*world).rotate, requestNames: "read current exchange look put forget previous exchange"}),
		"what is wrong with the token secret says nothing against the key": renewed(story{then: func(w *world) { w.rotate(); refused(rotation.NotFound)(w) }}),

		"IAM does not know it yet": kept(rotation.StepExchange, rotation.Denied, "does not accept the new bootstrap key yet", forget("key-2")),
		"refused by the instance":  kept(rotation.StepLook, rotation.Denied, "with the new bootstrap key", refused(rotation.Denied)),
		"the instance is down":     kept(rotation.StepLook, rotation.Unavailable, "", refused(rotation.Unavailable)),
		"AWS refuses":              kept(rotation.StepSave, rotation.Denied, "", func(w *world) { w.down = errIs(rotation.Denied, rotation.Never) }),
		"an opaque token":          kept(rotation.StepCheck, rotation.InvalidToken, "cannot be seen", func(w *world) { w.owners["key-2"] = "" }),
		"another identity's": {then: func(w *world) { w.rotate(); w.owners["key-2"] = "iam-ServiceId-other" }, outcome: report.KeyRenewalFailed,
			step: rotation.StepCheck, kind: rotation.InvalidToken, says: "iam-ServiceId-other", stored: "key-1", versions: 2}, // its dates are of no key in use
		"the answer has no key id": kept(rotation.StepReadKey, rotation.Unavailable, "does not name the key",
			func(w *world) { w.managed.KeyID = "" }),
		"the bootstrap has no key": {then: func(w *world) { w.owners = nil }, outcome: report.KeyRenewalFailed,
			step: rotation.StepBootstrap, kind: rotation.Denied, stored: "key-1", versions: 2},

		// AWSPREVIOUS is the net: IBM ends the key at the rotation, or IAM forgets the stored one, which is IBM's current one, or a bad
		// one was stored by hand.
		"the current one has ended": renewed(story{begin: func(w *world) { forget("key-1")(w); w.rotate() }, byPrevious: true,
			says: "and the one before it was used"}),
		"the current one is not known": {begin: forget("key-1"), outcome: report.KeyRenewalFailed, step: rotation.StepExchange,
			kind: rotation.Denied, byPrevious: true, stored: "key-1", versions: 2, expires: 30},
		"a bad one was stored by hand": {begin: func(w *world) { w.byHand("bad") }, outcome: report.KeyRenewed, byPrevious: true,
			says: "key-renewal", stored: "key-1", versions: 4, expires: 45},
		"an older one was, and is known": {begin: func(w *world) { w.byHand("key-0") }, outcome: report.KeyRenewed, stored: "key-1",
			versions: 4, expires: 45},
		"another identity's was": {begin: func(w *world) { w.byHand("other") }, outcome: report.KeyRenewalFailed,
			step: rotation.StepCheck, kind: rotation.InvalidToken, stored: "other", versions: 3},

		"it is late, and has locks": {begin: func(w *world) { w.managed.Locks, w.managed.ExpiresAt = 2, start.Add(26*day) },
			outcome: report.KeyCurrent, stored: "key-1", versions: 2, expires: 26,
			says: "expires 2026-01-27T00:00:00Z: IBM's Secrets Manager should have rotated it: see its rotation rule, its locks and the authorization for IAM BOOTSTRAP_KEY_SECRET has locks (2)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			if test.begin != nil {
				test.begin(w)
			}
			r := w.process()
			if test.then != nil {
				test.then(w)
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
			w.wantStored(t, test.stored, test.versions)
			if done := strings.Join(w.done, " "); test.requestNames != "" && done != test.requestNames {
				t.Errorf("requests %s, want %s", done, test.requestNames)
			}
			// The next run finds nothing to do, and does not look at the key before once more.
			w.done = nil
			if got.Error == nil {
				if got := run(t, r); got.Outcome != report.KeyCurrent || got.ByPreviousKey || got.Error != nil || got.NextRotationAt == nil {
					t.Errorf("again: got %+v, want current", got)
				}
				w.wantStored(t, test.stored, test.versions)
			}
		})
	}
}

// IAM knows the stored key, which is the current one at IBM, not yet or not any more for a while.
func TestAKeyThatIAMKnowsAgain(t *testing.T) {
	w := newWorld()
	delete(w.owners, "key-1")
	r := w.process()
	run(t, r)
	w.owners["key-1"] = owner
	if got := run(t, r); got.Outcome != report.KeyCurrent || got.Error != nil {
		t.Errorf("got %+v, want current", got)
	}
	w.wantStored(t, "key-1", 2)
}

// The process ends before each of the requests of a renewal; the next one ends where one
// that was not interrupted does.
func TestAProcessThatEndsBetweenTwoStepsLosesNothing(t *testing.T) {
	for crash := 1; crash <= 9; crash++ {
		w := newWorld()
		r := w.process()
		w.rotate()
		if ended := w.crashes(t, r, crash); ended != (crash <= 8) {
			t.Fatalf("crash %d: got %t", crash, ended)
		}
		if now := w.versions[w.current].key; w.owners[now] == "" {
			t.Errorf("crash %d: AWS has a key that IAM does not know", crash)
		}
		if got := run(t, w.process()); got.Error != nil {
			t.Errorf("crash %d: then got %v", crash, got.Error)
		}
		w.wantStored(t, "key-2", 3)
	}
}

// Two functions renew at once: one does all of it between two steps of the other.
func TestTwoAtOnceStoreOneVersion(t *testing.T) {
	for at := 1; at <= 8; at++ {
		w := newWorld()
		first, second := w.process(), w.process()
		w.rotate()
		var other report.KeyRenewal
		w.at, w.happens = at, func() { other = run(t, second) }
		if got := run(t, first); got.Error != nil || other.Error != nil || other.Outcome == "" {
			t.Errorf("before step %d: got %+v and %+v", at, got, other)
		}
		w.wantStored(t, "key-2", 3)
	}
}

// IBM ends the key at the rotation, and its token hides that: AWSPREVIOUS is no net, so each run
// says so until somebody answers, whichever process stored the new key and however it ended.
func TestAnEndedKeyWhoseTokenIsStillUsed(t *testing.T) {
	for crash := range 9 { // before this request of the process that stores the new key; 0 is not at all
		w := newWorld()
		r := w.process()
		r.Bootstrap = cached{r.Bootstrap.(*process)}
		w.rotate()
		delete(w.owners, "key-1")
		says := func(got report.KeyRenewal) bool {
			return got.Error == nil && (got.ByPreviousKey || got.PreviousEnded) && len(got.Warnings) == 1 &&
				strings.Contains(got.Warnings[0], "key-renewal")
		}
		if crash > 0 {
			w.crashes(t, r, crash)
		} else if got := run(t, r); !says(got) || got.Outcome != report.KeyRenewed {
			t.Errorf("got %+v, want renewed, and a warning that the key before has ended", got)
		}
		other := w.process()
		for range 3 {
			if got := run(t, other); !says(got) {
				t.Errorf("crash %d: then got %+v, want a warning that the key before has ended", crash, got)
			}
		}
		w.wantStored(t, "key-2", 3)
		w.byHand("key-0") // as the runbook says
		for range 2 {
			if got := run(t, w.process()); got.PreviousEnded || len(got.Warnings) > 0 {
				t.Errorf("crash %d: answered, got %+v", crash, got)
			}
		}
	}
}

// A process that has seen AWSPREVIOUS serve asks again: after a late rotation that key reaches the end of its ttl days later. A
// key of a person may be deleted, and while the next rotation is late AWSPREVIOUS ends by its ttl.
func TestWhenAWSPreviousHasEnded(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(w *world) // before the first run, which reports nothing
		ended   bool           // whether the second one reports it, when IAM answers and refuses the key
	}{
		"later":                   {func(w *world) { w.owners["key-1"] = owner }, true},
		"IAM does not answer now": {func(w *world) { w.unanswered = errIs(rotation.Unavailable, rotation.Later) }, true},
		"a network rule refuses":  {func(w *world) { w.unanswered = errIs(rotation.Denied, rotation.Never) }, true},
		"the key of a person":     {func(w *world) { w.versions[1].id = "by-hand-0123456789-0123456789-0123" }, false},
		"past its ttl":            {func(w *world) { w.managed.ExpiresAt = start.Add(30 * day) }, false},
		"no dates":                {func(w *world) { w.managed.ExpiresAt = time.Time{} }, false},
	} {
		w := newWorld()
		w.versions = append(w.versions, version{"version-2", "key-2"})
		w.current = 2
		w.rotate()
		delete(w.owners, "key-1")
		test.arrange(w)
		r := w.process()
		if got := run(t, r); got.PreviousEnded {
			t.Errorf("%s: got %+v, want no warning", name, got)
		}
		w.unanswered = nil
		delete(w.owners, "key-1")
		if got := run(t, r); got.PreviousEnded != test.ended {
			t.Errorf("%s: then got %+v", name, got)
		}
	}
}

// cached still has a token of the key that it began with.
type cached struct{ *process }

func (c cached) InUse(context.Context) (rotation.KeyInUse, iamtoken.Token, error) {
	return rotation.KeyInUse{Key: iamtoken.NewSecret(c.key)}, iamtoken.Token{IAMID: owner, Account: account}, nil
}

// A restore at IBM evens out. The id of a version that was stored before must not come back: AWS would change nothing.
func TestARestoreEvensOut(t *testing.T) {
	w := newWorld()
	w.rotate()
	run(t, w.process())
	for i, key := range []string{"key-1", "key-2", "key-1"} { // restored, rotated back, and once more
		w.managed.Key, w.managed.KeyID = iamtoken.NewSecret(key), map[string]string{"key-1": day1, "key-2": day2}[key]
		if got := run(t, w.process()); got.Outcome != report.KeyRenewed {
			t.Errorf("%s restored: got %+v, want renewed", key, got)
		}
		w.wantStored(t, key, 4+i)
	}
}

func TestNoTimeIsLeftToRenew(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if got := w.process().Run(ctx, rotation.TokenRef{}); got.Error == nil || got.Error.Kind != rotation.Timeout || len(w.done) > 0 {
		t.Errorf("got %+v after %v, want a timeout and no request", got, w.done)
	}
}

// A process that was suspended in the middle must not store what it read long ago.
func TestASuspendedProcessStoresNothing(t *testing.T) {
	w := newWorld()
	r := w.process()
	w.rotate()
	now := start
	r.Now = func() time.Time { now = now.Add(time.Minute); return now }
	if got := run(t, r); got.Error == nil || got.Error.Kind != rotation.Timeout || got.Error.Step != rotation.StepSave {
		t.Errorf("got %+v, want a timeout", got)
	}
	w.wantStored(t, "key-1", 2)
}

func TestWhenARunEndsWithARenewal(t *testing.T) {
	now := start
	r := newWorld().process()
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
	for _, keyID := range []string{day1, "short", strings.Repeat("long", 20)} {
		if id := versionID(keyID, "v"); len(id) < 32 || len(id) > 64 || id == versionID(keyID, "w") || id != versionID(keyID, "v") {
			t.Errorf("%s: got %s", keyID, id)
		}
	}
}
