package ibmcloud

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"golang.org/x/sync/singleflight"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// Bootstrap yields the access token that opens Secrets Manager. Unlike the tokens that are
// saved, it is reused while a third of its lifetime remains.
type Bootstrap struct {
	// exchange obtains a token, and returns the credential that it sent. Its errors are *rotation.Error.
	exchange func(ctx context.Context) (response rotation.TokenResponse, sent iamtoken.Secret, err error)
	key      *bootstrapKey // nil for a profile and for a person's token
	now      func() time.Time
	flight   singleflight.Group

	have chan struct{} // closed when the first token is obtained

	mu       sync.Mutex
	token    iamtoken.Secret
	seen     []iamtoken.Secret // the last tokens and the credentials that were sent for them
	clock    rotation.Clock    // IAM's, by the answer with the token
	obtained time.Time         // zero before the first token
	reusable time.Time         // when the token's reuse ends, by the wall clock
}

// newBootstrap also gives the identity to iam, which never returns one of its credentials as
// a token.
func newBootstrap(iam *IAM, key *bootstrapKey, exchange func(context.Context) (rotation.TokenResponse, iamtoken.Secret, error)) *Bootstrap {
	iam.bootstrap = &Bootstrap{exchange: exchange, key: key, now: iam.now, have: make(chan struct{})}
	return iam.bootstrap
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
	return token.(iamtoken.Secret), err
}

func (b *Bootstrap) reuse() (iamtoken.Secret, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.token, b.now().Round(0).Before(b.reusable)
}

func (b *Bootstrap) obtain(ctx context.Context) (iamtoken.Secret, error) {
	requested := b.now().Round(0)
	response, sent, err := b.exchange(ctx)
	if err != nil {
		marked := *rotation.ErrorOf(err) // others may have the error too
		marked.Step = rotation.StepBootstrap
		return iamtoken.Secret{}, &marked
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.obtained.IsZero() {
		close(b.have)
	}
	// The lifetime counts from the request. Unlike the expiration that holds however far our
	// clock is off IBM's.
	b.token, b.reusable = response.Token.Value, requested.Add(response.Token.ExpiresIn*2/3)
	b.clock, b.obtained = response.Clock, time.Now()
	b.seen = append(b.seen, b.token, sent)
	b.seen = b.seen[max(0, len(b.seen)-maxSeen):]
	return b.token, nil
}

// maxSeen is how many credentials are remembered. More than the last are needed: a token that
// was replaced early, for example every minute, is still valid.
const maxSeen = 16

// credentials returns the credentials that open Secrets Manager, and the last ones before.
func (b *Bootstrap) credentials() []iamtoken.Secret {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

// clockAge is how long a measurement of IAM's clock is trusted.
const clockAge = 10 * time.Second

// contradicts reports whether a clock is too far off IAM's, as measured with the last token.
// Our own clock may have been set since that measurement. So if it is older than clockAge,
// the next request obtains a new token, which measures IAM's clock again.
func (b *Bootstrap) contradicts(clock rotation.Clock) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clock.Apart(clock) <= rotation.MaxClocksApart {
		return false
	}
	if time.Since(b.obtained) > clockAge { // by the monotonic clock
		b.reusable = time.Time{}
	}
	return true
}

// forgetIfCurrent is Forget after Secrets Manager has rejected token (401), unless another
// token has replaced that one already.
func (b *Bootstrap) forgetIfCurrent(token iamtoken.Secret) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token.Reveal() == token.Reveal() {
		b.forget()
	}
}

// markKeyStale has the key read again before the next token is obtained, because Secrets
// Manager has denied a request (403). The current token stays: other rotations may have
// permission.
func (b *Bootstrap) markKeyStale() {
	if b.key != nil {
		b.key.markStale()
	}
}

// Forget removes the key and the token, so that the next request obtains both again.
func (b *Bootstrap) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget()
}

func (b *Bootstrap) forget() {
	b.token, b.reusable = iamtoken.Secret{}, time.Time{}
	if b.key != nil {
		b.key.forget()
	}
}

