package doctor

import (
	"context"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// The methods of these interfaces return *rotation.Error. None of them writes.

// Identity is the bootstrap identity.
type Identity interface {
	// Identify authenticates and returns the token; its identity is empty when
	// the token does not tell it.
	Identify(ctx context.Context) (iamtoken.Token, error)
	// KeyExpiry asks IAM when the identity's own key expires; the zero time
	// means never.
	KeyExpiry(ctx context.Context) (time.Time, error)
}

// IAM exchanges keys, and tells about them.
type IAM interface {
	rotation.Exchanger
	// KeyExpiry asks when key expires, with a token of its owner; the zero time
	// means never.
	KeyExpiry(ctx context.Context, key, token iamtoken.Secret) (time.Time, error)
}

// SecretsManager is the instance, opened by the bootstrap identity.
type SecretsManager interface {
	// ReadKeySecret reads an API key and what is told of its secret beside it.
	ReadKeySecret(ctx context.Context, ref rotation.KeyRef) (KeySecret, error)
	// Look returns what is known of the stored token without its value.
	Look(ctx context.Context, ref rotation.TokenRef) (rotation.Stored, error)
	// Describe returns a secret's metadata, never its value.
	Describe(ctx context.Context, id string) (Secret, error)
	// CountLocks counts the locks of a version: "current" or "previous".
	CountLocks(ctx context.Context, id, version string) (int, error)
}

// Mirrors are the copies of the tokens in AWS.
type Mirrors interface {
	// Current returns the id of the version that a copy holds, empty when it
	// holds none.
	Current(ctx context.Context, secretARN string) (versionID string, err error)
}

// Secret is what Secrets Manager tells of a secret beside its value.
type Secret struct {
	Type      string // "arbitrary", "kv", …; empty for a type that this project has no use for
	GroupID   string
	Destroyed bool
	ExpiresAt time.Time // zero when it has no expiration date
	Versions  int       // 0 when it was not told
}

// KeySecret is a secret with the API key in it.
type KeySecret struct {
	Secret
	Key iamtoken.Secret
}
