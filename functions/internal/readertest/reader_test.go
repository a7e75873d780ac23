package readertest

import (
	"context"
	"errors"
	"fmt"
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

func TestTheTokenIsKeptUntilItExpiresSoon(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		time.Sleep(50 * time.Minute)
		second := fx.rotate(time.Hour)
		time.Sleep(5*time.Minute - time.Second) // just over the margin of 5 minutes left
		fx.wantToken(first)
		fx.wantReads(1)
		time.Sleep(time.Minute + 2*time.Second) // below the margin less all its jitter
		fx.wantToken(second)
		fx.wantReads(2)
		if got := fx.count(ibmcloudtest.OpIAMToken); got != 2 {
			t.Errorf("got %d exchanges of the reader's key, want 2: its token has a lifetime of an hour, too", got)
		}
	})
}

func TestTheOldTokenIsServedWhileTheStoreIsDown(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Status: 503})
		time.Sleep(59*time.Minute + 50*time.Second)
		began := time.Now()
		fx.wantToken(first)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("waited %s although there was a valid token, want 2s at most", took)
		}
		time.Sleep(10 * time.Second)
		_, err := fx.reader.Token(context.Background())
		if !errors.Is(err, iamtoken.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable: an expired token is never handed out", err)
		}
		synctest.Wait()
		fx.cloud.ClearFaults()
		second := fx.rotate(time.Hour)
		time.Sleep(time.Minute)
		fx.wantToken(second)
	})
}

func TestAStoreThatHangsDelaysNobodyWhoHasAToken(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Delay: time.Hour})
		time.Sleep(56 * time.Minute)
		began := time.Now()
		fx.wantToken(first)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("waited %s, want 2s", took)
		}
		synctest.Wait()
		time.Sleep(time.Minute) // the read has ended, or the bubble would not
	})
}

func TestALateRotationIsNoticed(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		first := fx.rotate(time.Hour)
		fx.wantToken(first)
		time.Sleep(56 * time.Minute)
		for range 60 { // a minute of calls each second
			fx.wantToken(first)
			time.Sleep(time.Second)
		}
		if got := fx.reads(); got < 3 || got > 6 {
			t.Errorf("got %d reads, want one every 15 to 30 s: 3 to 6", got)
		}
		second := fx.rotate(time.Hour)
		time.Sleep(31 * time.Second)
		fx.wantToken(second)
	})
}

func TestErrorsOfTheStoredToken(t *testing.T) {
	for name, test := range map[string]struct {
		arrange func(fx *fixture)
		want    error
		says    string
	}{
		"no token yet": {func(*fixture) {}, iamtoken.ErrNoToken, "has not run yet"},
		"expired":      {func(fx *fixture) { fx.rotate(-12 * time.Minute) }, iamtoken.ErrExpired, "12m0s ago"},
		"empty":        {func(fx *fixture) { fx.cloud.MustPutVersion(fx.secret(), " ", nil) }, iamtoken.ErrNoToken, "is empty"},
		"by hand, opaque": {func(fx *fixture) { fx.cloud.MustPutVersion(fx.secret(), opaque, nil) },
			iamtoken.ErrNoToken, "nothing states"},
		"another type": {func(fx *fixture) {
			fx.store.SecretID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", Group: fx.cloud.TokenGroupName(), ReuseAPIKey: true})
		}, iamtoken.ErrNoToken, "use arbitrary or kv"},
		"missing":   {func(fx *fixture) { fx.store.SecretID = "00000000-0000-4000-8000-000000000000" }, iamtoken.ErrNotFound, "SecretID"},
		"forbidden": {func(fx *fixture) { fx.store.SecretID = fx.cloud.Rotations()[0].APIKeySecret }, iamtoken.ErrDenied, "SecretsReader"},
		"unknown key": {func(fx *fixture) { fx.store.APIKey = iamtoken.NewSecret("nobodys-key-0123456789") },
			iamtoken.ErrDenied, "API key"},
		"a web page": {func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 200, ContentType: "text/html", Body: "<html>canary"})
		}, iamtoken.ErrUnavailable, "proxy"},
		"no answer": {func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Drop: ibmcloudtest.DropBefore})
		}, iamtoken.ErrUnavailable, "calling Secrets Manager"},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(fx *fixture) {
				test.arrange(fx)
				token, err := fx.reader.Token(context.Background())
				if !errors.Is(err, test.want) || !token.Value.IsZero() {
					t.Fatalf("got %v, want %v and no token", err, test.want)
				}
				for _, secret := range []string{"canary", "nobodys", "eyJ", fx.cloud.ReaderAPIKey()} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("the error repeats what it must not: %v", err)
					}
				}
				if !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %q, want it to say %q", err, test.says)
				}
				reads := len(fx.cloud.Requests())
				if _, again := fx.reader.Token(context.Background()); again == nil || len(fx.cloud.Requests()) != reads {
					t.Error("the failure was not remembered for a moment: callers in a loop would storm the store")
				}
			})
		})
	}
}

