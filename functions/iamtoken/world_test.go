package iamtoken_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

// world is a Reader in process with a cloud, in virtual time.
type world struct {
	t      *testing.T
	cloud  *ibmcloudtest.Cloud
	store  *iamtoken.SecretsManager
	reader *iamtoken.Reader
	skew   time.Duration // of the reader's clock
}

func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, cloud: ibmcloudtest.New(ibmcloudtest.Options{})}
		w.store = &iamtoken.SecretsManager{
			URL:       "https://instance.test",
			IAMURL:    "https://iam.test",
			SecretID:  w.secret(),
			APIKey:    iamtoken.NewSecret(w.cloud.ReaderAPIKey()),
			Transport: w.cloud.Transport(),
		}
		w.reader = &iamtoken.Reader{Store: w.store, Now: func() time.Time { return time.Now().Add(w.skew) }}
		test(w)
	})
}

func (w *world) secret() string { return w.cloud.Rotations()[0].TokenSecret }

// rotate saves a token with the lifetime ttl, with the rotator's metadata.
func (w *world) rotate(ttl time.Duration) string {
	value := w.cloud.MustMintToken(w.cloud.Rotations()[0].APIKey, ttl)
	token := iamtoken.Token{Value: iamtoken.NewSecret(value), IssuedAt: time.Now(), Expiration: time.Now().Add(ttl), ExpiresIn: ttl, IAMID: "iam-ServiceId-1"}
	w.cloud.MustPutVersion(w.secret(), value, iamtoken.Describe(token, "run-1234", "test").Map())
	return value
}

// wantToken checks that the Reader hands out value, which is valid.
func (w *world) wantToken(value string) {
	w.t.Helper()
	token, err := w.reader.Token(context.Background())
	if err != nil {
		w.t.Fatalf("got error %v, want a token", err)
	}
	if got, want := token.Fingerprint(), (iamtoken.Token{Value: iamtoken.NewSecret(value)}).Fingerprint(); got != want {
		w.t.Errorf("got the token %s, want %s", got, want)
	}
	if _, _, err := w.cloud.Validate(token.Value.Reveal()); err != nil {
		w.t.Errorf("got a token that is not valid: %v", err)
	}
}

// reads counts the reads of the token secret so far.
func (w *world) reads() int { return w.count(ibmcloudtest.OpVersionsGet) }

func (w *world) count(op string) int {
	count := 0
	for _, request := range w.cloud.Requests() {
		if request.Op == op {
			count++
		}
	}
	return count
}

func (w *world) wantReads(want int) {
	w.t.Helper()
	if got := w.reads(); got != want {
		w.t.Errorf("got %d reads of the secret, want %d", got, want)
	}
}

func (w *world) fault(f ibmcloudtest.Fault) {
	w.t.Helper()
	if err := w.cloud.AddFault(f); err != nil {
		w.t.Fatal(err)
	}
}

// client calls Logs Routing through the Reader's transport.
func (w *world) client() *http.Client {
	return &http.Client{Transport: w.reader.Transport(w.cloud.Transport())}
}
