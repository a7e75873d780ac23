package ibmcloud

import (
	"context"
	"sync"
	"time"

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