func TestAReadIsTriedTwice(t *testing.T) {
	const iam, read = ibmcloudtest.OpIAMToken, ibmcloudtest.OpVersionsGet
	after := map[string]string{"Retry-After": "999999"}
	stale := ibmcloudtest.Fault{Op: read, Status: 200, Headers: map[string]string{"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}, Times: 1,
		Body: `{"secret_type":"arbitrary","created_at":"2026-01-01T00:00:00Z","payload":"` + opaque + `","version_custom_metadata":{"expiration":1767225600}}`}
	for name, test := range map[string]struct {
		fault       ibmcloudtest.Fault
		least, most time.Duration
		exchanges   int
		want        error
	}{
		"a back-off":                    {ibmcloudtest.Fault{Op: iam, Status: 503, Times: 1}, time.Second / 2, 3 * time.Second / 2, 2, nil},
		"a false 400 of IAM":            {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM0415E"}`, Times: 1}, 2 * time.Second, 2 * time.Second, 2, nil},
		"a false 401 of IAM":            {ibmcloudtest.Fault{Op: iam, Status: 401, Times: 1}, 2 * time.Second, 2 * time.Second, 2, nil},
		"a false 403 of IAM":            {ibmcloudtest.Fault{Op: iam, Status: 403, ContentType: "text/html", Body: "<html>", Times: 1}, 2 * time.Second, 2 * time.Second, 2, nil},
		"a false 401":                   {ibmcloudtest.Fault{Op: read, Status: 401, Times: 1}, time.Second / 2, 3 * time.Second / 2, 2, nil},
		"a false 403":                   {ibmcloudtest.Fault{Op: read, Status: 403, Times: 1}, time.Second / 2, 3 * time.Second / 2, 2, nil},
		"a Date before the version":     {stale, time.Second / 2, 3 * time.Second / 2, 1, nil},
		"a lasting 400":                 {ibmcloudtest.Fault{Op: iam, Status: 400}, 2 * time.Second, 2 * time.Second, 2, iamtoken.ErrDenied},
		"a lasting 403":                 {ibmcloudtest.Fault{Op: read, Status: 403}, time.Second / 2, 3 * time.Second / 2, 2, iamtoken.ErrDenied},
		"a redirect, once":              {ibmcloudtest.Fault{Op: read, Status: 302}, 0, 0, 1, iamtoken.ErrUnavailable},
		"404, once":                     {ibmcloudtest.Fault{Op: read, Status: 404}, 0, 0, 1, iamtoken.ErrNotFound},
		"Retry-After as a date":         {ibmcloudtest.Fault{Op: read, Status: 503, Headers: map[string]string{"Retry-After": "Sat, 01 Jan 2000 00:00:04 GMT"}, Times: 1}, 4 * time.Second, 4 * time.Second, 1, nil}, // synctest begins at 0:00:00
		"Retry-After, cut to 5 s":       {ibmcloudtest.Fault{Op: read, Status: 429, Headers: after, Times: 1}, 5 * time.Second, 5 * time.Second, 1, nil},
		"an outage, reported after 5 s": {ibmcloudtest.Fault{Op: read, Status: 429, Headers: after}, 5 * time.Second, 5 * time.Second, 1, iamtoken.ErrUnavailable},
	} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			fx.fault(test.fault)
			began := time.Now()
			if _, err := fx.reader.Token(context.Background()); !errors.Is(err, test.want) {
				t.Errorf("%s: got %v, want %v", name, err, test.want)
			}
			if took := time.Since(began); took < test.least || took > test.most {
				t.Errorf("%s: took %s, want %s to %s", name, took, test.least, test.most)
			}
			if got := fx.count(iam); got != test.exchanges {
				t.Errorf("%s: got %d exchanges, want %d", name, got, test.exchanges)
			}
		})
	}
}