// Identify returns the token with its identity, which is empty for an opaque token.
func (b *Bootstrap) Identify(ctx context.Context) (iamtoken.Token, error) {
	value, err := b.Token(ctx)
	if err != nil {
		return iamtoken.Token{}, err
	}
	token, err := complete(iamtoken.Token{Value: value}, b.now())
	if err != nil {
		return iamtoken.Token{Value: value}, nil // opaque
	}
	return token, nil
}

// InUse returns the key that the token was obtained with, and the token as Identify does.
func (b *Bootstrap) InUse(ctx context.Context) (rotation.KeyInUse, iamtoken.Token, error) {
	if b.key == nil {
		return rotation.KeyInUse{}, iamtoken.Token{}, errNoKey()
	}
	token, err := b.Identify(ctx)
	b.key.mu.Lock()
	defer b.key.mu.Unlock()
	return b.key.used, token, err
}

// KeyExpiry asks IAM when the bootstrap key expires; the zero time means never.
func (b *Bootstrap) KeyExpiry(ctx context.Context) (time.Time, error) {
	if b.key == nil {
		return time.Time{}, errNoKey()
	}
	token, err := b.Token(ctx)
	if err != nil {
		return time.Time{}, err
	}
	key, err := b.key.current(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return b.key.iam.KeyExpiry(ctx, key, token)
}

func errNoKey() error {
	return &rotation.Error{Step: rotation.StepBootstrap, Kind: rotation.NotFound, Message: "the bootstrap identity has no API key"}
}

// KeySource reads the bootstrap API key from its store. Its errors are *rotation.Error.
type KeySource func(ctx context.Context) (iamtoken.Secret, error)

// FixedKey is the source of a key that the configuration holds.
func FixedKey(key iamtoken.Secret) KeySource {
	return func(context.Context) (iamtoken.Secret, error) { return key, nil }
}

// BootstrapByKey authenticates with an API key, which is kept in memory. After IAM or Secrets
// Manager has rejected the key or its token, the key is read again, because it may have been
// replaced. After Secrets Manager has denied a request, the key is read again too, but if that
// read fails or hangs, the current key stays in use.
func BootstrapByKey(iam *IAM, source KeySource) *Bootstrap {
	return BootstrapByRenewedKey(iam, source, nil)
}

// BootstrapByRenewedKey is BootstrapByKey for a key that the function renews. If IAM refuses
// the key twice, the second time after it was read again, the key before it is tried.
func BootstrapByRenewedKey(iam *IAM, source, previous KeySource) *Bootstrap {
	key := &bootstrapKey{iam: iam, source: source, previous: previous}
	return newBootstrap(iam, key, key.token)
}

// bootstrapKey is the API key of the bootstrap identity.
type bootstrapKey struct {
	iam      *IAM
	source   KeySource
	previous KeySource // of the key before the one of source; nil if there is none

	mu      sync.Mutex
	key     iamtoken.Secret
	stale   bool              // the key may have been replaced by one of another identity
	refused iamtoken.Secret   // the key that IAM refused last; zero once IAM has accepted a current key
	used    rotation.KeyInUse // the key that the last token was obtained with
}

// token obtains a token with the current key or, if IAM refuses that again, with another one.
func (k *bootstrapKey) token(ctx context.Context) (rotation.TokenResponse, iamtoken.Secret, error) {
	key, err := k.current(ctx)
	if err != nil {
		return rotation.TokenResponse{}, iamtoken.Secret{}, err
	}
	response, sent, err := k.exchange(ctx, rotation.KeyInUse{Key: key})
	if rotation.ErrorOf(err).Kind != rotation.Denied {
		return response, sent, err
	}
	if again := k.recordRefusal(key); again && k.previous != nil {
		if other, readErr := k.other(ctx, key); readErr == nil && other.Key.Reveal() != key.Reveal() {
			if response, sent, err := k.exchange(ctx, other); err == nil {
				return response, sent, nil
			}
		}
	}
	return response, sent, err
}

// other returns the key before the refused one. If another process has stored a new key
// meanwhile, the refused key is the previous one now, and other returns the new key.
func (k *bootstrapKey) other(ctx context.Context, refused iamtoken.Secret) (rotation.KeyInUse, error) {
	previous, err := k.previous(ctx)
	if err != nil || previous.Reveal() != refused.Reveal() {
		return rotation.KeyInUse{Key: previous, Previous: true}, err
	}
	next, err := k.source(ctx)
	return rotation.KeyInUse{Key: next}, err
}

// exchange obtains a token with key, and records a key that IAM has accepted.
func (k *bootstrapKey) exchange(ctx context.Context, key rotation.KeyInUse) (rotation.TokenResponse, iamtoken.Secret, error) {
	response, sent, err := k.iam.request(ctx, exchangeOf("authenticating the bootstrap identity", "the bootstrap API key"), byKey(key.Key))
	if err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.used = key
		if !key.Previous {
			k.refused = iamtoken.Secret{}
		}
	}
	return response, sent, err
}

