package readertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

const iam, read = ibmcloudtest.OpIAMToken, ibmcloudtest.OpVersionsGet

// fixture is a Reader and a sandbox in one process, in virtual time.
type fixture struct {
	t      *testing.T
	cloud  *ibmcloudtest.Cloud
	store  *iamtoken.SecretsManager
	reader *iamtoken.Reader
	skew   time.Duration // of the reader's clock
}

func withFixture(t *testing.T, test func(fx *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fx := &fixture{t: t, cloud: ibmcloudtest.New(ibmcloudtest.Options{})}
		fx.store = &iamtoken.SecretsManager{URL: "https://instance.test", IAMURL: "https://iam.test", SecretID: fx.secret(),
			APIKey: iamtoken.NewSecret(fx.cloud.ReaderAPIKey()), Transport: fx.cloud.Transport()}
		fx.reader = &iamtoken.Reader{Store: fx.store, Now: func() time.Time { return time.Now().Add(fx.skew) }}
		test(fx)
	})
}

func (fx *fixture) secret() string { return fx.cloud.Rotations()[0].TokenSecret }

// rotate saves a token with the lifetime ttl, with the rotator's metadata.
func (fx *fixture) rotate(ttl time.Duration) string {
	value := fx.cloud.MustMintToken(fx.cloud.Rotations()[0].APIKey, ttl)
	token := iamtoken.Token{Value: iamtoken.NewSecret(value), IssuedAt: time.Now(), Expiration: time.Now().Add(ttl), ExpiresIn: ttl, IAMID: "iam-ServiceId-1"}
	fx.cloud.MustPutVersion(fx.secret(), value, iamtoken.Describe(token, "run-1234", "test").Map())
	return value
}

// wantToken checks that the Reader returns value within most, and that it is a valid token.
func (fx *fixture) wantToken(value string, most time.Duration) {
	fx.t.Helper()
	began := time.Now()
	token, err := fx.reader.Token(context.Background())
	if err != nil {
		fx.t.Fatalf("got error %v, want a token", err)
	}
	if got, want := token.Fingerprint(), (iamtoken.Token{Value: iamtoken.NewSecret(value)}).Fingerprint(); got != want {
		fx.t.Errorf("got the token %s, want %s", got, want)
	}
	if _, _, err := fx.cloud.Validate(token.Value.Reveal()); err != nil {
		fx.t.Errorf("got a token that is not valid: %v", err)
	}
	if took := time.Since(began); took > most {
		fx.t.Errorf("waited %s, want %s at most", took, most)
	}
}

func (fx *fixture) count(op string) int { return fx.cloud.CountRequests(op, "") }

func (fx *fixture) wantReads(want int) {
	fx.t.Helper()
	if got := fx.count(read); got != want {
		fx.t.Errorf("got %d reads of the secret, want %d", got, want)
	}
}

func (fx *fixture) fault(f ibmcloudtest.Fault) { fx.cloud.MustAddFault(f) }

func TestTheTokenIsKeptUntilItExpiresSoon(t *testing.T) {
	for _, skew := range []time.Duration{0, -20 * time.Minute, 90 * time.Minute} { // this machine's clock may be off
		withFixture(t, func(fx *fixture) {
			fx.skew = skew
			first := fx.rotate(time.Hour)
			fx.wantToken(first, 0)
			time.Sleep(50 * time.Minute)
			second := fx.rotate(time.Hour)
			time.Sleep(5*time.Minute - 2*time.Second) // just over the margin of 5 minutes left
			fx.wantToken(first, 0)
			fx.wantReads(1)
			time.Sleep(time.Minute + 3*time.Second) // below the margin less all its jitter
			fx.wantToken(second, 0)
			fx.wantReads(2)
			if got := fx.count(iam); got != 2 {
				t.Errorf("got %d exchanges of the reader's key, want 2: its token has a lifetime of an hour, too", got)
			}
		})
	}
}