// With a deadline a call goes on, and ends a second before it with the reason.
func TestACallIsPatientUntilItsDeadline(t *testing.T) {
	const iam, read = ibmcloudtest.OpIAMToken, ibmcloudtest.OpVersionsGet
	after := map[string]string{"Retry-After": "3"}
	for name, test := range map[string]struct {
		fault ibmcloudtest.Fault
		after time.Duration // when the fault ends; 0: never
		want  error
		least time.Duration
		most  time.Duration
	}{
		"an outage of 20 s":     {ibmcloudtest.Fault{Op: read, Status: 503}, 20 * time.Second, nil, 20 * time.Second, 24 * time.Second},
		"no connection":         {ibmcloudtest.Fault{Op: iam, Drop: ibmcloudtest.DropBefore}, 20 * time.Second, nil, 20 * time.Second, 24 * time.Second},
		"too many requests":     {ibmcloudtest.Fault{Op: read, Status: 429, Headers: after}, 20 * time.Second, nil, 20 * time.Second, 27 * time.Second},
		"a page":                {ibmcloudtest.Fault{Op: read, Status: 200, Body: "<html>"}, 20 * time.Second, nil, 20 * time.Second, 24 * time.Second},
		"false 401s of IAM":     {ibmcloudtest.Fault{Op: iam, Status: 401}, 20 * time.Second, nil, 20 * time.Second, 24 * time.Second},
		"false 403s":            {ibmcloudtest.Fault{Op: read, Status: 403}, 20 * time.Second, nil, 20 * time.Second, 24 * time.Second},
		"a key that is unknown": {ibmcloudtest.Fault{Op: iam, Status: 400}, 0, iamtoken.ErrDenied, 50 * time.Second, 59 * time.Second},
		"a lasting outage":      {ibmcloudtest.Fault{Op: read, Status: 503}, 0, iamtoken.ErrUnavailable, 50 * time.Second, 59 * time.Second},
		"404":                   {ibmcloudtest.Fault{Op: read, Status: 404}, 0, iamtoken.ErrNotFound, 0, 0},
		"410":                   {ibmcloudtest.Fault{Op: read, Status: 410}, 0, iamtoken.ErrNotFound, 0, 0},
	} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			fx.fault(test.fault)
			if test.after > 0 {
				time.AfterFunc(test.after, fx.cloud.ClearFaults)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			began := time.Now()
			_, err := fx.reader.Token(ctx)
			if took := time.Since(began); !errors.Is(err, test.want) || took < test.least || took > test.most {
				t.Errorf("%s: got %v after %s, want %v after %s to %s", name, err, took, test.want, test.least, test.most)
			}
			if got := len(fx.cloud.Requests()); got > 90 {
				t.Errorf("%s: got %d requests in a minute", name, got)
			}
			time.Sleep(20 * time.Second) // a read does not end with the call
		})
	}
	withFixture(t, func(fx *fixture) {
		fx.rotate(-time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		began := time.Now()
		if _, err := fx.reader.Token(ctx); !errors.Is(err, iamtoken.ErrExpired) || time.Since(began) > 0 {
			t.Errorf("got %v after %s, want ErrExpired at once", err, time.Since(began))
		}
	})
}

