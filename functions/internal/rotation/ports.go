package rotation

import (
	"context"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

// KeyReader reads API keys. It returns an *Error.
type KeyReader interface {
	ReadKey(ctx context.Context, ref KeyRef) (iamtoken.Secret, error)
}

// Exchanger exchanges an API key for an access token: a fresh one each time,
// never one from a cache. It returns an *Error.
type Exchanger interface {
	Exchange(ctx context.Context, key iamtoken.Secret) (Exchanged, error)
}

// TokenStore holds the published tokens. Both methods return an *Error.
type TokenStore interface {
	// Look returns what is known of the current version without its value.
	Look(ctx context.Context, ref TokenRef) (Stored, error)
	// Save publishes a new version of the secret that stored describes.
	Save(ctx context.Context, ref TokenRef, stored Stored, token iamtoken.Token, metadata iamtoken.Metadata) (Saved, error)
}

// Mirrors holds copies of the published tokens in AWS Secrets Manager, each named by
// its ARN. Both methods return an *Error.
type Mirrors interface {
	// Current returns the id of the version that the copy was made of, "" if none was.
	Current(ctx context.Context, arn string) (versionID string, err error)
	// Put makes payload the copy, of the version versionID. It may be repeated.
	Put(ctx context.Context, arn, versionID string, payload iamtoken.Secret) error
}

// Exchanged is a token with what the exchange told beside it.
type Exchanged struct {
	Token         iamtoken.Token
	TransactionID string        // IAM's Transaction-Id, for IBM support
	ClockSkew     time.Duration // IAM's clock less ours, from its Date header
}

// Stored is the current version of a token secret.
type Stored struct {
	VersionID  string
	SecretType string            // "arbitrary" or "kv"
	CreatedAt  time.Time         // set by Secrets Manager; zero when it was not told
	Metadata   iamtoken.Metadata // zero when missing or unreadable
	ClockSkew  time.Duration     // Secrets Manager's clock less ours, from its Date header; 0 when it did not tell
}

// ExpiresAt is when the stored token expires, as far as that may be believed;
// zero when it is not known.
func (s Stored) ExpiresAt() time.Time { return s.Metadata.ExpiresAt(s.CreatedAt) }

// Saved is the version that a save made.
type Saved struct {
	VersionID string
	CreatedAt time.Time // set by Secrets Manager; zero when it was not told
}