// While the store answers 503, or not at all, the old token is returned, but never after its expiry.
func TestTheOldTokenIsServedWhileTheStoreIsDown(t *testing.T) {
	for _, fault := range []ibmcloudtest.Fault{{Op: ibmcloudtest.OpAny, Status: 503}, {Op: ibmcloudtest.OpAny, Delay: time.Hour}} {
		withFixture(t, func(fx *fixture) {
			first := fx.rotate(time.Hour)
			fx.wantToken(first, 0)
			fx.fault(fault)
			time.Sleep(59*time.Minute + 50*time.Second)
			fx.wantToken(first, 2*time.Second)
			time.Sleep(8 * time.Second)
			fx.cloud.ClearFaults()
			second := fx.rotate(time.Hour)
			time.Sleep(10 * time.Second) // the old one has expired
			fx.wantToken(second, 0)
			fx.fault(fault)
			time.Sleep(time.Hour)
			if _, err := fx.reader.Token(context.Background()); !errors.Is(err, iamtoken.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	}
}

func TestALateRotationIsNoticed(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first, 0)
		time.Sleep(56 * time.Minute)
		for range 60 { // a minute of calls each second
			fx.wantToken(first, 0)
			time.Sleep(time.Second)
		}
		if got := fx.count(read); got < 3 || got > 6 {
			t.Errorf("got %d reads, want one every 15 to 30 s: 3 to 6", got)
		}
		second := fx.rotate(time.Hour)
		time.Sleep(31 * time.Second)
		fx.wantToken(second, 0)
	})
}

