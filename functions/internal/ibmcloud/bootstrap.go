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

// Bootstrap yields the access token that opens Secrets Manager. Unlike a
// published token it is reused, while a third of its lifetime remains.
type Bootstrap struct {
	// exchange obtains a token, and returns what it sent for it. Its errors are *rotation.Error.
	exchange func(ctx context.Context) (response rotation.TokenResponse, sent iamtoken.Secret, err error)
	key      *bootstrapKey // nil for a profile and for a person's token
	now      func() time.Time
	flight   singleflight.Group

	have chan struct{} // closed when the first token was obtained

	mu       sync.Mutex
	token    iamtoken.Secret
	seen     []iamtoken.Secret // the last tokens, and what they were obtained with
	clock    rotation.Clock    // IAM's, from that answer
	obtained time.Time         // zero before the first
	reusable time.Time         // until when, by the wall clock
}

// newBootstrap also makes known to iam which token and credential it must never return.
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
	asked := b.now().Round(0)
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
	// Counted from when it was asked for, not by its expiration: so it holds
	// whatever the difference between our clock and IBM's.
	b.token, b.reusable = response.Token.Value, asked.Add(response.Token.ExpiresIn*2/3)
	b.clock, b.obtained = response.Clock, time.Now()
	b.seen = append(b.seen, b.token, sent)
	b.seen = b.seen[max(0, len(b.seen)-maxSeen):]
	return b.token, nil
}

// maxSeen is how many credentials are remembered. A token that was replaced early, by the
// minute say, is still valid.
const maxSeen = 16

// credentials are those that open Secrets Manager, or did so lately.
func (b *Bootstrap) credentials() []iamtoken.Secret {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

// clockAge is how long a measurement of IAM's clock is not worth repeating.
const clockAge = 10 * time.Second

// contradicts reports whether a clock is too far off the one that IAM's answer showed.
// If that is a while ago the next request obtains a new token, and measures IAM's
// clock again: ours may have been set meanwhile.
func (b *Bootstrap) contradicts(clock rotation.Clock) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clock.Apart(clock) <= rotation.MaxClocksApart {
		return false
	}
	if time.Since(b.obtained) > clockAge { // whatever was done to the wall clock
		b.reusable = time.Time{}
	}
	return true
}

// reject drops token, which Secrets Manager did not accept, and has the key
// read again. A token that has been replaced meanwhile stays.
func (b *Bootstrap) reject(token iamtoken.Secret) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.token.Reveal() == token.Reveal() {
		b.forget()
	}
}

// deny has the key read again for the next token. The current one
// goes on: it may serve other rotations than the one that was denied.
func (b *Bootstrap) deny() {
	if b.key != nil {
		b.key.doubt()
	}
}

// Forget drops the key and the token, so that both are obtained anew.
func (b *Bootstrap) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget()
}

func (b *Bootstrap) forget() {
	b.token, b.reusable = iamtoken.Secret{}, time.Time{}
	if b.key != nil {
		b.key.drop()
	}
}

// Identify authenticates and returns the token with its identity, which is empty
// when the token does not show it.
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

// InUse returns the key that the identity's token was obtained with, and the token with
// its identity, which is empty when the token does not show it.
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

// KeySource reads the bootstrap API key from where it is kept. Its errors are
// *rotation.Error.
type KeySource func(ctx context.Context) (iamtoken.Secret, error)

// FixedKey is the source of a key that is in the configuration.
func FixedKey(key iamtoken.Secret) KeySource {
	return func(context.Context) (iamtoken.Secret, error) { return key, nil }
}

// BootstrapByKey authenticates with an API key. The key is kept until IAM or
// Secrets Manager rejects it; then it is read again, because it may have been
// replaced. One of which Secrets Manager says that it may not do something is read
// afresh, too, for the next token, but serves on while that read fails or hangs.
func BootstrapByKey(iam *IAM, source KeySource) *Bootstrap {
	return BootstrapByRenewedKey(iam, source, nil)
}

// BootstrapByRenewedKey is BootstrapByKey for a key that is renewed: if IAM refuses it,
// and refuses it again when it was read afresh, the key before it is tried.
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
	refused iamtoken.Secret   // the key that IAM refused last; zero when it has accepted one since
	used    rotation.KeyInUse // what the last token was obtained with
}

func (k *bootstrapKey) token(ctx context.Context) (rotation.TokenResponse, iamtoken.Secret, error) {
	key, err := k.current(ctx)
	if err != nil {
		return rotation.TokenResponse{}, iamtoken.Secret{}, err
	}
	response, sent, err := k.exchange(ctx, rotation.KeyInUse{Key: key})
	if rotation.ErrorOf(err).Kind == rotation.Denied && k.refusedAgain(key) && k.previous != nil {
		if other, readErr := k.other(ctx, key); readErr == nil && other.Key.Reveal() != key.Reveal() {
			if response, sent, err := k.exchange(ctx, other); err == nil {
				return response, sent, nil
			}
		}
	}
	return response, sent, err
}

// other returns the key before refused; or the one after it, if another process has stored
// that meanwhile.
func (k *bootstrapKey) other(ctx context.Context, refused iamtoken.Secret) (rotation.KeyInUse, error) {
	previous, err := k.previous(ctx)
	if err != nil || previous.Reveal() != refused.Reveal() {
		return rotation.KeyInUse{Key: previous, Previous: true}, err
	}
	next, err := k.source(ctx)
	return rotation.KeyInUse{Key: next}, err
}

// exchange notes the key that IAM has accepted.
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

// refusedAgain forgets a key that IAM has refused, and reports whether it was the last
// that it refused, too.
func (k *bootstrapKey) refusedAgain(key iamtoken.Secret) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	again := k.refused.Reveal() == key.Reveal()
	k.key, k.stale, k.refused = iamtoken.Secret{}, false, key
	return again
}

// rereadLimit bounds the read of a key that may have been replaced: enough of an attempt must be
// left to continue with the current key.
const rereadLimit = 3 * time.Second

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

// drop has the key read again.
func (k *bootstrapKey) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.stale = iamtoken.Secret{}, false
}

// doubt has the key read again, if it can be.
func (k *bootstrapKey) doubt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stale = !k.key.IsZero()
}

// Profile is a trusted profile that the compute resource may assume.
type Profile struct {
	Name, ID        string // one of them
	CRTokenFilename string // empty: where Code Engine and Kubernetes put it
}

// BootstrapByProfile authenticates with a compute resource token: no stored key.
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

// BootstrapByToken uses a token that a person has obtained: for runs by hand.
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
