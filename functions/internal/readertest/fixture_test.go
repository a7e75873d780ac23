package readertest

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

const opaque = "an-opaque-token-of-40-characters-0123456"

func storeOf(v iamtoken.Version) iamtoken.Store {
	return iamtoken.StoreFunc(func(context.Context) (iamtoken.Version, error) { return v, nil })
}

// fixture is a Reader in process with a cloud, in virtual time.
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
		fx.store = &iamtoken.SecretsManager{
			URL:       "https://instance.test",
			IAMURL:    "https://iam.test",
			SecretID:  fx.secret(),
			APIKey:    iamtoken.NewSecret(fx.cloud.ReaderAPIKey()),
			Transport: fx.cloud.Transport(),
		}
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

// wantToken checks that the Reader hands out value, which is valid.
func (fx *fixture) wantToken(value string) {
	fx.t.Helper()
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
}

// reads counts the reads of the token secret so far.
func (fx *fixture) reads() int { return fx.count(ibmcloudtest.OpVersionsGet) }

func (fx *fixture) count(op string) int { return fx.cloud.CountRequests(op, "") }

func (fx *fixture) wantReads(want int) {
	fx.t.Helper()
	if got := fx.reads(); got != want {
		fx.t.Errorf("got %d reads of the secret, want %d", got, want)
	}
}

func (fx *fixture) fault(f ibmcloudtest.Fault) { fx.cloud.MustAddFault(f) }

// client calls Logs Routing through the Reader's transport.
func (fx *fixture) client() *http.Client {
	return &http.Client{Transport: fx.reader.Transport(fx.cloud.Transport())}
}