// A read that fails is tried once more, and until a second before the deadline if there is one. The
// message names the cause by the code or the status, and repeats no other text of an answer.
func TestFailingReads(t *testing.T) {
	const s, locked = time.Second, "locked" // a locked key still gives tokens
	type fault = ibmcloudtest.Fault
	type span struct{ least, most time.Duration }
	var atOnce, backOff, keyPause, capped, healed, wholeMinute = span{}, span{s / 2, 3 * s / 2}, span{2 * s, 2 * s}, span{5 * s, 5 * s}, span{20 * s, 27 * s}, span{50 * s, 59 * s} // healed: the fault ends after 20 s
	answer := func(f fault) func(fx *fixture) { return func(fx *fixture) { fx.fault(f) } }
	iamSays := func(status int, body string) func(fx *fixture) {
		return answer(fault{Op: iam, Status: status, Body: body})
	}
	store := func(payload string) func(fx *fixture) {
		return func(fx *fixture) { fx.cloud.MustPutVersion(fx.secret(), payload, nil) }
	}
	after := func(value string) map[string]string { return map[string]string{"Retry-After": value} }
	stale := `{"secret_type":"arbitrary","created_at":"2026-01-01T00:00:00Z","payload":"an-opaque-token-of-40-characters-0123456","version_custom_metadata":{"expiration":1767225600}}`
	for name, test := range map[string]struct {
		arrange   func(fx *fixture)
		patient   bool // the call has a deadline of a minute
		took      span
		exchanges int   // 0: any number
		want      error // nil: a token
		says      string
	}{
		// A second try succeeds.
		"a back-off":                {answer(fault{Op: iam, Status: 503, Times: 1}), false, backOff, 2, nil, ""},
		"a false 400 of IAM":        {answer(fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM0415E"}`, Times: 1}), false, keyPause, 2, nil, ""},
		"a false 401 of IAM":        {answer(fault{Op: iam, Status: 401, Times: 1}), false, keyPause, 2, nil, ""},
		"a false 403 of IAM":        {answer(fault{Op: iam, Status: 403, ContentType: "text/html", Body: "<html>", Times: 1}), false, keyPause, 2, nil, ""},
		"a false 401":               {answer(fault{Op: read, Status: 401, Times: 1}), false, backOff, 2, nil, ""},
		"a false 403":               {answer(fault{Op: read, Status: 403, Times: 1}), false, backOff, 2, nil, ""},
		"a Date before the version": {answer(fault{Op: read, Status: 200, Headers: map[string]string{"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}, Times: 1, Body: stale}), false, backOff, 1, nil, ""},
		"Retry-After as a date":     {answer(fault{Op: read, Status: 503, Headers: after("Sat, 01 Jan 2000 00:00:04 GMT"), Times: 1}), false, span{4 * s, 4 * s}, 1, nil, ""}, // synctest begins at 0:00:00
		"Retry-After, cut to 5 s":   {answer(fault{Op: read, Status: 429, Headers: after("999999"), Times: 1}), false, capped, 1, nil, ""},
		// With a deadline.
		"an outage of 20 s":     {answer(fault{Op: read, Status: 503}), true, healed, 0, nil, ""},
		"no connection":         {answer(fault{Op: iam, Drop: ibmcloudtest.DropBefore}), true, healed, 0, nil, ""},
		"too many requests":     {answer(fault{Op: read, Status: 429, Headers: after("3")}), true, healed, 0, nil, ""},
		"a page for 20 s":       {answer(fault{Op: read, Status: 200, Body: "<html>"}), true, healed, 0, nil, ""},
		"false 401s of IAM":     {iamSays(401, ""), true, healed, 0, nil, ""},
		"false 403s":            {answer(fault{Op: read, Status: 403}), true, healed, 0, nil, ""},
		"a key that is unknown": {iamSays(400, ""), true, wholeMinute, 0, iamtoken.ErrDenied, ""},
		"a lasting outage":      {answer(fault{Op: read, Status: 503}), true, wholeMinute, 0, iamtoken.ErrUnavailable, ""},
		"404 with a deadline":   {answer(fault{Op: read, Status: 404}), true, atOnce, 1, iamtoken.ErrNotFound, ""},
		"expired, at once":      {func(fx *fixture) { fx.rotate(-12 * time.Minute) }, true, atOnce, 1, iamtoken.ErrExpired, "12m0s ago"},
		// The error is reported at once.
		"no token yet":    {store("no token yet"), false, atOnce, 1, iamtoken.ErrNoToken, "has not run yet"},
		"empty":           {store(" "), false, atOnce, 1, iamtoken.ErrNoToken, "is empty"},
		"by hand, opaque": {store("an-opaque-token-of-40-characters-0123456"), false, atOnce, 1, iamtoken.ErrNoToken, "nothing states"},
		"another type": {func(fx *fixture) {
			fx.store.SecretID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Group: fx.cloud.TokenGroupName(), ReuseAPIKey: true})
		}, false, atOnce, 1, iamtoken.ErrNoToken, "use arbitrary or kv"},
		"missing":    {func(fx *fixture) { fx.store.SecretID = "00000000-0000-4000-8000-000000000000" }, false, atOnce, 1, iamtoken.ErrNotFound, "SecretID"},
		"410":        {answer(fault{Op: read, Status: 410}), false, atOnce, 1, iamtoken.ErrNotFound, "SecretID"},
		"a redirect": {answer(fault{Op: read, Status: 302}), false, atOnce, 1, iamtoken.ErrUnavailable, "is its URL right?"},
		// A second try fails too.
		"forbidden":                     {func(fx *fixture) { fx.store.SecretID = fx.cloud.Rotations()[0].APIKeySecret }, false, backOff, 2, iamtoken.ErrDenied, "Secrets Manager answered 403: the reader identity needs SecretsReader on the token's secret group; a new policy takes minutes to reach everywhere; or a context-based restriction keeps this network out"},
		"a page as 403":                 {answer(fault{Op: read, Status: 403, ContentType: "text/html", Body: "<html>canary"}), false, backOff, 2, iamtoken.ErrDenied, "Secrets Manager answered 403: the reader identity"},
		"an outage, reported after 5 s": {answer(fault{Op: read, Status: 429, Headers: after("999999")}), false, capped, 1, iamtoken.ErrUnavailable, "answered 429: it is asked too often"},
		"a web page":                    {answer(fault{Op: iam, Status: 200, ContentType: "text/html", Body: "<html>canary"}), false, backOff, 2, iamtoken.ErrUnavailable, "proxy"},
		"no answer":                     {answer(fault{Op: read, Drop: ibmcloudtest.DropBefore}), false, backOff, 1, iamtoken.ErrUnavailable, "calling Secrets Manager"},
		"a key of nobody":               {func(fx *fixture) { fx.store.APIKey = iamtoken.NewSecret("nobodys-key-0123456789") }, false, keyPause, 2, iamtoken.ErrDenied, "IAM answered 400 BXNIM0415E: the reader's API key is not known to IAM. It was deleted"},
		"a code of errors":              {iamSays(400, `{"errors":[{"code":"BXNIM0106E"}]}`), false, keyPause, 2, iamtoken.ErrDenied, "answered 400 BXNIM0106E: IAM does not accept"},
		"a code and 503":                {iamSays(503, `{"errorCode":"BXNIM0430E"}`), false, backOff, 2, iamtoken.ErrUnavailable, "answered 503 BXNIM0430E: requests from this IP"},
		"an unknown code":               {iamSays(400, `{"errorCode":"BXNIM9999E"}`), false, keyPause, 2, iamtoken.ErrDenied, "answered 400 BXNIM9999E: the reader's API key is not known to IAM, disabled or expired"},
		"almost a code":                 {iamSays(400, `{"errorCode":"BXNIM0415E canary"}`), false, keyPause, 2, iamtoken.ErrDenied, "IAM answered 400: the reader's"},
		"five digits":                   {iamSays(400, `{"errorCode":"BXNIM00415E"}`), false, keyPause, 2, iamtoken.ErrDenied, "IAM answered 400: the reader's"},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(fx *fixture) {
				fx.rotate(time.Hour)
				test.arrange(fx)
				if test.took == healed {
					time.AfterFunc(healed.least, fx.cloud.ClearFaults)
				}
				ctx := context.Background()
				if test.patient {
					minute, cancel := context.WithTimeout(ctx, time.Minute)
					defer cancel()
					ctx = minute
				}
				began := time.Now()
				token, err := fx.reader.Token(ctx)
				if took := time.Since(began); !errors.Is(err, test.want) || took < test.took.least || took > test.took.most || token.Value.IsZero() != (test.want != nil) {
					t.Errorf("got %v after %s, want %v after %s to %s", err, took, test.want, test.took.least, test.took.most)
				}
				if got := fx.count(iam); test.exchanges != 0 && got != test.exchanges {
					t.Errorf("got %d exchanges, want %d", got, test.exchanges)
				}
				if got := len(fx.cloud.Requests()); got > 90 {
					t.Errorf("got %d requests in a minute", got)
				}
				if test.want == nil {
					return
				}
				for _, foreign := range []string{"canary", "nobodys", "eyJ", locked, fx.cloud.ReaderAPIKey()} {
					if strings.Contains(err.Error(), foreign) {
						t.Errorf("the error repeats what it must not: %v", err)
					}
				}
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %q, want it to say %q", err, test.says)
				}
				requests := len(fx.cloud.Requests())
				if _, again := fx.reader.Token(context.Background()); !test.patient && (again == nil || len(fx.cloud.Requests()) != requests) {
					t.Error("the failure was not remembered for a moment: callers in a loop would storm the store")
				}
				time.Sleep(20 * time.Second) // a read does not end with the call
			})
		})
	}
}

