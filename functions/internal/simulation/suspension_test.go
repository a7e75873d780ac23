package simulation

import (
	"context"
	"sync"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// suspension stands between a rotator and its adapters in a process that is
// frozen at a step. Before, it keeps what the adapters give; after the thaw it
// gives that once more and then lets the rotator go on.
type suspension struct {
	at     rotation.Step
	keys   rotation.KeyReader
	iam    rotation.Exchanger
	tokens rotation.TokenStore
	freeze func() // ends the part before
	thaw   func() // sets the process's clock right

	mu        sync.Mutex
	frozen    bool
	replaying bool
	stored    *rotation.Stored
	key       *iamtoken.Secret
	exchanged *rotation.Exchanged
}

func (s *suspension) Look(ctx context.Context, ref rotation.TokenRef) (rotation.Stored, error) {
	return pass(ctx, s, rotation.StepLook, &s.stored, func() (rotation.Stored, error) { return s.tokens.Look(ctx, ref) })
}

func (s *suspension) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	return pass(ctx, s, rotation.StepReadKey, &s.key, func() (iamtoken.Secret, error) { return s.keys.ReadKey(ctx, ref) })
}

func (s *suspension) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.Exchanged, error) {
	return pass(ctx, s, rotation.StepExchange, &s.exchanged, func() (rotation.Exchanged, error) { return s.iam.Exchange(ctx, key) })
}

// Save freezes before anything goes out: the rotator has made up its mind.
func (s *suspension) Save(ctx context.Context, ref rotation.TokenRef, stored rotation.Stored, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.Saved, error) {
	if s.stop(rotation.StepSave) {
		return rotation.Saved{}, suspended()
	}
	return s.tokens.Save(ctx, ref, stored, token, metadata)
}

// pass is one call: kept before the freeze, repeated after it.
func pass[T any](_ context.Context, s *suspension, step rotation.Step, kept **T, call func() (T, error)) (T, error) {
	s.mu.Lock()
	again := *kept
	if s.replaying && again != nil {
		*kept = nil
		if step == s.at {
			s.thaw()
		}
		s.mu.Unlock()
		return *again, nil
	}
	s.mu.Unlock()
	if s.replaying {
		s.thaw()
	}
	result, err := call()
	if err != nil {
		return result, err
	}
	s.mu.Lock()
	if !s.replaying && !s.frozen {
		*kept = &result
	}
	s.mu.Unlock()
	if s.stop(step) {
		return result, suspended()
	}
	return result, nil
}

// stop freezes if this is the step, and reports whether the process stands still.
// After the thaw it never does.
func (s *suspension) stop(step rotation.Step) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replaying {
		s.thaw()
		return false
	}
	if step == s.at && !s.frozen {
		s.frozen = true
		s.freeze()
	}
	return s.frozen
}

func suspended() error { return &rotation.Error{Kind: rotation.Timeout, Message: "suspended"} }