// The code names the cause, whatever the status; foreign text is never printed.
func TestRefusalsNameTheirCause(t *testing.T) {
	const iam, read = ibmcloudtest.OpIAMToken, ibmcloudtest.OpVersionsGet
	for name, test := range map[string]struct {
		fault ibmcloudtest.Fault
		says  string
	}{
		"unknown":         {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM0415E"}`}, "IAM answered 400 BXNIM0415E: the reader's API key is not known to IAM: it was deleted"},
		"value":           {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errors":[{"code":"BXNIM0106E"}]}`}, "answered 400 BXNIM0106E: IAM does not accept"},
		"a code and 503":  {ibmcloudtest.Fault{Op: iam, Status: 503, Body: `{"errorCode":"BXNIM0430E"}`}, "answered 503 BXNIM0430E: requests from this IP"},
		"an unknown code": {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM9999E"}`}, "answered 400 BXNIM9999E: the reader's API key is not known to IAM, disabled or expired"},
		"no code":         {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"canary"}`}, "IAM answered 400: the reader's"},
		"almost a code":   {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM0415E canary"}`}, "IAM answered 400: the reader's"},
		"five digits":     {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM00415E"}`}, "IAM answered 400: the reader's"},
		"letters":         {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIMeyJhE"}`}, "IAM answered 400: the reader's"},
		"a page":          {ibmcloudtest.Fault{Op: iam, Status: 403, ContentType: "text/html", Body: "<html>canary"}, "IAM answered 403: a network rule refuses this address: is there a context-based restriction"},
		"429":             {ibmcloudtest.Fault{Op: iam, Status: 429}, "IAM answered 429: it is asked too often"},
		"a 403 of the store": {ibmcloudtest.Fault{Op: read, Status: 403, ContentType: "text/html", Body: "<html>canary"},
			"Secrets Manager answered 403: the reader identity needs SecretsReader on the token's secret group; a new policy takes minutes to reach everywhere; or a context-based restriction keeps this network out"},
	} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			fx.fault(test.fault)
			_, err := fx.reader.Token(context.Background())
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: got %v, want it to say %q", name, err, test.says)
			} else if text := err.Error(); strings.Contains(text, "canary") || strings.Contains(text, "eyJ") || strings.Contains(text, "locked") {
				t.Errorf("%s: got foreign text, or a locked key: %v", name, err)
			}
		})
	}
}

func TestACallerCanGiveUp(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.rotate(time.Hour)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Delay: 5 * time.Second, Times: 1})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := fx.reader.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		if _, err := fx.reader.Token(context.Background()); err != nil {
			t.Errorf("got %v: the read ended with the caller that started it", err)
		}
		fx.wantReads(1)
	})
	// Its time ends between the two tries of the read: it gets the reason, too.
	for _, status := range []int{400, 429, 503} {
		withFixture(t, func(fx *fixture) {
			fx.rotate(time.Hour)
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: status, Headers: map[string]string{"Retry-After": "9"}, Times: 1})
			ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
			defer cancel()
			_, err := fx.reader.Token(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprint("IAM answered ", status)) {
				t.Errorf("got %v, want the status %d and the context's error", err, status)
			}
			if _, err := fx.reader.Token(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestThisMachinesClockIsOff(t *testing.T) {
	for _, skew := range []time.Duration{-20 * time.Minute, 90 * time.Minute} {
		withFixture(t, func(fx *fixture) {
			fx.skew = skew
			fx.wantToken(fx.rotate(time.Hour))
			time.Sleep(57 * time.Minute)
			fx.wantToken(fx.rotate(time.Hour))
			fx.wantReads(2)
		})
	}
}

func TestFaultyFieldsAreReportedAtOnce(t *testing.T) {
	const id, other = "e2dd1896-8c39-4160-b230-92430f439ba9", "11111111-8c39-4160-b230-92430f439ba9"
	key := func(text string) *iamtoken.Reader {
		return &iamtoken.Reader{Store: &iamtoken.SecretsManager{URL: "https://x.test", SecretID: id, APIKey: iamtoken.NewSecret(text)}}
	}
	at := func(url, secret string) *iamtoken.Reader {
		return &iamtoken.Reader{Store: &iamtoken.SecretsManager{URL: url, SecretID: secret, APIKey: iamtoken.NewSecret("key")}}
	}
	for _, test := range []struct {
		says   string
		reader *iamtoken.Reader
	}{
		{"Store is required", &iamtoken.Reader{}},
		{"Margin is negative", &iamtoken.Reader{Store: iamtoken.StoreFunc(nil), Margin: -1}},
		{"URL is required", at("", id)},
		{"SecretID is not a", at("https://x.test", "canary")},
		{"SecretID is not a", at("https://x.test", "canary/"+id+"/"+other+"/x")},
		{"SecretID is not a", at("https://x.test", "my-group/canary")},
		{"SecretID is not a", at("https://x.test", "group/"+id)},
		{"SecretID is of another", at("https://"+other+".us-south.secrets-manager.appdomain.cloud", "us-south/"+id+"/"+id)},
		{"URL must be", at("http://x.test", id)},
		{"IAMURL must be", &iamtoken.Reader{Store: &iamtoken.SecretsManager{IAMURL: "https://canary@x.test/"}}},
		{"APIKey or AccessTok", key("")},
		{"APIKey is in quotes", key(`"canary"`)},
		{"APIKey is in quotes", key("'canary")},
		{"APIKey is in quotes", key("\u201ccanary\u201d")},
		{"APIKey begins with a byte-order mark", key("\ufeffcanary")},
		{"APIKey begins with a byte-order mark", key("\xff\xfec\x00a\x00")},
		{"APIKey is not an API key on one line", key("canary\ncanary")},
		{"APIKey is JSON", key(`{"apikey":"canary"}`)},
		{"APIKey is an access token", key("eyJcanary.canary.canary")},
		{"APIKey is the id of an API key", key("ApiKey-" + id)},
		{"APIKey is a line NAME=key", key("KEY=canary")},
		{"APIKey is a line NAME=key", key("export IBMCLOUD_API_KEY=canary")},
		{"APIKey is what a program prints for a field that is not there", key("null\n")},
		{"APIKey is what a program prints for a field that is not there", key("None")},
		{"APIKey is a placeholder", key("${canary}")},
		{"APIKey is a placeholder", key("<canary key>")},
		{"APIKey is a placeholder", key("{{ .canary }}")},
		{"APIKey has an invisible character", key("canary\u200b")},
		{"APIKey has an invisible character", key("canary\x00")},
		{"APIKey has an invisible character", key("c\xffanary")},
		{"APIKey has a character that no", key("canary\u00e9")},
		{"URL still has a placeholder", at("https://<canary>.us-south.test", id)},
		{"URL has an empty part", at("https://.us-south.test", id)},
		{"URL has null", at("https://null.us-south.test", id)},
	} {
		_, err := test.reader.Token(t.Context())
		if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %v, want it to say %q and to repeat no value", err, test.says)
		}
	}
}

// An id in the forms that other tools print.
func TestSecretIDsOfOtherTools(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		token, id := fx.rotate(time.Hour), fx.secret()
		const instance = "11111111-8c39-4160-b230-92430f439ba9"
		for _, form := range []string{id, " " + id + "\n", "arbitrary/" + id, "kv/" + id, "us-south/" + instance + "/" + id,
			"crn:v1:bluemix:public:secrets-manager:us-south:a/0123456789abcdef0123456789abcdef:" + instance + ":secret:" + id} {
			fx.store.SecretID = form
			fx.reader = &iamtoken.Reader{Store: fx.store}
			fx.wantToken(token)
		}
	})
}