func TestACallerCanGiveUp(t *testing.T) {
	// Its deadline is in the first try of a read, or between the two: then it gets the reason too.
	for says, fault := range map[string]ibmcloudtest.Fault{
		"waiting for the token": {Op: iam, Delay: 5 * time.Second, Times: 1},
		"IAM answered 400":      {Op: iam, Status: 400, Times: 1},
		"IAM answered 503":      {Op: iam, Status: 503, Headers: map[string]string{"Retry-After": "9"}, Times: 1},
	} {
		withFixture(t, func(fx *fixture) {
			token := fx.rotate(time.Hour)
			fx.fault(fault)
			ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
			defer cancel()
			if _, err := fx.reader.Token(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want the context's error and %q", err, says)
			}
			fx.wantToken(token, 5*time.Second) // the read does not end with the caller that started it
			fx.wantReads(1)
		})
	}
}

// A secret's id in the forms that other tools print, and a kv secret.
func TestSecretsOfOtherTools(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		token, id := fx.rotate(time.Hour), fx.secret()
		const instance = "11111111-8c39-4160-b230-92430f439ba9"
		kv := fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: fx.cloud.TokenGroupName(), Data: map[string]any{"iam_token": "Bearer " + token}})
		for _, form := range []string{id, " " + id + "\n", "arbitrary/" + id, "kv/" + kv, "us-south/" + instance + "/" + id,
			"crn:v1:bluemix:public:secrets-manager:us-south:a/0123456789abcdef0123456789abcdef:" + instance + ":secret:" + id} {
			fx.store.SecretID = form
			fx.reader = &iamtoken.Reader{Store: fx.store}
			fx.wantToken(token, 0)
		}
	})
}