// recordRefusal removes a key that IAM has refused, so that it is read again. It reports
// whether IAM has refused the same key the time before.
func (k *bootstrapKey) recordRefusal(key iamtoken.Secret) (again bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	again = k.refused.Reveal() == key.Reveal()
	k.key, k.stale, k.refused = iamtoken.Secret{}, false, key
	return again
}

// rereadLimit limits the read of a stale key: enough of an attempt must be left to continue
// with the key in memory.
const rereadLimit = 3 * time.Second

// current returns the key in memory, and reads it first if there is none or it is stale. A
// stale key stays in use if that read fails.
func (k *bootstrapKey) current(ctx context.Context) (iamtoken.Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.key.IsZero() && !k.stale {
		return k.key, nil
	}
	if k.stale {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rereadLimit)
		defer cancel()
	}
	switch key, err := k.source(ctx); {
	case err == nil:
		k.key, k.stale = key, false
	case !k.stale:
		return iamtoken.Secret{}, err
	}
	return k.key, nil
}

// forget removes the key from memory.
func (k *bootstrapKey) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.stale = iamtoken.Secret{}, false
}

// markStale has the key read again, and keeps it in case that read fails.
func (k *bootstrapKey) markStale() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stale = !k.key.IsZero()
}

// Profile is a trusted profile that the compute resource may assume.
type Profile struct {
	Name, ID        string // one of them
	CRTokenFilename string // "" for the file of Code Engine and Kubernetes
}

// BootstrapByProfile authenticates with a compute resource token, without a stored key.
func BootstrapByProfile(iam *IAM, profile Profile) *Bootstrap {
	op := operation{
		doing:      "assuming the trusted profile",
		credential: "the compute resource token", setting: "IAM_PROFILE_NAME or IAM_PROFILE_ID, and CR_TOKEN_FILENAME",
		rejected: "the profile is not known or does not trust this compute resource: check IAM_PROFILE_NAME or IAM_PROFILE_ID, and the profile's conditions",
	}
	byProfile := func(url string, client *http.Client, headers map[string]string) (requester, error) {
		authenticator, err := core.NewContainerAuthenticatorBuilder().
			SetIAMProfileName(profile.Name).SetIAMProfileID(profile.ID).SetCRTokenFilename(profile.CRTokenFilename).
			SetURL(url).SetClient(client).SetHeaders(headers).Build()
		if err != nil {
			return nil, misconfigured("IBM's SDK rejects the trusted profile", "check IAM_PROFILE_NAME or IAM_PROFILE_ID")
		}
		return authenticator, nil
	}
	return newBootstrap(iam, nil, func(ctx context.Context) (rotation.TokenResponse, iamtoken.Secret, error) {
		return iam.request(ctx, op, byProfile)
	})
}

// BootstrapByToken uses a token that a person has obtained, for a run by hand.
func BootstrapByToken(iam *IAM, value iamtoken.Secret) *Bootstrap {
	return newBootstrap(iam, nil, func(context.Context) (response rotation.TokenResponse, none iamtoken.Secret, err error) {
		token, err := complete(iamtoken.Token{Value: value}, iam.now())
		if err != nil {
			return response, none, misconfigured("IAM_TOKEN is not an IAM token", "set it to what `ibmcloud iam oauth-tokens` prints")
		}
		if !token.Expiration.After(iam.now()) {
			return response, none, misconfigured("IAM_TOKEN has expired", "set it to what `ibmcloud iam oauth-tokens` prints now")
		}
		token.ExpiresIn = token.Expiration.Sub(iam.now())
		return rotation.TokenResponse{Token: token}, none, nil
	})
}