// A thousand goroutines of one process ask for the token, each every half minute
// or so, while it is rotated ten times.
func TestAThousandGoroutinesAcrossTenRotations(t *testing.T) {
	const goroutines, rotations, interval = 1000, 10, 50 * time.Minute
	withFixture(t, func(fx *fixture) {
		fx.rotate(time.Hour)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Delay: time.Second}) // time for others to ask meanwhile
		var handedOut, expired, failed atomic.Int64
		end := time.Now().Add((rotations + 1) * interval)
		var all sync.WaitGroup
		for range goroutines {
			all.Go(func() {
				for time.Now().Before(end) {
					token, err := fx.reader.Token(fx.t.Context())
					if err != nil {
						failed.Add(1)
					} else if handedOut.Add(1); !token.Expiration.After(time.Now()) {
						expired.Add(1)
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
		if expired.Load() != 0 || failed.Load() != 0 {
			t.Errorf("got %d expired tokens and %d errors in %d calls, want none", expired.Load(), failed.Load(), handedOut.Load())
		}
		if handedOut.Load() < goroutines*rotations*50 {
			t.Errorf("got %d calls: too few to show anything", handedOut.Load())
		}
		if got := fx.reads(); got > rotations+1 {
			t.Errorf("got %d reads for the first token and %d rotations, want one each", got, rotations)
		}
		for _, request := range fx.cloud.Requests() {
			if request.Op == ibmcloudtest.OpVersionsGet && request.Status != 200 {
				t.Errorf("got a read with status %d, want 200", request.Status)
			}
		}
	})
}

// Many processes read at different times: the jitter sees to that.
func TestProcessesDoNotAskInTheSameSecond(t *testing.T) {
	seconds := map[int64]bool{}
	for range 20 {
		withFixture(t, func(fx *fixture) {
			fx.wantToken(fx.rotate(time.Hour))
			began := time.Now()
			for fx.reads() == 1 {
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

func TestAKVSecret(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		token := fx.rotate(time.Hour)
		fx.store.SecretID = fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
			Type: "kv", Group: fx.cloud.TokenGroupName(), Data: map[string]any{"iam_token": "Bearer " + token},
		})
		fx.wantToken(token)
	})
}