// A thousand goroutines of one process ask for the token, each about every half minute, while
// it is rotated ten times.
func TestAThousandGoroutinesAcrossTenRotations(t *testing.T) {
	const goroutines, rotations, interval = 1000, 10, 50 * time.Minute
	withFixture(t, func(fx *fixture) {
		fx.rotate(time.Hour)
		fx.fault(ibmcloudtest.Fault{Op: read, Delay: time.Second}) // time for others to ask meanwhile
		var handedOut, bad atomic.Int64
		end := time.Now().Add((rotations + 1) * interval)
		var all sync.WaitGroup
		for range goroutines {
			all.Go(func() {
				for time.Now().Before(end) {
					handedOut.Add(1)
					if token, err := fx.reader.Token(fx.t.Context()); err != nil || !token.Expiration.After(time.Now()) {
						bad.Add(1)
					}
					time.Sleep(rand.N(time.Minute))
				}
			})
		}
		for range rotations {
			time.Sleep(interval)
			fx.rotate(time.Hour)
		}
		all.Wait()
		synctest.Wait()
		if bad.Load() != 0 || handedOut.Load() < goroutines*rotations*50 {
			t.Errorf("got %d expired tokens and errors in %d calls, want none in half a million", bad.Load(), handedOut.Load())
		}
		fx.wantReads(rotations + 1)
	})
}

// The jitter makes many processes read at different times.
func TestProcessesDoNotAskInTheSameSecond(t *testing.T) {
	seconds := map[int64]bool{}
	for range 20 {
		withFixture(t, func(fx *fixture) {
			fx.wantToken(fx.rotate(time.Hour), 0)
			time.Sleep(54 * time.Minute)
			began := time.Now()
			for fx.count(read) == 1 {
				time.Sleep(time.Second)
				if _, err := fx.reader.Token(fx.t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			seconds[int64(time.Since(began).Seconds())] = true
		})
	}
	if len(seconds) < 8 {
		t.Errorf("20 processes read in %d different seconds, want them spread over a minute", len(seconds))
	}
}

func TestATokenFunctionOpensTheStore(t *testing.T) {
	lost := errors.New("the profile is gone")
	for _, failure := range []error{nil, lost} {
		withFixture(t, func(fx *fixture) {
			fx.store.APIKey = iamtoken.Secret{}
			fx.store.AccessToken = func(context.Context) (iamtoken.Secret, error) {
				return iamtoken.NewSecret("Bearer " + fx.cloud.MustMintToken(fx.cloud.ReaderAPIKey(), time.Hour)), failure
			}
			fx.rotate(time.Hour)
			if _, err := fx.reader.Token(context.Background()); !errors.Is(err, failure) || fx.count(iam) != 0 {
				t.Errorf("got %v and %d exchanges, want %v and none", err, fx.count(iam), failure)
			}
		})
	}
}
