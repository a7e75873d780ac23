package ibmcloud

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"golang.org/x/sync/singleflight"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// Bootstrap yields the access token that opens Secrets Manager. Unlike a
// published token it is reused, while a third of its life is left.
type Bootstrap struct {
	credential credential
	now        func() time.Time
	flight     singleflight.Group

	mu       sync.Mutex
	token    iamtoken.Secret
	reusable time.Time // until when, by the wall clock
}

// credential obtains bootstrap tokens. Its errors are *rotation.Error.
type credential interface {
	token(ctx context.Context) (iamtoken.Token, error)
	// refused tells that the service did not take the last token.
	refused()
	// doubted tells that the last token may not do what it was used for.
	doubted()
}

func newBootstrap(c credential, now func() time.Time) *Bootstrap {
	if now == nil {
		now = time.Now
	}
	return &Bootstrap{credential: c, now: now}
}

// Token returns a token of the bootstrap identity. Callers that ask at the same
// time share one exchange, made under the context of the first.
func (b *Bootstrap) Token(ctx context.Context) (iamtoken.Secret, error) {
	if token, ok := b.reuse(); ok {
		return token, nil
	}
	token, err, _ := b.flight.Do("token", func() (any, error) {
		if token, ok := b.reuse(); ok {
			return token, nil
		}
		return b.obtain(ctx)
	})
	if err != nil {
		return iamtoken.Secret{}, err
	}
	return token.(iamtoken.Secret), nil
}

func (b *Bootstrap) reuse() (iamtoken.Secret, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.token, b.now().Round(0).Before(b.reusable)
}

func (b *Bootstrap) obtain(ctx context.Context) (iamtoken.Secret, error) {
	asked := b.now().Round(0)
	token, err := b.credential.token(ctx)
	if err != nil {
		return iamtoken.Secret{}, atBootstrap(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	// Counted from when it was asked for, not by its expiration: so it holds
	// whatever the difference between our clock and IBM's.
	b.token, b.reusable = token.Value, asked.Add(token.ExpiresIn*2/3)
	return token.Value, nil
}

// refuse drops token, which Secrets Manager did not take, and has the credential
// read afresh. A token that has been replaced meanwhile stays.
func (b *Bootstrap) refuse(token iamtoken.Secret) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token.Reveal() == token.Reveal() {
		b.token, b.reusable = iamtoken.Secret{}, time.Time{}
		b.credential.refused()
	}
}

// doubt has the credential looked at afresh for the next token. The one at hand
// goes on: it may serve other rotations than the one that was denied.
func (b *Bootstrap) doubt() { b.credential.doubted() }

// atBootstrap marks err as a failure of the bootstrap identity, whichever step
// of the pass was under way.
func atBootstrap(err error) error {
	if failure, ok := err.(*rotation.Error); ok {
		failure.Step = rotation.StepBootstrap
	}
	return err
}

// KeySource reads the bootstrap API key from where it is kept. Its errors are
// *rotation.Error.
type KeySource func(ctx context.Context) (iamtoken.Secret, error)

// FixedKey is the source of a key that is in the configuration.
func FixedKey(key iamtoken.Secret) KeySource {
	return func(context.Context) (iamtoken.Secret, error) { return key, nil }
}

// BootstrapByKey authenticates with an API key. The key is kept until IAM or
// Secrets Manager refuses it; then it is read afresh, since it may have been
// replaced. One of which Secrets Manager says that it may not do something is read
// afresh, too, for the next token, but serves on while that read fails or hangs.
func BootstrapByKey(iam *IAM, source KeySource) *Bootstrap {
	return newBootstrap(&keyCredential{iam: iam, source: source}, iam.now)
}

// secondLook bounds the read of a key that is in doubt: enough of an attempt must be
// left to go on with the key at hand.
const secondLook = 3 * time.Second

type keyCredential struct {
	iam    *IAM
	source KeySource

	mu    sync.Mutex
	key   iamtoken.Secret
	stale bool // the key at hand may have been replaced by one of another identity
}

func (c *keyCredential) token(ctx context.Context) (iamtoken.Token, error) {
	key, err := c.current(ctx)
	if err != nil {
		return iamtoken.Token{}, err
	}
	exchanged, err := c.iam.request(ctx, operation{
		doing:   "authenticating the bootstrap identity",
		host:    c.iam.host,
		refused: "the bootstrap API key is not known, disabled or expired: replace it",
		denied:  "the bootstrap API key may not be used: is it locked, or is this address not among the account's allowed ones?",
	}, apiKeyGrant{key})
	var failure *rotation.Error
	if errors.As(err, &failure) && failure.Kind == rotation.Denied {
		c.refused()
	}
	return exchanged.Token, err
}

func (c *keyCredential) current(ctx context.Context) (iamtoken.Secret, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.key.IsZero() && !c.stale {
		return c.key, nil
	}
	if c.stale {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, secondLook)
		defer cancel()
	}
	switch key, err := c.source(ctx); {
	case err == nil:
		c.key, c.stale = key, false
	case !c.stale:
		return iamtoken.Secret{}, err
	}
	return c.key, nil
}

func (c *keyCredential) refused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key, c.stale = iamtoken.Secret{}, false
}

func (c *keyCredential) doubted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = !c.key.IsZero()
}

// Profile is a trusted profile that the compute resource may take on.
type Profile struct {
	Name, ID        string // one of them
	CRTokenFilename string // empty: where Code Engine and Kubernetes put it
}

// BootstrapByProfile authenticates with a compute resource token: no stored key.
func BootstrapByProfile(iam *IAM, profile Profile) *Bootstrap {
	return newBootstrap(profileCredential{iam, profile}, iam.now)
}

type profileCredential struct {
	iam     *IAM
	profile Profile
}

func (c profileCredential) token(ctx context.Context) (iamtoken.Token, error) {
	exchanged, err := c.iam.request(ctx, operation{
		doing:   "taking on the trusted profile",
		host:    c.iam.host,
		refused: "the profile is not known or does not trust this compute resource: check IAM_PROFILE_NAME or IAM_PROFILE_ID and the profile's conditions",
		denied:  "the profile may not be used from here: check its conditions",
	}, c)
	return exchanged.Token, err
}

func (c profileCredential) refused() {}
func (c profileCredential) doubted() {}

func (c profileCredential) authenticator(url string, client *http.Client, headers map[string]string) (requester, error) {
	authenticator, err := core.NewContainerAuthenticatorBuilder().
		SetIAMProfileName(c.profile.Name).SetIAMProfileID(c.profile.ID).SetCRTokenFilename(c.profile.CRTokenFilename).
		SetURL(url).SetClient(client).SetHeaders(headers).Build()
	if err != nil {
		return nil, misconfigured("IBM's SDK does not take the trusted profile: check IAM_PROFILE_NAME or IAM_PROFILE_ID")
	}
	return authenticator, nil
}

// BootstrapByToken uses a token that a person has obtained: for runs by hand.
func BootstrapByToken(token iamtoken.Secret, now func() time.Time) *Bootstrap {
	b := newBootstrap(nil, now)
	b.credential = tokenCredential{token, b.now}
	return b
}

type tokenCredential struct {
	value iamtoken.Secret
	now   func() time.Time
}

func (c tokenCredential) token(context.Context) (iamtoken.Token, error) {
	token, err := complete(iamtoken.Token{Value: c.value}, c.now())
	if err != nil {
		return iamtoken.Token{}, misconfigured("IAM_TOKEN is not an IAM token: set it to what `ibmcloud iam oauth-tokens` prints")
	}
	if !token.Expiration.After(c.now()) {
		return iamtoken.Token{}, misconfigured("IAM_TOKEN has expired: set it to what `ibmcloud iam oauth-tokens` prints now")
	}
	token.ExpiresIn = token.Expiration.Sub(c.now())
	return token, nil
}

func (c tokenCredential) refused() {}
func (c tokenCredential) doubted() {}
